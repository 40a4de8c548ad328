"""The part of the library that travels into a job, as a bare folder with the standard library alone."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from sagemaker_ssh_helper import archive

pytestmark = pytest.mark.container

PACKAGE = "sagemaker_ssh_helper"
WHOLE = Path(archive.__file__).parents[1]
MAX_BYTES = 1_000_000
ASKED_FOR = [
    f"import {PACKAGE}.proxy",
    f"from {PACKAGE} import proxy",
    f"from {PACKAGE}.proxy import SSMProxy",
    f"from {PACKAGE}.launch import enable_ssh",
    f"from {PACKAGE}.wrapper import SSHEstimatorWrapper",
    f"from {PACKAGE}.aws import AWS",
    f"import {PACKAGE}.client.keys",
    f"from {PACKAGE}.archive import dependency_dir",
]
"""What a job that launches jobs may write."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(archive.dependency_dir())


def run(code: str, *paths: Path, options: str = "-IS") -> "subprocess.CompletedProcess[str]":
    program = f"import sys; sys.path[:0] = sys.argv[1:]\n{code}"
    return subprocess.run(
        [sys.executable, options, "-c", program, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def modules(folder: Path) -> List[str]:
    paths = (path.relative_to(folder.parent).with_suffix("") for path in folder.rglob("*.py"))
    return sorted(".".join(path.parts).replace(".__init__", "") for path in paths)


def test_every_module_of_the_part_imports_with_the_standard_library_alone(folder: Path) -> None:
    names = modules(folder)
    assert f"{PACKAGE}.agent.bootstrap" in names
    done = run(f"import importlib\nfor name in {names!r}: importlib.import_module(name)", folder.parent)
    assert (done.stderr, done.returncode) == ("", 0)


def test_what_the_part_imports_inside_functions_is_in_it_too(folder: Path) -> None:
    there, whole = set(modules(folder)), set(modules(WHOLE / PACKAGE))
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                names = {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
                assert names & whole <= there, f"{path.relative_to(folder)} imports {names & whole - there}"


def test_the_part_is_small_and_nothing_else_is_in_it(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.relative_to(folder).parts[0] for path in files} == set(archive.SHIPPED)
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert [path for path in files if "__pycache__" in path.parts] == []


def test_the_calls_of_a_job_s_script_are_there(folder: Path) -> None:
    done = run(
        f"import {PACKAGE} as s, {PACKAGE}.env as env; s.setup_and_start_ssh(); "
        "print(s.__version__, env.sm_get_node_rank())",
        folder.parent,
    )
    assert (done.stderr, done.stdout) == ("", f"{archive.__version__} 0\n")


@pytest.mark.parametrize("asked", ASKED_FOR)
def test_what_stays_on_the_user_s_machine_says_what_it_takes_in_one_line(folder: Path, asked: str) -> None:
    done = run(asked, folder.parent)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {PACKAGE}.")
    fix = f"install the whole library, version {archive.__version__}, in the job or its image\n"
    assert done.stderr.endswith(fix)


@pytest.mark.parametrize("asked", ASKED_FOR)
def test_a_job_with_the_whole_library_imports_all_of_it_beside_the_part(folder: Path, asked: str) -> None:
    if sys.version_info < (3, 10):
        # The user's side begins there.
        asked = f"from {PACKAGE}.archive import dependency_dir"
    done = run(f"{asked}\nimport {PACKAGE} as s; print(s.__file__)", folder.parent, WHOLE, options="-I")
    assert (done.stderr, done.stdout) == ("", f"{folder / '__init__.py'}\n")


def test_a_library_of_another_version_is_not_mixed_with_the_part(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / PACKAGE
    other.mkdir(parents=True)
    (other / "launch.py").write_text("")
    (other / "VERSION").write_text("2.3.0")
    assert "install the whole library" in run(f"import {PACKAGE}.launch", folder.parent, other.parent).stderr


def test_a_name_that_no_library_has_is_the_usual_error(folder: Path) -> None:
    done = run(f"import {PACKAGE}.nothing", folder.parent, WHOLE)
    assert done.stderr.splitlines()[-1] == f"ModuleNotFoundError: No module named '{PACKAGE}.nothing'"
