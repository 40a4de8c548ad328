"""
Whose request is this, and is it what they signed? Signature Version 4 in headers, in presigned URLs and in
the chunks of ``aws-chunked`` bodies, and the old presigned URLs of S3, which boto3 still makes by default.

Signatures are computed again with botocore's own signers and compared in constant time. Refusals have the
codes, statuses and texts that AWS uses in each protocol.
"""

import enum
import hashlib
import hmac
import logging
import time
from calendar import timegm
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, unquote_plus, urlsplit

from botocore.auth import HmacV1Auth, S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials as BotocoreCredentials

from sagemaker_ssh_helper.emulator.http import Request
from sagemaker_ssh_helper.emulator.identities import Identities, Identity
from sagemaker_ssh_helper.emulator.service import ApiError
from sagemaker_ssh_helper.emulator.wire import Family

logger = logging.getLogger(__name__)

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
MAX_PRESIGNED_SECONDS = 7 * 24 * 3600

_SKEW_SECONDS = {
    Family.JSON: 300,
    Family.GATEWAY: 300,
    Family.RUNTIME: 300,
    Family.QUERY: 900,
    Family.S3: 900,
}


GO = "as Go encodes it"
QUERY_FORMS: Mapping[str, Callable[[str], str]] = {
    GO: lambda query: _encoded_again(query, unquote_plus),
    "with + as %2B": lambda query: _encoded_again(query, unquote),
    "as it stands": lambda query: query,
}
"""How a query may stand in a signature."""


def _encoded_again(query: str, decode: Callable[[str], str]) -> str:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return "&".join(
        f"{quote(decode(name), safe='-_.~')}={quote(decode(value), safe='-_.~')}" for name, _, value in pairs
    )


class Reason(enum.Enum):
    """Why a request is not accepted as its signer's."""

    MISSING = enum.auto()
    INCOMPLETE = enum.auto()
    UNKNOWN_KEY = enum.auto()
    WRONG_TOKEN = enum.auto()
    EXPIRED_TOKEN = enum.auto()
    SKEW = enum.auto()
    PRESIGNED_EXPIRED = enum.auto()
    SIGNATURE = enum.auto()
    SCOPE = enum.auto()


_NO_MATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
    "Access Key and signing method. Consult the service documentation for details."
)
_INVALID = "The security token included in the request is invalid."
_EXPIRED = "The security token included in the request is expired"

# Code, status, text; None where the raiser says it better.
_JSON_REFUSALS: Mapping[Reason, tuple[str, int, str | None]] = {
    Reason.MISSING: ("MissingAuthenticationTokenException", 400, "Missing Authentication Token"),
    Reason.INCOMPLETE: ("IncompleteSignatureException", 400, None),
    Reason.UNKNOWN_KEY: ("UnrecognizedClientException", 400, _INVALID),
    Reason.WRONG_TOKEN: ("UnrecognizedClientException", 400, _INVALID),
    Reason.EXPIRED_TOKEN: ("ExpiredTokenException", 400, _EXPIRED),
    Reason.SKEW: ("InvalidSignatureException", 400, None),
    Reason.PRESIGNED_EXPIRED: ("InvalidSignatureException", 400, None),
    Reason.SIGNATURE: ("InvalidSignatureException", 400, _NO_MATCH),
    Reason.SCOPE: ("InvalidSignatureException", 400, None),
}
_QUERY_REFUSALS: Mapping[Reason, tuple[str, int, str | None]] = {
    Reason.MISSING: ("MissingAuthenticationToken", 403, "Request is missing Authentication Token"),
    Reason.INCOMPLETE: ("IncompleteSignature", 400, None),
    Reason.UNKNOWN_KEY: ("InvalidClientTokenId", 403, _INVALID),
    Reason.WRONG_TOKEN: ("InvalidClientTokenId", 403, _INVALID),
    Reason.EXPIRED_TOKEN: ("ExpiredToken", 403, _EXPIRED),
    Reason.SKEW: ("SignatureDoesNotMatch", 403, None),
    Reason.PRESIGNED_EXPIRED: ("SignatureDoesNotMatch", 403, None),
    Reason.SIGNATURE: ("SignatureDoesNotMatch", 403, _NO_MATCH),
    Reason.SCOPE: ("SignatureDoesNotMatch", 403, None),
}
_S3_REFUSALS: Mapping[Reason, tuple[str, int, str | None]] = {
    Reason.MISSING: ("AccessDenied", 403, "Access Denied"),
    Reason.INCOMPLETE: ("AuthorizationHeaderMalformed", 400, None),
    Reason.UNKNOWN_KEY: (
        "InvalidAccessKeyId",
        403,
        "The AWS Access Key Id you provided does not exist in our records.",
    ),
    Reason.WRONG_TOKEN: ("InvalidToken", 400, "The provided token is malformed or otherwise invalid."),
    Reason.EXPIRED_TOKEN: ("ExpiredToken", 400, "The provided token has expired."),
    Reason.SKEW: (
        "RequestTimeTooSkewed",
        403,
        "The difference between the request time and the current time is too large.",
    ),
    Reason.PRESIGNED_EXPIRED: ("AccessDenied", 403, "Request has expired"),
    Reason.SIGNATURE: (
        "SignatureDoesNotMatch",
        403,
        "The request signature we calculated does not match the signature you provided. "
        "Check your key and signing method.",
    ),
    Reason.SCOPE: ("AuthorizationHeaderMalformed", 400, None),
}
_REFUSALS = {
    Family.JSON: _JSON_REFUSALS,
    Family.QUERY: _QUERY_REFUSALS,
    Family.S3: _S3_REFUSALS,
    Family.GATEWAY: _JSON_REFUSALS,
    Family.RUNTIME: _JSON_REFUSALS,
}


