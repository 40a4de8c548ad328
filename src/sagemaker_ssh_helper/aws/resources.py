"""
SageMaker resources: what one is doing, and which are alive. One table for all kinds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.errors import ServiceError, UsageError
from sagemaker_ssh_helper.names import DEFAULT_INSTANCE_COUNT, Env, ResourceKind


@dataclass(frozen=True)
class _Calls:
    """The operations of one kind and the members of their answers."""

    describe: str
    list: str
    summaries: str
    name: str
    """The member holding the name, in requests and in summaries."""
    status: str
    alive: tuple[str, ...]
    """Statuses in which a container may run; for ``list``, the first is the filter."""
    ended: frozenset[str]
    ended_at: str
    arn: str
    stop: str = ""
    """Empty for a kind that can only be deleted."""


_JOB_ENDED = frozenset(["Completed", "Failed", "Stopped"])

_CALLS: Mapping[ResourceKind, _Calls] = {
    ResourceKind.TRAINING: _Calls(
        describe="DescribeTrainingJob",
        list="ListTrainingJobs",
        summaries="TrainingJobSummaries",
        name="TrainingJobName",
        status="TrainingJobStatus",
        alive=("InProgress", "Stopping"),
        ended=_JOB_ENDED,
        ended_at="TrainingEndTime",
        arn="TrainingJobArn",
        stop="StopTrainingJob",
    ),
    ResourceKind.PROCESSING: _Calls(
        describe="DescribeProcessingJob",
        list="ListProcessingJobs",
        summaries="ProcessingJobSummaries",
        name="ProcessingJobName",
        status="ProcessingJobStatus",
        alive=("InProgress", "Stopping"),
        ended=_JOB_ENDED,
        ended_at="ProcessingEndTime",
        arn="ProcessingJobArn",
        stop="StopProcessingJob",
    ),
    ResourceKind.TRANSFORM: _Calls(
        describe="DescribeTransformJob",
        list="ListTransformJobs",
        summaries="TransformJobSummaries",
        name="TransformJobName",
        status="TransformJobStatus",
        alive=("InProgress", "Stopping"),
        ended=_JOB_ENDED,
        ended_at="TransformEndTime",
        arn="TransformJobArn",
        stop="StopTransformJob",
    ),
    ResourceKind.INFERENCE: _Calls(
        describe="DescribeEndpoint",
        list="ListEndpoints",
        summaries="Endpoints",
        name="EndpointName",
        status="EndpointStatus",
        alive=("InService", "Creating", "Updating", "SystemUpdating", "RollingBack"),
        ended=frozenset(["Failed", "OutOfService", "Deleting"]),
        ended_at="LastModifiedTime",
        arn="EndpointArn",
    ),
    ResourceKind.NOTEBOOK: _Calls(
        describe="DescribeNotebookInstance",
        list="ListNotebookInstances",
        summaries="NotebookInstances",
        name="NotebookInstanceName",
        status="NotebookInstanceStatus",
        alive=("InService", "Pending", "Updating"),
        ended=frozenset(["Stopped", "Failed", "Deleting", "Stopping"]),
        ended_at="LastModifiedTime",
        arn="NotebookInstanceArn",
        stop="StopNotebookInstance",
    ),
    # An app is described by four names, which a host name does not always hold: apps are only listed.
    ResourceKind.STUDIO: _Calls(
        describe="",
        list="ListApps",
        summaries="Apps",
        name="AppName",
        status="Status",
        alive=("InService", "Pending"),
        ended=frozenset(),
        ended_at="",
        arn="",
    ),
}

_MISSING = re.compile(r"not found|could not find|does not exist|cannot find", re.IGNORECASE)


@dataclass(frozen=True)
class Resource:
    """
    One SageMaker resource as AWS describes it now.

    Times are seconds since the epoch. ``environment`` is None when this kind's description does not show it.
    """

    kind: ResourceKind
    name: str
    status: str
    secondary_status: str = ""
    failure_reason: str = ""
    created_at: float | None = None
    ended_at: float | None = None
    instance_count: int | None = None
    arn: str = ""
    environment: Mapping[str, str] | None = field(default=None, repr=False)
    instance_type: str = ""
    stops_at: float | None = None
    """When SageMaker stops it, if it has started and has a longest run time."""
    isolated: bool = False
    """Whether its containers have no network: not even AWS's services."""
    remote_debug: bool = False
    """Whether SageMaker itself lets Session Manager into its containers."""
    transitions: tuple[tuple[str, float], ...] = ()
    """The secondary statuses so far, and when each began."""

    @property
    def ended(self) -> bool:
        """Whether no container of it runs any more."""
        return self.status in _CALLS[self.kind].ended

    @property
    def instrumented(self) -> bool | None:
        """Whether it was launched with ssh; None when that cannot be seen."""
        if self.environment is None:
            return None
        return self.environment.get(Env.START_SSH, "").lower() == "true"

    @property
    def ssh_nodes(self) -> int:
        """How many of its nodes were told to start ssh; 0 when that cannot be seen."""
        if not self.instrumented:
            return 0
        there = self.instance_count or 1
        wanted = (self.environment or {}).get(Env.INSTANCE_COUNT, "").strip().lower()
        if wanted == "all":
            return there
        return min(there, int(wanted) if wanted.isdecimal() else DEFAULT_INSTANCE_COUNT)

    @property
    def launch_id(self) -> str | None:
        """The launch id it was launched with."""
        return (self.environment or {}).get(Env.LAUNCH_ID)


