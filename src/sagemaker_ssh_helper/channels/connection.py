"""
One WebSocket over one connection: the upgrade, and an asyncio protocol around the framing.
"""

import asyncio
import logging
import os
import socket
import ssl
from typing import Any, Awaitable, Callable, Iterable, List, Mapping, Optional, Tuple, TypeVar, Union

from sagemaker_ssh_helper.aws_errors import hide_sent
from sagemaker_ssh_helper.channels.certificates import default_ssl_context
from sagemaker_ssh_helper.channels.dialing import dial
from sagemaker_ssh_helper.channels.proxy import Address, open_tunnel
from sagemaker_ssh_helper.errors import ConnectionFailed, SSHHelperError, reason_of
from sagemaker_ssh_helper.protocol.websocket import (
    DEFAULT_MAX_MESSAGE_BYTES,
    Close,
    Message,
    Opcode,
    Role,
    WebSocket,
    client_request,
    new_key,
    parse_response,
)
from sagemaker_ssh_helper.protocol.websocket import State as WebSocketState
from sagemaker_ssh_helper.proxy_variables import find_proxy

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 30.0  # seconds for TCP, TLS and the upgrade
SHUT_TIMEOUT = 1.0  # seconds for the last bytes to leave
WRITE_BUFFER_BYTES = 128 << 10  # what waits in front of a full socket before we are told to stop

_T = TypeVar("_T")

PING = b"keepalive"  # what official peers put into theirs


class Listener:
    """Who is told what a WebSocketProtocol sees."""

    def messages_received(self, messages: List[bytes]) -> None:
        """Whole messages, text ones too, that came together."""

    def writing_resumed(self) -> None:
        """``can_write`` is true again."""

    def connection_lost(self, reason: str) -> None:
        """The connection is gone, however that came about. The last call."""


