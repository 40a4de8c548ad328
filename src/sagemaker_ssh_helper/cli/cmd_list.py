"""
``sm-ssh list``: the containers that run now, and whether they can be reached.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from sagemaker_ssh_helper import __version__
from sagemaker_ssh_helper.cli.durations import seconds
from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.parser import add_aws_options
from sagemaker_ssh_helper.cli.patience import Patience
from sagemaker_ssh_helper.client.terminal_text import escaped
from sagemaker_ssh_helper.errors import AccessDenied, UsageError
from sagemaker_ssh_helper.names import DOMAIN, ResourceKind
from sagemaker_ssh_helper.targets import Target, split_bare

if TYPE_CHECKING:
    from sagemaker_ssh_helper.aws.inventory import Row
    from sagemaker_ssh_helper.aws.json_rpc import Client

WATCH_INTERVAL = 5.0
"""Seconds between two looks of --watch."""

_COLUMNS = ("STATUS", "INSTANCE", "NODE", "AGE", "RESOURCE", "HOST")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "list",
        help="show the containers that can be reached",
        description="Show the containers of running jobs, endpoints, notebook instances and apps: Online, "
        "ConnectionLost, or ssh:NotFound for one that never registered.",
    )
    parser.add_argument(
        "name",
        nargs="?",
        default=DOMAIN,
        metavar="NAME|TYPE",
        help="my-job for one resource, training.sagemaker for one type; all if left out",
    )
    parser.add_argument("--all", action="store_true", help="also instances whose resource has ended")
    parser.add_argument("--mine", action="store_true", help="only what was launched by you (tag SSHOwner)")
    parser.add_argument(
        "--since", type=seconds, metavar="TIME", help="only what began in the last 90s, 15m, 2h, 30d"
    )
    parser.add_argument("--watch", action="store_true", help="print it again when it changes, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    add_aws_options(parser)


def run(args: argparse.Namespace) -> int:
    from sagemaker_ssh_helper.aws.json_rpc import Client
    from sagemaker_ssh_helper.client.settings import open_session

    bare = _bare(args.name)
    kinds, name = ([], "") if bare else _asked(args.name)
    session = open_session(args.profile, args.region)
    for line in session.warnings:
        say(line)
    say(f"{__version__}, region {session.region} (from {session.region_origin})")
    client = Client(session)
    if bare:
        kinds, name = _named(client, bare)
    owner = None
    if args.mine:
        owner = client.caller_id()
        if owner is None:
            raise AccessDenied("who you are cannot be told", evidence="sts:GetCallerIdentity gives no answer")
    shown: str | None = None
    patience = Patience()

    def look() -> list[Row]:
        return _rows(client, args, kinds, name, owner)

    while True:
        rows = patience.look(look) if args.watch else look()
        key = repr(rows)
        if rows is not None and key != shown:
            _print(args, session.region, rows, first=shown is None)
            shown = key
        if not args.watch:
            return 0
        time.sleep(WATCH_INTERVAL)


def _rows(
    client: Client, args: argparse.Namespace, kinds: list[ResourceKind], name: str, owner: str | None
) -> list[Row]:
    from sagemaker_ssh_helper.aws import inventory

    if name:
        rows = inventory.of_resource(client, kinds[0], name, owner=owner)
    else:
        rows = inventory.of_live_resources(client, kinds, say, owner=owner)
        if args.all:
            rows += inventory.of_ended_resources(client, kinds, rows, owner=owner)
    if args.since is not None:
        oldest = time.time() - args.since
        rows = [row for row in rows if row.since is not None and row.since >= oldest]
    if args.watch:
        # Every ping is no change.
        rows = [dataclasses.replace(row, last_ping_at=None) for row in rows]
    return rows


def _print(args: argparse.Namespace, region: str, rows: list[Row], *, first: bool) -> None:
    if args.json:
        print(json.dumps({"schema": 1, "region": region, "instances": [_entry(row) for row in rows]}))
    else:
        if args.watch and sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")
        elif not first:
            print()
        _print_table(rows)
        if not rows:
            say("nothing runs here that could be reached; see also --all and --region")
    sys.stdout.flush()


def _bare(text: str) -> str:
    """The name, or its beginning, where neither a type nor a whole name was given; else empty."""
    found = split_bare(text)
    types = (DOMAIN, *(kind.domain for kind in ResourceKind))
    return "" if found is None or text.lower() in types else found[1]


def _named(client: Client, name: str) -> tuple[list[ResourceKind], str]:
    from sagemaker_ssh_helper.client import naming

    target = naming.find(client, name)
    assert target.kind is not None, "what was found by its name has a kind"
    return [target.kind], target.name


def _asked(text: str) -> tuple[list[ResourceKind], str]:
    """The kinds, and the one resource if a whole name was given."""
    word = text.lower().strip(".")
    if word == DOMAIN:
        return list(ResourceKind), ""
    for kind in ResourceKind:
        if word in (kind.domain, f"{kind.domain}.{DOMAIN}"):
            return [kind], ""
    target = Target.parse(text)
    if target.kind is None:
        raise UsageError(f"{text!r} names an instance, not a resource", fix="See: sm-ssh list --all")
    return [target.kind], target.name


def _entry(row: Row) -> dict[str, object]:
    return {
        "status": row.status,
        "instance_id": row.instance_id,
        "node": row.node,
        "type": row.kind.domain,
        "name": row.name,
        "resource_status": row.resource_status,
        "since": row.since,
        "last_ping_at": row.last_ping_at,
        "host": row.host,
    }


def _print_table(rows: list[Row]) -> None:
    from sagemaker_ssh_helper.cli.picker import age

    table = [
        tuple(
            escaped(cell)
            for cell in (
                row.status,
                row.instance_id or "-",
                row.node or "-",
                age(row.since),
                row.resource_status or "-",
                row.host,
            )
        )
        for row in rows
    ]
    if sys.stdout.isatty() and table:
        table.insert(0, _COLUMNS)
    widths = [max((len(line[column]) for line in table), default=0) for column in range(len(_COLUMNS))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
