"""
TCP connections as the streams of one session: what both ends of a multiplexed port session do.

::

    connection --read--> queue of its stream --take turns--> data channel
    data channel --> write buffer of the connection --> connection

Nothing here grows without a bound. A connection is not read while its queue, or the data channel, is full.
What comes for a connection that takes nothing waits in its write buffer, which another of our ends fills up
to its window and no further, so that the other streams go on. Official peers know no windows: of theirs all
streams together may wait in BUFFER_BYTES, then the peer is held. A connection that takes no byte for
STALL_TIMEOUT of that, while there are others, is given up for them.
"""

import asyncio
import logging
from typing import Callable, Dict, Optional, cast

from sagemaker_ssh_helper.channels.data import DataChannelRunner
from sagemaker_ssh_helper.errors import ProtocolError
from sagemaker_ssh_helper.protocol.smux import MAX_STREAMS, Closed, Event, Mux, Opened, Received

BUFFER_BYTES = 4 << 20
"""Of all connections together, when the peer knows no windows; same in official peers."""

STALL_TIMEOUT = 5.0
"""Seconds without a byte taken, of a connection that holds up others."""

_WRITE_BUFFER_BYTES = 64 << 10
_PIECE_BYTES = 64 << 10
_LOOK_INTERVAL = 0.5

logger = logging.getLogger(__name__)


class Multiplexer:
    """
    The streams of one session, joined to connections.

    Args:
        runner: the session's data channel, which is Ready.
        mux: a fresh machine.
        on_opened: at the agent, told of each new stream's connection, which it then makes.
        on_failed: the session cannot go on, and why.
    """

    def __init__(
        self,
        runner: DataChannelRunner,
        mux: Mux,
        *,
        on_opened: "Callable[[Connection], None]" = lambda connection: None,
        on_failed: Callable[[ProtocolError], None],
    ) -> None:
        self.room = asyncio.Event()
        """Set while there are fewer connections than there may be."""
        self.room.set()
        self.received_bytes = 0
        self.sent_bytes = 0
        self._runner = runner
        self._mux = mux
        self._on_opened = on_opened
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        # Until the connection is closed: some are longer here than their stream.
        self._connections: Dict[int, Connection] = {}
        self._pumping = False
        self._holding = False
        self._looking: Optional[asyncio.TimerHandle] = None
        self._timer: Optional[asyncio.TimerHandle] = None
        self._closed = False
        self._empty: asyncio.Future[None] = self._loop.create_future()
        self._arm()

    def __len__(self) -> int:
        return len(self._connections)

    def open(self) -> "Connection":
        """At the client: a connection for a new stream. Give it to the event loop as a protocol."""
        connection = self._add(self._mux.open())
        self.pump()
        return connection

    def receive(self, data: bytes) -> None:
        """Take bytes of the session."""
        if self._closed:
            return
        self.received_bytes += len(data)
        try:
            events = self._mux.receive(data)
        except ProtocolError as error:
            self._on_failed(error)
            return
        for event in events:
            self._handle(event)
        self._arm()
        self.pump()
        self._hold_or_not()

    def pump(self) -> None:
        """Send what the data channel takes; to be called when it is writable again."""
        if self._pumping or self._closed:
            return
        self._pumping = True
        try:
            while self._runner.writable:
                data = self._mux.data_to_send(_PIECE_BYTES)
                if not data:
                    break
                self.sent_bytes += len(data)
                self._runner.send_data(data)
        finally:
            self._pumping = False
        for connection in self._connections.values():
            connection.read_or_not()

    async def close(self, timeout: float) -> None:
        """End all connections, and break those that have not taken what came after so many seconds."""
        self._closed = True
        for handle in (self._timer, self._looking):
            if handle is not None:
                handle.cancel()
        for connection in list(self._connections.values()):
            connection.finish()
        if self._connections:
            await asyncio.wait([self._empty], timeout=timeout)
        while self._connections:
            self._empty = self._loop.create_future()
            for connection in list(self._connections.values()):
                connection.abort()
            if self._connections:
                await asyncio.wait([self._empty])

    # -- for connections --

    def send(self, stream_id: int, data: bytes) -> None:
        self._mux.send(stream_id, data)
        self.pump()

    def may_read(self, stream_id: int) -> bool:
        return self._runner.writable and self._mux.writable(stream_id)

    def taken(self, stream_id: int, count: int) -> None:
        """So many bytes are off our hands, or nearly so."""
        self._mux.consumed(stream_id, count)
        self.pump()
        self._hold_or_not()

    def close_stream(self, stream_id: int) -> None:
        self._mux.close(stream_id)
        self.pump()

    def lost(self, connection: "Connection") -> None:
        self._connections.pop(connection.stream_id, None)
        self.room.set()
        if self._closed and not self._connections and not self._empty.done():
            self._empty.set_result(None)
        self.close_stream(connection.stream_id)
        self._hold_or_not()

    # -- within --

    def _add(self, stream_id: int) -> "Connection":
        connection = self._connections[stream_id] = Connection(self, stream_id)
        if len(self._connections) >= MAX_STREAMS:
            self.room.clear()
        return connection

    def _handle(self, event: Event) -> None:
        if isinstance(event, Received):
            connection = self._connections.get(event.stream_id)
            if connection is not None:
                connection.write(event.data)
        elif isinstance(event, Closed):
            connection = self._connections.get(event.stream_id)
            if connection is not None:
                connection.finish()
        elif isinstance(event, Opened):
            if not self.room.is_set() or event.stream_id in self._connections:
                self._mux.close(event.stream_id)
            else:
                self._on_opened(self._add(event.stream_id))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._mux.next_deadline()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        try:
            self._mux.handle_timer(self._loop.time())
        except ProtocolError as error:
            self._on_failed(error)
            return
        self._arm()
        self.pump()

    def _hold_or_not(self) -> None:
        """Hold a peer that knows no windows while too much waits."""
        if self._mux.flow_control or self._closed:
            return
        waiting = sum(connection.waiting_bytes for connection in self._connections.values())
        if waiting > BUFFER_BYTES and not self._holding:
            self._holding = True
            self._runner.pause_delivery()
            for connection in self._connections.values():
                connection.begin_watch(self._loop.time())
            self._looking = self._loop.call_later(_LOOK_INTERVAL, self._look)
        elif waiting <= BUFFER_BYTES // 2 and self._holding:
            self._holding = False
            if self._looking is not None:
                self._looking.cancel()
            self._runner.resume_delivery()

    def _look(self) -> None:
        """While the peer is held: who holds it?"""
        now = self._loop.time()
        for connection in list(self._connections.values()):
            if connection.stalled_for(now) >= STALL_TIMEOUT and len(self._connections) > 1:
                logger.warning("! a connection that takes nothing is given up for the others")
                connection.abort()
        self._hold_or_not()
        if self._holding and not self._closed:
            self._looking = self._loop.call_later(_LOOK_INTERVAL, self._look)


