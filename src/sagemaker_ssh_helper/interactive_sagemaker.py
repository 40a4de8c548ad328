"""
SageMaker and InteractiveSageMaker: what runs in one account and region, and the managed instance of each, as
objects and as lines to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sagemaker_ssh_helper.aws import AWS, resources
from sagemaker_ssh_helper.aws.resources import Resource
from sagemaker_ssh_helper.log import SSHLog
from sagemaker_ssh_helper.manager import PING_STATUS, SSMManager
from sagemaker_ssh_helper.names import ResourceKind, Tag


class SageMakerCoreApp:
    """
    Something of SageMaker's in which a container runs, and the managed instance of that, if it has one.

    ``ssm_instance_id``, ``ssh_owner`` and ``ping_status`` are NO_SSH_FLAG, empty and empty without one.
    """

    NO_SSH_FLAG = "ssh:NotFound"

    def __init__(self) -> None:
        self.ssm_instance_id = self.NO_SSH_FLAG
        self.ssh_owner = ""
        self.ping_status = ""

    def set_ssm_instance_id(self, ssm_instance_id: str) -> None:
        """The managed instance is this one."""
        self.ssm_instance_id = ssm_instance_id

    def set_ssh_owner(self, ssh_owner: str) -> None:
        """It is this user's: the tag SSHOwner."""
        self.ssh_owner = ssh_owner

    def set_ping_status(self, ping_status: str) -> None:
        """What Systems Manager says of it: Online, ConnectionLost, Inactive."""
        self.ping_status = ping_status

    def _words(self) -> list[str]:
        raise NotImplementedError

    def __str__(self) -> str:
        ssh = [self.ssm_instance_id, self.ping_status, self.ssh_owner]
        return "  ".join([*self._words(), *filter(None, ssh)])


class SageMakerStudioApp(SageMakerCoreApp):
    """An app of Studio."""

    def __init__(
        self, domain_id: str, user_profile_name: str, app_name: str, app_type: str, app_status: str
    ) -> None:
        super().__init__()
        self.domain_id = domain_id
        self.user_profile_name = user_profile_name
        self.app_name = app_name
        self.app_type = app_type
        self.app_status = app_status

    def _words(self) -> list[str]:
        place = [self.domain_id, self.user_profile_name, self.app_type, self.app_name]
        return ["/".join(filter(None, place)), self.app_status]


class SageMakerEndpoint(SageMakerCoreApp):
    """An endpoint."""

    def __init__(self, name: str, endpoint_status: str) -> None:
        super().__init__()
        self.name = name
        self.endpoint_status = endpoint_status

    def _words(self) -> list[str]:
        return [self.name, self.endpoint_status]


class SageMakerTrainingJob(SageMakerCoreApp):
    """A training job."""

    def __init__(self, training_job_name: str, training_job_status: str) -> None:
        super().__init__()
        self.training_job_name = training_job_name
        self.training_job_status = training_job_status

    def _words(self) -> list[str]:
        return [self.training_job_name, self.training_job_status]


class SageMakerProcessingJob(SageMakerCoreApp):
    """A processing job."""

    def __init__(self, processing_job_name: str, processing_job_status: str) -> None:
        super().__init__()
        self.processing_job_name = processing_job_name
        self.processing_job_status = processing_job_status

    def _words(self) -> list[str]:
        return [self.processing_job_name, self.processing_job_status]


class SageMakerNotebookInstance(SageMakerCoreApp):
    """A notebook instance."""

    def __init__(self, name: str, status: str) -> None:
        super().__init__()
        self.name = name
        self.status = status

    def _words(self) -> list[str]:
        return [self.name, self.status]


class SageMakerTransformJob(SageMakerCoreApp):
    """A batch transform job."""

    def __init__(self, transform_job_name: str, transform_job_status: str) -> None:
        super().__init__()
        self.transform_job_name = transform_job_name
        self.transform_job_status = transform_job_status

    def _words(self) -> list[str]:
        return [self.transform_job_name, self.transform_job_status]


