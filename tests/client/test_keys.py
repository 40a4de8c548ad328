"""The key pair: made once, private, and never overwritten."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from sagemaker_ssh_helper.client import keys
from sagemaker_ssh_helper.client.files import config_dir
from sagemaker_ssh_helper.client.keys import KeyPair, ensure_key, make_node_key
from sagemaker_ssh_helper.errors import LocalSetup


def test_it_is_made_once_and_private() -> None:
    made = ensure_key()

    assert made.path == config_dir() / "key"
    assert made.public.type == "ssh-ed25519"
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.path.parent.stat().st_mode) == 0o700
    assert made.path.with_name("key.pub").read_text().strip() == made.public.line
    assert ensure_key() == made
    assert sorted(path.name for path in config_dir().iterdir()) == ["key", "key.lock", "key.pub"]


def test_ssh_accepts_it() -> None:
    made = ensure_key()
    derived = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(made.path)], check=True, capture_output=True, text=True
    )
    assert derived.stdout.split()[:2] == made.public.line.split()


def _make(connection: multiprocessing.connection.Connection) -> None:
    connection.send(ensure_key().public.line)


def test_processes_that_begin_at_once_get_the_same() -> None:
    context = multiprocessing.get_context("fork")
    lines = set()
    workers = []
    for _ in range(6):
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_make, args=(theirs,))
        worker.start()
        workers.append((worker, ours))
    for worker, connection in workers:
        lines.add(connection.recv())
        worker.join(30)
        connection.close()
    assert len(lines) == 1


def test_loose_permissions_are_tightened_for_ssh_would_refuse_them() -> None:
    made = ensure_key()
    made.path.chmod(0o644)
    assert ensure_key() == made
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600


def test_a_lost_public_half_is_derived_again() -> None:
    made = ensure_key()
    made.path.with_name("key.pub").unlink()
    assert ensure_key() == made


def test_a_broken_public_half_is_told_with_the_fix() -> None:
    made = ensure_key()
    made.path.with_name("key.pub").write_text("nonsense")
    with pytest.raises(LocalSetup, match=r"ssh-keygen -y -f .*/key > .*/key\.pub"):
        ensure_key()


def test_a_broken_private_key_is_never_overwritten() -> None:
    path = config_dir() / "key"
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(LocalSetup, match="ssh-keygen failed"):
        ensure_key()
    assert path.read_text() == "precious"


def test_without_ssh_keygen_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalSetup, match="Install OpenSSH"):
        ensure_key()


def test_a_folder_that_cannot_be_written_is_told(home: Path) -> None:
    (home / ".config").touch()
    with pytest.raises(LocalSetup, match=r"\.config/sm-ssh cannot be made"):
        ensure_key()


def test_the_private_key_is_not_in_what_is_printed() -> None:
    made = ensure_key()
    assert isinstance(made, KeyPair)
    assert "PRIVATE" not in repr(made)


def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str, accepted: str = "") -> None:
    """An ssh-keygen that makes no keys of some types, and an ssh that uses those of some only."""
    refuses = f'{refused}) echo "not allowed in FIPS mode" >&2; exit 1'
    says = f'case $1 in -G) echo "pubkeyacceptedalgorithms {accepted}"; exit;; esac'
    texts = {
        "ssh-keygen": f"for word; do case $word in {refuses};; esac; done",
        "ssh": says if accepted else "",
    }
    for program, text in texts.items():
        found = shutil.which(program)
        script = tmp_path / "bin" / program
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\n{text}\nexec {found} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    keys._accepted.cache_clear()


@pytest.mark.parametrize(
    ("refused", "accepted", "made"),
    [
        ("ed25519", "", "ecdsa-sha2-nistp256"),
        ("ed25519|ecdsa", "", "ssh-rsa"),
        ("none", "ecdsa-sha2-nistp256,rsa-sha2-512", "ecdsa-sha2-nistp256"),
        ("none", "ssh-rsa,rsa-sha2-256", "ssh-rsa"),
        ("ecdsa", "ecdsa-sha2-nistp256,rsa-sha2-512", "ssh-rsa"),
        ("none", "ssh-dss", "ssh-ed25519"),
    ],
)
def test_a_policy_that_refuses_ed25519_gets_another_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str, accepted: str, made: str
) -> None:
    policy(tmp_path, monkeypatch, refused, accepted)
    try:
        assert ensure_key().public.type == made
        if made == "ecdsa-sha2-nistp256":
            assert make_node_key().public.type == made
    finally:
        keys._accepted.cache_clear()


def test_a_policy_that_refuses_all_of_them_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy(tmp_path, monkeypatch, "ed25519|ecdsa|rsa")
    try:
        with pytest.raises(LocalSetup, match="not allowed in FIPS mode"):
            ensure_key()
    finally:
        keys._accepted.cache_clear()
