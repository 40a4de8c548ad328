"""
STS: who am I, and keys for a role. Ours, because the server must know every key it will be asked about.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from sagemaker_ssh_helper.emulator.identities import Credentials
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Cloud, Operation

DEFAULT_ROLE_SECONDS = 3600
DEFAULT_SESSION_SECONDS = 12 * 3600


class StsService:
    """GetCallerIdentity, AssumeRole and GetSessionToken."""

    name = "sts"
    anonymous: frozenset[str] = frozenset()

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.operations: Mapping[str, Operation] = {
            "GetCallerIdentity": self.get_caller_identity,
            "AssumeRole": self.assume_role,
            "GetSessionToken": self.get_session_token,
        }

    async def get_caller_identity(self, call: Call) -> Mapping[str, Any]:
        """Needs no permission, as on AWS."""
        caller = call.principal
        return {"UserId": caller.user_id, "Account": caller.account_id, "Arn": caller.arn}

    async def assume_role(self, call: Call) -> Mapping[str, Any]:
        params = call.params
        tags = {tag["Key"]: tag["Value"] for tag in params.get("Tags", [])}
        context: dict[str, str] = {f"aws:RequestTag/{key}": value for key, value in tags.items()}
        context["sts:RoleSessionName"] = params["RoleSessionName"]
        if "ExternalId" in params:
            context["sts:ExternalId"] = params["ExternalId"]
        limit = self._cloud.iam.authorize_assume_role(call.principal, params["RoleArn"], context)
        seconds = params.get("DurationSeconds", DEFAULT_ROLE_SECONDS)
        if call.principal.kind != "user":
            limit = min(limit, DEFAULT_ROLE_SECONDS)
        if seconds > limit:
            text = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
            raise ApiError("ValidationException", text)
        caller = self._cloud.iam.role_caller(
            params["RoleArn"],
            params["RoleSessionName"],
            session_policy=_policy(params.get("Policy")),
            tags=tags,
        )
        return {
            "Credentials": _document(self._cloud.identities.issue(caller, seconds)),
            "AssumedRoleUser": {"AssumedRoleId": caller.user_id, "Arn": caller.arn},
        }

    async def get_session_token(self, call: Call) -> Mapping[str, Any]:
        """Temporary keys for the same user; needs no permission, as on AWS."""
        caller = call.principal
        if caller.kind != "user":
            raise ApiError("AccessDeniedException", "Cannot call GetSessionToken with session credentials")
        seconds = call.params.get("DurationSeconds", DEFAULT_SESSION_SECONDS)
        return {"Credentials": _document(self._cloud.identities.issue(caller, seconds))}


def _policy(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict) or "Statement" not in document:
        raise ApiError("MalformedPolicyDocument", "The session policy is not a policy document.", 400)
    return text


def _document(credentials: Credentials) -> Mapping[str, Any]:
    assert credentials.expires_at is not None, "STS hands out temporary keys"
    return {
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
        "SessionToken": credentials.session_token,
        "Expiration": datetime.fromtimestamp(credentials.expires_at, timezone.utc),
    }
