"""What a launch adds to a request, with real calls to a local cloud."""

import io
import json
import tarfile
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator

import boto3
import pytest

from local_cloud import LocalCloud
from sagemaker_ssh_helper import archive
from sagemaker_ssh_helper.client import launches
from sagemaker_ssh_helper.errors import LaunchRefused
from sagemaker_ssh_helper.launch import SshLaunch, bring_library, enable_for_session, enable_ssh, role_name
from sagemaker_ssh_helper.names import ResourceKind


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


@pytest.fixture
def session(cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> boto3.Session:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.endpoint_url)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    alice = cloud.user("alice")
    return boto3.Session(
        aws_access_key_id=alice["access_key_id"],
        aws_secret_access_key=alice["secret_access_key"],
        region_name=cloud.info["region"],
    )


def request(cloud: LocalCloud, **changes: Any) -> Dict[str, Any]:
    return {
        "TrainingJobName": "my-job",
        "RoleArn": cloud.info["role_arn"],
        "AlgorithmSpecification": {"TrainingImage": "own/image", "TrainingInputMode": "File"},
        "OutputDataConfig": {"S3OutputPath": "s3://somewhere/output"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        **changes,
    }


def test_variables_are_added_and_the_request_stays_as_it_was(
    cloud: LocalCloud, session: boto3.Session
) -> None:
    given = request(cloud, Environment={"MINE": "1"})
    before = json.dumps(given)
    enabled = enable_ssh(given, session, connection_wait_time=timedelta(minutes=2), ssh_instance_count=1)
    assert json.dumps(given) == before
    environment = enabled["Environment"]
    assert environment["MINE"] == "1"
    assert environment["START_SSH"] == "true"
    assert environment["SSH_WAIT_TIME_SECONDS"] == "120"
    assert environment["SSH_INSTANCE_COUNT"] == "1"
    assert environment["SSH_OWNER_TAG"] == cloud.user("alice")["user_id"]
    assert environment["SSH_SSM_ROLE"] in cloud.info["role_arn"]
    assert environment["SSH_PUBLIC_KEY"].startswith("ssh-ed25519 ")
    assert launches.load(ResourceKind.TRAINING, "my-job") == environment["SSH_LAUNCH_ID"]
    assert all(len(value) <= 256 for value in environment.values())


def test_each_launch_has_an_id_of_its_own(cloud: LocalCloud, session: boto3.Session) -> None:
    ids = {enable_ssh(request(cloud), session)["Environment"]["SSH_LAUNCH_ID"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize("as_json", [False, True], ids=["plain", "as the SDK writes it"])
def test_the_library_is_put_into_the_source_archive(
    cloud: LocalCloud, session: boto3.Session, as_json: bool
) -> None:
    def encode(text: str) -> str:
        return json.dumps(text) if as_json else text

    bucket = f"sagemaker-{cloud.info['region']}-{cloud.info['account_id']}"
    s3 = session.client("s3")
    s3.create_bucket(Bucket=bucket)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("train.py"))
    s3.put_object(Bucket=bucket, Key="code/sourcedir.tar.gz", Body=buffer.getvalue())
    location = f"s3://{bucket}/code/sourcedir.tar.gz"
    hyperparameters = {
        "sagemaker_program": encode("train.py"),
        "sagemaker_submit_directory": encode(location),
        "epochs": "3",
    }
    enabled = enable_ssh(request(cloud, HyperParameters=hyperparameters), session)["HyperParameters"]
    assert enabled["epochs"] == "3"
    assert enabled["sagemaker_program"] == encode(archive.LAUNCHER)
    moved = (
        json.loads(enabled["sagemaker_submit_directory"])
        if as_json
        else enabled["sagemaker_submit_directory"]
    )
    assert moved != location
    body = s3.get_object(Bucket=bucket, Key=moved.removeprefix(f"s3://{bucket}/"))["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        assert {"train.py", archive.LAUNCHER, "sagemaker_ssh_helper/__init__.py"} <= set(tar.getnames())
    again = enable_ssh(request(cloud, HyperParameters=enabled), session)["HyperParameters"]
    assert again == enabled


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"TrainingJobName": ""}, "creates nothing that can have ssh"),
        ({"EnableNetworkIsolation": True}, "network isolation"),
        ({"RoleArn": ""}, "has no role"),
        ({"RoleArn": "arn:aws:iam::123456789012:user/me"}, "no ARN of a role"),
        ({"Environment": {f"V{n}": "" for n in range(95)}}, "SageMaker takes 100"),
        (
            {"HyperParameters": {"sagemaker_program": "x.py", "sagemaker_submit_directory": "/opt/code"}},
            "not in S3",
        ),
    ],
)
def test_what_cannot_have_ssh_is_refused(
    cloud: LocalCloud, session: boto3.Session, changes: Dict[str, Any], why: str
) -> None:
    with pytest.raises(LaunchRefused, match=why):
        enable_ssh(request(cloud, **changes), session)
    assert launches.load(ResourceKind.TRAINING, "my-job") is None


