"""Layers import downwards, and what runs in a container needs the standard library alone."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Iterator, Tuple

import pytest

import sagemaker_ssh_helper
from sagemaker_ssh_helper import archive

PACKAGE = "sagemaker_ssh_helper"
ROOT = Path(sagemaker_ssh_helper.__file__).parent

# The row of each top-level module or folder; a module imports from rows below its own, and its own folder.
ROWS = {
    "errors": 1,
    "names": 1,
    "whole_library": 1,
    "archive": 2,
    "aws_errors": 2,
    "iam_policies": 2,
    "plain_logs": 2,
    "protocol": 2,
    "proxy_variables": 2,
    "public_keys": 2,
    "targets": 2,
    "aws": 3,
    "channels": 3,
    "node_keys": 3,
    "agent": 4,
    "client": 4,
    "delivery": 5,
    "detached_sagemaker": 5,
    "emulator": 5,
    "env": 5,
    "ide": 5,
    "interactive_sagemaker": 5,
    "launch": 5,
    "log": 5,
    "manager": 5,
    "pipeline_steps": 5,
    "proxy": 5,
    "wrapper": 5,
    "cdk": 6,
    "cli": 6,
    "__main__": 7,
    "deregister_old_instances_from_ssm": 7,
    "sm_ssh": 7,
}

# The names of row 5 that users import may use one another, as they always have.
PEERS = {
    "delivery", "detached_sagemaker", "ide", "interactive_sagemaker", "launch", "log", "manager",
    "pipeline_steps", "proxy", "wrapper",
}  # fmt: skip

CONTAINER = {name.removesuffix(".py") for name in archive.SHIPPED}


def modules() -> Iterator[Tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).parts[0].removesuffix(".py"), path


def imports(path: Path) -> Iterator[str]:
    """Every module that ``path`` imports, inside functions too, as an absolute dotted name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            yield node.module
            if node.module == PACKAGE:
                yield from (f"{PACKAGE}.{name.name}" for name in node.names)


@pytest.mark.parametrize(("top", "path"), list(modules()), ids=lambda value: str(value).split("/src/")[-1])
def test_a_module_imports_from_rows_below_and_its_own_folder(top: str, path: Path) -> None:
    if top == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != PACKAGE or len(parts) == 1 or parts[1] in ("__version__", top):
            continue
        both_peers = top in PEERS and parts[1] in PEERS
        assert both_peers or ROWS[parts[1]] < ROWS[top], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(
    "path",
    [path for top, path in modules() if top in CONTAINER],
    ids=lambda value: str(value).split("/src/")[-1],
)
def test_container_code_imports_the_standard_library_and_itself(path: Path) -> None:
    # These are used when the image has them: their imports are guarded, and tested without them.
    allowed = sys.stdlib_module_names | {PACKAGE, "cryptography"}
    if path.name == "asyncssh_server.py":
        allowed |= {"asyncssh"}
    assert {name.split(".")[0] for name in imports(path)} <= allowed


def test_the_sdk_is_imported_where_its_objects_are_there_or_asked_for_and_nowhere_else() -> None:
    importing = {
        (str(path.relative_to(ROOT)), name)
        for _, path in modules()
        for name in imports(path)
        if name.split(".")[0] == "sagemaker"
    }
    of_a_processor = {("wrapper.py", "sagemaker.processing"), ("wrapper.py", "sagemaker.core")}
    # The demonstration of the SDK, which asks for it by name.
    of_the_demo = {("cli/demo.py", "sagemaker.session"), ("cli/demo.py", "sagemaker.estimator")}
    asked_for = {("detached_sagemaker.py", "sagemaker.model")}
    assert importing == of_a_processor | of_the_demo | asked_for


@pytest.mark.parametrize("name", ["wrapper", "launch", "manager", "log", "proxy", "ide"])
def test_what_users_import_loads_neither_the_sdk_nor_boto3(name: str) -> None:
    code = (
        f"import sys, {PACKAGE}.{name}; "
        "print([loaded for loaded in ('sagemaker', 'boto3', 'botocore') if loaded in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_every_module_has_a_row() -> None:
    tops = {top for top, _ in modules()} - {"__init__"}
    assert tops <= set(ROWS)
