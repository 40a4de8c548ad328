"""A node's folders and its Python; mounts that only its own processes see."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sagemaker_ssh_helper.emulator import mounts
from sagemaker_ssh_helper.emulator.node import Node, make_python


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path / "algo-1", "algo-1", state_dir=tmp_path, namespace=False)
    made.create()
    return made


def run(*command: str, **options: object) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout  # type: ignore[call-overload]


def test_own_python_has_the_packages_of_this_one(tmp_path: Path) -> None:
    make_python(tmp_path / "python")
    python = str(tmp_path / "python" / "bin" / "python")

    code = "import sys, boto3, sagemaker_ssh_helper; print(sys.prefix, boto3.__file__)"
    prefix, boto3_file = run(python, "-c", code).split()
    import boto3

    assert prefix == str(tmp_path / "python")
    assert boto3_file == boto3.__file__


def test_own_python_installs_into_itself(tmp_path: Path) -> None:
    make_python(tmp_path / "python")
    code = "import sysconfig; print(sysconfig.get_path('purelib'), sysconfig.get_path('scripts'))"
    for path in run(str(tmp_path / "python" / "bin" / "python"), "-c", code).split():
        assert Path(path).is_relative_to(tmp_path / "python")


def test_programs_are_looked_for_as_the_node_sees_them(tmp_path: Path, node: Node) -> None:
    inside = Node(tmp_path / "algo-2", "algo-2", state_dir=tmp_path, namespace=True)
    inside.create()
    script = inside.base / "run.sh"
    script.write_text("")

    assert not inside.has_program("./run.sh", "/opt/ml", "")
    script.chmod(0o700)
    assert inside.has_program("./run.sh", "/opt/ml", "")
    assert inside.has_program("/opt/ml/run.sh", "/", "")
    assert inside.has_program("run.sh", "/", "/nowhere:/opt/ml")
    assert not node.has_program("/opt/ml/no-such-program.sh", "/", "")
    assert node.has_program("sh", "/", os.environ["PATH"])
    assert not node.has_program("", "/", os.environ["PATH"])
    assert not node.has_program("/", "/", "")


def test_paths_are_moved_only_where_the_container_has_none(tmp_path: Path, node: Node) -> None:
    assert node.seen("/opt/ml/input/x") == f"{node.base}/input/x"
    assert node.seen("ls /opt/ml/a /opt/ml/b") == f"ls {node.base}/a {node.base}/b"
    assert node.seen("/opt/ml") == str(node.base)
    assert node.seen("/opt/mlx/a") == "/opt/mlx/a"
    inside = Node(tmp_path / "algo-2", "algo-2", state_dir=tmp_path, namespace=True)
    assert inside.seen("/opt/ml/input/x") == "/opt/ml/input/x"


def test_nothing_of_a_node_is_left(node: Node) -> None:
    closed = node.home / "closed"
    (closed / "deep").mkdir(parents=True)
    (closed / "deep" / "file").touch()
    closed.chmod(0o500)

    node.remove()

    assert not node.root.exists()


def test_mounts_are_seen_by_the_command_alone(tmp_path: Path) -> None:
    """As root. For others the program refuses, and nodes do without it."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").write_text("of the source")
    command = mounts.command_with({str(target): str(source)}, ["cat", "file"], str(target))
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    if mounts.available():
        assert (done.returncode, done.stdout) == (0, "of the source")
    else:
        assert (done.returncode, done.stdout) == (mounts.REFUSED, "")
        assert done.stderr.startswith("mounts: ")
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--"], ["/a", "--", "true"], ["--cwd", "/", "/a", "--", "true"]])
def test_mounts_explains_its_arguments(arguments: list[str]) -> None:
    program = [sys.executable, "-I", "-S", str(mounts.__file__)]
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith("usage: mounts ")
