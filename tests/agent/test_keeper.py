"""The process above the agent, with agents that do as they are told: real processes, short pauses."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Sequence

import pytest

from agent.job_script import DEAF, SOURCE, TIMEOUT, eventually
from sagemaker_ssh_helper.agent.state import State, StateDir

pytestmark = pytest.mark.container

# The agent's module is another one; each start does the next thing that it finds in a file.
KEEPER = """
import os, signal, sys, time, types
sys.path.insert(0, sys.argv.pop(1))
from sagemaker_ssh_helper.agent import keeper
from sagemaker_ssh_helper.agent.state import State, StateDir
keeper.FIRST_PAUSE = float(sys.argv.pop(1))

def main(words):
    state = StateDir.open(words[0])
    with open(os.path.join(state.path, "starts"), "a+") as starts:
        starts.write(".")
        starts.flush()
        starts.seek(0)
        done = len(starts.read())
    with open(os.path.join(state.path, "plan")) as plan:
        things = plan.read().split()
    thing = things[min(done, len(things)) - 1]
    if thing == "online":
        state.update_status(State.ONLINE, instance_id="mi-0123456789abcdef0")
        thing = "killed"
    if thing == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if thing == "failed":
        state.update_status(State.FAILED, why="the agent failed: ValueError: odd")
        return keeper.EXIT_DIED
    if thing == "raises":
        raise ImportError("half of the package is gone")
    if thing == "stays":
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
        state.write(state.agent_pid, b"%d" % os.getpid())
        while True:
            signal.pause()
    return int(thing)

node = types.ModuleType("sagemaker_ssh_helper.agent.node")
node.main = main
sys.modules["sagemaker_ssh_helper.agent.node"] = node
import sagemaker_ssh_helper.agent
sagemaker_ssh_helper.agent.node = node
sys.exit(keeper.main(sys.argv[1:]))
"""


class Kept:
    """A keeper whose agents follow a plan, in the name of a job that prints what it is told."""

    def __init__(
        self, folder: Path, plan: str, *, told: str, first_pause: float, prefix: Sequence[str] = ()
    ) -> None:
        self.state = StateDir.open(str(folder / "node"), create=True)
        self.state.begin("setting up")
        (folder / "node" / "plan").write_text(plan)
        self.log = folder / "agent.log"
        self.job = subprocess.Popen(["sleep", str(TIMEOUT)], stderr=subprocess.PIPE)
        words = [self.state.path, str(self.log), str(self.job.pid), "-1", told]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-c", KEEPER, str(SOURCE), str(first_pause), *words], stderr=log
            )

    def end(self) -> int:
        return self.process.wait(TIMEOUT)

    @property
    def starts(self) -> int:
        return len(self.state.read(os.path.join(self.state.path, "starts")) or b"")

    @property
    def status(self):
        return self.state.read_status()

    def told(self) -> str:
        """What the job's log has of it."""
        self.job.kill()
        self.job.wait()
        return self.job.stderr.read().decode()


@pytest.fixture
def keep(tmp_path):
    kept = []

    def keep(plan, *, told="tell-job", first_pause=0.01, prefix=()):
        kept.append(Kept(tmp_path, plan, told=told, first_pause=first_pause, prefix=prefix))
        return kept[-1]

    yield keep
    for one in kept:
        one.process.kill()
        one.process.wait()
        one.job.kill()
        one.job.wait()
        one.job.stderr.close()


def test_an_agent_that_dies_is_started_again_until_it_ends_by_itself(keep):
    kept = keep("killed failed online 0")

    assert kept.end() == 0
    assert kept.starts == 4
    log = kept.log.read_text()
    assert "the agent died (signal 9) and will be started again" in log
    assert "the agent died (the agent failed: ValueError: odd) and will be started again" in log
    assert kept.status.state is State.REGISTERED
    assert kept.told() == ""


def test_an_agent_that_says_why_it_ends_stays_ended(keep):
    kept = keep("1")

    assert kept.end() == 1
    assert kept.starts == 1
    assert kept.log.read_text() == ""


@pytest.mark.parametrize(
    ("plan", "told", "is_said"),
    [
        ("killed", "tell-job", True),
        ("raises", "tell-job", True),
        ("online killed", "quiet", True),
        # Whoever waits for it to be online says it.
        ("killed", "quiet", False),
    ],
)
def test_an_agent_that_dies_again_and_again_is_given_up(keep, plan, told, is_said):
    kept = keep(plan, told=told)

    assert kept.end() == 1
    assert kept.starts == 5
    how = "it failed" if plan == "raises" else "signal 9"
    why = f"the agent died 5 times soon after its start ({how}). See {kept.log}"
    assert kept.log.read_text().count("ImportError\n") == (5 * (plan == "raises"))
    assert (kept.status.state, kept.status.why) == (State.FAILED, why)
    assert kept.told() == (f"sagemaker-ssh-helper: no ssh in this container: {why}\n" if is_said else "")


def test_a_signal_is_passed_on(keep):
    kept = keep("stays")
    eventually(lambda: kept.state.read(kept.state.agent_pid))
    kept.process.send_signal(signal.SIGTERM)

    assert kept.end() == 0
    assert kept.starts == 1


def test_a_signal_between_two_agents_ends_it(keep):
    kept = keep("killed", first_pause=10 * TIMEOUT)
    eventually(lambda: kept.state.read(kept.state.agent_pid) == b"%d" % kept.process.pid)
    assert kept.status.why == "the agent died (signal 9) and will be started again"
    kept.process.send_signal(signal.SIGTERM)

    assert kept.end() == 0
    assert kept.starts == 1
    assert (kept.status.state, kept.status.why) == (State.FAILED, "the agent was told to end")


def test_a_job_that_is_deaf_to_signals_does_not_hide_how_its_agent_died(keep):
    kept = keep("killed 0", prefix=DEAF)

    assert kept.end() == 0
    assert kept.starts == 2
    assert "the agent died (signal 9) and will be started again" in kept.log.read_text()


def test_a_job_that_is_deaf_to_signals_has_an_agent_that_can_be_told_to_end(keep):
    kept = keep("stays", prefix=DEAF)
    eventually(lambda: kept.state.read(kept.state.agent_pid))
    kept.process.send_signal(signal.SIGTERM)

    assert kept.end() == 0
