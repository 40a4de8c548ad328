"""
``sm-ssh logs TARGET``: what its containers wrote.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from sagemaker_ssh_helper.cli.durations import seconds
from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.parser import add_aws_options
from sagemaker_ssh_helper.client.terminal_text import escaped_line


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "logs",
        help="show what a target's containers wrote",
        description="Print the lines of a target's log in CloudWatch Logs. With several nodes each line has "
        "its node in front.",
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help="as for connect; picked on a terminal")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the target has ended")
    parser.add_argument("--since", type=seconds, metavar="TIME", help="only the last 90s, 15m, 2h, 30d")
    parser.add_argument(
        "--raw", action="store_true", help="as it was written: control characters reach your terminal"
    )
    parser.add_argument("--grep", metavar="PATTERN", default="", help="a filter pattern of CloudWatch Logs")
    add_aws_options(parser)


def run(args: argparse.Namespace) -> int:
    from sagemaker_ssh_helper.aws import logs, resources
    from sagemaker_ssh_helper.cli import named
    from sagemaker_ssh_helper.errors import TargetNotFound

    found = named.find(args.target, args.profile, args.region)
    kind, name = named.resource_of(found)
    resource = resources.describe(found.client, kind, name)
    if resource is None:
        raise TargetNotFound(f"there is no {kind.label} {name!r}", fix="See: sm-ssh list")
    name = resource.name

    def ended() -> bool:
        now = resources.describe(found.client, kind, name)
        return now is None or now.ended

    wanted: dict[str, Any] = {
        "node": found.target.node,
        "since": time.time() - args.since if args.since else 0.0,
        "pattern": args.grep,
    }
    lines = (
        logs.follow(found.client, kind, name, ended, **wanted)
        if args.follow
        else logs.events(found.client, kind, name, **wanted)
    )
    several = (resource.instance_count or 1) > 1 and found.target.node is None
    printed = 0
    for event in lines:
        printed += 1
        text = f"{event.node} | {event.message}" if several else event.message
        for line in text.rstrip("\n").split("\n"):
            sys.stdout.write(f"{line if args.raw else escaped_line(line)}\n")
        if args.follow:
            sys.stdout.flush()
    if not printed:
        status = resource.secondary_status or resource.status
        say(f"no lines of {name} in {kind.log_group}: its status is {status}")
    return 0
