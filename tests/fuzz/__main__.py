"""
``python -m fuzz [--runs N] [--corpus DIR] [TARGET ...]``: fuzz the parsers, and say what was reached.

Every target runs in processes of its own, two at a time; the inputs that reached something new are kept in
DIR and are where the next run begins. Exits with 1 after a finding (its input is in DIR), or when a parser is
below LEAST_PERCENT.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import List, Set

from fuzz.branches import measure
from fuzz.targets import TARGETS

RUNS = 1_000_000
LEAST_PERCENT = 95.0


@dataclass(frozen=True)
class Outcome:
    name: str
    runs: int
    seconds: float
    finding: str


def fuzz(name: str, runs: int, corpus: Path) -> Outcome:
    """One target, in a process."""
    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    for seed in TARGETS[name].seeds():
        (folder / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    began = time.monotonic()
    command = [sys.executable, "-m", "fuzz.libfuzzer", name, str(runs), str(folder)]
    with open(corpus / f"{name}.log", "wb") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    text = (corpus / f"{name}.log").read_text("utf-8", "replace")
    counted = re.search(r"stat::number_of_executed_units: (\d+)", text)
    done = int(counted[1]) if counted else 0
    finding = "" if status == 0 else f"see {corpus / name}.log"
    print(f"{name}: {done} inputs in {time.monotonic() - began:.0f} s {finding}", flush=True)
    return Outcome(name, done, time.monotonic() - began, finding)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz what reads the network.")
    parser.add_argument(
        "--runs", type=int, default=RUNS, help="inputs for each target (default: %(default)s)"
    )
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"), help="where inputs are kept")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    arguments = parser.parse_args()
    names: List[str] = arguments.targets or list(TARGETS)
    unknown = sorted(set(names) - set(TARGETS))
    if unknown:
        parser.error(f"there is no target {', '.join(unknown)}")
    with ThreadPoolExecutor(int(os.environ.get("WORKERS", "2"))) as pool:
        outcomes = list(pool.map(lambda name: fuzz(name, arguments.runs, arguments.corpus), names))
    bad = {outcome.name for outcome in outcomes if outcome.finding}
    if bad:
        return _told(names, bad)
    corpora = {
        name: [path.read_bytes() for path in sorted((arguments.corpus / name).iterdir())] for name in names
    }
    reached = measure([TARGETS[name] for name in names], corpora)
    for one in reached:
        missing = f"  without {' '.join(one.missing)}" if one.missing else ""
        print(f"{one.percent:5.1f} % of {one.branches:3} branches  {one.name}{missing}")
    return _told(names, {one.name for one in reached if one.percent < LEAST_PERCENT})


def _told(names: List[str], bad: Set[str]) -> int:
    print(f"{len(names) - len(bad)} passed, {len(bad)} failed")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
