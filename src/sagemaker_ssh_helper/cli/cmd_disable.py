"""
``sm-ssh disable TARGET``: no remote debugging of a training job any more.
"""

from __future__ import annotations

import argparse
from typing import Any

from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.parser import add_aws_options


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "disable",
        help="turn a training job's remote debugging off again",
        description="Turn SageMaker's remote debugging of a training job off. A helper that runs in it "
        "stays reachable.",
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help="as for connect; picked on a terminal")
    add_aws_options(parser)


def run(args: argparse.Namespace) -> int:
    from sagemaker_ssh_helper.aws import native
    from sagemaker_ssh_helper.cli import named
    from sagemaker_ssh_helper.cli.cmd_enable import debuggable_job

    found = named.find(args.target, args.profile, args.region)
    job = debuggable_job(found)
    if not job.remote_debug:
        say(f"{job.name}: remote debugging is off already")
        return 0
    native.set_remote_debug(found.client, job.name, False)
    say(f"{job.name}: remote debugging is off")
    return 0
