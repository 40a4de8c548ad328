"""
Everything that can go wrong, as one tree.

::

    SSHHelperError
    ├── ProtocolError            the peer broke the wire protocol
    │   ├── MalformedMessage       bytes that are no message (also ValueError)
    │   ├── HandshakeFailed        the two ends could not agree
    │   ├── ConnectionFailed       the WebSocket could not be opened, or is lost (also ConnectionError)
    │   └── SessionLost            the service ended it, and we did not ask (also ConnectionError)
    ├── AwsError                 AWS said no, or did not answer
    │   ├── CredentialsMissing
    │   ├── CredentialsExpired
    │   ├── CredentialsInvalid
    │   ├── ClockSkewed
    │   ├── AccessDenied           (also PermissionError)
    │   │   └── NotOwner             the node is another user's
    │   ├── RegionMissing
    │   ├── EndpointUnreachable    (also ConnectionError)
    │   ├── Throttled
    │   ├── AdvancedTierOff
    │   └── ServiceError           any other answer, with AWS's own code and text
    └── UserError                the user can fix it
        ├── UsageError             (also ValueError)
        ├── TargetNotFound         (also ValueError)
        │   ├── WrongRegion          another region that you use has it
        │   ├── NodeNotFound         it has fewer nodes (also IndexError)
        │   └── NotLaunched          the SDK's object has not started it yet (also AssertionError)
        ├── AmbiguousTarget        (also ValueError)
        ├── TargetEnded            (also ValueError)
        ├── NotInstrumented
        ├── NetworkIsolated
        ├── RegistrationFailed     the container could not make itself known to Systems Manager
        │   ├── RegistrationLimit
        │   ├── RegistrationThrottled
        │   └── RoleNotTrusted
        ├── TargetOffline          (also ConnectionError)
        │   ├── TargetStarting       no container of it has registered yet
        │   ├── NotConnected         AWS grants it no session: its agent is away
        │   └── InstanceNotValid     AWS takes no command for it: its agent is away
        ├── DuplicateNode
        ├── HostKeyChanged
        ├── HostNotTrusted
        ├── WrongUser
        ├── KeyNotDelivered
        ├── SshServerDown          (also ConnectionError)
        ├── WaitTimeout            (also TimeoutError)
        ├── LaunchRefused          (also ValueError)
        └── LocalSetup             something on the user's machine is missing or busy
            ├── SshMissing
            ├── ConfigBroken         our block in ssh's configuration
            └── PortBusy

An error says what is wrong, the evidence, and the next command: ``str(error)`` is one line. Its ``id`` is
stable and printed in brackets; its ``exit_code`` is the one `docs/reference/errors.md` lists.

Imports the standard library only; Python 3.8.
"""

import os
import re
import socket
from typing import List, Mapping, Optional, Sequence

# A name and a password in a URL, up to the last @ of the word; and headers that credentials travel in.
_IN_URL = re.compile(r"(?<=://)[^\s\"'<>]*@")
_IN_HEADER = re.compile(
    r"(\b(?:x-amz-security-token|(?:proxy-)?authorization)[\"']*\s*[:=]\s*)[^\r\n,;)]+", re.IGNORECASE
)


class SSHHelperError(Exception):
    """
    The root of the tree.

    Args:
        what: what is wrong, one clause, with the names that matter.
        evidence: how we know, one clause; None when ``what`` already says it.
        fix: the next command to type, or the change to make.
    """

    id = "internal"
    exit_code = 1

    def __init__(self, what: str, *, evidence: Optional[str] = None, fix: Optional[str] = None) -> None:
        what = without_secrets(what)
        super().__init__(what)
        self.what = what
        self.evidence = evidence and without_secrets(evidence)
        self.fix = fix

    def __str__(self) -> str:
        """One line: what (evidence). Fix."""
        text = self.what
        if self.evidence:
            text += f" ({self.evidence})"
        if self.fix:
            text += f". {self.fix}"
        return " ".join(text.split())


class ProtocolError(SSHHelperError):
    id = "protocol"
    exit_code = 255


class MalformedMessage(ProtocolError, ValueError):
    id = "malformed-message"


