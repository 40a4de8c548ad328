"""A container that is known is reached although nothing can be written at home."""

import os
from pathlib import Path
from typing import Callable, Dict

import pytest

from e2e.laptop import Laptop, running

NO_ROOM = """
import errno, os, tempfile
home = os.environ["HOME"]
def full(*args, **more):
    raise OSError({error}, os.strerror({error}))
tempfile.mkstemp = full
real = os.open
def opened(path, flags, *args, **more):
    if flags & os.O_CREAT and os.fsdecode(path).startswith(home) and (
        {error} == errno.EROFS or not os.path.exists(path)
    ):
        full()
    return real(path, flags, *args, **more)
os.open = opened
"""


def without_room(folder: Path, error: int) -> Dict[str, str]:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_ROOM.format(error=error))
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}


@pytest.mark.parametrize("error", [28, 30], ids=["full", "read-only"])
def test_what_is_only_a_help_is_not_needed(
    laptop: Callable[[str], Laptop], tmp_path: Path, error: int
) -> None:
    alice = laptop("alice")
    with running(alice) as job:
        assert alice.ssh(job.host, "true").returncode == 0
        assert alice.sm_ssh("connect", job.host, "--", "true").returncode == 0
        (alice.home / ".local" / "state" / "sm-ssh" / "last.json").unlink()
        broken = without_room(tmp_path / "patches", error)
        for words in (["connect", job.host, "--", "echo", "in"], ["exec", job.host, "--", "echo", "in"]):
            done = alice.sm_ssh(*words, env=broken)
            assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr.decode()
        done = alice.ssh(job.host, "echo in", env=broken)
        assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr.decode()
