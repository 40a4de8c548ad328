"""
How far a resource is on its way from submitted to reachable.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sagemaker_ssh_helper.aws import instances, resources
from sagemaker_ssh_helper.aws.instances import Instance
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.resources import Resource
from sagemaker_ssh_helper.errors import TargetStarting
from sagemaker_ssh_helper.targets import Target


class Stage(enum.Enum):
    """What it waits for now, in this order. Each has: the words once that is done."""

    INSTANCES = "instances prepared"
    IMAGE = "image and data downloaded"
    HELPER = "helper started and online"
    READY = "ready"


# SageMaker's secondary statuses; those it has not told yet mean that there is no instance.
_IMAGE = frozenset(["Downloading", "DownloadingTrainingImage", "PreparingTrainingStack"])
_HELPER = frozenset(["Training", "InService", "Updating", "SystemUpdating"])
_NO_SECONDARY = frozenset(["InProgress"])


@dataclass(frozen=True)
class Progress:
    """What was seen. ``since`` is when the stage began, where AWS tells it: seconds since the epoch."""

    stage: Stage
    status: str = ""
    since: float | None = None
    instance: Instance | None = None
    resource: Resource | None = None


def look(client: Client, target: Target) -> Progress:
    """
    Where it is now: one call when it is ready, two before.

    Raises what ``instances.resolve`` raises except TargetStarting: all that waiting cannot mend.
    """
    try:
        return Progress(Stage.READY, instance=instances.resolve(client, target))
    except TargetStarting:
        pass
    assert target.kind is not None, "only a named resource can be starting"
    resource = resources.describe(client, target.kind, target.name)
    if resource is None:
        return Progress(Stage.INSTANCES)
    status = resource.secondary_status or resource.status
    since = next((start for name, start in reversed(resource.transitions) if name == status), None)
    if status in _IMAGE:
        stage = Stage.IMAGE
    elif status in _HELPER or (not resource.secondary_status and status in _NO_SECONDARY):
        stage = Stage.HELPER
    else:
        stage = Stage.INSTANCES
        since = since or resource.created_at
    return Progress(stage, status, since, None, resource)