class HandshakeFailed(ProtocolError):
    id = "handshake-failed"


class ConnectionFailed(ProtocolError, ConnectionError):
    """
    The WebSocket could not be opened, or is lost.

    Attributes:
        close_code: the RFC 6455 code of the Close frame we sent, or got; None when there was none.
        status: of the HTTP answer that refused the upgrade; None when it did not come to that.
        body: the beginning of that answer's body, perhaps empty.
        headers: that answer's, by names in lower case.
        events: what the bytes before a violation held, when they came in the same call.
    """

    id = "connection-failed"

    def __init__(
        self,
        what: str,
        *,
        evidence: Optional[str] = None,
        fix: Optional[str] = None,
        close_code: Optional[int] = None,
        status: Optional[int] = None,
        body: str = "",
        headers: Optional[Mapping[str, str]] = None,
        events: Sequence[object] = (),
    ) -> None:
        super().__init__(what, evidence=evidence, fix=fix)
        self.close_code = close_code
        self.status = status
        self.body = body
        self.headers = headers or {}
        self.events = events


class SessionLost(ProtocolError, ConnectionError):
    id = "session-lost"


class AwsError(SSHHelperError):
    id = "aws"
    exit_code = 1


class CredentialsMissing(AwsError):
    id = "credentials-missing"
    exit_code = 4


class CredentialsExpired(AwsError):
    id = "credentials-expired"
    exit_code = 4


class CredentialsInvalid(AwsError):
    id = "credentials-invalid"
    exit_code = 4


class ClockSkewed(AwsError):
    id = "clock-skewed"
    exit_code = 9


class AccessDenied(AwsError, PermissionError):
    id = "access-denied"
    exit_code = 4


class NotOwner(AccessDenied):
    id = "not-owner"
    exit_code = 5


class RegionMissing(AwsError):
    id = "region-missing"
    exit_code = 9


class EndpointUnreachable(AwsError, ConnectionError):
    id = "endpoint-unreachable"
    exit_code = 9


class Throttled(AwsError):
    id = "throttled"
    exit_code = 8


class AdvancedTierOff(AwsError):
    id = "advanced-tier-off"
    exit_code = 5


class ServiceError(AwsError):
    """
    An answer of AWS that none of the others describes.

    ``code`` is AWS's error code.
    """

    id = "aws-error"

    def __init__(
        self, what: str, *, code: str = "", evidence: Optional[str] = None, fix: Optional[str] = None
    ) -> None:
        super().__init__(what, evidence=evidence, fix=fix)
        self.code = code


NO_ANSWER = (AccessDenied, EndpointUnreachable, Throttled, ServiceError)
"""What a call that is a help only may fail with: what it helps goes on without."""


class UserError(SSHHelperError):
    id = "user"
    exit_code = 1


class UsageError(UserError, ValueError):
    id = "usage"
    exit_code = 2


class TargetNotFound(UserError, ValueError):
    id = "target-not-found"
    exit_code = 3


class WrongRegion(TargetNotFound):
    id = "wrong-region"


class NodeNotFound(TargetNotFound, IndexError):
    id = "node-not-found"


class NotLaunched(TargetNotFound, AssertionError):
    id = "not-launched"


class AmbiguousTarget(UserError, ValueError):
    id = "ambiguous-target"
    exit_code = 2


class TargetEnded(UserError, ValueError):
    id = "target-ended"
    exit_code = 7


class NotInstrumented(UserError):
    id = "not-instrumented"
    exit_code = 5


class NetworkIsolated(UserError):
    id = "network-isolated"
    exit_code = 5


class RegistrationFailed(UserError):
    id = "registration-failed"
    exit_code = 5


class RegistrationLimit(RegistrationFailed):
    id = "registration-limit"


class RegistrationThrottled(RegistrationFailed):
    id = "registration-throttled"
    exit_code = 8


class RoleNotTrusted(RegistrationFailed):
    id = "role-not-trusted"


class TargetOffline(UserError, ConnectionError):
    """
    No container answers.

    ``may_come`` says that it began so lately that one may answer soon: waiting is worth it.
    """

    id = "target-offline"
    exit_code = 5

    def __init__(
        self, what: str, *, evidence: Optional[str] = None, fix: Optional[str] = None, may_come: bool = False
    ) -> None:
        super().__init__(what, evidence=evidence, fix=fix)
        self.may_come = may_come


