"""The container's own network is away, or the container was frozen: its sessions go on afterwards."""

import subprocess
import time
from typing import Callable, Iterator

import pytest

from e2e.laptop import SM_SSH, Job, Laptop, end, running, until
from local_cloud import LocalCloud


@pytest.fixture
def job(laptop: Callable[[str], Laptop]) -> Iterator[Job]:
    # It waits longer than the longest outage lasts.
    with running(laptop("alice"), wait=3600, StoppingCondition={"MaxRuntimeInSeconds": 3600}) as job:
        yield job


def say(process: "subprocess.Popen[bytes]", word: str) -> None:
    """Until the shell has said this word; the terminal's echo of what is typed is not that."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"printf '%s\\n' {word[:2]}''{word[2:]}\n".encode())
    process.stdin.flush()
    line = b""
    while line.strip().rpartition(b" ")[2] != word.encode():
        line = process.stdout.readline()
        assert line, "the session has ended"


@pytest.mark.parametrize(
    "seconds",
    [
        4,
        # By then the pauses of the control channel, which takes the result of a session, are long.
        pytest.param(870, marks=[pytest.mark.soak, pytest.mark.timeout(1200)]),
    ],
)
def test_a_session_outlives_an_outage_of_its_container(e2e_cloud: LocalCloud, job: Job, seconds: int) -> None:
    """However long official agents try: those windows are a second here, and not for ours."""
    e2e_cloud.faults(kind="session-timing", foreign_agent_resume=1, foreign_resume=1)
    process = job.laptop.popen(
        *SM_SSH, "session", job.host, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        say(process, "before")
        for action in ("CreateControlChannel", "CreateDataChannel"):
            e2e_cloud.faults(kind="unreachable", action=f"ssmmessages:{action}")
        e2e_cloud.faults(kind="cut", side="agent")
        e2e_cloud.faults(kind="cut", side="control")
        listed = e2e_cloud.client("ssm", user="admin").describe_sessions
        until(lambda: listed(State="Active")["Sessions"][0]["Status"] == "Disconnected", "the outage")
        # This is how long it lasts, and nothing is to happen.
        time.sleep(seconds)
        e2e_cloud.clear_faults()
        say(process, "after")
        assert process.stdin is not None
        process.stdin.write(b"exit\n")
        process.stdin.flush()
        assert process.wait(30) == 0
    finally:
        e2e_cloud.clear_faults()
        end(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()
