"""
Wrappers that give ssh to what the SageMaker Python SDK launches.

They work by duck typing: the SDK is never imported here, and its classes are told apart by what they hold.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from sagemaker_ssh_helper.errors import LaunchRefused, TargetNotFound
from sagemaker_ssh_helper.launch import SshLaunch, role_name
from sagemaker_ssh_helper.names import DOMAIN, ResourceKind

if TYPE_CHECKING:
    from datetime import timedelta

    from sagemaker_ssh_helper.manager import SSMManager


_WAITER_DELAY = 5
"""Seconds between two looks at a job whose end is waited for."""


class SSHEnvironmentWrapper(abc.ABC):
    """
    What every wrapper does: adds ssh to the environment of one SDK object, and finds its nodes later.
    """

    kind: ResourceKind

    @abc.abstractmethod
    def resource_name(self) -> str:
        """The name SageMaker knows the launched resource by. Raises TargetNotFound before the launch."""

    @abc.abstractmethod
    def _boto_session(self) -> Any:
        """The boto3 session of the wrapped object: its credentials, its region."""

    @classmethod
    def dependency_dir(cls) -> str:
        """A folder with this library, to be given to the SDK: ``dependencies=[….dependency_dir()]``."""
        from sagemaker_ssh_helper import archive

        return archive.dependency_dir()

    @staticmethod
    def ssm_role_from_iam_arn(iam_arn: str) -> str:
        """The role's name with its path, which is what Systems Manager takes: ``service-role/Name``."""
        return role_name(iam_arn)

    def get_instance_ids(self, retry: Optional[int] = None, timeout_in_sec: int = 900) -> List[str]:
        """
        The managed instances of the nodes that were launched with ssh, ``algo-1`` first.

        Waits up to ``timeout_in_sec`` seconds for all of them, and returns those that came. ``retry`` is the
        older name of the same limit, in steps of 10 seconds. Raises TargetNotFound before the launch.
        """
        if retry is not None:
            timeout_in_sec = retry * 10
        return self._manager().get_instance_ids_of(
            self.kind, self.resource_name(), timeout_in_sec=timeout_in_sec, count=self._expected_nodes()
        )

    def get_instance_id(self, retry: Optional[int] = None, timeout_in_sec: int = 900, index: int = 0) -> str:
        """The managed instance of one node, by its rank counted from 0; otherwise as get_instance_ids."""
        return self.get_instance_ids(retry=retry, timeout_in_sec=timeout_in_sec)[index]

    def fqdn(self) -> str:
        """The host name for ssh: ``NAME.TYPE.sagemaker``."""
        return f"{self.resource_name()}.{self.kind.domain}.{DOMAIN}"

    def print_ssh_info(self) -> None:
        """Print where the resource is shown in the console and its log, and how to log in."""
        print(f"{self.kind.label} {self.resource_name()}")
        print(f"  console  {self.get_metadata_url()}")
        print(f"  log      {self.get_cloudwatch_url()}")
        print(f"  connect  sm-ssh connect {self.fqdn()}")
        print(f"  or, after sm-ssh config-ssh:  ssh {self.fqdn()}")

    def get_cloudwatch_url(self) -> str:
        """The address of the resource's log in the console."""
        group = (self.kind.log_group or "").replace("/", "$252F")
        return (
            f"{self._console()}/cloudwatch/home?region={self._region()}"
            f"#logsV2:log-groups/log-group/{group}$3FlogStreamNameFilter$3D{self.resource_name()}"
        )

    @abc.abstractmethod
    def get_metadata_url(self) -> str:
        """The address of the resource's page in the console."""

    def _expected_nodes(self) -> int:
        return 1

    def _manager(self) -> SSMManager:
        from sagemaker_ssh_helper.manager import SSMManager

        return SSMManager(session=self._boto_session())

    def _region(self) -> str:
        return str(self._boto_session().region_name)

    def _console(self) -> str:
        session = self._boto_session()
        partition = session.get_partition_for_region(self._region())
        hosts = {"aws-cn": "console.amazonaws.cn", "aws-us-gov": "console.amazonaws-us-gov.com"}
        return f"https://{self._region()}.{hosts.get(partition, 'console.aws.amazon.com')}"


