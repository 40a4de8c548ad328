"""Which stage a starting resource is in, by what AWS says of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from aws_stub import AwsStub, aws_stub
from sagemaker_ssh_helper import errors
from sagemaker_ssh_helper.aws import instances
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.progress import Stage, Watch
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
    seen = Watch(client, TARGET).look()
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
    seen = Watch(client, Target.parse("e.inference.sagemaker")).look()
    assert (seen.stage, seen.since) == (Stage.INSTANCES, 7.0)


def test_an_instance_that_is_online_is_ready_after_one_call(stub: AwsStub, client: Client) -> None:
    node = {
        "InstanceId": "mi-00000000000000001",
        "PingStatus": "Online",
        "Name": "algo-1.job.training.sagemaker",
    }
    stub.answers["DescribeInstanceInformation"] = {"InstanceInformationList": [node]}
    assert Watch(client, TARGET).look().stage is Stage.READY
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
        Watch(client, TARGET).look()


NODE = {
    "InstanceId": "mi-00000000000000001",
    "PingStatus": "Online",
    "Name": "algo-1.job.training.sagemaker",
}


def look_again(watch: Watch) -> None:
    """A look at each thing there is to look at."""
    for _ in range(4):
        watch.look()


def test_each_look_after_the_first_is_one_call(stub: AwsStub, client: Client) -> None:
    stub.answers["DescribeTrainingJob"] = job("Downloading")
    watch = Watch(client, TARGET)
    watch.look()
    stub.asked.clear()
    for _ in range(6):
        assert watch.look().stage is Stage.IMAGE
    assert sorted(stub.operations) == ["DescribeInstanceInformation"] * 2 + ["DescribeTrainingJob"] * 4
    stub.answers.update(DescribeTrainingJob=job("Training"), FilterLogEvents={"events": []})
    while watch.look().stage is not Stage.HELPER:
        pass
    stub.asked.clear()
    for _ in range(8):
        assert watch.look().stage is Stage.HELPER
    asked = stub.operations
    assert len(asked) == 8
    assert asked.count("DescribeInstanceInformation") == 4
    stub.answers["DescribeInstanceInformation"] = {"InstanceInformationList": [NODE]}
    assert Stage.READY in [watch.look().stage for _ in range(2)]


def test_each_line_of_the_helper_is_told_once(stub: AwsStub, client: Client) -> None:
    def event(number: int, text: str) -> dict[str, object]:
        message = f"sagemaker-ssh-helper: {text}"
        return {
            "eventId": str(number),
            "timestamp": number,
            "logStreamName": "job/algo-1-1",
            "message": message,
        }

    stub.answers.update(DescribeTrainingJob=job("Training"), FilterLogEvents={"events": [event(1, "one")]})
    watch = Watch(client, TARGET)
    told = [line.message for _ in range(8) for line in watch.look().lines]
    stub.answers["FilterLogEvents"] = {"events": [event(1, "one"), event(2, "two")]}
    told += [line.message for _ in range(8) for line in watch.look().lines]
    assert told == ["one", "two"]
    stub.answers["FilterLogEvents"] = {"events": [event(3, "no ssh in this container: it is broken")]}
    with pytest.raises(errors.RegistrationFailed, match="it is broken"):
        look_again(watch)


@pytest.mark.parametrize("age", [10, 1000])
def test_a_silent_instance_is_waited_for_while_it_is_new(stub: AwsStub, client: Client, age: float) -> None:
    silent = {**NODE, "PingStatus": "ConnectionLost", "RegistrationDate": time.time() - age}
    stub.answers.update(
        DescribeTrainingJob=job("Training"),
        DescribeInstanceInformation={"InstanceInformationList": [silent]},
        FilterLogEvents={"events": []},
    )
    watch = Watch(client, TARGET)
    if age > instances.SETTLING:
        with pytest.raises(errors.TargetOffline) as refused:
            watch.look()
        assert not refused.value.may_come
        return
    assert {watch.look().stage for _ in range(5)} == {Stage.HELPER}
    stub.answers["DescribeInstanceInformation"] = {"InstanceInformationList": [NODE]}
    assert Stage.READY in [watch.look().stage for _ in range(2)]
    again = Watch(client, TARGET)
    stub.answers["DescribeInstanceInformation"] = {"InstanceInformationList": [silent]}
    again.look()
    silent["RegistrationDate"] = time.time() - 1000
    with pytest.raises(errors.TargetOffline, match="its agent does not answer"):
        look_again(again)
