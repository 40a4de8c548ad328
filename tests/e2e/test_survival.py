"""
Whatever happens to the network, a tunnel goes on: not one byte is lost, doubled or reordered. And when it
cannot go on, one line says so, at once.

Everything here is real ssh and scp through the local cloud, whose switches break the links. The long forms
run with ``make soak``; the short ones wait for what happens, never for a time.
"""

import asyncio
import hashlib
import os
import random
import re
import signal
import subprocess
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Set, Tuple

import pytest

from e2e.laptop import Job, Laptop, end, running, until
from e2e.light_sessions import LightSessions, beside_echo
from e2e.processes import agent_above, footprint
from local_cloud import LocalCloud

MB = 1_000_000
SIDES = ("client", "agent", "both")


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    # Longer than all that is done to it.
    with running(alice, wait=7200, StoppingCondition={"MaxRuntimeInSeconds": 7200}) as job:
        alice.configure_ssh()
        yield job


class Site:
    """What the scenarios need: a user's ssh, the job, and the cloud's switches."""

    def __init__(self, cloud: LocalCloud, alice: Laptop, job: Job) -> None:
        self.cloud = cloud
        self.alice = alice
        self.host = job.host
        self._job = job
        self._ssh = ["-F", str(alice.home / ".ssh" / "config"), "-o", "BatchMode=yes"]

    def run(
        self, *words: str, stdin: Any = b"", timeout: float = 100
    ) -> "subprocess.CompletedProcess[bytes]":
        """ssh or scp, to its end."""
        program, *rest = words
        source = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        return subprocess.run(
            [program, *self._ssh, *rest],
            capture_output=True,
            env=self.alice.env,
            cwd=self.alice.home,
            timeout=timeout,
            check=False,
            **source,
        )

    def shell(self, *options: str) -> "Shell":
        return Shell(["ssh", *self._ssh, *options, self.host], self.alice)

    def copy_without_end(self, command: str, *options: str) -> "subprocess.Popen[bytes]":
        """A copy to a command that reads, or from one that writes; nobody looks at the bytes."""
        words = ["ssh", *self._ssh, *options, self.host, command]
        with open("/dev/zero", "rb") as source, open(os.devnull, "wb") as sink:
            return self.alice.popen(*words, stdin=source, stdout=sink, stderr=subprocess.DEVNULL)

    @staticmethod
    def moved(copy: "subprocess.Popen[bytes]") -> int:
        """Bytes that ssh has read and written so far, of whatever."""
        rows = Path(f"/proc/{copy.pid}/io").read_text().split()
        return int(rows[1]) + int(rows[3])

    @property
    def instance_id(self) -> str:
        return str(self._job.instances()[0]["InstanceId"])

    def wait_settled(self, agent: int) -> None:
        """Until the sessions are over and the agent has let go of them."""
        until(lambda: len(self.active()) <= 1, "the sessions to be over", 60)
        seen: List[Dict[str, int]] = []

        def settled() -> bool:
            seen.append(footprint(agent))
            return len(seen) > 4 and seen[-1] == seen[-4]

        until(settled, "the agent to settle", 30)

    def state(self, session: str) -> str:
        """What the service says of a session that is not over."""
        listed = self.cloud.client("ssm", user="admin").describe_sessions(State="Active")["Sessions"]
        return next(str(row["Status"]) for row in listed if row["SessionId"] == session)

    def tried(self, side: str) -> int:
        """How often somebody asked for a new token so far."""
        actions = {"client": "ssm:ResumeSession", "agent": "ssmmessages:CreateDataChannel"}
        wanted = [action for name, action in actions.items() if side in (name, "both")]
        return min(self.cloud.count(action) for action in wanted)

    def active(self) -> Set[str]:
        pages = self.cloud.client("ssm", user="admin").get_paginator("describe_sessions")
        listed = pages.paginate(State="Active").search("Sessions[].SessionId")
        return set(map(str, listed))

    def links(self) -> List[Dict[str, Any]]:
        """What the switches do to each session."""
        return [row for row in self.cloud.local("GET", "faults")["faults"] if row["kind"] == "link"]

    def carried(self, session: str) -> int:
        """Bytes of data that a session has carried since the switches look at it."""
        return sum(int(row["carried"]) for row in self.links() if row["session"] == session)

    def proxies(self) -> List[int]:
        found = subprocess.run(
            ["pgrep", "-u", str(os.getuid()), "-f", f"start-proxy.*{self.host}"], stdout=subprocess.PIPE
        )
        return [int(word) for word in found.stdout.split()]


