"""
HTTP/1.1 on asyncio, by h11: requests whose bodies wait until they are asked for, answers, and the way out to
WebSockets. Knows nothing of AWS.

Everything a peer can hold is bounded: the head in size and time, the body in size and in the time without
progress, idle connections in time, and connections in number.
"""

import asyncio
import hashlib
import io
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import IO, Any, Protocol
from urllib.parse import unquote

import h11

logger = logging.getLogger(__name__)

# Numbers we chose.
HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT = 15.0
"""Seconds from the first byte of a request to the end of its head."""
IDLE_TIMEOUT = 75.0
"""Seconds a connection may stay without a request."""
STALL_TIMEOUT = 30.0
"""Seconds without any progress, either way, in the middle of a body."""
MINIMUM_RATE = 8 * 1024
"""Bytes a second that a body must keep up on average, after STALL_TIMEOUT."""
LINGER_BYTES = 8 * 1024 * 1024
"""How much of a body nobody asked for is read and dropped, so that its sender gets to read our answer."""
MAX_CONNECTIONS = 1024
BODY_MEMORY_BYTES = 2 * 1024 * 1024
"""A body beyond this is kept in a file."""

_RECEIVE_BYTES = 256 * 1024
_WRITE_BYTES = 256 * 1024


class HttpError(Exception):
    """An answer that is no AWS error: the request is malformed, unsafe or too much."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Disconnect(Exception):
    """Raised by a handler to close the connection without an answer."""


class Content(Protocol):
    """A body that is not in memory."""

    size: int

    def chunks(self, size: int) -> Iterator[bytes]: ...

    def close(self) -> None: ...


@dataclass
class Response:
    """An answer. ``content-length``, ``date`` and ``connection`` are added when it is written."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: "bytes | Content" = b""
    close: bool = False


@dataclass
class Upgrade:
    """The answer to a WebSocket upgrade: these bytes, then the connection belongs to the protocol."""

    answer: bytes
    protocol: asyncio.Protocol


class Decoder(Protocol):
    """Turns what is sent as a body into what is meant: ``aws-chunked``. Raises ApiError for a bad one."""

    def feed(self, data: bytes) -> Iterable[bytes]: ...

    def end(self) -> None: ...


class Body:
    """A body that was read whole: in memory when small, else in a temporary file without a name."""

    def __init__(self, folder: str | None, hashes: Iterable[str] = ()) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(BODY_MEMORY_BYTES, dir=folder)  # noqa: SIM115
        self._sha256 = hashlib.sha256()
        self._hashes = {name: hashlib.new(name, usedforsecurity=False) for name in hashes}
        self.size = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        for digest in self._hashes.values():
            digest.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def digest(self, name: str) -> bytes:
        """One of the further hashes that were asked for."""
        return self._hashes[name].digest()

    def file(self) -> IO[bytes]:
        """The body as a file at its start."""
        self._file.seek(0)
        return self._file

    def read(self) -> bytes:
        return self.file().read()

    def detach(self) -> IO[bytes]:
        """The file, which is the caller's to close from now on."""
        file, self._file = self.file(), io.BytesIO()
        return file

    def close(self) -> None:
        self._file.close()


