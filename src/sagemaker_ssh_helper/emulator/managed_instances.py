"""
Managed instances: who is registered, what they last said, and the filters that find them.
"""

import bisect
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sagemaker_ssh_helper.emulator.paging import decode_token, encode_token
from sagemaker_ssh_helper.emulator.service import ApiError

# Numbers of the service.
MAX_FILTER_VALUES = 100

ONLINE = "Online"
CONNECTION_LOST = "ConnectionLost"


@dataclass
class PingTiming:
    """
    When an instance counts as lost. The service's own thresholds are not public; these are chosen so that
    tests need not wait, and are a switch (``ping-status``).
    """

    grace: float = 5.0
    """Seconds after its control channel closed; an agent that reconnects takes up to 2.5."""
    window: float = 900.0
    """Seconds after a ping that no control channel stood behind; agents ping every 300."""


@dataclass
class ManagedInstance:
    """
    One machine. ``*_at`` are seconds since the Unix epoch.

    ``public_key`` is DER SubjectPublicKeyInfo in base64; ``channel_closed_at`` is None before the first
    control channel closed.
    """

    id: str
    serial: int
    activation_id: str
    name: str
    iam_role: str
    role_arn: str
    fingerprint: str
    public_key: str = field(repr=False)
    registered_at: float
    tags: dict[str, str]
    agent_name: str = ""
    agent_version: str = ""
    platform_type: str = ""
    platform_name: str = ""
    platform_version: str = ""
    computer_name: str = ""
    ip_address: str = ""
    connection_channel: str = ""
    pinged_at: float | None = None
    connected: bool = False
    channel_closed_at: float | None = None

    def update(self, information: Mapping[str, Any], now: float) -> None:
        """Take over what UpdateInstanceInformation says; keys that are missing or empty change nothing."""
        for key, attribute in _INFORMATION.items():
            value = information.get(key)
            if isinstance(value, str) and value:
                setattr(self, attribute, value[:256])
        self.pinged_at = now

    def ping_status(self, now: float, timing: PingTiming) -> str:
        """``Online`` or ``ConnectionLost``; docs/reference/local-cloud-ssm.md says when."""
        if self.connected:
            return ONLINE
        if self.channel_closed_at is not None and now - self.channel_closed_at < timing.grace:
            return ONLINE
        if self.pinged_at is None or now - self.pinged_at >= timing.window:
            return CONNECTION_LOST
        # A ping older than the loss of the channel says nothing about the time after it.
        if self.channel_closed_at is not None and self.pinged_at <= self.channel_closed_at:
            return CONNECTION_LOST
        return ONLINE


_INFORMATION = {
    "AgentName": "agent_name",
    "AgentVersion": "agent_version",
    "PlatformType": "platform_type",
    "PlatformName": "platform_name",
    "PlatformVersion": "platform_version",
    "ComputerName": "computer_name",
    "IPAddress": "ip_address",
    "SSMConnectionChannel": "connection_channel",
}


Predicate = Callable[[ManagedInstance], bool]


