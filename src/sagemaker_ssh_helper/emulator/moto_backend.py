"""
moto behind our own server: its handlers are called with a request made for them, in a few threads.

moto never sees a signature, a region or an account that a client could have chosen; those come from us. Its
errors that are no AWS errors (operations it lacks, its own bugs) become clean ones here.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import RLock
from typing import Any
from urllib.parse import unquote

import moto.settings
from moto.core.request import PRESERVED_HEADER_NAMES_ENVIRON_KEY, environ_key_for_header
from moto.core.request import Request as MotoRequest
from werkzeug.exceptions import HTTPException

from sagemaker_ssh_helper.emulator.http import Body, Request, Response
from sagemaker_ssh_helper.emulator.moto_logs import Logs
from sagemaker_ssh_helper.emulator.moto_s3 import BODY_KEY, S3, StoredBytes
from sagemaker_ssh_helper.emulator.service import ApiError, Caller
from sagemaker_ssh_helper.emulator.wire import Family, write_error
from sagemaker_ssh_helper.errors import trace_of

logger = logging.getLogger(__name__)

SERVICES = ("s3", "iam", "logs", "kms", "sns")
"""What moto does for us, by botocore's names. STS is ours: it hands out keys that we must know."""

THREADS = 4
_DROPPED_HEADERS = frozenset(
    # The signature is checked, the body is decoded; the rest would let a client choose its account and
    # region.
    (
        "authorization",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "transfer-encoding",
        "user-agent",
        "x-amz-content-sha256",
        "x-amz-decoded-content-length",
        "x-amz-security-token",
        "x-amz-trailer",
    )
)
_CONTENT_TYPES = {
    Family.JSON: "application/x-amz-json-1.1",
    Family.QUERY: "text/xml",
}

Handler = Callable[[Any, str, Any], Any]


