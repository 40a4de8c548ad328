"""Connections through a network that swallows what is sent to it."""

import asyncio
import queue
import socket
import threading
from contextlib import contextmanager
from typing import Any, Iterator, List

import pytest

from channels.party import in_loop
from sagemaker_ssh_helper.channels import dialing
from sagemaker_ssh_helper.channels.dialing import dial, in_thread

pytestmark = pytest.mark.container

BURIED = "buried.example"


class Network:
    """
    Names and connections that are answered when ``up`` is set, and not before.

    ``asked`` counts the questions, ``wait_asked`` waits for the next one.
    """

    def __init__(self, port: int) -> None:
        self.up = threading.Event()
        self.asked = 0
        self._questions: queue.Queue[str] = queue.Queue()
        self._port = port

    def getaddrinfo(self, host: str, port: int, **options: Any) -> Any:
        if options.get("flags"):
            raise socket.gaierror
        self.asked += 1
        self._questions.put(host)
        assert self.up.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", self._port))]

    async def wait_asked(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._questions.get, True, 30)


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    with listening() as port:
        network = Network(port)
        monkeypatch.setattr(dialing.socket, "getaddrinfo", network.getaddrinfo)
        monkeypatch.setattr(dialing, "_lookups", {})
        yield network
        network.up.set()


def swallow(monkeypatch: pytest.MonkeyPatch, attempts: int) -> "List[socket.socket]":
    """So many attempts to connect get no answer at all; returns the sockets of all attempts as they come."""
    sockets: List[socket.socket] = []
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect

    async def sock_connect(sock: socket.socket, address: Any) -> None:
        sockets.append(sock)
        if len(sockets) <= attempts:
            await loop.create_future()
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    return sockets


@in_loop
async def test_what_is_swallowed_is_sent_again_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as port:
        sockets = swallow(monkeypatch, 3)
        sock = await dial("127.0.0.1", port, again=0.01)
        assert sock.getpeername()[1] == port
        assert len(sockets) >= 4
        assert [other for other in sockets if other.fileno() >= 0] == [sock]
        sock.close()


@in_loop
async def test_no_more_than_some_attempts_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as port:
        sockets = swallow(monkeypatch, 3 * dialing.MAX_ROUNDS)
        dialed = asyncio.ensure_future(dial("127.0.0.1", port, again=0.001))
        most = 0
        while not dialed.done():
            most = max(most, sum(sock.fileno() >= 0 for sock in sockets))
            await asyncio.sleep(0)
        dialed.result().close()
    assert 1 < most <= dialing.MAX_ROUNDS + 1


@in_loop
async def test_without_again_there_is_one_attempt_and_ending_it_closes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with listening() as port:
        sockets = swallow(monkeypatch, 1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(dial("127.0.0.1", port), 0.05)
    assert [sock.fileno() for sock in sockets] == [-1]


@in_loop
async def test_a_refusal_is_an_answer() -> None:
    with listening() as port:
        pass
    with pytest.raises(ConnectionRefusedError):
        await dial("127.0.0.1", port, again=0.01)


@in_loop
async def test_the_next_address_is_tried_when_one_is_silent_and_when_one_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with listening() as gone:
        pass
    with listening() as port:
        monkeypatch.setattr(dialing, "NEXT_ADDRESS_DELAY", 0.01)
        infos = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", number))
            for number in (port, gone, port)
        ]
        monkeypatch.setattr(dialing.socket, "getaddrinfo", lambda *_, **__: infos)
        sockets = swallow(monkeypatch, 1)
        sock = await dial("two.example", 443)
        assert sock.getpeername()[1] == port
        assert [other for other in sockets if other.fileno() >= 0] == [sock]
        sock.close()


@in_loop
async def test_a_name_is_asked_for_again_and_the_question_is_shared(
    monkeypatch: pytest.MonkeyPatch, network: Network
) -> None:
    monkeypatch.setattr(dialing, "LOOKUP_AGAIN", 1000.0)
    dialing_all = [asyncio.ensure_future(dial(BURIED, 443, again=0.01)) for _ in range(20)]
    await network.wait_asked()
    # One who loses interest takes the answer from nobody.
    dialing_all.pop().cancel()
    monkeypatch.setattr(dialing, "LOOKUP_AGAIN", 0.0)
    await network.wait_asked()
    monkeypatch.setattr(dialing, "LOOKUP_AGAIN", 1000.0)
    network.up.set()
    for dialed in dialing_all:
        (await dialed).close()


def test_a_loop_ends_while_a_name_server_is_silent(network: Network) -> None:
    async def give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(dial(BURIED, 443, again=0.01), 0.05)

    # It would wait for its own threads.
    asyncio.run(give_up())
    assert not network.up.is_set()
    assert network.asked >= 1


def test_what_a_call_in_a_thread_raises_comes_out() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        in_thread(fail).result(10)
    assert in_thread(lambda: 7).result(10) == 7
