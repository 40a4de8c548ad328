"""
A session to a container that has just come, or just gone.

An instance may be Online some time before a session to it can be opened, and some time after its
container is gone. AWS says the same of both: it is not connected.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sagemaker_ssh_helper.aws import instances, resources
from sagemaker_ssh_helper.aws.instances import SETTLING, Instance
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.sessions import SessionGrant
from sagemaker_ssh_helper.errors import NO_ANSWER, NotConnected

INTERVAL = 4.0
"""Seconds between two tries, each of which is two calls to AWS."""

_HEARTBEAT = 10.0  # seconds


def start(
    client: Client,
    instance: Instance,
    attempt: Callable[[], SessionGrant],
    *,
    wait: bool,
    pause: Callable[[float], bool],
    tell: Callable[[str], None],
) -> SessionGrant | None:
    """
    What ``attempt`` gives, which starts a session to ``instance``; tried again while the instance is new.

    Args:
        wait: try again at all.
        pause: sleeps so many seconds, and says whether to leave, with None.
        tell: called with a line for the user every ten seconds.

    Raises TargetEnded when AWS grants none because the container is gone, and what ``attempt`` raises.
    """
    told_at = 0.0
    began_at = time.monotonic()
    while True:
        try:
            return attempt()
        except NotConnected as error:
            _raise_if_ended(client, instance, error)
            if not wait or not _is_young(client, instance):
                raise
            now = time.monotonic()
            if now - told_at >= _HEARTBEAT:
                tell(
                    f"{instance.fqdn} is registered, and takes no session yet; trying again since "
                    f"{now - began_at:.0f} s"
                )
                told_at = now
        if pause(INTERVAL):
            return None


def _raise_if_ended(client: Client, instance: Instance, error: NotConnected) -> None:
    if instance.kind is None or not instance.name:
        return
    try:
        resource = resources.describe(client, instance.kind, instance.name)
    except NO_ANSWER:
        return
    if resource is not None and resource.ended:
        raise instances.ended(resource) from error


def _is_young(client: Client, instance: Instance) -> bool:
    if instance.is_native:
        return False
    registered_at = instance.registered_at
    if registered_at is None:
        found = instances.by_id(client, instance.id)
        registered_at = found.registered_at if found is not None else None
    return registered_at is not None and time.time() - registered_at < SETTLING
