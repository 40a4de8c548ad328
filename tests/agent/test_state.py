"""The node's folder: where it is, who may touch it, and that its files are never half written."""

import json
import os
import stat
import subprocess
import sys
import threading

import pytest

from sagemaker_ssh_helper.agent import state as state_module
from sagemaker_ssh_helper.agent.state import AgentConfig, State, StateDir, candidates
from sagemaker_ssh_helper.errors import LocalSetup

pytestmark = pytest.mark.container


@pytest.fixture
def state(tmp_path):
    return StateDir.open(str(tmp_path / "node"), create=True)


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


# --- the folder ---


def test_the_environment_names_the_folder_and_then_no_other_is_tried(tmp_path):
    wanted = tmp_path / "here"

    assert StateDir.choose({"SSH_STATE_DIR": str(wanted), "HOME": str(tmp_path)}).path == str(wanted)
    assert candidates({"SSH_STATE_DIR": "/x", "HOME": "/home/me"}) == ["/x"]


def test_the_candidates_are_the_system_place_then_home_then_the_temporary_folder():
    temporary = f"/tmp/sagemaker-ssh-helper-{os.geteuid()}"

    assert candidates({"HOME": "/home/me"}) == [
        "/var/lib/sagemaker-ssh-helper",
        "/home/me/.sagemaker-ssh-helper",
        temporary,
    ]
    assert candidates({}) == ["/var/lib/sagemaker-ssh-helper", temporary]
    assert candidates({"HOME": "/"}) == candidates({"HOME": "relative"}) == candidates({})


def test_the_first_usable_candidate_is_taken(tmp_path, monkeypatch):
    blocked = tmp_path / "a file"
    blocked.write_text("x")
    usable = tmp_path / "usable"
    monkeypatch.setattr(
        state_module, "candidates", lambda environ: [str(blocked / "below"), str(blocked), str(usable)]
    )

    assert StateDir.choose({}).path == str(usable)


def test_no_usable_candidate_is_told_with_every_reason(tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("x")

    with pytest.raises(LocalSetup, match="is no folder") as caught:
        StateDir.choose({"SSH_STATE_DIR": str(blocked)})

    assert "SSH_STATE_DIR" in str(caught.value)


def test_a_new_folder_is_closed_to_others_and_so_are_its_parents_to_writers(tmp_path):
    state = StateDir.open(str(tmp_path / "deep" / "er" / "node"), create=True)

    assert mode_of(state.path) == 0o700
    assert mode_of(tmp_path / "deep") & 0o022 == 0


def test_an_open_folder_of_ours_is_closed(tmp_path):
    (tmp_path / "node").mkdir(mode=0o755)

    assert mode_of(StateDir.open(str(tmp_path / "node")).path) == 0o700


def test_a_folder_that_anyone_could_replace_is_refused(tmp_path):
    parent = tmp_path / "open to all"
    parent.mkdir()
    parent.chmod(0o777)

    with pytest.raises(LocalSetup, match="replaced by anyone"):
        StateDir.open(str(parent / "node"), create=True)


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "node").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    with pytest.raises(LocalSetup, match="belongs to uid"):
        StateDir.open(str(tmp_path / "node"))


def test_a_symbolic_link_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "target").mkdir()
    (tmp_path / "node").symlink_to(tmp_path / "target")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    with pytest.raises(LocalSetup, match="symbolic link"):
        StateDir.open(str(tmp_path / "node"))


def test_a_folder_that_is_not_there_is_not_made_unless_asked(tmp_path):
    with pytest.raises(FileNotFoundError):
        StateDir.open(str(tmp_path / "node"))


def test_the_agent_log_is_in_the_folder_when_the_system_place_is_closed(state, monkeypatch, tmp_path):
    system = tmp_path / "var" / "ssm" / "agent.log"
    monkeypatch.setattr(state_module, "AGENT_LOG_PATH", str(system))
    assert state.agent_log == str(system)

    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert state.agent_log == os.path.join(state.path, "agent.log")


# --- files ---


