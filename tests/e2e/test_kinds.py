"""Real ssh into every kind of resource, launched with plain boto3 requests."""

import json
import secrets
from pathlib import Path
from typing import Any, Callable, Dict

from e2e.laptop import Laptop, until
from sagemaker_ssh_helper import archive

WAITING = """
import sys
sys.path.insert(0, "/opt/ml/processing/input")
import sagemaker_ssh_helper
sagemaker_ssh_helper.setup_and_start_ssh()
print("went on", flush=True)
"""


def bucket(laptop: Laptop) -> str:
    name = f"sagemaker-{laptop.info['region']}-{laptop.info['account_id']}"
    laptop.client("s3").create_bucket(Bucket=name)
    return name


def upload_library(laptop: Laptop, prefix: str) -> str:
    s3, name = laptop.client("s3"), bucket(laptop)
    root = Path(archive.dependency_dir())
    for path in root.rglob("*"):
        if path.is_file():
            s3.put_object(
                Bucket=name, Key=f"{prefix}/{path.relative_to(root.parent)}", Body=path.read_bytes()
            )
    return f"s3://{name}/{prefix}"


def s3_input(uri: str, place: str) -> Dict[str, Any]:
    return {
        "InputName": place,
        "S3Input": {
            "S3Uri": uri,
            "LocalPath": f"/opt/ml/processing/input/{place}"
            if place != "library"
            else "/opt/ml/processing/input",
            "S3DataType": "S3Prefix",
            "S3InputMode": "File",
        },
    }


def test_a_processing_job_is_reached_by_ssh(laptop: Callable[[str], Laptop]) -> None:
    alice = laptop("alice")
    name = f"processing-{secrets.token_hex(4)}"
    library = upload_library(alice, f"{name}/library")
    alice.client("s3").put_object(Bucket=bucket(alice), Key=f"{name}/code/run.py", Body=WAITING.encode())
    alice.python(
        """
        import json, sys, boto3
        from sagemaker_ssh_helper.launch import enable_ssh
        request = json.loads(sys.argv[1])
        boto3.client("sagemaker").create_processing_job(**enable_ssh(request, ssh_instance_count=2))
        """,
        json.dumps(
            {
                "ProcessingJobName": name,
                "RoleArn": alice.info["role_arn"],
                "AppSpecification": {
                    "ImageUri": "image",
                    "ContainerEntrypoint": ["python", "/opt/ml/processing/input/code/run.py"],
                },
                "ProcessingResources": {
                    "ClusterConfig": {
                        "InstanceCount": 2,
                        "InstanceType": "ml.m5.large",
                        "VolumeSizeInGB": 1,
                    }
                },
                "ProcessingInputs": [
                    s3_input(library, "library"),
                    s3_input(f"s3://{bucket(alice)}/{name}/code", "code"),
                ],
            }
        ),
    )
    ids = alice.python(
        """
        import json, sys
        from sagemaker_ssh_helper.wrapper import SSHProcessorWrapper
        wrapper = SSHProcessorWrapper.attach(sys.argv[1])
        print(json.dumps(wrapper.get_instance_ids(timeout_in_sec=60)))
        """,
        name,
    )
    assert len(json.loads(ids)) == 2
    for node in ("algo-1", "algo-2"):
        host = f"{node}.{name}.processing.sagemaker"
        done = alice.ssh(host, "grep -o 'algo-[0-9]' /opt/ml/config/resourceconfig.json | head -1")
        assert done.stdout.decode().strip() == node, done.stderr.decode()
    assert alice.ssh(f"{name}.processing.sagemaker", "sm-wait stop").returncode == 0
    assert alice.ssh(f"algo-2.{name}.processing.sagemaker", "sm-wait stop").returncode == 0

    def ended() -> Any:
        job = alice.client("sagemaker").describe_processing_job(ProcessingJobName=name)
        return job["ProcessingJobStatus"] if job["ProcessingJobStatus"] != "InProgress" else None

    assert until(ended, "the job to end", 60) == "Completed"
