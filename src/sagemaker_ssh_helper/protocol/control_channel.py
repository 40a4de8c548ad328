"""
The agent's control channel: sessions and commands are offered, results go back.

``ControlChannel`` is the agent's machine. The service's side has no state worth one: it reads and writes
single messages with ``parse_control`` and ``serialize_control``.

Pure, standard library only, Python 3.8. ``now`` is monotonic seconds.
"""

import logging
from dataclasses import dataclass, replace
from enum import Enum
from typing import Callable, Dict, List, Optional, Tuple, Type, Union

from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.message import (
    AgentMessage,
    MessageType,
    format_message_id,
    new_message_id,
    serialize_message,
)
from sagemaker_ssh_helper.protocol.payloads import (
    AgentJob,
    AgentJobAck,
    AgentJobReply,
    AgentJobReplyAck,
    AgentTaskAcknowledge,
    AgentTaskComplete,
    ChannelClosed,
    InteractiveShell,
    JobAckStatus,
    OpenControlChannelInput,
    format_created_date,
)

logger = logging.getLogger(__name__)

# -- what the official agent does, and services may count on --

# Sends of one agent_task_complete, the first included, and the seconds between them.
MAX_TASK_COMPLETE_SENDS = 3
TASK_COMPLETE_INTERVAL = 1.0
# How long a reply waits for its acknowledge before it counts as not delivered.
JOB_REPLY_TIMEOUT = 1.0
# The longest pause between two sends of a reply, and how long an unacknowledged one is kept.
MAX_JOB_REPLY_INTERVAL = 300.0
JOB_REPLY_LIFETIME = 7200.0
# Of results and replies sent again at one time; the others follow a second later.
MAX_RESENDS_AT_ONCE = 50

# -- what we chose --

# Of unacknowledged results and replies: a service that acknowledges nothing must not fill our memory.
MAX_PENDING = 1000
MAX_PENDING_BYTES = 4 << 20


@dataclass(frozen=True)
class ControlEvent:
    """What a control channel tells its owner."""


@dataclass(frozen=True)
class SessionOffered(ControlEvent):
    """Start this session. There is no acknowledge: opening its data channel is the answer."""

    shell: InteractiveShell


@dataclass(frozen=True)
class SessionClosed(ControlEvent):
    """End this session; perhaps it is not known, or ended."""

    session_id: str


@dataclass(frozen=True)
class JobOffered(ControlEvent):
    """
    Run this command, or cancel one. Answer with ``job_ack``, whatever becomes of it.

    ``message_id`` and ``created_ms`` are those of the message that brought it.
    """

    job: AgentJob
    message_id: bytes
    created_ms: int


@dataclass(frozen=True)
class TaskAcknowledged(ControlEvent):
    """The service has a result; ``message_id`` is what ``task_complete`` returned."""

    message_id: str


@dataclass(frozen=True)
class JobReplyAcknowledged(ControlEvent):
    """The service has a reply; ``message_id`` is what ``job_reply`` returned."""

    message_id: str


# -- single messages, for both sides ----------------------------------------------------------------

ControlPayload = Union[
    InteractiveShell,
    ChannelClosed,
    AgentTaskComplete,
    AgentTaskAcknowledge,
    AgentJob,
    AgentJobAck,
    AgentJobReply,
    AgentJobReplyAck,
]

_PAYLOADS: Dict[str, Type[ControlPayload]] = {
    MessageType.INTERACTIVE_SHELL: InteractiveShell,
    MessageType.CHANNEL_CLOSED: ChannelClosed,
    MessageType.AGENT_TASK_COMPLETE: AgentTaskComplete,
    MessageType.AGENT_TASK_ACKNOWLEDGE: AgentTaskAcknowledge,
    MessageType.AGENT_JOB: AgentJob,
    MessageType.AGENT_JOB_ACK: AgentJobAck,
    MessageType.AGENT_JOB_REPLY: AgentJobReply,
    MessageType.AGENT_JOB_REPLY_ACK: AgentJobReplyAck,
}
_MESSAGE_TYPES: Dict[Type[ControlPayload], str] = {payload: name for name, payload in _PAYLOADS.items()}


def serialize_control(payload: ControlPayload, *, message_id: bytes, created_ms: int) -> bytes:
    """The message that carries this payload; its type follows from the payload's."""
    return serialize_message(
        _MESSAGE_TYPES[type(payload)], payload.serialize(), 0, 0, 0, message_id, created_ms
    )


def parse_control(data: bytes) -> Tuple[AgentMessage, Optional[ControlPayload]]:
    """
    A message of a control channel and its payload; None for a type that is not known.

    Raises:
        MalformedMessage: the message, or the payload of a known type, is not valid.
    """
    message = AgentMessage.parse(data)
    payload = _PAYLOADS.get(message.message_type)
    return message, None if payload is None else payload.parse(message.payload)


