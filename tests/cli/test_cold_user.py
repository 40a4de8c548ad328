"""
The first minutes: an empty HOME, nothing about AWS anywhere, and the short PATH of a program from the dock.

Every command gives a result, or one line that says what to do next.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sagemaker_ssh_helper.cli.main import COMMANDS

from .conftest import SM_SSH

HOST = "my-job.training.sagemaker"
WORDS = {
    "connect": [HOST],
    "exec": [HOST, "--", "true"],
    "cp": ["file", f"{HOST}:/tmp/"],
    "forward": [HOST, "8080"],
    "session": [HOST],
    "list": [],
    "status": [HOST],
    "wait": [HOST],
    "logs": [HOST],
    "continue": [HOST],
    "stop": [HOST, "--yes"],
    "enable": [HOST],
    "disable": [HOST],
    "ide": [HOST],
    "doctor": [],
    "config": ["list"],
    "config-ssh": ["--dry-run"],
    "start-proxy": [HOST],
    "known-hosts": [HOST],
    "completion": ["bash"],
    "explain": ["usage"],
    "deregister": ["--yes"],
    "emulator": ["--help"],
    "demo": ["--help"],
}
NEED_NO_AWS = {"config", "config-ssh", "known-hosts", "completion", "explain", "emulator", "demo"}

Cold = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def cold(home: Path) -> Cold:
    """Run the command as such a user."""
    (home / "file").touch()
    environment = {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        # No machine of EC2 either: asking its metadata would leave this machine.
        "AWS_EC2_METADATA_DISABLED": "true",
    }

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[bytes]:
        import os

        if "PYTHONPATH" in os.environ:
            more["PYTHONPATH"] = os.environ["PYTHONPATH"]
        return subprocess.run(
            [*SM_SSH, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**environment, **more},
            cwd=home,
            timeout=60,
            check=False,
        )

    return run


def test_every_command_is_tried() -> None:
    assert set(WORDS) == set(COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_gives_a_result_or_says_what_to_do(cold: Cold, command: str) -> None:
    done = cold(command, *WORDS[command])
    told = done.stderr.decode().splitlines()
    assert not any("Traceback" in line for line in told)
    if command in NEED_NO_AWS:
        assert done.returncode == 0, told
        return
    if command == "doctor":
        assert done.returncode == 9
        assert b"FAIL  region" in done.stdout
        assert b"fix" in done.stdout
        return
    assert done.returncode == (255 if command in ("start-proxy", "session") else 9), told
    assert done.stdout == b""
    # An editor needs the block first; everything else needs a region.
    expected = "Run: sm-ssh config-ssh" if command == "ide" else "--region"
    assert len(told) == 1, told
    assert told[0].startswith("sm-ssh: error[")
    assert expected in told[0]


@pytest.mark.parametrize("command", ["connect", "start-proxy", "list"])
def test_with_a_region_it_is_the_credentials_that_are_missing(cold: Cold, command: str) -> None:
    done = cold(command, *WORDS[command], AWS_REGION="eu-west-1")
    assert done.stdout == b""
    assert b"error[credentials-missing]" in done.stderr
    assert b"aws configure" in done.stderr
