"""
What happens to a request: refused for safety, authenticated, validated, counted, authorised, answered.
"""

import base64
import contextlib
import logging
import re
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from sagemaker_ssh_helper.emulator import actions, local_api
from sagemaker_ssh_helper.emulator.authentication import (
    EMPTY_SHA256,
    UNSIGNED_PAYLOAD,
    Reason,
    Signed,
    bucket_of_host,
    read_signature,
    refusal,
    scope_service,
)
from sagemaker_ssh_helper.emulator.aws_chunked import MODES, ChunkDecoder, check_checksum, checksum
from sagemaker_ssh_helper.emulator.faults import Unreachable, user_of
from sagemaker_ssh_helper.emulator.http import Body, Disconnect, HttpError, Request, Response, Upgrade
from sagemaker_ssh_helper.emulator.iam import request_context
from sagemaker_ssh_helper.emulator.identities import Identity
from sagemaker_ssh_helper.emulator.models import FAMILIES, TARGETS, Models
from sagemaker_ssh_helper.emulator.moto_backend import SERVICES as MOTO_SERVICES
from sagemaker_ssh_helper.emulator.moto_backend import Moto
from sagemaker_ssh_helper.emulator.moto_s3 import IN_MEMORY_BYTES
from sagemaker_ssh_helper.emulator.s3_operations import S3Operations
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Caller, ChannelRequest, Cloud, Service
from sagemaker_ssh_helper.emulator.validation import validate
from sagemaker_ssh_helper.emulator.wire import (
    Family,
    error_code,
    parse_form,
    parse_json,
    parse_query,
    request_id,
    write_error,
    write_json,
    write_query,
)
from sagemaker_ssh_helper.errors import trace_of
from sagemaker_ssh_helper.protocol import websocket

logger = logging.getLogger(__name__)

CALL_BYTES = 8 * 1024 * 1024
"""The largest body of an API call."""
OBJECT_BYTES = 5 * 1024 * 1024 * 1024
"""The largest body of a PUT to S3; the same on AWS."""

_LOOPBACK_HOST = re.compile(
    r"(?:(?:[a-z0-9._-]+\.)?localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE
)
_INVOCATION = re.compile(r"/endpoints/([^/]+)/invocations")
_CHANNEL = re.compile(r"/v1/(control|data)-channel/([^/]+)")
_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+)+-\d{1,2}")
_INVOCATION_HEADERS = ("content-type", "accept", "x-amzn-sagemaker-custom-attributes")
"""Those that a model's server gets to see."""
_CHANNEL_ACTIONS = {
    ("control", "POST"): "CreateControlChannel",
    ("data", "POST"): "CreateDataChannel",
    ("control", "GET"): "OpenControlChannel",
    ("data", "GET"): "OpenDataChannel",
}


