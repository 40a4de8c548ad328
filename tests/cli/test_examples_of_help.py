"""The examples at the end of each help can be typed."""

from __future__ import annotations

import shlex

import pytest

from sagemaker_ssh_helper.cli.examples import EXAMPLES
from sagemaker_ssh_helper.cli.main import COMMANDS, _dispatch, _load
from sagemaker_ssh_helper.cli.parser import Parser

from .conftest import Run

# Their words are read by hand, and their help is a text of their own.
BY_HAND = {"connect", "start-proxy", "completion"}


def test_every_command_has_two_examples() -> None:
    assert set(EXAMPLES) == set(COMMANDS) - BY_HAND
    assert {len(lines) for lines in EXAMPLES.values()} == {2}


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_is_read_by_its_command(line: str) -> None:
    command, words = _dispatch(shlex.split(line))
    words = words[: words.index("--")] if "--" in words else words
    module = _load(command)
    if command == "exec":
        assert module.parser().parse_args(words).targets
        return
    if command == "continue":
        assert len(words) == 1
        return
    parser = Parser(prog="sm-ssh", allow_abbrev=False)
    module.add_parser(parser.add_subparsers(required=True))
    assert parser.parse_args([command, *words]) is not None


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_shows_what_can_be_typed(sm_ssh: Run, command: str) -> None:
    shown = sm_ssh(command, "--help")
    assert shown.returncode == 0
    for line in EXAMPLES.get(command, ()):
        assert f"\n  sm-ssh {line}\n".encode() in shown.stdout
    assert sm_ssh("help", command).stdout == shown.stdout
    assert b"%%" not in shown.stdout