def refusal(family: Family, reason: Reason, text: str = "", **fields: Any) -> ApiError:
    """The error for this reason in this protocol; ``text`` is used where AWS's text has details in it."""
    code, status, fixed = _REFUSALS[family][reason]
    return ApiError(code, fixed or text, status, fields)


@dataclass(frozen=True)
class Signed:
    """
    What a request says about its signature. Nothing of it is verified yet.

    ``service`` and ``region`` are those of the credential scope; for the old presigned URLs of S3, which
    have none, they are ``s3`` and the default. ``signed_at`` is seconds since the Unix epoch.
    """

    version: int
    access_key_id: str
    scope_date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str = field(repr=False)
    token: str | None = field(repr=False)
    timestamp: str
    signed_at: float
    presigned: bool
    expires_seconds: int = 0

    def identify(self, identities: Identities, family: Family, now: float | None = None) -> Identity:
        """
        The identity whose key this is, when key, session token and time are good; the signature is not
        checked.

        Raises ApiError. ``now`` is seconds since the Unix epoch, the current time by default.
        """
        now = time.time() if now is None else now
        identity = identities.lookup(self.access_key_id)
        if identity is None:
            fields = {"AWSAccessKeyId": self.access_key_id} if family is Family.S3 else {}
            raise refusal(family, Reason.UNKNOWN_KEY, **fields)
        if not identity.has_token(self.token):
            reason = Reason.UNKNOWN_KEY if self.token is None else Reason.WRONG_TOKEN
            raise refusal(family, reason)
        if identity.credentials.expired:
            raise refusal(family, Reason.EXPIRED_TOKEN)
        self._check_time(family, now)
        return identity

    def _check_time(self, family: Family, now: float) -> None:
        skew = _SKEW_SECONDS[family]
        if self.presigned:
            ends_at = self.signed_at + self.expires_seconds
            if now > ends_at:
                if family is Family.S3:
                    raise refusal(
                        family, Reason.PRESIGNED_EXPIRED, Expires=_iso(ends_at), ServerTime=_iso(now)
                    )
                text = f"Signature expired: {self.timestamp} is now earlier than {_basic(now)}"
                raise refusal(family, Reason.PRESIGNED_EXPIRED, text)
            if self.version == 2 or self.signed_at <= now + skew:
                return
        minutes = skew // 60
        if self.signed_at < now - skew:
            text = (
                f"Signature expired: {self.timestamp} is now earlier than {_basic(now - skew)} "
                f"({_basic(now)} - {minutes} min.)"
            )
        elif self.signed_at > now + skew:
            text = (
                f"Signature not yet current: {self.timestamp} is still later than {_basic(now + skew)} "
                f"({_basic(now)} + {minutes} min.)"
            )
        else:
            return
        fields = {}
        if family is Family.S3:
            fields = {
                "RequestTime": self.timestamp,
                "ServerTime": _iso(now),
                "MaxAllowedSkewMilliseconds": skew * 1000,
            }
        raise refusal(family, Reason.SKEW, text, **fields)

    def verify(self, request: Request, identity: Identity, family: Family, payload: str) -> None:
        """
        Return when the signature is the identity's over this request.

        Args:
            payload: what stands for the body in the signature: its SHA-256 in hex, or for S3 the header's
            value.

        Raises ApiError.
        """
        if self.version == 2:
            expected = _signature_v2(self, request, identity)
        else:
            self._check_signed_headers(request, family)
            expected = _signature_v4(self, request, identity, payload)
            if family is Family.GATEWAY and not self.presigned:
                expected = self._of_upgrade(request, identity, payload)
        if not hmac.compare_digest(expected.encode(), self.signature.encode()):
            fields = {"AWSAccessKeyId": self.access_key_id} if family is Family.S3 else {}
            raise refusal(family, Reason.SIGNATURE, **fields)

    def _of_upgrade(self, request: Request, identity: Identity, payload: str) -> str:
        """
        The signature of an upgrade. Its query is signed decoded and encoded again, as the official client's
        signer does it; other ways to write it are told in the log, and refused.
        """
        forms = {name: form(request.query) for name, form in QUERY_FORMS.items()}
        expected = _signature_v4(self, request, identity, payload, forms[GO])
        if len(set(forms.values())) > 1:
            came = next(
                (
                    name
                    for name, query in forms.items()
                    if hmac.compare_digest(
                        _signature_v4(self, request, identity, payload, query).encode(),
                        self.signature.encode(),
                    )
                ),
                "in no way that is known",
            )
            logger.info("= %s %s is signed %s", request.method, request.path, came)
        return expected

    def _check_signed_headers(self, request: Request, family: Family) -> None:
        if "host" not in self.signed_headers:
            raise refusal(
                family, Reason.INCOMPLETE, "'Host' must be a 'SignedHeader' in the AWS Authorization."
            )
        if any(name not in request.headers for name in self.signed_headers):
            raise refusal(family, Reason.SIGNATURE)
        if family is Family.S3:
            # S3 acts on x-amz- headers (copy source, metadata, ACL), so each one must be signed.
            unsigned = [
                name
                for name in request.headers
                if name.startswith("x-amz-") and name not in self.signed_headers
            ]
            if unsigned and not (self.presigned and unsigned == ["x-amz-content-sha256"]):
                raise ApiError(
                    "AccessDenied",
                    "There were headers present in the request which were not signed",
                    403,
                    {"HeadersNotSigned": ", ".join(unsigned)},
                )

    def chunk_key(self, identity: Identity) -> "ChunkKey":
        """What signs the chunks of a body whose head had this signature."""
        scope = f"{self.scope_date}/{self.region}/{self.service}/aws4_request"
        return ChunkKey(_signing_key(self, identity), self.timestamp, scope, self.signature)