class TargetStarting(TargetOffline):
    id = "target-starting"


class NotConnected(TargetOffline):
    id = "target-not-connected"


class InstanceNotValid(TargetOffline):
    id = "instance-not-valid"


class DuplicateNode(UserError):
    id = "duplicate-node"
    exit_code = 5


class HostKeyChanged(UserError):
    id = "host-key-changed"
    exit_code = 5


class HostNotTrusted(UserError):
    id = "host-not-trusted"
    exit_code = 5


class WrongUser(UserError):
    id = "wrong-user"
    exit_code = 5


class KeyNotDelivered(UserError):
    id = "key-not-delivered"
    exit_code = 5


class SshServerDown(UserError, ConnectionError):
    id = "ssh-server-down"
    exit_code = 5


class WaitTimeout(UserError, TimeoutError):
    id = "wait-timeout"
    exit_code = 6


class CopyFailed(UserError):
    """
    Files were not copied, or not whole.

    ``exit_code`` is sftp's: 1 for a failure there or here, 255 for a lost connection.
    """

    id = "copy-failed"
    exit_code = 1

    def __init__(
        self, what: str, *, evidence: Optional[str] = None, fix: Optional[str] = None, status: int = 1
    ) -> None:
        super().__init__(what, evidence=evidence, fix=fix)
        self.exit_code = status


class LaunchRefused(UserError, ValueError):
    id = "launch-refused"
    exit_code = 2


class LocalSetup(UserError):
    id = "local-setup"
    exit_code = 9


class SshMissing(LocalSetup):
    id = "ssh-missing"


class ConfigBroken(LocalSetup):
    id = "config-broken"


class PortBusy(LocalSetup):
    id = "port-busy"


def without_secrets(text: str) -> str:
    """The text without names and passwords of URLs, and without the values of headers with credentials."""
    if "@" in text:
        text = _IN_URL.sub("", text)
    return _IN_HEADER.sub(r"\1***", text)


def shown_url(url: str) -> str:
    """The beginning of a URL, or of what should be one, without a name and a password or a query."""
    return re.split("[?#]", url.rpartition("@")[2])[0][:80]


def reason_of(error: BaseException) -> str:
    """
    Why something failed, for a message or a log: our own text, the system's or TLS's words, else the type.

    The text of any other exception may quote what went over the line, or a key that no header can hold.
    """
    if isinstance(error, SSHHelperError):
        return str(error)
    if isinstance(error, OSError):
        if type(error).__module__ == "ssl":
            # A closed set of the library's, such as CERTIFICATE_VERIFY_FAILED, and OpenSSL's word about it.
            words = (getattr(error, name, None) for name in ("reason", "verify_message"))
            said = ": ".join(str(word) for word in words if word)
            return said or type(error).__name__
        if isinstance(error, socket.timeout):
            return "no answer in time"
        if isinstance(error, socket.gaierror):
            return str(error.strerror or type(error).__name__)
        if isinstance(error.errno, int):
            return os.strerror(error.errno)
    if isinstance(error, ImportError) and error.name:
        return f"there is no module {error.name}, or not all of it"
    return type(error).__name__


def kind_and_reason(error: BaseException) -> str:
    """``TYPE: REASON`` by ``reason_of``, or the type alone."""
    name, reason = type(error).__name__, reason_of(error)
    return name if reason == name else f"{name}: {reason}"


def trace_of(error: BaseException) -> str:
    """
    A traceback for logs: where it came about, and the reason of each exception in the chain.

    Python's own has the exceptions' texts, which may quote what went over the line.
    """
    import traceback

    lines: List[str] = []
    seen: List[BaseException] = []
    found: Optional[BaseException] = error
    while found is not None and found not in seen:
        seen.append(found)
        places = "".join(traceback.format_tb(found.__traceback__))
        lines.insert(0, f"Traceback (most recent call last):\n{places}{kind_and_reason(found)}")
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return "\nwhich led to:\n".join(lines)
