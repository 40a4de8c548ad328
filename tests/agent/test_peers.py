"""What a node's ssh knows of the other nodes of its job."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from sagemaker_ssh_helper.agent import environment, peers, sshd
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.errors import LocalSetup
from sagemaker_ssh_helper.node_keys import NodeKey

pytestmark = pytest.mark.container

KEY = NodeKey(bytes(range(32)), bytes(range(32, 64)))
ADDRESSES = {"algo-1": "127.0.77.1", "algo-2": "127.0.77.2", "algo-3": "127.0.77.3"}


@pytest.fixture
def state(tmp_path, monkeypatch):
    made = StateDir.open(str(tmp_path / "node"), create=True)
    environment.write_programs(made)
    monkeypatch.setattr(peers, "_address", ADDRESSES.get)
    monkeypatch.setattr(peers, "_OWN_NAME_TIMEOUT", 0.0)
    return made


@pytest.fixture
def start(state, tmp_path):
    """Start the server of a node of a job like this one; it is ended afterwards."""
    started = []

    def start(here="algo-1", hosts=("algo-1", "algo-2", "algo-3"), key=KEY.text, **environ):
        folder = tmp_path / "ml" / "input" / "config"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "resourceconfig.json").write_text(json.dumps({"current_host": here, "hosts": hosts}))
        server = peers.start(
            state, {"SAGEMAKER_BASE_DIR": str(tmp_path / "ml"), "SSH_NODE_KEY": key, **environ}
        )
        if server is not None:
            started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


def settings(state, host):
    """What ssh would do for this name."""
    done = subprocess.run([f"{state.bin}/ssh", "-G", host], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def test_one_key_is_host_key_and_login(start, state):
    server = start()

    assert (server.address, server.port) == ("127.0.77.1", peers.PORT)
    assert server.host_public_key == KEY.public
    shown = settings(state, "algo-2")
    assert (shown["port"], shown["hostkeyalias"], shown["stricthostkeychecking"]) == (
        str(peers.PORT),
        "sagemaker-ssh-helper-node",
        "true",
    )
    assert KEY.public.line in Path(shown["userknownhostsfile"]).read_text()
    assert "proxycommand" not in shown
    assert "SSH_INSTANCE_COUNT is 2" in settings(state, "algo-3")["proxycommand"]
    assert settings(state, "github.com")["port"] == "22"


def test_only_the_nodes_of_the_job_may_log_in(start, state):
    server = start(SSH_INSTANCE_COUNT="all")
    folder = peers._folder(state, create=False)
    # The thread that admits them may be at it still.
    peers._admit(folder, peers.Peers("algo-1", tuple(ADDRESSES), 3), "127.0.77.1", KEY)
    line = folder.read(folder.authorized_keys).decode()
    assert line == f'from="127.0.77.1,127.0.77.2,127.0.77.3" {KEY.public.line}\n'
    assert sshd.read_authorized(state) == []
    assert server.alive()


def test_the_agent_finds_it_again(start, state):
    assert peers.attach(state) is None
    server = start()
    found = peers.attach(state)
    assert (found.pid, found.address, found.port) == (server.pid, server.address, server.port)
    assert found.keep_alive(0.0) is None


@pytest.mark.parametrize(
    "job",
    [
        {"key": ""},
        {"hosts": ("algo-1",)},
        {"SSH_INSTANCE_COUNT": "1"},
        {"here": "algo-3"},
        {"hosts": ()},
    ],
)
def test_nothing_is_started_where_nobody_else_is(start, state, job):
    assert start(**job) is None
    assert not os.path.exists(f"{state.bin}/ssh")


@pytest.mark.parametrize(
    ("job", "why"),
    [
        ({"key": "no key"}, "SSH_NODE_KEY is not used"),
        (
            {"here": "algo-4", "hosts": ("algo-1", "algo-4"), "SSH_INSTANCE_COUNT": "all"},
            "algo-4 has no address",
        ),
    ],
)
def test_what_keeps_it_from_starting_is_told(start, job, why):
    with pytest.raises(LocalSetup, match=why):
        start(**job)


def test_an_own_name_that_comes_late_is_waited_for(start, state, monkeypatch):
    answers = iter([None, None, "127.0.77.1"])
    monkeypatch.setattr(peers, "_OWN_NAME_TIMEOUT", 60.0)
    monkeypatch.setattr(peers, "_NAMES_INTERVAL", 0.0)
    monkeypatch.setattr(peers, "_address", lambda host: next(answers, "127.0.77.1"))

    assert start().address == "127.0.77.1"


def test_nodes_of_ten_and_more_are_counted_by_number(start, state, monkeypatch):
    hosts = [f"algo-{number}" for number in (1, 10, 11, 2, 3)]
    monkeypatch.setattr(peers, "_address", lambda host: "127.0.77.1")
    start(hosts=hosts, SSH_INSTANCE_COUNT="3")
    assert "proxycommand" not in settings(state, "algo-3")
    assert "proxycommand" in settings(state, "algo-10")