def read_signature(request: Request, family: Family) -> Signed | None:
    """
    What the request says about its signature, from its headers or its query; None when it is not signed.

    Raises ApiError for an Authorization that is not a complete SigV4 one.
    """
    authorization = request.headers.get("authorization")
    if authorization is not None:
        return _read_header(request, family, authorization)
    query = dict(parse_qsl(request.query, keep_blank_values=True))
    if "X-Amz-Algorithm" in query or "X-Amz-Signature" in query:
        return _read_query(family, query)
    if {"AWSAccessKeyId", "Signature", "Expires"} <= set(query):
        return _read_query_v2(family, query)
    return None


def scope_service(request: Request) -> str | None:
    """The service in the credential scope, as far as one can be read; None for a request without one."""
    authorization = request.headers.get("authorization", "")
    if authorization:
        credential = _parts(authorization.partition(" ")[2]).get("Credential", "")
    else:
        query = dict(parse_qsl(request.query, keep_blank_values=True))
        if "AWSAccessKeyId" in query:
            return "s3"
        credential = query.get("X-Amz-Credential", "")
    scope = credential.split("/")
    return scope[3] if len(scope) == 5 else None


def _read_header(request: Request, family: Family, authorization: str) -> Signed:
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != ALGORITHM:
        text = f"The authorization mechanism you have provided is not supported. Please use {ALGORITHM}."
        raise (
            ApiError("InvalidRequest", text)
            if family is Family.S3
            else refusal(family, Reason.INCOMPLETE, text)
        )
    parts = _parts(rest)
    missing = [name for name in ("Credential", "SignedHeaders", "Signature") if not parts.get(name)]
    if missing:
        text = " ".join(f"Authorization header requires '{name}' parameter." for name in missing)
        raise refusal(family, Reason.INCOMPLETE, text)
    timestamp = request.headers.get("x-amz-date", "")
    if not timestamp and "date" in request.headers:
        timestamp = _basic_from_http(request.headers["date"])
    if not timestamp:
        text = "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
        raise refusal(family, Reason.INCOMPLETE, text)
    return _signed(
        family,
        credential=parts["Credential"],
        signed_headers=parts["SignedHeaders"],
        signature=parts["Signature"],
        timestamp=timestamp,
        token=request.headers.get("x-amz-security-token"),
    )


