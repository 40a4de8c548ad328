"""The command sm-hold: a container is kept when its command failed, and no exit status is changed."""

import os
import signal
import subprocess
import sys

import pytest

from agent.job_script import DEAF, eventually, processes_of
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.agent.waiting import list_all, stop_all

pytestmark = pytest.mark.container

LONG = "1000"
# It must not outlive a test that fails.
SLEEPS = "import signal, sys; {}; print('ready', flush=True); signal.alarm(60); signal.pause()"


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("SSH_STATE_DIR", str(tmp_path / "node"))
    monkeypatch.delenv("START_SSH", raising=False)
    return StateDir.choose(os.environ)


def sm_hold(*words, prefix=()):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "sagemaker_ssh_helper.agent.hold", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """Its exit status and what it wrote."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_command_that_succeeds_is_not_held(state):
    assert ended(sm_hold("--for", LONG, "--", "/bin/sh", "-c", "echo done")) == (0, "done\n", "")


def test_a_failed_command_is_held_until_sm_wait_stop(state):
    process = sm_hold("--for", LONG, "--", "/bin/sh", "-c", "exit 7")

    assert process.stderr.readline() == (
        "sm-hold: the command failed, exit status 7; kept for 1000 s, or until: sm-wait stop\n"
    )
    assert [(entry.pid, entry.what) for entry in list_all(state)] == [(process.pid, "sm-hold")]
    assert stop_all(state) == 1
    assert ended(process) == (7, "", "sm-hold: stopped\n")


def test_a_failed_command_is_held_for_the_time_that_was_set(state):
    status, _, said = ended(sm_hold("--for", "0", "--", "/bin/sh", "-c", "exit 3"))

    assert status == 3
    assert said.splitlines()[-1] == "sm-hold: the time is over"


def test_a_command_that_a_signal_ended_counts_as_failed(state):
    status, _, said = ended(sm_hold("--for", "0", "--", "/bin/sh", "-c", "kill -KILL $$"))

    assert status == 128 + signal.SIGKILL
    assert "exit status 137" in said


def test_a_command_that_failed_is_known_where_the_ends_of_children_are_ignored(state):
    status, _, said = ended(sm_hold("--for", "0", "--", "/bin/sh", "-c", "exit 7", prefix=DEAF))

    assert status == 7
    assert "exit status 7" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_end_goes_to_the_command_and_holds_nothing(state, number):
    handles = SLEEPS.format(f"signal.signal({number:d}, lambda *_: sys.exit(5))")
    process = sm_hold("--for", LONG, "--", sys.executable, "-c", handles)
    assert process.stdout.readline() == "ready\n"

    process.send_signal(number)

    assert ended(process) == (5, "", "")


# Its words, as the first program of a terminal.
ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "sagemaker_ssh_helper.agent.hold", *sys.argv[1:]])
"""
COUNTS = """
import signal, sys, time
got = []
signal.signal(signal.SIGINT, lambda *_: got.append(1))
signal.alarm(60)
print("ready", flush=True)
while not got:
    signal.pause()
time.sleep(0.3)
sys.exit(len(got))
"""


def test_a_key_of_the_terminal_is_one_signal_for_the_command(state):
    primary, replica = os.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-c", ON_TERMINAL, "--for", LONG, "--", sys.executable, "-c", COUNTS],
        env=environment,
        stdin=replica,
        stdout=replica,
        stderr=replica,
        start_new_session=True,
    )
    os.close(replica)
    with open(primary, "r+b", buffering=0) as terminal:
        assert terminal.readline() == b"ready\r\n"
        terminal.write(b"\x03")
        assert process.wait(60) == 1


def test_sigterm_ends_a_hold_with_the_status_of_the_command(state):
    process = sm_hold("--for", LONG, "--", "/bin/sh", "-c", "exit 9")
    assert "kept for" in process.stderr.readline()

    process.terminate()

    assert ended(process) == (9, "", "sm-hold: stopped\n")


def test_ssh_is_set_up_for_a_command_that_failed_before_it_did_so(state, monkeypatch):
    monkeypatch.setenv("START_SSH", "true")
    monkeypatch.setenv("SSH_WAIT_TIME_SECONDS", LONG)
    monkeypatch.setenv("TRAINING_JOB_NAME", "job")
    with state.lock("agent", wait=False):
        # Somebody else has set it up: it is left alone.
        assert ended(sm_hold("--for", "0", "--", "/bin/false"))[0] == 1
    assert state.read_status() is None

    # No region: the set-up fails, and that changes nothing for the job.
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    assert ended(sm_hold("--for", "0", "--", "/bin/false"))[0] == 1
    assert state.read_status() is not None
    # When its process is gone, so that it writes nothing after the test.
    state.lock("agent", wait=True).release()


def test_a_folder_that_cannot_be_used_changes_no_exit_status(tmp_path, state, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SSH_STATE_DIR", str(tmp_path / "file" / "node"))

    status, _, said = ended(sm_hold("--for", LONG, "--", "/bin/sh", "-c", "exit 4"))

    assert status == 4
    assert said.startswith("sm-hold: the container is not kept: ")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "there is no command after --"),
        (["true"], 2, "there is no command after --"),
        (["--"], 2, "there is no command after --"),
        (["--for", "ever", "--", "true"], 2, "'ever' is no number of seconds"),
        (["--", "/no/such/program"], 127, "cannot run /no/such/program"),
        (["--", "/"], 126, "cannot run /"),
    ],
)
def test_words_that_cannot_be_run_are_told_at_once(state, words, status, said):
    found, _, err = ended(sm_hold(*words))

    assert found == status
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("may", [True, False], ids=["its role may", "its role may not"])
def test_the_node_leaves_the_list_with_the_container(environment, aws, may):
    denied = (400, {"__type": "AccessDeniedException"})
    aws.answers.update(
        {
            "RegisterManagedInstance": (200, {"InstanceId": "mi-00000000000000001"}),
            "RequestManagedInstanceRoleToken": denied,
            "DeregisterManagedInstance": (200, {}) if may else denied,
        }
    )
    script = (
        "from sagemaker_ssh_helper import setup_and_start_ssh; setup_and_start_ssh(); import os, time\n"
        "from sagemaker_ssh_helper.agent.state import StateDir\n"
        "while not StateDir.open(os.environ['SSH_STATE_DIR']).read_status().instance_id: time.sleep(0.02)"
    )
    hold = [sys.executable, "-m", "sagemaker_ssh_helper.agent.hold", "--", sys.executable, "-c", script]
    done = subprocess.run(hold, env=environment, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0
    (said,) = done.stderr.splitlines()
    assert said.endswith("Managed instance-id: mi-00000000000000001")
    assert aws.parameters("DeregisterManagedInstance") == [{"InstanceId": "mi-00000000000000001"}]
    eventually(lambda: not processes_of(environment["SSH_STATE_DIR"]))
