"""
The asyncio shell around the protocol machines: time, keepalive, reconnects, backpressure.

``DataChannelRunner`` and ``ControlChannelRunner`` keep one machine connected from its beginning to its
end, through as many WebSockets as that takes. Both run the same loop: feed what arrived, hand out events,
send what is pending, re-arm one timer.

Imports the standard library and the protocol only; Python 3.8.
"""

import asyncio
import enum
import logging
import random
import ssl
import time
from collections import deque
from dataclasses import dataclass, field
from typing import (
    Any,
    Awaitable,
    Callable,
    Deque,
    Generic,
    List,
    Mapping,
    Optional,
    Tuple,
    TypeVar,
)

from sagemaker_ssh_helper.connections import (
    CONNECT_TIMEOUT,
    WRITE_BUFFER_BYTES,
    Listener,
    WebSocketProtocol,
    connect_websocket,
    default_ssl_context,
)
from sagemaker_ssh_helper.errors import (
    ConnectionFailed,
    EndpointUnreachable,
    SSHHelperError,
    Throttled,
)
from sagemaker_ssh_helper.protocol.control_channel import ControlChannel, ControlEvent, JobOffered
from sagemaker_ssh_helper.protocol.data_channel import (
    ChannelClosed,
    DataChannel,
    Event,
    Failed,
    Side,
    State,
    StreamData,
)
from sagemaker_ssh_helper.protocol.message import PayloadType
from sagemaker_ssh_helper.protocol.payloads import AgentJobReply, AgentTaskComplete, JobAckStatus
from sagemaker_ssh_helper.protocol.websocket import DEFAULT_MAX_MESSAGE_BYTES

__all__ = [
    "ControlChannelRunner",
    "DataChannelRunner",
    "Grant",
    "Keepalive",
    "Life",
    "Link",
    "WebSocketProtocol",
    "connect_websocket",
    "default_ssl_context",
]

logger = logging.getLogger(__name__)

OPEN_TIMEOUT = 30.0  # seconds of attempts before the first connection
# Seconds of attempts after a loss: what a laptop needs to be carried to another network.
RESUME_TIMEOUT = 900.0
KEEPALIVE_INTERVAL = 15.0  # seconds of silence before a ping; twice that, and the peer is dead
DATA_DELAYS = (0.1, 5.0)  # seconds between attempts: the first wait, doubled up to the last
CONTROL_DELAYS = (0.5, 60.0)  # the same for agents, of which there may be thousands
BRIEF = 1.0  # seconds; a connection that lasts no longer counts as a failed attempt
PROVEN_AFTER = 5.0  # seconds, or one message: then the service really wanted us
FLUSH_BYTES = 512 << 10  # written before other work gets its turn
MAX_REFUSALS = 3  # answers like 403 to a resumed connection before they are believed
SLEPT = 10.0  # seconds the wall clock gains on ours when the machine was asleep
DOUBT_TIMEOUT = 5.0  # seconds for a sign of life after that


@dataclass(frozen=True)
class Grant:
    """How to open one WebSocket now."""

    url: str
    token: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Link(enum.Enum):
    """What ``on_link`` is told."""

    UP = "up"
    DOWN = "down"


# -- keepalive --------------------------------------------------------------------------------------


class Life(enum.Enum):
    """What to do about a connection now."""

    FINE = 0
    PING = 1
    DEAD = 2