class Shell:
    """A shell in the container that is spoken to line by line; ``session`` is its session's id."""

    def __init__(self, command: List[str], alice: Laptop) -> None:
        self._told = b""
        self._said = b""
        self._heard = threading.Condition()
        self.process = alice.popen(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._threads = [
            threading.Thread(target=self._collect, args=(name,), daemon=True) for name in ("stdout", "stderr")
        ]
        for thread in self._threads:
            thread.start()

    def _collect(self, name: str) -> None:
        stream = getattr(self.process, name)
        for piece in iter(lambda: os.read(stream.fileno(), 65536), b""):
            with self._heard:
                if name == "stdout":
                    self._said += piece
                else:
                    self._told += piece
                self._heard.notify_all()

    @property
    def told(self) -> List[str]:
        """Our own lines on stderr so far."""
        with self._heard:
            return [line for line in self._told.decode().splitlines() if line.startswith("sm-ssh: ")]

    def ask(self, word: str, timeout: float = 20) -> float:
        """Seconds until the shell has echoed this word."""
        began = time.monotonic()
        self.type(word)
        self.wait_for(word, timeout)
        return time.monotonic() - began

    def type(self, word: str) -> None:
        assert self.process.stdin is not None
        # In two halves: a terminal's echo is not the answer.
        self.process.stdin.write(f"echo {word[:2]}''{word[2:]}\n".encode())
        self.process.stdin.flush()

    def wait_for(self, word: str, timeout: float) -> None:
        with self._heard:
            found = self._heard.wait_for(lambda: word.encode() in self._said, timeout)
            assert found, (word, self._said[-200:], self._told)

    def server(self) -> int:
        """The process of the ssh server that this shell belongs to; containers here share our processes."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"echo server=$PPID.\n")
        self.process.stdin.flush()
        self.wait_for(".", 20)
        with self._heard:
            found = re.search(rb"server=(\d+)\.", self._said)
        assert found is not None
        return int(found[1])

    def close(self) -> Tuple[int, bytes, bytes]:
        """End it in an ordinary way: status, stdout, stderr."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.wait_closed(20)

    def wait_closed(self, timeout: float) -> Tuple[int, bytes, bytes]:
        try:
            self.process.wait(timeout)
        finally:
            end(self.process)
        for thread in self._threads:
            thread.join(10)
        # Once more does no harm.
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return self.process.returncode, self._said, self._told


@pytest.fixture(scope="module")
def site(e2e_cloud: LocalCloud, alice: Laptop, job: Job) -> Site:
    return Site(e2e_cloud, alice, job)


@pytest.fixture(autouse=True)
def nothing_is_left(site: Site) -> Iterator[None]:
    """Every scenario ends with good links, no session and no process, whatever was done to it."""
    sessions, proxies = site.active(), set(site.proxies())
    yield
    site.cloud.clear_faults()
    until(lambda: site.active() <= sessions, "the sessions to be over", 10)
    until(lambda: set(site.proxies()) <= proxies, "the proxies to be gone", 10)


@pytest.fixture
def shell(site: Site) -> Iterator[Callable[[], Tuple[Shell, str]]]:
    """Opens shells, each with its session's id; those that are still there afterwards are killed."""
    opened: List[Shell] = []

    def open_shell() -> Tuple[Shell, str]:
        before = site.active()
        one = site.shell()
        opened.append(one)
        one.ask("hello", 30)
        (session,) = site.active() - before
        return one, session

    yield open_shell
    for one in opened:
        end(one.process)
        one.wait_closed(10)


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Tuple[Path, str]]:
    """A file of so many random bytes, and its hash."""

    def make(size: int) -> Tuple[Path, str]:
        path = tmp_path_factory.mktemp("payload") / f"{size}.bin"
        data = random.Random(size).randbytes(size)
        path.write_bytes(data)
        return path, hashlib.sha256(data).hexdigest()

    return make


def random_cuts(count: int, size: int, chance: random.Random) -> List[Dict[str, Any]]:
    """Cuts at random byte offsets of a stream, in equal numbers for each side and both, by either way."""
    sides = [SIDES[number % 3] for number in range(count)]
    chance.shuffle(sides)
    return [
        {"at": chance.randrange(20_000, size), "side": side, "how": chance.choice(("reset", "close"))}
        for side in sides
    ]


