"""
What a user sees on a terminal, word for word; ids, times and addresses are masked.

The transcripts stand in ``transcripts/``. To write them anew after a change that is meant:
``SM_SSH_WRITE_TRANSCRIPTS=1 pytest tests/e2e/test_transcripts.py``, then read the difference.
"""

import errno
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Iterator, List

import pytest

from e2e.laptop import SM_SSH, Job, Laptop, launch, running
from local_cloud import LocalCloud

FOLDER = Path(__file__).parent / "transcripts"
NAME = "bert-fine-tune"


@pytest.fixture(scope="module")
def alice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    """In a cloud of her own, where nothing else runs."""
    with LocalCloud(tmp_path_factory.mktemp("cloud")) as cloud:
        alice = Laptop(cloud.info, "alice", tmp_path_factory.mktemp("laptop"))
        # Where no other installation of this machine is.
        alice.env["PATH"] = "/usr/bin:/bin:/usr/sbin:/sbin"
        yield alice


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice, name=NAME) as job:
        yield job


def on_a_terminal(laptop: Laptop, *words: str) -> str:
    """What the terminal shows while the command runs, and its exit status."""
    near, far = pty.openpty()
    process = subprocess.Popen(
        [*SM_SSH, *words],
        stdin=far,
        stdout=far,
        stderr=far,
        env={**laptop.env, "TERM": "vt100", "COLUMNS": "120"},
        cwd=laptop.home,
        start_new_session=True,
    )
    os.close(far)
    shown = b""
    while True:
        try:
            part = os.read(near, 65536)
        except OSError as error:
            # What Linux says at the end of a terminal.
            if error.errno != errno.EIO:
                raise
            break
        if not part:
            break
        shown += part
    os.close(near)
    status = process.wait(60)
    return f"{shown.decode()}[exit {status}]\n".replace("\r\n", "\n")


def masked(laptop: Laptop, text: str) -> str:
    """Without what differs from run to run; columns that were padded for it are narrowed."""
    text = text.replace(str(laptop.home), "~")
    for pattern, mask in (
        (r"mi-[0-9a-f]{17}", "mi-ID"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "DATE TIME"),
        (r"\bin (\d+[hms] ?)+(?=\()", "in TIME "),
        (r"\b\d+[smhd]\b", "AGE"),
        (r"\bone to port \d+\b", "one to port PORT"),
        (r"\b\d{12}\b", "ACCOUNT"),
        (r"sm-ssh: \d+\.\d+\.\d+\S*,", "sm-ssh: VERSION,"),
        (r"version \d+\.\d+\.\d+\S*,", "version VERSION,"),
        (r"OpenSSH\S* at \S+", "OpenSSH at PATH"),
        (r"\b\d+\.\d+\.\d{3,}\.\d+\b", "AGENT"),
        (r"SHA256:\S+|\b[A-Za-z0-9_-]{16}(?= was admitted)", "FINGERPRINT"),
    ):
        text = re.sub(pattern, mask, text)
    return re.sub(r" {2,}", "  ", text)


SCENES: List[List[str]] = [
    ["list", "training"],
    ["list", f"{NAME}.training.sagemaker"],
    ["status", NAME],
    ["connect", "bert-f", "echo in"],
    ["exec", "--all", NAME, "--", "echo in"],
    ["connect", "bert-fine-tuned"],
    ["connect", "not-launched-with-ssh", "--no-wait"],
    ["wait", NAME, "--for", "ready"],
    ["doctor", NAME],
    ["explain", "TargetNotConnected"],
    ["conect", "x"],
]


def test_what_a_user_sees(alice: Laptop, job: Job) -> None:
    other = launch(alice, "import time; time.sleep(600)", ssh=False, name="not-launched-with-ssh")
    try:
        # Met once, so that the rest is what one sees every day.
        assert alice.ssh(job.host, "true").returncode == 0
        shown = "".join(
            f"$ sm-ssh {' '.join(words)}\n{masked(alice, on_a_terminal(alice, *words))}\n" for words in SCENES
        )
    finally:
        other.stop()
    path = FOLDER / "everyday.txt"
    if os.environ.get("SM_SSH_WRITE_TRANSCRIPTS"):
        path.write_text(shown)
    assert shown == path.read_text()
