"""Credentials that end while a session goes on: it is resumed with new ones."""

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List

import pytest

from e2e.laptop import SM_SSH, Job, Laptop, end, running
from local_cloud import LocalCloud


@pytest.fixture(scope="module")
def job(laptop: Callable[[str], Laptop]) -> Iterator[Job]:
    with running(laptop("alice")) as job:
        yield job


class Keys:
    """Access keys of alice's, written to the credentials file of her laptop."""

    def __init__(self, cloud: LocalCloud, alice: Laptop) -> None:
        self._iam = cloud.client("iam", user="admin")
        self._path = alice.home / "credentials"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            del alice.env[name]
        alice.env["AWS_SHARED_CREDENTIALS_FILE"] = str(self._path)
        self._made: List[str] = []

    def write_new(self) -> None:
        key: Dict[str, Any] = self._iam.create_access_key(UserName="alice")["AccessKey"]
        self._made.append(key["AccessKeyId"])
        self._path.write_text(
            f"[default]\naws_access_key_id={key['AccessKeyId']}\naws_secret_access_key={key['SecretAccessKey']}\n"
        )

    def revoke(self) -> None:
        """Those that were written are no good any more."""
        while self._made:
            self._iam.delete_access_key(UserName="alice", AccessKeyId=self._made.pop())


@pytest.fixture
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture
def keys(e2e_cloud: LocalCloud, alice: Laptop) -> Iterator[Keys]:
    keys = Keys(e2e_cloud, alice)
    keys.write_new()
    yield keys
    keys.revoke()
    e2e_cloud.clear_faults()


@contextmanager
def shell(alice: Laptop, job: Job) -> "Iterator[subprocess.Popen[bytes]]":
    """A shell without ssh, to which lines are typed."""
    process = alice.popen(
        *SM_SSH, "session", job.host,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        ask(process, b"begun")
        yield process
    finally:
        end(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def ask(process: "subprocess.Popen[bytes]", word: bytes) -> None:
    """Until the shell has said this word; the terminal's echo of what is typed is not that."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"printf '%%s\\n' %s''%s\n" % (word[:2], word[2:]))
    process.stdin.flush()
    line = b""
    while line.strip().rpartition(b" ")[2] != word:
        line = process.stdout.readline()
        assert line, "the session has ended"


def test_a_session_is_resumed_with_the_credentials_of_now(
    e2e_cloud: LocalCloud, alice: Laptop, job: Job, keys: Keys
) -> None:
    with shell(alice, job) as process:
        keys.revoke()
        keys.write_new()
        e2e_cloud.faults(kind="cut", side="client")
        ask(process, b"resumed")
        assert process.stdin is not None
        process.stdin.write(b"exit\n")
        process.stdin.close()
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_it_waits_for_somebody_to_sign_in_again(
    e2e_cloud: LocalCloud, alice: Laptop, job: Job, keys: Keys
) -> None:
    with shell(alice, job) as process:
        keys.revoke()
        e2e_cloud.faults(kind="cut", side="client")
        assert process.stderr is not None
        lines = [process.stderr.readline()]
        if b"link lost" in lines[0]:
            lines.append(process.stderr.readline())
        assert b"AWS does not accept the credentials" in lines[-1]
        keys.write_new()
        ask(process, b"resumed")


def test_a_refusal_or_two_of_a_resume_are_not_believed(
    e2e_cloud: LocalCloud, alice: Laptop, job: Job, keys: Keys
) -> None:
    """Policies, and the sessions of roles, take their time to be the same everywhere."""
    with shell(alice, job) as process:
        e2e_cloud.faults(
            kind="error", action="ssm:ResumeSession", code="AccessDeniedException", status=400, times=2
        )
        e2e_cloud.faults(kind="cut", side="client")
        ask(process, b"resumed")


NOISY_HELPER = """#!{python}
import json, os, sys
taken = sys.stdin.buffer.read()
print("the helper took", len(taken), "bytes", file=sys.stderr)
os.write(2, b"noise")
with open({log!r}, "ab") as log:
    log.write(taken + b"|")
print(json.dumps({{"Version": 1, "AccessKeyId": {key!r}, "SecretAccessKey": {secret!r}}}))
"""


@pytest.fixture
def helped(alice: Laptop) -> Laptop:
    """Alice, whose keys come from a program that reads its standard input to the end."""
    helper, log = alice.home / "helper", alice.home / "taken"
    helper.write_text(
        NOISY_HELPER.format(
            python=sys.executable, log=str(log), key=alice.user["access_key_id"],
            secret=alice.user["secret_access_key"],
        )
    )  # fmt: skip
    helper.chmod(0o755)
    config = alice.home / "config"
    config.write_text(f"[default]\ncredential_process = {helper}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del alice.env[name]
    alice.env["AWS_CONFIG_FILE"] = str(config)
    return alice


def test_a_credential_helper_takes_none_of_the_bytes_of_ssh_or_of_the_command(
    helped: Laptop, job: Job
) -> None:
    ssh = helped.configure_ssh()
    data = os.urandom(300_000)
    for words in (
        [*SM_SSH, "exec", job.host, "--", "cat"],
        [*SM_SSH, "connect", job.host, "cat"],
        [*ssh, job.host, "cat"],
    ):
        done = helped.run(*words, stdin=data)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout == data
        assert b"noise" not in done.stderr
    taken = (helped.home / "taken").read_bytes()
    assert set(taken) == {ord("|")}


def test_a_throttled_upgrade_ends_no_session(e2e_cloud: LocalCloud, alice: Laptop, job: Job) -> None:
    """The message gateway says it with a status of 400, to the client and to the agent."""
    throttled = {"kind": "error", "action": "ssmmessages:OpenDataChannel", "status": 400, "times": 10}
    e2e_cloud.faults(code="ThrottlingException", message="Rate exceeded", **throttled)
    try:
        done = alice.run(*SM_SSH, "exec", job.host, "--", "echo", "through")
    finally:
        e2e_cloud.clear_faults()

    assert (done.returncode, done.stdout) == (0, b"through\n"), done.stderr


def test_a_session_goes_on_when_the_role_token_of_its_node_is_not_taken_any_more(
    e2e_cloud: LocalCloud, alice: Laptop, job: Job, keys: Keys
) -> None:
    """Long before its time, and the first renewals fail, too."""
    with shell(alice, job) as process:
        e2e_cloud.faults(
            kind="error", action="ssmmessages:CreateDataChannel", code="ExpiredTokenException",
            status=403, times=8,
        )  # fmt: skip
        e2e_cloud.faults(
            kind="error", action="ssm:RequestManagedInstanceRoleToken", code="InternalServerError", times=4
        )
        e2e_cloud.faults(kind="cut", side="agent")
        ask(process, b"resumed")


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_laptop_whose_clock_is_wrong_signs_by_the_time_of_the_service(
    e2e_cloud: LocalCloud, alice: Laptop, job: Job, keys: Keys, hours: int
) -> None:
    patches = alice.home / "wrong"
    patches.mkdir(exist_ok=True)
    (patches / "sitecustomize.py").write_text(
        f"import time\nright = time.time\ntime.time = lambda: right() + {hours * 3600}\n"
    )
    alice.env["PYTHONPATH"] = str(patches)
    with shell(alice, job) as process:
        e2e_cloud.faults(kind="cut", side="client")
        ask(process, b"resumed")
