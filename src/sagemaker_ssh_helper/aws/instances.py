"""
From a target to the managed instance of one live container, and the listing of all of them.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sagemaker_ssh_helper.aws import logs, resources
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.resources import Resource
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    DuplicateNode,
    NetworkIsolated,
    NotInstrumented,
    RegistrationFailed,
    RegistrationLimit,
    RegistrationThrottled,
    RoleNotTrusted,
    SSHHelperError,
    TargetEnded,
    TargetNotFound,
    TargetOffline,
    TargetStarting,
)
from sagemaker_ssh_helper.names import DOMAIN, InstanceId, ResourceKind, Tag
from sagemaker_ssh_helper.targets import Target, is_native, rank_of

ONLINE = "Online"

SETTLING = 300.0
"""Seconds after its registration in which an instance may come and go before it can be relied on."""

_PAGE = 50  # the most that DescribeInstanceInformation gives at once
_FILTER_VALUES = 100  # the most values that one filter takes
_LAUNCH_ID = re.compile(r"[0-9a-f]{32}")
_INSTRUMENT = (
    "{enable} it with sagemaker_ssh_helper.launch.enable_ssh(request), or call the create(...) of its "
    "SSH…Wrapper before it is started"
)
_NAME = re.compile(r"(algo-[1-9]\d*)\.([A-Za-z0-9-]+)\.([a-z]+)\." + DOMAIN)


@dataclass(frozen=True)
class Instance:
    """
    One managed instance of ours, or a native target in its place.

    ``kind``, ``name`` and ``node`` come from its name, or from its tags where those were read; they are None,
    empty and None for a node of an older helper whose tags were not. Times are seconds since the epoch.
    """

    id: InstanceId
    ping_status: str
    kind: ResourceKind | None = None
    name: str = ""
    node: str | None = None
    last_ping_at: float | None = None
    registered_at: float | None = None
    agent_version: str = ""
    ip_address: str = ""
    """As its agent tells it: the node's own, in its network."""
    tags: Mapping[str, str] | None = None
    """None when they were not asked for."""

    @property
    def online(self) -> bool:
        """Whether its agent answers the service now."""
        return self.ping_status == ONLINE

    @property
    def is_native(self) -> bool:
        """Whether SageMaker's own agent serves it: no tags, no host key, a shell and nothing else."""
        return is_native(self.id)

    @property
    def fqdn(self) -> str:
        """The host name that reaches this node; its id when it has no known name."""
        if self.kind is None or not self.name:
            return str(self.id)
        return Target(kind=self.kind, name=self.name, node=self.node if self.node != "algo-1" else None).fqdn

    def with_tags(self, tags: Mapping[str, str]) -> Instance:
        """The same instance, told apart by its tags where its name did not say."""
        kind, name = self.kind, self.name or tags.get(Tag.RESOURCE_NAME, "")
        if kind is None:
            kind = kind_of_arn(tags.get(Tag.RESOURCE_ARN, ""))
        return dataclasses.replace(
            self, tags=tags, kind=kind, name=name, node=self.node or tags.get(Tag.NODE)
        )


@dataclass(frozen=True)
class Absent:
    """No live container answers for a target, and one may come."""

    error: TargetOffline
    """What to raise when nobody waits."""
    resource: Resource | None = None


def kind_of_arn(arn: str) -> ResourceKind | None:
    """The kind of the resource that an ARN names."""
    resource_type = arn.split(":", 5)[-1].split("/")[0]
    return next((kind for kind in ResourceKind if kind.arn_type == resource_type), None)


def resolve(client: Client, target: Target) -> Instance:
    """
    The one live container that ``target`` names: one call when it is there.

    Its tags are not read, unless the name of the instance does not say what it is (an older helper's).
    Raises what ``find`` raises, and TargetOffline (``may_come``) or TargetStarting for what it finds absent.
    """
    found = find(client, target)
    if isinstance(found, Absent):
        raise found.error
    return found


