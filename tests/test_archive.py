import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from sagemaker_ssh_helper import archive
from sagemaker_ssh_helper.errors import LaunchRefused


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def source_archive(**files: str) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    buffer.seek(0)
    return buffer


def with_library(source: io.BytesIO, program: str) -> "dict[str, bytes]":
    target = io.BytesIO()
    archive.add_library(source, target, program)
    target.seek(0)
    with tarfile.open(fileobj=target, mode="r:gz") as tar:
        files = [(member.name, tar.extractfile(member)) for member in tar if member.isreg()]
        return {name: file.read() for name, file in files if file is not None}


def test_dependency_dir_is_one_folder_of_the_package() -> None:
    folder = Path(archive.dependency_dir())
    assert folder.name == "sagemaker_ssh_helper"
    assert [path.name for path in folder.parent.iterdir()] == ["sagemaker_ssh_helper"]


def test_dependency_dir_is_made_once() -> None:
    first = archive.dependency_dir()
    made_at = os.stat(first).st_ctime_ns
    assert archive.dependency_dir() == first
    assert os.stat(first).st_ctime_ns == made_at


def test_library_and_launcher_are_added_beside_the_code() -> None:
    files = with_library(source_archive(**{"train.py": "print(1)", "pkg__x.py": ""}), "train.py")
    assert files["train.py"] == b"print(1)"
    assert {"pkg/x.py", archive.LAUNCHER, "sagemaker_ssh_helper/__init__.py"} <= set(files)
    assert "sagemaker_ssh_helper/agent/bootstrap.py" in files


def test_a_copy_of_the_library_in_the_source_is_replaced() -> None:
    source = source_archive(**{"train.py": "", "sagemaker_ssh_helper__old.py": "", archive.LAUNCHER: "old"})
    files = with_library(source, "train.py")
    assert "sagemaker_ssh_helper/old.py" not in files
    assert files[archive.LAUNCHER] != b"old"


def test_an_archive_without_the_entry_point_is_refused() -> None:
    with pytest.raises(LaunchRefused, match=r"no entry point 'train\.py'"):
        with_library(source_archive(**{"other.py": ""}), "train.py")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08"])
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    with pytest.raises(LaunchRefused, match="no gzipped tar file"):
        with_library(io.BytesIO(content), "train.py")


def test_a_truncated_archive_is_refused() -> None:
    whole = source_archive(**{"train.py": "x" * 10_000}).getvalue()
    with pytest.raises(LaunchRefused, match="no gzipped tar file"):
        with_library(io.BytesIO(whole[: len(whole) // 2]), "train.py")


@pytest.mark.parametrize(
    ("program", "text", "expected"),
    [
        ("train.py", "import sys; print(__name__, sys.argv[1:])", "__main__ ['--name', 'a b']"),
        ("train.sh", 'echo "$1|$2"', "--name|a b"),
        ("in dir.py", "import sys; print(sys.argv[2])", "a b"),
    ],
)
def test_the_launcher_becomes_the_job_s_own_program(
    tmp_path: Path, program: str, text: str, expected: str
) -> None:
    (tmp_path / program).write_text(text)
    (tmp_path / program).chmod(0o755)
    (tmp_path / archive.LAUNCHER).write_text(archive.launcher_text(program))
    done = subprocess.run(
        [sys.executable, archive.LAUNCHER, "--name", "a b"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "START_SSH": "false", "PYTHONPATH": str(Path(archive.__file__).parents[1])},
    )
    assert done.stdout.strip() == expected
