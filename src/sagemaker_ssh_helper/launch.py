"""
The launch side, once: what a job needs to be reachable by ssh.

:func:`enable_ssh` edits one boto3 request; :func:`enable_for_session` does the same for every job that is
created through a boto3 session, whoever builds the request. The SDK wrappers sit on :class:`SshLaunch`.

Notebooks and pipelines import this at their start, so what only a launch needs is imported by the launch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from sagemaker_ssh_helper.errors import LaunchRefused
from sagemaker_ssh_helper.names import Env, ResourceKind

if TYPE_CHECKING:
    from datetime import timedelta


@dataclass(frozen=True)
class RequestKind:
    """
    One Create… call whose containers can have ssh: where its request holds what, and SageMaker's limits.

    ``name`` and ``role`` are members of the request. ``holders`` gives a changed copy of the request, in
    which the given function was applied to each mapping that holds an ``Environment``. ``max_variables``
    counts the variables of one container, ``max_value_chars`` the characters of one value.
    """

    operation: str
    label: str
    kind: Optional[ResourceKind]
    """Of the resource that gets the request's name; None when that name is not what people connect to."""
    name: str
    role: str
    max_variables: int
    max_value_chars: int
    holders: Tuple[Tuple[str, bool], ...] = ()
    """Members with the containers' definitions, and whether each is a list; empty: the request itself."""

    def with_environment(
        self, request: Mapping[str, Any], change: Callable[[Mapping[str, str], str], Dict[str, str]]
    ) -> Dict[str, Any]:
        """A copy of the request in which every container's environment was changed, by its role too."""

        def changed(holder: Mapping[str, Any]) -> Dict[str, Any]:
            role = holder.get(self.role) or request.get(self.role) or ""
            return {**holder, "Environment": change(holder.get("Environment") or {}, role)}

        if not self.holders:
            return changed(request)
        copy = dict(request)
        for member, is_list in self.holders:
            if copy.get(member):
                value = copy[member]
                copy[member] = [changed(each) for each in value] if is_list else changed(value)
        return copy

    def roles(self, request: Mapping[str, Any]) -> Sequence[str]:
        """The roles that the request gives to its containers."""
        found = [request.get(self.role) or ""]
        if self.holders and not found[0]:
            found = [holder.get(self.role) or "" for holder in self._definitions(request)]
        for role in found:
            if not isinstance(role, str):
                # A step of a pipeline may leave it open.
                raise LaunchRefused(
                    f"{self.role} of a {self.label} is not known before the pipeline runs",
                    fix="Give the step its role as an ARN, or create the pipeline without ssh",
                )
        return found

    def isolated(self, request: Mapping[str, Any]) -> bool:
        """Whether the request asks for network isolation."""
        places = [request, request.get("NetworkConfig") or {}, *self._definitions(request)]
        return any(place.get("EnableNetworkIsolation") for place in places)

    def environments(self, request: Mapping[str, Any]) -> Sequence[Mapping[str, str]]:
        """The environment of every container."""
        places = self._definitions(request) if self.holders else [request]
        return [place.get("Environment") or {} for place in places]

    def nodes(self, request: Mapping[str, Any]) -> int:
        """How many nodes its largest job has; 2 when a pipeline decides."""
        return max(_nodes(place) for place in [request, *self._definitions(request)])

    def _definitions(self, request: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        found: List[Mapping[str, Any]] = []
        for member, is_list in self.holders:
            if request.get(member):
                found += request[member] if is_list else [request[member]]
        return found


TRAINING_REQUEST = RequestKind(
    operation="CreateTrainingJob",
    label="training job",
    kind=ResourceKind.TRAINING,
    name="TrainingJobName",
    role="RoleArn",
    max_variables=100,
    max_value_chars=512,
)
PROCESSING_REQUEST = RequestKind(
    operation="CreateProcessingJob",
    label="processing job",
    kind=ResourceKind.PROCESSING,
    name="ProcessingJobName",
    role="RoleArn",
    max_variables=100,
    max_value_chars=256,
)
TUNING_REQUEST = RequestKind(
    operation="CreateHyperParameterTuningJob",
    label="tuning job",
    kind=None,
    name="HyperParameterTuningJobName",
    role="RoleArn",
    max_variables=48,
    max_value_chars=512,
    holders=(("TrainingJobDefinition", False), ("TrainingJobDefinitions", True)),
)
MODEL_REQUEST = RequestKind(
    operation="CreateModel",
    label="model",
    kind=None,
    name="ModelName",
    role="ExecutionRoleArn",
    max_variables=100,
    max_value_chars=1024,
    holders=(("PrimaryContainer", False), ("Containers", True)),
)
REQUESTS = (TRAINING_REQUEST, PROCESSING_REQUEST, TUNING_REQUEST, MODEL_REQUEST)
"""Every request that ``enable_ssh`` takes, with the limits of SageMaker's own model of it."""


_RUN_A_MODEL = {
    "TransformJobName": "a transform job",
    # It names its configuration, too.
    "EndpointName": "an endpoint",
    "EndpointConfigName": "an endpoint configuration",
}


def _nodes(job: Mapping[str, Any]) -> int:
    resources = job.get("ResourceConfig") or (job.get("ProcessingResources") or {}).get("ClusterConfig") or {}
    groups = resources.get("InstanceGroups") or [resources]
    counts = [group.get("InstanceCount", 1) for group in groups]
    return sum(count if isinstance(count, int) else 2 for count in counts)


def role_name(role: str) -> str:
    """
    What CreateActivation takes for ``role``, an ARN or already a name: ``service-role/Name`` or ``Name``.

    Raises LaunchRefused for an ARN that is no role's.
    """
    if not role.startswith("arn:"):
        return role
    _, found, name = role.partition(":role/")
    if not found or not name:
        raise LaunchRefused(
            f"{role!r} is no ARN of a role", fix="Give the job a role: arn:aws:iam::ACCOUNT:role/NAME"
        )
    return name


_TAG_VALUE_CHARS = 256  # of CreateActivation's model, as the characters of a value
_TAG_VALUE_MARKS = "_.:/=+-@"


@dataclass(frozen=True)
class SshLaunch:
    """
    The choices of one launch. Its :meth:`environment` is what the container reads.

    ``connection_wait_time_seconds`` is how long the job waits for a connection before it goes on;
    ``ssh_instance_count`` is how many of its nodes become reachable.
    """

    role: str
    owner: str
    public_key: str
    launch_id: str
    connection_wait_time_seconds: int = 600
    ssh_instance_count: int = 2
    log_to_stdout: bool = False
    node_key: str = field(default="", repr=False)
    """By which the nodes of a job of several log in to each other; a secret of that job."""

    @classmethod
    def prepare(
        cls,
        session: Any,
        role: str,
        *,
        connection_wait_time_seconds: int = 600,
        connection_wait_time: Optional[timedelta] = None,
        ssh_instance_count: int = 2,
        local_user_id: Optional[str] = None,
        log_to_stdout: bool = False,
        nodes: int = 1,
    ) -> SshLaunch:
        """
        A launch by the user of ``session`` (a boto3 session), with a fresh launch id and the user's own key.

        ``local_user_id`` replaces the user id that STS tells (``aws:userid``), the value of the tag SSHOwner.
        When there are several ``nodes``, they get a key of their own.
        """
        import secrets

        from sagemaker_ssh_helper.client import keys

        seconds, count = connection_wait_time_seconds, ssh_instance_count
        if connection_wait_time is not None:
            if not hasattr(connection_wait_time, "total_seconds"):
                raise LaunchRefused(
                    f"connection_wait_time is no timedelta: {connection_wait_time!r}",
                    fix="Give seconds as connection_wait_time_seconds",
                )
            seconds = int(connection_wait_time.total_seconds())
        given: Sequence[Any] = (seconds, count)
        for value in given:
            if not isinstance(value, int) and not (isinstance(value, float) and value.is_integer()):
                raise LaunchRefused(
                    "connection_wait_time_seconds and ssh_instance_count must be whole numbers",
                    evidence=f"one is {value!r}",
                )
        if seconds < 0 or count < 1:
            raise LaunchRefused(
                "connection_wait_time_seconds must be 0 or more, and ssh_instance_count 1 or more",
                evidence=f"they are {seconds} and {count}",
            )
        owner = local_user_id or session.client("sts").get_caller_identity()["UserId"]
        if len(owner) > _TAG_VALUE_CHARS or not all(
            each.isalnum() or each.isspace() or each in _TAG_VALUE_MARKS for each in owner
        ):
            shown = repr(owner) if len(owner) <= _TAG_VALUE_CHARS else f"a user id of {len(owner)} characters"
            raise LaunchRefused(
                f"{shown} cannot be the value of a tag, SSHOwner",
                fix=f"Give as local_user_id up to {_TAG_VALUE_CHARS} letters, digits, spaces and "
                f"{_TAG_VALUE_MARKS}",
            )
        return cls(
            role=role_name(role),
            owner=owner,
            public_key=keys.ensure_key().public.line,
            launch_id=secrets.token_hex(16),
            connection_wait_time_seconds=int(seconds),
            ssh_instance_count=int(count),
            log_to_stdout=log_to_stdout,
            node_key=keys.make_node_key().text if min(nodes, count) > 1 else "",
        )

    def environment(self) -> Dict[str, str]:
        """The variables to add to the job's environment."""
        return {
            Env.START_SSH: "true",
            Env.SSM_ROLE: self.role,
            Env.OWNER_TAG: self.owner,
            Env.WAIT_TIME_SECONDS: str(self.connection_wait_time_seconds),
            Env.INSTANCE_COUNT: str(self.ssh_instance_count),
            Env.LOG_TO_STDOUT: "true" if self.log_to_stdout else "false",
            Env.PUBLIC_KEY: self.public_key,
            Env.LAUNCH_ID: self.launch_id,
            **({Env.NODE_KEY: self.node_key} if self.node_key else {}),
        }

    def remember(self, kind: ResourceKind, name: str) -> None:
        """Keep a record of this launch, so that the first connection can tell the job from an impostor."""
        from sagemaker_ssh_helper.client import launches

        launches.save(kind, name, self.launch_id)


def enable_ssh(
    request: Mapping[str, Any],
    session: Optional[Any] = None,
    *,
    connection_wait_time_seconds: int = 600,
    connection_wait_time: Optional[timedelta] = None,
    ssh_instance_count: int = 2,
    local_user_id: Optional[str] = None,
    log_to_stdout: bool = False,
) -> Dict[str, Any]:
    """
    A copy of a request with ssh added, for ``create_training_job(**enable_ssh(request))`` and the like.

    Takes the requests of CreateTrainingJob, CreateProcessingJob, CreateHyperParameterTuningJob (every job it
    starts gets ssh) and CreateModel (the endpoints and transform jobs that run it get ssh).

    Variables are added to ``Environment``. Where the request says what program runs, the library comes with
    it and starts ssh before that program, so that nothing in the job changes: in script mode (hyperparameters
    ``sagemaker_program`` and ``sagemaker_submit_directory``) within a new source archive, written beside the
    old one; with a ``ContainerEntrypoint`` as one more input, written beside the job's code or outputs.
    Anything else must bring the library, in its image or with its code, and call
    :func:`sagemaker_ssh_helper.setup_and_start_ssh`.

    Args:
        request: the keyword arguments of the call; not changed.
        session: the session to ask for the user's id and to copy the code with: a boto3 session, or one of
            the SageMaker SDK; boto3's default one if None.
        connection_wait_time_seconds: how long the job waits for a connection before it goes on; 0 not at all.
        connection_wait_time: the same as a timedelta; wins when given.
        ssh_instance_count: how many nodes become reachable, counted from ``algo-1``.
        local_user_id: the value of the tag SSHOwner, instead of what STS tells.
        log_to_stdout: whether the agent's log goes to the job's log too.

    Raises:
        LaunchRefused: the request cannot have ssh, and says why: network isolation, no role, no room in the
            environment, an entry point that the archive lacks, a kind of request other than these.
    """
    for member, what in _RUN_A_MODEL.items():
        if request.get(member):
            raise LaunchRefused(
                f"{request[member]} is {what}, and has the ssh of the model that it runs",
                fix="Give enable_ssh the keyword arguments of create_model, and leave this request as it is",
            )
    kind = next((kind for kind in REQUESTS if request.get(kind.name)), None)
    if kind is None:
        raise LaunchRefused(
            "this request creates nothing that can have ssh: it has none of "
            + ", ".join(kind.name for kind in REQUESTS),
            fix="Give enable_ssh the keyword arguments of create_training_job, create_processing_job, "
            "create_hyper_parameter_tuning_job or create_model",
        )
    name = request[kind.name]
    enabled, ssh = _enable(
        kind,
        name,
        request,
        boto3_session(session),
        connection_wait_time_seconds=connection_wait_time_seconds,
        connection_wait_time=connection_wait_time,
        ssh_instance_count=ssh_instance_count,
        local_user_id=local_user_id,
        log_to_stdout=log_to_stdout,
    )
    if kind.kind is not None:
        ssh.remember(kind.kind, name)
    return enabled


def _enable(
    kind: RequestKind, name: str, request: Mapping[str, Any], session: Any, **options: Any
) -> Tuple[Dict[str, Any], SshLaunch]:
    """The request of ``name`` with ssh, and the launch it was given. Raises LaunchRefused."""
    if kind.isolated(request):
        raise LaunchRefused(
            f"{name} runs in network isolation, where nothing in it can reach Systems Manager",
            fix="Launch it without EnableNetworkIsolation, or without ssh",
        )
    roles = kind.roles(request)
    if not roles or not all(roles):
        raise LaunchRefused(f"{name} has no role", fix=f"Give the request {_article(kind.role)}")
    ssh = SshLaunch.prepare(session, roles[0], nodes=kind.nodes(request), **options)
    variables = ssh.environment()

    def change(own: Mapping[str, str], role: str) -> Dict[str, str]:
        return add_variables(name, own, {**variables, Env.SSM_ROLE: role_name(role)}, kind)

    enabled = kind.with_environment(request, change)

    from sagemaker_ssh_helper import delivery

    return delivery.with_library(session, name, enabled), ssh


def enable_for_session(session: Optional[Any] = None, **options: Any) -> None:
    """
    Add ssh to all that is created through ``session`` from now on: training, processing and tuning jobs,
    models with the endpoints and transform jobs that run them, and the steps of pipelines.

    For tools that build the request themselves: the SageMaker SDK in both versions, and whatever else calls
    SageMaker through a boto3 session. The clients that the session has made already are included. A request
    that has ssh stays as it is. Called again, the later options hold.

    Args:
        session: a boto3 session, or one of the SageMaker SDK; if None boto3's default session, which tools
            use that are given none. A SageMaker client of boto3 stands for itself alone, for tools that
            make a session for every client.
        options: those of :func:`enable_ssh`, whose errors then come out of the Create… call.

    Raises LaunchRefused when ``session`` is none of these, TypeError for an option that does not exist.
    """
    import inspect

    from botocore.client import BaseClient

    # Now, and not by the first job.
    inspect.signature(enable_ssh).bind({}, **options)
    client = session if isinstance(session, BaseClient) else None
    if client is None:
        session = boto3_session(session, default=True)
    elif client.meta.service_model.service_name != "sagemaker":
        raise LaunchRefused(
            f"a client of {client.meta.service_model.service_name} creates nothing that can have ssh",
            fix="Give a client of sagemaker, or the session that makes it",
        )

    def enable_step(kind: RequestKind, name: str, request: Mapping[str, Any]) -> Dict[str, Any]:
        if any(Env.START_SSH in environment for environment in kind.environments(request)):
            return dict(request)
        return _enable(kind, name, request, session if client is None else _session_of(client), **options)[0]

    def pipeline_hook(params: Mapping[str, Any], **_: Any) -> Optional[Dict[str, Any]]:
        from sagemaker_ssh_helper import pipeline_steps

        name = params["PipelineName"]
        if "PipelineDefinition" in params:
            definition = pipeline_steps.with_ssh(name, params["PipelineDefinition"], enable_step)
            return {**params, "PipelineDefinition": definition}
        if "PipelineDefinitionS3Location" in params:
            location = pipeline_steps.with_ssh_in_s3(
                name,
                params["PipelineDefinitionS3Location"],
                session if client is None else _session_of(client),
                enable_step,
            )
            return {**params, "PipelineDefinitionS3Location": location}
        return None

    def hook(params: Mapping[str, Any], model: Any, **_: Any) -> Optional[Dict[str, Any]]:
        kind = next(kind for kind in REQUESTS if kind.operation == model.name)
        if any(Env.START_SSH in environment for environment in kind.environments(params)):
            return None
        return enable_ssh(params, session if client is None else _session_of(client), **options)

    emitters = _emitters(session) if client is None else [client.meta.events]
    for kind in REQUESTS:
        _register(emitters, kind.operation, hook, _HOOK)
    for operation in ("CreatePipeline", "UpdatePipeline"):
        _register(emitters, operation, pipeline_hook, _HOOK)


def bring_library(session: Any, ssh: SshLaunch) -> None:
    """
    Let the jobs that have the environment of ``ssh`` bring the library, when ``session`` (of boto3) starts
    them: for objects of an SDK that take no library with their code.
    """

    def hook(params: Mapping[str, Any], model: Any, **_: Any) -> Optional[Dict[str, Any]]:
        kind = next(kind for kind in REQUESTS if kind.operation == model.name)
        if all(ssh.launch_id != found.get(Env.LAUNCH_ID) for found in kind.environments(params)):
            return None
        from sagemaker_ssh_helper import delivery

        return delivery.with_library(session, params[kind.name], params)

    emitters = _emitters(session)
    for kind in (TRAINING_REQUEST, TUNING_REQUEST):
        _register(emitters, kind.operation, hook, f"{_HOOK}-{ssh.launch_id}")


def _emitters(session: Any) -> List[Any]:
    """The hooks of a boto3 session, and those of the clients that it has made."""
    keys = session.get_credentials()
    return [session.events, *(made.meta.events for made in _sagemaker_clients() if _keys_of(made) is keys)]


def _register(emitters: Sequence[Any], operation: str, hook: Callable[..., Any], name: str) -> None:
    """Set ``hook`` on an operation in place of an earlier one of that name."""
    event = f"provide-client-params.sagemaker.{operation}"
    # botocore keeps the first handler of an id, for whatever event it came.
    unique_id = f"{name}-{operation}"
    for events in emitters:
        events.unregister(event, unique_id=unique_id)
        events.register(event, hook, unique_id=unique_id)


_HOOK = "sagemaker-ssh-helper"


def boto3_session(session: Optional[Any], *, default: bool = False) -> Any:
    """
    The boto3 session behind a session of the SageMaker SDK, or itself. For None a new one, or with
    ``default`` the one that all of this process shares. Raises LaunchRefused for anything else.
    """
    session = getattr(session, "boto_session", session)
    if session is None:
        import boto3

        if not default:
            return boto3.Session()
        if boto3.DEFAULT_SESSION is None:
            boto3.setup_default_session()
        session = boto3.DEFAULT_SESSION
    if not hasattr(session, "events") or not hasattr(session, "client"):
        raise LaunchRefused(
            f"a {type(session).__name__} is no session",
            fix="Give a boto3.Session, or the sagemaker_session of an object of the SageMaker SDK",
        )
    return session


def _sagemaker_clients() -> List[Any]:
    """
    The SageMaker clients of this process. Each copied the hooks of its session when it was made.

    Nobody keeps a list of them; the SDK's own are in caches that differ from release to release.
    """
    import gc

    from botocore.client import BaseClient

    clients: List[Any] = [thing for thing in gc.get_objects() if issubclass(type(thing), BaseClient)]
    return [client for client in clients if client.meta.service_model.service_name == "sagemaker"]


def _keys_of(client: Any) -> Any:
    """The credentials object of a client, which it shares with its session."""
    return client._request_signer._credentials


def _session_of(client: Any) -> Any:
    """A boto3 session with the keys that ``client`` has now, and its region."""
    import boto3

    keys = _keys_of(client).get_frozen_credentials()
    return boto3.Session(
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        aws_session_token=keys.token,
        region_name=client.meta.region_name,
    )


def add_variables(
    name: str, own: Mapping[str, str], added: Mapping[str, str], kind: RequestKind
) -> Dict[str, str]:
    """
    A container's own variables and those added, the added ones winning.

    Raises LaunchRefused when SageMaker would refuse them: too many, or a value that is too long.
    """
    variables = {**own, **added}
    if len(variables) > kind.max_variables:
        raise LaunchRefused(
            f"{name} would have {len(variables)} environment variables, and SageMaker takes "
            f"{kind.max_variables} for a {kind.label}",
            fix=f"Remove {len(variables) - kind.max_variables} of its own",
        )
    for key, value in variables.items():
        if len(str(value)) > kind.max_value_chars:
            raise LaunchRefused(
                f"the value of {key} has {len(str(value))} characters, and SageMaker takes "
                f"{kind.max_value_chars} for a {kind.label}",
                fix="Shorten it, or let the job read it from S3",
            )
    return variables


def _article(member: str) -> str:
    return f"{'an' if member[0] in 'AEIOU' else 'a'} {member}"
