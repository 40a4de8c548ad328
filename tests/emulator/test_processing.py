"""Processing jobs: real processes with the files, variables, log and statuses of SageMaker."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from emulator.training_jobs import JobCloud, User, until

ENDED = ("Completed", "Failed", "Stopped")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobCloud]:
    environment = {"SM_SSH_JOB_STOP_SECONDS": "0.1"}
    with JobCloud(tmp_path_factory.mktemp("cloud"), environment=environment) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def alice(cloud: JobCloud) -> User:
    return cloud.user("alice")


def request(alice: User, code: str, **members: Any) -> dict[str, Any]:
    """A job that runs ``code``, brought as an input, as the SDK does: an entry point has short words."""
    name = members.pop("ProcessingJobName", None) or alice.new_name("processing")
    source = {
        "S3Uri": alice.put(f"{name}/code/run.py", code.encode()),
        "LocalPath": "/opt/ml/processing/input/code",
        "S3DataType": "S3Prefix",
        "S3InputMode": "File",
    }
    entrypoint = ["python", "/opt/ml/processing/input/code/run.py"]
    return {
        "ProcessingJobName": name,
        "RoleArn": alice.info["role_arn"],
        "AppSpecification": {
            "ImageUri": "image",
            "ContainerEntrypoint": entrypoint,
            **members.pop("AppSpecification", {}),
        },
        "ProcessingResources": {
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
        },
        "ProcessingInputs": [
            {"InputName": "code", "S3Input": source},
            *members.pop("ProcessingInputs", ()),
        ],
        **members,
    }


def start(alice: User, code: str, **members: Any) -> str:
    full = request(alice, code, **members)
    alice.sagemaker.create_processing_job(**full)
    return str(full["ProcessingJobName"])


def wait(alice: User, name: str, *statuses: str) -> dict[str, Any]:
    def there() -> Any:
        described = alice.sagemaker.describe_processing_job(ProcessingJobName=name)
        return described if described["ProcessingJobStatus"] in (statuses or ENDED) else None

    return dict(until(there, f"{name} to get there"))


def lines(alice: User, name: str) -> list[str]:
    return alice.log(name, "/aws/sagemaker/ProcessingJobs")


def test_inputs_come_and_outputs_go(alice: User) -> None:
    alice.put("in/a/data.csv", b"1,2")
    code = """
