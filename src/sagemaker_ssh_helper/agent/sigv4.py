"""
Signature Version 4 as far as the agent needs it: headers for JSON calls, gateway calls, WebSocket upgrades.

The layout (canonical request, string to sign, scope) is shared with the calls that a managed instance signs
with its RSA key, see :mod:`sagemaker_ssh_helper.agent.aws_api`.
"""

import hashlib
import hmac
import time
from dataclasses import dataclass, field
from typing import Dict, Mapping, Optional
from urllib.parse import quote, unquote, urlsplit

from sagemaker_ssh_helper.aws_errors import check_key

ALGORITHM = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@dataclass(frozen=True)
class Credentials:
    """
    AWS credentials. Printing them shows the access key id only.

    ``expires_at`` is wall clock, seconds since the epoch; None: they do not expire.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: Optional[str] = field(default=None, repr=False)
    expires_at: Optional[float] = None

    def checked(self, access_key_id: str, secret_access_key: str, session_token: str) -> "Credentials":
        """The same. Raises CredentialsInvalid, by one of these names, for what no header can hold."""
        check_key(self.access_key_id, access_key_id)
        check_key(self.secret_access_key, secret_access_key)
        if self.session_token is not None:
            check_key(self.session_token, session_token)
        return self


@dataclass(frozen=True)
class Scope:
    """When, where and for what a signature holds. ``now`` is seconds since the epoch."""

    now: float
    region: str
    service: str

    @property
    def amz_date(self) -> str:
        """``YYYYMMDDTHHMMSSZ``, the value of X-Amz-Date."""
        return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.now))

    @property
    def day(self) -> str:
        return self.amz_date[:8]

    def __str__(self) -> str:
        return f"{self.day}/{self.region}/{self.service}/aws4_request"


def host_of(url: str) -> str:
    """The Host header for this URL: its port is named only when it is not the scheme's own."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    if parts.port is None or parts.port == _DEFAULT_PORTS.get(parts.scheme):
        return host
    return f"{host}:{parts.port}"


def signed_header_names(headers: Mapping[str, str]) -> str:
    """The SignedHeaders value for these headers."""
    return ";".join(sorted(name.lower() for name in headers))


def string_to_sign(scope: Scope, method: str, url: str, headers: Mapping[str, str], body: bytes) -> str:
    """
    What is signed.

    Args:
        url: as it will be sent, its path percent-encoded.
        headers: every header that is signed, ``Host`` and ``X-Amz-Date`` among them.
    """
    parts = urlsplit(url)
    query = sorted(
        (quote(unquote(name), safe="-_.~"), quote(unquote(value), safe="-_.~"))
        for name, _, value in (part.partition("=") for part in parts.query.split("&") if part)
    )
    canonical_headers = sorted((name.lower(), " ".join(value.split())) for name, value in headers.items())
    canonical_request = "\n".join(
        [
            method,
            # Encoded once for the wire and once more here: every service but S3 wants it so.
            parts.path or "/" if scope.service == "s3" else quote(parts.path or "/", safe="/~"),
            "&".join(f"{name}={value}" for name, value in query),
            *(f"{name}:{value}" for name, value in canonical_headers),
            "",
            signed_header_names(headers),
            hashlib.sha256(body).hexdigest(),
        ]
    )
    digest = hashlib.sha256(canonical_request.encode("utf-8")).hexdigest()
    return "\n".join([ALGORITHM, scope.amz_date, str(scope), digest])


def authorization(access_key_id: str, scope: Scope, headers: Mapping[str, str], signature: str) -> str:
    """The Authorization header's value."""
    return (
        f"{ALGORITHM} Credential={access_key_id}/{scope}, "
        f"SignedHeaders={signed_header_names(headers)}, Signature={signature}"
    )


def sign(
    credentials: Credentials,
    scope: Scope,
    method: str,
    url: str,
    headers: Optional[Mapping[str, str]] = None,
    body: bytes = b"",
) -> Dict[str, str]:
    """
    The headers to add to a request so that it is signed: X-Amz-Date, Authorization, and X-Amz-Security-Token
    when the credentials have one.

    Args:
        url: as it will be sent; the request's Host header must be ``host_of(url)``.
        headers: those of the request that shall be signed too.
    """
    added = {"X-Amz-Date": scope.amz_date}
    if credentials.session_token is not None:
        added["X-Amz-Security-Token"] = credentials.session_token
    signed = {"Host": host_of(url), **(headers or {}), **added}
    key = ("AWS4" + credentials.secret_access_key).encode("utf-8")
    for part in (scope.day, scope.region, scope.service, "aws4_request"):
        key = hmac.new(key, part.encode("utf-8"), hashlib.sha256).digest()
    text = string_to_sign(scope, method, url, signed, body)
    signature = hmac.new(key, text.encode("utf-8"), hashlib.sha256).hexdigest()
    added["Authorization"] = authorization(credentials.access_key_id, scope, signed, signature)
    return added