def upload(site: Site, path: Path, expected: str, timeout: float = 100) -> None:
    with path.open("rb") as source:
        done = site.run("ssh", site.host, "sha256sum", stdin=source, timeout=timeout)
    assert done.stdout.decode().split()[:1] == [expected], done.stderr.decode()
    assert done.returncode == 0


def download(site: Site, path: Path, expected: str, timeout: float = 100) -> None:
    done = site.run("ssh", site.host, f"cat {path}", timeout=timeout)
    assert hashlib.sha256(done.stdout).hexdigest() == expected, done.stderr.decode()
    assert done.returncode == 0


MOVES = {"up": upload, "down": download}


def copy_with_cuts(
    site: Site, move: str, path: Path, expected: str, count: int, timeout: float
) -> "List[Dict[str, Any]]":
    """Carry the file while the link is cut so often; prints what was in flight then, and returns it."""
    size = path.stat().st_size
    seed = random.SystemRandom().randrange(1 << 32)
    cuts = random_cuts(count, size - size // 50, random.Random(seed))
    print(f"{move}: {size // MB} MB, {count} cuts, seed {seed}")
    logs: Dict[str, List[Dict[str, Any]]] = {}
    over = threading.Event()

    def watch() -> None:
        # The switch's figures go with the session.
        while not over.wait(0.1):
            for row in site.links():
                logs[row["session"]] = row["cuts"]

    site.cloud.faults(kind="cut", cuts=cuts)
    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    try:
        MOVES[move](site, path, expected, timeout)
    finally:
        over.set()
        watcher.join()
        site.cloud.clear_faults()
    seconds = time.monotonic() - began
    # A session of before may be listed as well, while it ends.
    log = max(logs.values(), key=len)
    sender = "client" if move == "up" else "agent"
    print(f"{seconds:.1f} s, {size / seconds / MB:.1f} MB/s")
    print(f"messages in flight at the cuts: {[cut['in_flight'][sender] for cut in log]}")
    print(f"cuts by side: {by_side(log)}")
    return log


def by_side(log: "List[Dict[str, Any]]") -> Dict[str, int]:
    return {side: sum(cut["side"] == side for cut in log) for side in SIDES}


@pytest.mark.parametrize("move", ["up", "down"])
def test_a_stream_with_nine_cuts_arrives_whole(site: Site, payload: Any, move: str) -> None:
    log = copy_with_cuts(site, move, *payload(18 * MB), 9, 100)
    # The last ones may fall into the session's end, where nobody looks any more.
    assert len(log) >= 6


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("move", ["up", "down"])
def test_a_long_stream_with_fifty_cuts_arrives_whole(site: Site, payload: Any, move: str) -> None:
    log = copy_with_cuts(site, move, *payload(200 * MB), 50, 500)
    assert len(log) == 50
    # At some moments a sender has really nothing under way.
    sender = "client" if move == "up" else "agent"
    assert sum(cut["in_flight"][sender] > 0 for cut in log) >= 40
    assert min(by_side(log).values()) >= 10


@pytest.mark.parametrize("move", ["up", "down"])
def test_a_stream_through_a_lossy_link_arrives_whole(site: Site, payload: Any, move: str) -> None:
    path, expected = payload(3 * MB)
    site.cloud.faults(kind="link", drop_data=0.05, drop_acks=0.05, duplicate=0.02, reorder=0.02)
    began = time.monotonic()
    MOVES[move](site, path, expected)
    print(f"{move}: 3 MB with 5 % of data and of acknowledges lost: {time.monotonic() - began:.1f} s")


def test_scp_through_a_lossy_distant_link(site: Site, payload: Any) -> None:
    path, expected = payload(MB)
    site.cloud.faults(kind="link", drop_data=0.02, drop_acks=0.02, rtt=0.05)
    assert site.run("scp", "-q", str(path), f"{site.host}:there.bin").returncode == 0
    assert site.run("scp", "-q", f"{site.host}:there.bin", "back.bin").returncode == 0
    assert hashlib.sha256((site.alice.home / "back.bin").read_bytes()).hexdigest() == expected


def begin_outage(site: Site, session: str, side: str = "both") -> None:
    """That side, or nobody, reaches anybody, until the switches are cleared."""
    switches = {"client": "ssm:ResumeSession", "agent": "ssmmessages:CreateDataChannel"}
    for name, action in switches.items():
        if side in (name, "both"):
            site.cloud.faults(kind="unreachable", action=action, user="*")
    site.cloud.faults(kind="cut", side=side, session=session)


def keep_a_shell(site: Site, shell: Any, side: str, seconds: float) -> float:
    """A shell through an outage of so many seconds; how long after its end it answered."""
    one, session = shell()
    tried = site.tried(side)
    begin_outage(site, session, side)
    one.type("meanwhile")
    # An outage is one when somebody has tried to get out of it, and the user was told.
    until(lambda: site.tried(side) >= tried + 2, "attempts in the outage", 30)
    if side != "agent":
        until(lambda: one.told, "a line about it", 30)
    # The length of a long one is what it is.
    time.sleep(seconds)
    site.cloud.clear_faults()
    began = time.monotonic()
    one.wait_for("meanwhile", 30)
    resumed = time.monotonic() - began
    print(f"outage of {side}: the shell answered {resumed:.2f} s after its end")
    one.ask("again", 30)
    status, said, _ = one.close()
    assert status == 0
    assert b"sm-ssh" not in said
    lines = ["sm-ssh: link lost, resuming…", "sm-ssh: link resumed after N s"]
    assert [re.sub(r"[\d.]+ s", "N s", line) for line in one.told] == (lines if side != "agent" else [])
    return resumed


@pytest.mark.parametrize("side", SIDES)
def test_a_shell_survives_an_outage(site: Site, shell: Any, side: str) -> None:
    keep_a_shell(site, shell, side, 0)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("side", SIDES)
def test_a_shell_survives_a_long_outage(site: Site, shell: Any, side: str) -> None:
    # An agent that does not come back is given up by the gateway after 20 seconds; by AWS, nobody knows when.
    site.cloud.faults(kind="session-timing", agent_resume=900)
    assert keep_a_shell(site, shell, side, 60) < 2


def sleep_and_wake(site: Site, shell: Any, meanwhile: Callable[[str], None]) -> None:
    """A laptop that is closed: its processes stop, and its connection is gone when it is opened again."""
    known = set(site.proxies())
    one, session = shell()
    (proxy,) = set(site.proxies()) - known
    stopped = [proxy, one.process.pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        one.type("asleep")
        meanwhile(session)
    finally:
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)
    began = time.monotonic()
    one.wait_for("asleep", 60)
    print(f"the shell answered {time.monotonic() - began:.2f} s after the laptop woke")
    assert one.close()[0] == 0


def test_a_shell_survives_the_sleep_of_a_laptop(site: Site, shell: Any) -> None:
    def meanwhile(session: str) -> None:
        site.cloud.faults(kind="cut", side="client", session=session)
        until(lambda: site.state(session) == "Disconnected", "the service to see that", 30)

    sleep_and_wake(site, shell, meanwhile)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_shell_survives_a_sleep_of_a_quarter_of_an_hour(site: Site, shell: Any) -> None:
    """Its connection looks alive until somebody tries it."""

    def meanwhile(session: str) -> None:
        site.cloud.faults(kind="freeze", side="client", session=session, seconds=3600, new=False)
        time.sleep(880)

    sleep_and_wake(site, shell, meanwhile)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_cloud_that_stays_away_is_given_up_after_a_quarter_of_an_hour(site: Site, shell: Any) -> None:
    one, session = shell()
    begin_outage(site, session, "client")
    status, _, _ = one.wait_closed(1000)
    assert status == 255
    lost, line = one.told
    assert lost == "sm-ssh: link lost, resuming…"
    assert line.startswith("sm-ssh: error[connection-failed]: ")


@pytest.mark.soak
@pytest.mark.timeout(200)
def test_dead_connections_are_noticed_in_half_a_minute(site: Site, shell: Any, payload: Any) -> None:
    """Of the client and of the agent, while nothing is said and in the middle of a copy each way."""
    path, expected = payload(20 * MB)
    began: Dict[str, float] = {}
    seconds: Dict[str, float] = {}

    def kill(session: str, side: str) -> None:
        site.cloud.faults(kind="freeze", side=side, session=session, seconds=600, new=False)

    def copy(move: str, name: str) -> None:
        MOVES[move](site, path, expected)
        seconds[name] = time.monotonic() - began[name]

    shells = {}
    for side in ("client", "agent"):
        one, session = shell()
        kill(session, side)
        began[f"idle, {side}"] = time.monotonic()
        shells[f"idle, {side}"] = one
        one.type(f"dead-{side}")
    # So that the bytes of those to come are counted.
    site.cloud.faults(kind="link")
    copies = []
    for move, side in (("up", "client"), ("down", "agent"), ("up", "agent"), ("down", "client")):
        known = site.active()
        copies.append(threading.Thread(target=copy, args=(move, f"{move}, {side}")))
        copies[-1].start()
        (session,) = until(lambda known=known: site.active() - known, "the copy's session")  # type: ignore[misc]
        until(lambda session=session: site.carried(session) > MB, "the copy to move")  # type: ignore[misc]
        kill(session, side)
        began[f"{move}, {side}"] = time.monotonic()
    for name, one in shells.items():
        one.wait_for(f"dead-{name.split()[1]}", 60)
        seconds[name] = time.monotonic() - began[name]
        assert one.close()[0] == 0
    for thread in copies:
        thread.join()
    print({name: round(value, 1) for name, value in seconds.items()})
    assert set(seconds) == set(began)
    assert all(seconds[name] < 33 for name in shells)
    assert all(value < 45 for value in seconds.values())


def test_a_short_loss_is_not_told(site: Site, shell: Any) -> None:
    one, session = shell()
    for side in SIDES:
        site.cloud.faults(kind="cut", side=side, session=session, how="close")
        one.ask(f"after{side}", 30)
    assert one.close()[0] == 0
    assert one.told == []


@pytest.mark.parametrize("side", ["client", "agent"])
def test_a_close_frame_with_any_code_is_a_lost_link_and_no_end(site: Site, shell: Any, side: str) -> None:
    """Codes that RFC 6455 section 7.4 lets a server send."""
    one, session = shell()
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 4000, 4999):
        site.cloud.faults(kind="cut", side=side, session=session, how="close", code=code)
        one.ask(f"code{code}", 30)
    assert one.close()[0] == 0
    assert not [line for line in one.told if "error" in line]