def find(client: Client, target: Target) -> Instance | Absent:
    """
    The one live container that ``target`` names, or that it is absent and may come; one call if it is there.

    It is the managed instance that the helper in it registered; when there is none, SageMaker's own target,
    if the resource has one.
    Raises TargetNotFound, TargetEnded, NotInstrumented, NetworkIsolated, RegistrationFailed, TargetOffline,
    DuplicateNode, each saying which it is and what to do; AwsError.
    """
    if target.instance_id is not None and is_native(target.instance_id):
        return _native_instance(target, target.instance_id)
    if target.instance_id is not None:
        found = by_id(client, target.instance_id)
        if found is None:
            raise TargetNotFound(
                f"there is no managed instance {target.instance_id}",
                evidence=_where(client),
                fix="See: sm-ssh list",
            )
        if found.online:
            return found
        return _silent(f"{found.id} is registered but its agent does not answer", [found])
    assert target.kind is not None, "a target is an instance id or a kind and a name"
    candidates = _of_resource(client, target.kind, target.name)
    return _live(target, candidates) or _absent(client, target, candidates)


def live(client: Client, target: Target) -> Instance | None:
    """The one live container that ``target`` names, if any: one call. Raises DuplicateNode, AwsError."""
    if target.instance_id is not None:
        found = by_id(client, target.instance_id)
        return found if found is not None and found.online else None
    assert target.kind is not None, "a target is an instance id or a kind and a name"
    return _live(target, _of_resource(client, target.kind, target.name))


def by_id(client: Client, instance_id: InstanceId) -> Instance | None:
    """The managed instance of this id, live or not: one call. Raises AwsError."""
    return next(_described(client, [{"Key": "InstanceIds", "Values": [instance_id]}]), None)


def _live(target: Target, candidates: Sequence[Instance]) -> Instance | None:
    node = target.node_or_first
    # An older helper names no nodes: its instances stand for the first one.
    live = [instance for instance in candidates if instance.online and (instance.node or "algo-1") == node]
    if len(live) > 1:
        raise DuplicateNode(
            f"{len(live)} live instances claim to be {node} of {target.name}: "
            + " and ".join(sorted(instance.id for instance in live)),
            evidence="one of them may be an impostor, or a container that was copied",
            fix="Look at both: aws ssm list-tags-for-resource --resource-type ManagedInstance --resource-id "
            + live[0].id,
        )
    return live[0] if live else None


def instances_of(client: Client, kind: ResourceKind, name: str) -> list[Instance]:
    """Every registered instance of one resource, live or not, in node order. Raises AwsError."""
    return sorted(
        _of_resource(client, kind, name), key=lambda instance: (rank_of(instance.node), instance.id)
    )


def aliases(client: Client, kind: ResourceKind, name: str) -> list[str]:
    """
    By what else the containers of a resource may go: those of an endpoint by their launch id.

    Three calls for an endpoint, none for other kinds. Raises AwsError.
    """
    if kind is not ResourceKind.INFERENCE or _LAUNCH_ID.fullmatch(name):
        return []
    try:
        return resources.hosted_launch_ids(client, name)
    except AccessDenied:
        return []


def tags_of(client: Client, instance_id: InstanceId) -> dict[str, str]:
    """The tags of one managed instance: one call. Raises AwsError, TargetOffline when it is gone."""
    tags = client.pages(
        "ssm", "ListTagsForResource", "TagList", ResourceType="ManagedInstance", ResourceId=instance_id
    )
    return {str(tag.get("Key")): str(tag.get("Value")) for tag in tags}


def list_named(client: Client, names: Sequence[str], owner: str | None = None) -> Iterator[Instance]:
    """
    The instances registered for these resource names, of all owners or of one: one call per hundred.

    Raises AwsError.
    """
    for start in range(0, len(names), _FILTER_VALUES):
        values = list(names[start : start + _FILTER_VALUES])
        yield from _described(client, [{"Key": f"tag:{Tag.RESOURCE_NAME}", "Values": values}, *_owned(owner)])


