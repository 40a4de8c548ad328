"""
SSHIDE and NotebookInstance: apps of SageMaker Studio, and notebook instances, under the names scripts know.
"""

from __future__ import annotations

import enum
from typing import Any

from sagemaker_ssh_helper.aws import AWS, resources
from sagemaker_ssh_helper.errors import TargetNotFound
from sagemaker_ssh_helper.manager import SSMManager
from sagemaker_ssh_helper.names import ResourceKind


class IDEAppStatus(str, enum.Enum):
    """What DescribeApp says of an app: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeApp.html"""

    PENDING = "Pending"
    IN_SERVICE = "InService"
    DELETING = "Deleting"
    DELETED = "Deleted"
    FAILED = "Failed"

    def is_in_transition(self) -> bool:
        """Whether it will be something else soon."""
        return self in (IDEAppStatus.PENDING, IDEAppStatus.DELETING)


class SSHIDE:
    """
    The apps of one user of a Studio domain.

    Args:
        domain_id: ``d-…``, as the console shows it.
        user: the name of the user's profile in that domain.
        region_name: the AWS region; that of ``session`` if None.
        session: the boto3 session to take credentials and region from; the user's own if None.
    """

    def __init__(
        self, domain_id: str, user: str, region_name: str | None = None, *, session: Any | None = None
    ) -> None:
        self.domain_id = domain_id
        self.user = user
        self._session = session
        self._client = AWS(region_name, session).client

    def get_app_status(self, app_name: str, app_type: str = "KernelGateway") -> IDEAppStatus:
        """
        What an app does now. SageMaker keeps the description of a deleted one for a day.

        Raises TargetNotFound when the user has no such app, AwsError.
        """
        described = resources.description(self._client, "DescribeApp", **self._named(app_name, app_type))
        if described is None:
            raise TargetNotFound(
                f"there is no {app_type} app {app_name!r} of {self.user} in the domain {self.domain_id}",
                fix="See what is there: sm-ssh list studio.sagemaker",
            )
        return IDEAppStatus(described["Status"])

    def delete_app(self, app_name: str, app_type: str = "KernelGateway") -> None:
        """End an app, with all that runs in it; that takes a while. Raises AwsError."""
        self._client.call("sagemaker", "DeleteApp", **self._named(app_name, app_type))

    def get_instance_ids(self, app_name: str, timeout_in_sec: int = 0) -> list[str]:
        """The live managed instances of an app; waits for the first as long as given. Raises AwsError."""
        manager = SSMManager(self._client.session.region, session=self._session)
        return manager.get_studio_instance_ids(app_name, timeout_in_sec)

    def _named(self, app_name: str, app_type: str) -> dict[str, str]:
        return {
            "DomainId": self.domain_id,
            "UserProfileName": self.user,
            "AppType": app_type,
            "AppName": app_name,
        }


class NotebookInstance:
    """
    A notebook instance by its name; ``region_name`` and ``session`` as for SSHIDE.
    """

    def __init__(self, name: str, region_name: str | None = None, *, session: Any | None = None) -> None:
        self.name = name
        self._session = session
        self._client = AWS(region_name, session).client

    def get_status(self) -> str:
        """``Pending``, ``InService``, ``Stopping``, ``Stopped``… Raises TargetNotFound, AwsError."""
        found = resources.describe(self._client, ResourceKind.NOTEBOOK, self.name)
        if found is None:
            raise TargetNotFound(
                f"there is no notebook instance {self.name!r} in {self._client.session.region}",
                fix="See what is there: sm-ssh list notebook.sagemaker",
            )
        return found.status

    def start(self) -> None:
        """Start it, which takes minutes. Raises AwsError, also when it is not stopped."""
        self._client.call("sagemaker", "StartNotebookInstance", NotebookInstanceName=self.name)

    def stop(self) -> None:
        """Stop it; its volume stays. Raises AwsError, also when it is not in service."""
        resources.stop(self._client, ResourceKind.NOTEBOOK, self.name)

    def get_instance_ids(self, timeout_in_sec: int = 0) -> list[str]:
        """Its live managed instance, if any; waits for it as long as given. Raises AwsError."""
        manager = SSMManager(self._client.session.region, session=self._session)
        return manager.get_notebook_instance_ids(self.name, timeout_in_sec)
