"""
``sm-ssh forward TARGET PORT…``: ports of a container on this machine, or the other way round.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from sagemaker_ssh_helper.cli.local_ports import LOOPBACK, Forward, with_free_ports
from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.parser import add_aws_options, add_road_options
from sagemaker_ssh_helper.errors import UsageError

_SPEC = re.compile(
    r"(?:(?P<near>\d*):)?(?:(?P<host>[A-Za-z][\w.-]*|[\d.]+\.\d+):)?(?P<far>\d+)(?:-(?P<last>\d+))?"
)
_READY = b"ready"


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "forward",
        help="bring a container's ports to this machine",
        description="Make ports of a container reachable here, until Ctrl-C. They listen on 127.0.0.1 only, "
        "unless --bind says otherwise; one that is taken is replaced by the next free one.",
        epilog="PORT is 8080, 9000:3000 (here 9000, there 3000), :5000 (any free one here), 9090-9092, "
        "8080:db.internal:80 (a host that the container reaches); several may be joined by commas.",
        allow_abbrev=False,
    )
    parser.add_argument("target", metavar="TARGET", help="as for connect")
    parser.add_argument("ports", nargs="*", metavar="PORT", help="ports of the container")
    parser.add_argument(
        "--reverse",
        action="append",
        default=[],
        metavar="PORT",
        help="a port of this machine, to be reached in the container; 9000:3000 is 9000 there, 3000 here",
    )
    parser.add_argument(
        "--bind", metavar="ADDRESS", default=LOOPBACK, help="listen on this address of this machine"
    )
    parser.add_argument("--open", action="store_true", help="show the first one in the browser")
    add_road_options(parser)
    add_aws_options(parser)


def parse(text: str) -> list[Forward]:
    """What one PORT argument asks for. Raises UsageError."""
    forwards = []
    for spec in text.split(","):
        found = _SPEC.fullmatch(spec)
        if found is None or (found["host"] and found["last"]):
            raise UsageError(
                f"{spec!r} is no port", fix="Say 8080, 9000:3000, :5000, 9090-9092 or 80:host:80"
            )
        far = int(found["far"])
        last = int(found["last"] or far)
        near = far if found["near"] is None else int(found["near"] or 0)
        size = last - far
        if not (0 < far <= last < 65536 and near + size < 65536 and size < 1000):
            raise UsageError(f"{spec!r} is no port", evidence="ports are 1 to 65535, and ranges go upwards")
        forwards += [
            Forward(near + step if near else 0, found["host"] or "localhost", far + step)
            for step in range(size + 1)
        ]
    return forwards


def run(args: argparse.Namespace) -> int:
    forwards = [forward for text in args.ports for forward in parse(text)]
    reverse = [forward for text in args.reverse for forward in parse(text)]
    if not forwards and not reverse:
        raise UsageError("no port is named", fix="Name one: sm-ssh forward TARGET 8888")
    from sagemaker_ssh_helper.cli import road
    from sagemaker_ssh_helper.client import children, connect

    connect.find_ssh()
    ready = road.prepare(*road.asked(args.target, args))
    forwards = with_free_ports(args.bind, forwards)
    options = ["-N", "-T", "-o", "ExitOnForwardFailure=yes", "-o", "ControlPath=none"]
    # Tells, on ssh's own standard output, that all ports listen.
    options += ["-o", "PermitLocalCommand=yes", "-o", f"LocalCommand=echo {_READY.decode()}"]
    for forward in forwards:
        options += ["-L", f"{_bracketed(args.bind)}:{forward.near}:{forward.host}:{forward.far}"]
    for forward in reverse:
        options += ["-R", f"{LOOPBACK}:{forward.near}:{forward.host}:{forward.far}"]
    command = connect.ssh_command(ready.host, ready.settings, options=options)
    with children.attended(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline().strip() == _READY:
            node = ready.named.target.node_or_first
            _show(args, node, forwards, reverse)
            say("Ctrl-C stops")
        status = process.wait()
    return status


def _show(
    args: argparse.Namespace, node: str, forwards: Sequence[Forward], reverse: Sequence[Forward]
) -> None:
    urls = [f"http://{_bracketed(args.bind)}:{forward.near}" for forward in forwards]
    for url, forward in zip(urls, forwards, strict=True):
        print(f"{url} -> {_place(node, forward.host)}:{forward.far}")
    for forward in reverse:
        print(f"{node}:{forward.near or 'a free port'} -> {forward.host}:{forward.far} of this machine")
    sys.stdout.flush()
    if args.open and urls:
        import webbrowser

        if not webbrowser.open(urls[0]):
            say(f"no browser was found; open {urls[0]}")


def _place(node: str, host: str) -> str:
    return node if host == "localhost" else host


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
