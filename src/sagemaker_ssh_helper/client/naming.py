"""
From a name as people type it, ``my-jo`` or ``algo-2.my-job``, to the one target that it means.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sagemaker_ssh_helper.aws import resources, together
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.resources import Resource
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    AmbiguousTarget,
    AwsError,
    SSHHelperError,
    TargetNotFound,
    WrongRegion,
)
from sagemaker_ssh_helper.names import DOMAIN, ResourceKind
from sagemaker_ssh_helper.targets import Target

_SHOWN = 8  # candidates in one message

_T = TypeVar("_T")


def find(client: Client, name: str, node: str | None = None) -> Target:
    """
    The one resource that is called ``name``, or is the only one whose name begins with it.

    A call per kind, all at once. What is alive comes before what has ended; the whole name before a
    beginning, in the same letters before other ones. Raises AmbiguousTarget with the candidates,
    TargetNotFound with similar names, WrongRegion with the regions that have it, AccessDenied when it is not
    among what may be listed, AwsError.
    """
    denied: dict[ResourceKind, AccessDenied] = {}
    alive = _of_all_kinds(lambda kind: list(resources.alive(client, kind)), denied)
    found = _best(alive, name)
    if not found:
        recent = _of_all_kinds(lambda kind: resources.recent(client, kind), denied)
        found = _best(recent, name)
        if not found:
            error = _not_found(client, name, [*alive, *recent])
            if denied and not isinstance(error, WrongRegion):
                raise _not_seen(name, denied) from error
            raise error
    if len(found) > 1:
        hosts = [_host(resource) for resource in found]
        more = f" and {len(hosts) - _SHOWN} more" if len(hosts) > _SHOWN else ""
        raise AmbiguousTarget(
            f"{name!r} is the beginning of {len(hosts)} names: {', '.join(hosts[:_SHOWN])}{more}",
            fix="Type more of it",
        )
    return Target(kind=found[0].kind, name=found[0].name, node=node)


def located(error: TargetNotFound, session: Session, target: Target) -> TargetNotFound:
    """
    The same error, or WrongRegion with the other configured regions that have a resource of this name.

    Regions that do not answer are left out: they are not what the user asked about.
    """
    if target.kind is None:
        return error
    return _with_regions(error, regions_with(session, target.kind, target.name), target.fqdn)


def regions_with(session: Session, kind: ResourceKind, name: str) -> list[str]:
    """The other configured regions that have a resource of this name."""
    return _regions_with(session, lambda client: resources.describe(client, kind, name) is not None)


def described(boto_session: Any, kind: ResourceKind, name: str) -> Resource:
    """
    What AWS says of a resource now, for a program with a boto3 session.

    Raises TargetNotFound when it is not there: WrongRegion when another configured region has it. AwsError.
    """
    client = Client(Session.from_boto3(boto_session))
    if kind is ResourceKind.STUDIO:
        # An app is described by four names, and listed by its own.
        found = next((each for each in resources.alive(client, kind) if each.name == name), None)
    else:
        found = resources.describe(client, kind, name)
    if found is not None:
        return found
    what = f"there is no {kind.label} {name!r} in {client.session.region}"
    regions = regions_with(client.session, kind, name)
    if regions:
        raise elsewhere(what, regions[0])
    raise TargetNotFound(what, fix=f"See what is there: sm-ssh list {kind.domain}.{DOMAIN}")


def elsewhere(what: str, region: str) -> WrongRegion:
    """What to raise for a resource that is in another region than the session."""
    return WrongRegion(
        what,
        evidence=f"it is in {region}",
        fix=f"Give a session of that region: boto3.Session(region_name={region!r})",
    )


def _not_seen(name: str, denied: Mapping[ResourceKind, AccessDenied]) -> AccessDenied:
    """The name is not among what may be listed; nobody knows whether it is among the rest."""
    unseen = ", ".join(kind.label for kind in ResourceKind if kind in denied)
    said = next(iter(denied.values())).evidence
    whole = f"{name}.{next(iter(denied)).domain}.{DOMAIN}"
    return AccessDenied(
        f"nothing that you may list is called {name!r}, or begins with that",
        evidence=f"you may not list these kinds: {unseen}; {said}",
        fix=f"Ask for that right, or give the whole name, like {whole}",
    )


def _not_found(client: Client, name: str, known: Sequence[Resource]) -> TargetNotFound:
    by_folded = {resource.name.lower(): resource for resource in known}
    near = difflib.get_close_matches(name.lower(), by_folded, n=3, cutoff=0.6)
    # A name that SageMaker made ends in a time: what was typed is to be compared with its beginning too.
    beginnings = {folded[: len(name)]: folded for folded in by_folded}
    near += [
        beginnings[part] for part in difflib.get_close_matches(name.lower(), beginnings, n=3, cutoff=0.75)
    ]
    similar = ", ".join(dict.fromkeys(_host(by_folded[folded]) for folded in near))
    session = client.session
    error = TargetNotFound(
        f"no job, endpoint, notebook or app is called {name!r}, or begins with that",
        evidence=f"region {session.region} from {session.region_origin}"
        + (f", profile {session.profile}" if session.profile else ""),
        fix=f"Did you mean {similar}?" if similar else "See what is there: sm-ssh list",
    )
    regions = _regions_with(
        session,
        lambda other: bool(_best(_of_all_kinds(lambda kind: list(resources.alive(other, kind))), name)),
    )
    return _with_regions(error, regions, name)


def _with_regions(error: TargetNotFound, regions: Sequence[str], typed: str) -> TargetNotFound:
    if not regions:
        return error
    return WrongRegion(
        error.what,
        evidence=f"{error.evidence}; there is one in {', '.join(regions)}",
        fix=f"Try: sm-ssh connect --region {regions[0]} {typed}",
    )


def _regions_with(session: Session, has: Callable[[Client], bool]) -> list[str]:
    def look(region: str) -> bool:
        try:
            return has(Client(session.in_region(region), attempts=1))
        except SSHHelperError:
            return False

    regions = session.other_regions()
    if not regions:
        return []
    with ThreadPoolExecutor(8) as pool:
        return [region for region, there in zip(regions, pool.map(look, regions), strict=True) if there]


def _of_all_kinds(
    listed: Callable[[ResourceKind], Iterable[_T]], denied: dict[ResourceKind, AccessDenied] | None = None
) -> list[_T]:
    """
    What ``listed`` gives for each kind; a kind that cannot be listed is left out if another one can. Those
    that may not be listed are put into ``denied``.
    """
    errors: list[AwsError] = []

    def tried(kind: ResourceKind) -> Iterable[_T]:
        try:
            return listed(kind)
        except AwsError as error:
            if denied is not None and isinstance(error, AccessDenied):
                denied[kind] = error
            errors.append(error)
            return ()

    found = [item for items in together.each(tried, ResourceKind) for item in items]
    if len(errors) == len(ResourceKind):
        raise errors[0]
    return found


def _best(known: Iterable[Resource], name: str) -> list[Resource]:
    """Those of the first rule that any of them fits; several when they are equally good."""
    folded = name.lower()
    once = {(resource.kind, resource.name): resource for resource in known}.values()
    rules: tuple[Callable[[str], bool], ...] = (
        lambda known_name: known_name == name,
        lambda known_name: known_name.lower() == folded,
        lambda known_name: known_name.startswith(name),
        lambda known_name: known_name.lower().startswith(folded),
    )
    for rule in rules:
        found = [resource for resource in once if rule(resource.name)]
        if found:
            return found
    return []


def _host(resource: Resource) -> str:
    return Target(kind=resource.kind, name=resource.name).fqdn
