"""The agent as a process: started, online, used, told to end."""

import asyncio
import base64
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from agent.agent_thread import make_config
from agent.fake_service import MI, TIMEOUT, FakeService
from sagemaker_ssh_helper.agent import daemon as daemon_module
from sagemaker_ssh_helper.agent import official, packages, rsa
from sagemaker_ssh_helper.agent.state import State, StateDir
from sagemaker_ssh_helper.agent.transport import DEFAULT_TIMEOUT
from sagemaker_ssh_helper.errors import LocalSetup

pytestmark = pytest.mark.container


@pytest.fixture(scope="module")
def key() -> bytes:
    return base64.b64encode(rsa.generate(["openssl", "python"]).serialize())


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


class Daemon:
    """One process of the agent, in a folder as the set-up leaves it."""

    def __init__(self, service: FakeService, folder: Path, key: bytes, **config: Any) -> None:
        self.service = service
        self.state = StateDir.open(str(folder), create=True)
        self.log = folder / "agent.log"
        self.state.write(self.state.agent_key, key)
        self.state.write_config(make_config(log_path=str(self.log), **config))
        self.process: subprocess.Popen[bytes]

    def start(self, **environ: str) -> "Daemon":
        command = [sys.executable, "-m", "sagemaker_ssh_helper.agent.daemon", "--state", self.state.path]
        self.process = subprocess.Popen(
            command,
            env={
                "PATH": os.environ["PATH"],
                "AWS_ENDPOINT_URL": self.service.url,
                "AWS_EC2_METADATA_DISABLED": "true",
                **paths(),
                **environ,
            },
            stderr=subprocess.PIPE,
        )
        return self

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=TIMEOUT)

    def wait_for(self, state: State) -> "Daemon":
        def reached() -> bool:
            status = self.state.read_status()
            return status is not None and status.state is state

        self.service.wait(reached, state.value)
        if state is State.ONLINE:
            # The service may notice it a moment later.
            self.service.wait_online()
        return self

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)

    @property
    def why(self) -> str:
        status = self.state.read_status()
        assert status is not None
        return status.why


def paths() -> "dict[str, str]":
    return {name: os.environ[name] for name in ("PYTHONPATH", "HOME") if name in os.environ}


def test_process_comes_online_and_ends_when_told(service: FakeService, tmp_path: Path, key: bytes) -> None:
    with Daemon(service, tmp_path / "state", key).start() as daemon:
        daemon.wait_for(State.ONLINE)
        online = daemon.state.read_status()
        status = daemon.end()

    log = daemon.log.read_text()
    assert status == 0
    assert online is not None
    assert online.instance_id == MI
    assert service.operations()[:3] == [
        "RegisterManagedInstance",
        "RequestManagedInstanceRoleToken",
        "UpdateInstanceInformation",
    ]
    assert f"Successfully registered the instance with AWS SSM using Managed instance-id: {MI}" in log
    assert (daemon.state.read_status() or online).state is State.FAILED
    assert daemon.why == "the agent was told to end"
    assert "the-activation-code" not in log
    assert "token-" not in log


def test_restart_uses_the_registration_again(service: FakeService, tmp_path: Path, key: bytes) -> None:
    with Daemon(service, tmp_path / "state", key).start() as daemon:
        daemon.wait_for(State.ONLINE).end()
        daemon.process.communicate()
        daemon.start().wait_for(State.ONLINE)

    assert service.operations().count("RegisterManagedInstance") == 1


JOB_KEYS = {"AWS_ACCESS_KEY_ID": "AKIAJOB", "AWS_SECRET_ACCESS_KEY": "job"}


def test_ended_node_is_deregistered_by_the_jobs_role(
    service: FakeService, tmp_path: Path, key: bytes
) -> None:
    service.answers["DeregisterManagedInstance"] = [(200, {})]
    with Daemon(service, tmp_path / "state", key).start(**JOB_KEYS) as daemon:
        status = daemon.wait_for(State.ONLINE).end()

    assert status == 0
    assert service.operations()[-1] == "DeregisterManagedInstance"
    assert f"= {MI} is deregistered" in daemon.log.read_text()
    assert not os.path.exists(daemon.state.registration_json)