def list_all(client: Client, owner: str | None = None) -> Iterator[Instance]:
    """Every instance of ours, or of one owner's, live or not: one call per fifty. Raises AwsError."""
    return _described(client, [{"Key": "tag-key", "Values": [Tag.RESOURCE_NAME]}, *_owned(owner)])


def _owned(owner: str | None) -> list[dict[str, Any]]:
    return [] if owner is None else [{"Key": f"tag:{Tag.OWNER}", "Values": [owner]}]


def wait_for(
    client: Client, target: Target, *, timeout: float, interval: float = 2.0, monotonic: Any = time.monotonic,
    sleep: Any = time.sleep,
) -> Instance:  # fmt: skip
    """
    The live container of ``target``, waited for up to ``timeout`` seconds.

    Raises what ``resolve`` raises: at once for what waiting cannot mend, at the deadline for TargetOffline.
    """
    deadline = monotonic() + timeout
    while True:
        try:
            return resolve(client, target)
        except TargetOffline:
            if monotonic() + interval > deadline:
                raise
        sleep(interval)


def _described(client: Client, filters: list[dict[str, Any]]) -> Iterator[Instance]:
    pages = client.pages(
        "ssm", "DescribeInstanceInformation", "InstanceInformationList", Filters=filters, MaxResults=_PAGE
    )
    for entry in pages:
        found = _NAME.fullmatch(str(entry.get("Name", "")))
        kind = None
        if found:
            try:
                kind = ResourceKind.from_domain(found[3])
            except KeyError:
                found = None
        yield Instance(
            id=InstanceId(str(entry.get("InstanceId"))),
            ping_status=str(entry.get("PingStatus", "")),
            kind=kind,
            name=found[2] if found else "",
            node=found[1] if found else None,
            last_ping_at=_time(entry.get("LastPingDateTime")),
            registered_at=_time(entry.get("RegistrationDate")),
            agent_version=str(entry.get("AgentVersion", "")),
            ip_address=str(entry.get("IPAddress", "")),
        )


def _of_resource(client: Client, kind: ResourceKind, name: str) -> list[Instance]:
    names = [name, *aliases(client, kind, name)]
    found = list(_described(client, [{"Key": f"tag:{Tag.RESOURCE_NAME}", "Values": names}]))
    if not found and kind is ResourceKind.INFERENCE and len(names) == 1:
        return _by_log(client, name)
    # The tag says the name; the instance's own name, or else its other tags, say the kind.
    known = [
        instance.with_tags(tags_of(client, instance.id))
        if instance.kind is None and instance.online
        else instance
        for instance in found
    ]
    # An instance keeps the name of its activation; whoever may change tags can make it claim another one.
    return [
        dataclasses.replace(instance, name=name) if instance.name in names[1:] else instance
        for instance in known
        if instance.kind in (kind, None) and instance.name in (*names, "")
    ]


def _by_log(client: Client, endpoint_name: str) -> list[Instance]:
    """
    The containers of an endpoint that was launched by others: they told neither its name nor a launch id, but
    their ids in its log.
    """
    try:
        ids = logs.registered_in(client, f"{ResourceKind.INFERENCE.log_group}/{endpoint_name}")
    except SSHHelperError:
        # A second way, and not everybody has it: it may not hide what the first one told.
        return []
    if not ids:
        return []
    return [
        dataclasses.replace(instance, kind=ResourceKind.INFERENCE, name=endpoint_name)
        for instance in _described(client, [{"Key": "InstanceIds", "Values": ids}])
        if instance.kind in (ResourceKind.INFERENCE, None)
    ]


