"""
The credentials of the container's role, found where SageMaker puts them.

In this order: keys in the environment, the container credentials endpoint (SageMaker jobs, Studio), and the
instance metadata service (notebook instances). Blocking; safe to use from several threads.
"""

import calendar
import json
import logging
import os
import re
import threading
import time
from typing import Any, Callable, Dict, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from sagemaker_ssh_helper.agent.sigv4 import Credentials
from sagemaker_ssh_helper.agent.transport import Transport
from sagemaker_ssh_helper.errors import (
    CredentialsExpired,
    CredentialsInvalid,
    CredentialsMissing,
    EndpointUnreachable,
    reason_of,
)

# The address that ECS and SageMaker answer on, and those of EKS.
_RELATIVE_BASE = "http://169.254.170.2"
_PLAIN_HOSTS = ("localhost", "::1", "169.254.170.2", "169.254.170.23", "fd00:ec2::23")
_METADATA_BASE = "http://169.254.169.254"
_METADATA_TIMEOUT = 1.0
_METADATA_TOKEN_SECONDS = "21600"
_CONTAINER_TIMEOUT = 5.0
_CONTAINER_ATTEMPTS = 3
_CONTAINER_RETRY_DELAY = 0.2
# Renewed that long before they end; a failure matters only in the last minute.
_RENEWAL_MARGIN = 600.0
_LAST_MARGIN = 60.0
_RENEWAL_RETRY_INTERVAL = 30.0

# What a header can hold.
_TOKEN = re.compile(r"[ -~]+")

_FIX = "Run this where SageMaker gives the container a role, or set AWS_ACCESS_KEY_ID and its companions"

_logger = logging.getLogger(__name__)


