"""Batch transform jobs: records of S3 objects through a real model server."""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from emulator.training_jobs import JobCloud, User, archive, until

SCRIPT = """
import os
def transform_fn(model, data, content_type, accept):
    if "bad" in data:
        raise ValueError("bad record")
    if "hang" in data:
        print("hanging", flush=True)
        import time; time.sleep(600)
    return data.upper() + "|" + os.environ["EXTRA"], accept
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobCloud]:
    environment = {"SM_SSH_JOB_STOP_SECONDS": "0.1"}
    with JobCloud(tmp_path_factory.mktemp("cloud"), environment=environment) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def alice(cloud: JobCloud) -> User:
    return cloud.user("alice")


@pytest.fixture(scope="module")
def model(alice: User) -> str:
    data = alice.put("model/model.tar.gz", archive({"code/inference.py": SCRIPT}))
    alice.sagemaker.create_model(
        ModelName="shouting",
        ExecutionRoleArn=alice.info["role_arn"],
        PrimaryContainer={
            "Image": "image",
            "ModelDataUrl": data,
            "Environment": {"SAGEMAKER_PROGRAM": "inference.py"},
        },
    )
    return "shouting"


def start(alice: User, model: str, files: dict[str, bytes], **members: Any) -> str:
    name = alice.new_name("transform")
    for path, content in files.items():
        alice.put(f"{name}/in/{path}", content)
    request = {
        "TransformJobName": name,
        "ModelName": model,
        "Environment": {"EXTRA": "x"},
        "TransformInput": {
            "DataSource": {
                "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{alice.bucket}/{name}/in"}
            },
            "ContentType": "text/csv",
            "SplitType": "Line",
        },
        "TransformOutput": {"S3OutputPath": f"s3://{alice.bucket}/{name}/out", "AssembleWith": "Line"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        **members,
    }
    alice.sagemaker.create_transform_job(**request)
    return name


def ended(alice: User, name: str) -> dict[str, Any]:
    def there() -> Any:
        described = alice.sagemaker.describe_transform_job(TransformJobName=name)
        return described if described["TransformJobStatus"] in ("Completed", "Failed", "Stopped") else None

    return dict(until(there, f"{name} to end"))


def test_records_go_through_the_model(alice: User, model: str) -> None:
    name = start(alice, model, {"a.csv": b"one\ntwo\n", "b/c.csv": b"three\n"}, BatchStrategy="SingleRecord")

    job = ended(alice, name)
    assert job["TransformJobStatus"] == "Completed", job
    out = f"s3://{alice.bucket}/{name}/out"
    assert alice.get(f"{out}/a.csv.out") == b"ONE\n|x\nTWO\n|x\n"
    assert alice.get(f"{out}/b/c.csv.out") == b"THREE\n|x\n"
    assert job["TransformStartTime"] <= job["TransformEndTime"]
    listed = alice.sagemaker.list_transform_jobs(NameContains=name)["TransformJobSummaries"]
    assert [entry["TransformJobArn"] for entry in listed] == [job["TransformJobArn"]]


def test_records_go_together_unless_told_otherwise(alice: User, model: str) -> None:
    name = start(alice, model, {"a.csv": b"one\ntwo\n"})

    assert ended(alice, name)["TransformJobStatus"] == "Completed"
    assert alice.get(f"s3://{alice.bucket}/{name}/out/a.csv.out") == b"ONE\nTWO\n|x\n"


def test_a_record_that_the_model_refuses_fails_the_job(alice: User, model: str) -> None:
    job = ended(alice, start(alice, model, {"a.csv": b"bad"}))
    assert job["TransformJobStatus"] == "Failed"
    assert "bad record" in job["FailureReason"]


def test_a_job_without_input_fails(alice: User, model: str) -> None:
    job = ended(alice, start(alice, model, {}))
    assert job["TransformJobStatus"] == "Failed"
    assert "No S3 objects found" in job["FailureReason"]


def test_a_job_is_stopped_while_its_model_works(alice: User, model: str) -> None:
    name = start(alice, model, {"a.csv": b"hang"})
    until(lambda: "hanging" in alice.log(name, "/aws/sagemaker/TransformJobs"), "the model to work")
    alice.sagemaker.stop_transform_job(TransformJobName=name)
    assert ended(alice, name)["TransformJobStatus"] == "Stopped"


def test_what_is_not_there_or_not_done_is_refused(alice: User, model: str) -> None:
    with pytest.raises(ClientError, match="Could not find model"):
        start(alice, "none", {})
    resources = {"InstanceType": "ml.m5.large", "InstanceCount": 2}
    with pytest.raises(ClientError, match=r"does not support this: TransformResources\.InstanceCount"):
        start(alice, model, {}, TransformResources=resources)