def _absent(client: Client, target: Target, candidates: Sequence[Instance]) -> Instance | Absent:
    """Find out why no live instance is there for ``target``: raise that, unless one may come."""
    assert target.kind is not None, "only a named resource can be looked up"
    kind, name, node = target.kind, target.name, target.node_or_first
    of_node = [instance for instance in candidates if (instance.node or "algo-1") == node]
    try:
        resource = resources.describe(client, kind, name)
    except AccessDenied as error:
        if of_node:
            silent = _silent(f"{node} of {name} is registered but its agent does not answer", of_node)
            silent.error.__cause__ = error
            return silent
        raise
    if resource is None and kind is not ResourceKind.STUDIO and not candidates:
        return _by_other_case(client, target)
    if resource is not None and resource.name != name and resource.name.lower() == name.lower():
        # AWS describes a name in any letter case; tags are compared letter by letter.
        return find(client, dataclasses.replace(target, name=resource.name))
    if resource is not None and resource.ended:
        raise ended(resource)
    try:
        return _not_live(client, target, resource, candidates)
    except (NotInstrumented, RegistrationFailed, TargetOffline):
        if resource is None:
            raise
        from sagemaker_ssh_helper.aws import native  # most connections do not come here

        try:
            native_id = native.find(client, resource, node)
        except TargetStarting as starting:
            return Absent(starting, resource)
        if native_id is None:
            raise
        return _native_instance(dataclasses.replace(target, name=resource.name), native_id)


def _not_live(
    client: Client, target: Target, resource: Resource | None, candidates: Sequence[Instance]
) -> Absent:
    """Why none of ``candidates`` is a live instance of ``target``: raised, unless one may come."""
    assert target.kind is not None, "only a named resource can be looked up"
    kind, name, node = target.kind, target.name, target.node_or_first
    others = sorted({instance.node or "algo-1" for instance in candidates if instance.online}, key=rank_of)
    of_node = [instance for instance in candidates if (instance.node or "algo-1") == node]
    if others:
        count = resource.instance_count if resource is not None else None
        if count is not None and rank_of(node) > count:
            raise TargetNotFound(
                f"{name} has no {node}: it has {count} node{'s' if count > 1 else ''}",
                fix=f"Name one of: {', '.join(others)}",
            )
        if not of_node:
            without = resource is not None and resource.instrumented and rank_of(node) > resource.ssh_nodes
            young = not without and any(_is_young(instance) for instance in candidates)
            missing = TargetOffline(
                f"{node} of {name} is not registered", evidence=f"registered: {', '.join(others)}",
                fix="It may still be starting, or be beyond SSH_INSTANCE_COUNT: "
                f"go by another node, then: ssh {node}", may_come=young,
            )  # fmt: skip
            if young:
                return Absent(missing, resource)
            raise missing
    if of_node:
        return _silent(f"{node} of {name} is registered but its agent does not answer", of_node, resource)
    if resource is None:
        raise TargetOffline(
            f"no container of {name} is registered", evidence=_where(client), fix="See: sm-ssh list"
        )
    status = resource.secondary_status or resource.status
    if resource.isolated:
        raise NetworkIsolated(
            f"{name} runs in network isolation: nothing in it can reach Systems Manager",
            evidence=f"status {status}, EnableNetworkIsolation is true",
            fix="Launch it without EnableNetworkIsolation",
        )
    bare = kind is ResourceKind.INFERENCE and status == "InService" and not aliases(client, kind, name)
    if resource.instrumented is False or bare:
        raise NotInstrumented(
            f"{name} runs, but was not started with ssh",
            evidence=f"status {status}, no START_SSH=true in its environment",
            fix=_INSTRUMENT.format(
                enable=f"Turn it on: sm-ssh enable {name}. Or launch"
                if kind is ResourceKind.TRAINING
                else "Launch"
            ),
        )
    said = logs.helper_failure(client, kind, name, node)
    if said:
        raise _unregistered(name, node, said)
    starting = TargetStarting(
        f"{name} is still starting: no container of it has registered yet",
        evidence=f"status {status}{_since(resource.created_at)}",
        fix=f"Try again in a minute; what it does is in its log ({kind.log_group}/{name})",
        may_come=True,
    )
    return Absent(starting, resource)


def _native_instance(target: Target, native_id: InstanceId) -> Instance:
    return Instance(
        id=native_id, ping_status=ONLINE, kind=target.kind, name=target.name, node=target.node_or_first
    )


