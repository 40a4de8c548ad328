"""
One session in the message gateway: what the client sends goes to the agent, and the reverse, unchanged.

::

    client  --input_stream_data, acknowledge-->   to_agent  -->  agent
            <--  to_client  <--output_stream_data, acknowledge--
                                 agent_session_state: kept here

Each direction has an *outlet*, which writes at once while its peer is there and takes data, and else keeps
what arrives. Nothing is dropped and the order stays. When an outlet fills up, its source is held back: an
agent by ``pause_publication``, which leaves its pings and acknowledges alone, and whoever does not care for
that by not reading its socket.

Official agents need help with acknowledges: they note a message as sent only after sending it, so an
acknowledge that is quicker is lost on them, and they then repeat that message for ever, because the official
client does not acknowledge a duplicate. So acknowledges to them are held for some milliseconds, and a
duplicate of what the client has acknowledged is answered here.

For the same reason a broken connection must lose nothing. Official peers send again only their oldest
message, ten times a second at most. So what was passed on and not acknowledged is kept, and passed on again
when its receiver is back; so are the last acknowledges to the agent. And when the client was cut off, its
acknowledges may be lost for good: it gets a ping behind the messages that are repeated, and what it has not
acknowledged when the pong comes, it had before.
"""

import asyncio
import hashlib
import logging
import math
import os
import struct
import time
from collections import deque
from collections.abc import Sequence

from sagemaker_ssh_helper.emulator.channel_socket import ChannelSocket
from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.message import (
    HEADER_BYTES,
    SYN_FIN,
    AgentMessage,
    MessageType,
    PayloadType,
    format_message_id,
    new_message_id,
    serialize_message,
)
from sagemaker_ssh_helper.protocol.payloads import Acknowledge, ChannelClosed, format_created_date

logger = logging.getLogger(__name__)

# Numbers we chose.
HARD_LIMIT_BYTES = 12 << 20
"""Of an outlet, above which its source is not read. More than the window of a peer of ours (8 MiB with
headers), so that those never come to it."""
SOFT_LIMIT_BYTES = 1 << 20
"""Of the outlet to the client, above which the agent is asked to pause."""
LOW_BYTES = 256 << 10
"""Of the same, below which it may go on."""
ACK_HOLD = 0.010
"""Seconds an acknowledge to an official agent is held."""
COMPLETE_HOLD = 0.020
"""Seconds that HandshakeComplete waits for the acknowledge that belongs before it."""
ABSENT_CLIENT_DELAY = 0.5
"""Seconds after which an agent whose client has not come yet is asked to pause."""

KEPT_BYTES = 4 << 20
"""Each way, of what was passed on and not acknowledged."""
KEPT_ACKS = 1000
"""Of the acknowledges that the agent got last."""

_BATCH_BYTES = 128 << 10
_HEADER_LENGTH = 116
# Header length, message type and created date; sequence number; payload type. See AgentMessage's table.
_peek = struct.Struct(">I32s4xQ").unpack_from
_peek_number = struct.Struct(">q").unpack_from
_peek_payload_type = struct.Struct(">I").unpack_from
_SEQUENCE_NUMBER_AT = 48
_MESSAGE_ID_AT = slice(64, 80)
_DIGEST_AT = slice(80, 112)
_PAYLOAD_TYPE_AT = 112

_INPUT = MessageType.INPUT_STREAM_DATA.encode().ljust(32)
_OUTPUT = MessageType.OUTPUT_STREAM_DATA.encode().ljust(32)
_ACKNOWLEDGE = MessageType.ACKNOWLEDGE.encode().ljust(32)

_sha256 = hashlib.sha256


