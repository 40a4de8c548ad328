"""
What a user sees on a terminal, word for word; ids, times and addresses are masked.

The transcripts stand in ``transcripts/``. To write them anew after a change that is meant:
``SM_SSH_WRITE_TRANSCRIPTS=1 pytest tests/e2e/test_transcripts.py``, then read the difference.
"""

import errno
import fcntl
import os
import pty
import re
import subprocess
import termios
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


def on_a_terminal(
    laptop: Laptop, *words: str, typed: "tuple[tuple[str, str], ...]" = (), **variables: str
) -> str:
    """
    What the terminal shows while the command runs, and its exit status.

    ``typed`` are pairs: what the terminal shows before something is typed, and that.
    """
    near, far = pty.openpty()
    process = subprocess.Popen(
        [*SM_SSH, *words],
        stdin=far,
        stdout=far,
        stderr=far,
        env={**laptop.env, "TERM": "vt100", "COLUMNS": "120", **variables},
        cwd=laptop.home,
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )
    os.close(far)
    shown = b""
    to_type = list(typed)
    answered = 0
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
        if to_type and to_type[0][0].encode() in shown[answered:]:
            answered = len(shown)
            os.write(near, to_type.pop(0)[1].encode())
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
        (r"\bof \d{4}-\d\d-\d\d,", "of DATE,"),
        (r"OpenSSH\S* at \S+", "OpenSSH at PATH"),
        (r"\b\d+\.\d+\.\d{3,}\.\d+\b", "AGENT"),
        (r"SHA256:\S+|(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{16}(?= was admitted)", "FINGERPRINT"),
    ):
        text = re.sub(pattern, mask, text)
    return re.sub(r" {2,}", "  ", text)


SCENES: "List[tuple[List[str], tuple[tuple[str, str], ...]]]" = [
    (["list", "training"], ()),
    (["list", f"{NAME}.training.sagemaker"], ()),
    (["status", NAME], ()),
    (["connect", "bert-f", "echo in"], ()),
    (["exec", "--all", NAME, "--", "echo in"], ()),
    (["connect", "bert-fine-tuned"], ()),
    (["connect", "not-launched-with-ssh", "--no-wait"], ()),
    (["status"], (("part of a name: ", "nothing-like\n"), ("part of a name: ", "bert\n"))),
    (["wait", NAME, "--for", "ready"], ()),
    (["doctor", NAME], ()),
    (["explain", "TargetNotConnected"], ()),
    (["conect", "x"], ()),
]


def test_what_a_user_sees(alice: Laptop, job: Job) -> None:
    other = launch(alice, "import time; time.sleep(600)", ssh=False, name="not-launched-with-ssh")
    try:
        # Met once, so that the rest is what one sees every day.
        assert alice.ssh(job.host, "true").returncode == 0
        shown = "".join(
            f"$ sm-ssh {' '.join(words)}\n{masked(alice, on_a_terminal(alice, *words, typed=typed))}\n"
            for words, typed in SCENES
        )
    finally:
        other.stop()
    path = FOLDER / "everyday.txt"
    if os.environ.get("SM_SSH_WRITE_TRANSCRIPTS"):
        path.write_text(shown)
    assert shown == path.read_text()


def frames(shown: str) -> List[str]:
    """What a line that is written again and again held, from time to time."""
    return re.findall("\r([^\r\n]*)\x1b\\[K", shown)


@pytest.fixture
def never_ready(alice: Laptop) -> Iterator[Job]:
    """It says that it has ssh, and never starts it."""
    job = launch(alice, "import time; time.sleep(600)", keep_program=True)
    try:
        yield job
    finally:
        job.stop()


@pytest.mark.parametrize("columns", ["20", "120"])
def test_the_clock_of_a_wait_fits_the_terminal_and_ctrl_c_takes_it_away(
    alice: Laptop, never_ready: Job, columns: str
) -> None:
    ctrl_c = (("  helper", "\x03"),)
    shown = on_a_terminal(alice, "connect", never_ready.host, typed=ctrl_c, COLUMNS=columns)
    assert "is still starting" in shown
    assert any(re.match(r"  helper +0:0", frame) for frame in frames(shown))
    assert max(map(len, frames(shown))) < int(columns)
    assert shown.endswith("\r\x1b[K[exit 130]\n")
    assert never_ready.describe()["TrainingJobStatus"] == "InProgress"


def test_a_dumb_terminal_gets_lines_alone(alice: Laptop, never_ready: Job) -> None:
    ctrl_c = (("job goes on", "\x03"),)
    shown = on_a_terminal(alice, "connect", never_ready.host, typed=ctrl_c, TERM="dumb", NO_COLOR="1")
    assert "\x1b" not in shown
    assert "is still starting" in shown
    assert shown.endswith("[exit 130]\n")