class Request:
    """One request. ``path`` and ``query`` are as sent, still percent-encoded."""

    def __init__(self, connection: "HttpConnection", head: h11.Request) -> None:
        self._connection = connection
        self.method = head.method.decode("ascii")
        self.target = head.target.decode("latin-1")
        self.path, _, self.query = self.target.partition("?")
        self.raw_headers = [
            (name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers.raw_items()
        ]
        headers: dict[str, str] = {}
        for name, value in self.raw_headers:
            key = name.lower()
            headers[key] = f"{headers[key]},{value}" if key in headers else value
        self.headers: Mapping[str, str] = headers
        """Names in lower case; the values of a repeated header are joined by a comma."""
        self.scheme = connection.scheme
        self.peer = connection.peer
        self.body: Body | None = None

    @property
    def host(self) -> str:
        """The Host header: name, and port when it was given."""
        return self.headers.get("host", "")

    @property
    def has_body(self) -> bool:
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"

    @property
    def upgrades(self) -> bool:
        tokens = [token.strip().lower() for token in self.headers.get("connection", "").split(",")]
        return "upgrade" in tokens and "upgrade" in self.headers

    @property
    def decoded_path(self) -> str:
        return unquote(self.path)

    async def read_body(
        self, limit_bytes: int, *, decoder: Decoder | None = None, hashes: Iterable[str] = ()
    ) -> Body:
        """
        The whole body. To be called once, and only when the sender is known well enough.

        Args:
            limit_bytes: how large it may be, as sent.
            decoder: for a body in ``aws-chunked``.
            hashes: hashes to compute beside SHA-256, as hashlib names them.

        Raises HttpError 413 when it is larger, 408 when it stalls, 400 when it ends early.
        """
        length = self.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > limit_bytes:
            raise HttpError(413, f"The body is larger than {limit_bytes} bytes.")
        body = Body(self._connection.body_folder, hashes)
        received = 0
        try:
            async for data in self._connection.body():
                received += len(data)
                if received > limit_bytes:
                    raise HttpError(413, f"The body is larger than {limit_bytes} bytes.")
                if decoder is None:
                    body.write(data)
                else:
                    for piece in decoder.feed(data):
                        body.write(piece)
            if decoder is not None:
                decoder.end()
        except BaseException:
            body.close()
            raise
        self.body = body
        return body


Handler = Callable[[Request], Awaitable["Response | Upgrade"]]


class HttpConnection(asyncio.Protocol):
    """
    One connection: a task that reads a request, asks the handler, writes the answer, and so on.

    Args:
        handler: answers each request. It must not raise, except HttpError and Disconnect.
        scheme: ``http`` or ``https``.
        connections: the set of all connections; this one is in it while it lives as HTTP.
        body_folder: where large bodies are kept.
    """

    def __init__(
        self, handler: Handler, scheme: str, connections: "set[HttpConnection]", body_folder: str | None
    ) -> None:
        self._handler = handler
        self.scheme = scheme
        self._connections = connections
        self.body_folder = body_folder
        self.peer = ""
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._unread_bytes = 0
        self._paused = False
        self._write_paused = False
        self._lost = False

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a stream server makes stream transports"
        self._transport = transport
        self.peer = str((transport.get_extra_info("peername") or ("",))[0])
        if len(self._connections) >= MAX_CONNECTIONS:
            transport.write(_answer(503, "Too many connections.\n"))
            transport.close()
            return
        self._connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._run(transport))

    def data_received(self, data: bytes) -> None:
        self._h11.receive_data(data)
        self._unread_bytes += len(data)
        if self._unread_bytes > _RECEIVE_BYTES and not self._paused and self._transport:
            self._paused = True
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        self._h11.receive_data(b"")
        _wake(self._reader)
        # A plain peer that has only finished sending still gets its answer; TLS has no half-closed state.
        return self.scheme == "http"

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._connections.discard(self)
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        _wake(self._writer)

    # Called by the server.

    async def close(self) -> None:
        """End the connection now, with whatever it is doing."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._transport is not None:
            self._transport.abort()

    # The task.

    async def _run(self, transport: asyncio.Transport) -> None:
        try:
            while await self._one(transport):
                self._h11.start_next_cycle()
        except (Disconnect, ConnectionError):
            transport.abort()
        except h11.ProtocolError as error:
            logger.info("! %s: %s", self.peer, error)
            transport.abort()
        finally:
            if not isinstance(transport.get_protocol(), HttpConnection):
                self._connections.discard(self)
            elif not transport.is_closing():
                transport.close()

    async def _one(self, transport: asyncio.Transport) -> bool:
        """One request and its answer; whether the connection goes on."""
        try:
            head = await self._head()
            if head is None:
                return False
        except (HttpError, h11.RemoteProtocolError, TimeoutError) as error:
            await self._refuse(transport, error)
            return False
        request = Request(self, head)
        try:
            response = await self._handler(request)
        except HttpError as error:
            response = _plain(error)
        finally:
            if request.body is not None:
                request.body.close()
        if isinstance(response, Upgrade):
            self._switch(transport, response)
            return False
        # After an answer that came before the body was read, the body is still on its way; except from a
        # sender that waited for our word and now keeps it.
        unread = self._h11.their_state is h11.SEND_BODY
        withheld = unread and self._h11.they_are_waiting_for_100_continue
        response.close = response.close or withheld
        await self._write(transport, request, response)
        if unread and not withheld:
            await self._linger()
        return (
            not self._lost
            and not response.close
            and self._h11.our_state is h11.DONE
            and self._h11.their_state is h11.DONE
        )

    async def _head(self) -> h11.Request | None:
        """The next request's head; None when the peer is done. Raises TimeoutError and
        RemoteProtocolError."""
        loop = asyncio.get_running_loop()
        started_at: float | None = None
        if self._h11.trailing_data[0]:
            started_at = loop.time()
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                if started_at is None and self._h11.trailing_data[0]:
                    started_at = loop.time()
                timeout = IDLE_TIMEOUT
                if started_at is not None:
                    timeout = started_at + HEAD_TIMEOUT - loop.time()
                try:
                    await self._receive(timeout)
                except TimeoutError:
                    if started_at is None:
                        return None
                    raise
                if self._lost:
                    return None
            elif isinstance(event, h11.Request):
                self._check_framing(event)
                return event
            else:
                return None

    @staticmethod
    def _check_framing(head: h11.Request) -> None:
        names = [name for name, _ in head.headers]
        if b"content-length" in names and b"transfer-encoding" in names:
            raise HttpError(400, "A request has a Content-Length or a Transfer-Encoding, not both.")
        if head.http_version < b"1.1":
            raise HttpError(505, "Only version 1.1 of HTTP is spoken here.")
        # h11 limits heads that are incomplete; one that arrived at once is counted here.
        if sum(len(name) + len(value) for name, value in head.headers) > HEAD_BYTES:
            raise HttpError(431, f"The headers are larger than {HEAD_BYTES} bytes.")

    async def body(self) -> AsyncIterator[bytes]:
        """The pieces of the current request's body."""
        if self._h11.they_are_waiting_for_100_continue and self._transport is not None:
            data = self._h11.send(h11.InformationalResponse(status_code=100, headers=[]))
            self._transport.write(data or b"")
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        received = 0
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                raise HttpError(400, f"The body is malformed: {error}") from None
            if event is h11.NEED_DATA:
                try:
                    await self._receive(STALL_TIMEOUT)
                except TimeoutError:
                    raise HttpError(408, "The body stalled.") from None
                elapsed = loop.time() - started_at
                if elapsed > STALL_TIMEOUT and received < (elapsed - STALL_TIMEOUT) * MINIMUM_RATE:
                    raise HttpError(408, "The body is too slow.")
                if self._lost:
                    raise Disconnect
            elif isinstance(event, h11.Data):
                received += len(event.data)
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            else:
                raise Disconnect

    async def _receive(self, timeout: float) -> None:
        """Wait until more has arrived or the connection is lost; TimeoutError otherwise."""
        self._unread_bytes = 0
        if self._paused and self._transport and not self._lost:
            self._paused = False
            self._transport.resume_reading()
        if not self._lost:
            self._reader = asyncio.get_running_loop().create_future()
            await _within(self._reader, timeout)

    async def _write(self, transport: asyncio.Transport, request: Request, response: Response) -> None:
        headers = list(response.headers)
        names = {name.lower() for name, _ in headers}
        size = len(response.body) if isinstance(response.body, bytes) else response.body.size
        # What HEAD says about the length is about the body that GET would bring.
        if "content-length" not in names and response.status not in (204, 304):
            headers.append(("Content-Length", str(size)))
        if "date" not in names:
            headers.append(("Date", formatdate(time.time(), usegmt=True)))
        if response.close:
            headers.append(("Connection", "close"))
        head = h11.Response(
            status_code=response.status,
            # Not decoration: botocore takes a status line without a reason for no answer at all.
            reason=_reason(response.status).encode(),
            headers=[(name.encode("ascii"), value.encode("utf-8")) for name, value in headers],
        )
        content = response.body if request.method != "HEAD" and response.status not in (204, 304) else b""
        try:
            if isinstance(content, bytes):
                data = self._h11.send(head) or b""
                if content:
                    data += self._h11.send(h11.Data(data=content)) or b""
                transport.write(data + (self._h11.send(h11.EndOfMessage()) or b""))
                await self._drain(transport)
                return
            transport.write(self._h11.send(head) or b"")
            for chunk in content.chunks(_WRITE_BYTES):
                transport.write(self._h11.send(h11.Data(data=chunk)) or b"")
                await self._drain(transport)
            transport.write(self._h11.send(h11.EndOfMessage()) or b"")
        finally:
            if not isinstance(response.body, bytes):
                response.body.close()

    async def _drain(self, transport: asyncio.Transport) -> None:
        if self._lost:
            raise Disconnect
        if self._write_paused:
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await _within(self._writer, STALL_TIMEOUT)
            except TimeoutError:
                raise Disconnect from None
        else:
            # A large answer must not keep the other connections waiting.
            await asyncio.sleep(0)

    async def _linger(self) -> None:
        dropped = 0
        try:
            async for data in self.body():
                dropped += len(data)
                if dropped > LINGER_BYTES:
                    raise Disconnect
        except HttpError:
            raise Disconnect from None

    async def _refuse(self, transport: asyncio.Transport, error: Exception) -> None:
        if isinstance(error, HttpError):
            response = _plain(error)
        elif isinstance(error, h11.RemoteProtocolError):
            response = _plain(HttpError(error.error_status_hint, str(error)))
        else:
            response = _plain(HttpError(408, "The request did not arrive in time."))
        assert isinstance(response.body, bytes), "a plain answer is in memory"
        transport.write(_answer(response.status, response.body.decode()))

    def _switch(self, transport: asyncio.Transport, upgrade: Upgrade) -> None:
        surplus, _ = self._h11.trailing_data
        self._connections.discard(self)
        if self._lost:
            return
        if self._paused:
            transport.resume_reading()
        transport.write(upgrade.answer)
        transport.set_protocol(upgrade.protocol)
        upgrade.protocol.connection_made(transport)
        if surplus:
            upgrade.protocol.data_received(bytes(surplus))