class Keepalive:
    """
    When to ping a silent peer, and when to give it up. Only times; whatever the peer sends is a sign of life.

    A wall clock that runs ahead of the monotonic one means that the machine slept. Then the peer has to
    answer within seconds, or a laptop would sit for half a minute in front of a connection that died
    hours ago.

    Args:
        interval: seconds of silence before a ping. Twice that, and the peer is dead; four times when our
            own data is stuck, since then our ping is, too.
        now, wall: when the connection began, by the two clocks.
    """

    def __init__(self, interval: float, now: float, wall: float) -> None:
        self.interval = interval
        self._heard_at = self._pinged_at = self._now = now
        self._wall = wall
        self._doubted_at: Optional[float] = None

    def next_check(self, heard_at: float, stuck: bool) -> float:
        """When to call ``check`` at the latest."""
        check = max(heard_at, self._pinged_at) + self.interval
        check = min(check, self._dead_at(heard_at, stuck))
        if self._doubted_at is not None and heard_at <= self._doubted_at:
            check = min(check, self._doubted_at + DOUBT_TIMEOUT)
        return check

    def check(self, now: float, wall: float, heard_at: float, stuck: bool) -> Life:
        """
        What to do. PING counts as done.

        Args:
            heard_at: when the peer last sent anything.
            stuck: the socket takes nothing more from us.
        """
        slept = wall - self._wall - (now - self._now) > SLEPT
        self._now, self._wall = now, wall
        if self._doubted_at is not None and heard_at > self._doubted_at:
            self._doubted_at = None
        if slept and self._doubted_at is None:
            self._doubted_at = self._pinged_at = now
            return Life.PING
        if now >= self._dead_at(heard_at, stuck):
            return Life.DEAD
        if self._doubted_at is not None and now >= self._doubted_at + DOUBT_TIMEOUT:
            return Life.DEAD
        if now >= max(heard_at, self._pinged_at) + self.interval:
            self._pinged_at = now
            return Life.PING
        return Life.FINE

    def _dead_at(self, heard_at: float, stuck: bool) -> float:
        return heard_at + self.interval * (4 if stuck else 2)


# -- keeping a machine connected --------------------------------------------------------------------

MachineT = TypeVar("MachineT", DataChannel, ControlChannel)


