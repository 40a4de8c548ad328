"""
Many streams in one: smux, version 1, which multiplexed port sessions carry in their byte stream.

::

    offset size  field         all integers little-endian
         0    1  version       1
         1    1  command       a Command
         2    2  data length   bytes
         4    4  stream id     the client's are 3, 5, 7 and so on
         8    n  data

The client opens streams and gets no answer to it. FIN closes a stream both ways: who gets one delivers what
came before, closes, and sends a FIN back; who sent one forgets the stream.

Version 1 has no windows. Two of our own ends, which know each other by their handshake, add them: each may
send WINDOW_BYTES of a stream, and UPD, a command that version 1 leaves free, gives leave for as many more as
its four bytes of data say. With anybody else there is no UPD, and one that comes is as fatal as any unknown
command.

Calls and bytes in; events and bytes out. No sockets, no clock: ``now`` is monotonic seconds.
"""

import enum
import struct
from collections import deque
from dataclasses import dataclass
from typing import Deque, Dict, List, Optional

from sagemaker_ssh_helper.errors import ProtocolError

VERSION = 1
HEADER_BYTES = 8
MAX_DATA_BYTES = 32768
"""In one frame that we send; same in official peers. We accept what the length field can say."""

WINDOW_BYTES = 256 << 10
"""Of one stream, between two of our own ends."""

QUEUE_BYTES = 64 << 10
"""Of one stream that waits to be sent: more, and it is not ``writable``."""

MAX_STREAMS = 256
"""At a time. An agent closes any more at once."""

MAX_ANSWERS_BYTES = 64 << 10
"""Of frames that the peer makes us send. One that reads nothing and makes us send more is cut off."""

# Same in official peers.
KEEPALIVE_INTERVAL = 10.0  # seconds between our keepalives
KEEPALIVE_TIMEOUT = 30.0  # seconds without any frame

_UPDATE_BYTES = WINDOW_BYTES // 4
_HEADER = struct.Struct("<BBHI")
_CREDIT = struct.Struct("<I")
_MAX_STREAM_ID = 0xFFFFFFFF


class Command(enum.IntEnum):
    """What a frame is."""

    SYN = 0
    FIN = 1
    PSH = 2
    NOP = 3
    UPD = 4


def serialize_frame(command: int, stream_id: int, data: bytes = b"") -> bytes:
    """One frame of at most 65535 bytes of data."""
    return _HEADER.pack(VERSION, command, len(data), stream_id) + data


class Event:
    """Something the caller has to know."""


@dataclass(frozen=True)
class Opened(Event):
    """The client opened a stream."""

    stream_id: int


@dataclass(frozen=True)
class Received(Event):
    """Bytes of a stream. Call ``consumed`` when they are off our hands."""

    stream_id: int
    data: bytes


@dataclass(frozen=True)
class Closed(Event):
    """The peer closed a stream. What came before is still to be delivered; there is nothing more to send."""

    stream_id: int


class _Stream:
    def __init__(self, credit: int) -> None:
        self.queue = bytearray()
        self.queued = False
        self.credit = credit
        """What we may still send; only between our own ends."""
        self.leave = credit
        """What the peer may still send; only between our own ends."""
        self.consumed = 0
        """Of what came, and the peer was not told."""
        self.closing = False
        """A FIN is to follow what is queued."""


