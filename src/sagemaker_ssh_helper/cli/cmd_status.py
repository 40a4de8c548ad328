"""
``sm-ssh status TARGET``: what it is, node by node, and whether it can be reached.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from sagemaker_ssh_helper.cli.parser import add_aws_options
from sagemaker_ssh_helper.client.terminal_text import escaped
from sagemaker_ssh_helper.errors import AccessDenied, NotOwner, SSHHelperError

if TYPE_CHECKING:
    from sagemaker_ssh_helper.aws.instances import Instance
    from sagemaker_ssh_helper.aws.json_rpc import Client
    from sagemaker_ssh_helper.aws.resources import Resource


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "status",
        help="say what a target is, node by node, and whether it can be reached",
        description="Say what a target is, node by node, when it will be stopped, and whether it can be "
        "reached, or why not.",
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help="as for connect; picked on a terminal")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    add_aws_options(parser)


def run(args: argparse.Namespace) -> int:
    from sagemaker_ssh_helper.aws import instances, resources
    from sagemaker_ssh_helper.cli import named
    from sagemaker_ssh_helper.targets import Target

    found = named.find(args.target, args.profile, args.region)
    kind, name = named.resource_of(found)
    resource = resources.describe(found.client, kind, name)
    nodes = instances.instances_of(found.client, kind, resource.name if resource else name)
    problem: SSHHelperError | None = None
    try:
        problem = _of_another(found.client, instances.resolve(found.client, found.target))
    except SSHHelperError as error:
        problem = error
    if resource is None and not nodes and problem is not None:
        raise problem
    host = Target(kind=kind, name=resource.name if resource else name).fqdn
    if args.json:
        print(json.dumps(_entry(host, found.session.region, resource, nodes, problem)))
    else:
        _print(host, found.session.region, resource, nodes, problem)
    return 0


def _of_another(client: Client, instance: Instance) -> NotOwner | None:
    """What keeps the caller out by the usual policies: that the instance has another owner."""
    from sagemaker_ssh_helper.aws import instances
    from sagemaker_ssh_helper.names import Tag

    if instance.is_native:
        return None
    try:
        owner = instances.tags_of(client, instance.id).get(Tag.OWNER)
    except AccessDenied:
        return None
    me = client.caller_id() if owner else None
    if not owner or not me or owner == me:
        return None
    return NotOwner(
        f"{instance.id} belongs to another user, and the usual policies let its owner in alone",
        evidence=f"its {Tag.OWNER} is {owner}, you are {me}",
    )


def _entry(
    host: str, region: str, resource: Resource | None, nodes: list[Instance], problem: SSHHelperError | None
) -> dict[str, object]:
    return {
        "schema": 1,
        "host": host,
        "region": region,
        "status": resource.status if resource else None,
        "secondary_status": (resource.secondary_status or None) if resource else None,
        "failure_reason": (resource.failure_reason or None) if resource else None,
        "instance_type": (resource.instance_type or None) if resource else None,
        "instance_count": resource.instance_count if resource else None,
        "created_at": resource.created_at if resource else None,
        "ended_at": resource.ended_at if resource and resource.ended else None,
        "stops_at": resource.stops_at if resource else None,
        "reachable": problem is None,
        "problem": {"id": problem.id, "message": str(problem)} if problem else None,
        "nodes": [
            {
                "node": instance.node or "algo-1",
                "instance_id": instance.id,
                "status": instance.ping_status,
                "last_ping_at": instance.last_ping_at,
                "registered_at": instance.registered_at,
                "agent_version": instance.agent_version,
            }
            for instance in nodes
        ],
    }


def _print(
    host: str, region: str, resource: Resource | None, nodes: list[Instance], problem: SSHHelperError | None
) -> None:
    from sagemaker_ssh_helper.cli.picker import age

    _show(f"{host}  {region}")
    if resource is not None:
        status = resource.status
        if resource.secondary_status not in ("", status):
            status += f" ({resource.secondary_status})"
        _show(f"  status     {status}, created {age(resource.created_at)} ago")
        if resource.failure_reason:
            _show(f"  reason     {resource.failure_reason}")
        if resource.instance_type:
            _show(f"  instances  {resource.instance_count or 1} x {resource.instance_type}")
        if resource.stops_at is not None and not resource.ended:
            left = max(0, int(resource.stops_at - time.time()))
            at = time.strftime("%Y-%m-%d %H:%M", time.localtime(resource.stops_at))
            _show(f"  stops at   {at}, in {left // 3600}h {left % 3600 // 60:02}m (its longest run time)")
    for instance in nodes:
        ping = f"last ping {age(instance.last_ping_at)} ago" if instance.last_ping_at else "no ping yet"
        _show(f"  {instance.node or 'algo-1':<9}  {instance.ping_status}, {instance.id}, {ping}")
    _show("  reachable  " + ("yes" if problem is None else f"no: {problem}"))


def _show(line: str) -> None:
    print(escaped(line))
