"""
SageMaker's API as boto3 sees it: what it refuses and in which words, lists, tags, rights.
"""

import datetime
import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from emulator.training_jobs import JobCloud, User

SLEEP = "import time; time.sleep(600)"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobCloud]:
    environment = {"SM_SSH_JOB_STOP_SECONDS": "0.1"}
    with JobCloud(tmp_path_factory.mktemp("cloud"), environment=environment) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def alice(cloud: JobCloud) -> User:
    return cloud.user("alice")


@pytest.fixture(scope="module")
def done(alice: User) -> dict[str, Any]:
    """A job that is over."""
    return alice.run("print('done')", Tags=[{"Key": "team", "Value": "red"}])


def refused(call: Any, **params: Any) -> tuple[str, str]:
    """The code and message with which a call is refused."""
    with pytest.raises(ClientError) as caught:
        call(**params)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


# -- CreateTrainingJob -----------------------------------------------------------------------------------


def test_created_job_is_described_as_requested(alice: User, cloud: JobCloud) -> None:
    request = alice.request(
        "print('hello')",
        RemoteDebugConfig={"EnableRemoteDebug": True},
        Environment={"A": "b"},
        RetryStrategy={"MaximumRetryAttempts": 1},
        EnableManagedSpotTraining=False,
    )
    answer = alice.sagemaker.create_training_job(**request)

    name = request["TrainingJobName"]
    arn = f"arn:aws:sagemaker:{cloud.info['region']}:{cloud.info['account_id']}:training-job/{name}"
    assert answer["TrainingJobArn"] == arn
    described = alice.wait(name)
    assert described["TrainingJobArn"] == arn
    output = {"KmsKeyId": "", "CompressionType": "GZIP", **request["OutputDataConfig"]}
    assert {key: described[key] for key in request} == {**request, "OutputDataConfig": output}


def test_arn_has_the_name_in_small_letters(alice: User) -> None:
    job = alice.run("print('hello')", TrainingJobName="My-Job-With-Capitals")

    assert job["TrainingJobName"] == "My-Job-With-Capitals"
    assert job["TrainingJobArn"].endswith(":training-job/my-job-with-capitals")


def test_name_is_used_once(alice: User, done: dict[str, Any]) -> None:
    request = alice.request("print('again')", TrainingJobName=done["TrainingJobName"])

    code, message = refused(alice.sagemaker.create_training_job, **request)
    assert code == "ResourceInUse"
    assert message == (
        "Training job names must be unique within an AWS account and Region, and a training job with this "
        f"name already exists ({done['TrainingJobArn']})"
    )


@pytest.mark.parametrize("name", ["a;b", "$(id)", "-a", "a b", "a" * 64, "../a", "a\nb", "ä"])
def test_name_of_other_characters_is_refused(alice: User, name: str) -> None:
    request = alice.request(SLEEP)
    request["TrainingJobName"] = name

    code, message = refused(alice.sagemaker.create_training_job, **request)
    assert code == "ValidationException"
    assert "'trainingJobName' failed to satisfy constraint" in message


def test_role_must_be_one_that_sagemaker_can_assume(alice: User, cloud: JobCloud) -> None:
    admin = cloud.user("admin")
    role = cloud.info["role_arn"].rsplit("/", 1)[0] + "/NoSuchRole"
    request = admin.request(SLEEP, RoleArn=role)

    assert refused(admin.sagemaker.create_training_job, **request) == (
        "ValidationException",
        f"Could not assume role {role}. Please ensure that the role exists and allows principal "
        "'sagemaker.amazonaws.com' to assume the role.",
    )


def test_caller_must_be_allowed_to_pass_the_role(alice: User, cloud: JobCloud) -> None:
    role = cloud.info["role_arn"].rsplit("/", 1)[0] + "/NotForAlice"
    request = alice.request(SLEEP, RoleArn=role)

    code, message = refused(alice.sagemaker.create_training_job, **request)
    assert code == "AccessDeniedException"
    assert f"is not authorized to perform: iam:PassRole on resource: {role}" in message