def _read_query(family: Family, query: Mapping[str, str]) -> Signed:
    needed = ["Algorithm", "Credential", "SignedHeaders", "Signature", "Date"]
    expires = query.get("X-Amz-Expires", "")
    if family is Family.S3:
        needed.append("Expires")
    elif not expires:
        # Other services let a URL live as long as any signature.
        expires = str(_SKEW_SECONDS[family])
    if any(not query.get(f"X-Amz-{name}") for name in needed) or query["X-Amz-Algorithm"] != ALGORITHM:
        text = (
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, "
            "X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
        )
        raise _bad_query(family, text)
    if not expires.isdigit() or not 0 < int(expires) <= MAX_PRESIGNED_SECONDS:
        text = f"X-Amz-Expires must be between 1 and {MAX_PRESIGNED_SECONDS} seconds"
        raise _bad_query(family, text)
    return _signed(
        family,
        credential=query["X-Amz-Credential"],
        signed_headers=query["X-Amz-SignedHeaders"],
        signature=query["X-Amz-Signature"],
        timestamp=query["X-Amz-Date"],
        token=query.get("X-Amz-Security-Token"),
        expires_seconds=int(expires),
    )


def _bad_query(family: Family, text: str) -> ApiError:
    if family is Family.S3:
        return ApiError("AuthorizationQueryParametersError", text, 400)
    return refusal(family, Reason.INCOMPLETE, text)


def _read_query_v2(family: Family, query: Mapping[str, str]) -> Signed:
    if family is not Family.S3 or not query["Expires"].isdigit():
        raise refusal(family, Reason.MISSING)
    return Signed(
        version=2,
        access_key_id=query["AWSAccessKeyId"],
        scope_date="",
        region="us-east-1",
        service="s3",
        signed_headers=(),
        signature=query["Signature"],
        token=query.get("x-amz-security-token"),
        timestamp=query["Expires"],
        signed_at=float(query["Expires"]),
        presigned=True,
    )


