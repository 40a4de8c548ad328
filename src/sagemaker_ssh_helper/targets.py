"""
Host names of containers: ``my-job.training.sagemaker`` to a Target and back. Pure.
"""

import re
from dataclasses import dataclass
from typing import Optional, Tuple

from sagemaker_ssh_helper.errors import UsageError
from sagemaker_ssh_helper.names import DOMAIN, InstanceId, ResourceKind

# SageMaker names: letters, digits and inner hyphens, up to 63 characters. Anything else never reaches a
# shell, a file name or an API call.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})")
_NODE = re.compile(r"algo-[1-9][0-9]{0,4}")
_INSTANCE_ID = re.compile(r"mi-[0-9a-f]{17}")

_HOST = r"i-[0-9a-f]{8,17}"
_TRAINING_TARGET = re.compile(rf"sagemaker-training-job:(?P<name>{_NAME.pattern})_(?P<node>{_NODE.pattern})")
_NATIVE = re.compile(
    rf"{_TRAINING_TARGET.pattern}"
    rf"|sagemaker-cluster:[a-z0-9]{{1,63}}_{_NAME.pattern}-{_HOST}"
    rf"|sagemaker-endpoint:{_NAME.pattern}_{_NAME.pattern}_{_HOST}(?:_{_NAME.pattern})?"
    rf"|arn:[a-z-]+:sagemaker:[a-z0-9-]+:\d{{12}}:space/d-[a-z0-9-]{{1,61}}/{_NAME.pattern}"
)

_BARE = re.compile(rf"(?:(?P<node>{_NODE.pattern})\.)?(?P<name>{_NAME.pattern})")
_ARN = re.compile(r"arn:[a-z-]+:(?:sagemaker|ssm):([a-z0-9-]+):\d{12}:([a-z-]+)/(.+)")

_FORMS = "NAME.TYPE.sagemaker, algo-N.NAME.TYPE.sagemaker or mi-…"


@dataclass(frozen=True)
class Target:
    """
    What the user named.

    Either ``instance_id`` is set, or ``kind`` and ``name`` are; both for a native target that tells a job.
    """

    kind: Optional[ResourceKind] = None
    name: str = ""
    node: Optional[str] = None
    """``algo-N``, or None when the user named no node: the first one is meant."""
    instance_id: Optional[InstanceId] = None

    @classmethod
    def parse(cls, text: str) -> "Target":
        """
        The target that ``text`` names.

        Raises UsageError for any other text. Letter case of the name is kept; the domain's is folded.
        """
        if _INSTANCE_ID.fullmatch(text):
            return cls(instance_id=InstanceId(text))
        if is_native(text):
            job = _TRAINING_TARGET.fullmatch(text)
            if job is None:
                return cls(instance_id=InstanceId(text))
            return cls(ResourceKind.TRAINING, job["name"], job["node"], InstanceId(text))
        parts = text.split(".")
        if len(parts) < 3 or parts[-1].lower() != DOMAIN:
            raise UsageError(
                f"{text!r} names no container",
                fix=f"Name one as {_FORMS}; see what is there: sm-ssh list",
            )
        try:
            kind = ResourceKind.from_domain(parts[-2].lower())
        except KeyError:
            kinds = ", ".join(kind.domain for kind in ResourceKind)
            raise UsageError(
                f"{text!r} has an unknown type {parts[-2]!r}", fix=f"TYPE is one of {kinds}"
            ) from None
        node: Optional[str] = None
        if len(parts) == 4 and _NODE.fullmatch(parts[0]):
            node, name = parts[0], parts[1]
        elif len(parts) == 3:
            name = parts[0]
        else:
            raise UsageError(f"{text!r} names no container", fix=f"Name one as {_FORMS}")
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} is no SageMaker name", fix="Names hold letters, digits and hyphens, at most 63"
            )
        return cls(kind=kind, name=name, node=node)

    @property
    def fqdn(self) -> str:
        """The host name as a user types it, without the node unless one was named."""
        if self.instance_id is not None:
            return self.instance_id
        assert self.kind is not None, "a target is an instance id or a kind and a name"
        host = f"{self.name}.{self.kind.domain}.{DOMAIN}"
        return f"{self.node}.{host}" if self.node else host

    @property
    def node_or_first(self) -> str:
        """The node to connect to: the named one, else ``algo-1``."""
        return self.node or "algo-1"


def is_native(text: str) -> bool:
    """Whether this is a target that SageMaker provides: no helper in the container has to register it."""
    return _NATIVE.fullmatch(text) is not None


def rank_of(node: Optional[str]) -> int:
    """The number in ``algo-N``; None is the first node."""
    return int(node.rpartition("-")[2]) if node else 1


def of_arn(arn: str) -> Tuple[Target, str]:
    """
    The target that an ARN of a job, endpoint, notebook, space or managed instance names, and its region.

    Raises UsageError for any other ARN.
    """
    found = _ARN.fullmatch(arn)
    if found:
        region, arn_type, name = found.groups()
        if arn_type == "managed-instance":
            return Target.parse(name), region
        if is_native(arn):
            return Target.parse(arn), region
        kind = next((kind for kind in ResourceKind if kind.arn_type == arn_type), None)
        if kind is not None and kind is not ResourceKind.STUDIO and _NAME.fullmatch(name):
            return Target(kind=kind, name=name), region
    raise UsageError(f"{arn!r} is no ARN of a container", fix=f"Name one as {_FORMS}")


def split_bare(text: str) -> Optional[Tuple[Optional[str], str]]:
    """The node, if any, and the name or its beginning, of ``my-job`` and ``algo-2.my-job``; else None."""
    found = _BARE.fullmatch(text)
    if not found or _INSTANCE_ID.fullmatch(text):
        return None
    return found["node"], found["name"]