class Pipeline:
    """Answers every request of one cloud. Its ``handle`` is what connections call."""

    def __init__(self, cloud: Cloud, moto: Moto, models: Models) -> None:
        self._cloud = cloud
        self._moto = moto
        self._models = models
        self._s3_operations: S3Operations | None = None

    async def handle(self, request: Request) -> Response | Upgrade:
        """The answer. Raises HttpError for refusals outside AWS's protocols, Disconnect for a fault
        switch."""
        _check_safety(request)
        service, family = self._route(request)
        name = f"{request.method} {request.path}"
        try:
            with request_context(self._context(request)):
                if request.path.startswith(local_api.CREDENTIALS) and request.method == "GET":
                    return local_api.job_credentials(self._cloud, request)
                if service == local_api.SERVICE:
                    return await self._local(request)
                if family is Family.GATEWAY:
                    return await self._channel(request)
                if family is Family.S3:
                    return await self._s3(request)
                if family is Family.RUNTIME:
                    return await self._invoke(request)
                return await self._call(request, service, family)
        except ApiError as error:
            logger.info("< %s: %s", name, error_code(error, family))
            return write_error(error, family, self._metadata(service))
        except Unreachable:
            raise Disconnect from None
        except (HttpError, Disconnect):
            raise
        except Exception as error:
            logger.error("! %s failed:\n%s", name, trace_of(error))
            return write_error(
                ApiError("InternalFailure", "The local cloud failed on this call.", 500), family
            )

    # What is asked.

    def _route(self, request: Request) -> tuple[str, Family]:
        """Service and protocol, from what the request says before anything of it is verified."""
        signed_for = scope_service(request)
        if request.path.startswith(local_api.PREFIX) and signed_for != "s3":
            return local_api.SERVICE, Family.JSON
        target = request.headers.get("x-amz-target")
        if target is not None:
            return TARGETS.get(target.partition(".")[0], "unknown"), Family.JSON
        if _CHANNEL.fullmatch(request.path) and signed_for in (None, "ssmmessages"):
            return "ssmmessages", Family.GATEWAY
        if _INVOCATION.fullmatch(request.path) and signed_for == "sagemaker":
            return signed_for, Family.RUNTIME
        if signed_for is not None and signed_for in FAMILIES:
            return signed_for, FAMILIES[signed_for]
        content_type = request.headers.get("content-type", "")
        if request.method == "POST" and content_type.startswith("application/x-www-form-urlencoded"):
            return signed_for or "unknown", Family.QUERY
        if signed_for is None:
            return "s3", Family.S3
        return signed_for, Family.JSON

    def _metadata(self, service: str) -> Mapping[str, Any]:
        model = self._models.get(service) if service in FAMILIES else None
        return {} if model is None else model.metadata

    def _context(self, request: Request) -> Mapping[str, str]:
        context = {
            "aws:SourceIp": request.peer,
            "aws:SecureTransport": "true" if request.scheme == "https" else "false",
            "aws:RequestedRegion": self._cloud.region,
        }
        if "user-agent" in request.headers:
            context["aws:UserAgent"] = request.headers["user-agent"]
        return context

    def _endpoint(self, request: Request) -> str:
        return f"{request.scheme}://{request.host}"

    # Who asks.

    def _identify(self, request: Request, family: Family, service: str) -> tuple[Signed, Identity]:
        """Everything about the signature that can be told before the body is there."""
        signed = read_signature(request, family)
        if signed is None:
            raise refusal(family, Reason.MISSING)
        identity = signed.identify(self._cloud.identities, family)
        if signed.service != service:
            text = f"Credential should be scoped to correct service: '{service}'. "
            raise refusal(family, Reason.SCOPE, text)
        if not _REGION.fullmatch(signed.region):
            raise refusal(family, Reason.SCOPE, "Credential should be scoped to a valid region. ")
        return signed, identity

    async def _authenticated(
        self, request: Request, family: Family, service: str
    ) -> tuple[Signed, Caller, bytes]:
        """Signature verified over the whole request; the caller, and the body."""
        signed, identity = self._identify(request, family, service)
        body = await request.read_body(CALL_BYTES)
        signed.verify(request, identity, family, body.sha256)
        return signed, identity.caller, body.read()

    # What is answered.

    async def _local(self, request: Request) -> Response:
        _, caller, body = await self._authenticated(request, Family.JSON, local_api.SERVICE)
        return await local_api.administer(self._cloud, request, body, caller)

    async def _call(self, request: Request, service: str, family: Family) -> Response:
        """A call of the JSON or the query protocol."""
        own = self._cloud.services.get(service)
        if own is None and service not in MOTO_SERVICES:
            await self._authenticated(request, family, scope_service(request) or service)
            raise ApiError("UnknownOperationException", f"The local cloud does not serve '{service}'.")
        operation = request.headers.get("x-amz-target", "").partition(".")[2]
        signed, caller = None, None
        if family is Family.JSON and own is not None and operation in own.anonymous:
            body = (await request.read_body(CALL_BYTES)).read()
        else:
            signed, caller, body = await self._authenticated(request, family, service)
        form: Mapping[str, str] = {}
        if family is Family.QUERY:
            form = parse_form(request.query, body)
            operation = form.get("Action", "")
        model = self._models.operation(service, operation)
        implemented = own is not None and operation in own.operations
        if model is None and not implemented:
            raise _unknown(service, operation, family, form)
        if family is Family.QUERY:
            raw = parse_query(model.input_shape, form) if model.input_shape else {}
        else:
            raw = parse_json(body)
        params = raw if model is None else validate(model.input_shape, raw)
        try:
            await self._cloud.faults.before(f"{service}:{operation}", caller)
            region = signed.region if signed else self._cloud.region
            if implemented:
                assert own is not None, "an implemented operation has its service"
                call = Call(
                    service=service,
                    operation=operation,
                    params=params,
                    caller=caller,
                    headers=request.headers,
                    region=region,
                    endpoint=self._endpoint(request),
                    body=body,
                    method=request.method,
                    path=request.target,
                )
                return await self._own(own, call, model, family)
            if service not in MOTO_SERVICES:
                text = f"The local cloud does not implement {service}:{operation}."
                raise ApiError("NotImplementedException", text)
            assert caller is not None, "moto's operations are all signed"
            place = actions.Place(self._cloud.account_id, region)
            self._authorize(caller, actions.of_service[service](operation, params, place, caller))
            return await self._moto.call(service, request, region=region, caller=caller)
        except ApiError as error:
            self._cloud.faults.count_error(f"{service}:{operation}", caller, error_code(error, family))
            raise

    async def _own(self, own: Service, call: Call, model: Any, family: Family) -> Response:
        started_at = time.monotonic()
        value = await own.operations[call.operation](call)
        logger.info(
            "< %s:%s by %s in %.0f ms",
            call.service,
            call.operation,
            user_of(call.caller),
            (time.monotonic() - started_at) * 1000,
        )
        if family is Family.QUERY:
            return write_query(model, value)
        return write_json(value, model.output_shape if model else None)

    def _authorize(self, caller: Caller, permissions: list[actions.Permission]) -> None:
        for needed in permissions:
            self._cloud.iam.authorize(caller, needed.action, needed.resource, needed.context)

    async def _s3(self, request: Request) -> Response:
        signed, identity = self._identify(request, Family.S3, "s3")
        caller = identity.caller
        payload = _s3_payload(request, signed)
        # S3 signs what the headers say about the body, so that strangers can be refused before sending it.
        signed.verify(request, identity, Family.S3, payload)
        if self._s3_operations is None:
            self._s3_operations = S3Operations(self._models.get("s3"))
        call = self._s3_operations.find(
            request.method, request.path, request.query, request.headers, bucket_of_host(request.host)
        )
        if call is None or call.bucket == "moto-api":
            text = "The specified method is not allowed against this resource."
            raise ApiError("MethodNotAllowed", text, 405)
        action = f"s3:{call.operation}"
        try:
            await self._cloud.faults.before(action, caller)
            deletes = call.operation == "DeleteObjects"
            if not deletes:
                self._authorize(caller, actions.of_s3(call, request.headers, []))
            decoder = _decoder(request, payload, signed, identity)
            stores = call.operation in ("PutObject", "UploadPart")
            hashes = {"md5"} if stores or "content-md5" in request.headers else set()
            body = await request.read_body(
                OBJECT_BYTES, decoder=decoder, hashes=[*hashes, *_header_hashes(request)]
            )
            _check_body(request, payload, body)
            if deletes:
                self._authorize(caller, actions.of_s3(call, request.headers, _deleted_keys(body)))
            trailers = decoder.trailers if decoder else {}
            return await self._moto.call(
                "s3",
                request,
                region=signed.region,
                caller=caller,
                path=call.path,
                headers=trailers,
                keep=body if stores and _can_be_kept(request, body, trailers) else None,
            )
        except ApiError as error:
            self._cloud.faults.count_error(action, caller, error_code(error, Family.S3))
            raise

    async def _invoke(self, request: Request) -> Response:
        """InvokeEndpoint: the body goes to a model's server, and its answer comes back."""
        _, caller, body = await self._authenticated(request, Family.RUNTIME, "sagemaker")
        match = _INVOCATION.fullmatch(request.path)
        assert match is not None, "the route was chosen by this expression"
        action = "sagemaker:InvokeEndpoint"
        if request.method != "POST" or self._cloud.hosting is None:
            raise HttpError(405, "There is no such operation on an endpoint.")
        try:
            await self._cloud.faults.before(action, caller)
            answer, variant = await self._cloud.hosting.invoke(
                caller,
                unquote(match[1]),
                body,
                {
                    name.title(): request.headers[name]
                    for name in _INVOCATION_HEADERS
                    if name in request.headers
                },
                target_model=request.headers.get("x-amzn-sagemaker-target-model"),
                target_variant=request.headers.get("x-amzn-sagemaker-target-variant"),
            )
        except ApiError as error:
            self._cloud.faults.count_error(action, caller, error_code(error, Family.RUNTIME))
            raise
        headers = [
            ("Content-Type", answer.content_type),
            ("x-Amzn-Invoked-Production-Variant", variant),
            ("x-amzn-RequestId", request_id()),
        ]
        return Response(200, headers, answer.body)

    async def _channel(self, request: Request) -> Response | Upgrade:
        """A channel of the message gateway: its POST, or its WebSocket."""
        match = _CHANNEL.fullmatch(request.path)
        assert match is not None, "the route was chosen by this expression"
        kind, channel_id = match[1], unquote(match[2])
        action = _CHANNEL_ACTIONS.get((kind, request.method))
        gateway = self._cloud.gateway
        if action is None or gateway is None:
            raise HttpError(405 if gateway else 404, "There is no such channel operation.")
        key = request.headers.get("sec-websocket-key", "")
        if request.method == "GET":
            _check_upgrade(request, key)
        signed, identity, body = None, None, b""
        may_be_unsigned = request.method == "GET" and kind == "data" and not self._cloud.require_signed_client
        if read_signature(request, Family.GATEWAY) is not None or not may_be_unsigned:
            signed, identity = self._identify(request, Family.GATEWAY, "ssmmessages")
            if request.method == "POST":
                read = await request.read_body(CALL_BYTES)
                body, payload = read.read(), read.sha256
            else:
                payload = EMPTY_SHA256
            signed.verify(request, identity, Family.GATEWAY, payload)
        caller = identity.caller if identity else None
        try:
            await self._cloud.faults.before(f"ssmmessages:{action}", caller)
            channel = ChannelRequest(
                kind=kind,
                channel_id=channel_id,
                query=dict(parse_qsl(request.query, keep_blank_values=True)),
                caller=caller,
                headers=request.headers,
                region=signed.region if signed else self._cloud.region,
                endpoint=self._endpoint(request),
                body=body,
            )
            if request.method == "POST":
                text = await gateway.create_channel(channel)
                return Response(201, [("Content-Type", "application/xml")], text.encode())
            return Upgrade(websocket.server_response(key), gateway.upgrade(channel))
        except ApiError as error:
            self._cloud.faults.count_error(f"ssmmessages:{action}", caller, error_code(error, Family.GATEWAY))
            raise


