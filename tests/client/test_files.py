"""Files of the user's machine: where they are, and that nobody sees half of one."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from sagemaker_ssh_helper.client import files, launches
from sagemaker_ssh_helper.errors import LocalSetup
from sagemaker_ssh_helper.names import ResourceKind


@pytest.mark.parametrize(
    ("environment", "config", "state"),
    [
        ({"HOME": "/h"}, "/h/.config/sm-ssh", "/h/.local/state/sm-ssh"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s"}, "/c/sm-ssh", "/s/sm-ssh"),
        # The XDG specification asks to ignore what is not absolute.
        ({"HOME": "/h", "XDG_CONFIG_HOME": "c"}, "/h/.config/sm-ssh", "/h/.local/state/sm-ssh"),
    ],
)
def test_the_folders_are_those_of_the_xdg_specification(
    environment: dict[str, str], config: str, state: str
) -> None:
    assert (str(files.config_dir(environment)), str(files.state_dir(environment))) == (config, state)


def test_windows_has_folders_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.sys, "platform", "win32")
    environment = {"HOME": "/h", "APPDATA": "/roaming", "LOCALAPPDATA": "/local"}
    assert str(files.config_dir(environment)) == "/roaming/sm-ssh"
    assert str(files.state_dir(environment)) == "/local/sm-ssh"


def test_without_a_home_the_error_names_the_variable() -> None:
    with pytest.raises(LocalSetup, match="Set HOME"):
        files.config_dir({"HOME": "relative"})


def test_a_folder_of_ours_is_private(home: Path) -> None:
    folder = files.private_dir(home / "a" / "b")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (home / "taken").touch()
    with pytest.raises(LocalSetup, match="taken"):
        files.private_dir(home / "taken")


def test_a_file_is_replaced_whole_and_private(home: Path) -> None:
    path = home / "file"
    files.write_atomic(path, "one")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("one", 0o600)
    files.write_atomic(path, b"\xff\n", 0o644)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"\xff\n", 0o644)
    # What is no UTF-8 comes back as it was.
    files.write_atomic(path, files.read_text(path) or "")
    assert path.read_bytes() == b"\xff\n"


def test_a_failed_write_leaves_the_old_file_and_no_other(home: Path) -> None:
    path = home / "folder"
    path.mkdir()
    with pytest.raises(LocalSetup, match="cannot be written"):
        files.write_atomic(path, "new")
    assert os.listdir(home) == ["folder"]
    with pytest.raises(LocalSetup, match="cannot be written"):
        files.write_atomic(home / "missing" / "file", "new")


def test_reading_tells_missing_from_unreadable(home: Path) -> None:
    assert files.read_text(home / "missing") is None
    with pytest.raises(LocalSetup, match="cannot be read"):
        files.read_text(home)


def _add_lines(path: Path, count: int) -> None:
    for _ in range(count):
        with files.locked(path):
            files.write_atomic(path, (files.read_text(path) or "") + "line\n")


def test_processes_change_a_file_one_after_another(home: Path) -> None:
    path = home / "state" / "file"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add_lines, args=(path, 20)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    assert [worker.exitcode for worker in workers] == [0] * 4
    assert path.read_text() == "line\n" * 80


def test_a_lock_that_is_never_released_is_told(home: Path) -> None:
    waiting = files.locked(home / "file", timeout=0.05)
    with files.locked(home / "file"), pytest.raises(LocalSetup, match=r"file\.lock has been held"):
        waiting.__enter__()


def test_a_launch_is_remembered_by_kind_and_name() -> None:
    launches.save(ResourceKind.TRAINING, "job", "a" * 32)
    launches.save(ResourceKind.PROCESSING, "job", "b" * 32)
    launches.save(ResourceKind.TRAINING, "job", "c" * 32)

    assert launches.load(ResourceKind.TRAINING, "job") == "c" * 32
    assert launches.load(ResourceKind.PROCESSING, "job") == "b" * 32
    assert launches.load(ResourceKind.TRANSFORM, "job") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"launch_id": 5}', '{"launch_id": "../../x"}'])
def test_a_broken_record_is_none(text: str) -> None:
    launches.save(ResourceKind.TRAINING, "job", "a" * 32)
    (files.state_dir() / "launches" / "job.training.json").write_text(text)
    assert launches.load(ResourceKind.TRAINING, "job") is None


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a b"])
def test_a_name_that_is_none_becomes_no_file(name: str, home: Path) -> None:
    launches.save(ResourceKind.TRAINING, name, "a" * 32)
    assert launches.load(ResourceKind.TRAINING, name) is None
    assert os.listdir(home) == []
