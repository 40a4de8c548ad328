"""The wrappers around objects that look like the SDK's; with the SDK itself in e2e and test_examples."""

import re
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, Optional, Type

import boto3
import pytest

from aws_stub import Refusal, aws_stub
from local_cloud import LocalCloud
from sagemaker_ssh_helper.errors import (
    LaunchRefused,
    NodeNotFound,
    NotLaunched,
    TargetEnded,
    TargetNotFound,
    WrongRegion,
)
from sagemaker_ssh_helper.manager import SSMManager
from sagemaker_ssh_helper.wrapper import (
    SSHEnvironmentWrapper,
    SSHEstimatorWrapper,
    SSHModelWrapper,
    SSHMultiModelWrapper,
    SSHNotebookInstanceWrapper,
    SSHProcessorWrapper,
    SSHTransformerWrapper,
)

WRAPPERS = [
    SSHEstimatorWrapper,
    SSHProcessorWrapper,
    SSHModelWrapper,
    SSHTransformerWrapper,
    SSHNotebookInstanceWrapper,
]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


@pytest.fixture
def session(cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> boto3.Session:
    for name, value in cloud.environment("alice", tmp_path).items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return boto3.Session()


def model(cloud: LocalCloud, session: boto3.Session, **members: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "role": cloud.info["role_arn"],
            "env": {"MINE": "1"},
            "sagemaker_session": SimpleNamespace(boto_session=session),
            "enable_network_isolation": lambda: False,
            **members,
        }
    )


def test_a_multi_model_endpoint_around_a_model_gives_ssh_to_that_model(
    cloud: LocalCloud, session: boto3.Session
) -> None:
    inner = model(cloud, session, entry_point="inference.py", dependencies=["mine"])

    def not_made_around_a_model() -> bool:
        # The SDK's MultiDataModel answers so when it was given a model.
        raise AttributeError("_enable_network_isolation")

    outer = SimpleNamespace(
        model=inner,
        sagemaker_session=inner.sagemaker_session,
        enable_network_isolation=not_made_around_a_model,
        endpoint_name=None,
    )
    SSHMultiModelWrapper.create(outer, connection_wait_time_seconds=0)
    assert inner.env["MINE"] == "1"
    assert inner.env["START_SSH"] == "true"
    assert inner.dependencies == ["mine", SSHMultiModelWrapper.dependency_dir()]


def test_network_isolation_of_the_inner_model_is_refused(cloud: LocalCloud, session: boto3.Session) -> None:
    isolated = model(cloud, session, enable_network_isolation=lambda: True)
    with pytest.raises(LaunchRefused, match="network isolation"):
        SSHMultiModelWrapper.create(model(cloud, session, model=isolated))
    assert isolated.env == {"MINE": "1"}


def existing_model(cloud: LocalCloud, session: boto3.Session, name: str, **environment: str) -> None:
    session.client("sagemaker").create_model(
        ModelName=name,
        PrimaryContainer={"Image": "image", "Environment": environment},
        ExecutionRoleArn=cloud.info["role_arn"],
    )


def test_a_model_that_exists_already_is_too_late(cloud: LocalCloud, session: boto3.Session) -> None:
    # The SDK goes on with a model of that name, and what it would have said of the environment is lost.
    existing_model(cloud, session, "made-before", MINE="1")
    given = model(cloud, session, name="made-before", endpoint_name=None)
    with pytest.raises(ValueError, match=r"the model made-before exists already.*Delete it, or") as caught:
        SSHModelWrapper.create(given)
    assert isinstance(caught.value, LaunchRefused)
    assert given.env == {"MINE": "1"}