class SageMaker:
    """
    The resources whose containers may run now, newest first. All methods raise AwsError; any may be
    replaced to answer from elsewhere.

    Args:
        region: the AWS region; that of ``session`` if None, else the environment's.
        session: the boto3 session to take credentials and region from; the user's own if None.
    """

    def __init__(self, region: str | None = None, *, session: Any | None = None) -> None:
        self._aws = AWS(region, session)

    def list_ide_apps(self) -> list[SageMakerStudioApp]:
        """The apps of Studio, of all users, spaces and domains: a space stands in its user's place."""
        return [
            SageMakerStudioApp(
                str(app.get("DomainId", "")),
                str(app.get("UserProfileName") or app.get("SpaceName") or ""),
                str(app.get("AppName", "")),
                str(app.get("AppType", "")),
                str(app.get("Status", "")),
            )
            for app in self._aws.client.pages("sagemaker", "ListApps", "Apps")
            if app.get("Status") not in ("Deleted", "Failed")
        ]

    def list_endpoints(self) -> list[SageMakerEndpoint]:
        """The endpoints."""
        return [SageMakerEndpoint(each.name, each.status) for each in self._alive(ResourceKind.INFERENCE)]

    def list_training_jobs(self) -> list[SageMakerTrainingJob]:
        """The training jobs."""
        return [SageMakerTrainingJob(each.name, each.status) for each in self._alive(ResourceKind.TRAINING)]

    def list_processing_jobs(self) -> list[SageMakerProcessingJob]:
        """The processing jobs."""
        return [
            SageMakerProcessingJob(each.name, each.status) for each in self._alive(ResourceKind.PROCESSING)
        ]

    def list_transform_jobs(self) -> list[SageMakerTransformJob]:
        """The batch transform jobs."""
        return [SageMakerTransformJob(each.name, each.status) for each in self._alive(ResourceKind.TRANSFORM)]

    def list_notebook_instances(self) -> list[SageMakerNotebookInstance]:
        """The notebook instances."""
        return [
            SageMakerNotebookInstance(each.name, each.status) for each in self._alive(ResourceKind.NOTEBOOK)
        ]

    def _alive(self, kind: ResourceKind) -> Iterable[Resource]:
        return resources.alive(self._aws.client, kind)


A = TypeVar("A", bound=SageMakerCoreApp)

Instances = Mapping[str, Mapping[str, Any]]
"""Managed instances with their tags: what ``SSMManager.list_all_instances_and_fetch_tags`` returns."""


