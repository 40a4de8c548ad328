"""
The nodes of a training job: how many, of which instance group, and which of them a channel is for. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sagemaker_ssh_helper.emulator.resource_table import invalid
from sagemaker_ssh_helper.names import node_name

DEFAULT_GROUP = "homogeneousCluster"
"""SageMaker's name for the instance group of a job that names none."""

MAX_NODES = 64
"""How many nodes a job may have here: each is several processes on one machine."""


@dataclass(frozen=True)
class InstanceGroup:
    """Nodes of one instance type, by their host names."""

    name: str
    instance_type: str
    hosts: list[str]

    def describe(self) -> dict[str, Any]:
        """Its entry in ``resourceconfig.json``."""
        return {
            "instance_group_name": self.name,
            "instance_type": self.instance_type,
            "hosts": self.hosts,
        }


def check(request: Mapping[str, Any]) -> None:
    """Raise ApiError for a ResourceConfig, or groups of a channel, that SageMaker or this cloud refuses."""
    resources = request.get("ResourceConfig", {})
    asked = resources.get("InstanceGroups", ())
    single = [name for name in ("InstanceType", "InstanceCount") if name in resources]
    if asked and single:
        raise invalid(f"ResourceConfig must not have both InstanceGroups and {single[0]}.")
    if not asked and len(single) < 2:
        raise invalid("ResourceConfig must have InstanceType and InstanceCount.")
    names = [group["InstanceGroupName"] for group in asked]
    if len(set(names)) < len(names):
        raise invalid("Every name in ResourceConfig.InstanceGroups must be unique.")
    counts = [group["InstanceCount"] for group in asked or [resources]]
    if min(counts) < 1:
        raise invalid("ResourceConfig.InstanceCount must be greater than or equal to 1.")
    if sum(counts) > MAX_NODES:
        raise invalid(f"The local cloud runs jobs of at most {MAX_NODES} instances.")
    for channel in request.get("InputDataConfig", ()):
        for name in channel["DataSource"].get("S3DataSource", {}).get("InstanceGroupNames", ()):
            if name not in names:
                raise invalid(f"The channel {channel['ChannelName']} names no instance group: {name}.")


def groups_of(resources: Mapping[str, Any]) -> list[InstanceGroup]:
    """The groups of a checked ResourceConfig; ``algo-1`` is the first node of the first."""
    asked = resources.get("InstanceGroups") or [{"InstanceGroupName": DEFAULT_GROUP, **resources}]
    groups: list[InstanceGroup] = []
    rank = 0
    for group in asked:
        hosts = [node_name(rank + number) for number in range(group["InstanceCount"])]
        groups.append(InstanceGroup(group["InstanceGroupName"], group["InstanceType"], hosts))
        rank += len(hosts)
    return groups


def hosts_of_channel(channel: Mapping[str, Any], groups: list[InstanceGroup]) -> list[str]:
    """The nodes that get a channel: those of the groups it names, else all."""
    names = channel["DataSource"]["S3DataSource"].get("InstanceGroupNames")
    return [host for group in groups if not names or group.name in names for host in group.hosts]
