"""
Addresses of pages in the AWS console, in the partition of a region.
"""

from __future__ import annotations

from sagemaker_ssh_helper.aws.session import partition_of
from sagemaker_ssh_helper.names import ResourceKind

_HOSTS = {"aws-cn": "console.amazonaws.cn", "aws-us-gov": "console.amazonaws-us-gov.com"}

_PAGES = {
    ResourceKind.TRAINING: "jobs",
    ResourceKind.PROCESSING: "processing-jobs",
    ResourceKind.TRANSFORM: "transform-jobs",
    ResourceKind.INFERENCE: "endpoints",
    ResourceKind.NOTEBOOK: "notebook-instances",
    ResourceKind.STUDIO: "studio",
}


def resource_url(region: str, kind: ResourceKind, name: str) -> str:
    """The page of a resource."""
    return f"{_console(region)}/sagemaker/home?region={region}#/{_PAGES[kind]}/{name}"


def log_url(region: str, kind: ResourceKind, name: str) -> str:
    """The page of what its containers wrote: an endpoint has a log group of its own, others have streams."""
    group = kind.log_group or ""
    if kind is ResourceKind.INFERENCE:
        place = f"{group}/{name}".replace("/", "$252F")
    else:
        place = f"{group.replace('/', '$252F')}$3FlogStreamNameFilter$3D{name}"
    return f"{_console(region)}/cloudwatch/home?region={region}#logsV2:log-groups/log-group/{place}"


def _console(region: str) -> str:
    return f"https://{region}.{_HOSTS.get(partition_of(region).name, 'console.aws.amazon.com')}"
