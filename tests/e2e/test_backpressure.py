"""
A reader that stalls holds its writer, through client, gateway and agent: what was taken and what is held has
a bound, and nothing is dropped.
"""

import hashlib
import os
import random
import socket
import subprocess
import threading
from typing import Callable, Dict, Iterator, List

import pytest

from e2e.laptop import SM_SSH, Job, Laptop, end, running, until
from e2e.processes import footprint, other_end_of
from local_cloud import LocalCloud

MB = 1_000_000
TOTAL = 40 * MB
# The window, and what the sockets of a machine hold.
MOST_TAKEN = 32 * MB
MOST_GROWTH = 48_000  # KiB


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice) as job:
        yield job


class Mover(threading.Thread):
    """Moves all bytes between a descriptor and memory; ``count`` is how many so far."""

    def __init__(self, descriptor: int, data: bytes = b"") -> None:
        super().__init__(daemon=True)
        self.count = 0
        self.hash = hashlib.sha256()
        self._descriptor = descriptor
        self._data = memoryview(data)
        self.start()

    def run(self) -> None:
        if self._data:
            while self.count < len(self._data):
                self.count += os.write(self._descriptor, self._data[self.count : self.count + 65536])
            return
        while self.count < TOTAL:
            piece = os.read(self._descriptor, 1 << 20)
            if not piece:
                return
            self.hash.update(piece)
            self.count += len(piece)

    def wait_held(self) -> int:
        """The count at which nothing moves any more."""
        seen: List[int] = []

        def held() -> bool:
            seen.append(self.count)
            return len(seen) > 40 and seen[-1] == seen[-40] > 0

        until(held, "the writer to be held", 60)
        return self.count


class Stream:
    """A session to a server of the test's own: ``process`` is the client, ``target`` the server's socket."""

    def __init__(self, alice: Laptop, cloud: LocalCloud, job: Job) -> None:
        known = sessions(cloud)
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(60)
            port = server.getsockname()[1]
            self.process = alice.popen(
                *SM_SSH, "session", job.host, "--document", "AWS-StartSSHSession",
                "--parameter", f"portNumber={port}", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            self.target, _ = server.accept()
        self.target.settimeout(None)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        (self.session,) = sessions(cloud) - known

    def close(self) -> None:
        end(self.process)
        self.target.close()
        self.stdin.close()
        self.stdout.close()


def sessions(cloud: LocalCloud) -> "set[str]":
    listed = cloud.client("ssm", user="admin").describe_sessions(State="Active")["Sessions"]
    return {str(session["SessionId"]) for session in listed}


@pytest.fixture
def stream(alice: Laptop, e2e_cloud: LocalCloud, job: Job) -> Iterator[Stream]:
    stream = Stream(alice, e2e_cloud, job)
    yield stream
    e2e_cloud.clear_faults()
    stream.close()
    until(lambda: stream.session not in sessions(e2e_cloud), "the session to be over")


class Memory:
    """What client, gateway and agent hold more than in the beginning, in KiB."""

    def __init__(self, cloud: LocalCloud, stream: Stream) -> None:
        agent = other_end_of(stream.target)
        self._pids = {"client": stream.process.pid, "gateway": cloud.process.pid, "agent": agent}
        self._before = self._now()

    def _now(self) -> Dict[str, int]:
        return {name: footprint(pid)["memory"] for name, pid in self._pids.items()}

    def assert_bounded(self) -> None:
        now = self._now()
        growth = {name: now[name] - self._before[name] for name in now}
        print(f"growth in KiB: {growth}")
        assert max(growth.values()) < MOST_GROWTH


@pytest.fixture(scope="module")
def data() -> bytes:
    return random.Random(7).randbytes(TOTAL)


def arrived(reader: Mover, data: bytes) -> None:
    reader.join(100)
    assert reader.count == TOTAL
    assert reader.hash.digest() == hashlib.sha256(data).digest()


def test_a_target_that_reads_nothing_holds_the_client(
    stream: Stream, e2e_cloud: LocalCloud, data: bytes
) -> None:
    memory = Memory(e2e_cloud, stream)
    writer = Mover(stream.stdin.fileno(), data)
    taken = writer.wait_held()
    print(f"held after {taken / MB:.1f} MB")
    assert taken < MOST_TAKEN
    memory.assert_bounded()
    arrived(Mover(stream.target.fileno()), data)


def test_a_client_that_reads_nothing_holds_the_target(
    stream: Stream, e2e_cloud: LocalCloud, data: bytes
) -> None:
    memory = Memory(e2e_cloud, stream)
    writer = Mover(stream.target.fileno(), data)
    taken = writer.wait_held()
    print(f"held after {taken / MB:.1f} MB")
    assert taken < MOST_TAKEN
    memory.assert_bounded()
    arrived(Mover(stream.stdout.fileno()), data)


@pytest.mark.parametrize("side", ["client", "agent"])
def test_a_gateway_that_takes_nothing_holds_both(
    stream: Stream, e2e_cloud: LocalCloud, data: bytes, side: str
) -> None:
    memory = Memory(e2e_cloud, stream)
    readers = [Mover(stream.target.fileno()), Mover(stream.stdout.fileno())]
    # Silent for so long that it would be replaced, but for the switch that ends it.
    e2e_cloud.faults(kind="freeze", side=side, session=stream.session, seconds=600)
    writers = [Mover(stream.stdin.fileno(), data), Mover(stream.target.fileno(), data)]
    taken = [writer.wait_held() for writer in writers]
    print(f"held after {[round(count / MB, 1) for count in taken]} MB")
    assert max(taken) < MOST_TAKEN
    memory.assert_bounded()
    e2e_cloud.clear_faults()
    for reader in readers:
        arrived(reader, data)
