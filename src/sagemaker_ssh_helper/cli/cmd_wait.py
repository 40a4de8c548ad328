"""
``sm-ssh wait TARGET``: until it can be reached, runs, or has ended.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from sagemaker_ssh_helper.cli.durations import seconds
from sagemaker_ssh_helper.cli.parser import add_aws_options
from sagemaker_ssh_helper.cli.patience import Patience
from sagemaker_ssh_helper.errors import (
    NetworkIsolated,
    NotInstrumented,
    SSHHelperError,
    TargetEnded,
    TargetNotFound,
    WaitTimeout,
)

if TYPE_CHECKING:
    from sagemaker_ssh_helper.aws.resources import Resource
    from sagemaker_ssh_helper.cli.named import Named

INTERVAL = 2.0
"""Seconds between two looks."""

_STATES = {TargetEnded.id: "ended", WaitTimeout.id: "timeout"}

_RUNNING = ("Training", "InService")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "wait",
        help="wait until a target can be reached, runs, or has ended",
        description="Wait until a target is ready (its container is online), running (its program runs), or "
        "ended. Exits 0 then, 6 when the time is over, 7 when it can never come.",
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help="as for connect; picked on a terminal")
    parser.add_argument(
        "--for", dest="state", choices=["ready", "running", "ended"], default="ready", help="what to wait for"
    )
    parser.add_argument(
        "--timeout", type=seconds, metavar="TIME", help="90s, 15m, 2h; else as long as it takes"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output at the end")
    add_aws_options(parser)


def run(args: argparse.Namespace) -> int:
    from sagemaker_ssh_helper.cli import named, waiting

    found = named.find(args.target, args.profile, args.region)
    try:
        if args.state == "ready":
            waiting.until_ready(found.client, found.target, args.timeout)
            resource = None
        else:
            resource = _until(found, args.state, args.timeout)
    except SSHHelperError as error:
        if isinstance(error, (NotInstrumented, NetworkIsolated)):
            # It will never be ready.
            error.exit_code = TargetEnded.exit_code
        if args.json:
            state = _STATES.get(error.id, "failed")
            _print(
                found.host, state, f"{error.what}" + (f": {error.evidence}" if error.evidence else ""), error
            )
        raise
    if args.json:
        _print(found.host, args.state, resource.status if resource else None, None)
    return 0


def _until(found: Named, state: str, timeout: float | None) -> Resource:
    from sagemaker_ssh_helper.aws import resources
    from sagemaker_ssh_helper.cli.main import say
    from sagemaker_ssh_helper.cli.named import resource_of

    kind, name = resource_of(found)
    deadline = None if timeout is None else time.monotonic() + timeout
    told = status = ""

    def look() -> Resource:
        resource = resources.describe(found.client, kind, name)
        if resource is None:
            raise TargetNotFound(f"there is no {kind.label} {name!r}", fix="See: sm-ssh list")
        return resource

    patience = Patience()
    while True:
        resource = patience.look(look)
        if resource is None:
            _pause(deadline, name, state, timeout, status)
            continue
        status = resource.secondary_status or resource.status
        if resource.ended:
            if state == "ended":
                return resource
            raise TargetEnded(
                f"{name} has ended: {resource.status}", evidence=resource.failure_reason[:300] or None
            )
        if state == "running" and (
            status in _RUNNING or (not resource.secondary_status and status == "InProgress")
        ):
            return resource
        if status != told:
            say(f"{name}: {status}")
            told = status
        _pause(deadline, name, state, timeout, status)


def _pause(deadline: float | None, name: str, state: str, timeout: float | None, status: str) -> None:
    if deadline is not None and time.monotonic() + INTERVAL > deadline:
        raise WaitTimeout(
            f"{name} was not {state} in {timeout:.0f} s",
            evidence=f"its status is {status}" if status else None,
        )
    time.sleep(INTERVAL)


def _print(host: str, state: str, reason: str | None, error: SSHHelperError | None) -> None:
    entry = {
        "schema": 1,
        "target": host,
        "state": state,
        "reason": reason,
        "error": error.id if error else None,
        "exit": error.exit_code if error else 0,
    }
    print(json.dumps(entry))
