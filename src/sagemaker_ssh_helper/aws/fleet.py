"""
Taking registered instances of containers that are gone off the account.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from sagemaker_ssh_helper.aws import instances
from sagemaker_ssh_helper.aws.instances import Instance
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.errors import SSHHelperError

ATTEMPTS = 12
"""Tries of one call: half a minute, for an account whose calls are throttled by as many instances."""

_AT_ONCE = 4
"""Calls at a time: the service throttles them."""


def left_over(client: Client, older_than: float) -> list[Instance]:
    """
    Our instances that registered more than ``older_than`` seconds ago and do not answer any more.

    Only what has our tag is found: an instance without it is somebody else's. Raises AwsError.
    """
    oldest = time.time() - older_than
    return [
        found
        for found in instances.list_all(client)
        if not found.online and found.registered_at is not None and found.registered_at <= oldest
    ]


def deregister(client: Client, found: Iterable[Instance]) -> Iterator[tuple[Instance, SSHHelperError | None]]:
    """Take each of them off; each with the error that kept it, if any. Whoever leaves early ends it."""

    def take_off(instance: Instance) -> tuple[Instance, SSHHelperError | None]:
        try:
            client.call("ssm", "DeregisterManagedInstance", InstanceId=instance.id)
        except SSHHelperError as error:
            return instance, error
        return instance, None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            yield from pool.map(take_off, found)
        finally:
            # An interrupt may come while they are handed out.
            pool.shutdown(wait=False, cancel_futures=True)
