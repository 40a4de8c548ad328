"""
What AWS's error answers mean: one table of codes, for both ends and for every service that they call.

The status says little: a throttled call of a JSON service, and a refused WebSocket of the message gateway,
are 400 like most mistakes. So the code decides, then the text, and the status only where there is neither.

Imports the standard library only; Python 3.8.
"""

import enum
import json
import re
import time
from dataclasses import dataclass
from typing import Callable, List, Mapping, Optional
from urllib.parse import quote

from sagemaker_ssh_helper.errors import ConnectionFailed, CredentialsInvalid

MIN_SKEW = 30.0
"""Seconds. AWS refuses a signature whose time is 5 minutes off; a smaller correction than this is no help."""


class Kind(enum.Enum):
    """What the caller can do about an error."""

    THROTTLED = "throttled"
    """Ask again, later."""
    TRANSIENT = "transient"
    """A fault of the service's own: ask again, if the call does no harm twice."""
    EXPIRED = "expired"
    """Ask again with newer credentials."""
    SKEWED = "skewed"
    """Ask again with a signature of AWS's time."""
    INVALID = "invalid"
    """These credentials, or this signature, are not accepted: newer ones may be."""
    DENIED = "denied"
    """The caller is known, and lacks a permission."""
    PERMANENT = "permanent"
    """The same request will be answered in the same way."""


_CODES: Mapping[Kind, str] = {
    Kind.THROTTLED: """
        BandwidthLimitExceeded EC2ThrottledException PriorRequestNotComplete RateExceeded
        RequestLimitExceeded RequestThrottled RequestThrottledException SlowDown ThrottledException
        Throttling ThrottlingException TooManyRequestsException TooManyUpdates""",
    Kind.TRANSIENT: """
        InternalError InternalFailure InternalServerError InternalServerException InternalServiceError
        InternalServiceException RequestTimeout RequestTimeoutException ServiceUnavailable
        ServiceUnavailableException ServiceException""",
    Kind.EXPIRED: "ExpiredToken ExpiredTokenException RequestExpired TokenRefreshRequired",
    Kind.SKEWED: "RequestInTheFuture RequestTimeTooSkewed",
    Kind.INVALID: """
        AuthFailure IncompleteSignature IncompleteSignatureException InvalidAccessKeyId InvalidClientTokenId
        InvalidSignatureException InvalidToken MissingAuthenticationToken MissingAuthenticationTokenException
        SignatureDoesNotMatch UnrecognizedClientException""",
    Kind.DENIED: "AccessDenied AccessDeniedException NotAuthorized UnauthorizedOperation",
}
_KINDS = {code: kind for kind, codes in _CODES.items() for code in codes.split()}

# Answers to a signature of a wrong time, among others: only the answer's date tells.
_MAY_BE_SKEW = frozenset(
    [
        "AuthFailure",
        "InvalidSignatureException",
        "RequestExpired",
        "RequestInTheFuture",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    ]
)
_OF_TIME = re.compile(r"signature (?:has )?expired|signature not yet current", re.I)
_WORD = re.compile(r"[A-Za-z0-9]+")
# Keys, ids and tokens of AWS are made of these; anything else would end or break the header with them.
_KEY = re.compile(r"[!-~]+")
_SECRET_HEADERS = (
    "authorization", "proxy-authorization", "x-amz-security-token", "x-aws-ec2-metadata-token",
)  # fmt: skip
_LEAST_SECRET = 8
"""Characters. A shorter value cannot be told from other words."""


@dataclass(frozen=True)
class ErrorAnswer:
    """
    An answer that says no.

    Attributes:
        code: AWS's, without its namespace; ``HTTP 502`` for an answer that has none.
        message: AWS's own text; the beginning of an answer that is not AWS's.
        date: of the answer's head, empty when it has none.
    """

    code: str
    message: str = ""
    status: int = 0
    date: str = ""

    @property
    def kind(self) -> Kind:
        return kind_of(self.code, self.message, self.status)

    @property
    def wants_advanced_tier(self) -> bool:
        """Whether it says that hybrid nodes have no sessions in this account's tier."""
        words = self.message.lower()
        return "advanced" in words and "tier" in words

    def time(self) -> Optional[float]:
        """Seconds since the epoch by AWS's clock, when the error may mean that ours is wrong; else None."""
        if not self.date or not (self.code in _MAY_BE_SKEW or _OF_TIME.search(self.message)):
            return None
        # Imported here: it is needed on machines with a wrong clock only.
        from email.utils import parsedate_to_datetime

        try:
            return parsedate_to_datetime(self.date).timestamp()
        except (TypeError, ValueError, OverflowError):
            return None