class Outlet:
    """
    What goes to one side of a session.

    ``socket`` is None while that side is away. A message that is waiting already is not kept twice: peers
    send again what nobody acknowledges.
    """

    def __init__(self) -> None:
        self.socket: ChannelSocket | None = None
        self.queued_bytes = 0
        self._queue: deque[bytes] = deque()
        self._queued_ids: set[bytes] = set()

    def __bool__(self) -> bool:
        """Whether anything waits here."""
        return bool(self._queue)

    def send(self, messages: Sequence[bytes]) -> None:
        """Write these messages, or keep them."""
        socket = self.socket
        if socket is not None and socket.writable and not self._queue:
            socket.send(messages)
            return
        for data in messages:
            message_id = data[_MESSAGE_ID_AT]
            if message_id not in self._queued_ids:
                self._queued_ids.add(message_id)
                self._queue.append(data)
                self.queued_bytes += len(data)

    def flush(self) -> None:
        """Write what was kept, while the peer takes it."""
        socket = self.socket
        while self._queue and socket is not None and socket.writable:
            batch: list[bytes] = []
            size = 0
            while self._queue and size < _BATCH_BYTES:
                data = self._queue.popleft()
                self._queued_ids.discard(data[_MESSAGE_ID_AT])
                batch.append(data)
                size += len(data)
            self.queued_bytes -= size
            socket.send(batch)

    def send_first(self, messages: Sequence[bytes]) -> list[bytes]:
        """Put those of these that do not wait already before those that do, for ``flush``; returns them."""
        added = [data for data in messages if data[_MESSAGE_ID_AT] not in self._queued_ids]
        self._queue.extendleft(reversed(added))
        self._queued_ids.update(data[_MESSAGE_ID_AT] for data in added)
        self.queued_bytes += sum(map(len, added))
        return added

    def clear(self) -> None:
        """Forget what waits."""
        self._queue.clear()
        self._queued_ids.clear()
        self.queued_bytes = 0


class AcknowledgedNumbers:
    """Which sequence numbers were acknowledged: all below one, and some above it."""

    def __init__(self) -> None:
        self._below = 0
        self._above: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return number < self._below or number in self._above

    def add(self, number: int) -> None:
        if number in self:
            return
        self._above.add(number)
        while self._below in self._above:
            self._above.remove(self._below)
            self._below += 1


class Unacknowledged:
    """
    Messages that were passed on and not acknowledged, by their numbers, the oldest first.

    Args:
        max_bytes: the oldest beyond it are forgotten, which leaves them to their sender.
    """

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._messages: dict[int, bytes] = {}
        self._size = 0

    def __contains__(self, number: int) -> bool:
        return number in self._messages

    def add(self, data: bytes) -> None:
        number = _number_of(data)
        if number in self._messages:
            return
        self._messages[number] = data
        self._size += len(data)
        while self._size > self._max_bytes:
            self.discard(next(iter(self._messages)))

    def discard(self, number: int) -> None:
        self._size -= len(self._messages.pop(number, b""))

    def messages(self) -> list[bytes]:
        return list(self._messages.values())


