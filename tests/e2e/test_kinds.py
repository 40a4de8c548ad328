"""Real ssh into every kind of resource, launched with plain boto3 requests."""

import io
import json
import secrets
import tarfile
from pathlib import Path
from typing import Any, Callable, Dict, List

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


SERVING = """
import sagemaker_ssh_helper
sagemaker_ssh_helper.setup_and_start_ssh()

def predict_fn(data, model):
    return [x * 2 for x in data]
"""


def model_archive(script: str = SERVING) -> bytes:
    """A model with its script and the library."""
    buffer = io.BytesIO()
    root = Path(archive.dependency_dir())
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("code/inference.py")
        member.size = len(script)
        tar.addfile(member, io.BytesIO(script.encode()))
        tar.add(root, arcname=f"code/{root.name}")
    return buffer.getvalue()


LAUNCH_MODEL = """
import json, sys, boto3
from sagemaker_ssh_helper.launch import enable_ssh
request = json.loads(sys.argv[1])
boto3.client("sagemaker").create_model(**enable_ssh(request, connection_wait_time_seconds=0))
"""


# As others launch it, who know the variables that containers have read for years, and no newer ones.
LAUNCH_MODEL_OF_OTHERS = """
import json, sys, boto3
from sagemaker_ssh_helper.launch import enable_ssh
request = enable_ssh(json.loads(sys.argv[1]), connection_wait_time_seconds=0)
variables = request["PrimaryContainer"]["Environment"]
for name in ("SSH_LAUNCH_ID", "SSH_PUBLIC_KEY"):
    del variables[name]
boto3.client("sagemaker").create_model(**request)
"""


def deploy(alice: Laptop, data: str, launch: str = LAUNCH_MODEL, **container: Any) -> str:
    """An endpoint in service with a model that has ssh; returns its name."""
    name = f"endpoint-{secrets.token_hex(4)}"
    definition = {
        "Image": "image",
        "ModelDataUrl": data,
        "Environment": {"SAGEMAKER_PROGRAM": "inference.py"},
        **container,
    }
    request = {
        "ModelName": name,
        "ExecutionRoleArn": alice.info["role_arn"],
        "PrimaryContainer": definition,
    }
    alice.python(launch, json.dumps(request))
    sagemaker = alice.client("sagemaker")
    variant = {
        "VariantName": "one",
        "ModelName": name,
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
    }
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)

    def settled() -> Any:
        described = sagemaker.describe_endpoint(EndpointName=name)
        return described if described["EndpointStatus"] != "Creating" else None

    described = until(settled, f"{name} to be up", 60)
    assert described["EndpointStatus"] == "InService", described
    return name


def ids_of_endpoint(alice: Laptop, name: str) -> List[str]:
    said = alice.python(
        """
        import json, sys
        from sagemaker_ssh_helper.wrapper import SSHModelWrapper
        wrapper = SSHModelWrapper.attach(sys.argv[1])
        assert wrapper.endpoint_is_online()
        print(json.dumps(wrapper.get_instance_ids(timeout_in_sec=60)))
        """,
        name,
    )
    ids: List[str] = json.loads(said)
    return ids


def test_an_endpoint_is_reached_by_ssh(laptop: Callable[[str], Laptop]) -> None:
    alice = laptop("alice")
    key = f"models/{secrets.token_hex(4)}/model.tar.gz"
    alice.client("s3").put_object(Bucket=bucket(alice), Key=key, Body=model_archive())
    name = deploy(alice, f"s3://{bucket(alice)}/{key}")
    answer = alice.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=name, Body="[1, 2]", ContentType="application/json"
    )
    assert json.loads(answer["Body"].read()) == [2, 4]
    (instance_id,) = ids_of_endpoint(alice, name)
    host = f"{name}.inference.sagemaker"
    done = alice.ssh(host, "printenv SAGEMAKER_PROGRAM")
    assert done.stdout.decode().strip() == "inference.py", done.stderr.decode()
    listed = alice.sm_ssh("list", "inference.sagemaker").stdout.decode()
    assert host in listed
    assert instance_id in listed
    # Another user's machine knows the endpoint, and may not enter it.
    refused = laptop("bob").ssh(host, "true")
    assert refused.returncode == 255
    assert "error[not-owner]" in refused.stderr.decode()
    alice.client("sagemaker").delete_endpoint(EndpointName=name)