# -- the agent's machine ----------------------------------------------------------------------------


class ControlState(Enum):
    CLOSED = "closed"
    OPEN = "open"


@dataclass
class _Pending:
    """A result or a reply that the service has not acknowledged."""

    payload: Union[AgentTaskComplete, AgentJobReply]
    message_id: bytes
    created_ms: int
    size_bytes: int
    first_at: float
    send_at: float
    sends: int = 0


class ControlChannel:
    """
    The agent's end of the control channel, through any number of connections.

    ::

        CLOSED ---- open ----> OPEN
           ^                    |
           `-- connection_lost -'

    Offers arrive in OPEN only. Results and replies may be handed in at any time: they are sent when the
    channel is open, and again until the service acknowledges them.

    * A result (agent_task_complete) is sent three times at most, a second apart, with the same message id;
      once more after each new connection.
    * A reply (agent_job_reply) is sent after 1, 2, 4 ... 300 s, for two hours. The first reply of a command,
      which only says that it began, is sent once: services need not acknowledge it.

    The owner's loop: feed what arrived, hand out events, send ``text_to_send`` and then ``messages_to_send``,
    call ``handle_timer`` at ``next_deadline``.

    Args:
        instance_id: the node's own.
        random_bytes: gives so many random bytes, for ids.
        created_ms: the wall clock, milliseconds since the Unix epoch.
        version: the agent's version, as it is told to the service.
    """

    def __init__(
        self,
        instance_id: str,
        *,
        random_bytes: Callable[[int], bytes],
        created_ms: Callable[[], int],
        version: str,
        platform_type: str = "linux",
    ) -> None:
        self.instance_id = instance_id
        self.state = ControlState.CLOSED
        self._random_bytes = random_bytes
        self._created_ms = created_ms
        self._version = version
        self._platform_type = platform_type
        self._text: Optional[bytes] = None
        self._queue: List[bytes] = []
        # By the text of the message id, in the order they came.
        self._pending: Dict[str, _Pending] = {}
        self._pending_bytes = 0

    @property
    def pending(self) -> int:
        """How many results and replies wait for their acknowledge."""
        return len(self._pending)

    # -- the connection --

    def open(self, token: str, now: float) -> None:
        """A WebSocket is open: queue the opening frame, and what the last connection left unacknowledged."""
        request_id = format_message_id(new_message_id(self._random_bytes(16)))
        self._text = OpenControlChannelInput(
            token=token,
            request_id=request_id,
            agent_version=self._version,
            platform_type=self._platform_type,
        ).serialize()
        self._change_state(ControlState.OPEN)
        for pending in self._pending.values():
            pending.send_at = now
            if isinstance(pending.payload, AgentTaskComplete):
                pending.sends = min(pending.sends, MAX_TASK_COMPLETE_SENDS - 1)
        self._send_due(now)

    def connection_lost(self, now: float) -> None:
        """The WebSocket is gone. What was not acknowledged is sent after the next ``open``."""
        self._text = None
        self._change_state(ControlState.CLOSED)

    # -- receiving --

    def receive_text(self, data: bytes, now: float) -> List[ControlEvent]:
        """Official agents parse text frames like binary ones; so do we."""
        return self.receive_message(data, now)

    def receive_message(self, data: bytes, now: float) -> List[ControlEvent]:
        """
        What one message means. Messages that are malformed or unknown are logged and dropped.

        Never raises for what a peer sent.
        """
        if self.state is not ControlState.OPEN:
            logger.warning("! dropped %d B: the control channel is not open", len(data))
            return []
        try:
            message, payload = parse_control(data)
        except MalformedMessage as error:
            logger.warning("! dropped %d B: %s", len(data), error)
            return []
        logger.debug("< %s", message)
        if isinstance(payload, InteractiveShell):
            return [SessionOffered(payload)]
        if isinstance(payload, ChannelClosed) and payload.session_id:
            return [SessionClosed(payload.session_id)]
        if isinstance(payload, AgentJob):
            return [JobOffered(payload, message.message_id, message.created_ms)]
        if isinstance(payload, AgentTaskAcknowledge):
            self._forget(payload.message_id, AgentTaskComplete)
            return [TaskAcknowledged(payload.message_id)]
        if isinstance(payload, AgentJobReplyAck):
            self._forget(payload.acknowledged_message_id, AgentJobReply)
            return [JobReplyAcknowledged(payload.acknowledged_message_id)]
        logger.warning("! dropped %s: not for an agent", message)
        return []

    # -- sending --

    def task_complete(self, result: AgentTaskComplete, now: float) -> str:
        """Tell how a session ended. Returns the message id that TaskAcknowledged will name."""
        return self._add(result, now)

    def job_ack(self, offered: JobOffered, status: Tuple[str, str] = JobAckStatus.SUCCESSFUL) -> None:
        """Answer a command. Sent once; after a lost connection the service offers the command again."""
        code, name = status
        ack = AgentJobAck(
            job_id=offered.job.job_id,
            acknowledged_message_id=format_message_id(offered.message_id),
            created_date=format_created_date(offered.created_ms),
            status_code=code,
            error_message=name,
        )
        message_id = new_message_id(self._random_bytes(16))
        self._queue.append(serialize_control(ack, message_id=message_id, created_ms=self._created_ms()))
        logger.debug("> agent_job_ack %s", code)

    def job_reply(self, reply: AgentJobReply, now: float) -> str:
        """
        Tell how a command is getting on. Returns the message id that JobReplyAcknowledged will name.

        A reply that is too long is cut, see ``AgentJobReply.fitted``.
        """
        return self._add(reply.fitted(), now)

    def text_to_send(self) -> Optional[bytes]:
        """The opening frame, once after each ``open``; to be sent before any message."""
        text, self._text = self._text, None
        return text

    def messages_to_send(self) -> List[bytes]:
        """Serialized messages to send now, in order; none while the channel is closed."""
        if self.state is not ControlState.OPEN:
            return []
        queue, self._queue = self._queue, []
        return queue

    # -- time --

    def next_deadline(self) -> Optional[float]:
        """When ``handle_timer`` has something to do; None when only a call can change that."""
        if self.state is not ControlState.OPEN or not self._pending:
            return None
        return min(pending.send_at for pending in self._pending.values())

    def handle_timer(self, now: float) -> List[ControlEvent]:
        """Queue what is due. There are no events yet: the list is here for the loop all machines share."""
        if self.state is ControlState.OPEN:
            self._send_due(now)
        return []

    # -- within --

    def _add(self, payload: Union[AgentTaskComplete, AgentJobReply], now: float) -> str:
        message_id = new_message_id(self._random_bytes(16))
        text = format_message_id(message_id)
        size_bytes = len(payload.serialize())
        self._pending[text] = _Pending(payload, message_id, self._created_ms(), size_bytes, now, now)
        self._pending_bytes += size_bytes
        while len(self._pending) > MAX_PENDING or self._pending_bytes > MAX_PENDING_BYTES:
            self._give_up(next(iter(self._pending)), "too many are unacknowledged")
        if self.state is ControlState.OPEN:
            self._send_due(now)
        return text

    def _send_due(self, now: float) -> None:
        sent = 0
        for text, pending in list(self._pending.items()):
            if pending.send_at > now:
                continue
            if self._is_over(pending, now):
                self._give_up(text, f"no acknowledge after {pending.sends} sends")
            elif sent < MAX_RESENDS_AT_ONCE:
                self._send(text, pending, now)
                sent += 1
            else:
                pending.send_at = now + TASK_COMPLETE_INTERVAL

    def _is_over(self, pending: _Pending, now: float) -> bool:
        if isinstance(pending.payload, AgentTaskComplete):
            return pending.sends >= MAX_TASK_COMPLETE_SENDS
        return pending.sends > 1 and now - pending.first_at > JOB_REPLY_LIFETIME

    def _send(self, text: str, pending: _Pending, now: float) -> None:
        pending.sends += 1
        payload = pending.payload
        if isinstance(payload, AgentTaskComplete):
            payload = replace(payload, retry_number=pending.sends)
            pending.send_at = now + TASK_COMPLETE_INTERVAL
        else:
            # The exponent is capped because the interval is: nothing overflows in two hours of it.
            interval = JOB_REPLY_TIMEOUT * 2.0 ** min(pending.sends - 1, 16)
            pending.send_at = now + min(interval, MAX_JOB_REPLY_INTERVAL)
        self._queue.append(
            serialize_control(payload, message_id=pending.message_id, created_ms=pending.created_ms)
        )
        mark, times = ("!", f" again, send {pending.sends}") if pending.sends > 1 else (">", "")
        logger.debug("%s %s %d B%s", mark, _MESSAGE_TYPES[type(payload)], pending.size_bytes, times)
        if isinstance(payload, AgentJobReply) and payload.is_first:
            self._remove(text)

    def _forget(self, text: str, payload: Type[ControlPayload]) -> None:
        pending = self._pending.get(text)
        if pending is not None and isinstance(pending.payload, payload):
            self._remove(text)

    def _give_up(self, text: str, why: str) -> None:
        payload = self._remove(text).payload
        logger.warning("! gave up %s: %s", _MESSAGE_TYPES[type(payload)], why)

    def _remove(self, text: str) -> _Pending:
        pending = self._pending.pop(text)
        self._pending_bytes -= pending.size_bytes
        return pending

    def _change_state(self, state: ControlState) -> None:
        if state is not self.state:
            self.state = state
            logger.debug("= control channel is %s", state.name)
