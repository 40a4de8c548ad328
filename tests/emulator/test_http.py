"""The HTTP server by itself: what it takes, what it refuses, and that nobody can hold it up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sagemaker_ssh_helper.emulator import http
from sagemaker_ssh_helper.emulator.http import (
    Disconnect,
    HttpConnection,
    HttpError,
    Request,
    Response,
    Upgrade,
)

Handler = Callable[[Request], Awaitable["Response | Upgrade"]]


async def echo(request: Request) -> Response:
    """Answers with the body, however it came."""
    body = await request.read_body(1_000_000)
    return Response(200, [("X-Size", str(body.size)), ("X-Sha256", body.sha256)], body.read())


@asynccontextmanager
async def serving(handler: Handler, folder: Path) -> AsyncIterator[tuple[str, int]]:
    connections: set[HttpConnection] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: HttpConnection(handler, "http", connections, str(folder)), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        await asyncio.gather(*(connection.close() for connection in list(connections)))
        assert not connections


def exchange(handler: Handler, folder: Path, sent: bytes, *, eof: bool = True) -> bytes:
    """Everything that comes back for these bytes until the server closes."""

    async def main() -> bytes:
        async with serving(handler, folder) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            if eof:
                writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 20)
            writer.close()
            return answer

    return asyncio.run(main())


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_requests_follow_one_another_on_a_connection(tmp_path: Path) -> None:
    answer = exchange(echo, tmp_path, GET * 3)

    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 3


def test_a_chunked_body_is_put_together(tmp_path: Path) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"

    answer = exchange(echo, tmp_path, head + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")

    assert answer.endswith(b"\r\n\r\nabcde")


def test_a_large_body_goes_through_a_file(tmp_path: Path) -> None:
    seen = []

    async def handler(request: Request) -> Response:
        body = await request.read_body(10_000_000)
        seen.append((body.size, body.read() == b"x" * 5_000_000, body._file._rolled))  # type: ignore[attr-defined]
        return Response(204)

    head = b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n"
    answer = exchange(handler, tmp_path, head + b"x" * 5_000_000)

    assert answer.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert b"content-length" not in answer.lower()
    assert seen == [(5_000_000, True, True)]
    assert not list(tmp_path.iterdir())


def test_head_says_the_length_and_sends_no_body(tmp_path: Path) -> None:
    async def handler(request: Request) -> Response:
        return Response(200, [], b"12345")

    answer = exchange(handler, tmp_path, GET.replace(b"GET", b"HEAD"))

    assert b"Content-Length: 5\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_sender_that_asks_is_told_to_continue(tmp_path: Path) -> None:
    async def main() -> list[bytes]:
        async with serving(echo, tmp_path) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(
                b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
            )
            first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            writer.write(b"body")
            writer.write_eof()
            second = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            return [first, second]

    first, second = asyncio.run(main())

    assert first.startswith(b"HTTP/1.1 100 ")
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")
    assert second.endswith(b"\r\n\r\nbody")


def test_a_sender_that_asks_can_be_refused_before_it_sends(tmp_path: Path) -> None:
    async def handler(request: Request) -> Response:
        return Response(403, [], b"no")

    head = b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400000000\r\nExpect: 100-continue\r\n\r\n"
    answer = exchange(handler, tmp_path, head, eof=False)

    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"Connection: close\r\n" in answer


def test_a_refusal_reaches_a_sender_that_is_still_sending(tmp_path: Path) -> None:
    async def handler(request: Request) -> Response:
        return Response(403, [], b"no")

    head = b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n"
    answer = exchange(handler, tmp_path, head + b"x" * 3_000_000 + GET)

    assert answer.count(b"HTTP/1.1 403 Forbidden\r\n") == 2


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", 505),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * http.HEAD_BYTES + b"\r\n\r\n", 431),
    ],
    ids=[
        "nonsense",
        "no host",
        "two hosts",
        "1.0",
        "two lengths",
        "unequal lengths",
        "too large",
        "bad chunk",
        "unknown coding",
        "huge head",
    ],
)
def test_a_bad_request_is_refused(tmp_path: Path, sent: bytes, status: int) -> None:
    answer = exchange(echo, tmp_path, sent)

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_chunked_body_is_limited_too(tmp_path: Path) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"

    answer = exchange(echo, tmp_path, head + chunk * 5 + b"0\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("constant", "sent", "status"),
    [
        ("HEAD_TIMEOUT", b"GET / HTTP/1.1\r\nHost:", 408),
        ("STALL_TIMEOUT", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na", 408),
    ],
)
def test_a_request_that_stalls_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: str, sent: bytes, status: int
) -> None:
    monkeypatch.setattr(http, constant, 0.1)

    answer = exchange(echo, tmp_path, sent, eof=False)

    assert answer.startswith(b"HTTP/1.1 %d " % status)


def test_a_head_that_trickles_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.3)

    async def main() -> bytes:
        async with serving(echo, tmp_path) as address:
            reader, writer = await asyncio.open_connection(*address)
            # Not to the end: what is sent after the answer may reset the connection.
            answer = asyncio.ensure_future(reader.readline())
            while not answer.done():
                writer.write(b"x")
                await asyncio.wait([answer], timeout=0.02)
            writer.close()
            return answer.result()

    assert asyncio.run(asyncio.wait_for(main(), 20)).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_trickles_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "STALL_TIMEOUT", 0.2)

    async def main() -> bytes:
        async with serving(echo, tmp_path) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n")
            answer = asyncio.ensure_future(reader.readline())
            while not answer.done():
                writer.write(b"x")
                await asyncio.wait([answer], timeout=0.02)
            writer.close()
            return answer.result()

    assert asyncio.run(asyncio.wait_for(main(), 20)).startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IDLE_TIMEOUT", 0.1)

    answer = exchange(echo, tmp_path, GET, eof=False)

    assert answer.count(b"HTTP/1.1 200 OK") == 1


def test_connections_are_limited_in_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 1)

    async def main() -> bytes:
        async with serving(echo, tmp_path) as address:
            first = await asyncio.open_connection(*address)
            first[1].write(GET)
            await first[0].readuntil(b"\r\n\r\n")
            reader, writer = await asyncio.open_connection(*address)
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            first[1].close()
            return answer

    assert asyncio.run(main()).startswith(b"HTTP/1.1 503 ")


def test_an_answer_that_is_not_wanted_does_not_hold_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "STALL_TIMEOUT", 0.2)
    sent = 0

    class Endless:
        size = 1 << 40
        closed = asyncio.Event()

        def chunks(self, size: int) -> Any:
            nonlocal sent
            while True:
                sent += size
                yield bytes(size)

        def close(self) -> None:
            self.closed.set()

    content = Endless()

    async def handler(request: Request) -> Response:
        return Response(200, [], content)

    async def main() -> None:
        async with serving(handler, tmp_path) as address:
            _, writer = await asyncio.open_connection(*address)
            writer.write(GET)
            await asyncio.wait_for(content.closed.wait(), 20)
            writer.close()

    asyncio.run(main())

    assert sent < 64 * 1024 * 1024


def test_a_handler_may_close_without_an_answer(tmp_path: Path) -> None:
    async def handler(request: Request) -> Response:
        raise Disconnect

    try:
        answer = exchange(handler, tmp_path, GET)
    except ConnectionResetError:
        answer = b""

    assert answer == b""


def test_a_plain_refusal_has_a_text(tmp_path: Path) -> None:
    async def handler(request: Request) -> Response:
        raise HttpError(403, "Not from here.")

    answer = exchange(handler, tmp_path, GET)

    assert answer.endswith(b"\r\n\r\nNot from here.\n")


def test_an_upgrade_hands_over_the_connection_and_what_was_sent_ahead(tmp_path: Path) -> None:
    events: list[Any] = []
    lost = asyncio.Event()

    class Peer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            events.append("made")
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            events.append(data)
            assert isinstance(self.transport, asyncio.Transport)
            self.transport.write(b"<" + data + b">")

        def connection_lost(self, exc: "Exception | None") -> None:
            lost.set()

    async def handler(request: Request) -> Upgrade:
        assert request.upgrades
        return Upgrade(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Peer())

    async def main() -> bytes:
        async with serving(handler, tmp_path) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nahead"
            )
            answer = await asyncio.wait_for(reader.readuntil(b"<ahead>"), 10)
            writer.write(b"later")
            answer += await asyncio.wait_for(reader.readuntil(b"<later>"), 10)
            writer.close()
            await writer.wait_closed()
            await lost.wait()
            return answer

    answer = asyncio.run(asyncio.wait_for(main(), 20))

    assert answer == b"HTTP/1.1 101 Switching Protocols\r\n\r\n<ahead><later>"
    assert events == ["made", b"ahead", b"later"]
