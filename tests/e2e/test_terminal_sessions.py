"""Sessions without ssh: shells and commands in a job, from a real terminal and without one."""

import errno
import fcntl
import os
import re
import secrets
import select
import signal
import struct
import subprocess
import termios
import time
from types import TracebackType
from typing import Callable, Iterator, Optional, Sequence, Type

import pytest

from e2e.laptop import SM_SSH, Job, Laptop, end, running, until

NON_INTERACTIVE = ("--document", "AWS-StartNonInteractiveCommand")
APART = (*NON_INTERACTIVE, "--parameter", "separateOutputStream=True")
INTERACTIVE = ("--document", "AWS-StartInteractiveCommand")

SECONDS = 10**8 + secrets.randbelow(10**8)
"""For a command to last, told from those of all other tests on this machine."""


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice) as job:
        yield job


class Screen:
    """``sm-ssh session``, or another command, on a terminal of its own: what a user types, and sees."""

    def __init__(
        self,
        laptop: Laptop,
        *arguments: str,
        command: Sequence[str] = (*SM_SSH, "session"),
        cols: int = 100,
        rows: int = 30,
    ) -> None:
        self.seen = b""
        self._primary, self.replica = os.openpty()
        self.resize(cols, rows)
        self.before = termios.tcgetattr(self.replica)
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdin=self.replica,
            stdout=self.replica,
            stderr=self.replica,
            env=laptop.env,
            cwd=laptop.home,
            start_new_session=True,
        )

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        end(self.process)
        os.close(self.replica)
        os.close(self._primary)

    def resize(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self.replica, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._primary, keys)

    def wait_for(self, pattern: bytes, timeout: float = 30) -> "re.Match[bytes]":
        """The first match of what is on the screen; it is taken away, with all before it."""
        deadline = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.seen)
            if found is not None:
                self.seen = self.seen[found.end() :]
                return found
            left = deadline - time.monotonic()
            assert left > 0, f"waited for {pattern!r}, saw {self.seen!r}"
            self._read(left)

    def wait_end(self) -> int:
        """The exit status; what was on the screen until then is in ``seen``."""
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.seen!r}"
            self._read(0.05)
        while self._read(0):
            pass
        return self.process.returncode

    @property
    def is_as_before(self) -> bool:
        """The terminal is as the user left it."""
        return termios.tcgetattr(self.replica) == self.before

    def _read(self, timeout: float) -> bool:
        if not select.select([self._primary], [], [], timeout)[0]:
            return False
        try:
            self.seen += os.read(self._primary, 65536)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        return True


def active_sessions(laptop: Laptop) -> int:
    return len(laptop.client("ssm").describe_sessions(State="Active")["Sessions"])


# --- a shell on a terminal -------------------------------------------------------------------------


def test_a_shell_on_the_terminal(alice: Laptop, job: Job) -> None:
    with Screen(alice, job.host) as screen:
        screen.wait_for(rb"[$#] ")
        screen.type(b"echo job=$TRAINING_JOB_NAME t=$TERM; stty size; tty\r")
        screen.wait_for(rb"\njob=%s t=xterm-256color\r\n30 100\r\n/dev/[^\r]*\r\n.*[$#] " % job.name.encode())
        assert not screen.is_as_before
        screen.type(b"until stty size | grep '22 77'; do sleep 0.1; done\r")
        screen.resize(77, 22)
        os.kill(screen.process.pid, signal.SIGWINCH)
        screen.wait_for(rb"\n22 77\r\n.*[$#] ")
        screen.type("printf '%s\\n' 'naïve € 日本'\r".encode())
        screen.wait_for("naïve € 日本\r\n".encode())
        screen.type(b"exit\r")
        assert screen.wait_end() == 0
        assert screen.is_as_before


def test_keys_of_signals_are_for_the_container(alice: Laptop, job: Job) -> None:
    with Screen(alice, job.host) as screen:
        screen.wait_for(rb"[$#] ")
        screen.type(f"sleep {SECONDS}; echo slept $?\r".encode())
        screen.wait_for(rf"sleep {SECONDS}; echo slept \$\?\r\n".encode())
        until(lambda: _runs(f"sleep {SECONDS}"), "sleep to run")
        screen.type(b"\x03")
        screen.type(b"echo after $?\r")
        screen.wait_for(rb"after 130\r\n.*[$#] ")
        assert not _runs(f"sleep {SECONDS}")
        screen.type(b"\x04")
        assert screen.wait_end() == 0
        assert screen.is_as_before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was_and_no_session(
    alice: Laptop, job: Job, number: signal.Signals
) -> None:
    with Screen(alice, job.host) as screen:
        screen.wait_for(rb"[$#] ")
        screen.type(f"exec sleep {SECONDS}\r".encode())
        until(lambda: _runs(f"sleep {SECONDS}"), "sleep to run")
        os.kill(screen.process.pid, number)
        assert screen.wait_end() == 128 + number
        assert screen.is_as_before
    until(lambda: active_sessions(alice) == 0, "the session to be over")
    until(lambda: not _runs(f"sleep {SECONDS}"), "sleep to end")