def test_denied_caller_starts_nothing(alice: User, cloud: JobCloud) -> None:
    admin = cloud.user("admin")
    request = alice.request(SLEEP)
    policy = {"Effect": "Deny", "Action": "sagemaker:CreateTrainingJob", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [policy]})
    admin.client("iam").put_user_policy(UserName="alice", PolicyName="no", PolicyDocument=document)
    try:
        code, message = refused(alice.sagemaker.create_training_job, **request)
    finally:
        admin.client("iam").delete_user_policy(UserName="alice", PolicyName="no")

    assert code == "AccessDeniedException"
    assert "sagemaker:CreateTrainingJob" in message
    code, _ = refused(alice.sagemaker.describe_training_job, TrainingJobName=request["TrainingJobName"])
    assert code == "ValidationException"


def groups(*names: str, **members: Any) -> dict[str, Any]:
    """A ResourceConfig of instance groups, two nodes each."""
    group = {"InstanceType": "ml.m5.large", "InstanceCount": 2}
    named = [{**group, "InstanceGroupName": name} for name in names]
    return {"VolumeSizeInGB": 1, "InstanceGroups": named, **members}


def channel(name: str, **source: Any) -> dict[str, Any]:
    return {"ChannelName": name, "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", **source}}}


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"AlgorithmSpecification": {"TrainingInputMode": "File"}}, "either TrainingImage or AlgorithmName"),
        (
            {"AlgorithmSpecification": {"TrainingInputMode": "File", "AlgorithmName": "xgboost"}},
            "does not support this: AlgorithmSpecification.AlgorithmName",
        ),
        (
            {"AlgorithmSpecification": {"TrainingInputMode": "Loud", "TrainingImage": "image"}},
            "Member must satisfy enum value set",
        ),
        (
            {"ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 65, "VolumeSizeInGB": 1}},
            "jobs of at most 64 instances",
        ),
        ({"ResourceConfig": {"InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}}, "and InstanceCount"),
        ({"ResourceConfig": groups("a", "b", InstanceCount=1)}, "both InstanceGroups and InstanceCount"),
        ({"ResourceConfig": groups("a", "a")}, "must be unique"),
        (
            {
                "ResourceConfig": groups("a", "b"),
                "InputDataConfig": [channel("x", S3Uri="s3://bucket/a", InstanceGroupNames=["c"])],
            },
            "The channel x names no instance group: c",
        ),
        (
            {"ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 0, "VolumeSizeInGB": 1}},
            "greater than or equal to 1",
        ),
        (
            {"ResourceConfig": {"InstanceType": "ml.none", "InstanceCount": 1, "VolumeSizeInGB": 1}},
            "Member must satisfy enum value set",
        ),
        ({"Environment": {"A": "x" * 513}}, "less than or equal to 512"),
        ({"Environment": {f"A{n}": "x" for n in range(101)}}, "less than or equal to 100"),
        ({"Environment": {"A B": "x"}}, "regular expression pattern"),
        ({"Environment": {"A": "x\0y"}}, ""),
        ({"HyperParameters": {f"a{n}": "x" for n in range(101)}}, "less than or equal to 100"),
        ({"HyperParameters": {"a": "x" * 2501}}, "2500"),
        ({"InputDataConfig": [channel("..", S3Uri="s3://bucket/a")]}, "cannot be the name of a channel"),
        ({"InputDataConfig": [channel("a", S3Uri="https://bucket/a")]}, "is not an S3 URI"),
        (
            {"InputDataConfig": [channel("a", S3Uri="s3://bucket/a"), channel("a", S3Uri="s3://bucket/b")]},
            "used more than once",
        ),
        (
            {"InputDataConfig": [channel("a", S3Uri="s3://bucket/a", S3DataType="ManifestFile")]},
            "does not support this: S3DataType ManifestFile",
        ),
        (
            {"InputDataConfig": [{**channel("a", S3Uri="s3://bucket/a"), "InputMode": "Pipe"}]},
            "does not support this: Input mode Pipe",
        ),
        ({"OutputDataConfig": {"S3OutputPath": "file:///etc"}}, "s3"),
        (
            {"CheckpointConfig": {"S3Uri": "s3://bucket/a", "LocalPath": "/opt/ml/../../etc"}},
            "does not support this: CheckpointConfig.LocalPath outside /opt/ml",
        ),
        ({"HyperParameters": {"sagemaker_submit_directory": '"ftp://code"'}}, "is not an S3 URI"),
        ({"Tags": [{"Key": "aws:mine", "Value": "x"}]}, "aws:"),
    ],
)
def test_request_that_cannot_be_served_is_refused(alice: User, members: dict[str, Any], text: str) -> None:
    request = alice.request(SLEEP, **members)

    code, message = refused(alice.sagemaker.create_training_job, **request)
    assert code == "ValidationException"
    assert text in message


# -- DescribeTrainingJob and StopTrainingJob -------------------------------------------------------------


def test_unknown_job_is_not_found(alice: User) -> None:
    for call in (alice.sagemaker.describe_training_job, alice.sagemaker.stop_training_job):
        assert refused(call, TrainingJobName="nobody-made-it") == (
            "ValidationException",
            "Requested resource not found.",
        )


def test_ended_job_cannot_be_stopped(alice: User, done: dict[str, Any]) -> None:
    assert refused(alice.sagemaker.stop_training_job, TrainingJobName=done["TrainingJobName"]) == (
        "ValidationException",
        "The request was rejected because the training job is in status Completed.",
    )


def test_stopping_twice_is_stopping_once(alice: User) -> None:
    name = alice.start("import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)")
    alice.wait(name, lambda job: job["SecondaryStatus"] == "Training")
    alice.sagemaker.stop_training_job(TrainingJobName=name)
    alice.sagemaker.stop_training_job(TrainingJobName=name)

    job = alice.wait(name)
    statuses = [transition["Status"] for transition in job["SecondaryStatusTransitions"]]
    assert statuses.count("Stopping") == 1
    assert job["TrainingJobStatus"] == "Stopped"


def test_waiter_of_boto3_returns(alice: User) -> None:
    name = alice.start("print('hello')")
    waiter = alice.sagemaker.get_waiter("training_job_completed_or_stopped")
    alice.wait(name)
    waiter.wait(TrainingJobName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 10})

    assert alice.describe(name)["TrainingJobStatus"] == "Completed"


# -- ListTrainingJobs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listed(alice: User) -> list[dict[str, Any]]:
    """Five jobs called ``listed-…``, oldest first; the last one failed."""
    names = [f"listed-{letter}" for letter in "cabed"]
    return [
        alice.run("raise SystemExit(1)" if name == "listed-d" else "print(1)", TrainingJobName=name)
        for name in names
    ]


def names(answer: dict[str, Any]) -> list[str]:
    return [job["TrainingJobName"] for job in answer["TrainingJobSummaries"]]


def test_list_is_newest_first(alice: User, listed: list[dict[str, Any]]) -> None:
    answer = alice.sagemaker.list_training_jobs(NameContains="LISTED-")

    assert names(answer) == ["listed-d", "listed-e", "listed-b", "listed-a", "listed-c"]
    first = answer["TrainingJobSummaries"][0]
    assert first["TrainingJobStatus"] == "Failed"
    assert first["TrainingJobArn"] == listed[-1]["TrainingJobArn"]
    assert first["TrainingEndTime"] == listed[-1]["TrainingEndTime"]


def test_list_is_sorted_as_asked(alice: User, listed: list[dict[str, Any]]) -> None:
    by_name = alice.sagemaker.list_training_jobs(NameContains="listed-", SortBy="Name", SortOrder="Ascending")
    assert names(by_name) == [f"listed-{letter}" for letter in "abcde"]

    by_status = alice.sagemaker.list_training_jobs(
        NameContains="listed-", SortBy="Status", SortOrder="Descending"
    )
    assert names(by_status)[0] == "listed-d"


def test_list_is_filtered(alice: User, listed: list[dict[str, Any]]) -> None:
    failed = alice.sagemaker.list_training_jobs(NameContains="listed-", StatusEquals="Failed")
    assert names(failed) == ["listed-d"]

    middle = listed[2]["CreationTime"]
    after = alice.sagemaker.list_training_jobs(NameContains="listed-", CreationTimeAfter=middle)
    assert names(after) == ["listed-d", "listed-e", "listed-b"]
    before = alice.sagemaker.list_training_jobs(
        NameContains="listed-", CreationTimeBefore=middle - datetime.timedelta(milliseconds=1)
    )
    assert names(before) == ["listed-a", "listed-c"]


@pytest.mark.parametrize("order", ["Ascending", "Descending"])
def test_list_has_pages(alice: User, listed: list[dict[str, Any]], order: str) -> None:
    arguments = {"NameContains": "listed-", "SortBy": "Name", "SortOrder": order}
    pages = alice.sagemaker.get_paginator("list_training_jobs").paginate(
        **arguments, PaginationConfig={"PageSize": 2}
    )
    parts = [names(page) for page in pages]

    assert [len(part) for part in parts] == [2, 2, 1]
    assert [name for part in parts for name in part] == names(alice.sagemaker.list_training_jobs(**arguments))


@pytest.mark.parametrize("token", ["nonsense", "WzEsMl0=", "e30=", "ä"])
def test_foreign_token_is_refused(alice: User, token: str) -> None:
    code, message = refused(alice.sagemaker.list_training_jobs, NextToken=token)

    assert (code, message) == ("ValidationException", "The NextToken is not valid.")


# -- tags ------------------------------------------------------------------------------------------------


def test_tags_are_added_listed_and_deleted(cloud: JobCloud, done: dict[str, Any]) -> None:
    arn = done["TrainingJobArn"]
    sagemaker = cloud.user("admin").sagemaker
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "team", "Value": "red"}]

    sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "team", "Value": "blue"}, {"Key": "cost", "Value": ""}])
    tags = {tag["Key"]: tag["Value"] for tag in sagemaker.list_tags(ResourceArn=arn)["Tags"]}
    assert tags == {"team": "blue", "cost": ""}

    sagemaker.delete_tags(ResourceArn=arn, TagKeys=["cost", "none"])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "team", "Value": "blue"}]


