"""
Copies through a service that takes only so much in one message, and through one that takes all.

The local cloud's switch says what becomes of longer messages; see docs/reference/local-cloud-link-faults.md.
"""

import hashlib
import os
import subprocess
import threading
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List

import pytest

from e2e.laptop import COMMAND_TIMEOUT, Job, Laptop, running
from local_cloud import LocalCloud
from sagemaker_ssh_helper.protocol.payload_size import TRIES

CONTENT = os.urandom(6_000_000)
LIMIT = 20_000


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice) as job:
        alice.configure_ssh()
        yield job


@pytest.fixture
def switched(e2e_cloud: LocalCloud) -> Iterator[LocalCloud]:
    yield e2e_cloud
    e2e_cloud.clear_faults()


def test_a_copy_finds_its_way_without_a_limit(switched: LocalCloud, alice: Laptop, job: Job) -> None:
    # A limit that nothing reaches: only to have the link counted.
    assert copy_both_ways(switched, alice, job, max_message=1 << 20)["too_long"] == 0


def test_a_copy_survives_a_service_that_closes(switched: LocalCloud, alice: Laptop, job: Job) -> None:
    link = copy_both_ways(switched, alice, job, max_message=LIMIT, too_long="closed")
    assert link["too_long"] == 2, "once each way, and never again"


def test_a_copy_survives_a_service_that_loses(switched: LocalCloud, alice: Laptop, job: Job) -> None:
    link = copy_both_ways(switched, alice, job, max_message=LIMIT, too_long="lost")
    # Two sizes each way at most, each of them tried again before it is given up.
    assert 2 <= link["too_long"] <= 2 * 2 * TRIES
    assert link["too_long"] == link["lost"], "no byte of a user's in a size that was not proven"


def links(cloud: LocalCloud) -> List[Dict[str, Any]]:
    return [row for row in cloud.local("GET", "faults")["faults"] if row["kind"] == "link"]


def copy_both_ways(cloud: LocalCloud, alice: Laptop, job: Job, **link: Any) -> Dict[str, Any]:
    """Copy through a link like that; what the cloud says about the session when it is done."""
    cloud.faults(kind="link", **link)
    before = {row["session"] for row in links(cloud)}
    script = f"head -c {len(CONTENT)} > copied; sha256sum < copied; cat copied; rm copied; cat"
    config = str(alice.home / ".ssh" / "config")
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = alice.popen("ssh", "-F", config, job.host, script, **pipes)
    with killed_in_time(process):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(CONTENT)
        process.stdin.flush()
        assert process.stdout.readline().split()[0].decode() == hashlib.sha256(CONTENT).hexdigest()
        assert process.stdout.read(len(CONTENT)) == CONTENT
        # The session of a test before this one may not have ended yet.
        (row,) = [row for row in links(cloud) if row["session"] not in before]
        _, told = process.communicate()
    assert process.returncode == 0
    assert told == b""
    return dict(row)


@contextmanager
def killed_in_time(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """So that a transfer which stands still is a failure."""
    timer = threading.Timer(COMMAND_TIMEOUT, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        process.kill()
        process.wait()
