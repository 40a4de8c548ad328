"""A few containers of the matrix, with what this machine has; `make matrix` runs them all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and chroots need root; CI is")
def test_containers_of_several_kinds_are_logged_in_to() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "matrix", "--quick"],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])},
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "4 passed, 0 failed"
    assert all(line.startswith("ok ") and "s to a login" in line for line in lines[:-1])
