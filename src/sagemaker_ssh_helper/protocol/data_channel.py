"""
The data channel of one session, both sides: opening, handshake, the stream each way, publication, the end.

Calls and messages in; events, and messages to write, out. No sockets, no clock: ``now`` is monotonic seconds.
What a caller does, in this order, whatever happened::

    events = channel.receive_messages(batch, now)     # or handle_timer(now), resume_delivery(now)
    ... act on the events; send_data and the like ...
    text = channel.text_to_send()                     # only after open(), and before any binary message
    messages = channel.messages_to_send(now)
    ... call handle_timer at channel.next_deadline() ...

The session outlives its connections: after ``connection_lost(now)`` comes another ``open(token, now)``,
and both directions go on where they were. Until then ``send_data`` fills the window.
"""

import base64
import enum
import hmac
import logging
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from sagemaker_ssh_helper.errors import HandshakeFailed, MalformedMessage, ProtocolError, SSHHelperError
from sagemaker_ssh_helper.protocol import payloads
from sagemaker_ssh_helper.protocol.encryption import (
    CHALLENGE_BYTES,
    CONTEXT_CHALLENGE_BYTES,
    OVERHEAD_BYTES,
    Aead,
    DataKey,
    SessionCipher,
    encryption_context,
)
from sagemaker_ssh_helper.protocol.message import (
    HEADER_BYTES,
    MESSAGE_ID_BYTES,
    SYN,
    SYN_FIN,
    AgentMessage,
    MessageType,
    PayloadType,
    format_message_id,
    serialize_message,
)
from sagemaker_ssh_helper.protocol.payload_size import (
    MAX_PAYLOAD_BYTES,
    PAYLOAD_BYTES,
    SPAN_BYTES,
    PayloadSize,
)
from sagemaker_ssh_helper.protocol.payloads import (
    Acknowledge,
    ActionStatus,
    ActionType,
    AgentSessionState,
    KmsResult,
    SessionType,
)
from sagemaker_ssh_helper.protocol.stream import WINDOW_BYTES, Receiver, Sender

# What the public peers do, and we obey.
AGENT_HANDSHAKE_TIMEOUT = 15.0  # seconds; for the response, and again for that to the challenge

# What we chose.
CLIENT_HANDSHAKE_TIMEOUT = 30.0  # seconds; the agent's own verdict comes first
DATA_KEY_TIMEOUT = 30.0  # seconds for KMS, and for us to ask it again
REFUSAL_TIMEOUT = 5.0  # seconds for the agent to end a session whose handshake the client refused
ENCRYPTED_MESSAGE = "This session is encrypted with an AWS KMS key."
GRACE = 0.05  # seconds; the public agent throws away what comes before it noted that its handshake is over
MAX_EARLY_BYTES = 1 << 20  # data that comes before the handshake is over, with its headers
MAX_REQUESTS = 4  # of a kind in a handshake that are answered; nobody repeats one under another number
MAX_PENDING = 20_000  # messages outside the stream that wait to be written
RELEASE_BYTES = 256 << 10  # delivered at once after a pause
IDS_AT_ONCE = 64

logger = logging.getLogger(__name__)
_STREAM_OUTPUT = int(PayloadType.OUTPUT)


class Side(enum.Enum):
    """Who we are."""

    CLIENT = "client"
    AGENT = "agent"


class Event:
    """Something the caller has to know."""


@dataclass(frozen=True)
class Ready(Event):
    """The session has begun: data may be sent."""

    session_type: str
    properties: Optional[Mapping[str, Any]]
    """The document's properties, as the agent sent them; None where the kind of session has none."""
    peer_version: str
    """Empty when there was no handshake."""
    customer_message: str
    """Text for the user, perhaps empty."""


@dataclass(frozen=True)
class DataKeyNeeded(Event):
    """
    The session is to be encrypted: get its data key, then call ``provide_data_key`` or ``refuse_data_key``.
    """

    key_id: str
    """The KMS key: an id, an alias or an ARN."""
    encryption_context: Mapping[str, str]
    cipher_text: Optional[bytes] = None
    """The data key, for KMS to decrypt; None when KMS is to generate one."""


@dataclass(frozen=True)
class StreamData(Event):
    """Bytes of the stream. Neighbouring messages of type OUTPUT come as one."""

    payload_type: int
    data: bytes


@dataclass(frozen=True)
class FlagReceived(Event):
    """A Flag, or a number that has no name."""

    flag: int


@dataclass(frozen=True)
class PeerTerminating(Event):
    """The agent says that the session is about to end."""


@dataclass(frozen=True)
class ChannelClosed(Event):
    """The session is over: the gateway said so. The last event."""

    output: str
    """Text for the user, perhaps empty."""


@dataclass(frozen=True)
class Failed(Event):
    """The session cannot go on. The last event."""

    error: SSHHelperError


class State(enum.Enum):
    """
    What a data channel is doing. Whether it has a connection at the moment is another matter.

    ::

                    open()            request in            complete in         0.05 s over
        NEW ------------> HANDSHAKE ------------> ANSWERED ------------> GRACE ------------> OPEN
                              |                       client only, GRACE with foreign agents   ^
                              +----------------------------------------------------------------+
                                agent: response in; client: output came first, so there is no handshake
                                agent of a kind without handshake: at once

        with encryption, at the client:  HANDSHAKE -- request in --> KEYING -- key there --> ANSWERED
                         at the agent:   HANDSHAKE -- response in --> KEYING -- key there --> CHALLENGED
                                                                       -- challenge answered --> OPEN

        any of them -- channel_closed in --> CLOSED;  client with data held: CLOSING until it is delivered
        any of them -- failure, or close() --> CLOSED
    """

    NEW = 0
    HANDSHAKE = 1
    KEYING = 2
    ANSWERED = 3
    CHALLENGED = 4
    GRACE = 5
    OPEN = 6
    CLOSING = 7
    CLOSED = 8


