"""
``python scripts/run_tests.py [--tier NAME] [PYTEST-ARGUMENT ...]``: the tests, with one second chance each.

Runs pytest with the arguments given. Tests that failed are run again after the rest, one at a time, each in
a pytest of its own; one that passes then is told as ``flaky: NAME``. A test that fails twice is a failure.
More than MOST_FAILED at once, files that cannot be collected, and a run without a test get no second chance.
The last line is ``N passed, N failed``; the exit status is pytest's of the first run, 0 when every failed
test was only flaky.

With TALLY in the environment, a line of JSON about this run is added to that file: see tally.py.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

MOST_FAILED = 10
"""More failures than these are no accident."""

_PYTEST = [sys.executable, "-m", "pytest"]
_TESTS_FAILED = 1


class Outcome:
    """What a run's report says of its tests."""

    def __init__(self) -> None:
        self.passed: List[str] = []
        self.failed: List[str] = []
        self.is_collected = True

    @classmethod
    def read(cls, log: Path) -> "Outcome":
        """From the file that ``--report-log`` writes."""
        outcome = cls()
        tests: Dict[str, bool] = {}
        for line in log.read_text("utf-8").splitlines() if log.exists() else ():
            report: Dict[str, Any] = json.loads(line)
            kind = report["$report_type"]
            if kind == "CollectReport" and report["outcome"] == "failed":
                outcome.is_collected = False
            # Of set-up, call and the end, any may fail; only the call of a test that was not skipped passes.
            if kind == "TestReport" and report["outcome"] == "failed":
                tests[report["nodeid"]] = False
            if kind == "TestReport" and (report["when"], report["outcome"]) == ("call", "passed"):
                tests.setdefault(report["nodeid"], True)
        for name, is_good in tests.items():
            (outcome.passed if is_good else outcome.failed).append(name)
        return outcome


class Runner:
    """Runs pytest, and hands on what it is told to end with."""

    def __init__(self) -> None:
        self._process: Optional[subprocess.Popen[bytes]] = None
        # A terminal sends Ctrl-C to pytest as well: it ends in order, and says so.
        signal.signal(signal.SIGINT, lambda number, frame: None)
        signal.signal(signal.SIGTERM, self._hand_on)

    def _hand_on(self, number: int, frame: object) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def run(self, arguments: List[str]) -> int:
        """The exit status, 128 and more for a signal."""
        self._process = subprocess.Popen([*_PYTEST, *arguments])
        status = self._process.wait()
        return 128 - status if status < 0 else status


def main(arguments: List[str]) -> int:
    """Run them; the exit status."""
    tier = "tests"
    if arguments[:1] == ["--tier"]:
        tier, arguments = arguments[1], arguments[2:]
    began = time.monotonic()
    runner = Runner()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "report.jsonl"
        status = runner.run([*arguments, f"--report-log={log}"])
        outcome = Outcome.read(log)
    passed, failed = len(outcome.passed), outcome.failed
    if status == _TESTS_FAILED and failed and outcome.is_collected:
        if len(failed) > MOST_FAILED:
            print(f"{len(failed)} tests failed: more than {MOST_FAILED} get no second chance", flush=True)
        else:
            failed = [name for name in failed if not _passes_alone(runner, name)]
            passed = len(outcome.passed) + len(outcome.failed) - len(failed)
            status = _TESTS_FAILED if failed else 0
    for name in failed:
        print(f"failed: {name}")
    if os.environ.get("TALLY"):
        seconds = time.monotonic() - began
        record = {"tier": tier, "passed": passed, "failed": len(failed), "seconds": seconds}
        with open(os.environ["TALLY"], "a", encoding="utf-8") as tally:
            tally.write(f"{json.dumps(record)}\n")
    print(f"{passed} passed, {len(failed)} failed", flush=True)
    return status


def _passes_alone(runner: Runner, name: str) -> bool:
    """Whether a test that failed passes by itself; says so."""
    # Every mark, since the name says which test is meant.
    is_good = runner.run([name, "-n", "0", "-m", "", "-p", "no:cacheprovider"]) == 0
    if is_good:
        print(f"flaky: {name}", flush=True)
    return is_good


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
