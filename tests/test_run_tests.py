"""The second chance of a test that failed, and the sums of several runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import List, Tuple

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"

PASSES = "def test_good(): pass\n"
FLAKY = """
import os, pathlib, pytest
@pytest.mark.parametrize("way", ["a b", "x::y[1]", "\\u00fc"])
def test_flaky(way):
    mark = pathlib.Path(f"mark-{ord(way[0])}")
    if not mark.exists():
        mark.touch()
        assert not "the first time"
"""
FAILS = "def test_bad(): assert False\n"
TEARDOWN = """
import pathlib, pytest
@pytest.fixture
def left():
    yield
    if not pathlib.Path("ended").exists():
        pathlib.Path("ended").touch()
        raise ValueError
def test_its_end(left): pass
"""
CRASHES = """
import os, pathlib
def test_crash():
    if not pathlib.Path("crashed").exists():
        pathlib.Path("crashed").touch()
        os._exit(7)
"""
MARKED = """
import pathlib, pytest
@pytest.mark.rare
def test_rare():
    if not pathlib.Path("rare").exists():
        pathlib.Path("rare").touch()
        assert False
"""
SKIPPED = "import pytest\ndef test_skipped(): pytest.skip('no')\n"


ONLY_NEEDED = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTEST_PLUGINS": "xdist.plugin,xdist.looponfail,pytest_reportlog.plugin",
}
"""Loading the others takes longer than these tests."""

PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import run_tests
assert run_tests.MOST_FAILED == 10
run_tests.MOST_FAILED = 3
sys.exit(run_tests.main(sys.argv[1:]))
"""


def run(folder: Path, source: str, *arguments: str) -> Tuple[int, List[str]]:
    """The exit status of a run over a file of tests, and the lines of its output. Four failures are many."""
    (folder / "pytest.ini").write_text('[pytest]\naddopts = -q -m "not rare"\nmarkers = rare: seldom\n')
    (folder / "test_it.py").write_text(source, "utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(SCRIPTS), *arguments],
        cwd=folder,
        env={**environment, **ONLY_NEEDED, "TALLY": str(folder / "tally"), "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=100,
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    ("source", "status", "last", "flaky"),
    [
        (PASSES, 0, "1 passed, 0 failed", 0),
        (FLAKY, 0, "3 passed, 0 failed", 3),
        (TEARDOWN + FAILS, 1, "1 passed, 1 failed", 1),
        (TEARDOWN, 0, "1 passed, 0 failed", 1),
        (SKIPPED + PASSES, 0, "1 passed, 0 failed", 0),
        ("", 5, "0 passed, 0 failed", 0),
    ],
    ids=["good", "flaky", "flaky and bad", "teardown", "skipped", "none"],
)
def test_a_failed_test_has_one_second_chance(
    tmp_path: Path, source: str, status: int, last: str, flaky: int
) -> None:
    ended, lines = run(tmp_path, source, "-n", "2" if status == 1 else "0")
    assert (ended, lines[-1]) == (status, last)
    assert sum(line.startswith("flaky: test_it.py::") for line in lines) == flaky
    assert sum(line == "failed: test_it.py::test_bad" for line in lines) == status % 5


def test_one_that_ends_its_process_has_it_too(tmp_path: Path) -> None:
    status, lines = run(tmp_path, PASSES + CRASHES, "-n", "1")
    assert (status, lines[-1]) == (0, "2 passed, 0 failed")
    assert "flaky: test_it.py::test_crash" in lines


def test_marks_that_chose_the_tests_do_not_hide_them_the_second_time(tmp_path: Path) -> None:
    status, lines = run(tmp_path, PASSES + MARKED, "-m", "rare")
    assert (status, lines[-1]) == (0, "1 passed, 0 failed")
    assert "flaky: test_it.py::test_rare" in lines


def test_many_failures_are_no_accident(tmp_path: Path) -> None:
    status, lines = run(tmp_path, FLAKY + FAILS)
    assert (status, lines[-1]) == (1, "0 passed, 4 failed")
    assert not any(line.startswith("flaky: ") for line in lines)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_file_that_cannot_be_read_has_no_second_chance(tmp_path: Path, workers: str) -> None:
    (tmp_path / "test_other.py").write_text(FAILS)
    status, lines = run(tmp_path, "import nothing_of_this_name", "-n", workers)
    assert status != 0
    assert not any(line.startswith("flaky: ") for line in lines)


def test_runs_are_summed_up(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PASSES)
    (tmp_path / "test_bad.py").write_text(FAILS)
    script = f"{sys.executable} {SCRIPTS / 'run_tests.py'} --tier"
    command = f"{script} first test_it.py; {script} 'the second' test_it.py test_bad.py"
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "tally.py"), "sh", "-c", command],
        cwd=tmp_path,
        env={**os.environ, **ONLY_NEEDED},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    *_, first, second, last = done.stdout.splitlines()
    assert first.startswith("first  ")
    assert first.endswith(" s  1 passed, 0 failed")
    assert second.startswith("the second  ")
    assert second.endswith(" s  1 passed, 1 failed")
    assert last == "2 passed, 1 failed"
