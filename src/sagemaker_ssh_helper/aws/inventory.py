"""
What runs, and whether it can be reached: the rows of ``sm-ssh list``.

It starts from the resources that are alive, of which there are few, and asks for their instances a hundred
names at a time; the whole fleet of registered instances, most of them of jobs long over, is paged only on
request.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sagemaker_ssh_helper.aws import instances, resources, together
from sagemaker_ssh_helper.aws.instances import Instance
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.resources import Resource
from sagemaker_ssh_helper.errors import AccessDenied, ServiceError
from sagemaker_ssh_helper.names import ResourceKind
from sagemaker_ssh_helper.targets import Target

logger = logging.getLogger(__name__)

_NO_SUCH_OPERATION = frozenset(
    ["UnknownOperationException", "InvalidAction", "NotImplemented", "NotImplementedException"]
)

NOT_FOUND = "ssh:NotFound"
"""The status of a running resource of which no container has registered."""


@dataclass(frozen=True)
class Row:
    """One container, or a running resource that has none. Times are seconds since the epoch."""

    status: str
    kind: ResourceKind
    name: str
    host: str
    instance_id: str = ""
    node: str = ""
    resource_status: str = ""
    since: float | None = None
    last_ping_at: float | None = None


def of_live_resources(
    client: Client, kinds: Iterable[ResourceKind], tell: Callable[[str], None], *, owner: str | None = None
) -> list[Row]:
    """
    The containers of what is alive: a call per kind, and one per hundred resources.

    With ``owner`` only those whose tag SSHOwner says so. A kind that may not be listed
    is told and left out. Raises AccessDenied when none may be listed, AwsError.
    """
    live: list[Resource] = []
    denied: list[AccessDenied] = []
    answers = together.each(lambda kind: (kind, _alive(client, kind)), kinds)
    for kind, answer in answers:
        if isinstance(answer, AccessDenied):
            denied.append(answer)
            tell(f"{kind.domain}: not listed: {answer}")
        else:
            live += answer or []
    if denied and len(denied) == sum(answer is not None for _, answer in answers):
        raise denied[0]
    # The containers of an endpoint go by another name.
    aliases = together.each(lambda one: instances.aliases(client, one.kind, one.name), live)
    by_alias = {alias: resource.name for resource, own in zip(live, aliases, strict=True) for alias in own}
    named = instances.list_named(client, [*_names(live), *by_alias], owner)
    registered = [
        dataclasses.replace(found, name=by_alias.get(found.name, found.name))
        for found in together.each(lambda found: _with_known_kind(client, found), named)
    ]
    rows: list[Row] = []
    for resource in live:
        rows += _rows(resource, [found for found in registered if _belongs(found, resource)])
    # Whose a resource is that has not registered, nothing tells.
    return [row for row in rows if owner is None or row.instance_id]


def of_resource(client: Client, kind: ResourceKind, name: str, *, owner: str | None = None) -> list[Row]:
    """The containers of one resource, whatever it does. Raises TargetNotFound, AwsError."""
    if owner is not None:
        names = [name, *instances.aliases(client, kind, name)]
        mine = {instance.id for instance in instances.list_named(client, names, owner)}
        return [row for row in of_resource(client, kind, name) if row.instance_id in mine]
    found = instances.instances_of(client, kind, name)
    resource = resources.describe(client, kind, name)
    if resource is None:
        if not found:
            instances.resolve(client, Target(kind=kind, name=name))
        resource = Resource(kind=kind, name=name, status="")
    return _rows(resource, found)


def of_ended_resources(
    client: Client, kinds: Iterable[ResourceKind], known: list[Row], *, owner: str | None = None
) -> list[Row]:
    """The registered instances that are not among ``known``: a call per fifty instances. Raises AwsError."""
    shown = {row.instance_id for row in known}
    wanted = set(kinds)
    return [
        _row(Resource(kind=found.kind, name=found.name, status=""), found)
        for found in instances.list_all(client, owner)
        if found.id not in shown and found.kind in wanted and found.kind is not None
    ]


def _alive(client: Client, kind: ResourceKind) -> list[Resource] | AccessDenied | None:
    """Those of one kind; why they may not be listed; None where the service does not have this kind."""
    try:
        return list(resources.alive(client, kind))
    except AccessDenied as error:
        return error
    except ServiceError as error:
        # Another partition, or a local cloud.
        if error.code not in _NO_SUCH_OPERATION:
            raise
        logger.debug("= no list of %s here", kind.domain)
        return None


def _names(live: list[Resource]) -> list[str]:
    return list(dict.fromkeys(resource.name for resource in live))


def _with_known_kind(client: Client, found: Instance) -> Instance:
    if found.kind is not None or not found.online:
        return found
    return found.with_tags(instances.tags_of(client, found.id))


def _belongs(found: Instance, resource: Resource) -> bool:
    return found.kind is resource.kind and found.name == resource.name


def _rows(resource: Resource, found: list[Instance]) -> list[Row]:
    """A row for each live node, and for each node without one its latest instance."""
    by_node: dict[str, list[Instance]] = {}
    for instance in found:
        by_node.setdefault(instance.node or "algo-1", []).append(instance)
    rows = []
    for node in sorted(by_node, key=lambda name: int(name.rpartition("-")[2])):
        live = [instance for instance in by_node[node] if instance.online]
        latest = max(by_node[node], key=lambda instance: instance.registered_at or 0)
        rows += [_row(resource, instance) for instance in live or [latest]]
    if not rows:
        host = Target(kind=resource.kind, name=resource.name).fqdn
        rows.append(
            Row(
                NOT_FOUND,
                resource.kind,
                resource.name,
                host,
                resource_status=resource.status,
                since=resource.created_at,
            )
        )
    return rows


def _row(resource: Resource, instance: Instance) -> Row:
    return Row(
        status=instance.ping_status,
        kind=resource.kind,
        name=resource.name,
        host=instance.fqdn,
        instance_id=instance.id,
        node=instance.node or "",
        resource_status=resource.status,
        since=instance.registered_at,
        last_ping_at=instance.last_ping_at,
    )