class ContainerCredentials:
    """
    The role's credentials, renewed before they expire.

    Args:
        now: seconds since the epoch.
    """

    def __init__(
        self,
        environ: Optional[Mapping[str, str]] = None,
        transport: Optional[Transport] = None,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._transport = transport or Transport(self._environ)
        self._now = now
        self._sleep = sleep
        self._lock = threading.Lock()
        self._current: Optional[Credentials] = None
        self._next_attempt_at = 0.0

    def get(self) -> Credentials:
        """
        Credentials that hold for a minute at least.

        Raises CredentialsMissing when no place has any, CredentialsInvalid when the environment's cannot be
        sent, CredentialsExpired when they ran out and cannot be renewed. Blocks while they are fetched.
        """
        with self._lock:
            current, now = self._current, self._now()
            if current is not None and _seconds_left(current, now) > _RENEWAL_MARGIN:
                return current
            waits = now < self._next_attempt_at
            if current is not None and waits and _seconds_left(current, now) > _LAST_MARGIN:
                return current
            self._next_attempt_at = now + _RENEWAL_RETRY_INTERVAL
            try:
                self._current = self._fetch()
            except (CredentialsMissing, CredentialsExpired) as error:
                if current is None:
                    raise
                if _seconds_left(current, now) <= _LAST_MARGIN:
                    raise CredentialsExpired(
                        "the role's credentials ran out and cannot be renewed", evidence=str(error)
                    ) from error
                _logger.warning("the role's credentials cannot be renewed yet: %s", error)
            assert self._current is not None, "a fetch gives credentials or raises"
            return self._current

    def _fetch(self) -> Credentials:
        environ = self._environ
        if environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"):
            return Credentials(
                environ["AWS_ACCESS_KEY_ID"],
                environ["AWS_SECRET_ACCESS_KEY"],
                environ.get("AWS_SESSION_TOKEN") or None,
            ).checked("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        relative, full = (
            environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
            environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        )
        if relative:
            return self._fetch_container(_RELATIVE_BASE + relative)
        if full:
            return self._fetch_container(full)
        if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            raise CredentialsMissing(
                "no AWS credentials in this container",
                evidence="neither keys nor a credentials endpoint are set; AWS_EC2_METADATA_DISABLED is true",
                fix=_FIX,
            )
        return self._fetch_metadata()

    # --- the container credentials endpoint ---

    def _fetch_container(self, url: str) -> Credentials:
        _refuse_exposed(url)
        headers = {"Accept": "application/json"}
        token = self._authorization_token()
        if token is not None:
            headers["Authorization"] = token
        problem = ""
        for attempt in range(_CONTAINER_ATTEMPTS):
            if attempt:
                self._sleep(_CONTAINER_RETRY_DELAY * 2**attempt)
            try:
                answer = self._transport.request("GET", url, headers, timeout=_CONTAINER_TIMEOUT, direct=True)
            except EndpointUnreachable as error:
                problem = str(error)
                continue
            if answer.status == 200:
                return _parse(answer.body, "the container credentials endpoint")
            problem = f"it answered {answer.status}"
            if answer.status < 500 and answer.status != 429:
                break
        raise CredentialsMissing(
            f"the container credentials endpoint {_host(url)} gives no credentials",
            evidence=problem,
        )

    def _authorization_token(self) -> Optional[str]:
        """The file wins over the variable, and is read each time because its content is renewed."""
        path = self._environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        token = self._environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
        if path:
            try:
                with open(path, encoding="utf-8") as file:
                    token = file.read()
            except (OSError, UnicodeDecodeError) as error:
                raise CredentialsMissing(
                    f"the authorization token file {path} cannot be read", evidence=reason_of(error)
                ) from error
        if token and not _TOKEN.fullmatch(token):
            raise CredentialsMissing(
                "the container's authorization token cannot be sent",
                evidence="it has a line end, or a character that no header can hold",
            )
        return token or None

    # --- the instance metadata service ---

    def _fetch_metadata(self) -> Credentials:
        base = self._environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _METADATA_BASE
        base = base.rstrip("/")
        roles = f"{base}/latest/meta-data/iam/security-credentials/"
        try:
            status, token = self._metadata(
                "PUT",
                f"{base}/latest/api/token",
                {"X-aws-ec2-metadata-token-ttl-seconds": _METADATA_TOKEN_SECONDS},
            )
            is_token = status == 200 and _TOKEN.fullmatch(token)
            headers = {"X-aws-ec2-metadata-token": token} if is_token else {}
            status, role = self._metadata("GET", roles, headers)
            role = role.strip().split("\n")[0]
            if status == 200 and role:
                status, text = self._metadata("GET", roles + role, headers)
                if status == 200:
                    return _parse(text.encode("utf-8"), "the instance metadata service")
            problem = f"instance metadata answered {status}"
        except EndpointUnreachable as error:
            problem = f"instance metadata: {error.evidence or error}"
        raise CredentialsMissing(
            "no AWS credentials in this container",
            evidence=f"neither keys nor a credentials endpoint are set; {problem}",
            fix=_FIX,
        )

    def _metadata(self, method: str, url: str, headers: Mapping[str, str]) -> Tuple[int, str]:
        answer = self._transport.request(method, url, headers, timeout=_METADATA_TIMEOUT, direct=True)
        return answer.status, answer.body.decode("utf-8", "replace")


def _seconds_left(credentials: Credentials, now: float) -> float:
    return float("inf") if credentials.expires_at is None else credentials.expires_at - now


def _refuse_exposed(url: str) -> None:
    """Raise CredentialsMissing for a URL that would take the token, or the credentials, over the network."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise CredentialsMissing("the container credentials endpoint is no URL") from None
    if parts.scheme == "https" and host:
        return
    if parts.scheme == "http" and (
        host in _PLAIN_HOSTS or (host.startswith("127.") and host.replace(".", "").isdigit())
    ):
        return
    raise CredentialsMissing(
        "the container credentials endpoint is not trusted",
        evidence=f"{parts.scheme}://{_host(url)} is neither https nor this machine nor its host",
    )


def _host(url: str) -> str:
    """With its port, and without a password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _parse(body: bytes, source: str) -> Credentials:
    try:
        found: Dict[str, Any] = json.loads(body.decode("utf-8"))
        expiration = found.get("Expiration")
        return Credentials(
            found["AccessKeyId"],
            found["SecretAccessKey"],
            found.get("Token") or None,
            parse_time(expiration) if expiration else None,
        ).checked("AccessKeyId", "SecretAccessKey", "Token")
    except CredentialsInvalid as error:
        raise CredentialsMissing(
            f"{source} answered with a key that cannot be sent", evidence=error.what
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # Without the cause: its text may hold a piece of the answer.
        raise CredentialsMissing(
            f"{source} answered with something else than credentials", evidence=type(error).__name__
        ) from None


def parse_time(text: str) -> float:
    """Seconds since the epoch of ``2024-05-01T10:20:30Z``, with or without a fraction. Raises ValueError."""
    match = re.match(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?(?:Z|\+00:?00)$", text)
    if match is None:
        raise ValueError("no time in UTC")
    numbers = [int(part) for part in match.groups()[:6]]
    return calendar.timegm((*numbers, 0, 0, 0)) + float(match.group(7) or 0)