class SessionRelay:
    """
    The two sides of one session, and what is under way between them.

    Args:
        session_id: the session's id, which is also that of its data channel.
        instance_id: the agent's.
        is_official: the agent is not ours and needs help with acknowledges.
        may_pause: the agent may be asked to pause. An official one fails a command whose streams are kept
            apart when it is.
    """

    def __init__(
        self, session_id: str, instance_id: str, *, is_official: bool, may_pause: bool = True
    ) -> None:
        self.session_id = session_id
        self.instance_id = instance_id
        self.to_client = Outlet()
        self.to_agent = Outlet()
        self.relayed = 0
        """Messages passed on so far, both ways."""
        self.active_at = time.monotonic()
        """When the last of them came."""
        self.is_closed = False
        """The client was told that the session is over, and nothing is passed on any more."""
        self._is_official = is_official
        self._may_pause = may_pause
        self._client_was_here = False
        self._is_paused = False
        self._pause_again_at = 0
        self._agent_is_held = False
        self._client_is_held = False
        self._acknowledged = AcknowledgedNumbers()
        self._held_acks: deque[tuple[float, bytes]] = deque()
        self._ack_timer: asyncio.TimerHandle | None = None
        # For an official agent, whose client may be official as well: what a broken connection may have lost.
        self._input = Unacknowledged()
        self._output = Unacknowledged()
        self._last_acks: deque[bytes] = deque(maxlen=KEPT_ACKS)
        # What was repeated to a client that is back; the ping behind it is called by a number.
        self._repeated: list[bytes] = []
        self._must_ping = False
        self._pings = 0
        self._absence_timer: asyncio.TimerHandle | None = None
        # The opening exchange: HandshakeComplete goes after the acknowledge of the handshake's response.
        self._is_settled = False
        self._response_is_acknowledged = False
        self._held_complete: bytes | None = None
        self._complete_timer: asyncio.TimerHandle | None = None

    # -- the sides come and go --

    def attach_client(self, socket: ChannelSocket) -> None:
        """The client is here. A socket it had before is forgotten; the caller ends it."""
        self._client_was_here = True
        self._client_is_held = False
        self.to_client.socket = socket
        self._repeated = self.to_client.send_first(self._output.messages())
        self._must_ping = bool(self._repeated)
        self.client_drained()

    def attach_agent(self, socket: ChannelSocket) -> None:
        """The agent is here; it does not pause after a reconnect, whatever it was told before."""
        self._is_paused = False
        self._agent_is_held = False
        self.to_agent.socket = socket
        self.to_agent.send_first([*self._input.messages(), *self._last_acks])
        self.to_agent.flush()
        if self.to_client.socket is None:
            if self._client_was_here:
                self._pause()
            else:
                loop = asyncio.get_running_loop()
                self._absence_timer = loop.call_later(ABSENT_CLIENT_DELAY, self._client_is_absent)
        self._balance()

    def detach(self, socket: ChannelSocket) -> str | None:
        """A connection is over: ``"client"`` or ``"agent"`` when that side is away now, else None."""
        if socket is self.to_client.socket:
            self.to_client.socket = None
            self._pause()
            return "client"
        if socket is self.to_agent.socket:
            self.to_agent.socket = None
            return "agent"
        return None

    # -- messages --

    def receive_from_client(self, messages: Sequence[bytes]) -> None:
        """Pass on what the client sent. Raises MalformedMessage."""
        relayed: list[bytes] = []
        for data in messages:
            if len(data) > HEADER_BYTES:
                header_length, kind, created_ms = _peek(data)
                if (
                    header_length == _HEADER_LENGTH
                    and created_ms
                    and _sha256(data[HEADER_BYTES:]).digest() == data[_DIGEST_AT]
                ):
                    if kind == _INPUT:
                        relayed.append(data)
                        if self._is_official:
                            self._input.add(data)
                        continue
                    if kind == _ACKNOWLEDGE:
                        if self._is_official:
                            self._hold_acknowledge(data)
                        else:
                            relayed.append(data)
                        continue
            self._receive_unusual(data, "client", MessageType.INPUT_STREAM_DATA, relayed)
        if logger.isEnabledFor(logging.DEBUG):
            _trace("client", messages)
        if relayed and not self.is_closed:
            self.relayed += len(relayed)
            self.active_at = time.monotonic()
            self.to_agent.send(relayed)
            if self.to_agent:
                self._balance()

    def receive_from_agent(self, messages: Sequence[bytes]) -> None:
        """Pass on what the agent sent, except what is meant for the gateway. Raises MalformedMessage."""
        relayed: list[bytes] = []
        is_plain = self._is_settled and not self._is_official
        for data in messages:
            if len(data) > HEADER_BYTES:
                header_length, kind, created_ms = _peek(data)
                if (
                    header_length == _HEADER_LENGTH
                    and created_ms
                    and _sha256(data[HEADER_BYTES:]).digest() == data[_DIGEST_AT]
                ):
                    if kind == _OUTPUT:
                        if is_plain:
                            relayed.append(data)
                        else:
                            self._receive_output(data, relayed)
                        continue
                    if kind == _ACKNOWLEDGE:
                        relayed.append(data)
                        if self._is_official:
                            self._note_acknowledge(data)
                        if not self._is_settled:
                            self._response_is_acknowledged = True
                            self._release_complete(relayed)
                        continue
            self._receive_unusual(data, "agent", MessageType.OUTPUT_STREAM_DATA, relayed)
        if logger.isEnabledFor(logging.DEBUG):
            _trace("agent", messages)
        if relayed and not self.is_closed:
            self._pass_to_client(relayed)

    def tell_agent(self, data: bytes) -> bool:
        """Write a message of the gateway's own to the agent, before what waits. False: it is away."""
        if self.to_agent.socket is None:
            return False
        self.to_agent.socket.send([data])
        return True

    def client_drained(self) -> None:
        """The client takes data again."""
        self.to_client.flush()
        if self._must_ping and not self.to_client and self.to_client.socket is not None:
            self._must_ping = False
            self._pings += 1
            self.to_client.socket.ping(b"%d" % self._pings)
        self._balance()

    def client_ponged(self, data: bytes) -> None:
        """
        The client answered a ping, and so has read all that was written before it.

        Clients acknowledge what is new to them while they read, in order: what they did not, they had.
        """
        if self._must_ping or data != b"%d" % self._pings:
            return
        repeated, self._repeated = self._repeated, []
        for message in repeated:
            if _number_of(message) in self._output:
                self._answer_for_client(message)

    def agent_drained(self) -> None:
        """The agent takes data again."""
        self.to_agent.flush()
        self._balance()

    def close(self, closed: bytes) -> None:
        """
        The session is over: nothing more is passed on, and after what waits for it the client gets this
        channel_closed message.
        """
        if self.is_closed:
            return
        if self._held_complete is not None:
            self._release_complete_late()
        self.is_closed = True
        self.to_agent.clear()
        # The agent waits for them before it goes.
        self._release_acknowledges(math.inf)
        self._cancel_timers()
        self.to_client.send([closed])
        # Both have to be read to the end, so that we see them go.
        for socket in (self.to_client.socket, self.to_agent.socket):
            if socket is not None:
                socket.resume_reading()

    # -- within --

    def _receive_output(self, data: bytes, relayed: list[bytes]) -> None:
        if self._is_official:
            if _number_of(data) in self._acknowledged:
                self._answer_for_client(data)
                return
            self._output.add(data)
        if not self._is_settled:
            payload_type = _peek_payload_type(data, _PAYLOAD_TYPE_AT)[0]
            if payload_type == PayloadType.HANDSHAKE_COMPLETE and not self._response_is_acknowledged:
                if self._held_complete is None:
                    loop = asyncio.get_running_loop()
                    self._complete_timer = loop.call_later(COMPLETE_HOLD, self._release_complete_late)
                self._held_complete = data
                return
            self._is_settled = payload_type in (PayloadType.HANDSHAKE_COMPLETE, PayloadType.OUTPUT)
        relayed.append(data)

    def _answer_for_client(self, data: bytes) -> None:
        """Acknowledge a message that the client has, and will not acknowledge again."""
        message_id = data[72:80] + data[64:72]
        body = Acknowledge.body(MessageType.OUTPUT_STREAM_DATA, message_id, _number_of(data))
        self._hold_acknowledge(_own_message(MessageType.ACKNOWLEDGE, body, flags=SYN_FIN))

    def _note_acknowledge(self, data: bytes) -> None:
        try:
            self._input.discard(Acknowledge.parse_sequence_number(data[HEADER_BYTES:]))
        except MalformedMessage as error:
            logger.info("! %s: an acknowledge names nothing: %s", self.session_id, error)

    def _release_complete(self, relayed: list[bytes]) -> None:
        if self._held_complete is not None:
            relayed.append(self._held_complete)
            self._held_complete = None
            self._is_settled = True
            if self._complete_timer is not None:
                self._complete_timer.cancel()

    def _release_complete_late(self) -> None:
        relayed: list[bytes] = []
        self._release_complete(relayed)
        if relayed and not self.is_closed:
            self._pass_to_client(relayed)

    def _pass_to_client(self, relayed: Sequence[bytes]) -> None:
        self.relayed += len(relayed)
        self.active_at = time.monotonic()
        self.to_client.send(relayed)
        if self.to_client:
            self._balance()

    def _receive_unusual(self, data: bytes, side: str, stream_type: str, relayed: list[bytes]) -> None:
        """A message that is not a plain one of the stream: other types, other padding, or malformed."""
        message = AgentMessage.parse(data)
        if message.message_type in (stream_type, MessageType.ACKNOWLEDGE):
            relayed.append(data)
        elif message.message_type == MessageType.AGENT_SESSION_STATE and side == "agent":
            logger.debug("< agent %s: %s", self.session_id, message)
        else:
            # Newer peers may have types that we do not know; neither side needs an answer to them.
            logger.info("! %s: %s from the %s is ignored", self.session_id, message, side)

    def _hold_acknowledge(self, data: bytes) -> None:
        try:
            number = Acknowledge.parse_sequence_number(data[HEADER_BYTES:])
        except MalformedMessage as error:
            logger.info("! %s: an acknowledge is ignored: %s", self.session_id, error)
            return
        self._acknowledged.add(number)
        self._output.discard(number)
        loop = asyncio.get_running_loop()
        self._held_acks.append((loop.time() + ACK_HOLD, data))
        if self._ack_timer is None:
            self._ack_timer = loop.call_later(ACK_HOLD, self._release_acknowledges)

    def _release_acknowledges(self, until: float | None = None) -> None:
        """Write the acknowledges that are due by then, or now, which is monotonic seconds."""
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        loop = asyncio.get_running_loop()
        if until is None:
            # A timer may fire a clock tick early.
            until = loop.time() + 0.001
        released: list[bytes] = []
        while self._held_acks and self._held_acks[0][0] <= until:
            released.append(self._held_acks.popleft()[1])
        if self._held_acks:
            self._ack_timer = loop.call_at(self._held_acks[0][0], self._release_acknowledges)
        if released:
            self.relayed += len(released)
            self._last_acks.extend(released)
            self.to_agent.send(released)

    def _client_is_absent(self) -> None:
        if self.to_client.socket is None:
            self._pause()

    def _pause(self) -> None:
        if self.is_closed or not self._may_pause:
            return
        if self.tell_agent(_own_message(MessageType.PAUSE_PUBLICATION, b"{}")):
            self._is_paused = True
            self._pause_again_at = self.to_client.queued_bytes + LOW_BYTES

    def _balance(self) -> None:
        """Hold back the sources of full outlets, and let those of emptied ones go on."""
        if self.is_closed:
            return
        waiting = self.to_client.queued_bytes
        if waiting >= SOFT_LIMIT_BYTES and (not self._is_paused or waiting >= self._pause_again_at):
            # Again, because anything from the client makes an agent go on.
            self._pause()
        elif self._is_paused and self.to_client.socket is not None and waiting <= LOW_BYTES:
            self._is_paused = False
            self.tell_agent(_own_message(MessageType.START_PUBLICATION, b"{}"))
        self._agent_is_held = _hold(self.to_agent.socket, self._agent_is_held, waiting)
        self._client_is_held = _hold(self.to_client.socket, self._client_is_held, self.to_agent.queued_bytes)

    def _cancel_timers(self) -> None:
        for timer in (self._absence_timer, self._complete_timer):
            if timer is not None:
                timer.cancel()


