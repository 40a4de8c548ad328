"""
``sm-ssh session TARGET``: a session of any kind, without ssh.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.parser import add_aws_options
from sagemaker_ssh_helper.cli.via import WAYS, is_plugin
from sagemaker_ssh_helper.errors import LocalSetup, UsageError


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "session",
        help="open any kind of session: a shell, a command or a forwarded port, without ssh",
        description="Open a session of Systems Manager: a shell, or what the session document says. "
        "The exit status is the command's where the agent tells it, 255 without a session, else 0.",
        allow_abbrev=False,
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help="as for connect; picked on a terminal")
    parser.add_argument(
        "--document", metavar="NAME", help="a session document; the account's shell if left out"
    )
    parser.add_argument(
        "--parameter",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a value for the document, as command='ls -l'; may be repeated",
    )
    parser.add_argument(
        "--via",
        choices=WAYS,
        help="who carries the session: this program itself (direct), or AWS's session-manager-plugin",
    )
    add_aws_options(parser)


def run(args: argparse.Namespace) -> int:
    parameters: dict[str, list[str]] = {}
    for word in args.parameter:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError("--parameter takes NAME=VALUE", fix="See: sm-ssh session --help")
        parameters.setdefault(name, []).append(value)
    if sys.platform == "win32":
        raise LocalSetup("sessions need a terminal of Unix", fix="Log in with ssh: sm-ssh connect TARGET")
    from sagemaker_ssh_helper.cli import named
    from sagemaker_ssh_helper.client import terminal_session

    host, profile, region = args.target, args.profile, args.region
    if host is None or not named.is_whole(host):
        found = named.find(host, profile, region)
        host, profile, region = found.host, found.profile, found.session.region
    options = terminal_session.SessionOptions(
        host=host,
        document=args.document,
        parameters=parameters,
        profile=profile,
        region=region,
        via_plugin=is_plugin(args.via),
    )
    return terminal_session.run(options, say)