@pytest.mark.parametrize(
    "answer",
    [(400, {"__type": "AccessDeniedException"}), (500, {}), None],
    ids=["denied", "trouble", "silence"],
)
def test_node_that_may_not_be_deregistered_ends_in_silence_and_in_time(
    service: FakeService, tmp_path: Path, key: bytes, answer: Any
) -> None:
    environ = dict(JOB_KEYS)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if answer is None:
            # The keys come from somebody who does not answer.
            environ = {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{silent.getsockname()[1]}/role"
            }
        else:
            service.answers["DeregisterManagedInstance"] = [answer]
        with Daemon(service, tmp_path / "state", key).start(**environ) as daemon:
            daemon.wait_for(State.ONLINE)
            logged = len(daemon.log.read_text())
            began_at = time.monotonic()
            status = daemon.end()
            took = time.monotonic() - began_at

    assert status == 0
    assert took < DEFAULT_TIMEOUT
    assert [line[24:] for line in daemon.log.read_text()[logged:].splitlines()] == [
        "INFO = the agent was told to end"
    ]
    assert os.path.exists(daemon.state.registration_json)


def test_auto_makes_room_for_the_official_agent_when_ours_stays_offline(
    service: FakeService, tmp_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, with a shorter patience, and without installing anything."""
    service.answers["RequestManagedInstanceRoleToken"] = [(400, {"__type": "AccessDeniedException"})]
    done: List[str] = []
    monkeypatch.setattr(daemon_module, "WATCHDOG_TIMEOUT", 0.5)
    monkeypatch.setattr(packages, "install_official_agent", lambda say: done.append("installed"))
    monkeypatch.setattr(official, "configure", lambda region, environ: done.append("configured"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", service.url)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    node = Daemon(service, tmp_path / "state", key, agent="auto")

    assert daemon_module.main(["--state", node.state.path]) == daemon_module.EXIT_OFFICIAL
    assert done == ["installed", "configured"]
    status = node.state.read_status()
    assert status is not None
    assert (status.state, status.why) == (State.STARTING, "the official agent takes over")


@pytest.mark.parametrize("agent", ["auto", "embedded"])
def test_ours_goes_on_where_no_other_can_be_had(
    service: FakeService, tmp_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch, agent: str
) -> None:
    refused = threading.Event()

    def refuse(say: object) -> None:
        refused.set()
        raise LocalSetup("no package manager has it")

    service.answers["RequestManagedInstanceRoleToken"] = [(400, {"__type": "AccessDeniedException"})]
    monkeypatch.setattr(daemon_module, "WATCHDOG_TIMEOUT", 0.2)
    monkeypatch.setattr(packages, "install_official_agent", refuse)
    monkeypatch.setenv("AWS_ENDPOINT_URL", service.url)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    node = Daemon(service, tmp_path / "state", key, agent=agent)
    config = node.state.read_config()
    assert config is not None
    ours = daemon_module.Agent(node.state, config)

    async def run() -> None:
        running = asyncio.ensure_future(ours.run())
        if agent == "auto":
            await asyncio.get_running_loop().run_in_executor(None, refused.wait, TIMEOUT)
        done, _ = await asyncio.wait([running], timeout=1.0)
        assert not done
        ours.stop()
        await running

    asyncio.run(run())
    assert refused.is_set() == (agent == "auto")


def test_second_agent_of_a_node_gives_way(service: FakeService, tmp_path: Path, key: bytes) -> None:
    with Daemon(service, tmp_path / "state", key).start() as daemon:
        daemon.wait_for(State.ONLINE)
        command = [*daemon.process.args]  # type: ignore[misc]  # a list, see start()
        second = subprocess.run(command, stderr=subprocess.PIPE, timeout=TIMEOUT, check=False)

    assert second.returncode == 3
    assert second.stderr == b"another agent of this node is running\n"
    assert service.control_openings == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sessions_end_with_the_agent(service: FakeService, tmp_path: Path, key: bytes, number: int) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with Daemon(service, tmp_path / "state", key).start() as daemon:
            daemon.wait_for(State.ONLINE)
            client = service.offer_session(listener.getsockname()[1]).wait_ready()
            connection, _ = listener.accept()
            status = daemon.end(number)
        with connection:
            rest = connection.recv(1)

    assert status == 0
    assert service.result(client).final_status == "Cancelled"
    assert rest == b""


def test_agent_can_be_told_to_end_while_it_waits_for_the_service(
    service: FakeService, tmp_path: Path, key: bytes
) -> None:
    service.answers["RegisterManagedInstance"] = [(400, {"__type": "ThrottlingException"})]
    with Daemon(service, tmp_path / "state", key).start() as daemon:
        service.wait(lambda: len(service.calls) >= 1, "a registration")
        status = daemon.end()

    assert status == 0
    assert "registered" not in daemon.log.read_text().lower().replace("not registered", "")


def test_agent_can_be_told_to_end_while_a_call_hangs(tmp_path: Path, key: bytes) -> None:
    with socket.socket() as silent, FakeService() as service:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Daemon(service, tmp_path / "state", key).start(AWS_ENDPOINT_URL=url) as daemon:
            connection, _ = silent.accept()
            with connection:
                began_at = time.monotonic()
                status = daemon.end()
                took = time.monotonic() - began_at

    assert status == 0
    assert took < DEFAULT_TIMEOUT


def test_refused_activation_is_told_in_the_state(service: FakeService, tmp_path: Path, key: bytes) -> None:
    service.answers["RegisterManagedInstance"] = [
        (400, {"__type": "ActivationExpired", "message": "The activation is no longer valid"})
    ]
    with Daemon(service, tmp_path / "state", key).start() as daemon:
        status = daemon.process.wait(TIMEOUT)

    assert status == 1
    assert daemon.wait_for(State.FAILED).why == (
        "RegisterManagedInstance failed (ActivationExpired: The activation is no longer valid)"
    )


def test_refused_role_token_is_told_while_it_is_tried_again(
    service: FakeService, tmp_path: Path, key: bytes
) -> None:
    service.answers["RequestManagedInstanceRoleToken"] = [(400, {"__type": "AccessDeniedException"})]
    with Daemon(service, tmp_path / "state", key).start() as daemon:
        service.wait(lambda: daemon.state.read_status() is not None and daemon.why != "", "a reason")
        why = daemon.why
        status = daemon.end()

    assert status == 0
    assert why == "RequestManagedInstanceRoleToken failed (AccessDeniedException)"


def test_folder_without_a_set_up_is_refused(tmp_path: Path) -> None:
    folder = StateDir.open(str(tmp_path / "state"), create=True).path
    command = [sys.executable, "-m", "sagemaker_ssh_helper.agent.daemon"]
    missing = subprocess.run([*command, "--state", folder], stderr=subprocess.PIPE, check=False)
    usage = subprocess.run(command, stderr=subprocess.PIPE, check=False)

    assert missing.returncode == 1
    assert b"agent.json is not there. Call setup_and_start_ssh() first" in missing.stderr
    assert b"usage: python -m sagemaker_ssh_helper.agent.daemon" in usage.stderr


def resident_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def test_memory_stays_small_with_ten_sessions_and_after_many(
    service: FakeService, tmp_path: Path, key: bytes
) -> None:
    """The product's limit is 60 MB; the slope over thousands of sessions is the soak test's."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        connections: List[socket.socket] = []
        accepting = threading.Thread(target=_accept_all, args=(listener, connections), daemon=True)
        accepting.start()
        port = listener.getsockname()[1]
        with Daemon(service, tmp_path / "state", key).start() as daemon:
            daemon.wait_for(State.ONLINE)
            for _ in range(100):
                client = service.offer_session(port).wait_ready()
                client.close()
                service.result(client)
            for _ in range(10):
                service.offer_session(port).wait_ready()
            used_kb = resident_kb(daemon.process.pid)
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(TIMEOUT)
        for connection in connections:
            connection.close()

    assert used_kb < 60 << 10


def _accept_all(listener: socket.socket, connections: List[socket.socket]) -> None:
    while True:
        try:
            connections.append(listener.accept()[0])
        except OSError:
            return
