"""
The runner of a data channel: events in order, backpressure both ways, draining.
"""

import asyncio
import ssl
from collections import deque
from typing import Awaitable, Callable, Deque, List, Optional, Tuple

from sagemaker_ssh_helper.channels import aes_gcm
from sagemaker_ssh_helper.channels.attempts import UNANSWERED_DELAY
from sagemaker_ssh_helper.channels.connection import (
    CONNECT_TIMEOUT,
    WRITE_BUFFER_BYTES,
    WebSocketProtocol,
)
from sagemaker_ssh_helper.channels.runner import KEEPALIVE_INTERVAL, Grant, Link, Runner, first_of, logger
from sagemaker_ssh_helper.errors import LocalSetup, SSHHelperError
from sagemaker_ssh_helper.protocol.data_channel import (
    ChannelClosed,
    DataChannel,
    DataKeyNeeded,
    Event,
    Failed,
    Side,
    State,
    StreamData,
)
from sagemaker_ssh_helper.protocol.encryption import DataKey
from sagemaker_ssh_helper.protocol.message import PayloadType
from sagemaker_ssh_helper.protocol.stream import WIDENING
from sagemaker_ssh_helper.protocol.websocket import DEFAULT_MAX_MESSAGE_BYTES

OPEN_TIMEOUT = 30.0  # seconds of attempts before the first connection
# Seconds of attempts after a loss: what a laptop needs to be carried to another network.
RESUME_TIMEOUT = 900.0
DELAYS = (0.1, 5.0)  # seconds between attempts: the first wait, doubled up to the last


