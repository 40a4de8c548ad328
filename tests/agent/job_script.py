"""
A job's script that sets ssh up: started, watched from outside, ended.

Runs in containers' oldest Python.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from sagemaker_ssh_helper.agent import bootstrap
from sagemaker_ssh_helper.agent.state import State, StateDir

TIMEOUT = 60.0
SOURCE = Path(bootstrap.__file__).parents[2]
SECRET = "hunter2-secret-value"

DEAF = (
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
    "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD}); "
    "os.execv(sys.argv[1], sys.argv[1:])",
)
"""Words before a program's that make it ignore the ends of its children, and hold SIGTERM back."""

SCRIPT = """
import sys
from sagemaker_ssh_helper.agent import state
state.AGENT_LOG_PATH = sys.argv[1]
from sagemaker_ssh_helper import setup_and_start_ssh
result = setup_and_start_ssh()
print("the job goes on", result, flush=True)
sys.stdin.read()
"""


class Job:
    """A job's script that sets ssh up, says so, and ends when its standard input does."""

    def __init__(self, folder, environment, prefix=()):
        self.state_path = environment["SSH_STATE_DIR"]
        log = folder / "log" / "agent.log"
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", SCRIPT, str(log)],
            env=environment,
            cwd=str(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def goes_on(self):
        """Block until the call has returned."""
        assert self.process.stdout.readline() == "the job goes on None\n"

    def end(self):
        """End the job; what it printed since, and its log lines. Waits for the end of both pipes."""
        return self.process.communicate(timeout=TIMEOUT)


def processes_of(text):
    """The processes that have this temporary folder in their words."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and os.fsencode(text) in words_of(int(name)):
            found.append(int(name))
    return found


def words_of(pid):
    """A process's command line; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def eventually(question, timeout=TIMEOUT):
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + timeout
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def status_of(job):
    """The status once it is decided."""
    state = eventually(lambda: os.path.exists(job.state_path) and StateDir.open(job.state_path))
    return eventually(lambda: (lambda s: s if s and s.state is State.FAILED else None)(state.read_status()))