def _signed(
    family: Family,
    *,
    credential: str,
    signed_headers: str,
    signature: str,
    timestamp: str,
    token: str | None,
    expires_seconds: int = 0,
) -> Signed:
    scope = credential.split("/")
    if len(scope) != 5 or scope[4] != "aws4_request" or not all(scope):
        raise refusal(
            family,
            Reason.INCOMPLETE,
            "Credential must have exactly 5 slash-delimited elements, e.g. "
            "keyid/date/region/service/term, got "
            f"'{credential[:200]}'",
        )
    access_key_id, date, region, service, _ = scope
    try:
        signed_at = timegm(time.strptime(timestamp, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        text = f"Date must be in ISO-8601 'basic format'. Got '{timestamp[:64]}'."
        raise refusal(family, Reason.INCOMPLETE, text) from None
    if timestamp[:8] != date:
        text = (
            f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{date}' != '{timestamp[:8]}', from '{timestamp}'."
        )
        raise refusal(family, Reason.SCOPE, text)
    return Signed(
        version=4,
        access_key_id=access_key_id,
        scope_date=date,
        region=region,
        service=service,
        signed_headers=tuple(name.strip().lower() for name in signed_headers.split(";") if name.strip()),
        signature=signature,
        token=token,
        timestamp=timestamp,
        signed_at=float(signed_at),
        presigned=expires_seconds > 0,
        expires_seconds=expires_seconds,
    )


def _parts(text: str) -> dict[str, str]:
    # Signatures in base64 have "=" in them, so only the first one separates.
    pairs = [part.strip().partition("=") for part in text.split(",")]
    return {name: value for name, _, value in pairs}


def _signature_v4(
    signed: Signed, request: Request, identity: Identity, payload: str, query: str | None = None
) -> str:
    """``query``: what is signed in the place of the request's own."""
    headers = HTTPHeaders()
    for name, value in request.raw_headers:
        if name.lower() in signed.signed_headers:
            headers[name.lower()] = value
    # botocore's signer, told exactly which headers were signed and what stands for the body.
    kind: Any = S3SigV4Auth if signed.service == "s3" else SigV4Auth
    signer = kind(_botocore(identity), signed.service, signed.region)
    signer.headers_to_sign = lambda _: headers
    signer.payload = lambda _: payload
    query = request.query if query is None else query
    if signed.presigned:
        query = "&".join(pair for pair in query.split("&") if pair.partition("=")[0] != "X-Amz-Signature")
    # The host is only here to make a URL; the signed one comes from the headers.
    again = AWSRequest(request.method, f"http://localhost{request.path}" + (f"?{query}" if query else ""))
    again.context["timestamp"] = signed.timestamp
    text = signer.string_to_sign(again, signer.canonical_request(again))
    return str(signer.signature(text, again))


def _signature_v2(signed: Signed, request: Request, identity: Identity) -> str:
    headers: Any = HTTPHeaders()
    asked = [(name.lower(), value) for name, value in request.raw_headers]
    asked += [(name, value) for name, value in parse_qsl(request.query, keep_blank_values=True)]
    for name, value in asked:
        if (name.startswith("x-amz-") or name in ("content-md5", "content-type")) and name not in headers:
            headers[name] = value
    signer: Any = HmacV1Auth(_botocore(identity))
    # In a presigned URL the time of expiry stands where the date would.
    signer._get_date = lambda: signed.timestamp
    split = urlsplit(f"http://localhost{request.path}?{request.query}")
    bucket = bucket_of_host(request.host)
    path = f"/{bucket}{request.path}" if bucket else request.path
    return str(signer.get_signature(request.method, split, headers, auth_path=path))


def bucket_of_host(host: str) -> str | None:
    """The bucket in a virtual-hosted address such as ``my-bucket.localhost:4566``; None for a plain one."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name[: -len(".localhost")] if name.lower().endswith(".localhost") else None


def _botocore(identity: Identity) -> BotocoreCredentials:
    own = identity.credentials
    return BotocoreCredentials(own.access_key_id, own.secret_access_key, own.session_token)


def _signing_key(signed: Signed, identity: Identity) -> bytes:
    key = f"AWS4{identity.credentials.secret_access_key}".encode()
    for part in (signed.scope_date, signed.region, signed.service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


@dataclass
class ChunkKey:
    """The running signature over the chunks of one body."""

    key: bytes = field(repr=False)
    timestamp: str
    scope: str
    previous: str = field(repr=False)

    def matches(self, kind: str, hashes: Iterable[str], signature: str) -> bool:
        """Whether this is the next signature; ``kind`` is PAYLOAD for chunks, TRAILER for trailers."""
        lines = [f"{ALGORITHM}-{kind}", self.timestamp, self.scope, self.previous, *hashes]
        expected = hmac.new(self.key, "\n".join(lines).encode(), hashlib.sha256).hexdigest()
        self.previous = expected
        return hmac.compare_digest(expected.encode(), signature.encode())


def _basic(moment: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment))


def _iso(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _basic_from_http(text: str) -> str:
    try:
        return _basic(parsedate_to_datetime(text).timestamp())
    except (TypeError, ValueError):
        return text