def test_a_model_that_exists_already_with_ssh_is_found_by_its_endpoint(
    cloud: LocalCloud, session: boto3.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = model(cloud, session, name="twice", endpoint_name=None)
    SSHModelWrapper.create(first)
    existing_model(cloud, session, "twice", **first.env)
    asked: List[str] = []

    def ids_of(self: SSMManager, kind: Any, name: str, **_: Any) -> List[str]:
        asked.append(name)
        return ["mi-0123456789abcdef0"]

    monkeypatch.setattr(SSMManager, "get_instance_ids_of", ids_of)
    # The endpoint itself is not there.
    monkeypatch.setattr(SSHModelWrapper, "_describe_if_allowed", lambda self: None)
    again = model(cloud, session, name="twice", endpoint_name=None)
    wrapper = SSHModelWrapper.create(again)
    again.endpoint_name = "my-endpoint"
    wrapper.get_instance_ids()
    # Not by the id of a launch that never came.
    assert asked == ["my-endpoint"]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_is_not_there_is_told_to_whoever_asks_for_its_nodes(
    session: boto3.Session, wrapper: Type[SSHEstimatorWrapper]
) -> None:
    attached = wrapper.attach("nothing", session)
    with pytest.raises(ValueError, match=f"there is no {wrapper.kind.label} 'nothing' in") as caught:
        attached.get_instance_ids()
    assert isinstance(caught.value, TargetNotFound)


def start_a_job_that_fails(cloud: LocalCloud, session: boto3.Session, name: str) -> None:
    session.client("sagemaker").create_training_job(
        TrainingJobName=name,
        RoleArn=cloud.info["role_arn"],
        AlgorithmSpecification={
            "TrainingImage": "image",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["sh", "-c", "exit 3"],
        },
        OutputDataConfig={"S3OutputPath": "s3://sagemaker-output/jobs"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )


def estimator(cloud: LocalCloud, session: boto3.Session, **members: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "role": cloud.info["role_arn"],
            "environment": {},
            "sagemaker_session": SimpleNamespace(boto_session=session),
            "enable_network_isolation": lambda: False,
            "latest_training_job": None,
            "latest_job": None,
            **members,
        }
    )


@pytest.mark.parametrize(
    ("members", "what", "fix"),
    [
        (
            {"latest_training_job": SimpleNamespace(name="my-job")},
            "the estimator has already started my-job",
            "Call SSHEstimatorWrapper.create(estimator) before",
        ),
        ({"role": None}, "the training job has no role", "Give it one: role="),
        (
            # As a parameter of a pipeline.
            {"role": SimpleNamespace(name="Role")},
            "the role is not known before the pipeline runs",
            "Give it as an ARN",
        ),
        (
            {"role": "arn:aws:iam::123456789012:user/alice"},
            "'arn:aws:iam::123456789012:user/alice' is no ARN of a role",
            "arn:aws:iam::ACCOUNT:role/NAME",
        ),
        (
            {"environment": {f"V{number}": "1" for number in range(93)}},
            "the estimator would have 101 environment variables, and SageMaker takes 100 for a training job",
            "Remove 1 of its own",
        ),
        (
            {"environment": {"LONG": "x" * 513}},
            "the value of LONG has 513 characters, and SageMaker takes 512 for a training job",
            "Shorten it, or let the job read it from S3",
        ),
        (
            {"enable_network_isolation": lambda: True},
            "the estimator runs in network isolation",
            "Make it without enable_network_isolation",
        ),
    ],
    ids=[
        "after the start",
        "no role",
        "role of a pipeline",
        "no role's ARN",
        "too many variables",
        "long value",
        "isolated",
    ],
)
def test_an_estimator_that_cannot_have_ssh_is_refused_with_what_to_change(
    cloud: LocalCloud, session: boto3.Session, members: Dict[str, Any], what: str, fix: str
) -> None:
    given = estimator(cloud, session, **members)
    before = given.environment
    with pytest.raises(ValueError, match=f"(?s){re.escape(what)}.*{re.escape(fix)}") as caught:
        SSHEstimatorWrapper.create(given)
    assert isinstance(caught.value, LaunchRefused)
    assert given.environment is before


def test_a_role_may_be_given_by_its_name_as_the_sdk_takes_it(
    cloud: LocalCloud, session: boto3.Session
) -> None:
    given = estimator(cloud, session, role="service-role/Mine")
    SSHEstimatorWrapper.create(given)
    assert given.environment["SSH_SSM_ROLE"] == "service-role/Mine"


@pytest.mark.parametrize("role", ["", "SageMakerRole", "service-role/", "/SageMakerRole"])
def test_what_is_no_role_is_refused(role: str) -> None:
    with pytest.raises(ValueError, match="is neither the ARN of a role nor a role's name with its path"):
        SSHEnvironmentWrapper.ssm_role_from_iam_arn(role)


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov"])
def test_a_role_is_taken_by_its_arn_and_kept_by_its_name(partition: str) -> None:
    arn = f"arn:{partition}:iam::123456789012:role/service-role/Mine"
    assert SSHEnvironmentWrapper.ssm_role_from_iam_arn(arn) == "service-role/Mine"
    given = SimpleNamespace(role=f"arn:{partition}:iam::123456789012:role/Mine")
    assert SSHEstimatorWrapper(given).ssm_iam_role == "Mine"
    assert SSHEstimatorWrapper(given, arn).ssm_iam_role == "service-role/Mine"


def test_a_constructor_changes_nothing_of_what_it_wraps_and_create_does(
    cloud: LocalCloud, session: boto3.Session
) -> None:
    given = estimator(cloud, session)
    assert not SSHEstimatorWrapper(given).augmented
    assert given.environment == {}
    created = SSHEstimatorWrapper.create(given, 600, timedelta(minutes=1))
    assert created.augmented
    assert created.estimator is given
    assert (created.connection_wait_time_seconds, created.bootstrap_on_start) == (60, True)
    assert given.environment["SSH_WAIT_TIME_SECONDS"] == "60"
    assert given.environment["SSH_SSM_ROLE"] == created.ssm_iam_role
    assert created.region() == session.region_name == created.ssh_log.region_name


def test_a_wrapper_that_starts_nothing_says_so_to_the_container(
    cloud: LocalCloud, session: boto3.Session
) -> None:
    given = estimator(cloud, session)
    SSHEstimatorWrapper(given, bootstrap_on_start=False)._augment()
    assert given.environment["START_SSH"] == "false"


def told_instances(*ids: str, status: str = "Online") -> Dict[str, Any]:
    return {
        "InstanceInformationList": [
            {"InstanceId": each, "PingStatus": status, "Name": f"algo-{number}.my-job.training.sagemaker"}
            for number, each in enumerate(ids, 1)
        ]
    }


def test_nodes_are_found_by_who_may_not_describe_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with aws_stub() as stub:
        for name, value in stub.environment(AWS_DEFAULT_REGION="eu-west-1").items():
            monkeypatch.setenv(name, value)
        stub.answers["DescribeTrainingJob"] = Refusal("AccessDeniedException", "not authorized")
        stub.answers["DescribeInstanceInformation"] = told_instances("mi-" + "1" * 17)
        attached = SSHEstimatorWrapper.attach("my-job")
        assert not stub.asked
        assert attached.estimator.latest_training_job.name == "my-job"
        assert attached.get_instance_ids() == ["mi-" + "1" * 17]


def test_a_job_that_has_ended_gives_the_instances_that_are_still_registered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = "mi-" + "2" * 17
    with aws_stub() as stub:
        for name, value in stub.environment(AWS_DEFAULT_REGION="eu-west-1").items():
            monkeypatch.setenv(name, value)
        stub.answers["DescribeTrainingJob"] = {"TrainingJobName": "my-job", "TrainingJobStatus": "Stopped"}
        stub.answers["DescribeInstanceInformation"] = told_instances(gone, status="ConnectionLost")
        attached = SSHEstimatorWrapper.attach("my-job")
        assert attached.get_instance_ids() == [gone]
        attached.print_ssh_info()
    said = capsys.readouterr().out
    assert f"  instance  {gone}\n" in said
    assert f"aws ssm start-session --target {gone}\n" in said


def test_the_older_name_of_the_limit_is_only_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        SSMManager, "list_all_instances_and_fetch_tags", lambda self: {"mi-1": {"SSHResourceName": "my-job"}}
    )
    attached = SSHEstimatorWrapper.attach("my-job", boto3.Session(region_name="eu-west-1"))
    monkeypatch.setattr(attached, "_describe_if_allowed", lambda: None)
    assert attached.get_instance_ids(1, 5) == ["mi-1"]
    assert "retry=1 has no effect: timeout_in_sec=5 is how long to wait" in caplog.text