class _Runner(Listener, Generic[MachineT]):
    """
    What both runners do: connect, feed, send, one timer, keepalive, and again after a loss.

    ``run`` owns everything: when it has returned, or was cancelled, there is no socket, task or timer left.
    """

    what = "channel"

    def __init__(
        self,
        machine: MachineT,
        grant: Callable[[bool], Awaitable[Grant]],
        *,
        keepalive_interval: float,
        open_timeout: Optional[float],
        resume_timeout: Optional[float],
        connect_timeout: float,
        ssl_context: Optional[ssl.SSLContext],
        max_message_bytes: int,
        on_link: Optional[Callable[[Link, str], None]],
        delays: Tuple[float, float],
    ) -> None:
        self._machine: MachineT = machine
        self._grant = grant
        self._keepalive_interval = keepalive_interval
        self._open_timeout = open_timeout
        self._resume_timeout = resume_timeout
        self._connect_timeout = connect_timeout
        self._ssl_context = ssl_context
        self._max_message_bytes = max_message_bytes
        self._on_link = on_link
        self._delays = delays
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._protocol: Optional[WebSocketProtocol] = None
        self._ended: Optional[asyncio.Future[Optional[SSHHelperError]]] = None
        self._lost: Optional[asyncio.Future[str]] = None
        self._close_asked = False
        self._timer: Optional[asyncio.TimerHandle] = None
        self._timer_at = 0.0
        self._continue_handle: Optional[asyncio.Handle] = None
        self._connected_at = 0.0
        self._proven = False
        self._keepalive = Keepalive(keepalive_interval, 0.0, 0.0)
        self._resumes = 0

    @property
    def connected(self) -> bool:
        """Whether there is a WebSocket at the moment."""
        return self._protocol is not None

    @property
    def resumes(self) -> int:
        """How often the connection was replaced so far."""
        return self._resumes

    async def run(self) -> Optional[SSHHelperError]:
        """
        Connect, and stay connected until the end.

        Returns:
            None for an ordinary end, ``close()`` included; else why there is no connection, or no session.

        May be cancelled. An exception of a callback ends it, and comes out here.
        """
        loop = self._loop = asyncio.get_running_loop()
        ended = self._ended = loop.create_future()
        try:
            if self._close_asked:
                return None
            self._arm(loop.time())
            error = await self._stay_connected(ended)
            return ended.result() if ended.done() else error
        finally:
            await self._shut()

    def close(self) -> None:
        """End it from our side; ``run`` returns None soon."""
        if self._loop is not None and not self._is_over():
            self._closing(self._loop.time())
            self._flush(self._loop.time())
        self._close_asked = True
        self._end(None)

    # -- for subclasses --

    def _open_machine(self, token: str, now: float) -> None:
        self._machine.open(token, now)

    def _receive(self, messages: List[bytes], now: float) -> None:
        """Feed the machine and hand out its events."""
        raise NotImplementedError

    def _tick(self, now: float) -> None:
        """Let the machine do what is due, and hand out its events."""
        raise NotImplementedError

    def _take(self, now: float, max_bytes: int) -> List[bytes]:
        raise NotImplementedError

    def _closing(self, now: float) -> None:
        """Tell the machine that we end it."""

    def _needs_connection(self) -> bool:
        """Whether a lost connection has to be replaced."""
        return True

    def _settled(self, now: float) -> None:
        """Called when everything else of a step is done."""

    # -- connecting --

    async def _stay_connected(
        self, ended: "asyncio.Future[Optional[SSHHelperError]]"
    ) -> Optional[SSHHelperError]:
        """Until the end, or the error that leaves no hope of a connection."""
        loop = asyncio.get_running_loop()
        resume = False
        failures = 0
        since = loop.time()
        refusals = 0
        while True:
            task = loop.create_task(self._connect_once(resume))
            handed_over = False
            error: Exception
            try:
                await _first_of(ended, task)
                if ended.done():
                    return None
                protocol, token = task.result()
                handed_over = True
            except Exception as failure:
                if _is_refusal(failure):
                    refusals += 1
                if not _may_pass(failure, resume, refusals):
                    if isinstance(failure, SSHHelperError):
                        return failure
                    raise
                logger.info("! %s: not connected: %s", self.what, failure)
                failures += 1
                error = failure
            else:
                self._lost = loop.create_future()
                self._attach(protocol, token, resume)
                await _first_of(ended, self._lost)
                if not ended.done() and not self._needs_connection():
                    await _first_of(ended)
                if ended.done():
                    return None
                error = ConnectionFailed("the connection was lost", evidence=self._lost.result())
                resume = True
                refusals = 0
                now = loop.time()
                lasted = now - self._connected_at
                # A service that accepts connections only to drop them must not be asked fast, nor for ever.
                if self._proven or lasted >= PROVEN_AFTER:
                    since = now
                failures = failures + 1 if lasted < BRIEF else 0
            finally:
                if not handed_over:
                    await _discard(task)
            delay = self._delay(failures)
            timeout = self._resume_timeout if resume else self._open_timeout
            if timeout is not None and loop.time() + delay - since > timeout:
                return self._gave_up(resume, timeout, error)
            if delay:
                await _first_of(ended, timeout=delay)
            if ended.done():
                return None

    def _delay(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row; the second attempt comes at once."""
        if failures < 2:
            return 0.0
        first, longest = self._delays
        return min(longest, first * 2.0 ** min(failures - 2, 16)) * (0.75 + random.random() / 2)

    async def _connect_once(self, resume: bool) -> Tuple[WebSocketProtocol, str]:
        try:
            grant = await asyncio.wait_for(self._grant(resume), self._connect_timeout)
        except asyncio.TimeoutError as error:
            if isinstance(error, SSHHelperError):
                raise
            raise ConnectionFailed("no permission to connect was given in time") from None
        if self._ssl_context is None and grant.url.startswith("wss:"):
            # Reading the system's certificates takes longer than a connection.
            self._ssl_context = default_ssl_context()
        protocol = await connect_websocket(
            grant.url,
            headers=grant.headers,
            max_message_bytes=self._max_message_bytes,
            ssl_context=self._ssl_context,
            timeout=self._connect_timeout,
        )
        return protocol, grant.token

    def _gave_up(self, resume: bool, timeout: float, last: Exception) -> SSHHelperError:
        if resume:
            what = f"the connection was lost and could not be regained in {timeout:g} s"
        else:
            what = f"no connection in {timeout:g} s"
        error = ConnectionFailed(what, evidence=str(last))
        error.__cause__ = last
        return error

    def _attach(self, protocol: WebSocketProtocol, token: str, resume: bool) -> None:
        assert self._loop is not None, "attached before run()"
        now = self._loop.time()
        self._protocol = protocol
        self._connected_at = now
        self._proven = False
        self._keepalive = Keepalive(self._keepalive_interval, now, time.time())
        self._resumes += resume
        logger.info("= %s is connected%s", self.what, " again" if resume else "")
        protocol.start(self)
        protocol.send_ping()
        self._open_machine(token, now)
        if self._on_link is not None:
            self._guard(self._on_link, Link.UP, "")
        self._settle(now)

    # -- Listener --

    def messages_received(self, messages: List[bytes]) -> None:
        assert self._loop is not None, "messages before run()"
        now = self._loop.time()
        self._proven = True
        self._guard(self._receive, messages, now)
        self._settle(now)

    def writing_resumed(self) -> None:
        assert self._loop is not None, "a connection before run()"
        self._settle(self._loop.time())

    def connection_lost(self, reason: str) -> None:
        assert self._loop is not None, "a connection before run()"
        if self._protocol is None:
            return
        now = self._loop.time()
        logger.info("! %s lost its connection: %s", self.what, reason)
        self._protocol = None
        self._machine.connection_lost(now)
        if self._on_link is not None and not self._is_over():
            self._guard(self._on_link, Link.DOWN, reason)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(reason)

    # -- the loop of every machine --

    def _settle(self, now: float) -> None:
        """Send what is pending, let the caller know of room, re-arm the timer."""
        self._flush(now)
        if not self._is_over():
            self._settled(now)
            self._arm(now)

    def _flush(self, now: float) -> None:
        protocol = self._protocol
        if protocol is None:
            return
        text = self._machine.text_to_send()
        if text is not None:
            protocol.send_text(text)
        budget = FLUSH_BYTES
        while protocol.can_write:
            messages = self._take(now, WRITE_BUFFER_BYTES)
            if not messages:
                return
            protocol.send_messages(messages)
            budget -= WRITE_BUFFER_BYTES
            if budget <= 0:
                self._continue_soon()
                return

    def _continue_soon(self) -> None:
        """Go on when others had their turn."""
        if self._continue_handle is None and self._loop is not None:
            self._continue_handle = self._loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._continue_handle = None
        if self._loop is not None and not self._is_over():
            self._settle(self._loop.time())

    def _arm(self, now: float) -> None:
        assert self._loop is not None, "a timer before run()"
        deadline = self._machine.next_deadline()
        if self._protocol is not None:
            check = self._keepalive.next_check(self._protocol.last_received_at, not self._protocol.can_write)
            if deadline is None or check < deadline:
                deadline = check
        if deadline is None:
            return
        if self._timer is not None:
            # One that fires too early finds nothing to do and is set anew; that is cheaper than moving it
            # with every message.
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        assert self._loop is not None, "a timer before run()"
        self._timer = None
        if self._is_over():
            return
        # A timer may fire a hair early; it counts all the same.
        now = max(self._loop.time(), self._timer_at)
        self._check_life(now)
        self._guard(self._tick, now)
        self._settle(now)

    def _check_life(self, now: float) -> None:
        protocol = self._protocol
        if protocol is None:
            return
        heard_at = protocol.last_received_at
        life = self._keepalive.check(now, time.time(), heard_at, not protocol.can_write)
        if life is Life.PING:
            protocol.send_ping()
        elif life is Life.DEAD:
            reason = f"no sign of life for {now - heard_at:.0f} s"
            # The socket would tell us so later, or never.
            protocol.detach()
            protocol.abort(reason)
            self.connection_lost(reason)

    # -- the end --

    def _is_over(self) -> bool:
        return self._close_asked or (self._ended is not None and self._ended.done())

    def _end(self, error: Optional[SSHHelperError]) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(error)

    def _guard(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call into our owner; what it raises ends the run, not the socket's callbacks."""
        try:
            call(*arguments)
        except Exception as error:
            if self._ended is None or self._ended.done():
                raise
            self._ended.set_exception(error)

    async def _shut(self) -> None:
        for handle in (self._timer, self._continue_handle):
            if handle is not None:
                handle.cancel()
        self._timer = self._continue_handle = None
        self._close_asked = True
        if self._ended is not None and self._ended.done():
            self._ended.exception()  # seen, whoever else looks at it
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.detach()
            protocol.close("we are done")
            await protocol.wait_closed()


def _is_refusal(error: Exception) -> bool:
    """An answer that will not change by asking again."""
    status = error.status if isinstance(error, ConnectionFailed) else None
    return status is not None and 400 <= status < 500 and status not in (408, 429)


def _may_pass(error: Exception, resume: bool, refusals: int) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(error, ConnectionFailed):
        if _is_refusal(error):
            return resume and refusals < MAX_REFUSALS
        # At the start it is a fact about the set-up; later perhaps a hotel's network that wants a click.
        return resume or not isinstance(error.__cause__, ssl.SSLCertVerificationError)
    if isinstance(error, SSHHelperError):
        return isinstance(error, (EndpointUnreachable, Throttled))
    return isinstance(error, (OSError, asyncio.TimeoutError))


async def _first_of(*futures: "asyncio.Future[Any]", timeout: Optional[float] = None) -> None:
    """Wait until one of them is done, in whatever way, or the time is over."""
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


async def _discard(task: "asyncio.Task[Tuple[WebSocketProtocol, str]]") -> None:
    """End an attempt that is not needed any more, and what came of it."""
    task.cancel()
    await _first_of(task)
    if not task.cancelled() and task.exception() is None:
        protocol, _ = task.result()
        protocol.abort("not needed any more")
        await protocol.wait_closed()


class DataChannelRunner(_Runner[DataChannel]):
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
        connect_timeout: seconds for one attempt.
        on_link: told when the connection is up, and when it is lost and why.
        delays: seconds between attempts, the first and the longest.
    """

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
        delays: Tuple[float, float] = DATA_DELAYS,
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
        self._events: Deque[Event] = deque()
        self._dispatching = False
        self._delivery_paused = False
        self._reading_paused = False
        self._blocked = True
        # One wake-up per acknowledge would make the owner read in tiny pieces.
        self._wakes_at_bytes = min(WRITE_BUFFER_BYTES, channel.window_bytes // 2)
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

    async def drain(self, timeout: float) -> bool:
        """Wait until all that was sent is acknowledged. False when it is not, after that many seconds."""
        if not self.channel.drained and not self._is_over():
            waiter = asyncio.get_running_loop().create_future()
            self._drain_waiters.append(waiter)
            try:
                await _first_of(waiter, timeout=timeout)
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
                self._on_event(event)
                if isinstance(event, ChannelClosed):
                    self._end(None)
                elif isinstance(event, Failed):
                    self._end(event.error)
        finally:
            self._dispatching = False

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
        await super()._shut()


class ControlChannelRunner(_Runner[ControlChannel]):
    """
    An agent's control channel, for as long as the agent lives: it never gives up by itself.

    Args:
        channel: a fresh machine.
        grant: as for DataChannelRunner.
        on_event: told everything the service offers.
        on_link: told when the connection is up, and when it is lost and why.
    """

    what = "control channel"

    def __init__(
        self,
        channel: ControlChannel,
        grant: Callable[[bool], Awaitable[Grant]],
        *,
        on_event: Callable[[ControlEvent], None],
        keepalive_interval: float = KEEPALIVE_INTERVAL,
        connect_timeout: float = CONNECT_TIMEOUT,
        ssl_context: Optional[ssl.SSLContext] = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        on_link: Optional[Callable[[Link, str], None]] = None,
        delays: Tuple[float, float] = CONTROL_DELAYS,
    ) -> None:
        super().__init__(
            channel,
            grant,
            keepalive_interval=keepalive_interval,
            open_timeout=None,
            resume_timeout=None,
            connect_timeout=connect_timeout,
            ssl_context=ssl_context,
            max_message_bytes=max_message_bytes,
            on_link=on_link,
            delays=delays,
        )
        self.channel = channel
        self._on_event = on_event

    def task_complete(self, result: AgentTaskComplete) -> str:
        """Tell how a session ended. Returns the message id that TaskAcknowledged will name."""
        now = self._now()
        message_id = self.channel.task_complete(result, now)
        self._settle(now)
        return message_id

    def job_ack(self, offered: JobOffered, status: Tuple[str, str] = JobAckStatus.SUCCESSFUL) -> None:
        """Answer a command."""
        self.channel.job_ack(offered, status)
        self._settle(self._now())

    def job_reply(self, reply: AgentJobReply) -> str:
        """Tell how a command is getting on. Returns the message id that JobReplyAcknowledged will name."""
        now = self._now()
        message_id = self.channel.job_reply(reply, now)
        self._settle(now)
        return message_id

    # -- within --

    def _now(self) -> float:
        assert self._loop is not None, "the runner is not running"
        return self._loop.time()

    def _receive(self, messages: List[bytes], now: float) -> None:
        for message in messages:
            for event in self.channel.receive_message(message, now):
                self._on_event(event)

    def _tick(self, now: float) -> None:
        for event in self.channel.handle_timer(now):
            self._on_event(event)

    def _take(self, now: float, max_bytes: int) -> List[bytes]:
        return self.channel.messages_to_send()
