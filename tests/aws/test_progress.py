"""Which stage a starting resource is in, by what AWS says of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aws_stub import AwsStub, aws_stub
from sagemaker_ssh_helper import errors
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.progress import Stage, look
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.targets import Target

TARGET = Target.parse("job.training.sagemaker")


@pytest.fixture
def stub() -> Iterator[AwsStub]:
    with aws_stub() as stub:
        stub.answers["DescribeInstanceInformation"] = {"InstanceInformationList": []}
        yield stub


@pytest.fixture
def client(stub: AwsStub) -> Client:
    return Client(Session.open(environ=stub.environment()))


def job(status: str, **more: object) -> dict[str, object]:
    return {
        "TrainingJobName": "job",
        "TrainingJobStatus": "InProgress",
        "SecondaryStatus": status,
        "CreationTime": 100.0,
        "Environment": {"START_SSH": "true"},
        "SecondaryStatusTransitions": [{"Status": status, "StartTime": 150.0}],
        **more,
    }


@pytest.mark.parametrize(
    ("status", "stage"),
    [
        ("Starting", Stage.INSTANCES),
        ("Pending", Stage.INSTANCES),
        ("Downloading", Stage.IMAGE),
        ("DownloadingTrainingImage", Stage.IMAGE),
        ("Training", Stage.HELPER),
    ],
)
def test_the_secondary_status_tells_the_stage_and_since_when(
    stub: AwsStub, client: Client, status: str, stage: Stage
) -> None:
    stub.answers["DescribeTrainingJob"] = job(status)
    seen = look(client, TARGET)
    assert (seen.stage, seen.status, seen.since) == (stage, status, 150.0)


def test_an_endpoint_that_is_being_made_has_no_instance_yet(stub: AwsStub, client: Client) -> None:
    stub.answers.update(
        DescribeEndpoint={
            "EndpointName": "e",
            "EndpointConfigName": "c",
            "EndpointStatus": "Creating",
            "CreationTime": 7.0,
        },
        DescribeEndpointConfig={"ProductionVariants": []},
    )
    seen = look(client, Target.parse("e.inference.sagemaker"))
    assert (seen.stage, seen.since) == (Stage.INSTANCES, 7.0)


def test_an_instance_that_is_online_is_ready_after_one_call(stub: AwsStub, client: Client) -> None:
    node = {
        "InstanceId": "mi-00000000000000001",
        "PingStatus": "Online",
        "Name": "algo-1.job.training.sagemaker",
    }
    stub.answers["DescribeInstanceInformation"] = {"InstanceInformationList": [node]}
    assert look(client, TARGET).stage is Stage.READY
    assert stub.operations == ["DescribeInstanceInformation"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (job("Failed", TrainingJobStatus="Failed"), errors.TargetEnded),
        (job("Training", Environment={}), errors.NotInstrumented),
    ],
)
def test_what_waiting_cannot_mend_is_raised(
    stub: AwsStub, client: Client, answer: dict[str, object], error: type[Exception]
) -> None:
    stub.answers["DescribeTrainingJob"] = answer
    with pytest.raises(error):
        look(client, TARGET)
