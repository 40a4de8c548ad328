"""Port sessions: an agent between a fake service, whose client they have, and real ports of this machine."""

import hashlib
import logging
import os
import socket
import socketserver
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from agent.agent_thread import AgentThread
from agent.fake_service import SSH_DOCUMENT, FakeService, SessionClient
from agent.http_server import unused_port
from sagemaker_ssh_helper.agent.aws_api import SESSION_TERMINATED
from sagemaker_ssh_helper.agent.documents import DocumentRefused
from sagemaker_ssh_helper.agent.ports import DENIED_HOSTS, port_target, refuse_denied
from sagemaker_ssh_helper.agent.session import DIED
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.protocol.message import Flag
from sagemaker_ssh_helper.protocol.payloads import AgentTaskComplete, ChannelClosed, InteractiveShell

pytestmark = pytest.mark.container

BANNER = b"SSH-2.0-test\r\n"


class Port(socketserver.ThreadingTCPServer):
    """A TCP server of the test; ``serve`` handles each connection in a thread of its own."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, serve: Callable[[socket.socket], None], host: str = "127.0.0.1") -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                serve(self.request)

        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, 0), Handler)
        self.number = int(self.server_address[1])
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: sessions that end reset connections, and tests look at results."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


def echo(connection: socket.socket) -> None:
    while True:
        data = connection.recv(65536)
        if not data:
            return
        connection.sendall(data)


def greet_and_echo(connection: socket.socket) -> None:
    connection.sendall(BANNER)
    echo(connection)


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


@pytest.fixture
def agent(service: FakeService, tmp_path: Path) -> Iterator[AgentThread]:
    with AgentThread(service, tmp_path / "state") as running:
        yield running


Listen = Callable[..., Port]


@pytest.fixture
def listen() -> Iterator[Listen]:
    ports: List[Port] = []

    def start(serve: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Port:
        ports.append(Port(serve, host))
        return ports[-1]

    yield start
    for port in ports:
        port.stop()


def outcome(result: AgentTaskComplete) -> Tuple[str, str]:
    return result.final_status, result.output


# --- bytes ---------------------------------------------------------------------------------------


def test_bytes_go_both_ways(service: FakeService, agent: AgentThread, listen: Listen) -> None:
    client = service.offer_session(listen(greet_and_echo).number).wait_ready()
    client.wait_for(len(BANNER))
    client.send(b"hello")

    assert client.wait_for(len(BANNER) + 5) == BANNER + b"hello"
    assert client.states == ["Connected"]


def test_handshake_tells_the_properties_and_a_new_enough_version(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    port = listen(echo).number
    ready = service.offer_session(port).wait_ready().ready

    assert ready is not None
    assert ready.session_type == "Port"
    assert ready.properties == {"portNumber": str(port)}
    assert tuple(int(part) for part in ready.peer_version.split(".")) > (3, 1, 1511, 0)


def test_five_megabytes_arrive_unchanged_each_way(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    data = os.urandom(5 << 20)
    client = service.offer_session(listen(echo).number).wait_ready()
    for start in range(0, len(data), 1 << 18):
        client.send(data[start : start + (1 << 18)])

    received = client.wait_for(len(data))

    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


def test_port_that_does_not_read_holds_the_client_and_loses_nothing(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    may_read = threading.Event()
    read = hashlib.sha256()
    finished = threading.Event()
    data = os.urandom(12 << 20)

    def slow(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        may_read.wait(30)
        left = len(data)
        while left:
            piece = connection.recv(65536)
            read.update(piece)
            left -= len(piece)
        connection.sendall(b"all read")
        finished.wait(30)

    client = service.offer_session(listen(slow).number).wait_ready()
    client.send(data)
    held = client.wait_settled(lambda: client.unacknowledged)
    may_read.set()
    client.wait_for(8)
    finished.set()

    assert held > 1000
    assert read.digest() == hashlib.sha256(data).digest()


def test_client_that_does_not_read_holds_the_port_and_loses_nothing(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    data = os.urandom(20 << 20)
    sent = []

    def gush(connection: socket.socket) -> None:
        for start in range(0, len(data), 1 << 16):
            connection.sendall(data[start : start + (1 << 16)])
            sent.append(start)
        echo(connection)

    client = service.offer_session(listen(gush).number).wait_ready()
    client.hold()
    sent_while_held = client.wait_settled(lambda: len(sent)) << 16
    client.release()
    received = client.wait_for(len(data))

    # One window of 8 MiB, and what fits into the sockets' buffers, which is up to 10 MiB.
    assert sent_while_held < len(data)
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


# --- the end -------------------------------------------------------------------------------------


def test_port_that_closes_ends_the_session_after_its_last_byte(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    data = os.urandom(300_000)
    client = service.offer_session(listen(lambda connection: connection.sendall(data)).number)

    assert outcome(service.result(client)) == ("Success", "")
    assert bytes(client.received) == data


@pytest.mark.parametrize("flag", [Flag.TERMINATE_SESSION, Flag.DISCONNECT_TO_PORT])
def test_flag_of_the_client_ends_the_session(
    service: FakeService, agent: AgentThread, listen: Listen, flag: Flag
) -> None:
    closed = threading.Event()

    def serve(connection: socket.socket) -> None:
        echo(connection)
        closed.set()

    client = service.offer_session(listen(serve).number).wait_ready()
    client.send(b"x")
    client.wait_for(1)
    client.send_flag(flag)

    assert outcome(service.result(client)) == ("Success", "")
    assert closed.wait(10)


def test_other_flags_are_ignored(service: FakeService, agent: AgentThread, listen: Listen) -> None:
    client = service.offer_session(listen(echo).number).wait_ready()
    client.send_flag(77)
    client.send(b"still here")

    assert client.wait_for(10) == b"still here"


def test_channel_closed_on_the_data_channel_ends_the_session(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    closed = threading.Event()

    def serve(connection: socket.socket) -> None:
        echo(connection)
        closed.set()

    client = service.offer_session(listen(serve).number).wait_ready()
    client.send(b"x")
    client.wait_for(1)
    client.close()

    assert outcome(service.result(client)) == ("Success", "")
    assert closed.wait(10)


def test_channel_closed_on_the_control_channel_ends_that_session_only(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    port = listen(echo).number
    first, second = (service.offer_session(port).wait_ready() for _ in range(2))
    service.send_control(ChannelClosed("nobody", created_date="now"))
    service.send_control(ChannelClosed(first.session_id, created_date="now"))
    service.result(first)
    second.send(b"alive")

    assert second.wait_for(5) == b"alive"
    assert [result.task_id for result in service.results] == [first.session_id]


def test_stopped_agent_cancels_its_sessions(service: FakeService, agent: AgentThread, listen: Listen) -> None:
    client = service.offer_session(listen(echo).number).wait_ready()
    agent.stop()

    assert outcome(service.result(client)) == ("Cancelled", "the agent in the container was stopped")


def test_sessions_of_an_agent_that_died_are_reported_by_the_next_one(
    service: FakeService, tmp_path: Path, listen: Listen
) -> None:
    """Else the service waits for the old one to come back, and the user at the other end with it."""
    state = StateDir.open(str(tmp_path / "node"), create=True)
    state.write_sessions(["alice-1", "bob-2"])
    with AgentThread(service, tmp_path / "node") as agent:
        service.wait(lambda: len(service.results) == 2, "two results")
        told = {result.task_id: outcome(result) for result in service.results}
        assert told == {"alice-1": ("Failed", DIED), "bob-2": ("Failed", DIED)}

        client = service.offer_session(listen(echo).number).wait_ready()
        before = agent.state.read_sessions()
        assert before is not None
        assert before.ids == [client.session_id]


def test_a_damaged_list_of_sessions_keeps_no_agent_from_its_work(
    service: FakeService, tmp_path: Path, listen: Listen
) -> None:
    state = StateDir.open(str(tmp_path / "node"), create=True)
    state.write(state.sessions_json, b"{")
    with AgentThread(service, tmp_path / "node"):
        service.offer_session(listen(echo).number).wait_ready()

    assert state.read_sessions() is not None


def test_result_is_told_until_it_is_acknowledged(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    service.acknowledges = False
    client = service.offer_session(unused_port())
    service.wait(lambda: len(service.results) == 3, "three results")

    assert [result.retry_number for result in service.results] == [1, 2, 3]
    assert {result.task_id for result in service.results} == {client.session_id}


# --- where it goes -------------------------------------------------------------------------------


def test_port_where_nothing_listens_is_told_at_once(service: FakeService, agent: AgentThread) -> None:
    port = unused_port()
    client = service.offer_session(port)

    status, output = outcome(service.result(client))

    assert status == "Failed"
    assert output.startswith("Unable to connect to specified port: ")
    assert output.endswith(f":{port}: Connection refused")


def test_port_that_listens_on_ipv6_only_is_found(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    client = service.offer_session(listen(greet_and_echo, "::1").number).wait_ready()

    assert client.wait_for(len(BANNER)) == BANNER


def test_port_22_goes_to_our_sshd_when_nothing_listens_there(
    service: FakeService, tmp_path: Path, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Something may listen on this machine's port 22, so another number stands in for it.
    monkeypatch.setattr("sagemaker_ssh_helper.agent.ports._SSH_PORT", unused_port())
    from sagemaker_ssh_helper.agent import ports

    with AgentThread(service, tmp_path / "state", sshd_port=listen(greet_and_echo).number):
        client = service.offer_session(ports._SSH_PORT).wait_ready()
        banner = client.wait_for(len(BANNER))

    assert banner == BANNER


def test_port_22_goes_to_what_listens_there(
    service: FakeService, tmp_path: Path, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = listen(lambda connection: connection.sendall(b"the image's own"))
    monkeypatch.setattr("sagemaker_ssh_helper.agent.ports._SSH_PORT", other.number)

    with AgentThread(service, tmp_path / "state", sshd_port=listen(greet_and_echo).number):
        received = service.offer_session(other.number).wait_ready().wait_for(15)

    assert received == b"the image's own"


def test_host_of_the_document_is_dialled(service: FakeService, agent: AgentThread, listen: Listen) -> None:
    document = {**SSH_DOCUMENT, "properties": {"portNumber": "{{ portNumber }}", "host": "127.0.0.1"}}
    client = service.offer_session(listen(greet_and_echo).number, document=document).wait_ready()

    assert client.wait_for(len(BANNER)) == BANNER


@pytest.mark.parametrize(
    ("host", "output"),
    [
        ("169.254.170.2", "forwarding to 169.254.170.2 (169.254.170.2) is not allowed"),
        ("nobody.invalid", "Unable to connect to specified port: nobody.invalid has no address"),
    ],
)
def test_hosts_that_are_denied_or_unknown_are_told(
    service: FakeService, agent: AgentThread, host: str, output: str
) -> None:
    document = {**SSH_DOCUMENT, "properties": {"portNumber": "80", "host": host}}

    assert outcome(service.result(service.offer_session(document=document))) == ("Failed", output)


EMBEDDED = [
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "0:0:0:0:0:FFFF:A9FE:A9FE",
    "::ffff:0:169.254.169.254",
    "::169.254.169.254",
    "::a9fe:aa02",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::169.254.170.23",
    "64:ff9b:1::a9fe:a9fe",
    "64:ff9b:1:a9fe:a9:fe00::",
    "64:ff9b:1:2a9:00fe:a9fe:0:0",
    "2001:db8:a9fe:a9fe::",
    "2001:db8:12a9:fea9:fe::",
    "2001:db8:1:a9fe:a9:fe00::",
    "2001:db8:1:2a9:fe:a9fe::",
    "2001:db8:1:2:a9:fea9:fe00:0",
    "2001:db8:1:2:3:4:169.254.169.254",
    "2002:a9fe:a9fe::1",
    "2002:a9fe:aa02:1:2:3:4:5",
    "2001:0:5ef5:79fb:0:59c:5601:5601",
    "2001:0:a9fe:a9fe:0:59c:f5ff:fffe",
    "2001::5601:55fd",
    "fe80::5efe:169.254.169.254",
    "fe80::200:5efe:a9fe:a9fe%eth0",
    "2001:db8::5efe:a9fe:a97b",
    "fd00:ec2:0:0:0:0:0:254",
]


@pytest.mark.parametrize("address", [*sorted(DENIED_HOSTS), *EMBEDDED, "FD00:EC2::254%eth0", "no address"])
def test_addresses_of_the_host_are_denied(address: str) -> None:
    with pytest.raises(DocumentRefused, match="is not allowed"):
        refuse_denied("some.name", ["10.0.0.1", address])


def test_other_addresses_are_not_denied() -> None:
    assert refuse_denied("some.name", ["10.0.0.1", "169.254.1.1", "fd00::1", "::ffff:10.0.0.1"]) is None
    others = ["::1", "::", "64:ff9b::10.0.0.1", "2002:a00:1::1", "fe80::5efe:10.0.0.1", "2001:0:1:2:3:4:5:6"]
    assert refuse_denied("some.name", [*others, "a9fe::a9fe", "fe80::a9fe:1%eth0"]) is None


# --- the channel ---------------------------------------------------------------------------------


def test_session_goes_on_after_its_connection_broke(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    client = service.offer_session(listen(echo).number).wait_ready()
    client.send(b"before ")
    client.wait_for(7)
    client.cut()
    service.wait(lambda: client.opened == 2, "a second connection")
    client.send(b"after")

    assert client.wait_for(12) == b"before after"
    assert service.results == []


def test_session_that_the_service_calls_terminated_ends_well(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    client = service.offer_session(listen(echo).number).wait_ready()
    service.answers["/v1/data-channel"] = [(400, f"<Error>{SESSION_TERMINATED}</Error>".encode())]
    client.cut()

    assert outcome(service.result(client)) == ("Success", "")


def test_data_channel_that_is_refused_a_while_is_tried_again(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    good = (201, b"<R><TokenValue>t</TokenValue></R>")
    service.answers["/v1/data-channel"] = [(500, b"oh"), (400, b"not yet"), good]
    client = service.offer_session(listen(greet_and_echo).number).wait_ready()

    assert client.wait_for(len(BANNER)) == BANNER


def test_data_channel_that_is_always_refused_is_told(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    service.answers["/v1/data-channel"] = [(403, b"<AccessDeniedException>no such right")]
    status, output = outcome(service.result(service.offer_session(listen(echo).number)))

    assert status == "Failed"
    assert "the message gateway refused a data-channel (AccessDenied" in output


def test_gateway_that_is_busy_for_a_while_costs_no_session(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    client = service.offer_session(listen(echo).number).wait_ready()
    client.send(b"before")
    client.wait_for(len(b"before"))

    # More answers than refusals are borne: those say that it will never be.
    good = (201, b"<R><TokenValue>t</TokenValue></R>")
    service.answers["/v1/data-channel"] = [(503, b"<ServiceUnavailableException>busy")] * 9 + [good]
    client.cut()
    client.send(b" and after")

    assert client.wait_for(len(b"before and after")) == b"before and after"


# --- many, and refused ---------------------------------------------------------------------------


def test_many_sessions_at_once_keep_their_bytes_apart(
    service: FakeService, agent: AgentThread, listen: Listen
) -> None:
    port = listen(echo).number
    clients: Dict[bytes, SessionClient] = {}
    for number in range(40):
        clients[f"session {number:02d};".encode() * 50] = service.offer_session(port)
    for data, client in clients.items():
        client.wait_ready().send(data)

    assert all(client.wait_for(len(data)) == data for data, client in clients.items())


def test_known_session_is_not_begun_twice(service: FakeService, agent: AgentThread, listen: Listen) -> None:
    port = listen(echo).number
    client = service.offer_session(port).wait_ready()
    service.offer_session(port, session_id=client.session_id)
    client.close()
    service.result(client)
    service.offer_session(port, session_id=client.session_id)
    other = service.offer_session(port).wait_ready()
    other.close()
    service.result(other)

    assert client.opened == 1
    assert [result.task_id for result in service.results] == [client.session_id, other.session_id]


def test_sessions_above_the_limit_are_refused(
    service: FakeService, agent: AgentThread, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sagemaker_ssh_helper.agent.session.MAX_SESSIONS", 1)
    port = listen(echo).number
    first = service.offer_session(port).wait_ready()
    second = service.offer_session(port)
    refusal = outcome(service.result(second))
    first.close()
    service.result(first)
    third = service.offer_session(port).wait_ready()

    assert refusal == ("Failed", "1 sessions are open here")
    assert third.opened == 1


def test_fault_within_one_session_harms_no_other(
    service: FakeService,
    agent: AgentThread,
    listen: Listen,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = listen(echo).number
    good = service.offer_session(port).wait_ready()

    def broken(shell: InteractiveShell) -> None:
        raise RuntimeError("out of order")

    with monkeypatch.context() as patch:
        patch.setattr("sagemaker_ssh_helper.agent.session.port_target", broken)
        bad = service.offer_session(port)
        result = outcome(service.result(bad))
    good.send(b"fine")

    assert result == ("Failed", "the agent failed: RuntimeError; see its log")
    assert "out of order" in caplog.text
    assert good.wait_for(4) == b"fine"


def test_refusal_reaches_the_user_and_opens_nothing(service: FakeService, agent: AgentThread) -> None:
    document = {**SSH_DOCUMENT, "sessionType": "Hologram"}
    client = service.offer_session(document=document)

    assert outcome(service.result(client)) == (
        "Failed",
        "sessions of type 'Hologram' are not supported by this agent",
    )
    assert not any("data-channel" in name for name in service.operations())


def test_secrets_and_bytes_are_not_logged(
    service: FakeService, agent: AgentThread, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "sagemaker_ssh_helper"):
        client = service.offer_session(listen(echo).number).wait_ready()
        client.send(b"very-secret-bytes")
        client.wait_for(17)
        client.close()
        service.result(client)

    assert "very-secret-bytes" not in caplog.text
    assert "token-" not in caplog.text
    assert f"session {client.session_id}: Success" in caplog.text


# --- documents -----------------------------------------------------------------------------------


def shell(document: Any = SSH_DOCUMENT, **parameters: Any) -> InteractiveShell:
    return InteractiveShell("s", "AWS-StartSSHSession", document, parameters)


@pytest.mark.parametrize("value", ["2222", ["2222"]])
def test_port_may_come_as_text_or_as_a_list(value: Any) -> None:
    target = port_target(shell(portNumber=value))

    assert (target.host, target.port, target.properties) == ("", 2222, {"portNumber": "2222"})


def test_port_has_a_default_and_may_be_a_number() -> None:
    number = {"schemaVersion": "1.0", "sessionType": "Port", "properties": {"portNumber": 8888}}

    assert port_target(shell()).port == 22
    assert port_target(shell(number)).properties == {"portNumber": "8888"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schemaVersion": "1.2"}, "schema version '1.2' is not supported"),
        ({"schemaVersion": None}, "schema version None is not supported"),
        ({"sessionType": "InteractiveCommands"}, "sessions of type 'InteractiveCommands'"),
        ({"inputs": {"s3BucketName": "b"}}, r"wants the session logged \(s3BucketName\)"),
        ({"inputs": {"cloudWatchLogGroupName": "{{ portNumber }}"}}, "cloudWatchLogGroupName"),
        ({"properties": {}}, "the port number '' is none"),
        ({"properties": {"portNumber": "0"}}, "the port number '0' is none"),
        ({"properties": {"portNumber": "65536"}}, "the port number '65536' is none"),
        ({"properties": {"portNumber": "²"}}, "is none"),
        ({"properties": {"portNumber": {"a": 1}}}, "the session document's property portNumber is no text"),
        ({"properties": ["22"]}, "properties are no object"),
        ({"properties": {"portNumber": "{{ ssm:port }}"}}, "references to Parameter Store"),
    ],
)
def test_documents_that_cannot_be_done_are_refused(change: Dict[str, Any], reason: str) -> None:
    with pytest.raises(DocumentRefused, match=reason):
        port_target(shell({**SSH_DOCUMENT, **change}))


def test_value_that_the_document_does_not_allow_is_refused_without_quoting_it() -> None:
    with pytest.raises(DocumentRefused, match="does not match its allowedPattern") as caught:
        port_target(shell(portNumber="22; reboot"))

    assert "reboot" not in str(caught.value)


def test_empty_logging_inputs_are_no_demand() -> None:
    inputs = {"s3BucketName": "", "cloudWatchLogGroupName": "", "kmsKeyId": "alias/x"}

    assert port_target(shell({**SSH_DOCUMENT, "inputs": inputs})).port == 22
    assert port_target(shell({**SSH_DOCUMENT, "inputs": None})).port == 22
