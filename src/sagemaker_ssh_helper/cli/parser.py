"""
argparse as our commands use it: its complaints are ours, and so are the options that all share.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import NoReturn

from sagemaker_ssh_helper.cli.examples import of
from sagemaker_ssh_helper.cli.via import WAYS
from sagemaker_ssh_helper.errors import UsageError


class Parser(argparse.ArgumentParser):
    """
    An argument parser that raises UsageError instead of leaving, with the option that may have been meant.
    The help ends with the command's examples.
    """

    def error(self, message: str) -> NoReturn:
        near = ""
        if message.startswith("unrecognized arguments: "):
            # The first is the one that was misspelt; what follows may be its value.
            near = near_option(message.split()[2], self._option_string_actions)
        raise UsageError(message, fix=f"Did you mean {near}?" if near else f"See: {self.prog} --help")

    def format_help(self) -> str:
        examples = of(self.prog.rpartition(" ")[2])
        return super().format_help() + (f"\n{examples}" if examples else "")


def near_option(word: str, options: Iterable[str]) -> str:
    """The option that may be meant by one that is none; empty when there is no such."""
    import difflib

    name = word.partition("=")[0].removeprefix("--")
    if name == word or not name:
        return ""
    long = [option.removeprefix("--") for option in options if option.startswith("--")]
    found = [option for option in long if len(name) > 1 and option.startswith(name)]
    found += difflib.get_close_matches(name, long, n=1, cutoff=0.65)
    return f"--{found[0]}" if found else ""


def add_aws_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that calls AWS."""
    parser.add_argument("--profile", metavar="NAME", help="use this profile of the AWS configuration")
    parser.add_argument("--region", metavar="REGION", help="call this region")


def add_road_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that goes by ssh."""
    parser.add_argument("-l", "--user", metavar="USER", help="the login name")
    parser.add_argument(
        "--trust-first-use", action="store_true", help="accept a container whose host key nothing vouches for"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="read the container's tags again, even if they were just read"
    )
    parser.add_argument(
        "--no-wait", dest="wait", action="store_false", help="do not wait for a container that is starting"
    )
    parser.add_argument("--via", choices=WAYS, help="who carries the session: this program, or AWS's own")
