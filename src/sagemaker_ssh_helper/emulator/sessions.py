"""
Sessions as the control plane knows them: who started which, where to, and what became of it.
"""

import enum
import itertools
import re
import secrets
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from sagemaker_ssh_helper.emulator.documents import Document, SessionLimits
from sagemaker_ssh_helper.emulator.service import ApiError, Caller
from sagemaker_ssh_helper.names import SessionId

# Numbers of the service.
MAX_SESSION_ID_CHARS = 96
RANDOM_CHARS = 26
# Numbers we chose. The service keeps 30 days of history.
MAX_HISTORY = 10_000

_UNSAFE = re.compile("[^A-Za-z0-9_@.-]")
_RANDOM = string.ascii_lowercase + string.digits


class Status:
    """``Session.status``, in the API's words."""

    CONNECTING = "Connecting"
    CONNECTED = "Connected"
    DISCONNECTED = "Disconnected"
    TERMINATING = "Terminating"
    TERMINATED = "Terminated"
    FAILED = "Failed"

    ENDED = frozenset({TERMINATED, FAILED})


@dataclass
class Session:
    """One session. ``*_at`` are seconds since the Unix epoch; ``arguments`` has the document's types."""

    id: SessionId
    target: str
    owner_arn: str
    owner_id: str
    document: Document
    arguments: Mapping[str, Any] = field(repr=False)
    reason: str
    started_at: float
    limits: SessionLimits = field(default_factory=SessionLimits)
    status: str = Status.CONNECTING
    ended_at: float | None = None
    details: str = ""

    def __str__(self) -> str:
        return self.id

    @property
    def is_ended(self) -> bool:
        return self.status in Status.ENDED


def new_session_id(caller: Caller) -> SessionId:
    """
    A new id, as the service makes them: ``NAME-`` and 26 lower-case letters and digits. NAME is that of the
    user, or of the role session, with what agents cannot use in a file name replaced by ``-``.
    """
    name = caller.name if caller.kind == "user" else caller.user_id.rpartition(":")[2]
    who = _UNSAFE.sub("-", name)[: MAX_SESSION_ID_CHARS - RANDOM_CHARS - 1] or "session"
    return SessionId(f"{who}-{''.join(secrets.choice(_RANDOM) for _ in range(RANDOM_CHARS))}")


class OwnedBy(enum.Enum):
    """
    What IAM is asked about a session, so that policies can tell one's own. Public sources disagree.

    NAME: the ARN ``session/<id>``, which begins with the name; a tag has ``aws:userid``.
    NAME_ALONE: the ARN alone, as users of single sign-on have reported.
    USER_ID: ``aws:userid`` stands in the ARN in place of the name, as AWS's examples have it; no tag.
    """

    NAME = "name"
    NAME_ALONE = "name-alone"
    USER_ID = "userid"

    def resource(self, session: Session) -> str:
        """``session/…``, the end of the ARN that policies see."""
        if self is OwnedBy.USER_ID:
            return f"session/{session.owner_id}-{session.id.rpartition('-')[2]}"
        return f"session/{session.id}"

    def context(self, session: Session) -> Mapping[str, str]:
        """The condition keys that policies see, beside those of the target."""
        return {_OWNER_KEY: session.owner_id} if self is OwnedBy.NAME else {}


_OWNER_KEY = "ssm:resourceTag/aws:ssmmessages:session-id"


class Sessions:
    """
    Every active session, and the ended ones, newest last; the oldest ended ones are forgotten.

    ``owned_by`` says what policies see of them.
    """

    def __init__(self, max_history: int = MAX_HISTORY) -> None:
        self.owned_by = OwnedBy.NAME
        self._active: dict[str, Session] = {}
        self._ended: dict[str, Session] = {}
        self._max_history = max_history

    def add(self, session: Session) -> None:
        """A session that was started."""
        self._active[session.id] = session

    def get(self, session_id: str) -> Session | None:
        """The session, active or ended; None when there is none."""
        return self._active.get(session_id) or self._ended.get(session_id)

    def active(self) -> Iterator[Session]:
        """The sessions that have not ended."""
        return iter(list(self._active.values()))

    def end(self, session: Session, status: str, now: float, details: str = "") -> None:
        """Move a session to the history."""
        assert status in Status.ENDED, f"{status} is no way for a session to end"
        session.status = status
        session.ended_at = now
        session.details = details
        if self._active.pop(session.id, None) is not None:
            self._ended[session.id] = session
            for old in list(itertools.islice(self._ended, max(0, len(self._ended) - self._max_history))):
                del self._ended[old]

    def select(self, state: str, filters: Iterable[Mapping[str, str]]) -> list[Session]:
        """
        What DescribeSessions lists, newest first. ``state`` is ``Active`` or ``History``.

        Raises:
            ApiError: ``InvalidFilterKey``.
        """
        found = list((self._active if state == "Active" else self._ended).values())
        for item in filters:
            fits = _FILTERS.get(item["key"])
            if fits is None:
                raise ApiError("InvalidFilterKey", f"The filter key {item['key']} isn't valid.")
            found = [session for session in found if fits(session, item["value"])]
        return sorted(found, key=lambda session: session.started_at, reverse=True)


def _parse_date(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ApiError("InvalidFilterKey", f"{text} is not a date of ISO 8601.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


_FILTERS: Mapping[str, Callable[[Session, str], bool]] = {
    "Target": lambda session, value: value == session.target,
    "Owner": lambda session, value: value in (session.owner_arn, session.owner_id),
    "Status": lambda session, value: value == session.status,
    "SessionId": lambda session, value: value == session.id,
    "AccessType": lambda session, value: value == "Standard",
    "InvokedAfter": lambda session, value: session.started_at > _parse_date(value),
    "InvokedBefore": lambda session, value: session.started_at < _parse_date(value),
}