def _check_safety(request: Request) -> None:
    """No page in a browser, and no name that was made to point here, may speak with the cloud."""
    if not _LOOPBACK_HOST.fullmatch(request.host):
        raise HttpError(403, "The Host is not a loopback name. Use http://localhost and the port.")
    if "origin" in request.headers:
        raise HttpError(403, "Requests from web pages are refused.")
    if request.path == "/moto-api" or request.path.startswith("/moto-api/"):
        raise HttpError(404, "There is nothing here.")
    if not request.path.startswith("/"):
        raise HttpError(400, "The target of a request is a path.")


def _check_upgrade(request: Request, key: str) -> None:
    good = (
        request.upgrades
        and request.headers.get("upgrade", "").lower() == "websocket"
        and request.headers.get("sec-websocket-version") == "13"
        and websocket.is_key(key)
    )
    if not good:
        raise HttpError(426, "A channel is opened with a WebSocket upgrade, version 13.")


def _unknown(service: str, operation: str, family: Family, form: Mapping[str, str]) -> ApiError:
    if family is Family.QUERY:
        text = f"Could not find operation {operation or '(none)'} for version {form.get('Version', '(none)')}"
    else:
        text = f"{service} has no operation {operation or '(none)'}."
    return ApiError("UnknownOperationException", text)


