"""
One WebSocket of the message gateway, seen from the server: the opening text frame, then binary messages.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import cast

from sagemaker_ssh_helper.errors import ConnectionFailed, MalformedMessage, ProtocolError
from sagemaker_ssh_helper.protocol.websocket import Close, Event, Message, Opcode, Pong, Role, WebSocket

logger = logging.getLogger(__name__)

# Numbers we chose.
OPENING_TIMEOUT = 15.0  # seconds for the opening text frame to come
_MAX_OPENING_BYTES = 8192
_HIGH_WATER_BYTES = 256 << 10
_LINGER = 2.0  # seconds for a peer to take what is left when we close

POLICY_VIOLATION = 1008
"""The close code for what we do not allow; RFC 6455 section 7.4.1."""


class Refused(ProtocolError):
    """An opening frame that makes sense, but does not open this channel."""


class ChannelSocket(asyncio.Protocol):
    """
    A connection after its upgrade. Subclasses say what to do with the opening frame and the messages.

    Protocol errors, frames above ``max_message_bytes`` and binary messages before the opening frame end the
    connection with a Close frame that says why, and a line in the log.

    Args:
        label: what to call it in the log.
        max_message_bytes: of one WebSocket message.
    """

    def __init__(self, label: str, *, max_message_bytes: int) -> None:
        self.label = label
        self.writable = True
        """Whether the peer takes data; while it does not, send nothing that can wait."""
        self._websocket = WebSocket(Role.SERVER, max_message_bytes=max_message_bytes, random_bytes=os.urandom)
        self._transport: asyncio.Transport | None = None
        self._is_opened = False
        self._opening_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._thaw_timer: asyncio.TimerHandle | None = None
        # What came together with the frame that opened a connection which is silent from then on.
        self._held: list[bytes] = []

    # -- what a subclass fills in --

    def opened(self, data: bytes) -> None:
        """The opening text frame. Raises MalformedMessage or Refused, whose text goes to the peer."""
        raise NotImplementedError

    def received(self, messages: Sequence[bytes]) -> None:
        """Binary messages, all that arrived together. Raises MalformedMessage to end the connection."""
        raise NotImplementedError

    def ponged(self, data: bytes) -> None:
        """The peer has read everything up to our ping with this payload."""

    def drained(self) -> None:
        """``writable`` is True again."""

    def violated(self, violation: ProtocolError) -> None:
        """The peer of an opened connection broke the protocol; the connection ends after this call."""

    def lost(self) -> None:
        """The connection is over, whoever ended it; called once, and only after ``opened`` returned."""
        raise NotImplementedError

    # -- asyncio --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self._opening_timer = asyncio.get_running_loop().call_later(OPENING_TIMEOUT, self._opening_is_late)

    def data_received(self, data: bytes) -> None:
        if self._linger_timer is not None:
            # We are closing: what still comes is not wanted, but has to be read for the peer to get on.
            return
        violation: ProtocolError | None = None
        try:
            events = self._websocket.receive_data(data)
        except ConnectionFailed as error:
            events = cast(list[Event], list(error.events))
            violation = error
        is_closed = False
        messages: list[bytes] = []
        try:
            for event in events:
                if isinstance(event, Message):
                    if event.opcode == Opcode.BINARY:
                        messages.append(event.data)
                    else:
                        self._receive_text(event.data, messages)
                elif isinstance(event, Pong) and self._is_opened:
                    if messages:
                        self._receive_binary(messages)
                        messages = []
                    self.ponged(event.data)
                elif isinstance(event, Close):
                    is_closed = True
            if messages:
                self._receive_binary(messages)
        except (MalformedMessage, Refused) as error:
            violation = error
        if violation is not None:
            self.break_off(violation)
            return
        if self.writable or is_closed:
            # Else a pong can wait, and be one for many pings.
            self.flush()
        if is_closed:
            self._end()

    def eof_received(self) -> bool:
        self._websocket.receive_eof()
        return False

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        if self._thaw_timer is not None:
            return
        self.writable = True
        self.flush()
        if self._is_opened:
            self.drained()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        self._websocket.receive_eof()
        self.writable = False
        self._transport = None
        logger.debug("= %s is closed%s", self.label, f": {exc}" if exc else "")
        if self._is_opened:
            self._is_opened = False
            self.lost()

    # -- what the owner does --

    def send(self, messages: Sequence[bytes]) -> None:
        """Write binary messages. Silently nothing on a connection that is over; ``lost`` tells about that."""
        try:
            self._websocket.send_messages(messages)
        except ConnectionFailed:
            return
        self.flush()

    def ping(self, data: bytes) -> None:
        """Ask the peer to say when it has read so far, to ``ponged``. Nothing on a closed connection."""
        try:
            self._websocket.send_ping(data)
        except ConnectionFailed:
            return
        self.flush()

    def flush(self) -> None:
        """Write what the WebSocket machine has queued."""
        if self._thaw_timer is not None:
            return
        data = self._websocket.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Let the peer wait. Its pings are not answered meanwhile."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._thaw_timer is None and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def refuse(self, why: str, code: int = POLICY_VIOLATION) -> None:
        """Log why, tell the peer in a Close frame, and end the connection."""
        logger.warning("! %s refused: %s", self.label, why)
        self.close(code, why)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection with a Close frame. Official peers reconnect after one."""
        self._websocket.send_close(code, reason)
        self.flush()
        self._end()

    def finish(self) -> None:
        """End the connection without a Close frame, once what was written is sent."""
        self._end()

    def break_off(self, violation: ProtocolError) -> None:
        """End the connection because its peer broke the protocol."""
        logger.warning("! %s: %s", self.label, violation)
        if self._is_opened:
            self.violated(violation)
        self.close(POLICY_VIOLATION, str(violation))

    def freeze(self, seconds: float) -> None:
        """
        Neither read nor write for so many seconds, as if the network were away; 0 ends it.

        Nothing is lost by it: what is written meanwhile leaves afterwards.
        """
        if self._thaw_timer is not None:
            self._thaw_timer.cancel()
            self._thaw_timer = None
        if seconds > 0 and self._transport is not None:
            self._transport.pause_reading()
            self.writable = False
            self._thaw_timer = asyncio.get_running_loop().call_later(seconds, self._thaw)
        elif not self.writable:
            self._thaw()

    def cut(self) -> None:
        """Drop the connection as a broken network would: nothing is sent, the peer sees a reset."""
        if self._transport is not None:
            self._transport.abort()

    # -- within --

    def _receive_text(self, data: bytes, messages: list[bytes]) -> None:
        if self._is_opened:
            # Official peers drop text that is no message, so nobody sends any.
            logger.info("! %s: a text frame of %d bytes is ignored", self.label, len(data))
            return
        if messages:
            raise MalformedMessage("a binary message came before the opening text frame")
        if len(data) > _MAX_OPENING_BYTES:
            raise MalformedMessage("the opening text frame is too long")
        self.opened(data)
        self._is_opened = True
        if self._opening_timer is not None:
            self._opening_timer.cancel()

    def _receive_binary(self, messages: Sequence[bytes]) -> None:
        if not self._is_opened:
            raise MalformedMessage("a binary message came before the opening text frame")
        if self._thaw_timer is not None:
            self._held += messages
            return
        self.received(messages)

    def _opening_is_late(self) -> None:
        if not self._is_opened:
            self.refuse("the opening text frame did not come in time")

    def _end(self) -> None:
        transport = self._transport
        if transport is None or self._linger_timer is not None:
            return
        # close() sends what is buffered first, which a peer that does not read can put off for ever.
        self._linger_timer = asyncio.get_running_loop().call_later(_LINGER, transport.abort)
        transport.close()

    def _thaw(self) -> None:
        self._thaw_timer = None
        transport = self._transport
        if transport is None:
            return
        self.writable = transport.get_write_buffer_size() <= _HIGH_WATER_BYTES
        self.flush()
        held, self._held = self._held, []
        try:
            if held:
                self.received(held)
        except MalformedMessage as error:
            self.break_off(error)
            return
        self.resume_reading()
        if self.writable and self._is_opened:
            self.drained()

    def _cancel_timers(self) -> None:
        for timer in (self._opening_timer, self._linger_timer, self._thaw_timer):
            if timer is not None:
                timer.cancel()
