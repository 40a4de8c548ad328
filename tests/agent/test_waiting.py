"""Waiting in a container, and the command sm-wait."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from sagemaker_ssh_helper.agent import wait, waiting
from sagemaker_ssh_helper.agent.state import State, StateDir
from sagemaker_ssh_helper.agent.waiting import Waiter, list_all, stop_all

pytestmark = pytest.mark.container

LONG = 100.0


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("SSH_STATE_DIR", str(tmp_path / "node"))
    return StateDir.choose(os.environ)


def sm_wait(*words):
    """The command in a process of its own."""
    command = [
        sys.executable,
        "-c",
        "import sys; from sagemaker_ssh_helper.agent.wait import main; sys.exit(main())",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [*command, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# --- waiters ---


def test_a_wait_ends_when_its_time_is_over(state):
    with Waiter(state, "test") as waiter:
        assert waiter.wait(0.01) is True

    assert list_all(state) == []


def test_who_let_it_go_on_has_a_moment_to_leave(state, monkeypatch):
    monkeypatch.setattr(waiting, "_LEAVE_TIMEOUT", LONG)
    state.write_sessions(["one", "another"])
    ended = threading.Event()

    def wait_for_people():
        with Waiter(state, "test") as waiter:
            begun.set()
            waiter.wait(LONG)
        ended.set()

    begun = threading.Event()
    thread = threading.Thread(target=wait_for_people)
    thread.start()
    assert begun.wait(LONG)
    stop_all(state)
    assert not ended.wait(0.5)
    state.write_sessions(["another"])
    assert ended.wait(LONG)
    thread.join()


def test_somebody_who_stays_keeps_nothing_waiting(state, monkeypatch):
    monkeypatch.setattr(waiting, "_LEAVE_TIMEOUT", 0.1)
    state.write_sessions(["one"])
    with Waiter(state, "test") as waiter:
        stop_all(state)
        assert waiter.wait(LONG) is False


def test_a_wait_is_ended_from_elsewhere_at_once(state):
    with Waiter(state, "test") as waiter:
        began_at = time.monotonic()
        thread = threading.Thread(target=stop_all, args=(state,))
        thread.start()
        ran_out = waiter.wait(LONG)
        thread.join()

    assert ran_out is False
    assert time.monotonic() - began_at < 10.0


def test_a_stop_before_the_wait_began_is_not_lost(state):
    with Waiter(state, "test") as waiter:
        assert stop_all(state) == 1

        assert waiter.wait(LONG) is False
        assert waiter.ended


def test_a_stop_at_the_moment_the_wait_begins_is_not_lost(state, monkeypatch):
    opened = os.open

    def stopped_meanwhile(path, *rest, **options):
        descriptor = opened(path, *rest, **options)
        if os.path.dirname(path) == state.waiting:
            stop_all(state)
        return descriptor

    with Waiter(state, "test") as waiter:
        monkeypatch.setattr(os, "open", stopped_meanwhile)

        assert waiter.wait(LONG) is False


def test_a_wait_ends_when_what_it_watches_says_so(state):
    answers = iter([False, False, True])

    with Waiter(state, "test") as waiter:
        assert waiter.wait(LONG, unless=lambda: next(answers)) is False
        # Not because somebody stopped it: it can wait on.
        assert not waiter.ended


def test_all_that_wait_are_stopped(state):
    with Waiter(state, "one") as one, Waiter(state, "two") as two:
        assert [entry.what for entry in list_all(state)] == ["one", "two"]
        assert stop_all(state) == 2
        assert one.ended
        assert two.ended

    assert stop_all(state) == 0


def test_a_process_that_died_waiting_is_neither_listed_nor_counted(state):
    dead = subprocess.Popen(["/bin/true"])
    dead.wait()
    os.makedirs(state.waiting)
    entry = {"pid": dead.pid, "what": "x", "since": 1.0, "until": 0.0}
    path = os.path.join(state.waiting, "1.json")
    state.write(path, json.dumps(entry).encode())

    assert list_all(state) == []
    assert not os.path.exists(path)
    state.write(path, json.dumps(entry).encode())
    assert stop_all(state) == 0


@pytest.mark.parametrize("content", [b"", b"[]", b'{"pid": "x"}', b"\xff"])
def test_a_file_that_is_none_of_ours_is_passed_over(state, content):
    os.makedirs(state.waiting)
    state.write(os.path.join(state.waiting, "odd.json"), content)

    assert (list_all(state), stop_all(state)) == ([], 0)


# --- the command ---


def test_sm_wait_is_seen_and_stopped_by_other_processes(state, capsys):
    with sm_wait("100") as process:
        assert process.stderr.readline() == "sm-wait: waiting 100 s; end it with: sm-wait stop\n"

        assert wait.main(["list"]) == 0
        listed = capsys.readouterr().out.split("\t")
        assert wait.main(["stop"]) == 0
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == "sm-wait: stopped\n"

    assert listed[:2] == [str(process.pid), "sm-wait"]
    assert listed[2].endswith(" s left\n")
    assert capsys.readouterr().out == "stopped 1 waiting\n"


def test_sm_wait_0_returns_at_once(state, capsys):
    assert wait.main(["0"]) == 0
    assert capsys.readouterr().err.endswith("sm-wait: the time is over\n")


def test_stopping_nothing_is_no_failure(state, capsys):
    assert wait.main(["stop"]) == 0
    assert capsys.readouterr().out == "nothing waits here\n"


@pytest.mark.parametrize("words", [["-1"], ["1.5"], ["forever"], ["²"], ["9" * 12]])
def test_unknown_words_are_refused(state, capsys, words):
    assert wait.main(words) == 2
    assert capsys.readouterr().err.startswith("sm-wait: error[usage]: sm-wait knows no")


@pytest.mark.parametrize("words", [[], ["1", "2"], ["stop", "now"]])
def test_a_wrong_number_of_words_shows_the_usage(state, capsys, words):
    assert wait.main(words) == 2
    assert capsys.readouterr().err == wait.USAGE


def test_help_is_no_error(state, capsys):
    assert wait.main(["--help"]) == 0
    assert capsys.readouterr().out == wait.USAGE


def test_a_container_without_a_usable_folder_is_told(monkeypatch, tmp_path, capsys):
    blocked = tmp_path / "a file"
    blocked.write_text("x")
    monkeypatch.setenv("SSH_STATE_DIR", str(blocked))

    assert wait.main(["status"]) == 9
    assert capsys.readouterr().err.startswith("sm-wait: error[local-setup]: no folder")


# --- the status ---


def test_status_of_a_container_that_was_not_set_up(state, capsys):
    assert wait.main(["status"]) == 1

    assert capsys.readouterr().out == (
        f"state:     not set up: setup_and_start_ssh() was not called here\nfolder:    {state.path}\n"
    )


def test_status_of_a_node_that_is_online(state, capsys):
    state.update_status(State.ONLINE, instance_id="mi-1", user="root", sshd_port=22, log="/log")
    lock = state.try_agent_lock()

    code = wait.main(["status"])

    lock.release()
    assert code == 0
    assert capsys.readouterr().out == (
        "state:     online\n"
        "instance:  mi-1\n"
        "user:      root\n"
        "sshd port: 22\n"
        "agent log: /log\n"
        f"folder:    {state.path}\n"
    )


def test_status_of_a_node_that_failed_says_why(state, capsys):
    state.update_status(State.FAILED, why="no role")

    assert wait.main(["status"]) == 1
    assert capsys.readouterr().out.startswith("state:     failed\nwhy:       no role\n")


@pytest.mark.parametrize("said", [State.STARTING, State.REGISTERED, State.ONLINE])
def test_a_node_whose_agent_is_gone_has_failed_whatever_it_said_last(state, capsys, said):
    state.update_status(said)

    assert wait.main(["status"]) == 1
    assert "state:     failed\nwhy:       the agent is not running any more" in capsys.readouterr().out


def test_status_of_a_damaged_file(state, capsys):
    state.write(state.status_json, b"{")

    assert wait.main(["status"]) == 1
    assert capsys.readouterr().out.startswith("state:     unknown (a file of the node is damaged")


def test_a_failure_told_just_before_the_agent_ended_is_the_reason(state, monkeypatch):
    state.update_status(State.ONLINE)

    def ends(self):
        self.update_status(State.FAILED, why="throttled")
        return False

    monkeypatch.setattr(StateDir, "has_agent", ends)

    assert waiting.true_status(state).why == "throttled"
