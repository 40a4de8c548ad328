"""The agent's process in the real local cloud, which checks signatures, tokens and rights; plain and TLS."""

import asyncio
import base64
import contextlib
import hashlib
import os
import socketserver
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local_cloud import LocalCloud
from sagemaker_ssh_helper.agent import rsa
from sagemaker_ssh_helper.agent.aws_api import Activation, AwsApi, Retry
from sagemaker_ssh_helper.agent.state import AgentConfig, State, StateDir
from sagemaker_ssh_helper.channels import DataChannelRunner, Grant
from sagemaker_ssh_helper.errors import AwsError
from sagemaker_ssh_helper.names import CLIENT_VERSION
from sagemaker_ssh_helper.protocol.data_channel import (
    ChannelClosed,
    DataChannel,
    Event,
    Ready,
    Side,
    StreamData,
)

TIMEOUT = 30


@pytest.fixture(scope="module", params=["plain", "tls"])
def cloud(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    options = ["--tls"] if request.param == "tls" else []
    with LocalCloud(tmp_path_factory.mktemp("cloud"), *options) as running:
        yield running


def until(condition: Callable[[], bool], what: str) -> None:
    """Until something in another process is so."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"waited {TIMEOUT} s for: {what}"
        time.sleep(0.02)


class Node:
    """One agent's process, set up as the container's side does it."""

    def __init__(self, cloud: LocalCloud, folder: Path) -> None:
        self.cloud = cloud
        self.state = StateDir.open(str(folder), create=True)
        self.log = folder / "agent.log"
        key = rsa.generate(["cryptography"])
        self.state.write(self.state.agent_key, base64.b64encode(key.serialize()))
        made = activate(cloud)
        self.state.write_config(
            AgentConfig(
                region=cloud.info["region"],
                activation_id=made.activation_id,
                activation_code=made.activation_code,
                instance_name="algo-1.job.training.sagemaker",
                sshd_port=0,
                log_path=str(self.log),
            )
        )

    def start(self) -> "Node":
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": self.state.path,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "AWS_ENDPOINT_URL": self.cloud.endpoint_url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        if "ca_file" in self.cloud.info:
            environ["AWS_CA_BUNDLE"] = self.cloud.info["ca_file"]
        command = [sys.executable, "-m", "sagemaker_ssh_helper.agent.daemon", "--state", self.state.path]
        self.process = subprocess.Popen(command, env=environ)
        return self

    @property
    def instance_id(self) -> str:
        status = self.state.read_status()
        assert status is not None
        return status.instance_id

    def is_online(self) -> bool:
        status = self.state.read_status()
        return status is not None and status.state is State.ONLINE

    def is_connected(self) -> bool:
        ssm = self.cloud.client("ssm", "admin")
        return bool(ssm.get_connection_status(Target=self.instance_id)["Status"] == "connected")

    def wait_online(self) -> "Node":
        until(self.is_online, f"the agent online; its log: {self.log}")
        until(self.is_connected, "the control channel")
        return self

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(TIMEOUT)


def activate(cloud: LocalCloud) -> Activation:
    made = cloud.client("ssm", "admin").create_activation(
        IamRole=cloud.info["role_arn"].rpartition("/")[2],
        DefaultInstanceName="algo-1.job.training.sagemaker",
        RegistrationLimit=1,
    )
    return Activation(made["ActivationId"], made["ActivationCode"])


@pytest.fixture(scope="module")
def node(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for all tests that leave it as it was."""
    running = Node(cloud, tmp_path_factory.mktemp("node") / "state").start()
    try:
        yield running.wait_online()
    finally:
        running.end()


def test_fleet_shows_the_node_online(cloud: LocalCloud, node: Node) -> None:
    def row() -> dict[str, Any]:
        found = cloud.client("ssm", "admin").describe_instance_information(
            Filters=[{"Key": "InstanceIds", "Values": [node.instance_id]}]
        )
        return dict(found["InstanceInformationList"][0])

    until(lambda: bool(row().get("ComputerName")), "the full heartbeat")

    shown = row()
    assert shown["PingStatus"] == "Online"
    assert shown["PlatformType"] == "Linux"
    assert shown["AgentVersion"] == "3.3.4515.0"
    assert shown["Name"] == "algo-1.job.training.sagemaker"


# --- commands ------------------------------------------------------------------------------------


def send(cloud: LocalCloud, node: Node, script: str) -> str:
    sent = cloud.client("ssm", "admin").send_command(
        DocumentName="AWS-RunShellScript",
        InstanceIds=[node.instance_id],
        Parameters={"commands": [script]},
    )
    return str(sent["Command"]["CommandId"])


def invocation(cloud: LocalCloud, node: Node, command_id: str) -> dict[str, Any]:
    ssm = cloud.client("ssm", "admin")
    return dict(ssm.get_command_invocation(CommandId=command_id, InstanceId=node.instance_id))


def finished(cloud: LocalCloud, node: Node, command_id: str) -> dict[str, Any]:
    def is_over() -> bool:
        found = invocation(cloud, node, command_id)
        return found["Status"] not in ("Pending", "InProgress", "Delayed", "Cancelling")

    until(is_over, "the command's end")
    return invocation(cloud, node, command_id)


def test_command_runs_and_reports(cloud: LocalCloud, node: Node) -> None:
    found = finished(cloud, node, send(cloud, node, "echo out; echo err >&2; exit 7"))

    assert (found["Status"], found["ResponseCode"]) == ("Failed", 7)
    assert found["StandardOutputContent"] == "out\n"
    assert found["StandardErrorContent"] == "err\nfailed to run commands: exit status 7"


def test_command_is_cancelled(cloud: LocalCloud, node: Node, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    command_id = send(cloud, node, f"touch {begun}; sleep 60")
    until(begun.exists, "the script")
    cloud.client("ssm", "admin").cancel_command(CommandId=command_id)

    assert finished(cloud, node, command_id)["Status"] == "Cancelled"


def test_command_runs_and_is_cancelled_without_a_control_channel(cloud: LocalCloud, tmp_path: Path) -> None:
    """The gateway refuses the agent, which then asks ec2messages."""
    node = Node(cloud, tmp_path / "state")
    begun = tmp_path / "begun"
    with cloud.fault(kind="deny", action="ssmmessages:CreateControlChannel"):
        node.start()
        try:
            until(lambda: cloud.count("ec2messages:GetMessages") > 0, "a question for commands")
            found = finished(cloud, node, send(cloud, node, "yes out | head -c 30000; echo err >&2; exit 7"))
            command_id = send(cloud, node, f"touch {begun}; sleep 60")
            until(begun.exists, "the script")
            cloud.client("ssm", "admin").cancel_command(CommandId=command_id)
            cancelled = finished(cloud, node, command_id)
            timed_out = cloud.client("ssm", "admin").send_command(
                DocumentName="AWS-RunShellScript",
                InstanceIds=[node.instance_id],
                Parameters={"commands": ["sleep 60"], "executionTimeout": ["5"]},
            )["Command"]["CommandId"]
            expired = finished(cloud, node, timed_out)
        finally:
            node.end()

    assert (found["Status"], found["ResponseCode"]) == ("Failed", 7)
    assert len(found["StandardOutputContent"]) == 24000
    assert found["StandardOutputContent"].endswith("--output truncated--")
    assert found["StandardErrorContent"] == "err\nfailed to run commands: exit status 7"
    assert cancelled["Status"] == "Cancelled"
    assert (expired["Status"], expired["ResponseCode"]) == ("TimedOut", 137)
    assert "commands are asked for at ec2messages" in node.log.read_text()


# --- sessions ------------------------------------------------------------------------------------


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


@contextlib.contextmanager
def echo_port() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def talk(cloud: LocalCloud, node: Node, port: int, data: bytes) -> tuple[bytes, str]:
    """Send data through a session until as much came back, or it ends; what came, and its last words."""
    ssm = cloud.client("ssm", "admin")
    session = ssm.start_session(
        Target=node.instance_id,
        DocumentName="AWS-StartSSHSession",
        Parameters={"portNumber": [str(port)]},
    )
    received, words = bytearray(), []

    async def grant(resume: bool) -> Grant:
        return Grant(session["StreamUrl"], session["TokenValue"])

    async def run() -> None:
        def on_event(event: Event) -> None:
            if isinstance(event, Ready):
                runner.send_data(data)
            elif isinstance(event, StreamData):
                received.extend(event.data)
                if len(received) >= len(data):
                    runner.close()
            elif isinstance(event, ChannelClosed):
                words.append(event.output)

        channel = DataChannel(
            Side.CLIENT,
            session["SessionId"],
            random_bytes=os.urandom,
            created_ms=lambda: int(time.time() * 1000),
            client_id=str(uuid.uuid4()),
            version=CLIENT_VERSION,
        )
        context = None
        if "ca_file" in cloud.info:
            import ssl

            context = ssl.create_default_context(cafile=cloud.info["ca_file"])
        runner = DataChannelRunner(channel, grant, on_event=on_event, ssl_context=context)
        error = await asyncio.wait_for(runner.run(), TIMEOUT)
        # A session that ends before it began is an error for its client, with the last words as evidence.
        words.append(str(error.evidence) if error is not None else "")

    asyncio.run(run())
    ssm.terminate_session(SessionId=session["SessionId"])
    return bytes(received), "".join(words)


def test_session_carries_bytes_unchanged(cloud: LocalCloud, node: Node) -> None:
    data = os.urandom(3 << 20)
    with echo_port() as port:
        received, _ = talk(cloud, node, port, data)

    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


def test_user_learns_that_nothing_listens(cloud: LocalCloud, node: Node) -> None:
    with echo_port() as port:
        closed = port

    received, words = talk(cloud, node, closed, b"x")

    assert received == b""
    assert words.startswith("Unable to connect to specified port: ")


# --- what goes wrong at the service --------------------------------------------------------------


def test_gateway_that_was_away_gets_the_node_back(cloud: LocalCloud, tmp_path: Path) -> None:
    node = Node(cloud, tmp_path / "state").start()
    try:
        node.wait_online()
        cloud.faults(kind="gateway", action="stop")
        until(lambda: not node.is_connected(), "the gateway to be away")
        cloud.faults(kind="gateway", action="start")
        node.wait_online()
        found = finished(cloud, node, send(cloud, node, "echo back"))
    finally:
        node.end()

    assert found["StandardOutputContent"] == "back\n"


def test_throttled_registration_waits_says_so_and_succeeds(cloud: LocalCloud, tmp_path: Path) -> None:
    node = Node(cloud, tmp_path / "state")
    with cloud.fault(kind="throttle", action="ssm:RegisterManagedInstance", rate=0):
        node.start()
        until(lambda: node.log.exists() and "ThrottlingException" in node.log.read_text(), "throttling")
    try:
        node.wait_online()
    finally:
        node.end()

    assert "Successfully registered the instance with AWS SSM" in node.log.read_text()


def test_key_is_replaced_and_the_old_one_is_refused(
    cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service checks the signatures; see test_registration for when the agent does this."""
    if "ca_file" in cloud.info:
        monkeypatch.setenv("AWS_CA_BUNDLE", cloud.info["ca_file"])
    environ = {"AWS_ENDPOINT_URL": cloud.endpoint_url}
    api = AwsApi(cloud.info["region"], environ=environ, retry=Retry(attempts=1))
    old, new = (rsa.generate(["cryptography"]) for _ in range(2))
    instance_id = api.register_managed_instance(activate(cloud), "finger", old.public_key)
    first = api.request_role_token(instance_id, "finger", old)
    api.update_public_key(instance_id, old, new.public_key)
    second = api.request_role_token(instance_id, "finger", new)
    with pytest.raises(AwsError):
        api.request_role_token(instance_id, "finger", old)

    assert first.credentials.access_key_id != second.credentials.access_key_id
