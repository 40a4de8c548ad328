"""
How far a resource is on its way from submitted to reachable.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from sagemaker_ssh_helper.aws import instances, logs, resources
from sagemaker_ssh_helper.aws.instances import Instance
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.logs import Event
from sagemaker_ssh_helper.aws.resources import Resource
from sagemaker_ssh_helper.errors import TargetOffline, TargetStarting
from sagemaker_ssh_helper.names import Line
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
    absence: TargetOffline | None = None
    """Why it cannot be reached now, until it is ready."""
    lines: tuple[Event, ...] = ()
    """What the helper in the container wrote since the last look."""


class Watch:
    """
    Looks at one target on its way, with a call to AWS for each look.

    Only the first look, and one that finds that nothing is to be waited for any more, take up to three.
    """

    def __init__(self, client: Client, target: Target) -> None:
        self._client = client
        self.target = target
        self._last: Progress | None = None
        self._turn = 0
        self._told: set[str] = set()

    def look(self) -> Progress:
        """
        Where it is now.

        Raises what ``instances.find`` raises: all that waiting cannot mend.
        """
        if self._last is None:
            self._last = self._first_look()
        else:
            instance, resource = self._look_for_instance, self._look_for_resource
            turns = [resource, resource, instance]
            if self._last.stage is Stage.HELPER:
                turns = [instance, self._look_for_lines, instance, resource]
            self._turn += 1
            self._last = turns[self._turn % len(turns)](self._last)
        return self._last

    def _first_look(self) -> Progress:
        found = instances.find(self._client, self.target)
        if isinstance(found, Instance):
            return Progress(Stage.READY, instance=found)
        return _progress(found.resource, found.error)

    def _look_for_instance(self, last: Progress) -> Progress:
        instance = instances.live(self._client, self.target)
        if instance is not None:
            return Progress(Stage.READY, instance=instance)
        registered = not isinstance(last.absence, TargetStarting)
        # Such a one is only waited for as long as it is young.
        return self._first_look() if registered else replace(last, lines=())

    def _look_for_resource(self, last: Progress) -> Progress:
        assert last.absence is not None, "what is ready is not looked for again"
        if last.resource is None:
            return self._look_for_instance(last)
        resource = resources.describe(self._client, last.resource.kind, last.resource.name)
        if resource is None or resource.ended:
            return self._first_look()
        return _progress(resource, last.absence)

    def _look_for_lines(self, last: Progress) -> Progress:
        if last.resource is None:
            return self._look_for_instance(last)
        written = logs.of_helper(
            self._client, last.resource.kind, last.resource.name, self.target.node_or_first
        )
        if any(Line.NO_SSH in event.message for event in written):
            return self._first_look()
        new = tuple(event for event in written if event.id not in self._told)
        self._told.update(event.id for event in new)
        return replace(last, lines=new)


def _progress(resource: Resource | None, absence: TargetOffline) -> Progress:
    if resource is None or not isinstance(absence, TargetStarting):
        return Progress(Stage.HELPER, resource=resource, absence=absence)
    status = resource.secondary_status or resource.status
    since = next((start for name, start in reversed(resource.transitions) if name == status), None)
    if status in _IMAGE:
        stage = Stage.IMAGE
    elif status in _HELPER or (not resource.secondary_status and status in _NO_SECONDARY):
        stage = Stage.HELPER
    else:
        stage = Stage.INSTANCES
        since = since or resource.created_at
    return Progress(stage, status, since, None, resource, absence)
