"""
Addresses of pages in the AWS console, in the partition of a region.
"""

from __future__ import annotations

import re

from sagemaker_ssh_helper.aws.session import partition_of
from sagemaker_ssh_helper.errors import UsageError
from sagemaker_ssh_helper.names import ResourceKind
from sagemaker_ssh_helper.targets import Target

_HOSTS = {"aws-cn": "console.amazonaws.cn", "aws-us-gov": "console.amazonaws-us-gov.com"}

_PAGES = {
    ResourceKind.TRAINING: "jobs",
    ResourceKind.PROCESSING: "processing-jobs",
    ResourceKind.TRANSFORM: "transform-jobs",
    ResourceKind.INFERENCE: "endpoints",
    ResourceKind.NOTEBOOK: "notebook-instances",
    ResourceKind.STUDIO: "studio",
}


_RESOURCE_URL = re.compile(
    r"https://(?:[a-z0-9-]+\.)?(?:console\.aws\.amazon\.com|console\.amazonaws\.cn|console\.amazonaws-us-gov\.com)"
    r"/sagemaker/home\?(?:[^#]*&)?region=(?P<region>[a-z0-9-]+)[^#]*#/(?P<page>[a-z-]+)/(?P<name>[A-Za-z0-9-]+)"
)


def of_resource_url(url: str) -> tuple[Target, str]:
    """The target whose page this is, and its region. Raises UsageError for any other address."""
    found = _RESOURCE_URL.match(url)
    kinds = {page: kind for kind, page in _PAGES.items() if kind is not ResourceKind.STUDIO}
    if found is None or found["page"] not in kinds:
        raise UsageError(
            f"{url!r} is no page of a job, endpoint or notebook instance in the AWS console",
            fix="Name it as NAME.TYPE.sagemaker; see what is there: sm-ssh list",
        )
    return Target(kind=kinds[found["page"]], name=found["name"]), found["region"]


def resource_url(region: str, kind: ResourceKind, name: str) -> str:
    """The page of a resource."""
    return page_url(region, _PAGES[kind], name)


def page_url(region: str, page: str, *names: str) -> str:
    """A page of SageMaker by its own word, ``models`` or ``endpointConfig``, and what follows that."""
    return f"{_console(region)}/sagemaker/home?region={region}#/{'/'.join([page, *names])}"


def log_url(region: str, kind: ResourceKind, *names: str) -> str:
    """
    The page of what its containers wrote, by the parts of its name: those of an app of Studio are its domain,
    user, type and own name. An endpoint has a log group of its own, others have streams.
    """
    group, name = kind.log_group or "", "/".join(names)
    if kind is ResourceKind.INFERENCE:
        place = _twice_escaped(f"{group}/{name}")
    else:
        # With the slash: a job whose name begins with this one has other streams.
        place = f"{_twice_escaped(group)}$3FlogStreamNameFilter$3D{_twice_escaped(f'{name}/')}"
    return f"{_console(region)}/cloudwatch/home?region={region}#logsV2:log-groups/log-group/{place}"


def _twice_escaped(text: str) -> str:
    """Slashes as the console writes them behind its ``#``."""
    return text.replace("/", "$252F")


def domain(region: str) -> str:
    """The host of the console in a region's partition."""
    return _HOSTS.get(partition_of(region).name, "console.aws.amazon.com")


def _console(region: str) -> str:
    return f"https://{region}.{domain(region)}"
