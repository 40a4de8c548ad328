"""``config-ssh`` as a user runs it: the block comes, stays the same, changes and goes."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from sagemaker_ssh_helper.client import ssh_config

from .conftest import Run

OTHERS = b"# mine\nHost bastion\n  User jump\n"


@pytest.fixture
def config(home: Path) -> Path:
    path = home / ".ssh" / "config"
    path.parent.mkdir()
    path.write_bytes(OTHERS)
    return path


def test_it_is_written_once_and_removed_without_a_trace(sm_ssh: Run, config: Path) -> None:
    first = sm_ssh("config-ssh")
    written = config.read_bytes()
    assert first.returncode == 0
    assert first.stdout == b""
    assert b"wrote the block" in first.stderr
    assert written.endswith(OTHERS)
    assert b" start-proxy --user %r %n %h\n" in written

    again = sm_ssh("config-ssh")
    assert b"no changes to make" in again.stderr
    assert config.read_bytes() == written

    removed = sm_ssh("config-ssh", "--remove")
    assert removed.returncode == 0
    assert config.read_bytes() == OTHERS
    assert sorted(os.listdir(config.parent)) == ["config"]
    assert b"no changes to make" in sm_ssh("config-ssh", "--remove").stderr


def test_a_file_that_was_not_there_goes_again(sm_ssh: Run, home: Path) -> None:
    path = home / ".ssh" / "config"
    assert sm_ssh("config-ssh").returncode == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert sm_ssh("config-ssh").returncode == 0
    assert sm_ssh("config-ssh", "--remove").returncode == 0
    assert not path.exists()


def test_a_file_that_was_empty_stays_empty(sm_ssh: Run, config: Path) -> None:
    config.write_bytes(b"")
    sm_ssh("config-ssh")
    sm_ssh("config-ssh", "--remove")
    assert config.read_bytes() == b""


def test_chosen_options_stay_until_others_are_chosen(sm_ssh: Run, config: Path) -> None:
    sm_ssh("config-ssh", "--profile", "ml-dev", "-o", "ForwardAgent yes")
    chosen = config.read_bytes()
    assert b"start-proxy --profile ml-dev --user %r %n" in chosen
    assert b"  ForwardAgent yes\n" in chosen
    sm_ssh("config-ssh")
    assert config.read_bytes() == chosen
    sm_ssh("config-ssh", "--region", "eu-west-1")
    assert b"start-proxy --region eu-west-1 --user %r %n" in config.read_bytes()
    assert b"ml-dev" not in config.read_bytes()


def test_a_dry_run_prints_the_difference_and_writes_nothing(sm_ssh: Run, config: Path, home: Path) -> None:
    done = sm_ssh("config-ssh", "--dry-run")
    assert done.returncode == 0
    assert done.stderr == b""
    assert done.stdout.startswith(f"--- {config}\n+++ {config}\n".encode())
    assert config.read_bytes() == OTHERS
    sm_ssh("config-ssh")
    assert sm_ssh("config-ssh", "--dry-run").stdout == b""
    assert b"\n-# >>> sm-ssh >>>" in sm_ssh("config-ssh", "--dry-run", "--remove").stdout


def test_printing_writes_nothing(sm_ssh: Run, home: Path) -> None:
    done = sm_ssh("config-ssh", "--print", "--profile", "p")
    assert done.stdout.startswith(b"# >>> sm-ssh >>>")
    assert done.stdout.endswith(b"# <<< sm-ssh <<<\n")
    assert list(home.iterdir()) == []


def test_broken_markers_are_refused_and_the_file_stays(sm_ssh: Run, config: Path) -> None:
    config.write_bytes(OTHERS + b"# <<< sm-ssh <<<\n")
    for words in ([], ["--remove"], ["--dry-run"]):
        done = sm_ssh("config-ssh", *words)
        assert done.returncode == 9
        assert b"error[config-broken]: the sm-ssh block in" in done.stderr
    assert config.read_bytes() == OTHERS + b"# <<< sm-ssh <<<\n"


def test_another_file_can_be_named(sm_ssh: Run, config: Path, home: Path) -> None:
    other = home / "other config"
    assert sm_ssh("config-ssh", "--ssh-config-file", str(other)).returncode == 0
    assert other.read_bytes().startswith(b"# >>> sm-ssh >>>")
    assert config.read_bytes() == OTHERS


def test_a_file_that_cannot_be_written_is_told(sm_ssh: Run, home: Path) -> None:
    (home / ".ssh").write_text("in the way")
    done = sm_ssh("config-ssh")
    assert done.returncode == 9
    assert b"error[local-setup]" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_home_that_ssh_does_not_read_is_told(sm_ssh: Run, home: Path) -> None:
    """ssh takes the home from the account, and this one is from HOME alone."""
    done = sm_ssh("config-ssh")
    assert f"; try: ssh -F {home}/.ssh/config NAME.training.sagemaker\n" in done.stderr.decode()


def test_what_ssh_reads_by_itself_needs_no_words() -> None:
    own = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh" / "config"
    assert ssh_config.options_for(own) == []
    assert ssh_config.options_for(Path("/elsewhere")) == ["-F", "/elsewhere"]


@pytest.mark.parametrize(
    ("text", "line"), [(b"Host x\n  Usr me\n", 2), (b"Port abc\n", 1), (b"\xe4 \xff\n", 1)]
)
def test_a_file_that_ssh_refuses_is_told_with_its_line(
    sm_ssh: Run, config: Path, text: bytes, line: int
) -> None:
    config.write_bytes(text)
    for _ in range(2):
        done = sm_ssh("config-ssh")
        before = config.read_bytes().partition(text)[0].count(b"\n")
        assert done.returncode == 9
        assert f"line {before + line}".encode() in done.stderr
        assert b"wrote the block" not in done.stderr
        assert config.read_bytes().endswith(text)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_that_is_no_plain_utf_8_is_left_alone(sm_ssh: Run, config: Path, encoding: str) -> None:
    text = "Host x\n  User me\n".encode(encoding)
    config.write_bytes(text)
    done = sm_ssh("config-ssh")
    assert done.returncode == 9
    assert b"error[config-broken]" in done.stderr
    assert b"byte order mark" in done.stderr
    assert config.read_bytes() == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-be"])
def test_a_file_of_wide_characters_without_a_mark_is_left_alone(
    sm_ssh: Run, config: Path, encoding: str
) -> None:
    """ssh takes each line that begins with a zero byte for an empty one."""
    text = "Host x\n  User me\n".encode(encoding)
    config.write_bytes(text)
    done = sm_ssh("config-ssh")
    assert done.returncode == 9
    assert b"error[config-broken]" in done.stderr
    assert b"zero bytes" in done.stderr
    assert config.read_bytes() == text
    assert b"zero bytes" in sm_ssh("doctor").stdout
    assert config.read_bytes() == text


def test_comments_in_another_encoding_stay(sm_ssh: Run, config: Path) -> None:
    config.write_bytes(b"# f\xfcr mich\nHost x\n  User me\n")
    assert sm_ssh("config-ssh").returncode == 0
    assert config.read_bytes().endswith(b"# f\xfcr mich\nHost x\n  User me\n")
    assert b"config-broken" not in sm_ssh("doctor").stderr