class _Kind(NamedTuple):
    """What differs between kinds of session, as far as the channel is concerned."""

    handshake: bool
    """The agent asks for one (it always does for encryption)."""
    terminating: bool
    """The agent tells the gateway before it ends."""


KINDS: Dict[str, _Kind] = {
    SessionType.PORT: _Kind(handshake=True, terminating=False),
    SessionType.NON_INTERACTIVE_COMMANDS: _Kind(handshake=True, terminating=True),
    SessionType.STANDARD_STREAM: _Kind(handshake=False, terminating=True),
    SessionType.INTERACTIVE_COMMANDS: _Kind(handshake=False, terminating=True),
}

# What may come in the stream, by side and state: the peer drives it, one message after another in the
# order of their numbers. A pair that is not here is refused by _handle: logged, acknowledged and dropped.
# OUTPUT in the states GRACE and OPEN never comes here; _deliver hands it on.
_DATA = (PayloadType.OUTPUT, PayloadType.ERROR, PayloadType.STDERR, PayloadType.EXIT_CODE, PayloadType.SIZE)
_HANDLERS: Dict[Tuple[Side, State, int], str] = {
    (Side.CLIENT, State.HANDSHAKE, PayloadType.HANDSHAKE_REQUEST): "_on_handshake_request",
    (Side.CLIENT, State.HANDSHAKE, PayloadType.OUTPUT): "_on_first_data",
    (Side.CLIENT, State.HANDSHAKE, PayloadType.STDERR): "_on_first_data",
    (Side.CLIENT, State.ANSWERED, PayloadType.HANDSHAKE_REQUEST): "_on_handshake_request",
    (Side.CLIENT, State.ANSWERED, PayloadType.ENC_CHALLENGE_REQUEST): "_on_challenge_request",
    (Side.CLIENT, State.ANSWERED, PayloadType.HANDSHAKE_COMPLETE): "_on_handshake_complete",
    (Side.AGENT, State.HANDSHAKE, PayloadType.HANDSHAKE_RESPONSE): "_on_handshake_response",
    (Side.AGENT, State.CHALLENGED, PayloadType.ENC_CHALLENGE_RESPONSE): "_on_challenge_response",
}
_AGENT_SHAKING = (State.HANDSHAKE, State.KEYING, State.CHALLENGED)
for _state in _AGENT_SHAKING:
    _HANDLERS[Side.AGENT, _state, PayloadType.FLAG] = "_on_flag"
for _payload_type in _DATA:
    for _state in (State.KEYING, State.ANSWERED):
        _HANDLERS[Side.CLIENT, _state, _payload_type] = "_on_early_data"
    for _state in _AGENT_SHAKING:
        _HANDLERS[Side.AGENT, _state, _payload_type] = "_on_early_data"
for _side in Side:
    for _state in (State.GRACE, State.OPEN):
        _HANDLERS[_side, _state, PayloadType.FLAG] = "_on_flag"
        _HANDLERS[_side, _state, PayloadType.PROBE] = "_on_probe"
        for _payload_type in _DATA:
            _HANDLERS[_side, _state, _payload_type] = "_on_data"


class _Unreadable(Exception):
    """A payload is not what the peer encrypted; nothing after it can be delivered."""