def test_an_endpoint_that_others_launched_is_found_by_its_log(laptop: Callable[[str], Laptop]) -> None:
    alice = laptop("alice")
    key = f"models/{secrets.token_hex(4)}/model.tar.gz"
    alice.client("s3").put_object(Bucket=bucket(alice), Key=key, Body=model_archive())
    name = deploy(alice, f"s3://{bucket(alice)}/{key}", LAUNCH_MODEL_OF_OTHERS)
    (instance_id,) = ids_of_endpoint(alice, name)
    told = alice.python(
        """
        import json, sys
        from sagemaker_ssh_helper.log import SSHLog
        from sagemaker_ssh_helper.manager import SSMManager
        name = sys.argv[1]
        log, manager = SSHLog(), SSMManager()
        print(json.dumps([
            log.get_endpoint_ssm_instance_ids(name, timeout_in_sec=60),
            log.get_endpoint_ssm_instance_ids("no-such-endpoint"),
            manager.get_endpoint_instance_ids(name),
            manager.get_endpoint_instance_ids("no-such-endpoint"),
        ]))
        """,
        name,
    )
    assert json.loads(told) == [[instance_id], [], [instance_id], []]
    # Its name leads to it, too; that it is this endpoint's, only the user can know.
    host = f"{name}.inference.sagemaker"
    refused = alice.sm_ssh("connect", host, "true")
    assert "error[host-not-trusted]" in refused.stderr.decode()
    done = alice.sm_ssh("connect", "--trust-first-use", host, "printenv SAGEMAKER_PROGRAM")
    assert done.stdout.decode().strip() == "inference.py", done.stderr.decode()
    alice.client("sagemaker").delete_endpoint(EndpointName=name)


def test_a_multi_model_endpoint_is_reached_once_a_model_was_asked(laptop: Callable[[str], Laptop]) -> None:
    alice = laptop("alice")
    prefix = f"models/{secrets.token_hex(4)}"
    for model in ("a", "b"):
        alice.client("s3").put_object(
            Bucket=bucket(alice), Key=f"{prefix}/{model}.tar.gz", Body=model_archive()
        )
    name = deploy(alice, f"s3://{bucket(alice)}/{prefix}/", Mode="MultiModel")
    for model in ("a", "b"):
        alice.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=name,
            TargetModel=f"{model}.tar.gz",
            Body="[1]",
            ContentType="application/json",
        )
    assert len(ids_of_endpoint(alice, name)) == 1
    done = alice.ssh(f"{name}.inference.sagemaker", "ls /opt/ml/models | wc -l")
    assert done.stdout.decode().strip() == "2", done.stderr.decode()
    alice.client("sagemaker").delete_endpoint(EndpointName=name)


def test_an_endpoint_that_is_not_there_is_not_found(laptop: Callable[[str], Laptop]) -> None:
    alice = laptop("alice")
    done = alice.sm_ssh("connect", "no-such-endpoint.inference.sagemaker", "true")
    assert done.returncode == 3
    assert "there is no endpoint 'no-such-endpoint'" in done.stderr.decode()


def test_a_transform_job_is_reached_by_ssh(laptop: Callable[[str], Laptop]) -> None:
    alice = laptop("alice")
    name = f"transform-{secrets.token_hex(4)}"
    place = f"s3://{bucket(alice)}/{name}"
    s3 = alice.client("s3")
    s3.put_object(Bucket=bucket(alice), Key=f"{name}/model.tar.gz", Body=model_archive())
    s3.put_object(Bucket=bucket(alice), Key=f"{name}/in/data.json", Body=b"[1, 2]")
    request = {
        "ModelName": name,
        "ExecutionRoleArn": alice.info["role_arn"],
        "PrimaryContainer": {
            "Image": "image",
            "ModelDataUrl": f"{place}/model.tar.gz",
            "Environment": {"SAGEMAKER_PROGRAM": "inference.py"},
        },
    }
    # The model is loaded once somebody has looked around: until then the job waits.
    alice.python(LAUNCH_MODEL.replace("seconds=0", "seconds=60"), json.dumps(request))
    source = {"S3DataType": "S3Prefix", "S3Uri": f"{place}/in"}
    alice.client("sagemaker").create_transform_job(
        TransformJobName=name,
        ModelName=name,
        TransformInput={"DataSource": {"S3DataSource": source}, "ContentType": "application/json"},
        TransformOutput={"S3OutputPath": f"{place}/out"},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
    )
    alice.python(
        """
        import sys
        from sagemaker_ssh_helper.wrapper import SSHTransformerWrapper
        assert SSHTransformerWrapper.attach(sys.argv[1]).get_instance_ids(timeout_in_sec=60)
        """,
        name,
    )
    host = f"{name}.transform.sagemaker"
    done = alice.sm_ssh("connect", host, "printenv TRANSFORM_JOB_ARN && sm-wait stop")
    assert done.stdout.decode().startswith("arn:aws:sagemaker:"), done.stderr.decode()

    def ended() -> Any:
        job = alice.client("sagemaker").describe_transform_job(TransformJobName=name)
        return job["TransformJobStatus"] if job["TransformJobStatus"] != "InProgress" else None

    assert until(ended, "the job to end", 60) == "Completed"
    body = s3.get_object(Bucket=bucket(alice), Key=f"{name}/out/data.json.out")["Body"].read()
    assert json.loads(body) == [2, 4]