import json, os, pathlib, sys
base = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
config = json.loads((base / "config/processingjobconfig.json").read_text())
resources = json.loads((base / "config/resourceconfig.json").read_text())
data = (base / "processing/input/a/data.csv").read_text()
print(config["ProcessingJobName"], config["ProcessingJobArn"], resources["current_host"], data)
print(os.environ["COLOUR"], sys.argv[1:])
(base / "processing/output/result.txt").write_text(data * 2)
(base / "output/message").write_text("all good")
"""
    s3_input = {
        "S3Uri": f"s3://{alice.bucket}/in/a",
        "LocalPath": "/opt/ml/processing/input/a",
        "S3DataType": "S3Prefix",
        "S3InputMode": "File",
    }
    s3_output = {
        "S3Uri": f"s3://{alice.bucket}/out",
        "LocalPath": "/opt/ml/processing/output",
        "S3UploadMode": "EndOfJob",
    }
    outputs = {"Outputs": [{"OutputName": "out", "S3Output": s3_output}]}
    name = start(
        alice,
        code,
        AppSpecification={"ContainerArguments": ["--fast", "yes"]},
        Environment={"COLOUR": "blue"},
        ProcessingInputs=[{"InputName": "a", "S3Input": s3_input}],
        ProcessingOutputConfig=outputs,
    )

    job = wait(alice, name)
    assert job["ProcessingJobStatus"] == "Completed", (job, lines(alice, name))
    assert job["ExitMessage"] == "all good"
    assert job["AppSpecification"]["ContainerArguments"] == ["--fast", "yes"]
    assert job["ProcessingOutputConfig"] == outputs
    assert job["ProcessingStartTime"] <= job["ProcessingEndTime"]
    assert alice.get(f"s3://{alice.bucket}/out/result.txt") == b"1,21,2"
    assert lines(alice, name) == [
        f"{name} {job['ProcessingJobArn']} algo-1 1,2",
        "blue ['--fast', 'yes']",
    ]


def test_nodes_know_their_rank(alice: User) -> None:
    cluster = {"InstanceCount": 2, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
    code = (
        "import json, os; base = os.environ.get('SAGEMAKER_BASE_DIR', '/opt/ml');"
        "print(json.load(open(base + '/config/resourceconfig.json')))"
    )
    name = start(alice, code, ProcessingResources={"ClusterConfig": cluster})

    assert wait(alice, name)["ProcessingJobStatus"] == "Completed"
    said = sorted(json.loads(line.replace("'", '"'))["current_host"] for line in lines(alice, name))
    assert said == ["algo-1", "algo-2"]


def test_a_job_that_fails_says_why(alice: User) -> None:
    job = wait(alice, start(alice, "raise SystemExit(3)"))
    assert job["ProcessingJobStatus"] == "Failed"
    assert job["FailureReason"].endswith("exit code: 3")


def test_a_job_without_an_entry_point_cannot_start(alice: User) -> None:
    full = request(alice, "")
    del full["AppSpecification"]["ContainerEntrypoint"]
    alice.sagemaker.create_processing_job(**full)
    job = wait(alice, full["ProcessingJobName"])
    assert job["ProcessingJobStatus"] == "Failed"
    assert "CannotStartContainerError" in job["FailureReason"]
    assert "give ContainerEntrypoint" in job["FailureReason"]


def test_missing_input_is_a_client_error(alice: User) -> None:
    s3_input = {
        "S3Uri": f"s3://{alice.bucket}/nothing-here",
        "LocalPath": "/opt/ml/processing/input",
        "S3DataType": "S3Prefix",
        "S3InputMode": "File",
    }
    job = wait(alice, start(alice, "pass", ProcessingInputs=[{"InputName": "a", "S3Input": s3_input}]))
    assert job["ProcessingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("ClientError: ")


def test_a_stopped_job_ends_as_stopped_and_is_listed(alice: User) -> None:
    name = start(alice, "import time; print('up', flush=True); time.sleep(600)")
    until(lambda: "up" in lines(alice, name), "the job to be up")
    running = alice.sagemaker.list_processing_jobs(StatusEquals="InProgress")["ProcessingJobSummaries"]
    assert [job["ProcessingJobName"] for job in running] == [name]
    alice.sagemaker.stop_processing_job(ProcessingJobName=name)
    assert wait(alice, name)["ProcessingJobStatus"] == "Stopped"
    with pytest.raises(ClientError, match="the processing job is in status Stopped"):
        alice.sagemaker.stop_processing_job(ProcessingJobName=name)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"Environment": {"A": "x" * 257}}, "length less than or equal to 256"),
        ({"ProcessingJobName": "a;b"}, "'processingJobName' failed to satisfy constraint"),
        (
            {
                "ProcessingInputs": [
                    {"InputName": "a", "DatasetDefinition": {"LocalPath": "/opt/ml/processing/d"}}
                ]
            },
            "does not support this: An input other than S3Input",
        ),
        (
            {
                "ProcessingInputs": [
                    {
                        "InputName": "a",
                        "S3Input": {"S3Uri": "s3://b/c", "LocalPath": "/etc", "S3DataType": "S3Prefix"},
                    }
                ]
            },
            "must be under /opt/ml/processing",
        ),
        (
            {
                "ProcessingInputs": [
                    {
                        "InputName": "a",
                        "S3Input": {
                            "S3Uri": "s3://b/c",
                            "LocalPath": "/opt/ml/processing/../../x",
                            "S3DataType": "S3Prefix",
                        },
                    }
                ]
            },
            "must be under /opt/ml/processing",
        ),
        ({"RoleArn": "arn:aws:iam::123456789012:role/Other"}, "is not authorized to perform: iam:PassRole"),
    ],
)
def test_what_sagemaker_refuses_is_refused(alice: User, members: dict[str, Any], text: str) -> None:
    with pytest.raises(ClientError) as caught:
        start(alice, "pass", **members)
    assert text in caught.value.response["Error"]["Message"]


def test_a_name_is_used_once(alice: User) -> None:
    name = start(alice, "pass")
    with pytest.raises(ClientError, match="Processing job names must be unique"):
        start(alice, "pass", ProcessingJobName=name)
    wait(alice, name)


def test_a_job_has_tags(alice: User) -> None:
    name = start(alice, "pass", Tags=[{"Key": "team", "Value": "red"}])
    arn = wait(alice, name)["ProcessingJobArn"]
    assert alice.sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "team", "Value": "red"}]