class ManagedInstances:
    """
    Every registered instance, by id, by tag, and in the order of registration.

    Tags are changed through :meth:`set_tags` only, because there is an index.
    """

    def __init__(self) -> None:
        self._instances: dict[str, ManagedInstance] = {}
        self._ordered: list[ManagedInstance] = []
        self._by_tag: dict[str, dict[str, dict[str, ManagedInstance]]] = {}
        self._last_serial = 0

    def __len__(self) -> int:
        return len(self._instances)

    def __iter__(self) -> Iterator[ManagedInstance]:
        return iter(self._ordered)

    def get(self, instance_id: str) -> ManagedInstance | None:
        """The instance, or None."""
        return self._instances.get(instance_id)

    def register(
        self,
        *,
        activation_id: str,
        name: str,
        iam_role: str,
        role_arn: str,
        fingerprint: str,
        public_key: str,
        tags: Mapping[str, str],
        now: float,
    ) -> ManagedInstance:
        """A new instance with a new id."""
        self._last_serial += 1
        instance = ManagedInstance(
            id=f"mi-{secrets.token_hex(9)[:17]}",
            serial=self._last_serial,
            activation_id=activation_id,
            name=name,
            iam_role=iam_role,
            role_arn=role_arn,
            fingerprint=fingerprint,
            public_key=public_key,
            registered_at=now,
            tags={},
        )
        self._instances[instance.id] = instance
        self._ordered.append(instance)
        self.set_tags(instance, tags)
        return instance

    def remove(self, instance: ManagedInstance) -> None:
        """Forget an instance."""
        self.set_tags(instance, {})
        del self._instances[instance.id]
        del self._ordered[bisect.bisect_left(self._ordered, instance.serial, key=_serial)]

    def set_tags(self, instance: ManagedInstance, tags: Mapping[str, str]) -> None:
        """Replace the tags of an instance."""
        for key, value in instance.tags.items():
            values = self._by_tag[key]
            del values[value][instance.id]
            if not values[value]:
                del values[value]
            if not values:
                del self._by_tag[key]
        instance.tags = dict(tags)
        for key, value in tags.items():
            self._by_tag.setdefault(key, {}).setdefault(value, {})[instance.id] = instance

    def with_tag(self, key: str, values: Iterable[str] | None = None) -> dict[str, ManagedInstance]:
        """The instances that have this tag, with one of these values if any are given."""
        by_value = self._by_tag.get(key, {})
        found: dict[str, ManagedInstance] = {}
        for value in by_value if values is None else values:
            found.update(by_value.get(value, {}))
        return found

    def by_tags(self, filters: Sequence[tuple[str, Sequence[str]]]) -> list[ManagedInstance]:
        """
        The instances that fit every filter, in the order of registration. A filter is ``("tag:KEY",
        values)`` or ``("tag-key", keys)``; one of its values has to fit.
        """
        found: dict[str, ManagedInstance] | None = None
        for name, values in filters:
            if name == "tag-key":
                matches: dict[str, ManagedInstance] = {}
                for key in values:
                    matches.update(self.with_tag(key))
            else:
                matches = self.with_tag(name.removeprefix("tag:"), values)
            found = matches if found is None else {i: m for i, m in found.items() if i in matches}
        return sorted((found or {}).values(), key=_serial)

    def select(
        self, filters: Sequence[tuple[str, Sequence[str]]], now: float, timing: PingTiming
    ) -> Sequence[ManagedInstance]:
        """
        The instances that fit every filter of DescribeInstanceInformation, in the order of registration.

        Raises:
            ApiError: ``InvalidFilterKey``, or ``ValidationException`` for a filter on tags beside one on
            something else.
        """
        for _, values in filters:
            if not 1 <= len(values) <= MAX_FILTER_VALUES:
                raise ApiError("InvalidInstanceInformationFilterValue", "A filter needs 1 to 100 values.")
        tag_filters = [item for item in filters if _is_tag_filter(item[0])]
        if tag_filters:
            if len(tag_filters) < len(filters):
                raise ApiError(
                    "ValidationException", "Tag filters can't be combined with other filter types."
                )
            return self.by_tags(tag_filters)
        predicates = [_predicate(name, frozenset(values), now, timing) for name, values in filters]
        if not predicates:
            return self._ordered
        if filters[0][0] == "InstanceIds":
            named = (self._instances.get(instance_id) for instance_id in dict.fromkeys(filters[0][1]))
            candidates = sorted((instance for instance in named if instance is not None), key=_serial)
        else:
            candidates = self._ordered
        return [instance for instance in candidates if all(fits(instance) for fits in predicates)]


def page(
    instances: Sequence[ManagedInstance], size: int, next_token: str | None
) -> tuple[Sequence[ManagedInstance], str | None]:
    """
    The next ``size`` of them, and the token for those after. Instances that come or go in between shift
    nothing.

    Raises:
        ApiError: ``InvalidNextToken``.
    """
    after = decode_token(next_token) if next_token else 0
    start = bisect.bisect_right(instances, after, key=_serial)
    selected = instances[start : start + size]
    if start + size >= len(instances):
        return selected, None
    return selected, encode_token(selected[-1].serial)


def _serial(instance: ManagedInstance) -> int:
    return instance.serial


def _is_tag_filter(name: str) -> bool:
    return name == "tag-key" or name.startswith("tag:")


def _predicate(name: str, values: frozenset[str], now: float, timing: PingTiming) -> Predicate:
    make = _FILTERS.get(name)
    if make is None:
        raise ApiError("InvalidFilterKey", f"The filter key {name} isn't valid.")
    return make(values, now, timing)


def _equals(
    read: Callable[[ManagedInstance], str],
) -> Callable[[frozenset[str], float, PingTiming], Predicate]:
    return lambda values, now, timing: lambda instance: read(instance) in values


_FILTERS: Mapping[str, Callable[[frozenset[str], float, PingTiming], Predicate]] = {
    "InstanceIds": _equals(lambda instance: instance.id),
    "AgentVersion": _equals(lambda instance: instance.agent_version),
    "PlatformTypes": _equals(lambda instance: instance.platform_type),
    "ActivationIds": _equals(lambda instance: instance.activation_id),
    "IamRole": _equals(lambda instance: instance.iam_role),
    "ResourceType": _equals(lambda instance: "ManagedInstance"),
    "SourceIds": _equals(lambda instance: instance.id),
    "SourceTypes": _equals(lambda instance: "AWS::SSM::ManagedInstance"),
    # No associations are ever run here, so no instance has a status of them.
    "AssociationStatus": _equals(lambda instance: ""),
    "PingStatus": lambda values, now, timing: lambda instance: instance.ping_status(now, timing) in values,
}
