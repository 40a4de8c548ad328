"""
``sm-ssh known-hosts HOST``: the pinned keys of a host, for ssh's KnownHostsCommand.
"""

from __future__ import annotations

import argparse
from typing import Any

from sagemaker_ssh_helper.client.terminal_text import escaped


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "known-hosts",
        help="print the pinned host key of a container (for KnownHostsCommand)",
        description="Print the line of known_hosts for a host name, or nothing when no key is pinned for it. "
        "No call is made. For ssh's KnownHostsCommand, with %H; the block of config-ssh does not need it.",
    )
    parser.add_argument("host", metavar="HOST", help="the host name, as ssh was given it")


def run(args: argparse.Namespace) -> int:
    from sagemaker_ssh_helper.client import known_hosts

    for line in known_hosts.lines_of(args.host):
        print(escaped(line))
    return 0