def description(client: Client, operation: str, **names: str) -> dict[str, Any] | None:
    """What a ``Describe…`` of SageMaker answers, or None when there is no such thing. Raises AwsError."""
    try:
        return client.call("sagemaker", operation, **names)
    except ServiceError as error:
        if error.code in ("ResourceNotFound", "ResourceNotFoundException"):
            return None
        if error.code == "ValidationException" and _MISSING.search(error.evidence or ""):
            return None
        raise


def describe(client: Client, kind: ResourceKind, name: str) -> Resource | None:
    """
    The resource, or None when there is no such one in this account and region.

    Raises AwsError (AccessDenied among them). Kinds that cannot be described by one name give None.
    """
    calls = _CALLS[kind]
    if not calls.describe:
        return None
    answer = description(client, calls.describe, **{calls.name: name})
    if answer is None:
        return None
    shape = (
        answer.get("ResourceConfig") or (answer.get("ProcessingResources") or {}).get("ClusterConfig") or {}
    )
    shape = shape or answer.get("TransformResources") or {}
    # A heterogeneous cluster has groups of nodes, each of its own type.
    groups = shape.get("InstanceGroups") or [shape]
    counts = [group["InstanceCount"] for group in groups if "InstanceCount" in group]
    return Resource(
        kind=kind,
        name=str(answer.get(calls.name, name)),
        status=str(answer.get(calls.status, "")),
        secondary_status=str(answer.get("SecondaryStatus", "")),
        failure_reason=" ".join(str(answer.get("FailureReason", "")).split()),
        created_at=_time(answer.get("CreationTime")),
        ended_at=_time(answer.get(calls.ended_at)),
        instance_count=sum(counts) if counts else None,
        arn=str(answer.get(calls.arn, "")),
        # Those of an endpoint and of a transform job stand in their models, a notebook's nowhere.
        environment=(answer.get("Environment") or {})
        if kind in (ResourceKind.TRAINING, ResourceKind.PROCESSING)
        else None,
        instance_type=", ".join(dict.fromkeys(str(group.get("InstanceType", "")) for group in groups)),
        isolated=bool({**answer, **(answer.get("NetworkConfig") or {})}.get("EnableNetworkIsolation")),
        remote_debug=bool((answer.get("RemoteDebugConfig") or {}).get("EnableRemoteDebug")),
        stops_at=_stops_at(answer),
        transitions=tuple(
            (str(entry.get("Status", "")), float(entry["StartTime"]))
            for entry in answer.get("SecondaryStatusTransitions") or ()
            if _time(entry.get("StartTime")) is not None
        ),
    )


def hosted_launch_ids(client: Client, endpoint_name: str) -> list[str]:
    """
    The launch ids of the models that an endpoint serves: three calls. Empty when there is no such endpoint.

    A container of an endpoint is not told the endpoint's name, so it goes by the launch id in its model's
    environment. Raises AwsError (AccessDenied among them).
    """
    try:
        endpoint = client.call("sagemaker", "DescribeEndpoint", EndpointName=endpoint_name)
        config_name = endpoint.get("EndpointConfigName")
        if not config_name:
            # Nothing is deployed to it yet.
            return []
        config = client.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=config_name)
        variants = config.get("ProductionVariants") or ()
        return _models_launch_ids(client, [str(variant.get("ModelName") or "") for variant in variants])
    except ServiceError as error:
        if error.code == "ValidationException" and _MISSING.search(error.evidence or ""):
            return []
        raise


