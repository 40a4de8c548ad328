"""
``python scripts/check.py [TEST ...]``: the inner loop. Lint, types, which module may import which, and the
unit tests of what differs from the last commit, or those given.

Of a module of the product those test files are run that are named for it, or else those that import it; what
starts a whole local cloud and jobs is left to ``make test``. Exits with 1 when anything failed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Iterable, List, Set

_PRODUCT = "src/sagemaker_ssh_helper/"
_LONG = ("tests/e2e/", "tests/matrix/", "tests/cdk/")
_GATES = ["tests/test_imports.py", "tests/test_shipped_part.py"]


def changed_files() -> List[str]:
    """Of this checkout, new ones too."""
    listed = (["git", "diff", "--name-only", "HEAD"], ["git", "ls-files", "--others", "--exclude-standard"])
    return [
        name
        for command in listed
        for name in subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
    ]


def tests_of(changed: Iterable[str], every_test: Iterable[str]) -> List[str]:
    """The unit tests, of all, that go with changed files."""
    tests = [test for test in every_test if not test.startswith(_LONG)]
    found: Set[str] = set()
    for name in changed:
        if name in tests:
            found.add(name)
        if name.startswith(_PRODUCT) and name.endswith(".py"):
            found.update(_tests_of_module(name[len(_PRODUCT) : -len(".py")], tests))
    return sorted(found)


def _tests_of_module(module: str, tests: List[str]) -> List[str]:
    folder, _, name = module.rpartition("/")
    own = re.compile(rf"tests/{f'{folder}/' if folder else ''}test_{re.escape(name)}(_\w+)?\.py")
    named = [test for test in tests if own.fullmatch(test)]
    if named:
        return named
    package = ".".join(["sagemaker_ssh_helper", *filter(None, folder.split("/"))])
    name, package = re.escape(name), re.escape(package)
    imported = re.compile(rf"\b{package}\.{name}\b|from {package} import .*\b{name}\b")
    return [test for test in tests if imported.search(Path(test).read_text("utf-8"))]


def main(arguments: List[str]) -> int:
    """Run everything, whatever fails; the exit status."""
    every_test = sorted(map(str, Path("tests").rglob("test_*.py")))
    tests = sorted({*(arguments or tests_of(changed_files(), every_test)), *_GATES})
    workers = ["-n", os.environ.get("WORKERS", "4"), "--dist", "worksteal"]
    here = Path(sys.executable).parent
    statuses = [
        subprocess.run(list(map(str, command)), check=False).returncode
        for command in (
            [here / "ruff", "check", "."],
            [here / "mypy"],
            [sys.executable, "-m", "pytest", *workers, *tests],
        )
    ]
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