class Connection(asyncio.Protocol):
    """One stream's connection, perhaps still to be made."""

    def __init__(self, owner: Multiplexer, stream_id: int) -> None:
        self.stream_id = stream_id
        self.finished = False
        """The stream is closed: the connection ends once it has taken what came."""
        self._owner = owner
        self._transport: Optional[asyncio.Transport] = None
        self._early = bytearray()
        self._untold = 0
        self._full = False
        self._reading = True
        self._waiting_seen = 0
        self._moved_at = 0.0

    @property
    def waiting_bytes(self) -> int:
        """What came and was not taken."""
        written = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return len(self._early) + written

    def write(self, data: bytes) -> None:
        """Hand over what came."""
        if self._transport is None:
            self._early += data
            self._untold += len(data)
            return
        if not self._transport.is_closing():
            self._transport.write(data)
        if self._full:
            self._untold += len(data)
        else:
            self._owner.taken(self.stream_id, len(data))

    def finish(self) -> None:
        """End the connection after what was handed over."""
        self.finished = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Break the connection, or do not make it."""
        self.finished = True
        self._early.clear()
        if self._transport is not None:
            self._transport.abort()
        else:
            self._owner.lost(self)

    def read_or_not(self) -> None:
        """Read while there is room."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        may_read = self._owner.may_read(self.stream_id)
        if may_read is not self._reading:
            self._reading = may_read
            if may_read:
                transport.resume_reading()
            else:
                transport.pause_reading()

    def begin_watch(self, now: float) -> None:
        """See from now on whether it takes anything."""
        self._waiting_seen, self._moved_at = self.waiting_bytes, now

    def stalled_for(self, now: float) -> float:
        """Seconds since it took something; 0 when nothing waits."""
        waiting = self.waiting_bytes
        if waiting < self._waiting_seen or not waiting:
            self._moved_at = now
        self._waiting_seen = waiting
        return now - self._moved_at

    # -- asyncio's protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = stream = cast(asyncio.Transport, transport)
        stream.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        if self._early:
            stream.write(bytes(self._early))
            self._early.clear()
        if self.finished:
            stream.close()
            return
        if not self._full:
            self.resume_writing()
        # Not now: Python 3.8 begins to read after this call, whatever was said in it.
        asyncio.get_running_loop().call_soon(self.read_or_not)

    def data_received(self, data: bytes) -> None:
        self._owner.send(self.stream_id, data)

    def eof_received(self) -> None:
        # Half a connection is none here; what is in the write buffer still goes out.
        self._owner.close_stream(self.stream_id)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._untold:
            untold, self._untold = self._untold, 0
            self._owner.taken(self.stream_id, untold)

    def connection_lost(self, error: Optional[Exception]) -> None:
        self.finished = True
        self._early.clear()
        self._transport = None
        self._owner.lost(self)
