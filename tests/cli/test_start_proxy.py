"""``start-proxy`` on a real job in the local cloud: every end ends the session, once; and what it costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.laptop import SM_SSH, Job, Laptop, running, until
from local_cloud import LocalCloud


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def alice(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    return Laptop(cloud.info, "alice", tmp_path_factory.mktemp("laptop"))


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    """A job whose name has capitals: ssh folds ``%h``, and ``%n`` keeps them."""
    with running(alice, name=f"My-Job-{os.getpid()}") as job:
        yield job


@pytest.fixture(scope="module")
def node(job: Job) -> str:
    return str(job.instances()[0]["InstanceId"])


@pytest.fixture
def tags(cloud: LocalCloud, alice: Laptop, node: str) -> Iterator[Any]:
    """Change tags of the node; they are put back, and what was pinned is forgotten."""
    ssm = cloud.client("ssm", user="admin")
    about = {"ResourceType": "ManagedInstance", "ResourceId": node}
    before = ssm.list_tags_for_resource(**about)["TagList"]

    def change(**changes: str | None) -> None:
        added = [{"Key": key, "Value": value} for key, value in changes.items() if value is not None]
        if added:
            ssm.add_tags_to_resource(**about, Tags=added)
        removed = [key for key, value in changes.items() if value is None]
        if removed:
            ssm.remove_tags_from_resource(**about, TagKeys=removed)

    yield change
    ssm.add_tags_to_resource(**about, Tags=before)
    forget_pins(alice)


@pytest.fixture
def unpinned(alice: Laptop) -> None:
    forget_pins(alice)


def forget_pins(alice: Laptop) -> None:
    (alice.home / ".local" / "state" / "sm-ssh" / "pins.json").unlink(missing_ok=True)


def active_sessions(cloud: LocalCloud) -> list[str]:
    listed = cloud.client("ssm", user="admin").describe_sessions(State="Active")["Sessions"]
    return [str(session["SessionId"]) for session in listed]


@contextmanager
def proxy(alice: Laptop, job: Job, *words: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A start-proxy whose session is open."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    process = alice.popen(*SM_SSH, "start-proxy", *words, job.host, **pipes)
    try:
        assert process.stdout is not None
        assert process.stdout.read(8) == b"SSH-2.0-"
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        process.wait(10)


def until_over(cloud: LocalCloud, terminated: int = 1) -> None:
    """No session is left, and this many were ended by the client."""
    until(lambda: not active_sessions(cloud), "the session to be over")
    assert cloud.count("ssm:TerminateSession", "alice") == terminated


@pytest.mark.parametrize("source", ["file", "null", "closed"])
def test_any_standard_input_will_do(
    alice: Laptop, job: Job, cloud: LocalCloud, tmp_path: Path, source: str
) -> None:
    cloud.reset_requests()
    (tmp_path / "in").write_bytes(b"SSH-2.0-nobody\r\n")
    redirect = {"file": f"<{tmp_path}/in", "null": "</dev/null", "closed": "<&-"}[source]
    words = " ".join([*SM_SSH, "start-proxy", job.host])
    done = alice.run("sh", "-c", f"exec {words} {redirect} >{tmp_path}/out")

    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "out").read_bytes().startswith(b"SSH-2.0-OpenSSH")
    until_over(cloud)


def test_a_closed_standard_output_is_told(alice: Laptop, job: Job, cloud: LocalCloud) -> None:
    done = alice.run("sh", "-c", f"exec {' '.join(SM_SSH)} start-proxy {job.host} >&-")
    assert done.returncode == 255
    assert b"error[local-setup]: standard output" in done.stderr
    assert active_sessions(cloud) == []


def test_an_interrupt_at_any_moment_leaves_no_session(alice: Laptop, job: Job, cloud: LocalCloud) -> None:
    # The calls are slow, so that the signal comes before, in and after StartSession.
    with cloud.fault(kind="delay", action="ssm:*", user="alice", seconds=0.3):
        for calls in range(1, 4):
            cloud.reset_requests()
            process = alice.popen(
                *SM_SSH, "start-proxy", "--fresh", job.host,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            until(lambda calls=calls: sum(_calls(cloud).values()) >= calls, f"{calls} calls", 10)
            process.send_signal(signal.SIGTERM)
            out, told = process.communicate(timeout=15)
            assert (process.returncode, out, told) == (128 + signal.SIGTERM, b"", b"")
            until(lambda: not active_sessions(cloud), "no session")
            counted = _calls(cloud)
            assert counted.get("ssm:StartSession", 0) == counted.get("ssm:TerminateSession", 0)


def _calls(cloud: LocalCloud) -> dict[str, int]:
    """What alice called of the JSON services, until now."""
    return {
        row["action"]: row["count"]
        for row in cloud.requests()
        if row["user"] == "alice" and row["action"].startswith(("ssm:", "sagemaker:"))
    }


@pytest.mark.usefixtures("unpinned")
def test_a_known_job_takes_three_calls_and_then_two(alice: Laptop, job: Job, cloud: LocalCloud) -> None:
    first = {"ssm:DescribeInstanceInformation": 1, "ssm:ListTagsForResource": 1, "ssm:StartSession": 1}
    warm = {"ssm:DescribeInstanceInformation": 1, "ssm:StartSession": 1}
    for expected in (first, warm):
        cloud.reset_requests()
        with proxy(alice, job) as process:
            assert _calls(cloud) == expected
            process.communicate(timeout=10)


def test_an_idle_proxy_is_small(alice: Laptop, job: Job) -> None:
    with proxy(alice, job) as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
        (resident,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
        process.communicate(timeout=10)
    assert int(resident) < 45 * 1024


def test_a_port_where_no_ssh_server_answers(alice: Laptop, job: Job, cloud: LocalCloud, tags: Any) -> None:
    tags(SSHPort="1")
    done = alice.sm_ssh("start-proxy", "--fresh", job.host)
    tags(SSHPort="22")

    assert (done.returncode, done.stdout) == (255, b"")
    assert b"error[ssh-server-down]: no ssh server answers in My-Job" in done.stderr
    assert active_sessions(cloud) == []


def test_a_wrong_login_name_is_answered_and_the_right_one_is_known_then(
    alice: Laptop, job: Job, tags: Any
) -> None:
    alice.configure_ssh()
    tags(SSHUser="ubuntu")
    done = alice.sm_ssh("start-proxy", "--fresh", "--user", "root", job.host)
    assert done.returncode == 255
    assert b"error[wrong-user]" in done.stderr
    assert b"admits 'ubuntu' only" in done.stderr
    shown = alice.run("ssh", "-G", "-F", str(alice.home / ".ssh" / "config"), job.host).stdout
    assert b"\nuser ubuntu\n" in shown
    tags(SSHUser="root")
    alice.sm_ssh("start-proxy", "--fresh", job.host)
    shown = alice.run("ssh", "-G", "-F", str(alice.home / ".ssh" / "config"), job.host).stdout
    assert b"\nuser root\n" in shown


@pytest.mark.usefixtures("unpinned")
def test_a_container_that_lacks_our_key_gets_it_by_run_command(
    alice: Laptop, job: Job, cloud: LocalCloud, tags: Any
) -> None:
    tags(SSHKeys="none")
    keys = alice.home / ".config" / "sm-ssh"
    (keys / "key").rename(keys / "old")
    (keys / "key.pub").unlink()
    try:
        done = alice.ssh(job.host, "echo in")
        assert done.stdout == b"in\n", done.stderr.decode()
        assert b"delivering your public key" in done.stderr
        cloud.reset_requests()
        assert alice.ssh(job.host, "true").returncode == 0
        assert cloud.count("ssm:SendCommand") == 0
    finally:
        (keys / "old").rename(keys / "key")
        (keys / "key.pub").unlink()
    again = alice.ssh(job.host, "true")
    assert again.returncode == 0


@pytest.mark.usefixtures("unpinned")
def test_a_node_of_an_older_helper_is_trusted_on_request(alice: Laptop, job: Job, tags: Any) -> None:
    tags(SSHHostKey=None, SSHLaunchId=None)
    refused = alice.sm_ssh("connect", job.host, "true")
    assert refused.returncode == 5
    assert b"error[host-not-trusted]" in refused.stderr
    trusted = alice.sm_ssh("connect", "--trust-first-use", "-o", "BatchMode=yes", job.host, "echo in")
    assert trusted.stdout == b"in\n", trusted.stderr.decode()
    # From then on plain ssh knows it too.
    assert alice.ssh(job.host, "echo in").stdout == b"in\n"


@pytest.mark.usefixtures("unpinned")
def test_a_container_whose_key_is_not_its_tags_is_refused_by_ssh(alice: Laptop, job: Job, tags: Any) -> None:
    tags(SSHHostKey="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB")
    done = alice.ssh(job.host, "true")
    assert done.returncode == 255
    assert b"REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr
    assert b"Host key verification failed" in done.stderr


def test_the_log_of_a_run_holds_no_secret(alice: Laptop, job: Job) -> None:
    done = alice.run(
        *SM_SSH, "start-proxy", "--fresh", job.host, env={"SM_SSH_DEBUG": "true"}, stdin=b"SSH-2.0-nobody\r\n"
    )
    path = Path(done.stderr.decode().splitlines()[0].removeprefix("sm-ssh: log of this run: "))
    logged = path.read_text()

    assert done.stdout.startswith(b"SSH-2.0-OpenSSH")
    assert "> ssm StartSession" in logged
    assert alice.user["secret_access_key"] not in logged
    assert "TokenValue" not in logged
    assert "Signature" not in logged
    assert "nobody" not in logged


def test_names_with_capitals_work_in_plain_ssh(alice: Laptop, job: Job) -> None:
    done = alice.ssh(job.host, "printenv TRAINING_JOB_NAME")
    assert done.stdout.decode().strip() == job.name, done.stderr.decode()
    known = (alice.home / ".config" / "sm-ssh" / "known_hosts").read_text()
    assert known.startswith(job.host.lower())


@pytest.mark.parametrize("status", [0, 1, 37, 254])
def test_connect_returns_the_commands_status(alice: Laptop, job: Job, status: int) -> None:
    done = alice.sm_ssh("connect", job.host, "--", "sh", "-c", f"exit {status}")
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


def test_connects_words_arrive_as_they_were_given(alice: Laptop, job: Job) -> None:
    words = ["a b", "it's", 'say "hi"', "two\nlines", "$HOME", "*", "", "ü", "-x"]
    show = "import json, sys; print(json.dumps(sys.argv[1:]))"
    done = alice.sm_ssh("connect", job.host, "--", "python3", "-c", show, *words)
    assert json.loads(done.stdout) == words, done.stderr.decode()
