"""
SSHIDE and NotebookInstance: apps of SageMaker Studio, and notebook instances, under the names scripts know.
"""

from __future__ import annotations

from typing import Any

from sagemaker_ssh_helper.aws import AWS, console, resources
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.errors import TargetNotFound
from sagemaker_ssh_helper.manager import SSMManager
from sagemaker_ssh_helper.names import ResourceKind


class IDEAppStatus:
    """
    What DescribeApp says of an app: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeApp.html

    ``status`` is ``Pending``, ``InService``, ``Deleting``, ``Deleted`` or ``Failed``; None when there is no
    such app. Two of the same status and reason are equal.
    """

    def __init__(self, status: str | None, failure_reason: str | None = None) -> None:
        self.status = status
        self.failure_reason = failure_reason

    def is_pending(self) -> bool:
        """Whether it is being made."""
        return self.status == "Pending"

    def is_in_transition(self) -> bool:
        """Whether it will be something else soon."""
        return self.is_pending() or self.is_deleting()

    def is_deleting(self) -> bool:
        """Whether it is being ended."""
        return self.status == "Deleting"

    def is_in_service(self) -> bool:
        """Whether it runs."""
        return self.status == "InService"

    def is_deleted(self) -> bool:
        """Whether it was ended; SageMaker keeps the description for a day."""
        return self.status == "Deleted"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IDEAppStatus):
            return NotImplemented
        return (self.status, self.failure_reason) == (other.status, other.failure_reason)

    def __hash__(self) -> int:
        return hash((self.status, self.failure_reason))

    def __str__(self) -> str:
        if self.failure_reason:
            return f"{self.status}, failure reason: {self.failure_reason}"
        return str(self.status)

    def __repr__(self) -> str:
        return f"IDEAppStatus({self.status!r}, {self.failure_reason!r})"


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
        self._aws = AWS(region_name, session)

    @property
    def _client(self) -> Client:
        return self._aws.client

    def get_app_status(self, app_name: str, app_type: str = "KernelGateway") -> IDEAppStatus:
        """
        What an app does now; with the status None when the user has no such app.

        SageMaker keeps the description of a deleted one for a day. Raises AwsError.
        """
        described = resources.description(self._client, "DescribeApp", **self._named(app_name, app_type))
        if described is None:
            return IDEAppStatus(None)
        return IDEAppStatus(described.get("Status"), described.get("FailureReason"))

    def delete_app(self, app_name: str, app_type: str = "KernelGateway") -> None:
        """End an app, with all that runs in it; that takes a while. Raises AwsError."""
        self._client.call("sagemaker", "DeleteApp", **self._named(app_name, app_type))

    def get_instance_ids(self, app_name: str, timeout_in_sec: int = 0) -> list[str]:
        """The live managed instances of an app; waits for the first as long as given. Raises AwsError."""
        manager = SSMManager(self._aws.region_name, session=self._aws.boto_session)
        return manager.get_studio_user_kgw_instance_ids(self.domain_id, self.user, app_name, timeout_in_sec)

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

    def __init__(
        self, notebook_name: str, region_name: str | None = None, *, session: Any | None = None
    ) -> None:
        self.notebook_name = notebook_name
        self._aws = AWS(region_name, session)

    @property
    def _client(self) -> Client:
        return self._aws.client

    def get_status(self) -> str:
        """``Pending``, ``InService``, ``Stopping``, ``Stopped``… Raises TargetNotFound, AwsError."""
        found = resources.describe(self._client, ResourceKind.NOTEBOOK, self.notebook_name)
        if found is None:
            raise TargetNotFound(
                f"there is no notebook instance {self.notebook_name!r} in {self._client.session.region}",
                fix="See what is there: sm-ssh list notebook.sagemaker",
            )
        return found.status

    def start(self) -> None:
        """Start it, which takes minutes. Raises AwsError, also when it is not stopped."""
        self._client.call("sagemaker", "StartNotebookInstance", NotebookInstanceName=self.notebook_name)

    def stop(self) -> None:
        """Stop it; its volume stays. Raises AwsError, also when it is not in service."""
        resources.stop(self._client, ResourceKind.NOTEBOOK, self.notebook_name)

    def get_instance_ids(self, timeout_in_sec: int = 0) -> list[str]:
        """Its live managed instance, if any; waits for it as long as given. Raises AwsError."""
        manager = SSMManager(self._aws.region_name, session=self._aws.boto_session)
        return manager.get_notebook_instance_ids(self.notebook_name, timeout_in_sec)

    def get_cloudwatch_url(self) -> str:
        """Where the console shows its log."""
        return console.log_url(self._aws.region_name, ResourceKind.NOTEBOOK, self.notebook_name)

    def get_metadata_url(self) -> str:
        """Where the console shows it."""
        return console.resource_url(self._aws.region_name, ResourceKind.NOTEBOOK, self.notebook_name)