def _s3_payload(request: Request, signed: Signed) -> str:
    header = request.headers.get("x-amz-content-sha256")
    if signed.presigned and (header is None or "x-amz-content-sha256" not in signed.signed_headers):
        return UNSIGNED_PAYLOAD
    if header is None:
        text = "Missing required header for this request: x-amz-content-sha256"
        raise ApiError("InvalidRequest", text, 400)
    if not re.fullmatch(r"[0-9a-f]{64}", header) and header not in (UNSIGNED_PAYLOAD, *MODES):
        text = (
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, "
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER, "
            "or a valid sha256 value."
        )
        raise ApiError("InvalidArgument", text, 400)
    return header


def _decoder(request: Request, payload: str, signed: Signed, identity: Identity) -> ChunkDecoder | None:
    if payload not in MODES:
        return None
    decoded = request.headers.get("x-amz-decoded-content-length", "")
    if not decoded.isdigit():
        raise ApiError("MissingContentLength", "You must provide the Content-Length HTTP header.", 411)
    names = [name.strip().lower() for name in request.headers.get("x-amz-trailer", "").split(",")]
    trailers = [name for name in names if name]
    return ChunkDecoder(payload, signed.chunk_key(identity), int(decoded), trailers)


# Checksums in headers that hashlib computes while the body arrives.
_HASHLIB = {"x-amz-checksum-sha1": "sha1"}