class InteractiveSageMaker:
    """
    The same for somebody at a notebook or a Python prompt: each with its managed instance, and printed.

    Args:
        sagemaker: tells what runs.
        manager: tells the managed instances, by one look at each listing.
        log: kept for callers that pass it; the tags of an instance tell whose it is.
    """

    def __init__(self, sagemaker: SageMaker, manager: SSMManager, log: SSHLog | None = None) -> None:
        self.sagemaker = sagemaker
        self.manager = manager
        self.log = log

    def list_studio_ide_apps(self) -> list[SageMakerStudioApp]:
        """The apps of Studio."""
        apps, known = self.sagemaker.list_ide_apps(), self.manager.list_all_instances_and_fetch_tags()
        for app in apps:
            of_app = f":app/{app.domain_id}/{app.user_profile_name}/".lower()
            _join(
                app,
                {
                    instance_id: tags
                    for instance_id, tags in known.items()
                    if of_app in str(tags.get(Tag.RESOURCE_ARN, "")).lower()
                },
                ResourceKind.STUDIO,
                app.app_name,
            )
        return apps

    def list_studio_ide_apps_for_user(self, user_profile_name: str) -> list[SageMakerStudioApp]:
        """Those of one user, in all domains."""
        return [app for app in self.list_studio_ide_apps() if app.user_profile_name == user_profile_name]

    def list_studio_ide_apps_for_user_and_domain(
        self, domain_id: str, user_profile_name: str
    ) -> list[SageMakerStudioApp]:
        """Those of one user in one domain."""
        return [
            app for app in self.list_studio_ide_apps_for_user(user_profile_name) if app.domain_id == domain_id
        ]

    def print_studio_ide_apps_for_user_and_domain(self, domain_id: str, user_profile_name: str) -> None:
        """Print them, a line each."""
        _print(self.list_studio_ide_apps_for_user_and_domain(domain_id, user_profile_name))

    def list_endpoints(self, managed_instances: Instances) -> list[SageMakerEndpoint]:
        """The endpoints."""
        found = self.sagemaker.list_endpoints()
        return [_join(each, managed_instances, ResourceKind.INFERENCE, each.name) for each in found]

    def print_endpoints(self) -> None:
        """Print them, a line each."""
        _print(self.list_endpoints(self.manager.list_all_instances_and_fetch_tags()))

    def list_training_jobs(self, managed_instances: Instances) -> list[SageMakerTrainingJob]:
        """The training jobs."""
        return [
            _join(each, managed_instances, ResourceKind.TRAINING, each.training_job_name)
            for each in self.sagemaker.list_training_jobs()
        ]

    def print_training_jobs(self) -> None:
        """Print them, a line each."""
        _print(self.list_training_jobs(self.manager.list_all_instances_and_fetch_tags()))

    def list_processing_jobs(self, managed_instances: Instances) -> list[SageMakerProcessingJob]:
        """The processing jobs."""
        return [
            _join(each, managed_instances, ResourceKind.PROCESSING, each.processing_job_name)
            for each in self.sagemaker.list_processing_jobs()
        ]

    def print_processing_jobs(self) -> None:
        """Print them, a line each."""
        _print(self.list_processing_jobs(self.manager.list_all_instances_and_fetch_tags()))

    def list_transform_jobs(self, managed_instances: Instances) -> list[SageMakerTransformJob]:
        """The batch transform jobs."""
        return [
            _join(each, managed_instances, ResourceKind.TRANSFORM, each.transform_job_name)
            for each in self.sagemaker.list_transform_jobs()
        ]

    def print_transform_jobs(self) -> None:
        """Print them, a line each."""
        _print(self.list_transform_jobs(self.manager.list_all_instances_and_fetch_tags()))

    def list_notebook_instances(self, managed_instances: Instances) -> list[SageMakerNotebookInstance]:
        """The notebook instances."""
        return [
            _join(each, managed_instances, ResourceKind.NOTEBOOK, each.name)
            for each in self.sagemaker.list_notebook_instances()
        ]

    def print_notebook_instances(self) -> None:
        """Print them, a line each."""
        _print(self.list_notebook_instances(self.manager.list_all_instances_and_fetch_tags()))


def _print(found: Sequence[SageMakerCoreApp]) -> None:
    for each in found:
        print(each)


def _join(app: A, managed_instances: Instances, kind: ResourceKind, name: str) -> A:
    """Tell an app which managed instance is its: the newest, and one that answers before others."""
    of_app = [
        (tags.get(PING_STATUS) == "Online", float(tags.get(Tag.TIMESTAMP) or 0), instance_id)
        for instance_id, tags in managed_instances.items()
        if str(tags.get(Tag.RESOURCE_NAME)) == name
        and f":{kind.arn_type}/" in str(tags.get(Tag.RESOURCE_ARN, f":{kind.arn_type}/"))
    ]
    if of_app:
        instance_id = max(of_app)[2]
        tags = managed_instances[instance_id]
        app.set_ssm_instance_id(instance_id)
        app.set_ssh_owner(str(tags.get(Tag.OWNER, "")))
        app.set_ping_status(str(tags.get(PING_STATUS, "")))
    return app
