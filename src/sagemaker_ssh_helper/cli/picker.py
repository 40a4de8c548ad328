"""
A choice among the containers that run now, on a terminal: a number takes one, other words narrow the list.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from sagemaker_ssh_helper.aws import inventory
from sagemaker_ssh_helper.aws.instances import ONLINE
from sagemaker_ssh_helper.aws.inventory import Row
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.client import standard_streams
from sagemaker_ssh_helper.client.terminal_text import escaped
from sagemaker_ssh_helper.errors import TargetNotFound, UsageError
from sagemaker_ssh_helper.names import ResourceKind
from sagemaker_ssh_helper.targets import Target


def pick(client: Client, tell: Callable[[str], None]) -> Target:
    """
    The container that the user picks; the only one that is there without a question.

    Those that can be reached come first, then the youngest. Raises TargetNotFound when nothing runs,
    UsageError when the user picks none, AwsError.
    """
    rows = inventory.of_live_resources(client, list(ResourceKind), tell)
    if not rows:
        raise TargetNotFound(
            "nothing runs here that could be reached",
            evidence=f"region {client.session.region} from {client.session.region_origin}",
            fix="See also: sm-ssh list --all",
        )
    rows.sort(key=lambda row: (row.status != ONLINE, -(row.since or 0), row.host))
    if len(rows) == 1:
        return _target(rows[0])
    shown = rows
    while True:
        for number, row in enumerate(shown, start=1):
            _show(f"{number:>3}  {row.status:<14}  {age(row.since):>4}  {row.host}")
        print("number, or part of a name: ", end="", file=sys.stderr, flush=True)
        line = standard_streams.read_line()
        words = line.split()
        if not line:
            raise UsageError("nothing was picked", fix="Name one: sm-ssh connect NAME")
        if len(words) == 1 and words[0].isdecimal() and 0 < int(words[0]) <= len(shown):
            return _target(shown[int(words[0]) - 1])
        fitting = [row for row in rows if all(word.lower() in row.host.lower() for word in words)]
        if len(fitting) == 1:
            return _target(fitting[0])
        if not fitting:
            _show(f"nothing has {' '.join(words)!r} in its name")
        shown = fitting or rows


def age(since: float | None) -> str:
    """How long ago that was, in one unit: ``12m``; ``-`` when it is not known."""
    if since is None:
        return "-"
    seconds = max(0, int(time.time() - since))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _show(line: str) -> None:
    print(escaped(line), file=sys.stderr)


def _target(row: Row) -> Target:
    return Target(kind=row.kind, name=row.name, node=row.node or None)
