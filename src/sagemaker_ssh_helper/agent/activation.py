"""
The activation: what Systems Manager is told about this node before it registers.

Standard library only; Python 3.8.
"""

from typing import Dict, Mapping, Optional, Sequence

from sagemaker_ssh_helper import __version__
from sagemaker_ssh_helper.agent.aws_api import PLACE_INTERVAL, Identity, Retry
from sagemaker_ssh_helper.agent.resource import Resource
from sagemaker_ssh_helper.errors import LocalSetup
from sagemaker_ssh_helper.names import Env, Tag
from sagemaker_ssh_helper.public_keys import PublicKey

LIFETIME = 3600.0
"""Seconds until an activation that was not used ends. It is used within seconds, or never."""

_ATTEMPTS = 8
_THROTTLED_ATTEMPTS = 16

_MAX_TAG_CHARS = 256
_MAX_ROLE_CHARS = 64
_TAG_SIGNS = frozenset(" _.:/=+-@")


def iam_role(environ: Mapping[str, str], identity: Optional[Identity]) -> str:
    """
    The role of the managed instance, as CreateActivation takes it: the launch's, else the container's own.

    Raises LocalSetup when neither is known.
    """
    role = environ.get(Env.SSM_ROLE, "").strip()
    if not role and identity is not None:
        # arn:aws:sts::ACCOUNT:assumed-role/NAME/SESSION
        parts = identity.arn.split("/")
        role = parts[1] if ":assumed-role" in parts[0] and len(parts) > 1 else ""
    if role.startswith("arn:"):
        role = role.partition(":role/")[2]
    if not role:
        raise LocalSetup(
            "no IAM role for the managed instance",
            fix=f"Set {Env.SSM_ROLE} in the job's environment, or launch through sagemaker_ssh_helper",
        )
    if len(role) > _MAX_ROLE_CHARS:
        raise LocalSetup(
            f"the role name {role!r} is longer than the {_MAX_ROLE_CHARS} characters Systems Manager takes",
            fix="Give the job a role with a shorter name",
        )
    return role


def tags(
    resource: Resource,
    environ: Mapping[str, str],
    *,
    identity: Optional[Identity],
    host_key: PublicKey,
    port: int,
    user: str,
    keys: Sequence[PublicKey],
    now: float,
) -> Dict[str, str]:
    """
    The tags of the managed instance; those without a value are left out.

    Args:
        identity: the container's own; None when STS did not tell.
        keys: those that may log in from the start.
        now: seconds since the epoch.
    """
    values = {
        Tag.OWNER: environ.get(Env.OWNER_TAG, ""),
        Tag.CREATOR: identity.user_id if identity else "",
        Tag.TIMESTAMP: str(int(now)),
        Tag.RESOURCE_NAME: resource.name,
        Tag.RESOURCE_ARN: resource.arn,
        Tag.HOST_KEY: host_key.line,
        Tag.PORT: str(port),
        Tag.USER: user,
        Tag.NODE: resource.node,
        Tag.LAUNCH_ID: environ.get(Env.LAUNCH_ID, ""),
        Tag.KEYS: _joined([key.fingerprint for key in keys]),
        Tag.VERSION: __version__,
    }
    return {key: clean(value) for key, value in values.items() if value}


def retry(resource: Resource) -> Retry:
    """
    How CreateActivation is tried: at once, and when too many call, in the line of the job's nodes.

    Some minutes in all. Nodes of one job do not disturb each other then; those of others are waited for.
    """
    return Retry(_ATTEMPTS, throttled_attempts=_THROTTLED_ATTEMPTS, place=resource.rank * PLACE_INTERVAL)


def clean(value: str) -> str:
    """The text with each character that no tag may hold replaced by ``_``, cut to what a tag may be long."""
    kept = (char if char.isalnum() or char in _TAG_SIGNS else "_" for char in value)
    return "".join(kept)[:_MAX_TAG_CHARS]


def _joined(words: Sequence[str]) -> str:
    """As many whole words as a tag holds."""
    text = ""
    for word in words:
        longer = f"{text} {word}" if text else word
        if len(longer) > _MAX_TAG_CHARS:
            break
        text = longer
    return text