def test_a_link_that_is_rotated_all_the_time_goes_on(site: Site, shell: Any, payload: Any) -> None:
    path, expected = payload(3 * MB)
    site.cloud.faults(kind="rotation", seconds=0.3)
    upload(site, path, expected)
    download(site, path, expected)


def test_a_refused_resume_ends_with_one_line(site: Site, shell: Any) -> None:
    one, session = shell()
    site.cloud.faults(kind="refuse-resume", session=session)
    site.cloud.faults(kind="cut", side="client", session=session)
    status, _, _ = one.wait_closed(30)
    assert status == 255
    (line,) = one.told
    assert line.startswith("sm-ssh: error[session-lost]: ")


def test_a_service_that_fails_for_a_while_does_not_end_the_session(site: Site, shell: Any) -> None:
    one, session = shell()
    site.cloud.faults(
        kind="error", action="ssm:ResumeSession", code="InternalServerError", status=500, times=5
    )
    site.cloud.faults(kind="cut", side="client", session=session)
    one.ask("nevertheless", 40)
    assert one.close()[0] == 0


def test_ssh_killed_in_an_outage_leaves_nothing(site: Site, shell: Any) -> None:
    known = set(site.proxies())
    one, session = shell()
    begin_outage(site, session)
    one.type("never-arrives")
    one.process.kill()
    until(lambda: set(site.proxies()) <= known, "the proxy to be gone", 10)
    until(lambda: session not in site.active(), "the session to be over", 10)


