"""Programs that we start: a signal at any moment leaves none behind, and the status tells which it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sagemaker_ssh_helper.client.children import attended

# Sends itself a signal right when the program has been forked, before anybody holds it.
PROGRAM = """
import os, signal, subprocess, sys
from sagemaker_ssh_helper.client.children import attended

class Popen(subprocess.Popen):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        print(self.pid, flush=True)
        os.kill(os.getpid(), int(sys.argv[1]))

subprocess.Popen = Popen
try:
    with attended(["sleep", "60"]) as process:
        process.wait()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_between_the_start_and_the_next_step_ends_the_program(number: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(int(number))]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (128 + number, b"")
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_what_is_left_early_is_ended_and_signals_are_as_before(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), attended(["sleep", "60"], stdout=subprocess.PIPE) as process:
        raise RuntimeError
    assert process.returncode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
