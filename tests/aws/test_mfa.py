"""Codes of a second factor: asked on the terminal, never on standard input, and once for all processes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aws_stub import AwsStub, aws_stub

KEYS = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<AssumedRoleUser><Arn>arn:aws:sts::111122223333:assumed-role/r/s</Arn><AssumedRoleId>A:s</AssumedRoleId>
</AssumedRoleUser><Credentials><AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>
<SessionToken>token</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult>
</AssumeRoleResponse>"""

CONFIG = """[profile mfa]
role_arn = arn:aws:iam::111122223333:role/r
source_profile = base
mfa_serial = arn:aws:iam::111122223333:mfa/me
[profile base]
aws_access_key_id = AKIAEXAMPLE
aws_secret_access_key = secret
"""

# Prints the access key, as a process that ssh starts would use it, with data for somebody else at its input.
PROGRAM = """
import sys
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.client import standard_streams
from sagemaker_ssh_helper.errors import SSHHelperError
standard_streams.set_apart()
session = Session.open("mfa", "eu-west-1")
if "late" in sys.argv:
    session.ask_no_more()
try:
    print(session.credentials().access_key)
except SSHHelperError as error:
    print(f"error[{error.id}]: {error}", file=sys.stderr)
"""

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def stub() -> Iterator[AwsStub]:
    with aws_stub() as stub:
        stub.answers["AssumeRole"] = lambda params: KEYS.encode()
        yield stub


@pytest.fixture
def run(stub: AwsStub, tmp_path: Path) -> Run:
    config = tmp_path / "config"
    config.write_text(CONFIG)
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    env = {**kept, **stub.environment(HOME=str(tmp_path), AWS_CONFIG_FILE=str(config))}
    del env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"]

    def run(*words: str, terminal: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-c", PROGRAM, *words]
        if terminal is None:
            return subprocess.run(
                command, input=b"654321\n", capture_output=True, env=env, start_new_session=True, check=False
            )
        near, far = pty.openpty()
        # The shell that has a controlling terminal, as ssh's user has.
        launcher = (
            "import fcntl, os, subprocess, sys, termios; os.setsid(); fcntl.ioctl(int(sys.argv[1]), "
            "termios.TIOCSCTTY, 0); os.execv(sys.argv[2], sys.argv[2:])"
        )
        with subprocess.Popen(
            [sys.executable, "-c", launcher, str(far), *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, pass_fds=[far],
        ) as process:  # fmt: skip
            os.write(near, terminal)
            out, told = process.communicate(b"654321\n", timeout=60)
        os.close(far)
        os.close(near)
        return subprocess.CompletedProcess(command, process.returncode, out, told)

    return run


def test_a_code_is_asked_on_the_terminal_and_once(run: Run, stub: AwsStub, tmp_path: Path) -> None:
    done = run(terminal=b"123456\n")
    assert done.stderr.decode() == ""
    assert done.stdout == b"ASIAEXAMPLE\n"
    (kept,) = (tmp_path / ".aws" / "cli" / "cache").iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    assert json.loads(kept.read_text())["Credentials"]["AccessKeyId"] == "ASIAEXAMPLE"

    # The next process of ours has no terminal, and needs none.
    assert run().stdout == b"ASIAEXAMPLE\n"
    assert stub.operations == ["AssumeRole"]


def test_without_a_terminal_no_code_is_read_from_anywhere_else(run: Run, stub: AwsStub) -> None:
    done = run()
    assert done.stdout == b""
    assert done.stderr == (
        b"error[credentials-missing]: the profile mfa takes an MFA code (there is no terminal on which to "
        b"ask for it). Run this in a terminal, then try again: sm-ssh list --profile mfa\n"
    )
    assert stub.operations == []


def test_a_terminal_that_belongs_to_a_session_is_left_alone(run: Run, stub: AwsStub) -> None:
    done = run("late", terminal=b"123456\n")
    assert b"takes an MFA code (the terminal belongs to the session that is open)" in done.stderr
    assert stub.operations == []
