"""The wrappers around objects that look like the SDK's; with the SDK itself in e2e and test_examples."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator, Type

import boto3
import pytest

from local_cloud import LocalCloud
from sagemaker_ssh_helper.errors import LaunchRefused, NodeNotFound, TargetEnded, TargetNotFound
from sagemaker_ssh_helper.wrapper import (
    SSHEnvironmentWrapper,
    SSHEstimatorWrapper,
    SSHIDEWrapper,
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
    SSHIDEWrapper,
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


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_attaching_to_what_is_not_there_says_so(
    session: boto3.Session, wrapper: Type[SSHEnvironmentWrapper]
) -> None:
    with pytest.raises(ValueError, match=f"there is no {wrapper.kind.label} 'nothing' in") as caught:
        wrapper.attach("nothing", session)
    assert isinstance(caught.value, TargetNotFound)


def attach_by_name(session: boto3.Session, name: str) -> SSHEnvironmentWrapper:
    return SSHEstimatorWrapper.attach(name, session)


def attach_by_host_name(session: boto3.Session, name: str) -> SSHEnvironmentWrapper:
    return SSHEnvironmentWrapper.attach_to_resource(f"{name}.training.sagemaker", session)


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
    wrapper = attach(session, name)
    assert isinstance(wrapper, SSHEstimatorWrapper)
    assert wrapper.wait_training_job_with_status() == "Failed"
    # Less patience than the 900 seconds that it has by default could not tell the two apart.
    with pytest.raises(TargetEnded, match=f"{name} has ended: Failed"):
        wrapper.get_instance_ids()


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