def test_a_session_that_the_service_ends_gives_the_terminal_back(alice: Laptop, job: Job) -> None:
    with Screen(alice, job.host) as screen:
        screen.wait_for(rb"[$#] ")
        ssm = alice.client("ssm")
        session = ssm.describe_sessions(State="Active")["Sessions"][0]["SessionId"]
        ssm.terminate_session(SessionId=session)
        assert screen.wait_end() == 0
        assert screen.is_as_before


def test_a_command_on_the_terminal_reads_what_is_typed(alice: Laptop, job: Job) -> None:
    command = "command=read x; echo got $x; exit 5"
    with Screen(alice, job.host, *INTERACTIVE, "--parameter", command) as screen:
        until(lambda: not screen.is_as_before, "the session to begin")
        screen.type(b"this\r")
        screen.wait_for(rb"this\r\ngot this\r\n")
        assert screen.wait_end() == 0


# --- without a terminal ----------------------------------------------------------------------------


def test_a_script_is_piped_into_a_shell(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("session", job.host, stdin=b"stty size\necho $((6 * 7))\nexit\n")
    assert done.returncode == 0, done.stderr.decode()
    assert b"100 300\r\n" in done.stdout
    assert b"42\r\n" in done.stdout
    assert done.stderr == b""


def test_the_end_of_input_ends_a_shell(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("session", job.host, stdin=b"cat\nabc")
    assert done.returncode == 0, done.stderr.decode()
    assert b"abc" in done.stdout


@pytest.mark.parametrize("code", [0, 1, 77, 254])
def test_the_exit_code_of_a_command_is_ours(alice: Laptop, job: Job, code: int) -> None:
    command = f"command=sh -c 'echo out; echo err >&2; exit {code}'"
    done = alice.sm_ssh("session", job.host, *APART, "--parameter", command)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"out\n", b"err\n")


def test_a_command_whose_outputs_are_not_apart(alice: Laptop, job: Job) -> None:
    command = "command=sh -c 'echo out; echo err >&2; exit 3'"
    done = alice.sm_ssh("session", job.host, *NON_INTERACTIVE, "--parameter", command)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\nerr\n", b"")


def test_a_big_output_arrives_whole_at_a_slow_reader(alice: Laptop, job: Job) -> None:
    command = "command=sh -c 'seq 1 1500000; exit 9'"
    process = alice.popen(
        *SM_SSH, "session", job.host, *APART, "--parameter", command, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout as output:
        first = output.read(6)
        until(lambda: _settled(process.pid), "the client to be held", 20)
        rest = output.read()
    assert process.wait(timeout=30) == 9
    assert first + rest == b"".join(b"%d\n" % number for number in range(1, 1500001))


def test_an_interrupt_ends_a_command(alice: Laptop, job: Job) -> None:
    command = f"command=sh -c 'echo started; exec sleep {SECONDS}'"
    process = alice.popen(
        *SM_SSH, "session", job.host, *APART, "--parameter", command, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == b"started\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    assert not _runs(f"sleep {SECONDS}")


def test_two_interrupts_end_a_session_whose_command_takes_none(alice: Laptop, job: Job) -> None:
    command = f"command=trap '' INT HUP; echo started; sleep {SECONDS}"
    process = alice.popen(
        *SM_SSH, "session", job.host, *INTERACTIVE, "--parameter", command,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    with process.stdin, process.stdout as output:
        assert output.readline() == b"started\r\n"
        process.send_signal(signal.SIGINT)
        assert output.read(2) == b"^C"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    until(lambda: not _runs(f"sleep {SECONDS}"), "sleep to end")


def test_a_reader_that_leaves_ends_the_session(alice: Laptop, job: Job) -> None:
    process = alice.popen(
        *SM_SSH, "session", job.host, *INTERACTIVE, "--parameter", f"command=yes {SECONDS}",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 141
    until(lambda: not _runs(f"yes {SECONDS}"), "yes to end")


# --- one line when it cannot be --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--document", "No-Such"), "AWS refused ssm:StartSession"),
        ((*APART, "--parameter", "command=no-such-program"), "cannot be started: there is no such command"),
        ((*APART, "--parameter", "command='"), "cannot be split into words"),
        (("--parameter", "wrong"), "error[usage]: --parameter takes NAME=VALUE"),
    ],
)
def test_what_cannot_be_is_one_line(alice: Laptop, job: Job, arguments: "tuple[str, ...]", line: str) -> None:
    done = alice.sm_ssh("session", job.host, *arguments)
    assert (done.returncode, done.stdout) == (255, b"")
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"sm-ssh: error[")
    assert line in done.stderr.decode()


def test_a_job_that_is_not_there_is_told(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("session", f"not-{job.host}")
    assert done.returncode == 255
    assert done.stderr.startswith(b"sm-ssh: error[target-not-found]: ")


def _runs(command: str) -> bool:
    return subprocess.run(["pgrep", "-xf", command], capture_output=True, check=False).returncode == 0


def _settled(pid: int) -> bool:
    """The process has nothing to do for a while."""

    def ticks() -> str:
        with open(f"/proc/{pid}/stat") as file:
            return " ".join(file.read().rpartition(")")[2].split()[11:13])

    before = ticks()
    time.sleep(0.5)
    return ticks() == before
