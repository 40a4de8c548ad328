"""A session to a container that has just come, or just gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from aws_stub import AwsStub, Refusal, aws_stub
from sagemaker_ssh_helper.aws.instances import Instance
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.aws.sessions import SessionGrant
from sagemaker_ssh_helper.client import settling
from sagemaker_ssh_helper.errors import NotConnected, TargetEnded
from sagemaker_ssh_helper.names import InstanceId, ResourceKind, SessionId

GRANT = SessionGrant(SessionId("s"), "ws://x", "token")


@pytest.fixture
def stub() -> Iterator[AwsStub]:
    with aws_stub() as stub:
        stub.answers["DescribeTrainingJob"] = described("InProgress")
        yield stub


def described(status: str) -> dict[str, object]:
    return {"TrainingJobName": "job", "TrainingJobStatus": status}


def instance(age: float | None) -> Instance:
    return Instance(
        id=InstanceId("mi-00000000000000001"),
        ping_status="Online",
        kind=ResourceKind.TRAINING,
        name="job",
        node="algo-1",
        registered_at=None if age is None else time.time() - age,
    )


class Attempts:
    """Fails as AWS does, so many times; and what was done meanwhile."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.made = 0
        self.told: list[str] = []
        self.paused: list[float] = []
        self.leaves = False

    def make(self) -> SessionGrant:
        self.made += 1
        if self.made <= self.failures:
            raise NotConnected("it is not connected")
        return GRANT

    def pause(self, seconds: float) -> bool:
        self.paused.append(seconds)
        return self.leaves

    def start(self, stub: AwsStub, instance: Instance, wait: bool = True) -> SessionGrant | None:
        client = Client(Session.open(environ=stub.environment()))
        return settling.start(client, instance, self.make, wait=wait, pause=self.pause, tell=self.told.append)


def test_a_new_instance_is_tried_until_it_takes_a_session(stub: AwsStub) -> None:
    attempts = Attempts(3)
    assert attempts.start(stub, instance(age=20)) is GRANT
    assert attempts.paused == [settling.INTERVAL] * 3
    (line,) = attempts.told
    assert line.startswith("job.training.sagemaker is registered, and takes no session yet")


def test_an_instance_that_was_given_by_its_id_is_looked_up(stub: AwsStub) -> None:
    node = {
        "InstanceId": "mi-00000000000000001",
        "PingStatus": "Online",
        "RegistrationDate": time.time() - 20,
    }
    stub.answers["DescribeInstanceInformation"] = {"InstanceInformationList": [node]}
    assert Attempts(1).start(stub, instance(age=None)) is GRANT


@pytest.mark.parametrize(("age", "wait"), [(400, True), (20, False)])
def test_an_old_one_and_one_that_nobody_waits_for_are_refused(stub: AwsStub, age: float, wait: bool) -> None:
    attempts = Attempts(1)
    with pytest.raises(NotConnected):
        attempts.start(stub, instance(age), wait)
    assert attempts.made == 1


def test_the_end_of_the_job_is_told_instead(stub: AwsStub) -> None:
    stub.answers["DescribeTrainingJob"] = described("Stopped")
    for age in (20, 400):
        with pytest.raises(TargetEnded, match="job has ended: Stopped"):
            Attempts(1).start(stub, instance(age))


@pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException"])
def test_a_job_that_cannot_be_described_is_no_obstacle(stub: AwsStub, code: str) -> None:
    stub.answers["DescribeTrainingJob"] = Refusal(code, "no")
    assert Attempts(1).start(stub, instance(age=20)) is GRANT


def test_somebody_who_leaves_gets_nothing(stub: AwsStub) -> None:
    attempts = Attempts(3)
    attempts.leaves = True
    assert attempts.start(stub, instance(age=20)) is None
    assert attempts.made == 1


def test_an_instance_of_no_known_resource_is_taken_as_it_is(stub: AwsStub) -> None:
    unknown = replace(instance(age=20), kind=None, name="")
    assert Attempts(1).start(stub, unknown) is GRANT
    assert stub.operations == []