@pytest.mark.parametrize(
    ("wrapped", "create"),
    [
        ({"latest_job": SimpleNamespace(job_name="my-job")}, SSHProcessorWrapper.create),
        ({"endpoint_name": "my-endpoint"}, SSHModelWrapper.create),
        ({"endpoint_name": "my-endpoint"}, SSHMultiModelWrapper.create),
        (
            {"latest_transform_job": SimpleNamespace(job_name="my-job")},
            lambda transformer: SSHTransformerWrapper.create(transformer, SSHModelWrapper(None)),
        ),
    ],
)
def test_what_was_started_already_is_refused_by_every_wrapper(
    wrapped: Dict[str, Any], create: Callable[[Any], Any]
) -> None:
    with pytest.raises(ValueError, match=r"already .* (my-job|my-endpoint)\. Call .* before") as caught:
        create(SimpleNamespace(**wrapped))
    assert isinstance(caught.value, LaunchRefused)


@pytest.mark.parametrize(
    ("wrapper", "wrapped"),
    [
        (SSHEstimatorWrapper, {"latest_training_job": None}),
        (SSHProcessorWrapper, {"latest_job": None}),
        (SSHModelWrapper, {"endpoint_name": None}),
        (SSHTransformerWrapper, {"latest_transform_job": None}),
    ],
)
def test_what_was_not_started_yet_has_no_nodes(
    wrapper: Any, wrapped: Dict[str, Any], session: boto3.Session
) -> None:
    given: Any = SimpleNamespace(**wrapped)
    made = wrapper(given, SSHModelWrapper(given)) if wrapper is SSHTransformerWrapper else wrapper(given)
    for ask in ("get_instance_ids", "print_ssh_info", "is_job_in_progress"):
        with pytest.raises(
            AssertionError, match=r"not (started a job|deployed) yet\. Call .* first"
        ) as caught:
            getattr(made, ask)()
        assert isinstance(caught.value, NotLaunched)


