"""A laptop whose policy refuses ed25519, and a container that does not know."""

import os
import shutil
from typing import Callable

from e2e.laptop import Laptop, running


def test_keys_of_another_type_are_made_at_both_ends_and_pinned(laptop: Callable[[str], Laptop]) -> None:
    alice = laptop("alice")
    bin_folder = alice.home / "bin"
    bin_folder.mkdir()
    program = bin_folder / "ssh-keygen"
    refuse = "for word; do case $word in ed25519) exit 1;; esac; done"
    program.write_text(f'#!/bin/sh\n{refuse}\nexec {shutil.which("ssh-keygen")} "$@"\n')
    program.chmod(0o755)
    alice.env["PATH"] = f"{bin_folder}{os.pathsep}{alice.env['PATH']}"
    resources = {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 10}
    with running(alice, ResourceConfig=resources) as job:
        assert job.describe()["Environment"]["SSH_PUBLIC_KEY"].startswith("ecdsa-sha2-nistp256 ")
        command = "ssh algo-2 true && cat $SSH_STATE_DIR/*.pub"
        done = alice.sm_ssh("exec", f"algo-1.{job.host}", "--", command)
        assert done.returncode == 0, done.stderr.decode()
        assert b"ecdsa-sha2-nistp256 " in done.stdout
        assert b"ssh-ed25519" not in done.stdout
        assert alice.ssh(f"algo-1.{job.host}", "true").returncode == 0
    pinned = (alice.home / ".config" / "sm-ssh" / "known_hosts").read_text()
    assert {line.split()[1] for line in pinned.splitlines()} == {"ecdsa-sha2-nistp256"}
