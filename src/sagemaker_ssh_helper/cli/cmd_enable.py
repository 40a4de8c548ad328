"""
``sm-ssh enable TARGET``: SageMaker's remote debugging for a training job that runs.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.parser import add_aws_options
from sagemaker_ssh_helper.errors import (
    NetworkIsolated,
    NotInstrumented,
    TargetEnded,
    TargetNotFound,
    TargetStarting,
    WaitTimeout,
)

if TYPE_CHECKING:
    from sagemaker_ssh_helper.aws.resources import Resource
    from sagemaker_ssh_helper.cli.named import Named

CONNECT_TIMEOUT = 60.0
"""Seconds that the service's agent may take to be there."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "enable",
        help="make a running training job reachable that was launched without ssh",
        description="Turn on SageMaker's remote debugging for a training job that runs, and wait until it "
        "can be reached: nothing in its image, and no restart, is needed.",
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help="as for connect; picked on a terminal")
    parser.add_argument("--no-wait", dest="wait", action="store_false", help="do not wait until it is there")
    add_aws_options(parser)


def run(args: argparse.Namespace) -> int:
    from sagemaker_ssh_helper.aws import native
    from sagemaker_ssh_helper.cli import named
    from sagemaker_ssh_helper.names import training_target

    found = named.find(args.target, args.profile, args.region)
    job = debuggable_job(found)
    if job.remote_debug:
        say(f"{job.name}: remote debugging is on already")
    else:
        native.set_remote_debug(found.client, job.name, True)
        say(f"{job.name}: remote debugging is on; who may open sessions to it now, no SSHOwner limits")
    target = training_target(job.name, found.target.node_or_first)
    if args.wait and not native.wait_connected(found.client, target, CONNECT_TIMEOUT):
        raise WaitTimeout(
            f"{target} was not connected in {CONNECT_TIMEOUT:.0f} s",
            evidence="the agent of the service signs with the job's role and needs a way to Systems Manager",
            fix="Let the role call ssmmessages:CreateControlChannel, CreateDataChannel, OpenControlChannel "
            "and OpenDataChannel; the agent's log is the stream that ends in /ssm",
        )
    say(f"connect to it: sm-ssh connect {found.host}")
    return 0


def debuggable_job(found: Named) -> Resource:
    """
    The training job, when its remote debugging can be changed now.

    Raises NotInstrumented for another kind, TargetNotFound, TargetEnded, NetworkIsolated, TargetStarting.
    """
    from sagemaker_ssh_helper.aws import native, resources
    from sagemaker_ssh_helper.cli import named
    from sagemaker_ssh_helper.names import ResourceKind

    kind, name = named.resource_of(found)
    if kind is not ResourceKind.TRAINING:
        raise NotInstrumented(
            f"{resources.article(kind)} has no remote debugging: SageMaker offers it for training jobs only",
            fix="Launch it with ssh: sagemaker_ssh_helper.launch.enable_ssh(request), or an SSH…Wrapper",
        )
    job = resources.describe(found.client, kind, name)
    if job is None:
        raise TargetNotFound(f"there is no {kind.label} {name!r}", fix="See: sm-ssh list training.sagemaker")
    if job.ended:
        raise TargetEnded(f"{job.name} has ended: {job.status}", fix="Its containers are gone")
    if job.isolated:
        raise NetworkIsolated(
            f"{job.name} runs in network isolation: nothing in it can reach Systems Manager",
            evidence="EnableNetworkIsolation is true",
            fix="Launch it without EnableNetworkIsolation",
        )
    if job.secondary_status not in native.DEBUGGABLE:
        raise TargetStarting(
            f"remote debugging of {job.name} cannot be changed now",
            evidence=f"status {job.secondary_status or job.status}",
            fix="It can while the job downloads its data or trains: try again in a minute",
        )
    return job
