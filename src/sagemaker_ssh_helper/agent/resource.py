"""
Who am I: the SageMaker resource this container belongs to, and which of its nodes this is.

Everything is read from files and variables that SageMaker puts into a container; nothing is asked over the
network. Files of the wrong shape are passed over: a container that cannot tell its name is still reachable.

Standard library only; Python 3.8.
"""

import json
import os
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Tuple

from sagemaker_ssh_helper.names import DEFAULT_INSTANCE_COUNT, Env, ResourceKind, node_name

DEFAULT_BASE_DIR = "/opt/ml"
# The SageMaker training toolkit's own variable for containers whose tree is not at /opt/ml.
_BASE_DIR = "SAGEMAKER_BASE_DIR"

# `algo-2` on SageMaker, `algo-2-x1y2z` in the SDK's local mode.
_HOST = re.compile(r"algo-([1-9][0-9]{0,4})(?:-|$)")


@dataclass(frozen=True)
class Resource:
    """
    The resource, as the tags of its managed instance name it.

    ``arn`` is empty where SageMaker tells the container none (endpoints, local mode).
    """

    kind: ResourceKind
    name: str
    arn: str
    rank: int
    """Counted from 0 by the number in ``algo-N``, so ``algo-10`` is 9, whatever order a list has."""

    @property
    def node(self) -> str:
        return node_name(self.rank)


def base_dir(environ: Mapping[str, str]) -> str:
    """The folder SageMaker laid out for the container, ``/opt/ml`` unless the environment says otherwise."""
    return environ.get(_BASE_DIR) or DEFAULT_BASE_DIR


def identify(environ: Mapping[str, str], base: str) -> Resource:
    """
    The resource of a container with this environment and this SageMaker folder.

    Looks for a notebook's or Studio's metadata, a processing job's configuration, a training job's variables,
    a transform job's; what is none of these is an endpoint, which SageMaker tells nothing: it goes by its
    launch id.
    """
    metadata = _read_json(os.path.join(base, "metadata", "resource-metadata.json"))
    arn = _arn(metadata.get("ResourceArn"))
    # Every app of a Studio space is called "default" by ResourceName: the ARN has its real name.
    name = arn.rpartition("/")[2] or _text(metadata.get("ResourceName"))
    if name:
        studio = "AppType" in metadata or "DomainId" in metadata or ":app/" in arn
        kind = ResourceKind.STUDIO if studio else ResourceKind.NOTEBOOK
        return Resource(kind, name, arn, 0)

    config = _read_json(os.path.join(base, "config", "processingjobconfig.json"))
    name = _text(config.get("ProcessingJobName"))
    if name:
        arn = _arn(config.get("ProcessingJobArn"))
        rank = _rank(_read_json(os.path.join(base, "config", "resourceconfig.json")))
        return Resource(ResourceKind.PROCESSING, name, arn, rank)

    name = environ.get("TRAINING_JOB_NAME", "")
    if name:
        rank = _rank(_read_json(os.path.join(base, "input", "config", "resourceconfig.json")))
        return Resource(ResourceKind.TRAINING, name, _arn(environ.get("TRAINING_JOB_ARN")), rank)

    arn = _arn(environ.get("TRANSFORM_JOB_ARN"))
    if arn:
        return Resource(ResourceKind.TRANSFORM, arn.rpartition("/")[2], arn, 0)

    return Resource(ResourceKind.INFERENCE, environ.get(Env.LAUNCH_ID, "") or "unnamed", "", 0)


def is_wanted(resource: Resource, environ: Mapping[str, str]) -> bool:
    """Whether this node is one of the first ``SSH_INSTANCE_COUNT``. ``all`` wants every one."""
    return resource.rank < wanted_count(environ, resource.rank + 1)


def wanted_count(environ: Mapping[str, str], nodes: int) -> int:
    """How many nodes, counted from ``algo-1``, get an agent: ``SSH_INSTANCE_COUNT``, or all of ``nodes``."""
    text = environ.get(Env.INSTANCE_COUNT, "").strip().lower()
    if text == "all":
        return nodes
    return int(text) if text.isascii() and text.isdigit() else DEFAULT_INSTANCE_COUNT


def hosts(environ: Mapping[str, str]) -> Tuple[Tuple[str, ...], str]:
    """The names of the job's nodes, and this one's; empty where SageMaker tells none."""
    config = _resource_config(environ)
    names = _list(config.get("hosts"))
    own = _text(config.get("current_host"))
    return tuple(name for name in names if isinstance(name, str) and _HOST.fullmatch(name)), own


def has_other_hosts(environ: Mapping[str, str]) -> bool:
    """Whether the job has several nodes, whatever they are called, in whatever instance groups."""
    config = _resource_config(environ)
    groups = [group for group in _list(config.get("instance_groups")) if isinstance(group, dict)]
    grouped = [name for group in groups for name in _list(group.get("hosts"))]
    return max(len(_list(config.get("hosts"))), len(grouped)) > 1


def _resource_config(environ: Mapping[str, str]) -> Dict[str, Any]:
    base = base_dir(environ)
    for folder in (os.path.join(base, "config"), os.path.join(base, "input", "config")):
        config = _read_json(os.path.join(folder, "resourceconfig.json"))
        if isinstance(config.get("hosts"), list):
            return config
    return {}


def rank_of(host: str) -> int:
    """Counted from 0, of a node's name as SageMaker gives it: ``algo-10`` is 9."""
    match = _HOST.match(host)
    return int(match.group(1)) - 1 if match else 0


def region(environ: Mapping[str, str], resource: Resource) -> str:
    """The AWS region: the environment's, else the one in the resource's ARN, else empty."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        if environ.get(name):
            return environ[name]
    parts = resource.arn.split(":")
    return parts[3] if len(parts) > 3 else ""


def _rank(config: Dict[str, Any]) -> int:
    """The rank by a resourceconfig.json: the number in ``current_host``, else its place in ``hosts``."""
    current = _text(config.get("current_host"))
    match = _HOST.match(current)
    if match:
        return int(match.group(1)) - 1
    hosts = config.get("hosts")
    if isinstance(hosts, list) and current in hosts:
        return hosts.index(current)
    return 0


def _arn(value: object) -> str:
    # Local mode puts the plain name, or nothing, where the ARN belongs.
    text = _text(value)
    return text if text.startswith("arn:") else ""


def _list(value: object) -> List[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _read_json(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