class WebSocketProtocol(asyncio.Protocol):
    """
    One WebSocket over one connection, from ``connect_websocket``; silent until ``start``.

    A Close frame and a broken socket are the same to the listener: the connection is lost.
    """

    def __init__(self, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        self.can_write = True
        """The socket takes more; else wait for ``writing_resumed``."""
        self.last_received_at = 0.0
        """When the peer last gave a sign of life, by the loop's clock."""
        self._loop = asyncio.get_running_loop()
        self._websocket = WebSocket(Role.CLIENT, max_message_bytes=max_message_bytes, random_bytes=os.urandom)
        self._transport: Optional[asyncio.Transport] = None
        self._listener: Optional[Listener] = None
        self._key = ""
        self._upgraded: Optional[asyncio.Future[None]] = None
        self._unread = b""
        self._started = False
        self._reason = ""
        self._closed = self._loop.create_future()
        self._abort_timer: Optional[asyncio.TimerHandle] = None

    # -- opening --

    async def upgrade(self, host: str, path: str, headers: Iterable[Tuple[str, str]]) -> None:
        """Ask for the WebSocket. Raises ConnectionFailed, with ``status`` and ``body`` when refused."""
        assert self._transport is not None, "upgrade() without a connection"
        self._key = new_key(os.urandom(16))
        self._upgraded = self._loop.create_future()
        if self._closed.done():
            raise ConnectionFailed("the server closed the connection at once")
        self._transport.write(client_request(host, path, list(headers), self._key))
        await self._upgraded

    def start(self, listener: Listener) -> None:
        """Begin to read; the listener hears from it soon, not now."""
        self._listener = listener
        self.last_received_at = self._loop.time()
        self._loop.call_soon(self._start_reading)

    def _start_reading(self) -> None:
        self._started = True
        unread, self._unread = self._unread, b""
        if unread:
            self._feed(unread)
        if self._closed.done():
            self._tell_lost()
        elif self._transport is not None:
            self._transport.resume_reading()

    # -- asyncio's side --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a WebSocket needs a stream"
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        if self._started:
            self._feed(data)
            return
        self._unread += data
        self._parse_response(eof=False)

    def eof_received(self) -> Optional[bool]:
        self._parse_response(eof=True)
        self._reason = self._reason or "the peer closed the connection"
        return None

    def _parse_response(self, *, eof: bool) -> None:
        if self._upgraded is None or self._upgraded.done():
            return
        assert self._transport is not None, "data without a connection"
        try:
            size = parse_response(self._unread, self._key, eof=eof)
        except ConnectionFailed as error:
            self._upgraded.set_exception(error)
            return
        if size is not None:
            self._unread = self._unread[size:]
            self._upgraded.set_result(None)
            # The owner of the machine has to open it before anything is fed to it.
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self.can_write = False

    def resume_writing(self) -> None:
        self.can_write = True
        self._transmit()
        if self._listener is not None:
            self._listener.writing_resumed()

    def connection_lost(self, error: Optional[Exception]) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        if self._transport is not None:
            # To asyncio before 3.11, a TLS transport that the peer closed is one that nobody closed.
            self._transport.abort()
        if not self._reason:
            self._reason = reason_of(error) if error else "the peer closed the connection"
        self._websocket.receive_eof()
        if not self._closed.done():
            self._closed.set_result(None)
        if self._upgraded is not None and not self._upgraded.done():
            self._upgraded.set_exception(
                ConnectionFailed(
                    "the connection was lost before the WebSocket was open", evidence=self._reason
                )
            )
        elif self._started:
            self._tell_lost()

    def _tell_lost(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.connection_lost(self._reason)

    # -- both ways --

    def _feed(self, data: bytes) -> None:
        self.last_received_at = self._loop.time()
        failure: Optional[str] = None
        try:
            events = self._websocket.receive_data(data)
        except ConnectionFailed as error:
            events = list(error.events)  # type: ignore[arg-type]  # the tree of errors knows no protocol
            failure = str(error)
        messages = []
        for event in events:
            if type(event) is Message:
                messages.append(event.data)
            elif type(event) is Close:
                failure = f"the peer closed the WebSocket with code {event.code} {event.reason}".rstrip()
        if messages and self._listener is not None:
            self._listener.messages_received(messages)
        if self.can_write:
            # Else a pong can wait, and be one for many pings.
            self._transmit()
        if failure is not None:
            self.close(failure)

    def send_text(self, text: bytes) -> None:
        """One text message. Like all sending, ignored when the connection is going."""
        if self._is_open():
            self._websocket.send_message(Opcode.TEXT, text)
            self._transmit()

    def send_messages(self, messages: List[bytes]) -> None:
        """Binary messages, in one write."""
        if self._is_open():
            self._websocket.send_messages(messages)
            self._transmit()

    def send_ping(self) -> None:
        """A ping; its pong shows in ``last_received_at``."""
        if self._is_open():
            self._websocket.send_ping(PING)
            self._transmit()

    def pause_reading(self) -> None:
        """Leave what comes in the socket."""
        if self._transport is not None and self._started:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """The reverse."""
        if self._transport is not None and self._started:
            self._transport.resume_reading()

    def close(self, reason: str) -> None:
        """Close the connection, after what is written if that takes no longer than a second; no farewell."""
        transport = self._transport
        if transport is None or self._closed.done() or self._abort_timer is not None:
            return
        self._reason = self._reason or reason
        self._abort_timer = self._loop.call_later(SHUT_TIMEOUT, transport.abort)
        # TLS would wait for the peer's own farewell.
        if transport.get_write_buffer_size():
            transport.close()
        else:
            transport.abort()

    def abort(self, reason: str) -> None:
        """Close the connection now."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Until the connection is gone; ``close`` or ``abort`` before."""
        await asyncio.wait({self._closed}, timeout=2 * SHUT_TIMEOUT)

    def detach(self) -> None:
        """Tell the listener nothing more."""
        self._listener = None

    def _is_open(self) -> bool:
        return self._websocket.state is WebSocketState.OPEN and not self._closed.done()

    def _transmit(self) -> None:
        data = self._websocket.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


async def connect_websocket(
    url: str,
    *,
    headers: Union[Mapping[str, str], Iterable[Tuple[str, str]]] = (),
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ssl_context: Optional[ssl.SSLContext] = None,
    timeout: float = CONNECT_TIMEOUT,
    again: Optional[float] = None,
    sock: Optional[socket.socket] = None,
    factory: Callable[[int], WebSocketProtocol] = WebSocketProtocol,
) -> WebSocketProtocol:
    """
    An open WebSocket, through the environment's proxy if it has one. Call ``start`` on it, or ``abort``.

    Args:
        url: ``ws:`` or ``wss:``.
        headers: to send with the upgrade, as they are.
        ssl_context: for ``wss:``; ``default_ssl_context()`` when left out.
        timeout: seconds for all of it.
        again: as for ``dial``.
        sock: from ``reach`` with the same URL, to be used; it is ours from now on.

    Raises:
        ConnectionFailed: not reached, not in time, or refused; then with ``status`` and ``body``.
        LocalSetup: the environment names a proxy or certificates that cannot be used.
    """
    address = Address.parse(url)
    items = headers.items() if isinstance(headers, Mapping) else headers
    if address.tls and ssl_context is None:
        ssl_context = default_ssl_context()

    async def connect() -> WebSocketProtocol:
        reached = sock or await _dial(address, again)
        context = ssl_context if address.tls else None
        return await _open(reached, address, list(items), context, lambda: factory(max_message_bytes))

    return await _in_time(connect(), address, timeout)


async def reach(
    url: str, *, timeout: float = CONNECT_TIMEOUT, again: Optional[float] = None
) -> socket.socket:
    """A socket to where ``connect_websocket`` would connect. Raises as that does; the caller closes it."""
    address = Address.parse(url)
    return await _in_time(_dial(address, again), address, timeout)


async def _in_time(opening: Awaitable[_T], address: Address, timeout: float) -> _T:
    """What comes of it; everything that goes wrong with a network is one of our errors."""
    try:
        return await asyncio.wait_for(opening, timeout)
    except asyncio.TimeoutError:
        raise ConnectionFailed(f"{address} did not answer in {timeout:g} s") from None
    except ssl.SSLCertVerificationError as error:
        raise ConnectionFailed(
            f"the certificate of {address} is not trusted",
            evidence=error.verify_message,
            fix="If your network inspects TLS, set AWS_CA_BUNDLE to its certificates",
        ) from error
    except SSHHelperError:
        raise
    except OSError as error:
        raise ConnectionFailed(f"cannot reach {address}", evidence=reason_of(error)) from error


async def _dial(address: Address, again: Optional[float]) -> socket.socket:
    proxy = find_proxy(address.tls, address.host, address.port, os.environ)
    if proxy is None:
        return await dial(address.host, address.port, again)
    logger.debug("= connecting to %s through %s", address, proxy)
    return await open_tunnel(proxy, address, again)


async def _open(
    sock: socket.socket,
    address: Address,
    headers: List[Tuple[str, str]],
    ssl_context: Optional[ssl.SSLContext],
    factory: Callable[[], WebSocketProtocol],
) -> WebSocketProtocol:
    options: Any = {}
    if ssl_context is not None:
        options = {"ssl": ssl_context, "server_hostname": address.host}
    try:
        _, protocol = await asyncio.get_running_loop().create_connection(factory, sock=sock, **options)
    except BaseException:
        sock.close()
        raise
    try:
        await protocol.upgrade(address.host_header, address.path, headers)
    except BaseException as error:
        protocol.abort("the WebSocket was not opened")
        await protocol.wait_closed()
        if isinstance(error, ConnectionFailed) and error.body:
            body = hide_sent(error.body.encode("utf-8"), dict(headers)).decode("utf-8")
            error.body, error.evidence = body, " ".join(body.split())[:200] or None
        raise
    return protocol
