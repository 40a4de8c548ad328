"""Which ssh server a node gets, and what it is told when there is none."""

import os
import socket
import subprocess

import pytest

from sagemaker_ssh_helper.agent import asyncssh_server, environment, packages, ssh_servers, sshd
from sagemaker_ssh_helper.agent.sshd import Account
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.errors import LocalSetup
from sagemaker_ssh_helper.public_keys import parse_host_key

pytestmark = pytest.mark.container


@pytest.fixture
def state(tmp_path):
    made = StateDir.open(str(tmp_path / "node"), create=True)
    environment.link_package(made)
    return made


@pytest.fixture
def start(state):
    """Start a server with this SSH_SSHD; it is ended afterwards."""
    started = []

    def start(wanted=""):
        started.append(ssh_servers.start(state, {"SSH_SSHD": wanted}))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def banner(server):
    with socket.create_connection((sshd.ADDRESS, server.port), timeout=30) as connection:
        return connection.recv(100)


@pytest.fixture
def no_openssh(monkeypatch):
    monkeypatch.setattr(sshd, "find_program", lambda name: None)
    monkeypatch.setattr(packages, "_MANAGERS", {})


@pytest.mark.parametrize("wanted", ["", "auto", "installed", "OpenSSH", "something"])
def test_the_images_openssh_comes_first(start, wanted):
    assert banner(start(wanted)).startswith(b"SSH-2.0-OpenSSH")


def test_asyncssh_takes_its_place_when_it_is_not_there(start, no_openssh, state):
    server = start()

    assert banner(server).startswith(b"SSH-2.0-AsyncSSH")
    # Made without ssh-keygen, and readable for it.
    shown = subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", state.host_key], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split()[:2] == server.host_public_key.line.split()


def test_asyncssh_admits_a_uid_without_an_account(start, monkeypatch):
    def refused():
        raise LocalSetup("uid 4321 has no entry in /etc/passwd")

    monkeypatch.setattr(Account, "own", refused)

    assert banner(start()).startswith(b"SSH-2.0-AsyncSSH")


@pytest.mark.parametrize("wanted", ["openssh", "asyncssh"])
def test_who_asks_for_one_gets_no_other(start, no_openssh, monkeypatch, wanted):
    monkeypatch.setattr(asyncssh_server, "find", lambda state: None)
    with pytest.raises(LocalSetup, match="no OpenSSH server" if wanted == "openssh" else "no asyncssh"):
        start(wanted)


def test_the_agent_finds_the_same_server_again(start, state):
    started = start("asyncssh")
    found = ssh_servers.attach(state)

    assert (found.KIND, found.pid, found.port, found.user) == (
        "asyncssh",
        started.pid,
        started.port,
        started.user,
    )
    assert found.alive()
    os.kill(found.pid, 9)
    started.stop()
    assert found.keep_alive(1000.0) == f"sshd died, and was started again on port {started.port}"
    assert found.alive()
    found.stop()


def test_a_taken_port_is_no_obstacle(start, monkeypatch):
    with socket.create_server((sshd.ADDRESS, 0)) as taken:
        ports = iter([taken.getsockname()[1]])
        choose = sshd.choose_port
        monkeypatch.setattr(sshd, "choose_port", lambda **_: next(ports, None) or choose())
        server = start("asyncssh")

        assert server.port != taken.getsockname()[1]
        assert banner(server).startswith(b"SSH-2.0-AsyncSSH")


@pytest.mark.skipif(os.geteuid() != 0, reason="others are not asked to install")
def test_root_installs_openssh_when_there_is_nothing_else(start, monkeypatch, tmp_path):
    calls = tmp_path / "calls"
    manager = tmp_path / "apk"
    manager.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    manager.chmod(0o700)
    find = sshd.find_program
    monkeypatch.setattr(sshd, "find_program", lambda name: find(name) if calls.exists() else None)
    monkeypatch.setattr(asyncssh_server, "find", lambda state: None)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert banner(start()).startswith(b"SSH-2.0-OpenSSH")
    assert calls.read_text() == "add --no-cache openssh-server openssh-keygen openssh-sftp-server\n"


@pytest.mark.parametrize("wanted", ["installed", "openssh"])
def test_nothing_is_installed_when_that_is_not_wanted(start, monkeypatch, wanted):
    installs = []
    monkeypatch.setattr(sshd, "find_program", lambda name: None)
    monkeypatch.setattr(asyncssh_server, "find", lambda state: None)
    monkeypatch.setattr(packages, "install_openssh", lambda *words, **options: installs.append(words))

    with pytest.raises(LocalSetup, match="there is no OpenSSH server in this image"):
        start(wanted)
    assert installs == []


@pytest.mark.skipif(os.geteuid() != 0, reason="others are not asked to install")
def test_an_installation_has_an_end(start, monkeypatch, tmp_path):
    manager = tmp_path / "apk"
    manager.write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    manager.chmod(0o700)
    monkeypatch.setattr(sshd, "find_program", lambda name: None)
    monkeypatch.setattr(asyncssh_server, "find", lambda state: None)
    monkeypatch.setattr(packages, "START_TIMEOUT", 0.2)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(LocalSetup, match="there is no OpenSSH server in this image"):
        start()


def test_asyncssh_is_found_where_the_job_finds_it(state, tmp_path, monkeypatch):
    folder = tmp_path / "packages"
    (folder / "asyncssh").mkdir(parents=True)
    (folder / "asyncssh" / "__init__.py").touch()
    state.write(state.environment, b"PYTHONPATH=/none:" + os.fsencode(folder) + b"\0")
    monkeypatch.setattr(asyncssh_server.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(asyncssh_server.site, "getusersitepackages", lambda: "/none")

    assert asyncssh_server.find(state) == str(folder)
    state.write(state.environment, b"")
    assert asyncssh_server.find(state) is None


def test_asyncssh_makes_the_type_of_host_key_that_its_library_has(state, monkeypatch):
    class Limited:
        @staticmethod
        def generate_private_key(key_type):
            if key_type == "ssh-ed25519":
                raise ValueError("not in FIPS mode")
            return asyncssh.generate_private_key(key_type)

    asyncssh = pytest.importorskip("asyncssh")
    monkeypatch.delenv("SSH_PUBLIC_KEY", raising=False)
    asyncssh_server._make_host_key(state, Limited)
    with open(f"{state.host_key}.pub") as file:
        assert parse_host_key(file.read()).type == "ecdsa-sha2-nistp256"
