"""
SageMaker's own roads to a container: targets of Session Manager that need no helper in it.

A training job has one while remote debugging is on, an endpoint when its variant was created with
``EnableSSMAccess`` in an account that AWS has allowed to. Others (HyperPod, spaces) are named by the user.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.resources import Resource
from sagemaker_ssh_helper.aws_errors import Kind, kind_of
from sagemaker_ssh_helper.errors import AccessDenied, InstanceNotValid, ServiceError, TargetStarting
from sagemaker_ssh_helper.names import (
    InstanceId,
    ResourceKind,
    endpoint_target,
    node_name,
    training_target,
)
from sagemaker_ssh_helper.targets import rank_of

DEBUGGABLE = frozenset({"Downloading", "Training"})
"""Secondary statuses in which remote debugging can be turned on or off, by UpdateTrainingJob's reference."""

_INTERVAL = 1.0


def find(client: Client, resource: Resource, node: str) -> InstanceId | None:
    """
    The native target of one container; None when the resource has none.

    No call for a training job. Two and a look at its log streams for an endpoint, and where those tell more
    instances than it has, one for each until the live ones are known.
    Raises TargetStarting when there will be one soon, AwsError.
    """
    if resource.kind is ResourceKind.TRAINING and resource.remote_debug:
        if resource.secondary_status not in DEBUGGABLE:
            raise TargetStarting(
                f"{resource.name} is still starting",
                evidence=f"status {resource.secondary_status or resource.status}",
                fix="Try again in a minute",
                may_come=True,
            )
        if resource.instance_count is None or rank_of(node) <= resource.instance_count:
            return InstanceId(training_target(resource.name, node))
    if resource.kind is ResourceKind.INFERENCE and resource.status == "InService":
        found = _of_endpoint(client, resource.name)
        return found[rank_of(node) - 1] if rank_of(node) <= len(found) else None
    return None


def nodes(client: Client, resource: Resource, *, coming: bool) -> list[str]:
    """
    The nodes of a resource that are native targets, or with ``coming`` will be.

    Calls as in ``find``. Raises AwsError.
    """
    count = 0
    if resource.kind is ResourceKind.TRAINING and resource.remote_debug:
        if coming or resource.secondary_status in DEBUGGABLE:
            count = resource.instance_count or 1
    elif resource.kind is ResourceKind.INFERENCE and resource.status == "InService":
        count = len(_of_endpoint(client, resource.name))
    return [node_name(rank) for rank in range(count)]


def set_remote_debug(client: Client, job_name: str, on: bool) -> None:
    """Turn a training job's remote debugging on or off. Raises AwsError."""
    client.call(
        "sagemaker",
        "UpdateTrainingJob",
        TrainingJobName=job_name,
        RemoteDebugConfig={"EnableRemoteDebug": on},
    )


def wait_connected(
    client: Client,
    target: str,
    timeout: float,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """
    Whether the service's agent behind a native target was there within ``timeout`` seconds.

    Who may not ask is told that it was, and so is everybody where the service knows no such question for such
    a target: the session that is started then says what is true. Raises AwsError.
    """
    deadline = monotonic() + timeout
    while True:
        try:
            status = client.call("ssm", "GetConnectionStatus", Target=target).get("Status")
        except (AccessDenied, InstanceNotValid):
            return True
        except ServiceError as error:
            if kind_of(error.code) is Kind.PERMANENT:
                return True
            raise
        if str(status).lower() == "connected":
            return True
        if monotonic() + _INTERVAL > deadline:
            return False
        sleep(_INTERVAL)


def _of_endpoint(client: Client, name: str) -> list[InstanceId]:
    """The targets of an endpoint's instances that take sessions, in the order in which they came."""
    try:
        endpoint = client.call("sagemaker", "DescribeEndpoint", EndpointName=name)
        config_name = endpoint.get("EndpointConfigName")
        config = client.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=config_name)
        variants = {
            str(variant.get("VariantName"))
            for variant in config.get("ProductionVariants") or ()
            if variant.get("EnableSSMAccess")
        }
        if not variants:
            return []
        group = f"{ResourceKind.INFERENCE.log_group}/{name}"
        # Nothing but the log streams, VARIANT/i-…, tells the instances of an endpoint.
        streams = list(
            client.call(
                "logs", "DescribeLogStreams", logGroupName=group, orderBy="LastEventTime", descending=True
            ).get("logStreams")
            or ()
        )
    except (AccessDenied, ServiceError):
        return []
    began_at: dict[InstanceId, float] = {}
    for stream in streams:
        variant, _, rest = str(stream.get("logStreamName", "")).partition("/")
        instance_id = rest.partition("/")[0]
        if variant in variants and instance_id.startswith("i-"):
            target = InstanceId(endpoint_target(name, variant, instance_id))
            stream_began_at = float(stream.get("creationTime") or 0)
            began_at[target] = min(stream_began_at, began_at.get(target, stream_began_at))
    counts = [
        int(variant.get("CurrentInstanceCount") or 0)
        for variant in endpoint.get("ProductionVariants") or ()
        if variant.get("VariantName") in variants
    ]
    live = _connected(client, list(began_at), sum(counts)) if sum(counts) else list(began_at)
    return sorted(live, key=lambda target: began_at[target])


def _connected(client: Client, targets: Sequence[InstanceId], count: int) -> list[InstanceId]:
    """Those ``count`` that are connected now: logs outlive the instances. No call when that many are left."""
    found: list[InstanceId] = []
    for position, target in enumerate(targets):
        needed = count - len(found)
        if needed <= 0:
            break
        if len(targets) - position <= needed or wait_connected(client, target, 0):
            found.append(target)
    return found