def test_tags_have_a_limit(alice: User, done: dict[str, Any]) -> None:
    tags = [{"Key": f"k{number}", "Value": "v"} for number in range(50)]

    code, message = refused(alice.sagemaker.add_tags, ResourceArn=done["TrainingJobArn"], Tags=tags)
    assert (code, message) == ("ValidationException", "A resource can have at most 50 tags.")


def test_tags_decide_who_may_stop(alice: User, cloud: JobCloud) -> None:
    admin = cloud.user("admin")
    deny = {
        "Effect": "Deny",
        "Action": "sagemaker:StopTrainingJob",
        "Resource": "*",
        "Condition": {"StringEquals": {"aws:ResourceTag/keep": "yes"}},
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    admin.client("iam").put_user_policy(UserName="alice", PolicyName="keep", PolicyDocument=document)
    try:
        kept = alice.start(SLEEP, Tags=[{"Key": "keep", "Value": "yes"}])
        other = alice.start(SLEEP)
        code, _ = refused(alice.sagemaker.stop_training_job, TrainingJobName=kept)
        alice.sagemaker.stop_training_job(TrainingJobName=other)
    finally:
        admin.client("iam").delete_user_policy(UserName="alice", PolicyName="keep")
    alice.sagemaker.stop_training_job(TrainingJobName=kept)

    assert code == "AccessDeniedException"
    assert alice.wait(other)["TrainingJobStatus"] == alice.wait(kept)["TrainingJobStatus"] == "Stopped"


# -- the switch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [-1, "soon", True, None, 1e9])
def test_switch_without_sense_is_refused(cloud: JobCloud, seconds: Any) -> None:
    with pytest.raises(AssertionError, match="stop-timeout needs seconds"):
        cloud.user("admin").switch(kind="stop-timeout", seconds=seconds)


def test_cloud_does_not_start_with_a_setting_that_is_no_number(tmp_path: Any) -> None:
    with pytest.raises(AssertionError, match="the cloud did not start: status 9"), JobCloud(
        tmp_path, environment={"SM_SSH_JOB_STOP_SECONDS": "soon"}
    ):
        pass
