"""
``sm-ssh deregister``: take the instances of containers that are gone off the account.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from sagemaker_ssh_helper.cli.main import interrupted, say
from sagemaker_ssh_helper.cli.main import main as sm_ssh
from sagemaker_ssh_helper.cli.parser import add_aws_options
from sagemaker_ssh_helper.client import standard_streams
from sagemaker_ssh_helper.client.terminal_text import escaped
from sagemaker_ssh_helper.errors import SSHHelperError, UsageError

if TYPE_CHECKING:
    from sagemaker_ssh_helper.aws.instances import Instance

_DAY = 86400


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "deregister",
        help="take the instances of containers that are gone off the account",
        description="Deregister managed instances that registered long ago and do not answer any more, after "
        "a question. Instances without the tag SSHResourceName are never touched.",
    )
    parser.add_argument(
        "--delete-older-than-n-days",
        type=int,
        default=0,
        metavar="N",
        help="registered before that; default 0",
    )
    parser.add_argument(
        "--yes", "--preapproving-deregistration", dest="yes", action="store_true", help="ask nothing"
    )
    parser.add_argument("--dry-run", action="store_true", help="say which, and change nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    add_aws_options(parser)


def run(args: argparse.Namespace) -> int:
    from sagemaker_ssh_helper.aws import fleet
    from sagemaker_ssh_helper.aws.json_rpc import Client
    from sagemaker_ssh_helper.client.settings import open_session

    if args.delete_older_than_n_days < 0:
        raise UsageError("a number of days is not negative")
    session = open_session(args.profile, args.region)
    client = Client(session, attempts=fleet.ATTEMPTS)
    found = fleet.left_over(client, args.delete_older_than_n_days * _DAY)
    if not args.json:
        for instance in found:
            print(escaped(f"{instance.id}  {instance.ping_status}  {instance.fqdn}"))
    if not found or args.dry_run:
        say(f"{len(found)} instances in {session.region}")
        return _json(args, [(instance.id, None) for instance in found], 0)
    if not args.yes:
        if not standard_streams.input_is_terminal():
            raise UsageError("nobody is there to be asked", fix="Say it: --yes, or look first: --dry-run")
        print(
            f"deregister {len(found)} instances in {session.region}? [y/N] ",
            end="",
            file=sys.stderr,
            flush=True,
        )
        if standard_streams.read_line().strip().lower() not in ("y", "yes"):
            say("nothing was deregistered")
            return 1
    results: list[tuple[Instance, SSHHelperError | None]] = []
    try:
        for result in fleet.deregister(client, found):
            results.append(result)
    except (KeyboardInterrupt, Exception) as reason:
        if interrupted(reason):
            say(f"{len(results)} of {len(found)} were done; the same command goes on with the rest")
        raise
    failed = [error for _, error in results if error is not None]
    for instance, error in results:
        if error is not None:
            say(f"{instance.id}: error[{error.id}]: {error}")
    say(f"{len(results) - len(failed)} deregistered, {len(failed)} failed")
    status = failed[0].exit_code if failed else 0
    return _json(args, [(instance.id, error.id if error else None) for instance, error in results], status)


def _json(args: argparse.Namespace, results: list[tuple[str, str | None]], status: int) -> int:
    if args.json:
        entries = [{"instance_id": instance_id, "error": error} for instance_id, error in results]
        print(json.dumps({"schema": 1, "dry_run": args.dry_run, "instances": entries}))
    return status


def main() -> int:
    """``sm-ssh-deregister-instances``, as older scripts call it."""
    return sm_ssh(["deregister", *sys.argv[1:]])
