"""
Wrappers that give ssh to what the SageMaker Python SDK launches.

They work by duck typing: the SDK is never imported here, and its classes are told apart by what they hold.
"""

from __future__ import annotations

import abc
import logging
from datetime import timedelta
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Type, TypeVar

from sagemaker_ssh_helper.errors import (
    AccessDenied,
    AwsError,
    LaunchRefused,
    NodeNotFound,
    NotLaunched,
    SSHHelperError,
    TargetNotFound,
)
from sagemaker_ssh_helper.launch import (
    MODEL_REQUEST,
    PROCESSING_REQUEST,
    TRAINING_REQUEST,
    RequestKind,
    SshLaunch,
    add_variables,
    boto3_session,
    bring_library,
    role_name,
)
from sagemaker_ssh_helper.names import DEFAULT_INSTANCE_COUNT, DOMAIN, Env, ResourceKind

if TYPE_CHECKING:
    from sagemaker_ssh_helper.aws.resources import Resource
    from sagemaker_ssh_helper.ide import SSHIDE, NotebookInstance
    from sagemaker_ssh_helper.log import SSHLog
    from sagemaker_ssh_helper.manager import SSMManager
    from sagemaker_ssh_helper.proxy import SSMProxy

logger = logging.getLogger(__name__)

M = TypeVar("M", bound="SSHModelWrapper")

_WAITER_DELAY = 5
"""Seconds between two looks at a job whose end is waited for."""

_LOOK_INTERVAL = 2
"""Seconds between two looks for nodes that are waited for."""

_TIMEOUT = timedelta(minutes=15)
"""How long start_ssm_connection waits unless told: a time that differs from it was given by the caller."""

_WAIT_TIME = timedelta(minutes=10)
"""How long a container waits for a connection unless told; the same."""