def test_a_file_is_replaced_whole_and_closed_to_others(state):
    old_umask = os.umask(0)
    try:
        state.write(state.environment, b"first")
        state.write(state.environment, b"second")
    finally:
        os.umask(old_umask)

    assert state.read(state.environment) == b"second"
    assert mode_of(state.environment) == 0o600
    assert os.listdir(state.path) == ["environment"]


def test_a_file_that_cannot_be_written_keeps_its_content_and_leaves_nothing_behind(state, monkeypatch):
    state.write(state.environment, b"first")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        state.write(state.environment, b"second")

    assert state.read(state.environment) == b"first"
    assert os.listdir(state.path) == ["environment"]


def test_a_leftover_of_a_process_that_died_is_no_obstacle(state):
    with open(f"{state.environment}.{os.getpid()}.tmp", "w") as leftover:
        leftover.write("half")

    state.write(state.environment, b"whole")

    assert state.read(state.environment) == b"whole"


def test_a_file_that_is_not_there_reads_as_none(state):
    assert state.read(state.environment) is None
    assert state.read_status() is None
    assert state.read_config() is None


# --- the status ---


def test_a_status_keeps_what_is_not_changed(state):
    state.update_status(State.STARTING, why="setting up", sshd_port=22, user="root")

    status = state.update_status(State.REGISTERED, instance_id="mi-1")

    assert (status.state, status.why, status.sshd_port, status.user) == (State.REGISTERED, "", 22, "root")
    assert state.read_status() == status
    assert json.loads(state.read(state.status_json))["state"] == "registered"


def test_a_change_without_a_new_state_keeps_the_reason(state):
    state.update_status(State.FAILED, why="no role")

    assert state.update_status(log="/x").why == "no role"


def test_changes_from_several_threads_are_all_kept(state):
    state.begin("setting up")
    changes = [{"sshd_port": 7}, {"user": "me"}, {"log": "/log"}, {"instance_id": "mi-2"}]
    threads = [threading.Thread(target=state.update_status, kwargs=change) for change in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    status = state.read_status()

    assert (status.sshd_port, status.user, status.log, status.instance_id) == (7, "me", "/log", "mi-2")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"state": "sleeping"}', b"\xff"])
def test_a_damaged_status_is_refused_when_read_and_mended_when_written(state, content):
    state.write(state.status_json, content)

    with pytest.raises(LocalSetup, match="damaged"):
        state.read_status()

    assert state.update_status(State.ONLINE).state is State.ONLINE


def test_a_status_of_a_newer_version_is_read_without_what_is_unknown(state):
    state.write(state.status_json, b'{"state": "online", "moon": "full"}')

    assert state.read_status().state is State.ONLINE


def test_beginning_anew_forgets_the_earlier_registration(state):
    for path in (state.registration_json, state.agent_json, state.agent_key):
        state.write(path, b"{}")
    state.update_status(State.FAILED, why="old", instance_id="mi-old", sshd_port=3)

    state.begin("setting up")

    assert state.read_status().instance_id == ""
    assert state.read_status().state is State.STARTING
    assert not os.path.exists(state.registration_json)
    assert not os.path.exists(state.agent_json)
    assert not os.path.exists(state.agent_key)


def test_the_agents_configuration_comes_back_as_it_was_and_does_not_print_its_secret(state):
    config = AgentConfig("eu-west-1", "id", "the secret code", "algo-1.j.sagemaker", 22, "/log", True)
    state.write_config(config)

    assert state.read_config() == config
    assert mode_of(state.agent_json) == 0o600
    assert "the secret code" not in repr(config)


# --- locks ---


def test_the_agents_lock_is_held_once(state):
    assert not state.has_agent()
    lock = state.try_agent_lock()
    assert state.has_agent()
    assert state.try_agent_lock() is None

    lock.release()
    assert not state.has_agent()
    state.try_agent_lock().release()


def test_a_lock_lives_in_the_process_that_inherited_it(state):
    lock = state.try_agent_lock()
    heir = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fileno], cwd="/"
    )
    lock.release()
    assert state.has_agent()

    heir.communicate(b"\n", timeout=60)
    assert not state.has_agent()