@pytest.mark.parametrize(
    ("made", "what"),
    [
        ({"TransformJobName": "mine", "ModelName": "my-model"}, "mine is a transform job"),
        ({"EndpointConfigName": "mine", "ProductionVariants": []}, "mine is an endpoint configuration"),
        ({"EndpointName": "mine", "EndpointConfigName": "config"}, "mine is an endpoint, and"),
    ],
)
def test_what_runs_a_model_has_the_ssh_of_the_model(
    session: boto3.Session, made: Dict[str, Any], what: str
) -> None:
    with pytest.raises(LaunchRefused, match=rf"{what}.*keyword arguments of create_model"):
        enable_ssh(made, session)


def test_each_definition_of_a_tuning_job_registers_with_its_own_role(session: boto3.Session) -> None:
    roles = [f"arn:aws:iam::123456789012:role/{name}" for name in ("service-role/A", "B")]
    definitions = [{"DefinitionName": role[-1], "RoleArn": role} for role in roles]
    tuning = {"HyperParameterTuningJobName": "tune", "TrainingJobDefinitions": definitions}
    enabled = enable_ssh(tuning, session)["TrainingJobDefinitions"]
    assert [each["Environment"]["SSH_SSM_ROLE"] for each in enabled] == ["service-role/A", "B"]
    assert len({each["Environment"]["SSH_LAUNCH_ID"] for each in enabled}) == 1
    with pytest.raises(LaunchRefused, match="tune has no role"):
        enable_ssh({**tuning, "TrainingJobDefinitions": [*definitions, {}]}, session)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"connection_wait_time_seconds": -1}, "connection_wait_time_seconds must be 0 or more"),
        ({"ssh_instance_count": 0}, "ssh_instance_count 1 or more"),
        ({"connection_wait_time_seconds": "5"}, "must be whole numbers"),
        # The container would read no number, and not wait at all.
        ({"connection_wait_time_seconds": 5.5}, "must be whole numbers"),
        ({"ssh_instance_count": "all"}, "must be whole numbers"),
        ({"connection_wait_time": 5}, "connection_wait_time is no timedelta: 5"),
        ({"local_user_id": "x" * 257}, "of 257 characters"),
        ({"local_user_id": "me#1"}, "'me#1' cannot be the value of a tag"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    cloud: LocalCloud, session: boto3.Session, options: Dict[str, Any], what: str
) -> None:
    with pytest.raises(LaunchRefused, match=what):
        enable_ssh(request(cloud), session, **options)


def test_an_option_that_does_not_exist_is_told_before_a_job_is_made(session: boto3.Session) -> None:
    with pytest.raises(TypeError, match="wait_seconds"):
        enable_for_session(session, wait_seconds=5)


def test_a_client_that_makes_no_jobs_is_refused(session: boto3.Session) -> None:
    with pytest.raises(LaunchRefused, match="a client of s3 creates nothing that can have ssh"):
        enable_for_session(session.client("s3"))


def test_every_job_of_a_session_gets_ssh(cloud: LocalCloud, session: boto3.Session) -> None:
    enable_for_session(session, connection_wait_time_seconds=0)
    client = session.client("sagemaker")
    client.create_training_job(**request(cloud, TrainingJobName="by-another-tool"))
    described = client.describe_training_job(TrainingJobName="by-another-tool")
    assert described["Environment"]["START_SSH"] == "true"
    assert described["Environment"]["SSH_WAIT_TIME_SECONDS"] == "0"


def created(client: Any, cloud: LocalCloud, name: str, **changes: Any) -> Dict[str, str]:
    """The environment of a job that a tool makes with this client."""
    client.create_training_job(**request(cloud, TrainingJobName=name, **changes))
    found: Dict[str, str] = client.describe_training_job(TrainingJobName=name).get("Environment", {})
    return found


def test_clients_that_the_session_has_made_already_are_included(
    cloud: LocalCloud, session: boto3.Session
) -> None:
    client = session.client("sagemaker")
    other = boto3.Session(
        aws_access_key_id=cloud.user("alice")["access_key_id"],
        aws_secret_access_key=cloud.user("alice")["secret_access_key"],
        region_name=cloud.info["region"],
    ).client("sagemaker")
    enable_for_session(session)
    assert created(client, cloud, "of-an-earlier-client")["START_SSH"] == "true"
    assert created(other, cloud, "of-another-session") == {}


def test_the_options_given_last_hold(cloud: LocalCloud, session: boto3.Session) -> None:
    earlier = session.client("sagemaker")
    for seconds in (1, 2):
        enable_for_session(session, connection_wait_time_seconds=seconds)
    for client, name in ((earlier, "twice-earlier"), (session.client("sagemaker"), "twice-later")):
        assert created(client, cloud, name)["SSH_WAIT_TIME_SECONDS"] == "2"
        client.create_model(
            ModelName=name, ExecutionRoleArn=cloud.info["role_arn"], PrimaryContainer={"Image": "own"}
        )
        model = client.describe_model(ModelName=name)
        assert model["PrimaryContainer"]["Environment"]["SSH_WAIT_TIME_SECONDS"] == "2"


