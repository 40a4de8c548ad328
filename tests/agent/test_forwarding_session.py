"""Sessions that forward ports: an agent between a fake service, whose client they have, and real ports."""

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Set

import pytest

from agent.agent_thread import AgentThread
from agent.fake_service import FakeService, SessionClient
from agent.http_server import unused_port
from agent.test_session import BANNER, Listen, Port, echo, greet_and_echo, outcome
from sagemaker_ssh_helper.protocol import smux
from sagemaker_ssh_helper.protocol.message import Flag
from sagemaker_ssh_helper.protocol.smux import Closed, Mux, Received

pytestmark = pytest.mark.container

OLD_CLIENT = "1.1.61.0"


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


@pytest.fixture
def agent(service: FakeService, tmp_path: Path) -> Iterator[AgentThread]:
    with AgentThread(service, tmp_path / "state") as running:
        yield running


@pytest.fixture
def listen() -> Iterator[Listen]:
    ports: List[Port] = []

    def start(serve: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Port:
        ports.append(Port(serve, host))
        return ports[-1]

    yield start
    for port in ports:
        port.stop()


def document(port: int, host: str = "") -> Dict[str, Any]:
    properties = {"type": "LocalPortForwarding", "portNumber": str(port), "localPortNumber": "0"}
    if host:
        properties["host"] = host
    return {"schemaVersion": "1.0", "sessionType": "Port", "properties": properties}


def forward(service: FakeService, port: int, host: str = "", version: str = "1.2.4515.0") -> SessionClient:
    return service.offer_session(document=document(port, host), client_version=version)


class Streams:
    """The client's end of a multiplexed session, driven by hand."""

    def __init__(self, service: FakeService, client: SessionClient) -> None:
        self.heard: Dict[int, bytearray] = {}
        self.closed: Set[int] = set()
        self.stalled: Set[int] = set()
        self._service = service
        self._client = client
        self._mux = Mux(is_client=True, flow_control=True, keepalive=False, now=0.0)
        self._seen = 0

    def open(self, data: bytes = b"") -> int:
        stream_id = self._mux.open()
        self.heard[stream_id] = bytearray()
        self.send(stream_id, data)
        return stream_id

    def send(self, stream_id: int, data: bytes) -> None:
        self._mux.send(stream_id, data)
        self._flush()

    def close(self, stream_id: int) -> None:
        self._mux.close(stream_id)
        self._flush()

    def release(self, stream_id: int) -> None:
        self.stalled.discard(stream_id)
        self._mux.consumed(stream_id, smux.WINDOW_BYTES)
        self._flush()

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        until = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < until, f"waited for {what}"
            came = bytes(self._client.received)
            if len(came) == self._seen:
                self._service.pause(0.05)
                continue
            for event in self._mux.receive(came[self._seen :]):
                if isinstance(event, Received):
                    self.heard[event.stream_id] += event.data
                    if event.stream_id not in self.stalled:
                        self._mux.consumed(event.stream_id, len(event.data))
                elif isinstance(event, Closed):
                    self.closed.add(event.stream_id)
            self._seen = len(came)
            self._flush()

    def _flush(self) -> None:
        data = self._mux.data_to_send(1 << 30)
        if data:
            self._client.send(data)


# --- many connections at a time ------------------------------------------------------------------


def test_streams_are_connections_of_their_own(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    client = forward(service, listen(greet_and_echo).number).wait_ready()
    streams = Streams(service, client)
    ids = [streams.open(b"number %d" % index) for index in range(10)]
    for index, stream_id in enumerate(ids):
        wanted = BANNER + b"number %d" % index
        streams.wait(lambda s=stream_id, w=wanted: bytes(streams.heard[s]) == w, "echo")  # type: ignore[misc]
    streams.close(ids[0])
    streams.send(ids[1], b"!")
    streams.wait(lambda: streams.heard[ids[1]].endswith(b"!"), "another stream after one was closed")
    client.send_flag(Flag.TERMINATE_SESSION)

    assert outcome(service.result(client)) == ("Success", "")


def test_port_that_hangs_up_closes_its_stream_after_the_last_byte(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    data = os.urandom(700_000)
    client = forward(service, listen(lambda connection: connection.sendall(data)).number).wait_ready()
    streams = Streams(service, client)
    stream = streams.open()
    streams.wait(lambda: stream in streams.closed, "the end of the stream")

    assert bytes(streams.heard[stream]) == data
    assert not client.flags


def test_reader_that_stalls_holds_its_own_stream_only(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    data = os.urandom(3 << 20)
    client = forward(service, listen(lambda connection: connection.sendall(data)).number).wait_ready()
    streams = Streams(service, client)
    slow = streams.open()
    streams.stalled.add(slow)
    others = [streams.open() for _ in range(9)]
    streams.wait(lambda: streams.closed >= set(others), "the other streams")

    assert all(bytes(streams.heard[other]) == data for other in others)
    assert len(streams.heard[slow]) <= smux.WINDOW_BYTES
    streams.wait(lambda: len(streams.heard[slow]) == smux.WINDOW_BYTES, "the window of the slow one")
    streams.release(slow)
    streams.wait(lambda: slow in streams.closed, "the slow one")
    assert bytes(streams.heard[slow]) == data


def test_port_that_takes_nothing_holds_its_own_stream_only(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    go_on = threading.Event()
    first: List[Optional[socket.socket]] = []

    def serve(connection: socket.socket) -> None:
        if not first:
            first.append(connection)
            go_on.wait(60)
        echo(connection)

    client = forward(service, listen(serve).number).wait_ready()
    streams = Streams(service, client)
    slow = streams.open(b"x")
    service.wait(lambda: bool(first), "the first connection")
    streams.send(slow, bytes(8 << 20))
    other = streams.open(b"through")
    streams.wait(lambda: streams.heard[other] == b"through", "the other stream")
    assert not streams.heard[slow]
    go_on.set()
    streams.wait(lambda: len(streams.heard[slow]) == (8 << 20) + 1, "the slow one")


def test_port_where_nothing_listens_is_told_by_a_flag_and_harms_nothing(
    service: FakeService, agent: AgentThread
) -> None:
    port = unused_port()
    client = forward(service, port).wait_ready()
    streams = Streams(service, client)
    stream = streams.open(b"hello?")
    streams.wait(lambda: stream in streams.closed, "the end of the stream")
    assert client.flags == [Flag.CONNECT_TO_PORT_ERROR]

    with socket.create_server(("127.0.0.1", port)) as server:
        again = streams.open(b"hello!")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(6) == b"hello!"
            connection.sendall(b"yes")
            streams.wait(lambda: streams.heard[again] == b"yes", "the answer")


def test_what_is_no_smux_ends_the_session(service: FakeService, agent: AgentThread, listen: Listen) -> None:
    client = forward(service, listen(echo).number).wait_ready()
    client.send(b"GET / HTTP/1.0\r\n\r\n")

    assert outcome(service.result(client)) == (
        "Failed",
        "the multiplexed session cannot be read (smux version 71)",
    )


# --- one connection after another ----------------------------------------------------------------


def test_old_clients_get_one_connection_after_another(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    count = []

    def serve(connection: socket.socket) -> None:
        count.append(1)
        connection.sendall(b"[%d]" % len(count))
        echo(connection)

    client = forward(service, listen(serve).number, version=OLD_CLIENT).wait_ready()
    assert client.wait_for(3) == b"[1]"
    client.send(b"one")
    client.wait_for(6)
    client.send_flag(Flag.DISCONNECT_TO_PORT)
    client.send(b"two")
    assert client.wait_for(12) == b"[1]one[2]two"
    client.send_flag(Flag.TERMINATE_SESSION)

    assert outcome(service.result(client)) == ("Success", "")


def test_port_that_hangs_up_is_connected_again_by_the_next_byte(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    def once(connection: socket.socket) -> None:
        connection.sendall(connection.recv(100).upper())

    client = forward(service, listen(once).number, version=OLD_CLIENT).wait_ready()
    client.send(b"one")
    client.wait_for(3)
    # Whether the hang-up was seen by then is not told, so what is sent next may go to the old connection.
    until = time.monotonic() + 30
    while client.received == b"ONE":
        assert time.monotonic() < until
        client.send(b"two")
        service.pause(0.2)

    assert bytes(client.received).startswith(b"ONETWO")
    assert not client.flags


def test_port_of_an_old_client_where_nothing_listens_fails_the_session(
    service: FakeService, agent: AgentThread
) -> None:
    port = unused_port()
    client = forward(service, port, version=OLD_CLIENT)
    status, output = outcome(service.result(client))

    assert status == "Failed"
    assert output.startswith("Unable to connect to specified port: ")
    assert str(port) in output


def test_old_client_that_does_not_read_holds_the_port(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    data = os.urandom(20 << 20)
    sent = []

    def gush(connection: socket.socket) -> None:
        for start in range(0, len(data), 1 << 16):
            connection.sendall(data[start : start + (1 << 16)])
            sent.append(start)
        echo(connection)

    client = forward(service, listen(gush).number, version=OLD_CLIENT).wait_ready()
    client.hold()
    held = client.wait_settled(lambda: len(sent)) << 16
    client.release()

    assert client.wait_for(len(data)) == data
    assert held < len(data)


# --- other hosts ---------------------------------------------------------------------------------


def test_host_is_reached_and_denied_hosts_are_not(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    client = forward(service, listen(greet_and_echo, "127.0.0.1").number, "127.0.0.1").wait_ready()
    streams = Streams(service, client)
    stream = streams.open()
    streams.wait(lambda: streams.heard[stream] == BANNER, "the banner")
    refused = forward(service, 80, "169.254.170.2")

    assert outcome(service.result(refused)) == (
        "Failed",
        "forwarding to 169.254.170.2 (169.254.170.2) is not allowed",
    )


def test_host_without_an_address_is_told_when_a_connection_comes(
    service: FakeService, agent: AgentThread
) -> None:
    client = forward(service, 80, "nobody.invalid").wait_ready()
    streams = Streams(service, client)
    stream = streams.open()
    streams.wait(lambda: stream in streams.closed, "the end of the stream")

    assert client.flags == [Flag.CONNECT_TO_PORT_ERROR]
