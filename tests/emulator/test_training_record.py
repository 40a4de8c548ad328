"""A job as the API shows it, with time as a literal."""

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from sagemaker_ssh_helper.emulator.job_record import Status
from sagemaker_ssh_helper.emulator.training_record import TrainingRecord

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)

REQUEST = {
    "TrainingJobName": "job",
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
    "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
}


def record(**members: Any) -> TrainingRecord:
    return TrainingRecord({**REQUEST, **members}, "arn", T0)


def went(*statuses: Status) -> TrainingRecord:
    """A job that spent ten seconds in each status on its way to the last one."""
    made = record()
    for number, status in enumerate(statuses, 1):
        made.change(status, T0 + timedelta(seconds=10 * number))
    return made


def test_times_are_those_of_the_statuses() -> None:
    job = went(Status.DOWNLOADING, Status.TRAINING, Status.UPLOADING, Status.COMPLETED)
    shown = job.describe(T0 + timedelta(days=1))

    assert shown["TrainingStartTime"] == T0 + timedelta(seconds=10)
    assert shown["TrainingEndTime"] == shown["LastModifiedTime"] == T0 + timedelta(seconds=40)
    assert shown["TrainingTimeInSeconds"] == shown["BillableTimeInSeconds"] == 30
    assert "EndTime" not in shown["SecondaryStatusTransitions"][-1]


def test_running_job_has_no_end() -> None:
    shown = went(Status.DOWNLOADING, Status.TRAINING).describe(T0 + timedelta(seconds=100))

    assert (shown["TrainingJobStatus"], shown["SecondaryStatus"]) == ("InProgress", "Training")
    assert shown["TrainingTimeInSeconds"] == 90
    for name in ("TrainingEndTime", "BillableTimeInSeconds", "FailureReason", "ModelArtifacts"):
        assert name not in shown


def test_job_that_is_being_stopped_stays_stopping_while_it_uploads() -> None:
    assert went(Status.DOWNLOADING, Status.STOPPING, Status.UPLOADING).primary_status == "Stopping"
    assert went(Status.DOWNLOADING, Status.TRAINING, Status.UPLOADING).primary_status == "InProgress"


@pytest.mark.parametrize(
    ("way", "status"),
    [
        ([], Status.TRAINING),
        ([], Status.COMPLETED),
        ([Status.DOWNLOADING], Status.UPLOADING),
        ([Status.DOWNLOADING, Status.TRAINING], Status.COMPLETED),
        ([Status.DOWNLOADING, Status.STOPPING], Status.COMPLETED),
        ([Status.DOWNLOADING, Status.STOPPING], Status.STOPPING),
        ([Status.STOPPING, Status.STOPPED], Status.STOPPING),
        ([Status.STOPPING, Status.STOPPED], Status.FAILED),
    ],
)
def test_statuses_do_not_jump(way: list[Status], status: Status) -> None:
    job = went(*way)
    with pytest.raises(AssertionError, match="cannot be followed by"):
        job.change(status, T0)


def test_failure_reason_is_cut_to_what_the_api_shows() -> None:
    job = went(Status.DOWNLOADING)
    job.fail("x" * 5000, T0)

    assert job.describe(T0)["FailureReason"] == "x" * 1024


def test_defaults_are_filled_in_and_the_request_wins() -> None:
    shown = record().describe(T0)
    assert shown["StoppingCondition"] == {"MaxRuntimeInSeconds": 86_400}
    assert shown["OutputDataConfig"] == {
        "KmsKeyId": "",
        "CompressionType": "GZIP",
        "S3OutputPath": "s3://bucket/out",
    }
    assert shown["EnableNetworkIsolation"] is False
    assert shown["ProfilingStatus"] == "Disabled"

    given = record(
        StoppingCondition={"MaxRuntimeInSeconds": 7, "MaxWaitTimeInSeconds": 9},
        ProfilerConfig={"S3OutputPath": "s3://bucket/profile"},
    ).describe(T0)
    assert given["StoppingCondition"] == {"MaxRuntimeInSeconds": 7, "MaxWaitTimeInSeconds": 9}
    assert given["ProfilingStatus"] == "Enabled"


def test_rules_are_as_an_administrator_made_them() -> None:
    rule = {"RuleConfigurationName": "LowGPU", "RuleEvaluatorImage": "image"}
    other = {"RuleConfigurationName": "Loss", "RuleEvaluatorImage": "image"}
    job = record(ProfilerRuleConfigurations=[rule], DebugRuleConfigurations=[other])
    assert job.rules == ["LowGPU", "Loss"]
    job.rule_statuses["LowGPU"] = "IssuesFound"
    shown = job.describe(T0)
    (profiler,), (debugger,) = shown["ProfilerRuleEvaluationStatuses"], shown["DebugRuleEvaluationStatuses"]
    assert (profiler["RuleConfigurationName"], profiler["RuleEvaluationStatus"]) == ("LowGPU", "IssuesFound")
    assert (debugger["RuleConfigurationName"], debugger["RuleEvaluationStatus"]) == ("Loss", "InProgress")

    for status in (Status.DOWNLOADING, Status.TRAINING, Status.UPLOADING, Status.COMPLETED):
        job.change(status, T0)
    assert job.describe(T0)["DebugRuleEvaluationStatuses"][0]["RuleEvaluationStatus"] == "NoIssuesFound"
