"""The reference says what is there: every error with its exit code, every command with its options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sagemaker_ssh_helper import errors
from sagemaker_ssh_helper.cli import cmd_connect, cmd_start_proxy
from sagemaker_ssh_helper.cli.catalogue import CATALOGUE
from sagemaker_ssh_helper.cli.main import COMMANDS
from sagemaker_ssh_helper.client import ssh_config
from sagemaker_ssh_helper.client.ssh_config import BlockOptions
from sagemaker_ssh_helper.names import Env

from .conftest import Run

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def every_error() -> list[type[errors.SSHHelperError]]:
    found = [errors.SSHHelperError]
    for error in found:
        found += error.__subclasses__()
    return [error for error in found if error.__module__ == errors.__name__]


def documented() -> dict[str, int]:
    """The exit code of each id in the tables of errors.md."""
    rows = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \| (\d+) \|", (REFERENCE / "errors.md").read_text(), re.M)
    return {name: int(code) for names, code in rows for name in re.findall(r"`([a-z-]+)`", names)}


def test_every_error_is_documented_with_its_exit_code() -> None:
    assert documented() == {error.id: error.exit_code for error in every_error()}


def test_explain_says_what_the_reference_says() -> None:
    text = (REFERENCE / "errors.md").read_text()
    rows = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \| \d+ \| (.*?) \| (.*?) ?\|$", text, re.M)
    shown = {name: (what, todo) for names, what, todo in rows for name in re.findall(r"`([a-z-]+)`", names)}
    assert shown == CATALOGUE


def test_ids_are_unique_and_every_exit_code_is_explained() -> None:
    ids = [error.id for error in every_error()]
    assert len(ids) == len(set(ids))
    text = (REFERENCE / "errors.md").read_text()
    for code in {error.exit_code for error in every_error()}:
        assert re.search(rf"^\|[^|]*\b{code}\b[^|]*\|", text, re.MULTILINE)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_documented(command: str) -> None:
    assert f"`sm-ssh {command}" in (REFERENCE / "cli.md").read_text()


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"emulator", "demo"}))
def test_every_option_is_documented(sm_ssh: Run, command: str) -> None:
    text = (REFERENCE / "cli.md").read_text()
    section = text.split(f"## `sm-ssh {command}")[1].split("\n## ")[0]
    known = {
        "connect": set(cmd_connect._OWN),
        "start-proxy": {*cmd_start_proxy._VALUES, *cmd_start_proxy._SWITCHES},
    }.get(command) or set(re.findall(r"--[a-z-]+", sm_ssh(command, "--help").stdout.decode())) - {"--help"}

    assert {option for option in known if option not in section} == set()


def test_every_variable_is_documented() -> None:
    text = "".join(path.read_text() for path in REFERENCE.glob("*.md"))
    names = [value for key, value in vars(Env).items() if key.isupper()]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_block_is_shown_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    written = ssh_config.block_text(["/home/me/.local/bin/sm-ssh"], BlockOptions(profile="ml-dev"))
    assert f"```\n{written}```\n" in (REFERENCE / "files.md").read_text()
