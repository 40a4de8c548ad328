"""enable and disable, as processes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from aws_stub import AwsStub, Refusal

from .conftest import Run

HOST = "job.training.sagemaker"


def job(**more: Any) -> dict[str, Any]:
    return {
        "TrainingJobName": "job",
        "TrainingJobStatus": "InProgress",
        "SecondaryStatus": "Training",
        "ResourceConfig": {"InstanceCount": 1},
        "CreationTime": time.time() - 60,
        **more,
    }


def debug(on: bool) -> dict[str, Any]:
    return {"RemoteDebugConfig": {"EnableRemoteDebug": on}}


def test_a_running_job_is_switched_on_and_waited_for(sm_ssh: Run, stub: AwsStub) -> None:
    stub.answers["DescribeTrainingJob"] = job()
    stub.answers["UpdateTrainingJob"] = {"TrainingJobArn": "arn"}
    stub.answers["GetConnectionStatus"] = {"Status": "connected"}
    done = sm_ssh("enable", HOST)

    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode() == (
        "sm-ssh: job: remote debugging is on; who may open sessions to it now, no SSHOwner limits\n"
        "sm-ssh: connect to it: sm-ssh connect job.training.sagemaker\n"
    )
    assert stub.operations == ["DescribeTrainingJob", "UpdateTrainingJob", "GetConnectionStatus"]
    assert stub.asked[1].params == {"TrainingJobName": "job", **debug(True)}
    assert stub.asked[2].params == {"Target": "sagemaker-training-job:job_algo-1"}


def test_one_that_is_on_is_left_alone(sm_ssh: Run, stub: AwsStub) -> None:
    stub.answers["DescribeTrainingJob"] = job(**debug(True))
    done = sm_ssh("enable", "--no-wait", HOST)

    assert done.returncode == 0
    assert b"remote debugging is on already" in done.stderr
    assert stub.operations == ["DescribeTrainingJob"]


def test_it_is_switched_off(sm_ssh: Run, stub: AwsStub) -> None:
    stub.answers["DescribeTrainingJob"] = job(**debug(True))
    stub.answers["UpdateTrainingJob"] = {"TrainingJobArn": "arn"}
    done = sm_ssh("disable", HOST)

    assert (done.returncode, done.stderr) == (0, b"sm-ssh: job: remote debugging is off\n")
    assert stub.asked[-1].params == {"TrainingJobName": "job", **debug(False)}
    stub.answers["DescribeTrainingJob"] = job()
    assert sm_ssh("disable", HOST).stderr == b"sm-ssh: job: remote debugging is off already\n"
    assert stub.operations.count("UpdateTrainingJob") == 1


@pytest.mark.parametrize("command", ["enable", "disable"])
@pytest.mark.parametrize(
    ("described", "code", "line"),
    [
        (job(TrainingJobStatus="Failed"), 7, "error[target-ended]: job has ended: Failed"),
        (job(EnableNetworkIsolation=True), 5, "error[network-isolated]: job runs in network isolation"),
        (job(SecondaryStatus="Starting"), 5, "error[target-starting]: remote debugging of job cannot be"),
        (job(SecondaryStatus="Uploading"), 5, "(status Uploading)"),
        (Refusal("ValidationException", "Requested resource not found."), 3, "error[target-not-found]"),
        (Refusal("AccessDeniedException", "not allowed"), 4, "error[access-denied]"),
    ],
)
def test_what_cannot_be_is_one_line(
    sm_ssh: Run, stub: AwsStub, command: str, described: Any, code: int, line: str
) -> None:
    stub.answers["DescribeTrainingJob"] = described
    done = sm_ssh(command, HOST)

    assert (done.returncode, done.stdout) == (code, b"")
    assert line in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert stub.operations == ["DescribeTrainingJob"]


def test_other_kinds_have_none(sm_ssh: Run, stub: AwsStub) -> None:
    done = sm_ssh("enable", "job.processing.sagemaker")
    assert done.returncode == 5
    assert b"a processing job has no remote debugging" in done.stderr
    assert stub.asked == []


def test_refusal_of_the_update_is_told(sm_ssh: Run, stub: AwsStub) -> None:
    stub.answers["DescribeTrainingJob"] = job()
    stub.answers["UpdateTrainingJob"] = Refusal(
        "AccessDeniedException", "User: u is not authorized to perform: sagemaker:UpdateTrainingJob"
    )
    done = sm_ssh("enable", HOST)
    assert done.returncode == 4
    assert b"sagemaker:UpdateTrainingJob" in done.stderr
