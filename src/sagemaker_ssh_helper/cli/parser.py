"""
argparse as our commands use it: its complaints are ours, and so are the options that all share.
"""

from __future__ import annotations

import argparse
from typing import NoReturn

from sagemaker_ssh_helper.errors import UsageError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError instead of leaving."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, fix=f"See: {self.prog} --help")


def add_aws_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that calls AWS."""
    parser.add_argument("--profile", metavar="NAME", help="use this profile of the AWS configuration")
    parser.add_argument("--region", metavar="REGION", help="call this region")
