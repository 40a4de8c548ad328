"""
Every way out of ``start-proxy``, ``session`` and ``connect``: the session is over at the service, its
processes are gone on both sides, the terminal is as it was, and at most one line says why, with its exit
status.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any, Callable, Dict, Iterator, List, Optional, Set

import pytest

from e2e.laptop import SM_SSH, Job, Laptop, running, until
from e2e.processes import agent_above, children, descendants, lives
from e2e.test_terminal_sessions import Screen
from local_cloud import LocalCloud

GONE = 5  # seconds that a process may take to go; the requirement, and several times what it takes

# A parent that can be killed, with its terminal, if it has one, as a login shell has it.
PARENT = """\
import fcntl, os, subprocess, sys, termios
if os.isatty(0):
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.exit(subprocess.call(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice) as job:
        yield job


def sessions(cloud: LocalCloud, state: str = "Active") -> Set[str]:
    listed = cloud.client("ssm", user="admin").describe_sessions(State=state)["Sessions"]
    return {str(session["SessionId"]) for session in listed}


class Way:
    """
    A command whose session is open.

    ``server`` is the process of the container that serves it, ``tree`` the processes on our side.
    """

    def __init__(
        self, alice: Laptop, cloud: LocalCloud, listener: int, command: List[str], *, parent: bool = False
    ) -> None:
        self._cloud = cloud
        self._listener = listener
        known = sessions(cloud)
        self._known_servers = set(children(listener))
        words = [*SM_SSH, *command]
        if parent:
            words = [sys.executable, "-c", PARENT, *words]
        self._start(alice, words)
        (self.session,) = sessions(cloud) - known
        self.tree = [self.process.pid, *descendants(self.process.pid)]

    process: "subprocess.Popen[bytes]"
    server: int

    def _start(self, alice: Laptop, words: List[str]) -> None:
        raise NotImplementedError

    def finish_input(self) -> None:
        raise NotImplementedError

    def wait_end(self) -> int:
        raise NotImplementedError

    def kill(self, number: int) -> None:
        self.process.send_signal(number)

    @property
    def told(self) -> List[str]:
        """Our own lines."""
        raise NotImplementedError

    def close(self) -> None:
        for pid in self.tree:
            if lives(pid):
                os.kill(pid, signal.SIGKILL)

    def assert_clean(self) -> None:
        until(lambda: not [pid for pid in self.tree if lives(pid)], "our processes to go", GONE)
        until(lambda: self.session not in sessions(self._cloud), "the session to be over", 10)
        until(lambda: not lives(self.server), "the container's process to go", 10)


class Piped(Way):
    """On pipes."""

    def _start(self, alice: Laptop, words: List[str]) -> None:
        self.process = alice.popen(
            *words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._told = b""
        self._reading = threading.Thread(target=self._read_errors, daemon=True)
        self._reading.start()
        if "start-proxy" in words:
            assert self.process.stdout.read(8) == b"SSH-2.0-"
            (self.server,) = set(children(self._listener)) - self._known_servers
            return
        self._write(b"echo shell=$$.\n")
        self.server = int(_read_until(self.process.stdout.fileno(), rb"shell=(\d+)\."))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._told = self.process.stderr.read()

    def _write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def finish_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def stop_reading(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        if "session" in self.process.args:  # type: ignore[operator]  # it is our list
            # What nobody reads is noticed when it is written.
            self._write(b"echo more\n")

    def wait_end(self) -> int:
        return self.process.wait(30)

    @property
    def told(self) -> List[str]:
        self._reading.join(30)
        return self._told.decode().splitlines()

    def close(self) -> None:
        super().close()
        self.process.wait(10)
        self._reading.join(30)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


class OnTerminal(Way):
    """On a terminal."""

    def _start(self, alice: Laptop, words: List[str]) -> None:
        self.screen = Screen(alice, command=words)
        self.process = self.screen.process
        self.screen.wait_for(rb"[$#] ", 60)
        self.screen.type(b"echo shell=$$.\r")
        # The end of input is a key for who reads keys: the shell at its prompt.
        self.server = int(self.screen.wait_for(rb"shell=(\d+)\.\r\n.*[$#] ")[1])

    def finish_input(self) -> None:
        self.screen.type(b"\x04")

    def wait_end(self) -> int:
        return self.screen.wait_end()

    @property
    def told(self) -> List[str]:
        return re.findall(r"sm-ssh: [^\r\n]*", self.screen.seen.decode())

    def close(self) -> None:
        super().close()
        self.screen.__exit__(None, None, None)

    def assert_clean(self) -> None:
        super().assert_clean()
        assert self.screen.is_as_before


def _read_until(descriptor: int, pattern: bytes) -> bytes:
    seen = b""
    while True:
        found = re.search(pattern, seen)
        if found is not None:
            return found[1]
        piece = os.read(descriptor, 65536)
        assert piece, seen
        seen += piece


COMMANDS: Dict[str, Any] = {
    "start-proxy": (Piped, ["start-proxy"]),
    "session": (OnTerminal, ["session"]),
    "piped session": (Piped, ["session"]),
    "connect": (OnTerminal, ["connect"]),
}


@pytest.fixture(scope="module")
def listener(alice: Laptop, job: Job) -> int:
    """The container's ssh server: the first process of that name above a shell."""
    done = alice.ssh(
        job.host,
        "pid=$PPID; while grep -qx sshd /proc/$pid/comm; "
        "do echo $pid; pid=$(sed 's/.*) . //; s/ .*//' /proc/$pid/stat); done",
    )
    return int(done.stdout.split()[-1])


@pytest.fixture
def begin(alice: Laptop, e2e_cloud: LocalCloud, job: Job, listener: int) -> Iterator[Callable[..., Any]]:
    """Opens a session by the name of the command; closed afterwards if the test did not."""
    with ExitStack() as stack:

        def begin(command: str, *, parent: bool = False) -> Any:
            kind, words = COMMANDS[command]
            way = kind(alice, e2e_cloud, listener, [*words, job.host], parent=parent)
            stack.callback(way.close)
            return way

        yield begin


def finish_input(way: Any, cloud: LocalCloud) -> None:
    way.finish_input()


def stop_reading(way: Any, cloud: LocalCloud) -> None:
    way.stop_reading()


def terminate(way: Any, cloud: LocalCloud) -> None:
    cloud.client("ssm", user="admin").terminate_session(SessionId=way.session)


def send(number: int) -> Callable[[Any, LocalCloud], None]:
    return lambda way, cloud: way.kill(number)


def interrupt_impatiently(way: Any, cloud: LocalCloud) -> None:
    # Two that come together are one.
    while way.process.poll() is None:
        way.kill(signal.SIGINT)
        time.sleep(0.1)


ENDS = {
    "end of input": finish_input,
    "reader gone": stop_reading,
    "SIGTERM": send(signal.SIGTERM),
    "SIGHUP": send(signal.SIGHUP),
    "SIGINT": send(signal.SIGINT),
    "many SIGINT": interrupt_impatiently,
    "administrator": terminate,
}
LOST = "error[session-lost]: the session to {host} was ended"

# The exit status, and how the line begins that says why, if any does. ssh says what ends it by 255 alone.
TABLE = [
    ("end of input", "start-proxy", 0, None),
    ("end of input", "session", 0, None),
    ("end of input", "piped session", 0, None),
    ("end of input", "connect", 0, None),
    ("reader gone", "start-proxy", 0, None),
    ("reader gone", "piped session", 141, None),
    ("SIGTERM", "start-proxy", 143, None),
    ("SIGTERM", "session", 143, None),
    pytest.param("SIGTERM", "piped session", 143, None, marks=pytest.mark.soak),
    ("SIGTERM", "connect", 255, None),
    ("SIGHUP", "start-proxy", 129, None),
    ("SIGHUP", "session", 129, None),
    pytest.param("SIGHUP", "piped session", 129, None, marks=pytest.mark.soak),
    pytest.param("SIGHUP", "connect", 255, None, marks=pytest.mark.soak),
    ("SIGINT", "start-proxy", 130, None),
    ("SIGINT", "connect", 255, None),
    pytest.param("many SIGINT", "start-proxy", 130, None, marks=pytest.mark.soak),
    ("many SIGINT", "session", 130, None),
    ("many SIGINT", "piped session", 130, None),
    pytest.param("many SIGINT", "connect", 255, None, marks=pytest.mark.soak),
    ("administrator", "start-proxy", 255, LOST),
    # Of a session without ssh the service tells no more than that it is over.
    ("administrator", "session", 0, None),
    ("administrator", "piped session", 0, None),
    ("administrator", "connect", 255, LOST),
]


@pytest.mark.parametrize(("end", "command", "status", "line"), TABLE)
def test_every_end_is_a_clean_one(
    begin: Callable[..., Any],
    e2e_cloud: LocalCloud,
    job: Job,
    end: str,
    command: str,
    status: int,
    line: Optional[str],
) -> None:
    way = begin(command)
    ended = e2e_cloud.count("ssm:TerminateSession", "alice")
    ENDS[end](way, e2e_cloud)
    assert way.wait_end() == status
    way.assert_clean()
    assert_told(way, line and line.format(host=job.host))
    by_us = e2e_cloud.count("ssm:TerminateSession", "alice") - ended
    # A shell that ends, and an ssh that says goodbye, may have ended it there first.
    assert by_us <= 1
    if command == "start-proxy":
        assert by_us == (end != "administrator")


def assert_told(way: Any, line: Optional[str]) -> None:
    if line is None:
        assert way.told == []
    else:
        (told,) = way.told
        assert told.startswith(f"sm-ssh: {line}")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_parent_that_is_killed_takes_everything_along(begin: Callable[..., Any], command: str) -> None:
    way = begin(command, parent=True)
    way.process.kill()
    if isinstance(way, Piped):
        # With the parent went the other ends of its pipes.
        way.finish_input()
    way.process.wait(10)
    way.assert_clean()


def test_an_interrupt_is_a_key_of_the_session_and_ends_nothing(begin: Callable[..., Any]) -> None:
    way = begin("session")
    way.kill(signal.SIGINT)
    way.screen.wait_for(rb"\^C\r\n")
    way.screen.type(b"echo still''-here\r")
    way.screen.wait_for(rb"still-here")
    way.finish_input()
    assert way.wait_end() == 0
    way.assert_clean()


# --- the other end is gone --------------------------------------------------------------------------


@pytest.fixture
def all_of_them(begin: Callable[..., Any]) -> List[Any]:
    return [begin(command) for command in COMMANDS]


def agent_of(ways: List[Any]) -> int:
    """The agent's process: the parent of a shell that it started."""
    return agent_above(ways[list(COMMANDS).index("session")].server)


def test_a_stopped_agent_holds_nobody(all_of_them: List[Any], e2e_cloud: LocalCloud) -> None:
    agent = agent_of(all_of_them)
    os.kill(agent, signal.SIGSTOP)
    try:
        for way in all_of_them:
            way.kill(signal.SIGTERM)
        assert [way.wait_end() for way in all_of_them] == [143, 143, 143, 255]
        for way in all_of_them:
            until(lambda way=way: not any(map(lives, way.tree)), "our processes to go", GONE)  # type: ignore[misc]
            assert way.told == []
        ours = {way.session for way in all_of_them}
        until(lambda: not ours & sessions(e2e_cloud), "the sessions to be over", 15)
    finally:
        os.kill(agent, signal.SIGCONT)
    # It learns of their ends when it wakes.
    for way in all_of_them:
        way.assert_clean()


def test_a_cloud_that_is_gone_holds_nobody(
    all_of_them: List[Any], alice: Laptop, e2e_cloud: LocalCloud, job: Job
) -> None:
    ours = {way.session for way in all_of_them}
    e2e_cloud.faults(kind="unreachable", action="ssm:*", user="alice")
    e2e_cloud.faults(kind="gateway", action="stop")
    try:
        for way in all_of_them:
            way.kill(signal.SIGTERM)
        assert [way.wait_end() for way in all_of_them] == [143, 143, 143, 255]
        for way in all_of_them:
            until(lambda way=way: not any(map(lives, way.tree)), "our processes to go", GONE)  # type: ignore[misc]
        # Nobody could say that they are over: they wait for a client that does not come.
        assert ours <= sessions(e2e_cloud)
    finally:
        e2e_cloud.faults(kind="gateway", action="start")
        e2e_cloud.clear_faults()
        for session in ours:
            e2e_cloud.client("ssm", user="admin").terminate_session(SessionId=session)
    for way in all_of_them:
        way.assert_clean()
    # The agent comes back by itself.
    until(lambda: alice.ssh(job.host, "true").returncode == 0, "the agent to be back", 60)


def test_an_agent_that_is_killed_is_told_in_one_line(
    alice: Laptop, e2e_cloud: LocalCloud, begin: Callable[..., Any], job: Job
) -> None:
    ways = [begin(command) for command in COMMANDS]
    os.kill(agent_of(ways), signal.SIGKILL)
    began_at = time.monotonic()
    assert [way.wait_end() for way in ways] == [255] * 4
    assert time.monotonic() - began_at < 10
    for way in ways:
        assert_told(way, LOST.format(host=job.host))
        way.assert_clean()