def test_a_request_with_ssh_stays_as_it_is(cloud: LocalCloud, session: boto3.Session) -> None:
    enable_for_session(session)
    own = enable_ssh(request(cloud), session, connection_wait_time_seconds=7)["Environment"]
    assert created(session.client("sagemaker"), cloud, "has-ssh", Environment=own) == own


def test_a_session_of_the_sdk_is_its_boto3_session(cloud: LocalCloud, session: boto3.Session) -> None:
    enable_for_session(SimpleNamespace(boto_session=session))
    assert "START_SSH" in created(session.client("sagemaker"), cloud, "by-the-sdk")


def test_without_a_session_it_is_the_one_that_tools_use(
    cloud: LocalCloud, session: boto3.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
    enable_for_session()
    assert "START_SSH" in created(boto3.client("sagemaker"), cloud, "by-the-default-session")


def test_a_definition_in_s3_is_replaced_by_one_beside_it(cloud: LocalCloud, session: boto3.Session) -> None:
    enable_for_session(session, connection_wait_time_seconds=0)
    s3 = session.client("s3")
    bucket = f"sagemaker-{cloud.info['region']}-{cloud.info['account_id']}"
    s3.create_bucket(Bucket=bucket)
    training = {"Name": "train", "Type": "Training", "Arguments": {"RoleArn": cloud.info["role_arn"]}}
    definition = json.dumps({"Version": "2020-12-01", "Steps": [training]})
    s3.put_object(Bucket=bucket, Key="all/pipe.json", Body=definition.encode())
    client, seen = session.client("sagemaker"), []

    def answer(params: Dict[str, Any], **_: Any) -> Any:
        seen.append(json.loads(params["body"])["PipelineDefinitionS3Location"])
        return Answer(), {}

    client.meta.events.register("before-call.sagemaker.CreatePipeline", answer)
    wanted = {"PipelineName": "pipe", "RoleArn": cloud.info["role_arn"], "ClientRequestToken": "x" * 32}
    client.create_pipeline(
        **wanted, PipelineDefinitionS3Location={"Bucket": bucket, "ObjectKey": "all/pipe.json"}
    )
    assert seen == [{"Bucket": bucket, "ObjectKey": "all/ssh/pipe/pipe.json"}]
    (step,) = json.loads(s3.get_object(Bucket=bucket, Key="all/ssh/pipe/pipe.json")["Body"].read())["Steps"]
    assert step["Arguments"]["Environment"]["START_SSH"] == "true"
    assert s3.get_object(Bucket=bucket, Key="all/pipe.json")["Body"].read() == definition.encode()
    with pytest.raises(LaunchRefused, match=r"NoSuchKey.*s3:GetObject"):
        client.create_pipeline(**wanted, PipelineDefinitionS3Location={"Bucket": bucket, "ObjectKey": "no"})


class Answer:
    status_code = 200


def test_a_client_stands_for_itself_alone(cloud: LocalCloud, session: boto3.Session) -> None:
    client = session.client("sagemaker")
    enable_for_session(client)
    environment = created(client, cloud, "of-the-client")
    assert environment["SSH_OWNER_TAG"] == cloud.user("alice")["user_id"]
    assert created(session.client("sagemaker"), cloud, "of-another-client") == {}


def test_the_library_comes_with_the_jobs_of_one_launch(cloud: LocalCloud, session: boto3.Session) -> None:
    bucket = f"sagemaker-{cloud.info['region']}-{cloud.info['account_id']}"
    client = session.client("sagemaker")
    session.client("s3").create_bucket(Bucket=bucket)
    ssh = SshLaunch.prepare(session, cloud.info["role_arn"], connection_wait_time_seconds=0)
    bring_library(session, ssh)
    found = []
    for name, environment in (("of-the-launch", ssh.environment()), ("of-another", {"START_SSH": "true"})):
        changes: Dict[str, Any] = {
            "AlgorithmSpecification": {
                "TrainingImage": "image",
                "TrainingInputMode": "File",
                "ContainerEntrypoint": ["true"],
            },
            "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/output"},
        }
        assert created(client, cloud, name, Environment=environment, **changes) == environment
        described = client.describe_training_job(TrainingJobName=name)
        found.append([channel["ChannelName"] for channel in described.get("InputDataConfig", [])])
    assert found == [["sagemaker_ssh_helper"], []]


def test_what_is_no_session_is_refused() -> None:
    with pytest.raises(LaunchRefused, match="a str is no session"):
        enable_for_session("default")


def test_a_refusal_comes_out_of_the_call(cloud: LocalCloud, session: boto3.Session) -> None:
    enable_for_session(session)
    client = session.client("sagemaker")
    with pytest.raises(LaunchRefused, match="network isolation"):
        created(client, cloud, "isolated", EnableNetworkIsolation=True)


def test_a_role_is_named_with_its_path() -> None:
    assert role_name("arn:aws:iam::123456789012:role/service-role/Mine") == "service-role/Mine"
    assert role_name("Mine") == "Mine"


def test_an_owner_may_be_given(session: boto3.Session) -> None:
    assert SshLaunch.prepare(session, "Mine", local_user_id="AIDAOTHER").owner == "AIDAOTHER"
