"""However a program with a tunnel ends, its ssh, the proxy behind that and the session end with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from e2e.laptop import COMMAND_TIMEOUT, Job, Laptop, running, until
from e2e.processes import descendants, lives, name_of

CONNECTED = """
import os, signal, sys, time
from sagemaker_ssh_helper.proxy import SSMProxy
from sagemaker_ssh_helper.wrapper import SSHEstimatorWrapper
wrapper = SSHEstimatorWrapper.attach(sys.argv[1])
wrapper.connection_wait_time_seconds = 0  # the job is needed on
"""

# How programs with a tunnel come to an end, other than by disconnecting.
ENDINGS = {
    "an exception": """
proxy = wrapper.start_ssm_connection(0)
print("up", flush=True)
sys.stdin.readline()
raise RuntimeError("of the program's own")
""",
    "killed": """
proxy = wrapper.start_ssm_connection(0)
print("up", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
""",
    "interrupted in a command": """
with wrapper.start_ssm_connection(0) as proxy:
    proxy.run_command("echo up; exec sleep 600")
""",
}


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice) as job:
        job.wait_online()
        yield job


def no_session(alice: Laptop) -> bool:
    return not alice.client("ssm").describe_sessions(State="Active")["Sessions"]


def all_gone(pids: List[int]) -> bool:
    return not any(lives(pid) for pid in pids)


@pytest.mark.parametrize("ending", list(ENDINGS))
def test_nothing_is_left_when_a_program_ends_with_its_tunnel_open(
    alice: Laptop, job: Job, ending: str
) -> None:
    code = CONNECTED + ENDINGS[ending]
    with alice.popen(
        sys.executable,
        "-c",
        code,
        job.name,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"up\n"
        behind = descendants(program.pid)
        names = [name_of(pid) for pid in behind]
        assert "ssh" in names
        if ending == "interrupted in a command":
            # As a notebook does: the program alone, not those that it started.
            program.send_signal(signal.SIGINT)
        _, errors = program.communicate(b"\n", timeout=COMMAND_TIMEOUT)
    until(lambda: all_gone(behind), f"the end of {names}; {errors.decode()}")
    until(lambda: no_session(alice), "the session to be over")


def test_an_interrupt_while_the_tunnel_opens_leaves_nothing(alice: Laptop, job: Job, tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    # It says at once which settings it knows.
    ssh.write_text("#!/bin/sh\nfor word; do [ \"$word\" != -G ] || exit 1; done\necho $$\nexec sleep 600\n")
    ssh.chmod(0o700)
    told = alice.python(
        CONNECTED
        + """
import logging

class Interrupting(logging.Handler):
    def emit(self, record):
        if record.msg == "ssh: %s":
            self.pid = record.args[0]
            os.kill(os.getpid(), signal.SIGINT)

handler = Interrupting()
logging.getLogger("sagemaker_ssh_helper.proxy").addHandler(handler)
logging.getLogger("sagemaker_ssh_helper.proxy").setLevel(logging.INFO)
os.environ["PATH"] = sys.argv[2] + os.pathsep + os.environ["PATH"]
try:
    wrapper.start_ssm_connection(0)
except KeyboardInterrupt:
    print("interrupted", handler.pid)
""",
        job.name,
        str(tmp_path),
    )
    interrupted, pid = told.split()
    assert interrupted == "interrupted"
    assert not lives(int(pid))


def test_an_interrupt_at_the_terminal_leaves_the_tunnel_to_the_program(alice: Laptop, job: Job) -> None:
    code = (
        CONNECTED
        + """
with wrapper.start_ssm_connection(0) as proxy:
    try:
        print("up", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        proxy.run_command("echo still")
"""
    )
    with alice.popen(
        sys.executable, "-c", code, job.name, stdout=subprocess.PIPE, start_new_session=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"up\n"
        behind = descendants(program.pid)
        os.killpg(program.pid, signal.SIGINT)
        told, _ = program.communicate(timeout=COMMAND_TIMEOUT)
    assert (program.returncode, told) == (0, b"still\n")
    until(lambda: all_gone(behind), "the end of what was started")
    until(lambda: no_session(alice), "the session to be over")