class SSHEnvironmentWrapper(abc.ABC):
    """
    What every wrapper does: adds ssh to the environment of one SDK object, and finds its nodes later.

    Args:
        ssm_iam_role: the role that the containers register with: an ARN, or the name with its path,
            ``service-role/NAME``; empty for the role of what is wrapped.
        bootstrap_on_start: whether ``setup_and_start_ssh()`` in the container starts ssh; if not, it returns
            at once.
        connection_wait_time_seconds: how long the container waits for a connection; 0 not at all.
        sagemaker_session: gives credentials and region: an SDK session, or a boto3 session; the default boto3
            session if None.
        local_user_id: the value of the tag SSHOwner, instead of what STS tells.
        log_to_stdout: whether the agent's log goes to the container's log too.

    These are attributes, too; and ``augmented`` tells whether the environment of what is wrapped has been
    given what ssh needs. A constructor changes nothing of what it wraps: ``create`` does.
    """

    kind: ResourceKind

    def __init__(
        self,
        ssm_iam_role: str,
        bootstrap_on_start: bool = True,
        connection_wait_time_seconds: int = 600,
        sagemaker_session: Any = None,
        local_user_id: Optional[str] = None,
        log_to_stdout: bool = False,
    ) -> None:
        self.ssm_iam_role = self.ssm_role_from_iam_arn(ssm_iam_role) if ssm_iam_role else ""
        self.bootstrap_on_start = bootstrap_on_start
        self.connection_wait_time_seconds = connection_wait_time_seconds
        self.sagemaker_session = sagemaker_session
        self.local_user_id = local_user_id
        self.log_to_stdout = log_to_stdout
        self.augmented = False
        self._ssh: Optional[SshLaunch] = None
        self._clients: Dict[str, Any] = {}

    @property
    @abc.abstractmethod
    def _wrapped(self) -> Any:
        """The object of the SDK, or what stands for one."""

    @cached_property
    def ssm_manager(self) -> SSMManager:
        """Finds the managed instances; may be replaced."""
        from sagemaker_ssh_helper.manager import SSMManager

        return SSMManager(
            sleep_between_retries_in_seconds=_LOOK_INTERVAL, session=boto3_session(self.sagemaker_session)
        )

    @cached_property
    def ssh_log(self) -> SSHLog:
        """Looks into the logs, and links to them; may be replaced."""
        from sagemaker_ssh_helper.log import SSHLog

        return SSHLog(session=boto3_session(self.sagemaker_session))

    def region(self) -> str:
        """The region of what is wrapped."""
        return str(self._boto_session().region_name)

    @classmethod
    def attach_arn(cls, arn: str, sagemaker_session: Any = None) -> SSHEnvironmentWrapper:
        """
        As attach, by an ARN, which tells the kind: called on any class it gives the wrapper of that kind.

        Without ``sagemaker_session`` the region is the ARN's. Raises WrongRegion for an ARN of another region
        than the session's, TargetNotFound for one that names nothing a wrapper is for.
        """
        from sagemaker_ssh_helper.aws.instances import kind_of_arn

        parts = arn.split(":", 5)
        kind = kind_of_arn(arn) if len(parts) == 6 and parts[2] == "sagemaker" else None
        wrapper = next((each for each in _WRAPPERS if each.kind is kind), None)
        if wrapper is None:
            labels = ", ".join(each.kind.label for each in _WRAPPERS)
            raise TargetNotFound(f"{arn!r} names none of these: {labels}")
        if sagemaker_session is None:
            import boto3

            session = boto3.Session(region_name=parts[3])
        else:
            session = boto3_session(sagemaker_session)
        if session.region_name != parts[3]:
            from sagemaker_ssh_helper.client import naming

            raise naming.elsewhere(f"{arn} is not in {session.region_name}", parts[3])
        names = parts[5].split("/")[1:]
        if wrapper is SSHIDEWrapper and len(names) == 4:
            domain, user, _, app = names
            return SSHIDEWrapper.attach(domain, user, app, session)
        return wrapper._attach_named(names[-1], session)

    @classmethod
    def attach_to_resource(
        cls, fqdn: str, domain_id: str = "", user_profile_name: str = "", sagemaker_session: Any = None
    ) -> SSHEnvironmentWrapper:
        """
        As attach, by what a user has at hand: a host name, ``NAME.TYPE.sagemaker``, or an ARN.

        ``domain_id`` and ``user_profile_name`` say whose app of Studio is meant. Raises UsageError for a text
        that is neither, TargetNotFound as attach_arn does.
        """
        if fqdn.startswith("arn:"):
            return cls.attach_arn(fqdn, sagemaker_session)
        from sagemaker_ssh_helper.targets import Target

        target = Target.parse(fqdn)
        wrapper = next((each for each in _WRAPPERS if each.kind is target.kind), None)
        if wrapper is None:
            labels = ", ".join(each.kind.label for each in _WRAPPERS)
            raise TargetNotFound(f"{fqdn!r} names none of these: {labels}")
        if wrapper is SSHIDEWrapper:
            return SSHIDEWrapper.attach(domain_id, user_profile_name, target.name, sagemaker_session)
        return wrapper._attach_named(target.name, sagemaker_session)

    @classmethod
    @abc.abstractmethod
    def _attach_named(cls, name: str, session: Any) -> SSHEnvironmentWrapper:
        """As the ``attach`` of each wrapper, by the resource's name alone."""

    @abc.abstractmethod
    def resource_name(self) -> str:
        """The name SageMaker knows the launched resource by. Raises NotLaunched before the launch."""

    def _boto_session(self) -> Any:
        """The boto3 session of the wrapped object: its credentials, its region."""
        return boto3_session(self.sagemaker_session)

    def is_job_in_progress(self) -> bool:
        """Whether a container of it may run now: always in the SDK's local mode, where AWS cannot tell."""
        return self._is_local() or not self._describe().ended

    def _is_local(self) -> bool:
        """Whether its containers run on this machine, in the SDK's local mode."""
        return getattr(self.sagemaker_session, "local_mode", False) is True

    def _describe(self) -> Resource:
        """What AWS says of it now. Raises TargetNotFound when it is not there."""
        from sagemaker_ssh_helper.client import naming

        return naming.described(self._boto_session(), self.kind, self.resource_name())

    def _describe_if_allowed(self) -> Optional[Resource]:
        """The same; None in local mode, and when AWS does not say: whoever may connect need not see it."""
        if self._is_local():
            return None
        try:
            return self._describe()
        except AwsError:
            return None

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = self._boto_session().client(service)
        return self._clients[service]

    def _wait(self, waiter_name: str, name_member: str) -> None:
        """Wait with a waiter of boto3. Raises botocore's WaiterError for a failed resource."""
        # The waiters' own pause is up to two minutes, and their patience hours; a job may run for 28 days.
        patience = {"Delay": _WAITER_DELAY, "MaxAttempts": 28 * 86400 // _WAITER_DELAY}
        waiter = self._client("sagemaker").get_waiter(waiter_name)
        waiter.wait(**{name_member: self.resource_name()}, WaiterConfig=patience)

    @classmethod
    def dependency_dir(cls) -> str:
        """A folder with this library, to be given to the SDK: ``dependencies=[….dependency_dir()]``."""
        from sagemaker_ssh_helper import archive

        return archive.dependency_dir()

    @classmethod
    def ssm_role_from_iam_arn(cls, iam_arn: str) -> str:
        """
        The role's name with its path, which is what Systems Manager takes: ``service-role/NAME``.

        Takes the ARN of a role of any partition, or such a name with a path. Raises LaunchRefused, a
        ValueError, for anything else.
        """
        if iam_arn.startswith("arn:"):
            return role_name(iam_arn)
        path, slash, name = iam_arn.rpartition("/")
        if not (path and slash and name):
            raise LaunchRefused(
                f"{iam_arn!r} is neither the ARN of a role nor a role's name with its path",
                fix="Give arn:aws:iam::ACCOUNT:role/NAME, or service-role/NAME",
            )
        return iam_arn

    def get_instance_ids(self, retry: Optional[int] = None, timeout_in_sec: int = 900) -> List[str]:
        """
        The managed instances of the nodes that were launched with ssh, ``algo-1`` first.

        Waits up to ``timeout_in_sec`` seconds for all of them, and returns those that came; of a job that has
        ended, those that are still registered. ``retry`` is deprecated, and has no effect. Raises NotLaunched
        before the launch, TargetNotFound when there is no such resource, TargetEnded when it has ended and
        nothing of it is registered any more.
        """
        self.retry_deprecated_warning(retry, timeout_in_sec)
        name, count = self._registered_name(), 1
        if self._ssh is not None:
            count = min(_node_count(self._wrapped), self._ssh.ssh_instance_count)
        elif (described := self._describe_if_allowed()) is not None:
            count = described.ssh_nodes or described.instance_count or 1
            # AWS describes a name in any letter case; the containers know it as it was given.
            name = described.name if described.name.lower() == name.lower() else name
        found = self.ssm_manager.get_instance_ids_of(
            self.kind, name, timeout_in_sec=timeout_in_sec, count=count, over=self._is_over
        )
        if found or self._is_local():
            return found
        described = self._describe_if_allowed()
        if described is None or not described.ended:
            return []
        registered = self.ssm_manager.get_registered_ids_of(self.kind, name)
        if not registered:
            from sagemaker_ssh_helper.aws import instances

            raise instances.ended(described)
        return registered

    def _is_over(self) -> bool:
        """Whether no node will come any more, as far as it can be told."""
        described = self._describe_if_allowed()
        return described is not None and described.ended

    def get_instance_id(self, retry: Optional[int] = None, timeout_in_sec: int = 900, index: int = 0) -> str:
        """
        The managed instance of one node, by its rank counted from 0; otherwise as get_instance_ids.

        Raises NodeNotFound, an IndexError, when there are not as many.
        """
        found = self.get_instance_ids(retry=retry, timeout_in_sec=timeout_in_sec)
        if index >= len(found):
            raise NodeNotFound(
                f"{self.resource_name()} has {len(found)} reachable nodes, and none with the index {index}",
                fix=f"See what is there: sm-ssh list {self.fqdn()}",
            )
        return found[index]

    def retry_deprecated_warning(self, retry: Optional[int], timeout_in_sec: int) -> None:
        """Log a warning when the deprecated ``retry`` is given: ``timeout_in_sec`` counts, and it alone."""
        if retry is not None:
            logger.warning(
                "retry=%s has no effect: timeout_in_sec=%s is how long to wait", retry, timeout_in_sec
            )

    def start_ssm_connection(
        self,
        ssh_listen_port: int,
        retry: Optional[int] = None,
        timeout: timedelta = _TIMEOUT,
        timeout_in_sec: int = 900,
        extra_args: str = "",
    ) -> SSMProxy:
        """
        A tunnel from ``ssh_listen_port`` of this machine to the ssh server of the first node, which is waited
        for as get_instance_ids does: for ``timeout`` or ``timeout_in_sec``, whichever is not the default.

        The container does not wait for a connection any longer, since this is one. ``extra_args`` are further
        options of ssh: ``"-R localhost:12345:localhost:12345"``. Close it with its ``disconnect``, or use it
        as a context manager. Raises as get_instance_id, and as ``SSMProxy.connect_to_ssm_instance``.
        """
        proxy = self._connected(ssh_listen_port, retry, timeout, timeout_in_sec, extra_args)
        try:
            if self.connection_wait_time_seconds > 0:
                proxy.terminate_waiting_loop()
        except BaseException:
            proxy.disconnect()
            raise
        return proxy

    def start_ssm_connection_and_continue(
        self,
        ssh_listen_port: int,
        retry: Optional[int] = None,
        timeout_in_sec: int = 900,
        timeout: timedelta = _TIMEOUT,
        extra_args: str = "",
    ) -> None:
        """
        Prove that the first node can be reached, and let it go on: open the tunnel as start_ssm_connection
        does, run a command through it, end the waiting for connections, and close the tunnel.
        """
        with self._connected(ssh_listen_port, retry, timeout, timeout_in_sec, extra_args) as proxy:
            proxy.run_command_with_output("id")
            proxy.terminate_waiting_loop()

    def _connected(
        self,
        ssh_listen_port: int,
        retry: Optional[int],
        timeout: timedelta,
        timeout_in_sec: int,
        extra_args: str,
    ) -> SSMProxy:
        from sagemaker_ssh_helper.proxy import SSMProxy
        from sagemaker_ssh_helper.targets import Target

        if timeout != _TIMEOUT:
            timeout_in_sec = int(timeout.total_seconds())
        proxy = SSMProxy(
            ssh_listen_port,
            extra_args,
            cloudwatch_url=self.get_cloudwatch_url(),
            session=self._boto_session(),
        )
        instance_id = self.get_instance_id(retry=retry, timeout_in_sec=timeout_in_sec)
        proxy.connect_to_node_of(Target(kind=self.kind, name=self.resource_name()), instance_id)
        return proxy

    def fqdn(self) -> str:
        """The host name for ssh: ``NAME.TYPE.sagemaker``."""
        return f"{self.resource_name()}.{self.kind.domain}.{DOMAIN}"

    def print_ssh_info(self) -> None:
        """
        Print where the resource is shown in the console and its log, how to log in, and its instances.

        The instances are looked for once: a job that has just been started has none yet. Raises NotLaunched
        before the launch, and nothing else: why no instance was found is told in a line.
        """
        print(f"{self.kind.label} {self.resource_name()}")
        print(f"  console   {self.get_metadata_url()}")
        print(f"  log       {self.get_cloudwatch_url()}")
        self.print_connect_info(self.fqdn())
        try:
            found = self.get_instance_ids(timeout_in_sec=0)
        except SSHHelperError as error:
            print(f"  instance  {error}")
            return
        if not found:
            print(f"  instance  none is registered yet; see: sm-ssh list {self.fqdn()}")
        for instance_id in found:
            print(f"  instance  {instance_id}")
        if found:
            words = ["aws ssm start-session", *self._place(), "--target", found[0]]
            print(f"  or, by the AWS CLI and its plugin:  {' '.join(words)}")

    def print_connect_info(self, fqdn: str) -> None:
        """Print the commands that log in to the container of this host name."""
        place = self._place()
        print(f"  connect   {' '.join(['sm-ssh connect', *place, fqdn])}")
        print(f"  or, after {' '.join(['sm-ssh config-ssh', *place])}:  ssh {fqdn}")

    def get_cloudwatch_url(self) -> str:
        """The address of the resource's log in the console."""
        from sagemaker_ssh_helper.aws import console

        return console.log_url(self.region(), self.kind, self.resource_name())

    def get_metadata_url(self) -> str:
        """The address of the resource's page in the console."""
        from sagemaker_ssh_helper.aws import console

        return console.resource_url(self.region(), self.kind, self.resource_name())

    def _place(self) -> List[str]:
        """The options by which a command comes to this profile and region; none where it comes by itself."""
        import boto3

        from sagemaker_ssh_helper.aws.session import Session

        own = self._boto_session()
        profile = own.profile_name if own.profile_name != boto3.Session().profile_name else None
        place = ["--profile", profile] if profile else []
        try:
            region = Session.open(profile=profile).region
        except AwsError:
            region = ""
        return place if region == own.region_name else [*place, "--region", str(own.region_name)]

    def _registered_name(self) -> str:
        """The name by which its containers register."""
        return self.resource_name()

    def _variables(self, what: str, own: Optional[Mapping[str, str]], kind: RequestKind) -> Dict[str, str]:
        """``own`` variables with those of the launch."""
        assert self._ssh is not None, "a launch is prepared before its variables are asked for"
        ssh = {**self._ssh.environment(), Env.START_SSH: "true" if self.bootstrap_on_start else "false"}
        return add_variables(what, own or {}, ssh, kind)

    def _prepare(self, role: Any, nodes: int, ssh_instance_count: int = DEFAULT_INSTANCE_COUNT) -> SshLaunch:
        """A launch by this wrapper's choices. Raises LaunchRefused when there is no role."""
        name = self.ssm_iam_role
        if not name:
            if not role:
                raise LaunchRefused(
                    f"the {self.kind.label} has no role",
                    fix="Give it one: role='arn:aws:iam::ACCOUNT:role/NAME'",
                )
            if not isinstance(role, str):
                raise LaunchRefused(
                    "the role is not known before the pipeline runs",
                    fix="Give it as an ARN, or launch without ssh",
                )
            expand = getattr(self.sagemaker_session, "expand_role", None)
            # A role may be given by its name alone, which the SDK looks up.
            name = role_name(expand(role) if expand is not None else role)
        ssh = SshLaunch.prepare(
            self._boto_session(),
            name,
            connection_wait_time_seconds=self.connection_wait_time_seconds,
            ssh_instance_count=ssh_instance_count,
            local_user_id=self.local_user_id,
            log_to_stdout=self.log_to_stdout,
            nodes=nodes,
        )
        self._ssh, self.ssm_iam_role = ssh, ssh.role
        return ssh


class SSHEstimatorWrapper(SSHEnvironmentWrapper):
    """
    ssh into the containers of an estimator's training job.

    Make one by :meth:`create` before ``fit``, or by :meth:`attach` for a job that runs already.
    """

    kind = ResourceKind.TRAINING

    def __init__(
        self,
        estimator: Any,
        ssm_iam_role: str = "",
        bootstrap_on_start: bool = True,
        connection_wait_time_seconds: int = 600,
        ssh_instance_count: int = DEFAULT_INSTANCE_COUNT,
        local_user_id: Optional[str] = None,
        log_to_stdout: bool = False,
    ) -> None:
        super().__init__(
            ssm_iam_role,
            bootstrap_on_start,
            connection_wait_time_seconds,
            getattr(estimator, "sagemaker_session", None),
            local_user_id,
            log_to_stdout,
        )
        self.estimator = estimator
        self.ssm_iam_role = self.ssm_iam_role or _role_of(estimator)
        self.ssh_instance_count = ssh_instance_count

    @property
    def _wrapped(self) -> Any:
        return self.estimator

    @classmethod
    def create(
        cls,
        estimator: Any,
        connection_wait_time_seconds: int = 600,
        connection_wait_time: timedelta = _WAIT_TIME,
        ssh_instance_count: int = DEFAULT_INSTANCE_COUNT,
        local_user_id: Optional[str] = None,
        log_to_stdout: bool = False,
    ) -> SSHEstimatorWrapper:
        """
        Give ssh to ``estimator``, an estimator of the SageMaker SDK that was not started yet.

        Its ``environment`` gets what the container needs, and its ``dependencies`` this library when it ships
        code. The job's script then calls ``sagemaker_ssh_helper.setup_and_start_ssh()``; in a job of a
        ``ModelTrainer`` with ``source_code`` that is done before the script. Given to a
        ``HyperparameterTuner`` afterwards, every job of the tuning has ssh.

        Args:
            estimator: any estimator of the SDK v2, or a ModelTrainer of the SDK v3: one that ships its
                code, or an own image that holds the library.
            connection_wait_time_seconds: how long the job waits for a connection; 0 not at all.
            connection_wait_time: the wait as a timedelta; wins when it is not the default.
            ssh_instance_count: how many nodes become reachable, counted from ``algo-1``.
            local_user_id: the value of the tag SSHOwner, instead of what STS tells.
            log_to_stdout: whether the agent's log goes to the job's log too.

        Raises:
            LaunchRefused: it was started already, runs in network isolation, has no role, or more variables
                than SageMaker takes. A ValueError.
        """
        wrapper = cls(
            estimator,
            connection_wait_time_seconds=_wait_seconds(connection_wait_time_seconds, connection_wait_time),
            ssh_instance_count=ssh_instance_count,
            local_user_id=local_user_id,
            log_to_stdout=log_to_stdout,
        )
        wrapper._augment()
        return wrapper

    @classmethod
    def attach(cls, training_job_name: str, sagemaker_session: Any = None) -> SSHEstimatorWrapper:
        """
        A wrapper for a training job that was started earlier, by whatever means; nothing is asked of AWS yet.

        ``sagemaker_session`` gives credentials and region: an SDK session, or a boto3 session; the default
        boto3 session if None. Its ``estimator`` is a ``DetachedEstimator``.
        """
        from sagemaker_ssh_helper.detached_sagemaker import DetachedEstimator

        return cls(DetachedEstimator.attach(training_job_name, sagemaker_session))

    @classmethod
    def _attach_named(cls, name: str, session: Any) -> SSHEnvironmentWrapper:
        return cls.attach(name, session)

    @classmethod
    def attach_arn(cls, training_job_arn: str, sagemaker_session: Any = None) -> SSHEnvironmentWrapper:
        """As ``SSHEnvironmentWrapper.attach_arn``, under the name that this argument has for jobs."""
        return super().attach_arn(training_job_arn, sagemaker_session)

    def _augment(self) -> None:
        estimator = self.estimator
        job = _training_job(estimator)
        if job is not None:
            raise LaunchRefused(
                f"the estimator has already started {_job_name(job)}",
                fix="Call SSHEstimatorWrapper.create(estimator) before the estimator starts a job",
            )
        isolated = getattr(estimator, "enable_network_isolation", None)
        networking = getattr(estimator, "networking", None)
        if (callable(isolated) and isolated() is True) or (
            getattr(networking, "enable_network_isolation", None) is True
        ):
            raise _isolated("the estimator")
        ssh = self._prepare(estimator.role, _node_count(estimator), self.ssh_instance_count)
        estimator.environment = self._variables("the estimator", estimator.environment, TRAINING_REQUEST)
        if getattr(estimator, "entry_point", None):
            _add_dependency(estimator, self.dependency_dir())
        elif getattr(estimator, "source_code", None):
            bring_library(self._boto_session(), ssh)
        self.augmented = True

    def training_job_name(self) -> str:
        """The job's name. Raises NotLaunched before the launch."""
        return self.resource_name()

    def resource_name(self) -> str:
        job = _training_job(self.estimator)
        if job is None:
            raise NotLaunched(
                "the estimator has not started a job yet",
                fix="Call estimator.fit(wait=False) first, or train(wait=False) of a ModelTrainer; attach to "
                "the jobs of a tuner by their names",
            )
        return _job_name(job)

    def stop_training_job(self) -> None:
        """Ask SageMaker to stop the job; returns at once."""
        self._client("sagemaker").stop_training_job(TrainingJobName=self.resource_name())

    def wait_training_job(self) -> None:
        """Wait until the job has ended. Raises botocore's WaiterError when it failed."""
        self._wait("training_job_completed_or_stopped", "TrainingJobName")

    def wait_training_job_with_status(self) -> str:
        """Wait until the job has ended, and return its status: Completed, Stopped or Failed."""
        from botocore.exceptions import WaiterError

        try:
            self.wait_training_job()
        except WaiterError as error:
            # The waiter raises for a failed job, and when it could not find out; only the first is a status.
            if error.last_response.get("TrainingJobStatus") != "Failed":
                raise
        return self._describe().status

    def rule_job_summary(self) -> List[Dict[str, Any]]:
        """How the rules of the SageMaker Debugger and Profiler that watch the job are doing."""
        described = self._client("sagemaker").describe_training_job(TrainingJobName=self.resource_name())
        return [
            status
            for member in ("DebugRuleEvaluationStatuses", "ProfilerRuleEvaluationStatuses")
            for status in described.get(member) or ()
        ]


class SSHProcessorWrapper(SSHEnvironmentWrapper):
    """
    ssh into the containers of a processor's job: ScriptProcessor, a framework's, Spark's.

    Make one by :meth:`create` before ``run``, or by :meth:`attach` for a job that runs already.
    """

    kind = ResourceKind.PROCESSING

    def __init__(
        self,
        processor: Any,
        ssm_iam_role: str = "",
        bootstrap_on_start: bool = True,
        connection_wait_time_seconds: int = 600,
        *,
        ssh_instance_count: int = DEFAULT_INSTANCE_COUNT,
        local_user_id: Optional[str] = None,
        log_to_stdout: bool = False,
    ) -> None:
        super().__init__(
            ssm_iam_role,
            bootstrap_on_start,
            connection_wait_time_seconds,
            getattr(processor, "sagemaker_session", None),
            local_user_id,
            log_to_stdout,
        )
        self.processor = processor
        self.ssm_iam_role = self.ssm_iam_role or _role_of(processor)
        self.ssh_instance_count = ssh_instance_count

    @property
    def _wrapped(self) -> Any:
        return self.processor

    @classmethod
    def create(
        cls,
        processor: Any,
        connection_wait_time_seconds: int = 600,
        *,
        connection_wait_time: timedelta = _WAIT_TIME,
        ssh_instance_count: int = DEFAULT_INSTANCE_COUNT,
        local_user_id: Optional[str] = None,
        log_to_stdout: bool = False,
    ) -> SSHProcessorWrapper:
        """
        Give ssh to ``processor``, a processor of the SageMaker SDK that was not started yet.

        The library goes with the code of a FrameworkProcessor, ``run(dependencies=[…dependency_dir()])``, and
        as an input to any other, ``run(inputs=[….augmented_input()])``. Arguments as for
        ``SSHEstimatorWrapper.create``. Raises LaunchRefused as that does.
        """
        wrapper = cls(
            processor,
            connection_wait_time_seconds=_wait_seconds(connection_wait_time_seconds, connection_wait_time),
            ssh_instance_count=ssh_instance_count,
            local_user_id=local_user_id,
            log_to_stdout=log_to_stdout,
        )
        wrapper._augment()
        return wrapper

    @classmethod
    def attach(cls, processing_job_name: str, sagemaker_session: Any = None) -> SSHProcessorWrapper:
        """As ``SSHEstimatorWrapper.attach``, for a processing job and a DetachedProcessor."""
        from sagemaker_ssh_helper.detached_sagemaker import DetachedProcessor

        return cls(DetachedProcessor.attach(processing_job_name, sagemaker_session))

    @classmethod
    def _attach_named(cls, name: str, session: Any) -> SSHEnvironmentWrapper:
        return cls.attach(name, session)

    def _augment(self) -> None:
        processor = self.processor
        if getattr(processor, "latest_job", None) is not None:
            raise LaunchRefused(
                f"the processor has already started {_job_name(processor.latest_job)}",
                fix="Call SSHProcessorWrapper.create(processor) before processor.run()",
            )
        network = getattr(processor, "network_config", None)
        if network is not None and getattr(network, "enable_network_isolation", False) is True:
            raise _isolated("the processor")
        self._prepare(processor.role, _node_count(processor), self.ssh_instance_count)
        processor.env = self._variables("the processor", processor.env, PROCESSING_REQUEST)
        self.augmented = True

    def augmented_input(self) -> Any:
        """
        The library as one more input of the job: ``run(inputs=[wrapper.augmented_input(), …])``.

        It lies in ``/opt/ml/processing/input`` then, which the script puts on its path::

            sys.path.append("/opt/ml/processing/input")
            import sagemaker_ssh_helper
        """
        from sagemaker_ssh_helper.archive import PACKAGE

        source, destination = self.dependency_dir(), f"/opt/ml/processing/input/{PACKAGE}"
        # The one place where the SDK's own class is needed; a processor is there, so it is loaded already.
        try:
            from sagemaker.processing import ProcessingInput
        except ImportError:
            from sagemaker.core import shapes

            return shapes.ProcessingInput(
                input_name=PACKAGE,
                s3_input=shapes.ProcessingS3Input(
                    s3_uri=source, local_path=destination, s3_data_type="S3Prefix"
                ),
            )
        return ProcessingInput(source=source, destination=destination, input_name=PACKAGE)

    def processing_job_name(self) -> str:
        """The job's name. Raises NotLaunched before the launch."""
        return self.resource_name()

    def resource_name(self) -> str:
        job = getattr(self.processor, "latest_job", None)
        if job is None:
            raise NotLaunched(
                "the processor has not started a job yet", fix="Call processor.run(wait=False) first"
            )
        return _job_name(job)

    def get_processor_latest_job_name(self) -> str:
        """The job's name. Raises NotLaunched before the launch."""
        return self.resource_name()

    def wait_processing_job(self) -> None:
        """Wait until the job has ended. Raises botocore's WaiterError when it failed."""
        self._wait("processing_job_completed_or_stopped", "ProcessingJobName")


class SSHModelWrapper(SSHEnvironmentWrapper):
    """
    ssh into the containers of the endpoint that a model is deployed to.

    Make one by :meth:`create` before ``deploy``, or by :meth:`attach` with an endpoint's name.
    """

    kind = ResourceKind.INFERENCE

    def __init__(
        self,
        model: Any,
        ssm_iam_role: str = "",
        bootstrap_on_start: bool = True,
        connection_wait_time_seconds: int = 600,
        *,
        ssh_instance_count: int = DEFAULT_INSTANCE_COUNT,
        local_user_id: Optional[str] = None,
        log_to_stdout: bool = False,
    ) -> None:
        self.model = model
        super().__init__(
            ssm_iam_role,
            bootstrap_on_start,
            connection_wait_time_seconds,
            getattr(self._inner(), "sagemaker_session", None) or getattr(model, "sagemaker_session", None),
            local_user_id,
            log_to_stdout,
        )
        self.ssm_iam_role = self.ssm_iam_role or _role_of(self._inner()) or _role_of(model)
        self.ssh_instance_count = ssh_instance_count

    @property
    def _wrapped(self) -> Any:
        return self.model

    def _inner(self) -> Any:
        """Whose containers run: a multi-model endpoint may be made around an ordinary model."""
        return self.model if self._is_builder() else getattr(self.model, "model", None) or self.model

    def _is_builder(self) -> bool:
        """Whether it is a ModelBuilder of the SDK's version 3."""
        return hasattr(self.model, "env_vars")

    @classmethod
    def create(
        cls: Type[M],
        model: Any,
        connection_wait_time_seconds: int = 600,
        *,
        connection_wait_time: timedelta = _WAIT_TIME,
        ssh_instance_count: int = DEFAULT_INSTANCE_COUNT,
        local_user_id: Optional[str] = None,
        log_to_stdout: bool = False,
    ) -> M:
        """
        Give ssh to ``model``, a model of the SageMaker SDK that was not deployed yet, or a ``ModelBuilder``
        of its version 3 that has not built one.

        Its ``env`` gets what the container needs, and its ``dependencies`` this library when it ships code; a
        builder's ``source_code`` must hold the library.
        The inference script then calls ``sagemaker_ssh_helper.setup_and_start_ssh()`` when it is loaded.
        When SageMaker has a model of its name already, with ssh, that one is taken as it is.
        Arguments as for ``SSHEstimatorWrapper.create``. Raises LaunchRefused as that does, and when the model
        of that name has no ssh.
        """
        wrapper = cls(
            model,
            connection_wait_time_seconds=_wait_seconds(connection_wait_time_seconds, connection_wait_time),
            ssh_instance_count=ssh_instance_count,
            local_user_id=local_user_id,
            log_to_stdout=log_to_stdout,
        )
        wrapper._augment()
        return wrapper

    @classmethod
    def attach(cls: Type[M], endpoint_name: str, sagemaker_session: Any = None) -> M:
        """As ``SSHEstimatorWrapper.attach``, for an endpoint."""
        return cls(SimpleNamespace(endpoint_name=endpoint_name, sagemaker_session=sagemaker_session))

    @classmethod
    def _attach_named(cls, name: str, session: Any) -> SSHEnvironmentWrapper:
        return cls.attach(name, session)

    def _augment(self) -> None:
        model, inner, builder = self.model, self._inner(), self._is_builder()
        if getattr(model, "endpoint_name", None):
            raise LaunchRefused(
                f"the model is already deployed to {model.endpoint_name}",
                fix=f"Call {type(self).__name__}.create(model) before model.deploy()",
            )
        isolated = getattr(inner, "enable_network_isolation", None)
        if callable(isolated) and isolated() is True:
            raise _isolated("the model")
        if builder and getattr(model, "built_model", None) is not None:
            raise LaunchRefused(
                "the model is already built, with its environment",
                fix=f"Call {type(self).__name__}.create(builder) before builder.build()",
            )
        name = getattr(model, "model_name" if builder else "name", None)
        if _has_ssh(self._boto_session(), name):
            logger.warning("the model %s exists already, and its own choices of ssh hold", name)
            return
        role = inner.role_arn if builder else getattr(inner, "role", None) or model.role
        self._prepare(role, 1, self.ssh_instance_count)
        if builder:
            inner.env_vars = self._variables("the model", inner.env_vars, MODEL_REQUEST)
        else:
            inner.env = self._variables("the model", inner.env, MODEL_REQUEST)
            if getattr(inner, "entry_point", None):
                _add_dependency(inner, self.dependency_dir())
        self.augmented = True

    def endpoint_name(self) -> str:
        """The endpoint's name. Raises NotLaunched before the deployment."""
        return self.resource_name()

    def resource_name(self) -> str:
        name = getattr(self.model, "endpoint_name", None)
        if not name:
            raise NotLaunched("the model is not deployed yet", fix="Call model.deploy(wait=False, …) first")
        return str(name)

    def get_config_metadata_url(self) -> str:
        """The address of the page of the endpoint's configuration, which the SDK names like the endpoint."""
        return self.ssh_log.get_endpoint_config_metadata_url(self.endpoint_name())

    def get_model_metadata_url(self) -> str:
        """The address of the page of the model. Raises NotLaunched before it has a name."""
        name = getattr(self.model, "model_name" if self._is_builder() else "name", None)
        if not name:
            raise NotLaunched("the model has no name yet", fix="Call model.deploy(wait=False, …) first")
        return self.ssh_log.get_model_metadata_url(str(name))

    def _registered_name(self) -> str:
        # A container of an endpoint is not told the endpoint's name.
        return self._ssh.launch_id if self._ssh is not None else self.resource_name()

    def wait_for_endpoint(self) -> None:
        """Wait until the endpoint is in service. Raises botocore's WaiterError when it failed."""
        self._wait("endpoint_in_service", "EndpointName")

    def endpoint_is_online(self) -> bool:
        """Whether the endpoint is in service now."""
        return self._describe().status == "InService"


class SSHMultiModelWrapper(SSHModelWrapper):
    """
    ssh into the containers of a multi-model endpoint: as SSHModelWrapper, for a ``MultiDataModel``.

    A script that starts ssh when it is loaded does so with the first request to its model.
    """

    def __init__(
        self,
        mdm: Any,
        ssm_iam_role: str = "",
        bootstrap_on_start: bool = True,
        connection_wait_time_seconds: int = 600,
        *,
        ssh_instance_count: int = DEFAULT_INSTANCE_COUNT,
        local_user_id: Optional[str] = None,
        log_to_stdout: bool = False,
    ) -> None:
        super().__init__(
            mdm,
            ssm_iam_role,
            bootstrap_on_start,
            connection_wait_time_seconds,
            ssh_instance_count=ssh_instance_count,
            local_user_id=local_user_id,
            log_to_stdout=log_to_stdout,
        )

    @property
    def mdm(self) -> Any:
        """What is wrapped."""
        return self.model

    @classmethod
    def create(  # type: ignore[override]  # the documented name of what is wrapped
        cls: Type[M], mdm: Any, connection_wait_time_seconds: int = 600, **options: Any
    ) -> M:
        """As ``SSHModelWrapper.create``, with its keyword arguments."""
        return super().create(mdm, connection_wait_time_seconds, **options)


class SSHTransformerWrapper(SSHEnvironmentWrapper):
    """
    ssh into the containers of a transformer's job.

    Make one by :meth:`create` before ``transform``, or by :meth:`attach` for a job that runs already.
    """

    kind = ResourceKind.TRANSFORM

    def __init__(self, transformer: Any, model_wrapper: SSHModelWrapper) -> None:
        super().__init__(
            "",
            model_wrapper.bootstrap_on_start,
            model_wrapper.connection_wait_time_seconds,
            getattr(transformer, "sagemaker_session", None),
            model_wrapper.local_user_id,
            model_wrapper.log_to_stdout,
        )
        self.ssm_iam_role = model_wrapper.ssm_iam_role
        self.transformer = transformer
        self.model_wrapper = model_wrapper

    @property
    def _wrapped(self) -> Any:
        return self.transformer

    @classmethod
    def create(cls, transformer: Any, model_wrapper: SSHModelWrapper) -> SSHTransformerWrapper:
        """
        ssh for ``transformer``, whose model was given it by ``SSHModelWrapper.create`` before.

        A transform job's containers have the environment of their model: that one's choices hold. Raises
        LaunchRefused when the transformer was started already.
        """
        if getattr(transformer, "latest_transform_job", None) is not None:
            raise LaunchRefused(
                f"the transformer has already started {_job_name(transformer.latest_transform_job)}",
                fix="Call SSHTransformerWrapper.create(transformer, …) before transformer.transform()",
            )
        wrapper = cls(transformer, model_wrapper)
        wrapper._ssh, wrapper.augmented = model_wrapper._ssh, model_wrapper.augmented
        return wrapper

    @classmethod
    def attach(cls, transform_job_name: str, sagemaker_session: Any = None) -> SSHTransformerWrapper:
        """As ``SSHEstimatorWrapper.attach``, for a batch transform job."""
        job = SimpleNamespace(name=transform_job_name, job_name=transform_job_name)
        transformer = SimpleNamespace(latest_transform_job=job, sagemaker_session=sagemaker_session)
        return cls(transformer, SSHModelWrapper(SimpleNamespace(sagemaker_session=sagemaker_session)))

    @classmethod
    def _attach_named(cls, name: str, session: Any) -> SSHEnvironmentWrapper:
        return cls.attach(name, session)

    def transform_job_name(self) -> str:
        """The job's name. Raises NotLaunched before the launch."""
        return self.resource_name()

    def resource_name(self) -> str:
        job = getattr(self.transformer, "latest_transform_job", None)
        if job is None:
            raise NotLaunched(
                "the transformer has not started a job yet",
                fix="Call transformer.transform(wait=False, …) first",
            )
        return _job_name(job)

    def get_transformer_latest_job_name(self) -> str:
        """The job's name. Raises NotLaunched before the launch."""
        return self.resource_name()

    def wait_transform_job(self) -> None:
        """Wait until the job has ended. Raises botocore's WaiterError when it failed."""
        self._wait("transform_job_completed_or_stopped", "TransformJobName")


class SSHNotebookInstanceWrapper(SSHEnvironmentWrapper):
    """ssh into a notebook instance. Make one by :meth:`attach` with its name."""

    kind = ResourceKind.NOTEBOOK

    def __init__(
        self,
        ssm_iam_role: str,
        notebook_instance: NotebookInstance,
        bootstrap_on_start: bool = True,
        connection_wait_time_seconds: int = 600,
        sagemaker_session: Any = None,
        local_user_id: Optional[str] = None,
        log_to_stdout: bool = False,
    ) -> None:
        super().__init__(
            ssm_iam_role,
            bootstrap_on_start,
            connection_wait_time_seconds,
            sagemaker_session,
            local_user_id,
            log_to_stdout,
        )
        self.notebook_instance = notebook_instance

    @property
    def _wrapped(self) -> Any:
        return self.notebook_instance

    @classmethod
    def attach(cls, notebook_name: str, sagemaker_session: Any = None) -> SSHNotebookInstanceWrapper:
        """As ``SSHEstimatorWrapper.attach``, for a notebook instance."""
        from sagemaker_ssh_helper.ide import NotebookInstance

        notebook = NotebookInstance(notebook_name, session=boto3_session(sagemaker_session))
        return cls("", notebook, sagemaker_session=sagemaker_session)

    @classmethod
    def _attach_named(cls, name: str, session: Any) -> SSHEnvironmentWrapper:
        return cls.attach(name, session)

    def resource_name(self) -> str:
        return self.notebook_instance.notebook_name


class SSHIDEWrapper(SSHEnvironmentWrapper):
    """ssh into an app of SageMaker Studio. Make one by :meth:`attach`."""

    kind = ResourceKind.STUDIO

    def __init__(
        self,
        ssm_iam_role: str,
        ide: SSHIDE,
        bootstrap_on_start: bool = True,
        connection_wait_time_seconds: int = 600,
        sagemaker_session: Any = None,
        local_user_id: Optional[str] = None,
        log_to_stdout: bool = False,
    ) -> None:
        super().__init__(
            ssm_iam_role,
            bootstrap_on_start,
            connection_wait_time_seconds,
            sagemaker_session,
            local_user_id,
            log_to_stdout,
        )
        self.ide = ide
        self.app_name = ""
        self.not_earlier_than_timestamp: float = 0

    @property
    def _wrapped(self) -> Any:
        return self.ide

    @classmethod
    def attach(
        cls,
        domain_id: str,
        user_profile_name: str,
        app_name: str,
        sagemaker_session: Any = None,
        not_earlier_than_timestamp: float = 0,
    ) -> SSHIDEWrapper:
        """
        As ``SSHEstimatorWrapper.attach``, for one user's app of Studio; an empty domain, or user, is any.

        Instances that registered before ``not_earlier_than_timestamp``, in seconds since the epoch, are not
        taken for the app's.
        """
        from sagemaker_ssh_helper.ide import SSHIDE

        ide = SSHIDE(domain_id, user_profile_name, session=boto3_session(sagemaker_session))
        wrapper = cls("", ide, sagemaker_session=sagemaker_session)
        wrapper.app_name, wrapper.not_earlier_than_timestamp = app_name, not_earlier_than_timestamp
        return wrapper

    @classmethod
    def _attach_named(cls, name: str, session: Any) -> SSHIDEWrapper:
        return cls.attach("", "", name, session)

    def resource_name(self) -> str:
        return self.app_name

    def get_instance_ids(self, retry: Optional[int] = None, timeout_in_sec: int = 900) -> List[str]:
        """The live managed instances of the app, newest first; waits for the first as long as given."""
        self.retry_deprecated_warning(retry, timeout_in_sec)
        manager, since = self.ssm_manager, self.not_earlier_than_timestamp
        if not self.ide.user:
            return manager.get_studio_kgw_instance_ids(self.app_name, timeout_in_sec, since)
        return manager.get_studio_user_kgw_instance_ids(
            self.ide.domain_id, self.ide.user, self.app_name, timeout_in_sec, since
        )

    def get_cloudwatch_url(self) -> str:
        return self.ssh_log.get_ide_cloudwatch_url(self.ide.domain_id, self.ide.user, self.app_name)

    def get_metadata_url(self) -> str:
        return self.ssh_log.get_ide_metadata_url(self.ide.domain_id, self.ide.user)


_WRAPPERS = (
    SSHEstimatorWrapper,
    SSHProcessorWrapper,
    SSHModelWrapper,
    SSHTransformerWrapper,
    SSHNotebookInstanceWrapper,
    SSHIDEWrapper,
)


def _role_of(wrapped: Any) -> str:
    """The role of an object of the SDK, as far as it is a name with its path by now; else empty."""
    role = getattr(wrapped, "role", None)
    try:
        return SSHEnvironmentWrapper.ssm_role_from_iam_arn(role) if isinstance(role, str) else ""
    except LaunchRefused:
        return ""


def _wait_seconds(seconds: int, time: timedelta) -> int:
    """The wait that was asked for, where either of two arguments may have been given."""
    if not hasattr(time, "total_seconds"):
        raise LaunchRefused(
            f"connection_wait_time is not a timedelta: {time!r}",
            fix="Give seconds as connection_wait_time_seconds",
        )
    return seconds if time == _WAIT_TIME else int(time.total_seconds())


def _has_ssh(session: Any, model_name: Any) -> bool:
    """
    Whether there is a model of this name, with ssh. Raises LaunchRefused when it is without: the SDK then
    goes on with that one as it is.
    """
    if not isinstance(model_name, str):
        return False
    from sagemaker_ssh_helper.aws import resources
    from sagemaker_ssh_helper.aws.json_rpc import Client
    from sagemaker_ssh_helper.aws.session import Session

    try:
        environments = resources.model_environments(Client(Session.from_boto3(session)), model_name)
    except AccessDenied:
        return False
    if environments is None:
        return False
    if any(Env.START_SSH in environment for environment in environments):
        return True
    raise LaunchRefused(
        f"the model {model_name} exists already, and SageMaker changes no model",
        fix="Delete it, or give this one another name, and call create before the model is made, deployed or "
        "given to a transformer",
    )


def _training_job(estimator: Any) -> Any:
    """The job that an estimator has started, if any: version 3 of the SDK keeps it to itself."""
    job = getattr(estimator, "latest_training_job", None)
    return getattr(estimator, "_latest_training_job", None) if job is None else job


def _job_name(job: Any) -> str:
    """The name of a job of the SDK: ``job_name``, in its version 3 ``training_job_name`` and the like."""
    names = ("job_name", "training_job_name", "processing_job_name", "transform_job_name", "name")
    return str(next(getattr(job, name) for name in names if hasattr(job, name)))


def _node_count(wrapped: Any) -> int:
    """Of the job that an object of the SDK will start: its own count, its compute's, or its groups'."""
    for holder in (wrapped, getattr(wrapped, "compute", None)):
        groups = getattr(holder, "instance_groups", None)
        counts = [getattr(each, "instance_count", None) for each in groups or [holder]]
        nodes = [count for count in counts if isinstance(count, int)]
        if nodes:
            return sum(nodes)
    return 1


def _isolated(what: str) -> LaunchRefused:
    return LaunchRefused(
        f"{what} runs in network isolation, where nothing can reach Systems Manager",
        fix="Make it without enable_network_isolation, or without ssh",
    )


def _add_dependency(shipped: Any, folder: str) -> None:
    from sagemaker_ssh_helper.archive import PACKAGE

    # A folder of that name may be there already, from the same method: SageMaker flattens them by name.
    kept = [path for path in shipped.dependencies or [] if not str(path).endswith(PACKAGE)]
    shipped.dependencies = [*kept, folder]