def many_sessions(site: Site, count: int, timeout: float) -> None:
    """So many shells at once on one agent, each with an answer of its own."""
    started: List[Shell] = []
    began = time.monotonic()
    try:
        for _ in range(count):
            started.append(site.shell())
        for number, one in enumerate(started):
            one.type(f"number-{number}-")
        for number, one in enumerate(started):
            one.wait_for(f"number-{number}-", timeout)
        seconds = time.monotonic() - began
        assert len(site.active()) >= count
        print(f"{count} sessions at once, all answered after {seconds:.1f} s")
        site.cloud.faults(kind="cut", side="both")
        for number, one in enumerate(started):
            one.type(f"again-{number}-")
        for number, one in enumerate(started):
            one.wait_for(f"again-{number}-", timeout)
        assert [one.close()[0] for one in started] == [0] * count
    finally:
        for one in started:
            end(one.process)
            one.wait_closed(10)


def test_a_hundred_sessions_at_once_on_one_agent(site: Site) -> None:
    """Each carries bytes of its own, and goes on when all links are cut at the same moment."""

    async def main(port: int) -> None:
        loop = asyncio.get_running_loop()
        factory = LightSessions(site.alice, site.instance_id)
        sessions = await asyncio.gather(*(factory.open(port) for _ in range(100)))
        assert len(site.active()) >= 100
        for word in (b"before", b"after"):
            for number, session in enumerate(sessions):
                session.runner.send_data(b"%s the cut, number %d. " % (word, number))
            if word == b"before":
                await loop.run_in_executor(None, partial(site.cloud.faults, kind="cut", side="both"))
        for number, session in enumerate(sessions):
            expected = b"before the cut, number %d. after the cut, number %d. " % (number, number)
            await session.wait_received(len(expected))
            assert bytes(session.received) == expected
        assert min(session.runner.resumes for session in sessions) >= 1
        await asyncio.gather(*map(factory.end, sessions))

    asyncio.run(beside_echo(main))


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_hundred_logins_at_once(site: Site) -> None:
    many_sessions(site, 100, 300)