class Mux:
    """
    One end of a multiplexed session.

    Args:
        is_client: who we are; the client opens streams.
        flow_control: the peer is one of our own ends.
        keepalive: the peer expects keepalives. Whether it sends any itself is seen when one comes; from then
            on its silence is an error.
    """

    def __init__(self, *, is_client: bool, flow_control: bool, keepalive: bool, now: float) -> None:
        self.flow_control = flow_control
        self._is_client = is_client
        self._last_id = 1
        self._streams: Dict[int, _Stream] = {}
        # Those with something to send that they may send, in turn.
        self._turns: Deque[int] = deque()
        self._answers = bytearray()
        self._header = bytearray()
        # Of the frame whose data is coming in.
        self._command = 0
        self._stream_id = 0
        self._left = 0
        self._credit = bytearray()
        self._frames = 0
        self._events: List[Event] = []
        self._ping_at = now + KEEPALIVE_INTERVAL if keepalive else None
        self._check_at: Optional[float] = None

    def __len__(self) -> int:
        return len(self._streams)

    # -- out --------------------------------------------------------------------------------------------

    def open(self) -> int:
        """At the client: a new stream's id. Raises ProtocolError when all ids are used up."""
        assert self._is_client, "an agent opens no streams"
        if self._last_id + 2 > _MAX_STREAM_ID:
            raise ProtocolError("the session has had all the connections that it can have")
        self._last_id += 2
        self._streams[self._last_id] = _Stream(WINDOW_BYTES)
        self._answers += serialize_frame(Command.SYN, self._last_id)
        return self._last_id

    def send(self, stream_id: int, data: bytes) -> None:
        """
        Queue bytes of a stream. All are taken; stop while it is not ``writable``. Nothing when it is closed.
        """
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.closing and data:
            stream.queue += data
            self._take_turn(stream_id, stream)

    def close(self, stream_id: int) -> None:
        """Close a stream after what is queued, and drop what still comes. Nothing when it is closed."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.closing:
            stream.closing = True
            self._take_turn(stream_id, stream)

    def writable(self, stream_id: int) -> bool:
        """Whether more should be sent on the stream now."""
        stream = self._streams.get(stream_id)
        return stream is not None and not stream.closing and len(stream.queue) < QUEUE_BYTES

    def consumed(self, stream_id: int, count: int) -> None:
        """So many bytes of the stream are off our hands: the peer may send as many more."""
        stream = self._streams.get(stream_id)
        if stream is None or not self.flow_control:
            return
        stream.consumed += count
        if stream.consumed >= _UPDATE_BYTES and not stream.closing:
            stream.leave += stream.consumed
            self._answers += serialize_frame(Command.UPD, stream_id, _CREDIT.pack(stream.consumed))
            stream.consumed = 0

    def data_to_send(self, max_bytes: int) -> bytes:
        """About that many bytes to send now, or nothing; the streams take turns, frame by frame."""
        out, self._answers = self._answers, bytearray()
        while self._turns and len(out) < max_bytes:
            stream_id = self._turns.popleft()
            stream = self._streams.get(stream_id)
            if stream is None:
                continue
            stream.queued = False
            size = min(len(stream.queue), MAX_DATA_BYTES)
            if self.flow_control:
                size = min(size, stream.credit)
            if size:
                out += serialize_frame(Command.PSH, stream_id, bytes(stream.queue[:size]))
                del stream.queue[:size]
                stream.credit -= size
            if stream.closing and not stream.queue:
                out += serialize_frame(Command.FIN, stream_id)
                del self._streams[stream_id]
            else:
                self._take_turn(stream_id, stream)
        return bytes(out)

    def _take_turn(self, stream_id: int, stream: _Stream) -> None:
        may_send = stream.queue and (stream.credit > 0 or not self.flow_control)
        if not stream.queued and (may_send or (stream.closing and not stream.queue)):
            stream.queued = True
            self._turns.append(stream_id)

    # -- in ---------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> List[Event]:
        """What bytes from the peer mean, however they were cut. Raises ProtocolError; then all is over."""
        position, end = 0, len(data)
        while position < end:
            if self._left:
                size = min(self._left, end - position)
                self._left -= size
                self._data_came(data[position : position + size])
                position += size
                continue
            size = min(HEADER_BYTES - len(self._header), end - position)
            self._header += data[position : position + size]
            position += size
            if len(self._header) == HEADER_BYTES:
                header = bytes(self._header)
                self._header.clear()
                self._header_came(*_HEADER.unpack(header))
        events, self._events = self._events, []
        return events

    def _header_came(self, version: int, command: int, length: int, stream_id: int) -> None:
        self._frames += 1
        if version != VERSION:
            raise ProtocolError("the multiplexed session cannot be read", evidence=f"smux version {version}")
        has_data = command == Command.PSH or (command == Command.UPD and self.flow_control)
        if command > Command.NOP and not has_data:
            raise ProtocolError("the multiplexed session cannot be read", evidence=f"smux command {command}")
        if (length and not has_data) or (command == Command.UPD and length != _CREDIT.size):
            evidence = f"smux command {command} with {length} bytes"
            raise ProtocolError("the multiplexed session cannot be read", evidence=evidence)
        self._command, self._stream_id, self._left = command, stream_id, length
        stream = self._streams.get(stream_id)
        if command == Command.SYN:
            if stream is None and not self._is_client:
                self._opened(stream_id)
        elif command == Command.FIN:
            if stream is not None:
                self._closed(stream_id, stream)
        elif command == Command.NOP and self._check_at is None:
            self._check_at = 0.0

    def _opened(self, stream_id: int) -> None:
        if len(self._streams) >= MAX_STREAMS:
            self._answer(serialize_frame(Command.FIN, stream_id))
            return
        self._streams[stream_id] = _Stream(WINDOW_BYTES)
        self._events.append(Opened(stream_id))

    def _closed(self, stream_id: int, stream: _Stream) -> None:
        del self._streams[stream_id]
        self._answer(serialize_frame(Command.FIN, stream_id))
        if not stream.closing:
            self._events.append(Closed(stream_id))

    def _answer(self, frame: bytes) -> None:
        self._answers += frame
        if len(self._answers) > MAX_ANSWERS_BYTES:
            raise ProtocolError("the other end of the session opens connections faster than it takes answers")

    def _data_came(self, data: bytes) -> None:
        stream = self._streams.get(self._stream_id)
        if self._command == Command.UPD:
            self._credit += data
            if len(self._credit) == _CREDIT.size:
                credit = _CREDIT.unpack(bytes(self._credit))[0]
                self._credit.clear()
                if stream is not None:
                    self._credited(stream, credit)
            return
        if stream is None:
            return
        if self.flow_control:
            stream.leave -= len(data)
            if stream.leave < 0:
                raise ProtocolError("the other end of the session sends more than it may")
        if not stream.closing:
            self._events.append(Received(self._stream_id, data))

    def _credited(self, stream: _Stream, credit: int) -> None:
        stream.credit += credit
        if stream.credit > WINDOW_BYTES:
            raise ProtocolError("the other end of the session took more than was sent")
        self._take_turn(self._stream_id, stream)

    # -- time -------------------------------------------------------------------------------------------

    def next_deadline(self) -> Optional[float]:
        """When to call ``handle_timer``; None when nothing waits for time. It may lie in the past."""
        deadlines = [at for at in (self._ping_at, self._check_at) if at is not None]
        return min(deadlines) if deadlines else None

    def handle_timer(self, now: float) -> None:
        """Do what is due. Raises ProtocolError when a peer that keeps alive has fallen silent."""
        if self._ping_at is not None and now >= self._ping_at:
            self._answers += serialize_frame(Command.NOP, 0)
            self._ping_at = now + KEEPALIVE_INTERVAL
        if self._check_at is not None and now >= self._check_at:
            if self._check_at and not self._frames:
                raise ProtocolError(
                    "the multiplexed session is dead", evidence=f"no frame for {KEEPALIVE_TIMEOUT:g} s"
                )
            self._frames = 0
            self._check_at = now + KEEPALIVE_TIMEOUT