class FileContent:
    """A part of a file as a body; its own descriptor, so the file may be closed or replaced meanwhile."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor = os.dup(descriptor)
        self._start = start
        self.size = size

    def chunks(self, size: int) -> Iterator[bytes]:
        position, end = self._start, self._start + self.size
        while position < end:
            data = os.pread(self._descriptor, min(size, end - position), position)
            if not data:
                raise Disconnect
            position += len(data)
            yield data

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _plain(error: HttpError) -> Response:
    return Response(
        error.status,
        [("Content-Type", "text/plain")],
        f"{error.message}\n".encode(),
        close=error.status != 404,
    )


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _answer(status: int, text: str) -> bytes:
    """A whole answer, for connections on which h11 has nothing to answer."""
    head = f"HTTP/1.1 {status} {_reason(status)}\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    return f"{head}Content-Length: {len(text.encode())}\r\n\r\n{text}".encode()


def _wake(future: "asyncio.Future[None] | None") -> None:
    if future is not None and not future.done():
        future.set_result(None)


async def _within(future: "asyncio.Future[Any]", timeout: float) -> None:
    """Await a future of our own for so many seconds; TimeoutError when it is not done by then."""
    timer = asyncio.get_running_loop().call_later(max(timeout, 0), _expire, future)
    try:
        await future
    finally:
        timer.cancel()


def _expire(future: "asyncio.Future[Any]") -> None:
    if not future.done():
        future.set_exception(TimeoutError())