def kind_of(code: str, message: str = "", status: int = 0) -> Kind:
    """What an error means. ``code`` is without its namespace."""
    text = message.lower()
    if _OF_TIME.search(message):
        return Kind.SKEWED
    kind = _KINDS.get(code)
    if kind is not None:
        return kind
    if "rate exceeded" in text:
        return Kind.THROTTLED
    if "security token included in the request is expired" in text:
        return Kind.EXPIRED
    if not status and code.startswith("HTTP "):
        status = int(code[5:]) if code[5:].isdigit() else 0
    if status == 429:
        return Kind.THROTTLED
    return Kind.TRANSIENT if status >= 500 or status == 408 else Kind.PERMANENT


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> ErrorAnswer:
    """
    What an answer says, in whichever of AWS's forms: JSON, XML, the gateway's own XML, or only a header.

    ``headers`` are asked for names in lower case.
    """
    code = headers.get("x-amzn-errortype") or ""
    text = body[:8192].decode("utf-8", "replace")
    message = ""
    try:
        answer = json.loads(body.decode("utf-8", "replace")) if body[:1] == b"{" else None
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict):
        found = {key.lower(): value for key, value in answer.items()}
        code = str(found.get("__type") or found.get("code") or code)
        message = str(found.get("message") or "")
    else:
        in_xml = re.search("<Code>([^<]+)</Code>", text)
        said = re.search("<[Mm]essage>([^<]*)</[Mm]essage>", text)
        code = in_xml.group(1) if in_xml else code or known_code(text)
        message = said.group(1) if said else text[:200]
    code = code.split(":")[0].rpartition("#")[2]
    return ErrorAnswer(code[:100] or f"HTTP {status}", message[:500], status, headers.get("date") or "")


def of_refused_upgrade(error: BaseException) -> Optional[ErrorAnswer]:
    """What AWS answered to the WebSocket that was asked for; None when it did not answer with an error."""
    if not isinstance(error, ConnectionFailed) or error.status is None or error.status < 400:
        return None
    return read_error(error.status, error.headers, error.body.encode("utf-8", "replace"))


def known_code(text: str) -> str:
    """The first of the codes we know that stands in a text."""
    return next((word for word in _WORD.findall(text) if word in _KINDS), "")


class Clock:
    """
    AWS's clock, as far as it is known to differ from ours.

    Safe to use from several threads: whoever comes late learns the same.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.skew = 0.0
        """Seconds that AWS is ahead of us."""
        self._now = now

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._now() + self.skew

    def learn(self, error: ErrorAnswer) -> bool:
        """Take AWS's clock when this error says that ours is wrong; whether that changed anything."""
        theirs = error.time()
        if theirs is None:
            return False
        skew = theirs - self._now()
        if abs(skew - self.skew) < MIN_SKEW:
            return False
        self.skew = skew
        return True


def check_key(value: object, name: str) -> None:
    """Raises CredentialsInvalid for what cannot be sent as a key or a token; it is not shown."""
    if isinstance(value, str) and _KEY.fullmatch(value):
        return
    if not isinstance(value, str) or not value:
        problem = "it is no text" if value else "it is empty"
    elif value.strip() != value:
        problem = "there is a space or a line end at one of its ends"
    else:
        problem = "it holds a space, a line end or a character that no key of AWS has"
    raise CredentialsInvalid(f"{name} cannot be sent to AWS", evidence=problem, fix="Copy it anew, whole")


def hide_sent(answer: bytes, headers: Mapping[str, str]) -> bytes:
    """An error answer without the credentials that ``headers`` sent: some answers quote the request."""
    for name, value in headers.items():
        if name.lower() not in _SECRET_HEADERS:
            continue
        secrets: List[str] = [value, *re.findall(r"Signature=(\w+)", value), value.rpartition(" ")[2]]
        for secret in secrets:
            if len(secret) < _LEAST_SECRET:
                continue
            for written in (secret, secret.replace("/", "\\/"), quote(secret, safe=""), quote(secret)):
                answer = answer.replace(written.encode("utf-8"), b"***")
    return answer