class SSHEstimatorWrapper(SSHEnvironmentWrapper):
    """
    ssh into the containers of an estimator's training job.

    Make one by :meth:`create` before ``fit``, or by :meth:`attach` for a job that runs already.
    """

    kind = ResourceKind.TRAINING

    def __init__(self, estimator: Any, ssh: Optional[SshLaunch] = None) -> None:
        self.estimator = estimator
        self._ssh = ssh

    @classmethod
    def create(
        cls,
        estimator: Any,
        connection_wait_time_seconds: int = 600,
        ssh_instance_count: int = 2,
        local_user_id: Optional[str] = None,
        log_to_stdout: bool = False,
        connection_wait_time: Optional[timedelta] = None,
    ) -> SSHEstimatorWrapper:
        """
        Give ssh to ``estimator``, an estimator of the SageMaker SDK that was not started yet.

        Its ``environment`` gets what the container needs, and its ``dependencies`` this library when it ships
        code. The job's script then calls ``sagemaker_ssh_helper.setup_and_start_ssh()``.

        Args:
            estimator: any estimator of the SDK v2: script mode, or an own image that holds the library.
            connection_wait_time_seconds: how long the job waits for a connection; 0 not at all.
            ssh_instance_count: how many nodes become reachable, counted from ``algo-1``.
            local_user_id: the value of the tag SSHOwner, instead of what STS tells.
            log_to_stdout: whether the agent's log goes to the job's log too.
            connection_wait_time: the wait as a timedelta; wins when given.

        Raises:
            LaunchRefused: it was started already, or runs in network isolation.
        """
        if estimator.latest_training_job is not None:
            raise LaunchRefused(
                f"the estimator has already started {estimator.latest_training_job.name}",
                fix="Call SSHEstimatorWrapper.create(estimator) before estimator.fit()",
            )
        isolated = getattr(estimator, "enable_network_isolation", None)
        if callable(isolated) and isolated() is True:
            raise LaunchRefused(
                "the estimator runs in network isolation, where nothing can reach Systems Manager",
                fix="Make it without enable_network_isolation, or without ssh",
            )
        ssh = SshLaunch.prepare(
            estimator.sagemaker_session.boto_session,
            estimator.sagemaker_session.expand_role(estimator.role),
            connection_wait_time_seconds=connection_wait_time_seconds,
            connection_wait_time=connection_wait_time,
            ssh_instance_count=ssh_instance_count,
            local_user_id=local_user_id,
            log_to_stdout=log_to_stdout,
        )
        estimator.environment = {**(estimator.environment or {}), **ssh.environment()}
        if getattr(estimator, "entry_point", None):
            _add_dependency(estimator, cls.dependency_dir())
        return cls(estimator, ssh)

    @classmethod
    def attach(cls, training_job_name: str, sagemaker_session: Any = None) -> SSHEstimatorWrapper:
        """
        A wrapper for a training job that was launched earlier, by whatever means.

        ``sagemaker_session`` gives credentials and region: an SDK session, or a boto3 session; the default
        boto3 session if None. Raises TargetNotFound when there is no such job.
        """
        session = getattr(sagemaker_session, "boto_session", sagemaker_session)
        if session is None:
            import boto3

            session = boto3.Session()
        return cls(_AttachedJob(training_job_name, session))

    def training_job_name(self) -> str:
        """The job's name. Raises TargetNotFound before the launch."""
        return self.resource_name()

    def resource_name(self) -> str:
        job = self.estimator.latest_training_job
        if job is None:
            raise TargetNotFound(
                "the estimator has not started a job yet", fix="Call estimator.fit(wait=False) first"
            )
        return str(job.name)

    def stop_training_job(self) -> None:
        """Ask SageMaker to stop the job; returns at once."""
        self._sagemaker().stop_training_job(TrainingJobName=self.resource_name())

    def wait_training_job(self) -> None:
        """Wait until the job has ended. Raises botocore's WaiterError when it failed."""
        waiter = self._sagemaker().get_waiter("training_job_completed_or_stopped")
        # The waiter's own pause is two minutes, and its patience six hours; a job may run for 28 days.
        patience = {"Delay": _WAITER_DELAY, "MaxAttempts": 28 * 86400 // _WAITER_DELAY}
        waiter.wait(TrainingJobName=self.resource_name(), WaiterConfig=patience)

    def wait_training_job_with_status(self) -> str:
        """Wait until the job has ended, and return its status: Completed, Stopped or Failed."""
        from botocore.exceptions import WaiterError

        try:
            self.wait_training_job()
        except WaiterError as error:
            # The waiter raises for a failed job, and when it could not find out; only the first is a status.
            if error.last_response.get("TrainingJobStatus") != "Failed":
                raise
        return str(self._describe()["TrainingJobStatus"])

    def get_metadata_url(self) -> str:
        return f"{self._console()}/sagemaker/home?region={self._region()}#/jobs/{self.resource_name()}"

    def _expected_nodes(self) -> int:
        described = self._describe()
        nodes = described["ResourceConfig"].get("InstanceCount") or sum(
            group["InstanceCount"] for group in described["ResourceConfig"].get("InstanceGroups", [])
        )
        allowed = self._ssh.ssh_instance_count if self._ssh is not None else nodes
        return int(min(nodes, allowed))

    def _boto_session(self) -> Any:
        return self.estimator.sagemaker_session.boto_session

    def _sagemaker(self) -> Any:
        return self.estimator.sagemaker_session.sagemaker_client

    def _describe(self) -> Dict[str, Any]:
        described: Dict[str, Any] = self._sagemaker().describe_training_job(
            TrainingJobName=self.resource_name()
        )
        return described


def _add_dependency(estimator: Any, folder: str) -> None:
    from sagemaker_ssh_helper.archive import PACKAGE

    # A folder of that name may be there already, from the same method: SageMaker flattens them by name.
    kept = [path for path in estimator.dependencies or [] if not str(path).endswith(PACKAGE)]
    estimator.dependencies = [*kept, folder]


class _AttachedJob:
    """What the wrapper needs of an estimator, for a job that no estimator of this process started."""

    def __init__(self, training_job_name: str, session: Any) -> None:
        self.name = training_job_name
        self.boto_session = session
        self.sagemaker_client = session.client("sagemaker")
        self.sagemaker_session = self
        try:
            self.sagemaker_client.describe_training_job(TrainingJobName=training_job_name)
        except self.sagemaker_client.exceptions.ClientError as error:
            if "not found" not in str(error):
                raise
            raise TargetNotFound(
                f"there is no training job {training_job_name!r} in {session.region_name}",
                fix="See what is there: sm-ssh list training.sagemaker",
            ) from error

    @property
    def latest_training_job(self) -> _AttachedJob:
        return self
