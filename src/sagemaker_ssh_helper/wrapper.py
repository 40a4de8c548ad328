"""
Wrappers that give ssh to what the SageMaker Python SDK launches.

They work by duck typing: the SDK is never imported here, and its classes are told apart by what they hold.
"""

from __future__ import annotations

import abc
import logging
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Type, TypeVar

from sagemaker_ssh_helper.errors import (
    AccessDenied,
    AwsError,
    LaunchRefused,
    NodeNotFound,
    TargetNotFound,
    WrongRegion,
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
from sagemaker_ssh_helper.names import DOMAIN, Env, ResourceKind

if TYPE_CHECKING:
    from datetime import timedelta

    from sagemaker_ssh_helper.aws.resources import Resource
    from sagemaker_ssh_helper.manager import SSMManager
    from sagemaker_ssh_helper.proxy import SSMProxy

logger = logging.getLogger(__name__)

W = TypeVar("W", bound="SSHEnvironmentWrapper")

_WAITER_DELAY = 5
"""Seconds between two looks at a job whose end is waited for."""


class SSHEnvironmentWrapper(abc.ABC):
    """
    What every wrapper does: adds ssh to the environment of one SDK object, and finds its nodes later.
    """

    kind: ResourceKind

    def __init__(self, wrapped: Any, ssh: Optional[SshLaunch] = None) -> None:
        self._wrapped = wrapped
        self._ssh = ssh
        self._clients: Dict[str, Any] = {}

    @classmethod
    def attach(cls: Type[W], resource_name: str, sagemaker_session: Any = None) -> W:
        """
        A wrapper for a resource that was launched earlier, by whatever means.

        ``sagemaker_session`` gives credentials and region: an SDK session, or a boto3 session; the default
        boto3 session if None. Raises TargetNotFound when there is no such resource in its region: WrongRegion
        when another region has it that the environment or a profile names. With a LocalSession of the SDK
        nothing is asked: AWS knows nothing of what runs in local mode.
        """
        return cls(_Attached(cls.kind, resource_name, sagemaker_session))

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
            raise _elsewhere(f"{arn} is not in {session.region_name}", parts[3])
        return wrapper.attach(parts[5].rpartition("/")[2], session)

    @classmethod
    def attach_to_resource(cls, resource: str, sagemaker_session: Any = None) -> SSHEnvironmentWrapper:
        """
        As attach, by what a user has at hand: an ARN or a host name, ``NAME.TYPE.sagemaker``.

        Raises UsageError for a text that is neither, TargetNotFound as attach_arn does.
        """
        if resource.startswith("arn:"):
            return cls.attach_arn(resource, sagemaker_session)
        from sagemaker_ssh_helper.targets import Target

        target = Target.parse(resource)
        wrapper = next((each for each in _WRAPPERS if each.kind is target.kind), None)
        if wrapper is None:
            labels = ", ".join(each.kind.label for each in _WRAPPERS)
            raise TargetNotFound(f"{resource!r} names none of these: {labels}")
        return wrapper.attach(target.name, sagemaker_session)

    @abc.abstractmethod
    def resource_name(self) -> str:
        """The name SageMaker knows the launched resource by. Raises TargetNotFound before the launch."""

    def _boto_session(self) -> Any:
        """The boto3 session of the wrapped object: its credentials, its region."""
        return boto3_session(getattr(self._wrapped, "sagemaker_session", None))

    def is_job_in_progress(self) -> bool:
        """Whether a container of it may run now: always in the SDK's local mode, where AWS cannot tell."""
        name = self.resource_name()
        return _is_local(self._wrapped) or not _described(self._boto_session(), self.kind, name).ended

    def _describe(self) -> Resource:
        """What AWS says of it now. Raises TargetNotFound when it is gone."""
        return _described(self._boto_session(), self.kind, self.resource_name())

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

    @staticmethod
    def ssm_role_from_iam_arn(iam_arn: str) -> str:
        """The role's name with its path, which is what Systems Manager takes: ``service-role/Name``."""
        return role_name(iam_arn)

    def get_instance_ids(self, retry: Optional[int] = None, timeout_in_sec: int = 900) -> List[str]:
        """
        The managed instances of the nodes that were launched with ssh, ``algo-1`` first.

        Waits up to ``timeout_in_sec`` seconds for all of them, and returns those that came. ``retry`` is the
        older name of the same limit, in steps of 10 seconds. Raises TargetNotFound before the launch,
        TargetEnded at once when no container of it runs any more.
        """
        if retry is not None:
            timeout_in_sec = retry * 10
        found = self._manager().get_instance_ids_of(
            self.kind,
            self._registered_name(),
            timeout_in_sec=timeout_in_sec,
            count=self._expected_nodes(),
            over=lambda: not self.is_job_in_progress(),
        )
        if not found and not _is_local(self._wrapped):
            described = self._describe()
            if described.ended:
                from sagemaker_ssh_helper.aws import instances

                raise instances.ended(described)
        return found

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

    def start_ssm_connection(
        self,
        ssh_listen_port: int,
        retry: Optional[int] = None,
        timeout_in_sec: int = 900,
        extra_args: str = "",
    ) -> SSMProxy:
        """
        A tunnel from ``ssh_listen_port`` of this machine to the ssh server of the first node, which is waited
        for as get_instance_ids does.

        ``extra_args`` are further options of ssh: ``"-R localhost:12345:localhost:12345"``. Close it with its
        ``disconnect``, or use it as a context manager. Raises as get_instance_id, and as
        ``SSMProxy.connect_to_ssm_instance``.
        """
        from sagemaker_ssh_helper.proxy import SSMProxy
        from sagemaker_ssh_helper.targets import Target

        proxy = SSMProxy(ssh_listen_port, extra_args, session=self._boto_session())
        instance_id = self.get_instance_id(retry=retry, timeout_in_sec=timeout_in_sec)
        proxy.connect_to_node_of(Target(kind=self.kind, name=self.resource_name()), instance_id)
        return proxy

    def start_ssm_connection_and_continue(
        self,
        ssh_listen_port: int,
        retry: Optional[int] = None,
        timeout_in_sec: int = 900,
        extra_args: str = "",
    ) -> None:
        """
        Prove that the first node can be reached, and let it go on: open the tunnel as start_ssm_connection
        does, run a command through it, end the waiting for connections, and close the tunnel.
        """
        with self.start_ssm_connection(ssh_listen_port, retry, timeout_in_sec, extra_args) as proxy:
            proxy.run_command_with_output("id")
            proxy.terminate_waiting_loop()

    def fqdn(self) -> str:
        """The host name for ssh: ``NAME.TYPE.sagemaker``."""
        return f"{self.resource_name()}.{self.kind.domain}.{DOMAIN}"

    def print_ssh_info(self) -> None:
        """Print where the resource is shown in the console and its log, and how to log in."""
        print(f"{self.kind.label} {self.resource_name()}")
        print(f"  console  {self.get_metadata_url()}")
        print(f"  log      {self.get_cloudwatch_url()}")
        place = self._place()
        print(f"  connect  {' '.join(['sm-ssh connect', *place, self.fqdn()])}")
        print(f"  or, after {' '.join(['sm-ssh config-ssh', *place])}:  ssh {self.fqdn()}")

    def get_cloudwatch_url(self) -> str:
        """The address of the resource's log in the console."""
        from sagemaker_ssh_helper.aws import console

        return console.log_url(self._region(), self.kind, self.resource_name())

    def get_metadata_url(self) -> str:
        """The address of the resource's page in the console."""
        from sagemaker_ssh_helper.aws import console

        return console.resource_url(self._region(), self.kind, self.resource_name())

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

    def _expected_nodes(self) -> int:
        """How many nodes should register: no call is made for it."""
        nodes = _node_count(self._wrapped)
        return min(nodes, self._ssh.ssh_instance_count) if self._ssh is not None else nodes

    def _registered_name(self) -> str:
        """The name by which its containers register."""
        return self.resource_name()

    def _manager(self) -> SSMManager:
        from sagemaker_ssh_helper.manager import SSMManager

        return SSMManager(session=self._boto_session())

    def _region(self) -> str:
        return str(self._boto_session().region_name)


class SSHEstimatorWrapper(SSHEnvironmentWrapper):
    """
    ssh into the containers of an estimator's training job.

    Make one by :meth:`create` before ``fit``, or by :meth:`attach` for a job that runs already.
    """

    kind = ResourceKind.TRAINING

    @property
    def estimator(self) -> Any:
        """What was wrapped."""
        return self._wrapped

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
        code. The job's script then calls ``sagemaker_ssh_helper.setup_and_start_ssh()``; in a job of a
        ``ModelTrainer`` with ``source_code`` that is done before the script. Given to a
        ``HyperparameterTuner`` afterwards, every job of the tuning has ssh.

        Args:
            estimator: any estimator of the SDK v2, or a ModelTrainer of the SDK v3: one that ships its
                code, or an own image that holds the library.
            connection_wait_time_seconds: how long the job waits for a connection; 0 not at all.
            ssh_instance_count: how many nodes become reachable, counted from ``algo-1``.
            local_user_id: the value of the tag SSHOwner, instead of what STS tells.
            log_to_stdout: whether the agent's log goes to the job's log too.
            connection_wait_time: the wait as a timedelta; wins when given.

        Raises:
            LaunchRefused: it was started already, runs in network isolation, has no role, or more variables
                than SageMaker takes.
        """
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
        ssh = _prepare(
            estimator,
            estimator.role,
            connection_wait_time_seconds=connection_wait_time_seconds,
            connection_wait_time=connection_wait_time,
            ssh_instance_count=ssh_instance_count,
            local_user_id=local_user_id,
            log_to_stdout=log_to_stdout,
        )
        estimator.environment = _variables("the estimator", estimator.environment, ssh, TRAINING_REQUEST)
        if getattr(estimator, "entry_point", None):
            _add_dependency(estimator, cls.dependency_dir())
        elif getattr(estimator, "source_code", None):
            bring_library(boto3_session(estimator.sagemaker_session), ssh)
        return cls(estimator, ssh)

    def training_job_name(self) -> str:
        """The job's name. Raises TargetNotFound before the launch."""
        return self.resource_name()

    def resource_name(self) -> str:
        if isinstance(self._wrapped, _Attached):
            return self._wrapped.name
        job = _training_job(self._wrapped)
        if job is None:
            raise TargetNotFound(
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

    @classmethod
    def create(
        cls,
        processor: Any,
        connection_wait_time_seconds: int = 600,
        ssh_instance_count: int = 2,
        local_user_id: Optional[str] = None,
        log_to_stdout: bool = False,
        connection_wait_time: Optional[timedelta] = None,
    ) -> SSHProcessorWrapper:
        """
        Give ssh to ``processor``, a processor of the SageMaker SDK that was not started yet.

        The library goes with the code of a FrameworkProcessor, ``run(dependencies=[…dependency_dir()])``, and
        as an input to any other, ``run(inputs=[….augmented_input()])``. Arguments as for
        ``SSHEstimatorWrapper.create``. Raises LaunchRefused as that does.
        """
        if getattr(processor, "latest_job", None) is not None:
            raise LaunchRefused(
                f"the processor has already started {_job_name(processor.latest_job)}",
                fix="Call SSHProcessorWrapper.create(processor) before processor.run()",
            )
        network = getattr(processor, "network_config", None)
        if network is not None and getattr(network, "enable_network_isolation", False) is True:
            raise _isolated("the processor")
        ssh = _prepare(
            processor,
            processor.role,
            connection_wait_time_seconds=connection_wait_time_seconds,
            connection_wait_time=connection_wait_time,
            ssh_instance_count=ssh_instance_count,
            local_user_id=local_user_id,
            log_to_stdout=log_to_stdout,
        )
        processor.env = _variables("the processor", processor.env, ssh, PROCESSING_REQUEST)
        return cls(processor, ssh)

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
        """The job's name. Raises TargetNotFound before the launch."""
        return self.resource_name()

    def resource_name(self) -> str:
        if isinstance(self._wrapped, _Attached):
            return self._wrapped.name
        job = getattr(self._wrapped, "latest_job", None)
        if job is None:
            raise TargetNotFound(
                "the processor has not started a job yet", fix="Call processor.run(wait=False) first"
            )
        return _job_name(job)

    def wait_processing_job(self) -> None:
        """Wait until the job has ended. Raises botocore's WaiterError when it failed."""
        self._wait("processing_job_completed_or_stopped", "ProcessingJobName")


class SSHModelWrapper(SSHEnvironmentWrapper):
    """
    ssh into the containers of the endpoint that a model is deployed to.

    Make one by :meth:`create` before ``deploy``, or by :meth:`attach` with an endpoint's name.
    """

    kind = ResourceKind.INFERENCE

    @classmethod
    def create(
        cls: Type[W],
        model: Any,
        connection_wait_time_seconds: int = 600,
        ssh_instance_count: int = 2,
        local_user_id: Optional[str] = None,
        log_to_stdout: bool = False,
        connection_wait_time: Optional[timedelta] = None,
    ) -> W:
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
        if getattr(model, "endpoint_name", None):
            raise LaunchRefused(
                f"the model is already deployed to {model.endpoint_name}",
                fix=f"Call {cls.__name__}.create(model) before model.deploy()",
            )
        # A multi-model endpoint may be made around an ordinary model, whose containers then run.
        builder = hasattr(model, "env_vars")
        inner = model if builder else getattr(model, "model", None) or model
        isolated = getattr(inner, "enable_network_isolation", None)
        if callable(isolated) and isolated() is True:
            raise _isolated("the model")
        if builder and getattr(model, "built_model", None) is not None:
            raise LaunchRefused(
                "the model is already built, with its environment",
                fix=f"Call {cls.__name__}.create(builder) before builder.build()",
            )
        holder = inner if getattr(inner, "sagemaker_session", None) is not None else model
        name = getattr(model, "model_name" if builder else "name", None)
        if _has_ssh(holder, name):
            logger.warning("the model %s exists already, and its own choices of ssh hold", name)
            return cls(model)
        ssh = _prepare(
            holder,
            inner.role_arn if builder else getattr(inner, "role", None) or model.role,
            connection_wait_time_seconds=connection_wait_time_seconds,
            connection_wait_time=connection_wait_time,
            ssh_instance_count=ssh_instance_count,
            local_user_id=local_user_id,
            log_to_stdout=log_to_stdout,
        )
        if builder:
            inner.env_vars = _variables("the model", inner.env_vars, ssh, MODEL_REQUEST)
            return cls(model, ssh)
        inner.env = _variables("the model", inner.env, ssh, MODEL_REQUEST)
        if getattr(inner, "entry_point", None):
            _add_dependency(inner, cls.dependency_dir())
        return cls(model, ssh)

    def endpoint_name(self) -> str:
        """The endpoint's name. Raises TargetNotFound before the deployment."""
        return self.resource_name()

    def resource_name(self) -> str:
        if isinstance(self._wrapped, _Attached):
            return self._wrapped.name
        name = getattr(self._wrapped, "endpoint_name", None)
        if not name:
            raise TargetNotFound(
                "the model is not deployed yet", fix="Call model.deploy(wait=False, …) first"
            )
        return str(name)

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


class SSHTransformerWrapper(SSHEnvironmentWrapper):
    """
    ssh into the containers of a transformer's job.

    Make one by :meth:`create` before ``transform``, or by :meth:`attach` for a job that runs already.
    """

    kind = ResourceKind.TRANSFORM

    @classmethod
    def create(cls, transformer: Any, ssh_model_wrapper: SSHModelWrapper) -> SSHTransformerWrapper:
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
        return cls(transformer, ssh_model_wrapper._ssh)

    def transform_job_name(self) -> str:
        """The job's name. Raises TargetNotFound before the launch."""
        return self.resource_name()

    def resource_name(self) -> str:
        if isinstance(self._wrapped, _Attached):
            return self._wrapped.name
        job = getattr(self._wrapped, "latest_transform_job", None)
        if job is None:
            raise TargetNotFound(
                "the transformer has not started a job yet",
                fix="Call transformer.transform(wait=False, …) first",
            )
        return _job_name(job)

    def wait_transform_job(self) -> None:
        """Wait until the job has ended. Raises botocore's WaiterError when it failed."""
        self._wait("transform_job_completed_or_stopped", "TransformJobName")


class SSHNotebookInstanceWrapper(SSHEnvironmentWrapper):
    """ssh into a notebook instance. Make one by :meth:`attach` with its name."""

    kind = ResourceKind.NOTEBOOK

    def resource_name(self) -> str:
        return str(self._wrapped.name)


class SSHIDEWrapper(SSHEnvironmentWrapper):
    """ssh into an app of SageMaker Studio. Make one by :meth:`attach` with the app's name."""

    kind = ResourceKind.STUDIO

    def resource_name(self) -> str:
        return str(self._wrapped.name)


_WRAPPERS = (
    SSHEstimatorWrapper,
    SSHProcessorWrapper,
    SSHModelWrapper,
    SSHTransformerWrapper,
    SSHNotebookInstanceWrapper,
    SSHIDEWrapper,
)


class _Attached:
    """What a wrapper needs of an SDK object, for a resource that none of this process started."""

    def __init__(self, kind: ResourceKind, name: str, session: Any) -> None:
        boto = boto3_session(session)
        self.sagemaker_session = boto if session is None else session
        self.name, self.instance_count = name, 1
        if not _is_local(self):
            found = _described(boto, kind, name)
            # AWS describes a name in any letter case; the containers know it as it was given.
            self.name = found.name
            self.instance_count = found.ssh_nodes or found.instance_count or 1


def _is_local(wrapped: Any) -> bool:
    """Whether its containers run on this machine, in the SDK's local mode."""
    return getattr(getattr(wrapped, "sagemaker_session", None), "local_mode", False) is True


def _described(session: Any, kind: ResourceKind, name: str) -> Resource:
    from sagemaker_ssh_helper.aws import resources
    from sagemaker_ssh_helper.aws.json_rpc import Client
    from sagemaker_ssh_helper.aws.session import Session

    client = Client(Session.from_boto3(session))
    if kind is ResourceKind.STUDIO:
        # An app is described by four names, and listed by its own.
        found = next((each for each in resources.alive(client, kind) if each.name == name), None)
    else:
        found = resources.describe(client, kind, name)
    if found is None:
        from sagemaker_ssh_helper.client import naming

        what = f"there is no {kind.label} {name!r} in {session.region_name}"
        regions = naming.regions_with(client.session, kind, name)
        if regions:
            raise _elsewhere(what, regions[0])
        raise TargetNotFound(what, fix=f"See what is there: sm-ssh list {kind.domain}.{DOMAIN}")
    return found


def _elsewhere(what: str, region: str) -> WrongRegion:
    return WrongRegion(
        what,
        evidence=f"it is in {region}",
        fix=f"Give a session of that region: boto3.Session(region_name={region!r})",
    )


def _has_ssh(shipped: Any, model_name: Any) -> bool:
    """
    Whether there is a model of this name, with ssh. Raises LaunchRefused when it is without: the SDK then
    goes on with that one as it is.
    """
    if not isinstance(model_name, str):
        return False
    from sagemaker_ssh_helper.aws import resources
    from sagemaker_ssh_helper.aws.json_rpc import Client
    from sagemaker_ssh_helper.aws.session import Session

    session = boto3_session(getattr(shipped, "sagemaker_session", None))
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


def _prepare(wrapped: Any, role: Any, **options: Any) -> SshLaunch:
    """A launch with the session and the role of an SDK object. Raises LaunchRefused when it has none yet."""
    if not role:
        raise LaunchRefused("it has no role", fix="Give it one: role='arn:aws:iam::ACCOUNT:role/NAME'")
    if not isinstance(role, str):
        raise LaunchRefused(
            "the role is not known before the pipeline runs", fix="Give it as an ARN, or launch without ssh"
        )
    session = getattr(wrapped, "sagemaker_session", None)
    expand = getattr(session, "expand_role", None)
    # A role may be given by its name alone, which the SDK looks up.
    role = expand(role) if expand is not None else role
    return SshLaunch.prepare(boto3_session(session), role, nodes=_node_count(wrapped), **options)


def _node_count(wrapped: Any) -> int:
    """Of the job that an object of the SDK will start: its own count, its compute's, or its groups'."""
    for holder in (wrapped, getattr(wrapped, "compute", None)):
        groups = getattr(holder, "instance_groups", None)
        counts = [getattr(each, "instance_count", None) for each in groups or [holder]]
        nodes = [count for count in counts if isinstance(count, int)]
        if nodes:
            return sum(nodes)
    return 1


def _variables(
    name: str, own: Optional[Mapping[str, str]], ssh: SshLaunch, kind: RequestKind
) -> Dict[str, str]:
    return add_variables(name, own or {}, ssh.environment(), kind)


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