def _header_hashes(request: Request) -> list[str]:
    return [name for header, name in _HASHLIB.items() if header in request.headers]


def _check_body(request: Request, payload: str, body: Body) -> None:
    """The body is the one that was signed, and what its checksums say."""
    if len(payload) == 64 and body.sha256 != payload:
        raise ApiError(
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
            400,
            {"ClientComputedContentSHA256": payload, "S3ComputedContentSHA256": body.sha256},
        )
    if "content-md5" in request.headers:
        sent = request.headers["content-md5"]
        if sent != base64.b64encode(body.digest("md5")).decode():
            text = "The Content-MD5 you specified did not match what we received."
            raise ApiError("BadDigest", text, 400)
    for header, name in _HASHLIB.items():
        if header in request.headers:
            check_checksum(header, request.headers[header], body.digest(name))
    if "x-amz-checksum-sha256" in request.headers:
        check_checksum(
            "x-amz-checksum-sha256", request.headers["x-amz-checksum-sha256"], bytes.fromhex(body.sha256)
        )
    crc = checksum("x-amz-checksum-crc32") if "x-amz-checksum-crc32" in request.headers else None
    if crc is not None:
        file = body.file()
        while chunk := file.read(1024 * 1024):
            crc.update(chunk)
        check_checksum("x-amz-checksum-crc32", request.headers["x-amz-checksum-crc32"], crc.digest())


def _can_be_kept(request: Request, body: Body, trailers: Mapping[str, str]) -> bool:
    """Whether the body is large, and moto will not want to compute a checksum that nobody sent."""
    algorithm = request.headers.get("x-amz-sdk-checksum-algorithm", "").lower()
    name = f"x-amz-checksum-{algorithm}"
    return body.size > IN_MEMORY_BYTES and (not algorithm or name in request.headers or name in trailers)


def _deleted_keys(body: Body) -> list[str]:
    with contextlib.suppress(ElementTree.ParseError):
        tree = ElementTree.fromstring(body.read())
        return [element.text or "" for element in tree.iter() if element.tag.rpartition("}")[2] == "Key"]
    raise ApiError("MalformedXML", "The XML you provided was not well-formed.", 400)