@pytest.mark.parametrize(
    "resource", ["my-job.training.sagemaker", "arn:aws:sagemaker:eu-west-2:123456789012:training-job/my-job"]
)
def test_a_resource_of_another_region_is_told_with_its_region(
    monkeypatch: pytest.MonkeyPatch, resource: str
) -> None:
    with aws_stub() as stub:
        for name, value in stub.environment(AWS_DEFAULT_REGION="eu-west-2").items():
            monkeypatch.setenv(name, value)

        def describe(_: Dict[str, Any]) -> Any:
            if "/eu-west-2/" in stub.asked[-1].headers["Authorization"]:
                return {"TrainingJobName": "my-job", "TrainingJobStatus": "InProgress"}
            return Refusal("ValidationException", "Requested resource not found.")

        stub.answers["DescribeTrainingJob"] = describe
        elsewhere = boto3.Session(region_name="eu-west-1")
        with pytest.raises(ValueError, match=r"boto3\.Session\(region_name='eu-west-2'\)") as caught:
            SSHEnvironmentWrapper.attach_to_resource(resource, sagemaker_session=elsewhere).get_instance_ids()
    assert isinstance(caught.value, WrongRegion)


def attach_by_name(session: boto3.Session, name: str) -> SSHEnvironmentWrapper:
    return SSHEstimatorWrapper.attach(name, session)


def attach_by_host_name(session: boto3.Session, name: str) -> SSHEnvironmentWrapper:
    return SSHEnvironmentWrapper.attach_to_resource(f"{name}.training.sagemaker", sagemaker_session=session)


def attach_by_arn(session: boto3.Session, name: str) -> SSHEnvironmentWrapper:
    account = session.client("sts").get_caller_identity()["Account"]
    return SSHEnvironmentWrapper.attach_to_resource(
        f"arn:aws:sagemaker:{session.region_name}:{account}:training-job/{name}"
    )


@pytest.mark.parametrize("attach", [attach_by_name, attach_by_host_name, attach_by_arn])
def test_a_job_that_has_ended_is_not_waited_for(
    cloud: LocalCloud,
    session: boto3.Session,
    attach: Callable[[boto3.Session, str], SSHEnvironmentWrapper],
) -> None:
    name = f"ended-{attach.__name__.replace('_', '-')}"
    start_a_job_that_fails(cloud, session, name)
    wrapper = attach(session, name)
    assert isinstance(wrapper, SSHEstimatorWrapper)
    assert wrapper.wait_training_job_with_status() == "Failed"
    # Less patience than the 900 seconds that it has by default could not tell the two apart.
    with pytest.raises(TargetEnded, match=f"{name} has ended: Failed"):
        wrapper.get_instance_ids()


