"""
argparse as our commands use it: its complaints are ours, and so are the options that all share.
"""

from __future__ import annotations

import argparse
from typing import NoReturn

from sagemaker_ssh_helper.cli.via import WAYS
from sagemaker_ssh_helper.errors import UsageError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError instead of leaving."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, fix=f"See: {self.prog} --help")


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