class DataChannel:
    """
    One session's data channel, as its client or as its agent.

    Args:
        side: who we are.
        session_id: for the opening frame and the logs.
        random_bytes: gives that many random bytes; for message ids.
        created_ms: wall clock, milliseconds since the epoch; goes into headers and means nothing to us.
        client_id: the client's own UUID, the same for every connection of a session.
        instance_id: the agent's managed instance, as StartSession was told.
        version: our version as the peer compares it.
        session_type: at the agent what to ask for; at the client what is expected, which decides only
            whether a handshake is waited for with a deadline.
        properties: at the agent, for the handshake.
        kms_key_id: at the agent, the key to encrypt the session with; empty for none. There are no encrypted
            Port sessions.
        window_bytes: how much may be unacknowledged, from the oldest message to the newest.
        max_payload_bytes: of what we send, and of what we tell another of our ends that we accept. With
            others, and until a probe has shown that more gets through, payloads are cut at PAYLOAD_BYTES.
        agent_handshake_timeout: at the agent, seconds for the client's answer, and again for its proof that
            it has the session's key.
    """

    def __init__(
        self,
        side: Side,
        session_id: str,
        *,
        random_bytes: Callable[[int], bytes],
        created_ms: Callable[[], int],
        client_id: str = "",
        instance_id: str = "",
        version: str,
        session_type: str = SessionType.PORT,
        properties: Optional[Mapping[str, Any]] = None,
        kms_key_id: str = "",
        window_bytes: int = WINDOW_BYTES,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        agent_handshake_timeout: float = AGENT_HANDSHAKE_TIMEOUT,
    ) -> None:
        self.side = side
        self.session_id = session_id
        self.state = State.NEW
        self.payload_bytes = PAYLOAD_BYTES
        """Where data is cut now."""
        self.window_bytes = window_bytes
        self.peer_max_payload_bytes: Optional[int] = None
        """What another of our ends accepts; None for a foreign peer."""
        self.malformed = 0
        """Messages that were none, or whose digest was wrong."""
        self.refused = 0
        """Messages that make no sense now, or that we do not know."""
        self._random_bytes = random_bytes
        self._created_ms = created_ms
        self._client_id = client_id
        self._instance_id = instance_id
        self._version = version
        self._session_type = session_type
        self._properties = properties
        self._kms_key_id = "" if session_type == SessionType.PORT else kms_key_id
        self._cipher: Optional[SessionCipher] = None
        # The one that may become a part of the encryption context, and the one for the key.
        self._context_challenge = ""
        self._challenge = b""
        self._response: Optional[payloads.HandshakeResponse] = None
        self._outgoing = MessageType.INPUT_STREAM_DATA
        self._incoming = MessageType.OUTPUT_STREAM_DATA
        if side is Side.AGENT:
            self._outgoing, self._incoming = self._incoming, self._outgoing
        self._max_payload_bytes = max_payload_bytes
        self._agent_handshake_timeout = agent_handshake_timeout
        self._payload_size = PayloadSize(PAYLOAD_BYTES)
        # Of the window, while the size of payloads is being found out.
        self._held_back_bytes = 0
        self._sender = Sender(window_bytes)
        self._receiver: Receiver[AgentMessage] = Receiver()
        self._connected = False
        self._now = 0.0
        self._ids: List[bytes] = []
        self._text: Optional[bytes] = None
        self._outbox: List[bytes] = []
        self._events: List[Event] = []
        self._early: List[AgentMessage] = []
        self._early_bytes = 0
        self._pause_wanted = False
        self._handshake_started_at = 0.0
        self._handshake_until: Optional[float] = None
        self._grace_until: Optional[float] = None
        self._request: Optional[payloads.HandshakeRequest] = None
        self._requests = 0
        self._challenges = 0
        self._terminating = False
        self._refusal: Optional[SSHHelperError] = None
        self._last_words: Optional[ChannelClosed] = None

    # -- connections ------------------------------------------------------------------------------------

    def open(self, token: str, now: float) -> None:
        """
        Begin on a WebSocket that was just opened, for the first time or again.

        Queues the opening text frame. The first time an agent also announces itself and asks for the
        handshake; later everything that was sent and not acknowledged is queued again.
        """
        assert not self._connected, "open() on a data channel that is connected"
        self._now = now
        if self.state is State.CLOSED:
            return
        self._connected = True
        request_id = format_message_id(self._new_id())
        if self.side is Side.CLIENT:
            opening = payloads.OpenDataChannelInput(
                token, request_id, client_id=self._client_id, client_version=self._version
            )
        else:
            opening = payloads.OpenDataChannelInput(
                token, request_id, client_id=self._client_id, client_instance_id=self._instance_id
            )
        self._text = opening.serialize()
        self._sender.restart(now)
        if self.state is State.NEW:
            self._begin(now)

    def connection_lost(self, now: float) -> None:
        """The WebSocket is gone. Nothing is forgotten, and nothing is handed out until ``open``."""
        self._now = now
        self._connected = False
        self._text = None
        self._sender.connection_lost()
        probe = self._payload_size.probe_number
        if probe >= 0 and self._sender.was_taken(probe):
            logger.debug("! the connection was lost with probe #%d", probe)
            self._payload_size.broken_off()
            self._probed()

    def close(self, now: float) -> None:
        """End the channel at once from our side; ``messages_to_send`` may still hold the agent's farewell."""
        self._now = now
        if self.side is Side.AGENT and self.state is State.OPEN and self._kind.terminating:
            self._tell_gateway(AgentSessionState.TERMINATING)
        self._enter(State.CLOSED)

    # -- messages in ------------------------------------------------------------------------------------

    def receive_text(self, data: bytes, now: float) -> List[Event]:
        """A text frame: nobody sends one, but the public peers read it like a binary one."""
        return self.receive_messages((data,), now)

    def receive_message(self, data: bytes, now: float) -> List[Event]:
        """What one binary message means. A message that is none, or makes no sense now, is dropped."""
        return self.receive_messages((data,), now)

    def receive_messages(self, batch: Iterable[bytes], now: float) -> List[Event]:
        """What these binary messages mean, in the order they came."""
        self._now = now
        trace = logger.isEnabledFor(logging.DEBUG)
        parse = AgentMessage.parse
        parse_acknowledge = Acknowledge.parse_sequence_number
        incoming = self._incoming
        sender = self._sender
        for data in batch:
            if self.state is State.CLOSED:
                break
            try:
                message = parse(data)
                if trace:
                    logger.debug("< %s", message)
                message_type = message.message_type
                if message_type == incoming:
                    if sender.paused:
                        sender.resume(now)
                    self._receive_stream(message, trace)
                elif message_type == MessageType.ACKNOWLEDGE:
                    if sender.paused:
                        sender.resume(now)
                    number = parse_acknowledge(message.payload)
                    # Only the first acknowledge of what was handed out says anything about a probe.
                    if sender.acknowledge(number, now) and number == self._payload_size.probe_number:
                        self._payload_size.acknowledged(Acknowledge.parse(message.payload).message_id)
                        self._probed()
                else:
                    self._receive_other(message, now)
            except MalformedMessage as error:
                self._drop(error)
        self._deliver(now)
        return self._take_events()

    # -- data out ---------------------------------------------------------------------------------------

    def send_data(self, data: bytes, now: float, payload_type: int = _STREAM_OUTPUT) -> None:
        """
        Queue bytes for the peer, cut into payloads. Before Ready it is an error; after the end it is ignored.

        All of it is taken, always; stop calling while ``writable`` is false, or memory grows.
        """
        self._now = now
        if not self._may_send():
            return
        size = self.payload_bytes
        created_ms = self._created_ms()
        probe_bytes = self._payload_size.next_probe(len(data))
        if probe_bytes:
            self._send_probe(probe_bytes, created_ms)
        if len(data) <= size:
            if data:
                self._push(data, payload_type, created_ms)
            return
        for start in range(0, len(data), size):
            self._push(data[start : start + size], payload_type, created_ms)

    def send_nothing(self, now: float) -> None:
        """
        Queue a payload of OUTPUT without bytes.

        A client whose session has no handshake knows by the first output that it has begun: an agent says so
        by this when there is none.
        """
        self._now = now
        if self._may_send():
            self._push(b"", PayloadType.OUTPUT, self._created_ms())

    def send_flag(self, flag: int, now: float) -> None:
        """Queue a Flag, in order with the data."""
        self._now = now
        if self._may_send():
            self._push(payloads.serialize_flag(flag), PayloadType.FLAG, self._created_ms())

    def send_size(self, cols: int, rows: int, now: float) -> None:
        """Queue the size of the terminal, in order with the data."""
        self._now = now
        if self._may_send():
            self._push(payloads.Size(cols, rows).serialize(), PayloadType.SIZE, self._created_ms())

    # -- encryption -------------------------------------------------------------------------------------

    @property
    def encrypted(self) -> bool:
        """The session has its data key, and output is encrypted."""
        return self._cipher is not None

    def provide_data_key(self, key: DataKey, aead: Callable[[bytes], Aead], now: float) -> List[Event]:
        """Go on with what DataKeyNeeded asked for; nothing when the session has ended meanwhile."""
        self._now = now
        if self.state is State.KEYING:
            try:
                self._cipher = SessionCipher(
                    key.plain,
                    is_agent=self.side is Side.AGENT,
                    aead=aead,
                    random_bytes=self._random_bytes,
                )
            except MalformedMessage as error:
                return self.refuse_data_key(error, now)
            if self.side is Side.CLIENT:
                acknowledged = True if self._request and self._request.challenge else None
                self._respond(KmsResult(key.cipher_text, acknowledged), now)
            else:
                self._send_challenge(now)
        return self._take_events()

    def refuse_data_key(self, error: SSHHelperError, now: float) -> List[Event]:
        """There is no data key, so there is no session: it is never run without encryption instead."""
        self._now = now
        if self.state is State.KEYING:
            if self.side is Side.CLIENT:
                self._respond(None, now, error)
            else:
                self._fail_with(error)
        return self._take_events()

    # -- room -------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Ready, and the window has room."""
        return self.send_capacity_bytes > 0

    @property
    def send_capacity_bytes(self) -> int:
        """Bytes of data the window has room for; 0 before Ready and after the end."""
        if self.state is not State.OPEN and self.state is not State.GRACE:
            return 0
        sender = self._sender
        return max(
            0, min(sender.room_bytes - self._held_back_bytes, sender.room_messages * self.payload_bytes)
        )

    @property
    def drained(self) -> bool:
        """All that was sent is acknowledged."""
        return self._sender.drained

    @property
    def unacknowledged(self) -> int:
        """Messages sent and not acknowledged."""
        return self._sender.unacknowledged

    @property
    def acknowledged(self) -> int:
        """Messages that the peer has acknowledged so far."""
        return self._sender.next_sequence_number - self._sender.unacknowledged

    @property
    def resent(self) -> int:
        """Messages sent again so far."""
        return self._sender.resent

    # -- holding the peer -------------------------------------------------------------------------------

    def pause_delivery(self) -> None:
        """
        The sink is full: what comes from now on is held, unacknowledged, which holds the peer.

        May be called before Ready. Nothing is dropped, and acknowledges are read as ever.
        """
        self._pause_wanted = True
        if self.state in (State.GRACE, State.OPEN):
            self._receiver.pause()

    def resume_delivery(self, now: float) -> List[Event]:
        """
        The sink has room: the first part of what was held. The rest comes from ``handle_timer``, at once.
        """
        self._now = now
        self._pause_wanted = False
        self._release(now)
        return self._take_events()

    @property
    def holding(self) -> bool:
        """Delivery is paused, or what was held is not all delivered yet."""
        return self._receiver.holding

    @property
    def overloaded(self) -> bool:
        """Stop reading from the socket, the last resort: what comes now could only be dropped."""
        return self._receiver.full or len(self._outbox) >= MAX_PENDING

    # -- messages out, time -----------------------------------------------------------------------------

    def text_to_send(self) -> Optional[bytes]:
        """The opening text frame, once after ``open``; write it before any message."""
        text, self._text = self._text, None
        return text

    def messages_to_send(self, now: Optional[float] = None, max_bytes: Optional[int] = None) -> List[bytes]:
        """
        Binary messages to write now, in order.

        Args:
            now: the time; that of the last other call when left out.
            max_bytes: about how much; the rest comes with the next call. Everything when left out.
        """
        if now is not None:
            self._now = now
        if not self._connected:
            return []
        messages, self._outbox = self._outbox, []
        if self.state is State.GRACE or self.state is State.CLOSED:
            return messages
        resent = self._sender.resent
        messages += (
            self._sender.take(self._now) if max_bytes is None else self._sender.take(self._now, max_bytes)
        )
        if self._sender.resent != resent:
            logger.debug(
                "! resend %d messages, round trip %.3f s, timeout %.3f s",
                self._sender.resent - resent, self._sender.srtt, self._sender.rto,
            )  # fmt: skip
        return messages

    def next_deadline(self) -> Optional[float]:
        """When to call ``handle_timer``; None when nothing waits for time. It may lie in the past."""
        if self.state is State.CLOSED:
            return None
        if self._events or self._receiver.releasable:
            return self._now
        deadline = self._sender.next_deadline()
        for other in (self._handshake_until, self._grace_until):
            if other is not None and (deadline is None or other < deadline):
                deadline = other
        return deadline

    def handle_timer(self, now: float) -> List[Event]:
        """Do what is due. Harmless when nothing is."""
        self._now = now
        if self._handshake_until is not None and now >= self._handshake_until:
            self._give_up_handshake(now)
        if self._grace_until is not None and now >= self._grace_until:
            self._enter(State.OPEN)
        if self.state is not State.CLOSED:
            self._sender.handle_timer(now)
            if self._receiver.releasable:
                self._release(now)
        return self._take_events()

    # -- inside: states ---------------------------------------------------------------------------------

    @property
    def _kind(self) -> _Kind:
        # A type from the future: expect nothing of it.
        return KINDS.get(self._session_type, _Kind(handshake=False, terminating=False))

    def _enter(self, state: State) -> None:
        """The one place where the state changes."""
        if state is self.state:
            return
        self.state = state
        logger.debug("= data channel of %s is %s", self.session_id, state.name)
        if state is not State.GRACE:
            self._grace_until = None
        if state not in _SHAKING:
            self._handshake_until = None
        if state in (State.GRACE, State.OPEN) and self._pause_wanted:
            self._receiver.pause()
        if state is State.CLOSED:
            self._early.clear()

    def _begin(self, now: float) -> None:
        """The first connection is there."""
        self._handshake_started_at = now
        self._enter(State.HANDSHAKE)
        if self.side is Side.CLIENT:
            if self._kind.handshake:
                self._handshake_until = now + CLIENT_HANDSHAKE_TIMEOUT
            return
        self._tell_gateway(AgentSessionState.CONNECTED)
        if not self._kind.handshake and not self._kms_key_id:
            self._meet(None)
            self._start(Ready(self._session_type, self._properties, "", ""), now)
            return
        self._handshake_until = now + self._agent_handshake_timeout
        request = payloads.HandshakeRequest(
            self._version, self._session_type, self._properties, sm_ssh=self._marker()
        )
        if self._kms_key_id:
            challenge = base64.b64encode(self._random_bytes(CONTEXT_CHALLENGE_BYTES)).decode("ascii")
            self._context_challenge = challenge
            request = replace(request, kms_key_id=self._kms_key_id, challenge=challenge)
        self._push(request.serialize(), PayloadType.HANDSHAKE_REQUEST, self._created_ms())

    def _start(self, ready: Ready, now: float) -> None:
        """The handshake is over, or there is none."""
        foreign = (
            self.side is Side.CLIENT and self._request is not None and self.peer_max_payload_bytes is None
        )
        self._enter(State.GRACE if foreign else State.OPEN)
        if foreign:
            self._grace_until = now + GRACE
        self._events.append(ready)
        early, self._early, self._early_bytes = self._early, [], 0
        for message in early:
            self._handle(message, now)

    def _marker(self) -> Dict[str, int]:
        """By which two of our ends find each other in a handshake."""
        return {"v": 1, "max": self._max_payload_bytes}

    def _meet(self, marker: Optional[Mapping[str, Any]]) -> None:
        """Know the peer by its marker, or as a foreigner by having none."""
        self.peer_max_payload_bytes = _accepted_by(marker)
        self._payload_size = PayloadSize(min(self.peer_max_payload_bytes or 0, self._max_payload_bytes))
        # Agents acknowledge every copy of a message, official ones as well; official clients only the first.
        if self.side is Side.AGENT:
            self._sender.repeats_acknowledges = self.peer_max_payload_bytes is not None

    def _give_up_handshake(self, now: float) -> None:
        if self._refusal is not None:
            self._fail_with(self._refusal)
            return
        waited = now - self._handshake_started_at
        peer = "client" if self.side is Side.AGENT else "agent"
        if self.state is State.KEYING:
            peer = "service that has the KMS key"
        self._fail(f"the {peer} did not complete the handshake in {waited:.0f} s")

    def _fail(self, what: str, *, evidence: Optional[str] = None) -> None:
        self._fail_with(HandshakeFailed(what, evidence=evidence))

    def _fail_with(self, error: SSHHelperError) -> None:
        logger.debug("! %s", error)
        self._events.append(Failed(error))
        self._enter(State.CLOSED)

    def _take_events(self) -> List[Event]:
        events = self._events
        if events:
            self._events = []
        return events

    # -- inside: messages in ----------------------------------------------------------------------------

    def _drop(self, error: MalformedMessage) -> None:
        # Once is worth a warning; a peer that goes on must not fill the log.
        logger.log(logging.DEBUG if self.malformed else logging.WARNING, "! dropped: %s", error)
        self.malformed += 1

    def _receive_stream(self, message: AgentMessage, trace: bool) -> None:
        if len(self._outbox) >= MAX_PENDING:
            # The socket takes nothing, so an acknowledge could only be queued; the peer will send this again.
            self.refused += 1
            return
        if self._receiver.receive(message.sequence_number, message, len(message.payload)):
            self._acknowledge(message, trace)

    def _acknowledge(self, message: AgentMessage, trace: bool) -> None:
        body = Acknowledge.body(message.message_type, message.message_id, message.sequence_number)
        self._outbox.append(
            serialize_message(
                MessageType.ACKNOWLEDGE, body, 0, SYN_FIN, 0, self._new_id(), self._created_ms()
            )
        )
        if trace:
            logger.debug("> acknowledge #%d", message.sequence_number)

    def _receive_other(self, message: AgentMessage, now: float) -> None:
        message_type = message.message_type
        if message_type == MessageType.CHANNEL_CLOSED:
            self._deliver(now)
            self._on_channel_closed(payloads.ChannelClosed.parse(message.payload))
        elif message_type == MessageType.PAUSE_PUBLICATION:
            # The official client takes no notice, so a service cannot count on it, nor has to send the start.
            if self.side is Side.AGENT:
                self._sender.pause()
        elif message_type == MessageType.START_PUBLICATION:
            self._sender.resume(now)
        elif message_type == MessageType.AGENT_SESSION_STATE and self.side is Side.CLIENT:
            state = AgentSessionState.parse(message.payload).state
            if state == AgentSessionState.TERMINATING and not self._terminating:
                # Once: it is no part of the stream, so nothing holds it back where the owner is slow.
                self._terminating = True
                self._events.append(PeerTerminating())
        else:
            self.refused += 1
            logger.debug("! dropped: %s has no meaning for a %s", message, self.side.value)

    def _on_channel_closed(self, body: payloads.ChannelClosed) -> None:
        last_words = ChannelClosed(body.output)
        if self.side is Side.CLIENT and self.state in (State.NEW, *_SHAKING):
            refusal = self._refusal
            if refusal is None or isinstance(refusal, HandshakeFailed):
                what = refusal.what if refusal is not None else "the session was closed before it began"
                self._fail(what, evidence=body.output or None)
            else:
                self._fail_with(refusal)
        elif self.side is Side.CLIENT and self._receiver.holding:
            # What was held came before the end, so it is delivered before it. An agent's session is
            # cancelled instead, or a sink that never moves would keep it alive.
            self._last_words = last_words
            self._enter(State.CLOSING)
        else:
            self._events.append(last_words)
            self._enter(State.CLOSED)

    def _deliver(self, now: float) -> None:
        """Hand on what is in order."""
        run: List[bytes] = []
        error: Optional[_Unreadable] = None
        try:
            for message in self._receiver.take():
                if message.payload_type == _STREAM_OUTPUT and self.state in _FLOWING:
                    run.append(message.payload if self._cipher is None else self._decrypt(message))
                    continue
                if run:
                    self._flush_run(run)
                self._handle(message, now)
        except _Unreadable as unreadable:
            error = unreadable
        if run:
            self._flush_run(run)
        if error is not None:
            # What was altered was altered on purpose: the digest of the message is right.
            what = "a message of the encrypted session cannot be read"
            self._fail_with(ProtocolError(what, evidence=str(error)))

    def _flush_run(self, run: List[bytes]) -> None:
        data = run[0] if len(run) == 1 else b"".join(run)
        run.clear()
        if data:
            self._events.append(StreamData(_STREAM_OUTPUT, data))

    def _handle(self, message: AgentMessage, now: float) -> None:
        """The one place that decides whether a message of the stream is legal now."""
        state = State.OPEN if self.state is State.CLOSING else self.state
        name = _HANDLERS.get((self.side, state, message.payload_type))
        if name is None:
            self.refused += 1
            logger.debug("! refused: %s, data channel is %s", message, state.name)
            return
        try:
            getattr(self, name)(message, now)
        except MalformedMessage as error:
            self._drop(error)
            if state in _SHAKING and message.payload_type != PayloadType.FLAG:
                self._fail("the handshake cannot be read", evidence=str(error))

    def _release(self, now: float) -> None:
        trace = logger.isEnabledFor(logging.DEBUG)
        for _, message in self._receiver.release(RELEASE_BYTES):
            self._acknowledge(message, trace)
        self._deliver(now)
        if self.state is State.CLOSING and not self._receiver.holding and self._last_words is not None:
            self._events.append(self._last_words)
            self._enter(State.CLOSED)

    # -- inside: messages of the stream, by payload type ------------------------------------------------

    def _on_handshake_request(self, message: AgentMessage, now: float) -> None:
        """Client: do what the agent asks for, and answer once."""
        request = payloads.HandshakeRequest.parse(message.payload)
        self._requests += 1
        if self._requests > MAX_REQUESTS:
            self._fail("the agent begins the handshake again and again")
            return
        self._request = request
        self._meet(request.sm_ssh)
        if request.kms_key_id is None or request.session_type not in KINDS or request.other_actions:
            self._respond(None, now)
            return
        context = encryption_context(self.session_id, self._instance_id, request.challenge or None)
        self._await_data_key(DataKeyNeeded(request.kms_key_id, context), now)

    def _await_data_key(self, needed: DataKeyNeeded, now: float) -> None:
        self._enter(State.KEYING)
        self._await_peer(now, DATA_KEY_TIMEOUT)
        self._events.append(needed)

    def _respond(
        self, result: Optional[KmsResult], now: float, kms_error: Optional[SSHHelperError] = None
    ) -> None:
        """Client: the answer to a request, with what came of its wish for encryption."""
        request = self._request
        assert request is not None, "a response without a request"
        actions = []
        if request.session_type:
            error = ""
            if request.session_type not in KINDS:
                error = f"Unknown session type {request.session_type}"
            actions.append(_processed(ActionType.SESSION_TYPE, ActionStatus.FAILED, error))
        if request.kms_key_id is not None:
            error = ""
            if result is None:
                error = str(kms_error) if kms_error is not None else "Not tried, as the session is refused"
            action = _processed(ActionType.KMS_ENCRYPTION, ActionStatus.FAILED, error)
            actions.append(action if result is None else replace(action, result=result.to_json()))
        for action_type in request.other_actions:
            error = f"Unsupported action {action_type}"
            actions.append(_processed(action_type, ActionStatus.UNSUPPORTED, error))
        errors = tuple(action.error for action in actions if action.error)
        if errors:
            self._refusal = kms_error or HandshakeFailed("; ".join(errors))
        response = payloads.HandshakeResponse(
            self._version, tuple(actions), errors or None, sm_ssh=self._marker()
        )
        # Where a request comes again after its answer, it is a new one and is answered, too, within bounds.
        self._push(response.serialize(), PayloadType.HANDSHAKE_RESPONSE, self._created_ms())
        self._enter(State.ANSWERED)
        self._await_peer(now, REFUSAL_TIMEOUT if errors else CLIENT_HANDSHAKE_TIMEOUT)

    def _await_peer(self, now: float, timeout: float) -> None:
        """The next step of the handshake has that long; a repetition of steps gets no time of its own."""
        if self._requests <= 1 or self._handshake_until is None:
            self._handshake_until = now + timeout

    def _on_challenge_request(self, message: AgentMessage, now: float) -> None:
        """Client: prove that we have the data key."""
        cipher = self._cipher
        if cipher is None:
            self._fail("the agent asks for a proof of encryption that it did not ask for")
            return
        self._challenges += 1
        if self._challenges > MAX_REQUESTS:
            self._fail("the agent asks for a proof of encryption again and again")
            return
        challenge = cipher.open(payloads.EncryptionChallenge.parse(message.payload).challenge)
        answer = payloads.EncryptionChallenge(cipher.seal(challenge))
        self._push(answer.serialize(), PayloadType.ENC_CHALLENGE_RESPONSE, self._created_ms())

    def _on_handshake_complete(self, message: AgentMessage, now: float) -> None:
        """Client: the session begins."""
        complete = payloads.HandshakeComplete.parse(message.payload)
        request = self._request
        assert request is not None, "ANSWERED without a request"
        if not request.session_type:
            self._fail("the agent completed the handshake without naming a type of session")
            return
        self._start(
            Ready(request.session_type, request.properties, request.agent_version, complete.customer_message),
            now,
        )

    def _on_first_data(self, message: AgentMessage, now: float) -> None:
        """Client: output before any handshake means that there is none. Only shells are like that."""
        self._session_type = SessionType.STANDARD_STREAM
        self._meet(None)
        self._start(Ready(SessionType.STANDARD_STREAM, None, "", ""), now)
        self._on_data(message, now)

    def _on_handshake_response(self, message: AgentMessage, now: float) -> None:
        """Agent: the client's answer decides."""
        response = payloads.HandshakeResponse.parse(message.payload)
        for action in response.processed_actions:
            if action.status != ActionStatus.SUCCESS:
                self._fail(
                    f"the client refused {action.action_type or 'an action'} of the handshake",
                    evidence=f"status {action.status} {action.error}".strip(),
                )
                return
        self._meet(response.sm_ssh)
        self._response = response
        if not self._kms_key_id:
            self._complete("", now)
            return
        for action in response.processed_actions:
            if action.action_type == ActionType.KMS_ENCRYPTION:
                result = KmsResult.from_json(action.result)
                challenge = self._context_challenge if result.challenge_acknowledged else None
                context = encryption_context(self.session_id, self._instance_id, challenge)
                self._await_data_key(DataKeyNeeded(self._kms_key_id, context, result.cipher_text_key), now)
                return
        self._fail("the client did not answer KMSEncryption of the handshake")

    def _send_challenge(self, now: float) -> None:
        """Agent: find out whether the client has the data key, too."""
        assert self._cipher is not None, "a challenge without a key"
        self._challenge = self._random_bytes(CHALLENGE_BYTES)
        sealed = payloads.EncryptionChallenge(self._cipher.seal(self._challenge))
        self._push(sealed.serialize(), PayloadType.ENC_CHALLENGE_REQUEST, self._created_ms())
        self._enter(State.CHALLENGED)
        self._handshake_until = now + self._agent_handshake_timeout

    def _on_challenge_response(self, message: AgentMessage, now: float) -> None:
        """Agent: the client has the key, or not."""
        assert self._cipher is not None, "CHALLENGED without a key"
        answer = self._cipher.open(payloads.EncryptionChallenge.parse(message.payload).challenge)
        if hmac.compare_digest(answer, self._challenge):
            self._complete(ENCRYPTED_MESSAGE, now)
        else:
            self._fail("the client did not prove that it has the session's data key")

    def _complete(self, customer_message: str, now: float) -> None:
        """Agent: the session begins."""
        assert self._response is not None, "complete without a response"
        taken_ns = int((now - self._handshake_started_at) * 1e9)
        complete = payloads.HandshakeComplete(taken_ns, customer_message)
        self._push(complete.serialize(), PayloadType.HANDSHAKE_COMPLETE, self._created_ms())
        self._start(Ready(self._session_type, self._properties, self._response.client_version, ""), now)

    def _on_early_data(self, message: AgentMessage, now: float) -> None:
        """Data before the handshake is over: kept until it is. No public peer sends any."""
        self._early_bytes += HEADER_BYTES + len(message.payload)
        if self._early_bytes > MAX_EARLY_BYTES:
            peer = "client" if self.side is Side.AGENT else "agent"
            self._fail(f"the {peer} sends data instead of the handshake")
            return
        self._early.append(message)

    def _on_data(self, message: AgentMessage, now: float) -> None:
        data = self._decrypt(message)
        if data:
            self._events.append(StreamData(message.payload_type, data))

    def _decrypt(self, message: AgentMessage) -> bytes:
        """The payload in plain. Raises _Unreadable."""
        if self._cipher is None:
            return message.payload
        try:
            return self._cipher.decrypt(message.payload_type, message.payload)
        except MalformedMessage as error:
            raise _Unreadable(str(error)) from error

    def _on_flag(self, message: AgentMessage, now: float) -> None:
        self._events.append(FlagReceived(payloads.parse_flag(message.payload)))

    def _on_probe(self, message: AgentMessage, now: float) -> None:
        """Padding: that it came, and was acknowledged, is all it says."""

    # -- inside: messages out ---------------------------------------------------------------------------

    def _may_send(self) -> bool:
        assert self.state not in (State.NEW, *_SHAKING), "data sent before Ready"
        return self.state in _FLOWING

    def _push(self, payload: bytes, payload_type: int, created_ms: int) -> None:
        if self._cipher is not None:
            payload = self._cipher.encrypt(payload_type, payload)
        sender = self._sender
        number = sender.next_sequence_number
        flags = SYN if number == 0 and self.side is Side.AGENT else 0
        sender.push(
            serialize_message(
                self._outgoing, payload, number, flags, payload_type, self._new_id(), created_ms
            ),
            len(payload),
        )
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("> %s #%d %d B", self._outgoing, number, len(payload))

    def _send_probe(self, size: int, created_ms: int) -> None:
        """Padding of that many bytes; when it is lost, one byte takes its number."""
        number = self._sender.next_sequence_number
        message_id = self._new_id()
        probe, again = (
            serialize_message(self._outgoing, bytes(length), number, 0, PayloadType.PROBE, one_id, created_ms)
            for length, one_id in ((size, message_id), (1, self._new_id()))
        )
        self._sender.push(probe, size, again)
        self._payload_size.sent(number, format_message_id(message_id))
        self._held_back_bytes = max(0, self.window_bytes - SPAN_BYTES)
        logger.debug("> probe #%d %d B", number, size)

    def _probed(self) -> None:
        """A probe is over, well or not."""
        found = self._payload_size
        payload_bytes = found.payload_bytes
        if self._cipher is not None and payload_bytes > PAYLOAD_BYTES:
            # What a probe proves is the size on the wire; the public peers add to the usual one.
            payload_bytes -= OVERHEAD_BYTES
        if payload_bytes != self.payload_bytes:
            self.payload_bytes = payload_bytes
            logger.debug("= payloads of %s have %d bytes", self.session_id, self.payload_bytes)
        if found.is_found:
            self._held_back_bytes = 0

    def _tell_gateway(self, state: str) -> None:
        body = AgentSessionState(state, self.session_id).serialize()
        self._outbox.append(
            serialize_message(
                MessageType.AGENT_SESSION_STATE, body, 0, SYN_FIN, 0, self._new_id(), self._created_ms()
            )
        )
        logger.debug("> agent_session_state %s", state)

    def _new_id(self) -> bytes:
        if not self._ids:
            pool = bytearray(self._random_bytes(IDS_AT_ONCE * MESSAGE_ID_BYTES))
            # As new_message_id does, all at once.
            pool[6::MESSAGE_ID_BYTES] = pool[6::MESSAGE_ID_BYTES].translate(_VERSION_4)
            pool[8::MESSAGE_ID_BYTES] = pool[8::MESSAGE_ID_BYTES].translate(_VARIANT)
            ids = bytes(pool)
            self._ids = [
                ids[start : start + MESSAGE_ID_BYTES] for start in range(0, len(ids), MESSAGE_ID_BYTES)
            ]
        return self._ids.pop()


# The bytes of a random UUID that are not all random.
_VERSION_4 = bytes(byte & 0x0F | 0x40 for byte in range(256))
_VARIANT = bytes(byte & 0x3F | 0x80 for byte in range(256))

_FLOWING = (State.OPEN, State.GRACE)
_SHAKING = (State.HANDSHAKE, State.KEYING, State.ANSWERED, State.CHALLENGED)


def _accepted_by(marker: Optional[Mapping[str, Any]]) -> Optional[int]:
    """The payload bytes the peer's marker says it accepts; None when it has none, or one we cannot read."""
    size = marker.get("max") if marker is not None and marker.get("v") == 1 else None
    return size if isinstance(size, int) and size >= PAYLOAD_BYTES else None


def _processed(action_type: str, failure: ActionStatus, error: str) -> payloads.ProcessedAction:
    return payloads.ProcessedAction(action_type, failure if error else ActionStatus.SUCCESS, None, error)