def closed_payload(session_id: str, instance_id: str, output: str) -> ChannelClosed:
    """What says that a session is over, to either side. ``output`` is text for the client's user."""
    return ChannelClosed(
        session_id=session_id,
        destination_id=instance_id,
        output=output,
        message_id=format_message_id(new_message_id(os.urandom(16))),
        created_date=format_created_date(time.time_ns() // 1_000_000),
    )


def channel_closed(payload: ChannelClosed) -> bytes:
    """The same as a message of a data channel."""
    return _own_message(MessageType.CHANNEL_CLOSED, payload.serialize())


def _number_of(data: bytes) -> int:
    """The sequence number of a whole message."""
    number: int = _peek_number(data, _SEQUENCE_NUMBER_AT)[0]
    return number


def _own_message(message_type: str, payload: bytes, flags: int = 0) -> bytes:
    return serialize_message(
        message_type, payload, 0, flags, 0, new_message_id(os.urandom(16)), time.time_ns() // 1_000_000
    )


def _hold(source: ChannelSocket | None, is_held: bool, waiting: int) -> bool:
    """Stop or go on reading a source; whether it is held now."""
    if source is None:
        return False
    if not is_held and waiting >= HARD_LIMIT_BYTES:
        source.pause_reading()
        return True
    if is_held and waiting <= HARD_LIMIT_BYTES // 2:
        source.resume_reading()
        return False
    return is_held


def _trace(sender: str, messages: Sequence[bytes]) -> None:
    for data in messages:
        logger.debug("< %s %s", sender, AgentMessage.parse(data))