def transform_launch_ids(client: Client, job_name: str) -> list[str]:
    """The launch id of the model that a transform job runs: two calls; otherwise as hosted_launch_ids."""
    try:
        job = client.call("sagemaker", "DescribeTransformJob", TransformJobName=job_name)
        return _models_launch_ids(client, [str(job.get("ModelName") or "")])
    except ServiceError as error:
        if error.code == "ValidationException" and _MISSING.search(error.evidence or ""):
            return []
        raise


def model_environments(client: Client, name: str) -> list[Mapping[str, str]] | None:
    """The environments of a model's containers; None when there is no such model. Raises AwsError."""
    model = description(client, "DescribeModel", ModelName=name)
    if model is None:
        return None
    containers = [model.get("PrimaryContainer") or {}, *(model.get("Containers") or ())]
    return [container.get("Environment") or {} for container in containers]


def _models_launch_ids(client: Client, names: list[str]) -> list[str]:
    environments = [
        environment
        for name in dict.fromkeys(names)
        if name
        for environment in model_environments(client, name) or ()
    ]
    found = [environment.get(Env.LAUNCH_ID) for environment in environments]
    return [str(launch_id) for launch_id in dict.fromkeys(found) if launch_id]


def stop(client: Client, kind: ResourceKind, name: str) -> None:
    """Ask SageMaker to stop it; that takes a while. Raises UsageError for a kind with no stop, AwsError."""
    calls = _CALLS[kind]
    if not calls.stop:
        raise UsageError(
            f"{article(kind)} cannot be stopped, only deleted",
            fix="Delete it in the console, or by your tools",
        )
    client.call("sagemaker", calls.stop, **{calls.name: name})


def article(kind: ResourceKind) -> str:
    """The kind's label with its article."""
    return f"{'an' if kind.label[0] in 'aeiou' else 'a'} {kind.label}"


def _stops_at(answer: Mapping[str, Any]) -> float | None:
    started_at = _time(answer.get("TrainingStartTime") or answer.get("ProcessingStartTime"))
    longest = (answer.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds")
    return started_at + float(longest) if started_at is not None and longest else None


def alive(client: Client, kind: ResourceKind) -> Iterator[Resource]:
    """The resources of a kind whose containers may run now, newest first. Raises AwsError."""
    calls = _CALLS[kind]
    filters = _newest_first(kind)
    if kind is not ResourceKind.STUDIO:
        filters["StatusEquals"] = calls.alive[0]
    for summary in client.pages("sagemaker", calls.list, calls.summaries, **filters):
        if str(summary.get(calls.status, "")) in calls.alive:
            yield _of_summary(kind, calls, summary)


def recent(client: Client, kind: ResourceKind) -> list[Resource]:
    """The hundred newest resources of a kind, whatever they do: one call. Raises AwsError."""
    calls = _CALLS[kind]
    answer = client.call("sagemaker", calls.list, **_newest_first(kind))
    return [_of_summary(kind, calls, summary) for summary in answer.get(calls.summaries) or ()]


def _newest_first(kind: ResourceKind) -> dict[str, Any]:
    if kind is ResourceKind.STUDIO:  # where AWS's own order is by time
        return {"MaxResults": 100}
    return {"MaxResults": 100, "SortBy": "CreationTime", "SortOrder": "Descending"}


def _of_summary(kind: ResourceKind, calls: _Calls, summary: Mapping[str, Any]) -> Resource:
    return Resource(
        kind=kind,
        name=str(summary.get(calls.name, "")),
        status=str(summary.get(calls.status, "")),
        created_at=_time(summary.get("CreationTime")),
        ended_at=_time(summary.get(calls.ended_at)),
        arn=str(summary.get(calls.arn, "")),
    )


def _time(value: Any) -> float | None:
    """Seconds since the epoch: AWS's JSON has them as a number."""
    return float(value) if isinstance(value, (int, float)) else None