class Moto:
    """
    moto's services for one account.

    Args:
        account_id: must be moto's own default account.
        families: which protocol each service speaks.
    """

    def __init__(self, account_id: str, families: Mapping[str, Family]) -> None:
        # Buckets in host names are handled by our server, which knows its own name.
        moto.settings.S3_IGNORE_SUBDOMAIN_BUCKETNAME = True
        self._account_id = account_id
        self._families = families
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="moto")
        self.locks = {service: RLock() for service in SERVICES}
        self._handlers: dict[str, Handler] = {}

    def load(self) -> None:
        """Import the services now, so that the first call of each does not wait for it."""
        for service in SERVICES:
            self._handler(service, "/")

    async def call(
        self,
        service: str,
        request: Request,
        *,
        region: str,
        caller: Caller,
        path: str | None = None,
        headers: Mapping[str, str] | None = None,
        keep: Body | None = None,
    ) -> Response:
        """
        moto's answer to a request that is authenticated and authorised.

        Args:
            path: what to use for the request's path, percent-encoded: path style, for S3.
            headers: further headers, for trailers of the body.
            keep: the body, when it becomes an object or a part of one and is too large for moto's memory. It
                must have its MD5.
        """
        environ = self._environ(service, request, region, caller, path or request.path, headers or {})
        if keep is not None:
            environ.update({BODY_KEY: keep, "wsgi.input": _NOTHING, "CONTENT_LENGTH": "0"})
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._call, service, environ)

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def reset(self) -> None:
        """Forget everything that any cloud in this process stored."""
        from moto.backends import get_backend

        for service in SERVICES:
            with self.locks[service]:
                get_backend(service).reset()  # type: ignore[call-overload]  # one overload per service

    def _environ(
        self,
        service: str,
        request: Request,
        region: str,
        caller: Caller,
        path: str,
        headers: Mapping[str, str],
    ) -> dict[str, Any]:
        body = request.body
        environ: dict[str, Any] = {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            # WSGI wants the decoded bytes as latin-1.
            "PATH_INFO": unquote(path, "latin-1"),
            "RAW_URI": path + (f"?{request.query}" if request.query else ""),
            "QUERY_STRING": request.query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "HTTP_HOST": "localhost",
            "CONTENT_LENGTH": str(body.size if body else 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": body.file() if body else _NOTHING,
            "wsgi.version": (1, 0),
        }
        names: dict[str, str] = {}
        for name, value in [*request.headers.items(), *headers.items()]:
            if name in _DROPPED_HEADERS or name.startswith("x-moto-"):
                continue
            key = environ_key_for_header(name)
            environ[key] = value
            if "_" in name:
                names[key] = name
        encodings = [part.strip() for part in request.headers.get("content-encoding", "").split(",")]
        kept = ",".join(part for part in encodings if part and part != "aws-chunked")
        if kept:
            environ["HTTP_CONTENT_ENCODING"] = kept
        environ[PRESERVED_HEADER_NAMES_ENVIRON_KEY] = names
        # moto reads the region and the caller's key from here.
        scope = f"{caller.access_key_id or 'AKIAIOSFODNN7EXAMPLE'}/20000101/{region}/{service}/aws4_request"
        environ["HTTP_AUTHORIZATION"] = (
            f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
        )
        return environ

    def _call(self, service: str, environ: dict[str, Any]) -> Response:
        family = self._families[service]
        request = _Request(environ)
        handler = self._handler(service, environ["RAW_URI"].partition("?")[0])
        try:
            with self.locks[service]:
                answer = handler(request, request.raw_url, request.headers)
                return _response(answer, family)
        except HTTPException as error:
            headers = [
                (name, value) for name, value in error.get_headers() if name.lower() != "content-length"
            ]
            return Response(error.code or 400, headers, str(error.description or "").encode())
        except NotImplementedError:
            message = f"The local cloud does not implement this operation of {service}."
            return write_error(ApiError("NotImplementedException", message), family)
        except Exception as error:
            if service == "s3" and not isinstance(error, _OUR_FAULTS):
                # It takes bodies and parameters apart without a look at what they are.
                logger.info("! moto cannot read a call of s3: %s", type(error).__name__)
                return write_error(ApiError("MalformedXML", _MALFORMED, 400), family)
            logger.error("! moto failed on a call of %s:\n%s", service, trace_of(error))
            error_ = ApiError("InternalFailure", f"The local cloud failed on this call of {service}.", 500)
            return write_error(error_, family)

    def _handler(self, service: str, path: str) -> Handler:
        if service == "s3":
            bucket, _, key = path.lstrip("/").partition("/")
            return S3.key_dispatch if bucket and key else S3.bucket_dispatch
        if service == "logs":
            return Logs.dispatch
        if service not in self._handlers:
            from importlib import import_module

            paths: Mapping[str, Handler] = import_module(f"moto.{service}.urls").url_paths
            self._handlers[service] = paths["{0}/$"]
        return self._handlers[service]


_OUR_FAULTS = (OSError, MemoryError, AssertionError)
_MALFORMED = (
    "The XML you provided was not well-formed or did not validate against our published schema, "
    "or a parameter has a value that makes no sense."
)


class _Request(MotoRequest):
    from_wsgi_server = True


class _Nothing:
    def read(self, size: int = -1) -> bytes:
        return b""

    def readline(self, size: int = -1) -> bytes:
        return b""


_NOTHING = _Nothing()


def _response(answer: Any, family: Family) -> Response:
    status, headers, body = answer if len(answer) == 3 else (200, {}, answer)
    written = [(str(name), str(value)) for name, value in headers.items() if name.lower() != "status"]
    names = {name.lower() for name, _ in written}
    if "content-type" not in names and family in _CONTENT_TYPES:
        written.append(("Content-Type", _CONTENT_TYPES[family]))
    if isinstance(body, StoredBytes):
        return Response(int(status), written, body.content())
    return Response(int(status), written, body.encode() if isinstance(body, str) else bytes(body or b""))
