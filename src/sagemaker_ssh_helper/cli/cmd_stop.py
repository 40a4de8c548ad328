"""
``sm-ssh stop TARGET``: have SageMaker stop a job or a notebook instance.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.parser import add_aws_options
from sagemaker_ssh_helper.client import standard_streams
from sagemaker_ssh_helper.errors import TargetEnded, TargetNotFound, UsageError


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "stop",
        help="have SageMaker stop a job",
        description="Have SageMaker stop a job or a notebook instance, after a question. What a training job "
        "has saved is kept.",
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help="as for connect; picked on a terminal")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    add_aws_options(parser)


def run(args: argparse.Namespace) -> int:
    from sagemaker_ssh_helper.aws import resources
    from sagemaker_ssh_helper.cli import named

    found = named.find(args.target, args.profile, args.region)
    kind, name = named.resource_of(found)
    resource = resources.describe(found.client, kind, name)
    if resource is None:
        raise TargetNotFound(f"there is no {kind.label} {name!r}", fix="See: sm-ssh list")
    if resource.ended:
        raise TargetEnded(f"{resource.name} has ended: {resource.status}")
    if not args.yes:
        if not standard_streams.input_is_terminal():
            raise UsageError("nobody is there to be asked", fix=f"Say it: sm-ssh stop --yes {found.host}")
        print(
            f"stop {kind.label} {resource.name} ({resource.status})? [y/N] ",
            end="",
            file=sys.stderr,
            flush=True,
        )
        if standard_streams.read_line().strip().lower() not in ("y", "yes"):
            say("not stopped")
            return 1
    resources.stop(found.client, kind, resource.name)
    say(f"{resource.name} is being stopped; wait for it: sm-ssh wait --for ended {found.host}")
    return 0
