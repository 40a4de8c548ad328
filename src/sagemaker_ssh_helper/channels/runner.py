"""
Keeping a machine connected: what the runners of data channels and control channels share.
"""

import asyncio
import enum
import logging
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, Awaitable, Callable, Generic, List, Mapping, Optional, Tuple, TypeVar

from sagemaker_ssh_helper.channels.attempts import Attempts
from sagemaker_ssh_helper.channels.certificates import default_ssl_context
from sagemaker_ssh_helper.channels.connection import (
    WRITE_BUFFER_BYTES,
    Listener,
    WebSocketProtocol,
    connect_websocket,
    reach,
)
from sagemaker_ssh_helper.channels.keepalive import Keepalive, Life
from sagemaker_ssh_helper.errors import ConnectionFailed, SSHHelperError
from sagemaker_ssh_helper.protocol.control_channel import ControlChannel
from sagemaker_ssh_helper.protocol.data_channel import DataChannel

logger = logging.getLogger(__name__)

KEEPALIVE_INTERVAL = 15.0  # seconds of silence before a ping; twice that, and the peer is dead
RESUME_CONNECT_TIMEOUT = 10.0  # seconds for each step of a connection that replaces one
FLUSH_BYTES = 512 << 10  # written before other work gets its turn


Refused = Callable[[ConnectionFailed], Awaitable["Optional[Grant]"]]
"""Told that an upgrade was refused, gives another way to ask for it at once; None when there is none."""


@dataclass(frozen=True)
class Grant:
    """How to open one WebSocket now; and what else to try, in the same attempt, when that is refused."""

    url: str
    token: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    refused: "Optional[Refused]" = field(default=None, repr=False)


class Link(enum.Enum):
    """What ``on_link`` is told."""

    UP = "up"
    DOWN = "down"


MachineT = TypeVar("MachineT", DataChannel, ControlChannel)


class Runner(Listener, Generic[MachineT]):
    """
    What both runners do: connect, feed, send, one timer, keepalive, and again after a loss.

    ``run`` owns everything: when it has returned, or was cancelled, there is no socket, task or timer left.
    """

    what = "channel"
    _eager = False
    _again: Optional[float] = None
    """Seconds after which a silent network is asked anew, beside the attempt under way."""

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
        self._pause: Optional[asyncio.Future[None]] = None
        self._close_asked = False
        self._timer: Optional[asyncio.TimerHandle] = None
        self._timer_at = 0.0
        self._continue_handle: Optional[asyncio.Handle] = None
        self._proven = False
        self._keepalive = Keepalive(keepalive_interval, 0.0, 0.0)
        self._resumes = 0
        self._url = ""

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
        ended: asyncio.Future[Optional[SSHHelperError]] = loop.create_future()
        self._ended = ended
        try:
            if self._close_asked:
                return None
            self._arm(loop.time())
            await self._stay_connected(ended)
        except SSHHelperError as error:
            return error
        finally:
            await self._shut()
        return ended.result()

    def hurry(self) -> None:
        """Make the next attempt now, if one is waited for: something else has just found the network."""
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)

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

    async def _stay_connected(self, ended: "asyncio.Future[Optional[SSHHelperError]]") -> None:
        """Until the end. Raises what leaves no hope of a connection."""
        loop = asyncio.get_running_loop()
        attempts = Attempts(
            self._open_timeout, self._resume_timeout, self._delays, loop.time(), eager=self._eager
        )
        while not ended.done():
            began_at = loop.time()
            try:
                opened = await self._attempt(ended, attempts.resume)
            except Exception as error:
                attempts.failed(error, loop.time(), loop.time() - began_at)
                logger.info("! %s: not connected: %s", self.what, error)
            else:
                if opened is None:
                    return
                lost = self._lost = loop.create_future()
                self._attach(*opened, attempts.resume)
                attempts.connected(loop.time())
                await first_of(ended, lost)
                if not self._needs_connection():
                    await first_of(ended)
                if ended.done():
                    return
                attempts.lost(lost.result(), self._proven, loop.time())
            delay = attempts.next_delay(loop.time())
            if attempts.verdict is not None:
                raise attempts.verdict
            self._pause = loop.create_future()
            await first_of(ended, self._pause, timeout=delay)
            self._pause = None

    async def _attempt(
        self, ended: "asyncio.Future[Optional[SSHHelperError]]", resume: bool
    ) -> Optional[Tuple[WebSocketProtocol, str]]:
        """A fresh connection and its token; None when the end comes first."""
        task = asyncio.get_running_loop().create_task(self._connect_once(resume))
        opened = None
        try:
            await first_of(ended, task)
            if not ended.done():
                opened = task.result()
            return opened
        finally:
            if opened is None:
                await _discard(task)

    async def _connect_once(self, resume: bool) -> Tuple[WebSocketProtocol, str]:
        timeout = self._connect_timeout
        sock: Optional[socket.socket] = None
        if resume:
            # Whatever gives the permission may not know how to ask in a network that is away. So first see
            # that there is one.
            timeout = min(timeout, RESUME_CONNECT_TIMEOUT)
            sock = await reach(self._url, timeout=timeout, again=self._again)
        try:
            grant = await self._get_grant(resume, timeout)
            if sock is not None and grant.url != self._url:
                sock.close()
                sock = None
            if self._ssl_context is None and grant.url.startswith("wss:"):
                # Reading the system's certificates takes longer than a connection.
                self._ssl_context = default_ssl_context()
            while True:
                try:
                    protocol = await connect_websocket(
                        grant.url,
                        headers=grant.headers,
                        max_message_bytes=self._max_message_bytes,
                        ssl_context=self._ssl_context,
                        timeout=timeout,
                        again=self._again,
                        sock=sock,
                    )
                    break
                except ConnectionFailed as error:
                    sock = None
                    other = await grant.refused(error) if error.status and grant.refused else None
                    if other is None:
                        raise
                    grant = other
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        self._url = grant.url
        return protocol, grant.token

    async def _get_grant(self, resume: bool, timeout: float) -> Grant:
        try:
            return await asyncio.wait_for(self._grant(resume), timeout)
        except asyncio.TimeoutError as error:
            if isinstance(error, SSHHelperError):
                raise
            raise ConnectionFailed("no permission to connect was given in time") from None

    def _attach(self, protocol: WebSocketProtocol, token: str, resume: bool) -> None:
        assert self._loop is not None, "attached before run()"
        now = self._loop.time()
        self._protocol = protocol
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
            check = self._keepalive.next_check(self._protocol.last_received_at)
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
        life = self._keepalive.check(now, time.time(), heard_at)
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


async def first_of(*futures: "asyncio.Future[Any]", timeout: Optional[float] = None) -> None:
    """Wait until one of them is done, in whatever way, or the time is over."""
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


async def _discard(task: "asyncio.Task[Tuple[WebSocketProtocol, str]]") -> None:
    """End an attempt that is not needed any more, and what came of it."""
    task.cancel()
    await first_of(task)
    if not task.cancelled() and task.exception() is None:
        protocol, _ = task.result()
        protocol.abort("not needed any more")
        await protocol.wait_closed()
