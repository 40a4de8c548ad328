"""
``/_local/…``: what a local cloud has and AWS has not. Switches and counters for administrators, and the
credentials of the jobs.
"""

import hmac
import json
from collections.abc import Mapping
from typing import Any

from sagemaker_ssh_helper.emulator.http import HttpError, Request, Response
from sagemaker_ssh_helper.emulator.service import ApiError, Caller, Cloud

PREFIX = "/_local/"
SERVICE = "local"
"""What administrators sign these requests for, and the prefix of the actions in policies."""

CREDENTIALS = f"{PREFIX}credentials/"


def job_credentials(cloud: Cloud, request: Request) -> Response:
    """
    The keys of one job, as a container credentials endpoint serves them.

    Raises HttpError 403 for an unknown id and for a token that is not that job's.
    """
    known = cloud.container_credentials.get(request.path.removeprefix(CREDENTIALS))
    sent = request.headers.get("authorization", "")
    if known is None or not hmac.compare_digest(known.token.encode(), sent.encode("utf-8", "replace")):
        raise HttpError(403, "The token is not the one of this job.")
    return _json(known.provider())


async def administer(cloud: Cloud, request: Request, body: bytes, caller: Caller) -> Response:
    """
    Answer a signed request below ``/_local/`` from an administrator.

    Raises AccessDenied for others, and ApiError for what makes no sense.
    """
    name, _, rest = request.path.removeprefix(PREFIX).partition("/")
    method = request.method
    if name == "faults":
        cloud.iam.authorize(caller, f"{SERVICE}:{'DescribeFaults' if method == 'GET' else 'SetFaults'}")
        if method == "GET":
            return _json({"faults": cloud.faults.describe()})
        if method == "POST":
            return _json({"id": await cloud.faults.add(_parse(body))})
        if method == "DELETE":
            await cloud.faults.clear(rest or None)
            return _json({})
    if name == "requests" and not rest:
        cloud.iam.authorize(caller, f"{SERVICE}:{'DescribeRequests' if method == 'GET' else 'ResetRequests'}")
        if method == "GET":
            return _json(cloud.faults.requests())
        if method == "DELETE":
            cloud.faults.reset_requests()
            return _json({})
    raise ApiError("ResourceNotFoundException", f"There is no {method} {request.path} here.", 404)


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body or b"null")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ApiError("ValidationException", "The body is not a JSON object.")
    return value


def _json(value: Any) -> Response:
    return Response(200, [("Content-Type", "application/json")], json.dumps(value).encode())