def _by_other_case(client: Client, target: Target) -> Instance | Absent:
    """The same name in other letters (ssh folds ``%h``), or TargetNotFound with the nearest names."""
    assert target.kind is not None, "only a named resource can be looked up"
    try:
        known = [resource.name for resource in resources.recent(client, target.kind)]
    except SSHHelperError:
        known = []
    same = {name for name in known if name.lower() == target.name.lower() and name != target.name}
    if len(same) == 1:
        return find(client, dataclasses.replace(target, name=same.pop()))
    import difflib  # needed for this message alone

    near = [name for name in known if name.lower().startswith(target.name.lower())]
    by_folded = {name.lower(): name for name in known}
    near += [
        by_folded[name] for name in difflib.get_close_matches(target.name.lower(), by_folded, n=3, cutoff=0.6)
    ]
    near = list(dict.fromkeys(near))[:3]
    similar = ", ".join(Target(kind=target.kind, name=name).fqdn for name in near)
    raise TargetNotFound(
        f"there is no {target.kind.label} {target.name!r}",
        evidence=_where(client),
        fix=f"Did you mean {similar}?"
        if similar
        else f"See what is there: sm-ssh list {target.kind.domain}.{DOMAIN}",
    )


def ended(resource: Resource) -> TargetEnded:
    """What to raise for a resource whose containers are gone."""
    when = f" at {_clock(resource.ended_at)}" if resource.ended_at else ""
    return TargetEnded(
        f"{resource.name} has ended: {resource.status}{when}",
        evidence=resource.failure_reason[:300] or None,
        fix=f"Its containers are gone; its log is in {resource.kind.log_group}",
    )


def _unregistered(name: str, node: str, said: str) -> RegistrationFailed:
    """What kept a container from registering, by the line that the helper in it wrote about that."""
    evidence = f"its log says: {said}"
    if "RegistrationLimitExceeded" in said:
        return RegistrationLimit(
            f"{node} of {name} is not registered: the account has all the managed instances it may have",
            evidence=evidence,
            fix="Deregister those of containers that are gone: sm-ssh deregister --dry-run",
        )
    if "throttl" in said.lower() or "rate exceeded" in said.lower():
        return RegistrationThrottled(
            f"{node} of {name} is not registered: AWS throttled it, and it gave up",
            evidence=evidence,
            fix="Go by another node, then: ssh " + node,
        )
    if "trust policy" in said.lower():
        return RoleNotTrusted(
            f"{node} of {name} is not registered: Systems Manager may not assume its role",
            evidence=evidence,
            fix="Let ssm.amazonaws.com assume that role: docs/how-to/prepare-an-account.md has the statement",
        )
    return RegistrationFailed(
        f"{node} of {name} is not registered: the helper in it failed",
        evidence=evidence,
        fix="Mend that and launch it again",
    )


def _is_young(instance: Instance) -> bool:
    return instance.registered_at is not None and time.time() - instance.registered_at < SETTLING


def _silent(what: str, instances: Sequence[Instance], resource: Resource | None = None) -> Absent:
    """Registered, and no agent answers: raised, unless it registered so lately that one may again."""
    latest = max(instances, key=lambda instance: instance.last_ping_at or 0)
    evidence = f"{latest.id} is {latest.ping_status}"
    if latest.last_ping_at:
        evidence += f", last ping {_clock(latest.last_ping_at)}{_since(latest.last_ping_at)}"
    young = any(_is_young(instance) for instance in instances)
    error = TargetOffline(
        what,
        evidence=evidence,
        fix="The container may have ended, or lost its network or its agent: sm-ssh list",
        may_come=young,
    )
    if young:
        return Absent(error, resource)
    raise error


def _where(client: Client) -> str:
    session = client.session
    return f"region {session.region} from {session.region_origin}" + (
        f", profile {session.profile}" if session.profile else ""
    )


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _since(at: float | None) -> str:
    if at is None:
        return ""
    seconds = max(0, int(time.time() - at))
    if seconds < 120:
        return f", {seconds} s ago"
    return f", {seconds // 60} min ago" if seconds < 7200 else f", {seconds // 3600} h ago"


def _time(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