@pytest.mark.parametrize("shared", [True, False], ids=["one connection", "two connections"])
def test_a_shell_answers_beside_a_copy_without_end(site: Site, tmp_path: Path, shared: bool) -> None:
    control = ["-o", f"ControlPath={tmp_path}/control"] if shared else []
    main = site.shell(*control, *(["-M"] if shared else []))
    copies: List[subprocess.Popen[bytes]] = []
    try:
        main.ask("hello", 30)
        for command in ("cat >/dev/null", "cat /dev/zero"):
            copies.append(site.copy_without_end(command, *control))
        moved = [site.moved(copy) for copy in copies]
        until(lambda: all(site.moved(copy) > was for copy, was in zip(copies, moved)), "bytes to flow", 30)
        waited = sorted(main.ask(f"word{number}-", 30) for number in range(20))
        assert [copy.poll() for copy in copies] == [None, None]
        print(f"echo beside a copy each way: median {waited[10]:.3f} s, longest {waited[-1]:.3f} s")
    finally:
        for copy in copies:
            end(copy)
        for copy in copies:
            for stream in (copy.stdin, copy.stdout):
                if stream is not None:
                    stream.close()
        status = main.close()[0]
    assert status == 0


def open_and_close(site: Site, agent: int, counts: List[int], at_once: int) -> "List[Dict[str, int]]":
    """So many sessions, some at a time, several times; what the agent holds after each time."""

    async def main(port: int) -> "List[Dict[str, int]]":
        sessions = LightSessions(site.alice, site.instance_id)
        found = []
        for count in counts:
            began = time.monotonic()
            await sessions.open_and_close(port, count, at_once)
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, site.wait_settled, agent)
            found.append(footprint(agent))
            print(f"{count} sessions in {time.monotonic() - began:.1f} s, then: {found[-1]}")
        return found

    return asyncio.run(beside_echo(main))


def test_two_hundred_sessions_leave_nothing_in_the_agent(site: Site, shell: Any) -> None:
    one, _ = shell()
    agent = agent_above(one.server())
    first, last = open_and_close(site, agent, [50, 150], 5)
    assert last["descriptors"] == first["descriptors"]
    assert last["threads"] == first["threads"]
    assert last["children"] == first["children"]
    # What is remembered of a session that has ended is its name.
    assert last["memory"] - first["memory"] < 2048
    assert one.close()[0] == 0


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_ten_thousand_sessions_leave_nothing_in_the_agent(site: Site, shell: Any) -> None:
    one, _ = shell()
    agent = agent_above(one.server())
    first, last = open_and_close(site, agent, [1000, 9000], 10)
    slope = (last["memory"] - first["memory"]) / 9000
    print(f"{slope:.3f} KiB a session after the first thousand")
    assert last["descriptors"] == first["descriptors"]
    assert last["threads"] == first["threads"]
    assert slope < 0.1
    assert last["memory"] < 60 * 1024