@pytest.mark.parametrize(
    ("variables", "nodes"),
    [
        # What the container takes when it is told no number, as a launch by others may leave it.
        ({"START_SSH": "true"}, 2),
        ({"START_SSH": "true", "SSH_INSTANCE_COUNT": "all"}, 3),
        ({"START_SSH": "true", "SSH_INSTANCE_COUNT": "1"}, 1),
    ],
)
def test_a_wrapper_attached_to_a_job_waits_for_the_nodes_that_start_ssh(
    monkeypatch: pytest.MonkeyPatch, variables: Dict[str, str], nodes: int
) -> None:
    asked: List[int] = []

    def ids_of(self: SSMManager, *_: Any, count: int, **__: Any) -> List[str]:
        asked.append(count)
        return ["mi-0123456789abcdef0"]

    monkeypatch.setattr(SSMManager, "get_instance_ids_of", ids_of)
    with aws_stub() as stub:
        for name, value in stub.environment(AWS_DEFAULT_REGION="eu-west-1").items():
            monkeypatch.setenv(name, value)
        stub.answers["DescribeTrainingJob"] = {
            "TrainingJobName": "my-job",
            "TrainingJobStatus": "InProgress",
            "ResourceConfig": {"InstanceGroups": [{"InstanceCount": 1}, {"InstanceCount": 2}]},
            "Environment": variables,
        }
        SSHEstimatorWrapper.attach("my-job").get_instance_ids()
    assert asked == [nodes]


def test_of_local_mode_aws_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    local = SimpleNamespace(boto_session=boto3.Session(region_name="eu-west-1"), local_mode=True)
    with aws_stub() as stub:
        for name, value in stub.environment().items():
            monkeypatch.setenv(name, value)
        stub.answers["DescribeInstanceInformation"] = {"InstanceInformationList": []}
        wrapper = SSHEstimatorWrapper.attach("my-job", local)
        assert wrapper.is_job_in_progress()
        # Its containers come when they come: what AWS does not know has not ended.
        assert wrapper.get_instance_ids(timeout_in_sec=0) == []
        assert set(stub.operations) == {"DescribeInstanceInformation"}


def test_an_index_beyond_the_nodes_is_an_error_that_is_also_pythons_own(
    cloud: LocalCloud, session: boto3.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator = SimpleNamespace(
        latest_training_job=SimpleNamespace(name="my-job"),
        sagemaker_session=SimpleNamespace(boto_session=session),
    )
    wrapper = SSHEstimatorWrapper(estimator)
    monkeypatch.setattr(wrapper, "get_instance_ids", lambda **_: ["mi-0123456789abcdef0"])
    assert wrapper.get_instance_id() == "mi-0123456789abcdef0"
    with pytest.raises(IndexError, match="my-job has 1 reachable nodes") as caught:
        wrapper.get_instance_id(index=1)
    assert isinstance(caught.value, NodeNotFound)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("profile", "region", "options"),
    [
        (None, None, ""),
        (None, "eu-west-2", "--region eu-west-2 "),
        ("work", None, "--profile work "),
        ("work", "eu-west-2", "--profile work --region eu-west-2 "),
    ],
)
def test_the_command_that_is_shown_goes_where_the_object_is(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    profile: Optional[str],
    region: Optional[str],
    options: str,
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    configuration = tmp_path / "config"
    configuration.write_text("[default]\nregion = eu-west-1\n[profile work]\nregion = us-west-2\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(configuration))
    estimator = SimpleNamespace(
        latest_training_job=SimpleNamespace(name="my-job"),
        sagemaker_session=SimpleNamespace(
            boto_session=boto3.Session(profile_name=profile, region_name=region)
        ),
    )
    SSHEstimatorWrapper(estimator).print_ssh_info()
    said = capsys.readouterr().out
    assert f"sm-ssh connect {options}my-job.training.sagemaker\n" in said
    assert f"sm-ssh config-ssh {options}".rstrip() + ":  ssh my-job.training.sagemaker\n" in said


@pytest.mark.parametrize(
    ("region", "console"),
    [
        ("eu-west-2", "https://eu-west-2.console.aws.amazon.com/"),
        ("cn-north-1", "https://cn-north-1.console.amazonaws.cn/"),
        ("us-gov-west-1", "https://us-gov-west-1.console.amazonaws-us-gov.com/"),
    ],
)
def test_links_lead_to_the_console_of_the_objects_own_region_and_partition(region: str, console: str) -> None:
    own = boto3.Session(region_name=region)
    estimator = SimpleNamespace(
        latest_training_job=SimpleNamespace(name="my-job"),
        sagemaker_session=SimpleNamespace(boto_session=own),
    )
    wrapper = SSHEstimatorWrapper(estimator)
    assert wrapper.get_metadata_url() == f"{console}sagemaker/home?region={region}#/jobs/my-job"
    assert wrapper.get_cloudwatch_url().startswith(f"{console}cloudwatch/home?region={region}#logsV2:")
