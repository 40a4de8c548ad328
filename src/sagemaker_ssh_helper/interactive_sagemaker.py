"""
SageMaker and InteractiveSageMaker: what runs in one account and region, as objects and as lines to read.
"""

from __future__ import annotations

from typing import Any

from sagemaker_ssh_helper.aws import AWS, resources
from sagemaker_ssh_helper.aws.resources import Resource
from sagemaker_ssh_helper.names import ResourceKind
from sagemaker_ssh_helper.targets import Target


class SageMaker:
    """
    The resources whose containers may run now. All methods raise AwsError.

    Args:
        region_name: the AWS region; that of ``session`` if None.
        session: the boto3 session to take credentials and region from; the user's own if None.
    """

    def __init__(self, region_name: str | None = None, *, session: Any | None = None) -> None:
        self._client = AWS(region_name, session).client

    def list_ide_apps(self) -> list[Resource]:
        """
        The apps of Studio, of all users and domains.

        Replace this method to answer from elsewhere: ``list_resources`` then asks it for them.
        """
        return list(resources.alive(self._client, ResourceKind.STUDIO))

    def list_resources(self, kind: ResourceKind) -> list[Resource]:
        """Those of one kind: ``ResourceKind.TRAINING`` and its kin. Newest first."""
        if kind is ResourceKind.STUDIO:
            return self.list_ide_apps()
        return list(resources.alive(self._client, kind))


class InteractiveSageMaker:
    """The same for somebody at a notebook or a Python prompt: by host name, as ``ssh`` takes it."""

    def __init__(self, sagemaker: SageMaker) -> None:
        self._sagemaker = sagemaker

    def list_hosts(self) -> list[str]:
        """The host names of everything that runs, kind after kind. Raises AwsError."""
        return [host for host, _ in self._found()]

    def print_hosts(self) -> None:
        """Print them, a line each, with their states. Raises AwsError."""
        for host, status in self._found():
            print(f"{host}  {status}")

    def _found(self) -> list[tuple[str, str]]:
        return [
            (Target(kind=kind, name=found.name).fqdn, found.status)
            for kind in ResourceKind
            for found in self._sagemaker.list_resources(kind)
        ]