class DataChannelRunner(Runner[DataChannel]):
    """
    One data channel from open to end.

    ::

        runner = DataChannelRunner(channel, grant, on_event=..., on_writable=...)
        error = await runner.run()      # in a task of its own

    Args:
        channel: a fresh machine.
        grant: how to connect now. Its argument says whether there was a connection before (then ask for a new
            token). Errors of the user, of AWS and of the protocol end the run; ConnectionFailed,
            EndpointUnreachable, Throttled and other OSErrors are tried again.
        on_event: told everything the channel says, in order; the last is ChannelClosed or Failed. After
            ``pause_delivery`` it gets no StreamData until ``resume_delivery``.
        on_writable: ``writable`` is true now, for the first time or again.
        keepalive_interval: seconds of silence before a ping; twice that, and the connection is replaced.
        open_timeout: seconds of attempts before there was any connection.
        resume_timeout: seconds of attempts after a loss.
        connect_timeout: seconds for each step of one attempt; after a loss no more than 10.
        on_link: told when the connection is up, and when it is lost and why.
        get_data_key: asks KMS for the data key of a session that is to be encrypted; what it raises of ours
            refuses the session. Left out, such sessions are refused.
        delays: seconds between attempts, the first and the longest.
    """

    # Somebody waits at the keyboard.
    _eager = True
    _again = UNANSWERED_DELAY

    def __init__(
        self,
        channel: DataChannel,
        grant: Callable[[bool], Awaitable[Grant]],
        *,
        on_event: Callable[[Event], None],
        on_writable: Callable[[], None] = lambda: None,
        keepalive_interval: float = KEEPALIVE_INTERVAL,
        open_timeout: float = OPEN_TIMEOUT,
        resume_timeout: float = RESUME_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        ssl_context: Optional[ssl.SSLContext] = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        on_link: Optional[Callable[[Link, str], None]] = None,
        get_data_key: Optional[Callable[[DataKeyNeeded], Awaitable[DataKey]]] = None,
        delays: Tuple[float, float] = DELAYS,
    ) -> None:
        super().__init__(
            channel,
            grant,
            keepalive_interval=keepalive_interval,
            open_timeout=open_timeout,
            resume_timeout=resume_timeout,
            connect_timeout=connect_timeout,
            ssl_context=ssl_context,
            max_message_bytes=max_message_bytes,
            on_link=on_link,
            delays=delays,
        )
        self.what = f"data channel of {channel.session_id}"
        self.channel = channel
        self._on_event = on_event
        self._on_writable = on_writable
        self._get_data_key = get_data_key
        self._keying: Optional[asyncio.Task[None]] = None
        self._events: Deque[Event] = deque()
        self._dispatching = False
        self._delivery_paused = False
        self._reading_paused = False
        self._blocked = True
        # One wake-up per acknowledge would make the owner read in tiny pieces.
        self._wakes_at_bytes = min(WRITE_BUFFER_BYTES, int(channel.window_bytes * WIDENING))
        self._drain_waiters: List[asyncio.Future[None]] = []

    @property
    def writable(self) -> bool:
        """``send_data`` may be called. Else ``on_writable`` will say when."""
        return not self._blocked

    def send_data(self, data: bytes, payload_type: int = int(PayloadType.OUTPUT)) -> None:
        """Send bytes. All are taken; when ``writable`` is false then, stop until ``on_writable``."""
        now = self._now()
        self.channel.send_data(data, now, payload_type)
        if not self.channel.writable:
            self._blocked = True
        self._settle(now)

    def send_nothing(self) -> None:
        """Send a payload of OUTPUT without bytes: the agent's word that a session has begun."""
        now = self._now()
        self.channel.send_nothing(now)
        self._settle(now)

    def send_flag(self, flag: int) -> None:
        """Send a Flag, in order with the data."""
        now = self._now()
        self.channel.send_flag(flag, now)
        self._settle(now)

    def send_size(self, cols: int, rows: int) -> None:
        """Send the size of the terminal, in order with the data."""
        now = self._now()
        self.channel.send_size(cols, rows, now)
        self._settle(now)

    def pause_delivery(self) -> None:
        """The sink is full: no StreamData from now on, and the peer is held. Loses nothing."""
        self._delivery_paused = True
        self.channel.pause_delivery()

    def resume_delivery(self) -> None:
        """The sink has room again. Events may come before this returns."""
        if not self._delivery_paused:
            return
        now = self._now()
        self._delivery_paused = False
        self._guard(self._dispatch, [])
        if not self._delivery_paused:
            self._guard(self._dispatch, self.channel.resume_delivery(now))
        self._settle(now)

    async def drain(self, timeout: Optional[float] = None) -> bool:
        """
        Wait until all that was sent is acknowledged.

        False when it is not, after ``timeout`` seconds or at the end.
        """
        if not self.channel.drained and not self._is_over():
            waiter = asyncio.get_running_loop().create_future()
            self._drain_waiters.append(waiter)
            try:
                await first_of(waiter, timeout=timeout)
            finally:
                self._drain_waiters.remove(waiter)
        return self.channel.drained

    # -- within --

    def _now(self) -> float:
        assert self._loop is not None, "the runner is not running"
        return self._loop.time()

    def _receive(self, messages: List[bytes], now: float) -> None:
        self._dispatch(self.channel.receive_messages(messages, now))

    def _tick(self, now: float) -> None:
        self._dispatch(self.channel.handle_timer(now))

    def _take(self, now: float, max_bytes: int) -> List[bytes]:
        return self.channel.messages_to_send(now, max_bytes)

    def _closing(self, now: float) -> None:
        self.channel.close(now)

    def _needs_connection(self) -> bool:
        # The end was announced; what is left is held here, for our own sink.
        return self.channel.state is not State.CLOSING

    def _dispatch(self, events: List[Event]) -> None:
        """Hand out events in order, also when the owner calls us from inside one."""
        queue = self._events
        queue.extend(events)
        if self._dispatching:
            return
        self._dispatching = True
        try:
            while queue and not self._is_over():
                if (
                    self._delivery_paused
                    and isinstance(queue[0], (StreamData, ChannelClosed))
                    and not self._jump_queue()
                ):
                    return
                event = queue.popleft()
                if isinstance(event, DataKeyNeeded):
                    self._keying = asyncio.ensure_future(self._find_data_key(event))
                    continue
                self._on_event(event)
                if isinstance(event, ChannelClosed):
                    self._end(None)
                elif isinstance(event, Failed):
                    self._end(event.error)
        finally:
            self._dispatching = False

    async def _find_data_key(self, needed: DataKeyNeeded) -> None:
        """Get the data key of the session, or the reason why there is none, and go on with it."""
        loop = asyncio.get_running_loop()
        channel = self.channel
        try:
            if self._get_data_key is None:
                raise LocalSetup("this end of the session cannot ask KMS for its data key")
            aead = await loop.run_in_executor(None, aes_gcm.load)
            key = await self._get_data_key(needed)
        except SSHHelperError as error:
            logger.info("! no data key for %s: %s", self.what, error)
            self._guard(self._dispatch, channel.refuse_data_key(error, loop.time()))
        except Exception as error:
            if self._ended is not None and not self._ended.done():
                self._ended.set_exception(error)
        else:
            self._guard(self._dispatch, channel.provide_data_key(key, aead, loop.time()))
        self._settle(loop.time())

    def _jump_queue(self) -> bool:
        """An agent's session that is cancelled does not wait for a sink that may never move."""
        last = self._events[-1]
        if self.channel.side is Side.AGENT and isinstance(last, (ChannelClosed, Failed)):
            self._events.clear()
            self._events.append(last)
            return True
        return False

    def _settled(self, now: float) -> None:
        channel = self.channel
        if self._blocked and channel.send_capacity_bytes >= self._wakes_at_bytes:
            self._blocked = False
            self._guard(self._on_writable)
        if self._drain_waiters and channel.drained:
            self._release_waiters()
        overloaded = channel.overloaded
        if overloaded is not self._reading_paused and self._protocol is not None:
            self._reading_paused = overloaded
            if overloaded:
                self._protocol.pause_reading()
            else:
                self._protocol.resume_reading()

    def _release_waiters(self) -> None:
        for waiter in self._drain_waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _attach(self, protocol: WebSocketProtocol, token: str, resume: bool) -> None:
        self._reading_paused = False
        super()._attach(protocol, token, resume)

    async def _shut(self) -> None:
        self._release_waiters()
        if self._keying is not None:
            self._keying.cancel()
            await asyncio.wait([self._keying])
        await super()._shut()
