"""How many branches of the parsers a corpus reaches, by coverage.py."""

import ast
import inspect
import json
import logging
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, List, Sequence, Set, Tuple

import coverage

from fuzz.targets import Target


@dataclass(frozen=True)
class Reached:
    """Of one parser."""

    name: str
    branches: int
    reached: int
    missing: Tuple[str, ...]
    """``line->line`` of the branches that no input took."""

    @property
    def percent(self) -> float:
        return 100.0 * self.reached / self.branches if self.branches else 100.0


def measure(targets: Sequence[Target], corpora: Dict[str, List[bytes]]) -> List[Reached]:
    """Run every input once more, and say for each covered parser which branches that took."""
    observer = coverage.Coverage(branch=True, data_file=None, config_file=False)
    with observer.collect():
        for logged in (False, True):
            with _logging(logged):
                for target in targets:
                    for data in corpora[target.name]:
                        target.run(data)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        observer.json_report(outfile=str(report), ignore_errors=True)
        files = json.loads(report.read_text("utf-8"))["files"]
    taken = {Path(name).resolve(): found for name, found in files.items()}
    parts = {_name(part): part for target in targets for part in target.covers}
    return [_reached(taken, name, part) for name, part in sorted(parts.items())]


@contextmanager
def _logging(logged: bool) -> Iterator[None]:
    """Everything is logged, to nowhere, or nothing: what is told of a message is a part of reading it."""
    ours = logging.getLogger("sagemaker_ssh_helper")
    before, propagate, handler = ours.level, ours.propagate, logging.NullHandler()
    ours.setLevel(logging.DEBUG if logged else logging.CRITICAL + 1)
    ours.propagate = False
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.propagate = propagate
        ours.setLevel(before)


def _name(part: Any) -> str:
    if isinstance(part, ModuleType):
        return part.__name__.replace("sagemaker_ssh_helper.", "")
    return f"{part.__module__}.{part.__qualname__}".replace("sagemaker_ssh_helper.", "")


def _reached(taken: Dict[Path, Any], name: str, part: Any) -> Reached:
    found = taken[Path(str(inspect.getsourcefile(part))).resolve()]
    lines = _lines(part)
    executed = [arc for arc in found["executed_branches"] if arc[0] in lines]
    missing = [arc for arc in found["missing_branches"] if arc[0] in lines]
    told = tuple(f"{begin}->{end}" for begin, end in sorted(missing))
    return Reached(name, len(executed) + len(missing), len(executed), told)


def _lines(part: Any) -> Set[int]:
    """Lines of its functions; what a module does when it is imported is no parsing."""
    source, first = inspect.getsourcelines(part)
    first = max(first, 1)
    if not isinstance(part, ModuleType):
        return set(range(first, first + len(source)))
    tree = ast.parse(Path(str(part.__file__)).read_text("utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return {line for node in functions for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
