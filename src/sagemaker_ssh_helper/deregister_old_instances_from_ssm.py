"""
``python -m sagemaker_ssh_helper.deregister_old_instances_from_ssm`` is ``sm-ssh deregister``, and its
steps are functions for programs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from sagemaker_ssh_helper.cli.cmd_deregister import main

__all__ = ["deregister", "is_approved_to_deregister", "main"]


def is_approved_to_deregister(instance_count: int) -> bool:
    """Ask whoever sits at the terminal whether so many instances are to go; only ``y`` or ``yes`` is yes."""
    try:
        answer = input(f"deregister {instance_count} instances? [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def deregister(ssh_helper_instances: Iterable[str]) -> list[str]:
    """
    Take managed instances off the account, by their ids, and return the ids of those that are gone.

    One that answers is left alone, whatever the caller says: a job may be running in it. Raises AwsError for
    the first that cannot be taken off.
    """
    from sagemaker_ssh_helper.aws import AWS, fleet, instances
    from sagemaker_ssh_helper.names import InstanceId

    client = AWS().client
    found = [instances.by_id(client, InstanceId(each)) for each in ssh_helper_instances]
    gone = []
    for instance, error in fleet.deregister(client, [each for each in found if each and not each.online]):
        if error is not None:
            raise error
        gone.append(str(instance.id))
    return gone


if __name__ == "__main__":
    sys.exit(main())
