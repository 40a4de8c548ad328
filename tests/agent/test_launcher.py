"""What a session's program is started by, run as the program that it is."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Optional

import pytest

from sagemaker_ssh_helper.agent import launcher

pytestmark = pytest.mark.container


def launch(*words: str, path: Optional[str] = None) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-I", "-S", os.path.abspath(launcher.__file__), "0", "", *words]
    environ = {"PATH": path or os.environ["PATH"]}
    return subprocess.run(command, env=environ, capture_output=True, timeout=30, check=False)


def test_program_gets_its_words_and_its_status_is_ours() -> None:
    done = launch("sh", "-c", 'printf "%s|" "$@"; exit 7', "sh", "a b", "*")

    assert (done.returncode, done.stdout) == (7, b"a b|*|")


def test_signals_are_as_from_a_login() -> None:
    code = "import signal; print(signal.getsignal(signal.SIGQUIT), signal.pthread_sigmask(0, []))"
    before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        done = launch(sys.executable, "-I", "-S", "-c", code)
    finally:
        signal.signal(signal.SIGQUIT, before)

    assert done.stdout.rstrip().endswith(b"set()")
    assert b"SIG_DFL" in done.stdout or done.stdout.startswith(b"0")


@pytest.mark.parametrize(
    ("word", "status", "text"),
    [
        ("no-such-program", 127, b"cannot run no-such-program: No such file or directory\n"),
        ("/no/such/program", 127, b"cannot run /no/such/program: No such file or directory\n"),
        ("/", 126, b"cannot run /: Permission denied\n"),
    ],
)
def test_program_that_cannot_be_run_is_told(word: str, status: int, text: bytes) -> None:
    done = launch(word)

    assert (done.returncode, done.stderr) == (status, text)


def test_file_that_may_not_be_executed_does_not_hide_another(tmp_path: Path) -> None:
    (tmp_path / "sh").write_text("no program")

    assert launch("sh", "-c", "exit 3", path=f"{tmp_path}:{os.environ['PATH']}").returncode == 3
    assert launch("sh", path=str(tmp_path)).returncode == 126
