"""Endpoints: real model servers behind InvokeEndpoint."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from emulator.training_jobs import JobCloud, User, archive, until

SCRIPT = """
import json, os, pathlib
print("loading", flush=True)

def model_fn(folder):
    return json.loads((pathlib.Path(folder) / "weights.json").read_text())

def predict_fn(data, model):
    if data == "fail":
        raise ValueError("bad data")
    if data == "environment":
        return dict(os.environ)
    return [x * model["factor"] for x in data]
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobCloud]:
    environment = {"SM_SSH_JOB_STOP_SECONDS": "0.1"}
    with JobCloud(tmp_path_factory.mktemp("cloud"), environment=environment) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def alice(cloud: JobCloud) -> User:
    return cloud.user("alice")


def model(alice: User, factor: int = 2, script: str = SCRIPT, **container: Any) -> str:
    """A model in script mode; returns its name."""
    name = alice.new_name("model")
    files = {"code/inference.py": script, "weights.json": json.dumps({"factor": factor})}
    data = alice.put(f"{name}/model.tar.gz", archive(files))
    environment = {"SAGEMAKER_PROGRAM": "inference.py", "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code"}
    definition = {"Image": "image", "ModelDataUrl": data, "Environment": environment, **container}
    alice.sagemaker.create_model(
        ModelName=name, ExecutionRoleArn=alice.info["role_arn"], PrimaryContainer=definition
    )
    return name


def config(alice: User, model_name: str, count: int = 1) -> str:
    name = alice.new_name("config")
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": model_name,
        "InitialInstanceCount": count,
        "InstanceType": "ml.m5.large",
    }
    alice.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    return name


def deploy(alice: User, model_name: str) -> str:
    name = alice.new_name("endpoint")
    alice.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config(alice, model_name))
    return name


def settled(alice: User, name: str) -> dict[str, Any]:
    def there() -> Any:
        described = alice.sagemaker.describe_endpoint(EndpointName=name)
        return described if described["EndpointStatus"] in ("InService", "Failed") else None

    return dict(until(there, f"{name} to settle"))


def invoke(alice: User, name: str, data: Any, **options: Any) -> Any:
    answer = alice.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=name, Body=json.dumps(data), ContentType="application/json", **options
    )
    return json.loads(answer["Body"].read())


@pytest.fixture(scope="module")
def endpoint(alice: User) -> str:
    name = deploy(alice, model(alice))
    described = settled(alice, name)
    assert described["EndpointStatus"] == "InService", described
    return name


def test_a_model_answers(alice: User, endpoint: str) -> None:
    assert invoke(alice, endpoint, [1, 2]) == [2, 4]
    summaries = alice.sagemaker.list_endpoints(NameContains=endpoint)["Endpoints"]
    assert [summary["EndpointStatus"] for summary in summaries] == ["InService"]
    variant = alice.sagemaker.describe_endpoint(EndpointName=endpoint)["ProductionVariants"][0]
    assert (variant["VariantName"], variant["CurrentInstanceCount"]) == ("AllTraffic", 1)


def test_a_container_is_told_nothing_of_its_endpoint(alice: User, endpoint: str) -> None:
    environment = invoke(alice, endpoint, "environment")
    assert environment["SAGEMAKER_PROGRAM"] == "inference.py"
    assert not any(endpoint in value for value in environment.values())


def test_the_output_goes_to_the_endpoint_s_log(alice: User, endpoint: str) -> None:
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    until(lambda: "loading" in alice.log("AllTraffic", group), "the script's output")


NUMPY = """
# Stands for the module of this name, which the cloud does not need.
def load(file):
    return [int(word) for word in file.read().split()]

def asarray(values):
    return values

def save(file, array):
    file.write(" ".join(map(str, array)).encode())
"""


def test_numpy_s_own_format_is_read_and_written_as_the_images_do(alice: User) -> None:
    # The predictors of the SDK for PyTorch, MXNet and scikit-learn speak it unless they are told otherwise.
    files = {"code/numpy.py": NUMPY, "code/inference.py": SCRIPT, "weights.json": json.dumps({"factor": 2})}
    data = alice.put("numpy/model.tar.gz", archive(files))
    name = deploy(alice, model(alice, ModelDataUrl=data))
    assert settled(alice, name)["EndpointStatus"] == "InService"
    answer = alice.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=name, Body=b"1 2", ContentType="application/x-npy", Accept="application/x-npy"
    )
    assert (answer["Body"].read(), answer["ContentType"]) == (b"2 4", "application/x-npy")


def test_a_model_that_fails_is_a_model_error(alice: User, endpoint: str) -> None:
    with pytest.raises(ClientError) as caught:
        invoke(alice, endpoint, "fail")
    assert caught.value.response["Error"]["Code"] == "ModelError"
    assert "bad data" in caught.value.response["OriginalMessage"]
    assert caught.value.response["OriginalStatusCode"] == 500


LARGE = """
import pathlib
from djl_python import Input, Output
loaded = []

def handle(inputs):
    if inputs.is_empty():
        loaded.append(pathlib.Path(__file__).name)
        return None
    if inputs.get_as_string() == "[]":
        return Output(400, "nothing to do")
    return Output().add_as_json(loaded + inputs.get_as_json())
"""


def test_a_model_with_serving_properties_is_served_as_large_ones_are(alice: User) -> None:
    properties = "# one\nengine=Python\noption.entryPoint = run.py\n"
    files = {"large/serving.properties": properties, "large/run.py": LARGE}
    data = alice.put(f"{alice.new_name('large')}/model.tar.gz", archive(files))
    name = deploy(alice, model(alice, ModelDataUrl=data, Environment={}))
    described = settled(alice, name)
    assert described["EndpointStatus"] == "InService", described
    assert invoke(alice, name, ["there"]) == ["run.py", "there"]
    with pytest.raises(ClientError, match="400 nothing to do"):
        invoke(alice, name, [])
    alice.sagemaker.delete_endpoint(EndpointName=name)


def test_an_endpoint_that_does_not_exist_is_not_invoked(alice: User) -> None:
    with pytest.raises(
        ClientError, match=r"ValidationError.*Endpoint none of account 123456789012 not found"
    ):
        invoke(alice, "none", [1])
    with pytest.raises(ClientError, match="Could not find endpoint"):
        alice.sagemaker.describe_endpoint(EndpointName="none")


def test_an_update_replaces_the_servers_and_a_bad_one_does_not(alice: User) -> None:
    name = deploy(alice, model(alice, 2))
    settled(alice, name)
    alice.sagemaker.update_endpoint(
        EndpointName=name, EndpointConfigName=config(alice, model(alice, 3), count=2)
    )
    assert settled(alice, name)["ProductionVariants"][0]["CurrentInstanceCount"] == 2
    assert invoke(alice, name, [1]) == [3]
    bad = config(alice, model(alice, script="raise SystemExit(4)"))
    alice.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=bad)
    described = settled(alice, name)
    assert described["EndpointStatus"] == "InService"
    assert "exit code 4" in described["FailureReason"]
    assert invoke(alice, name, [1]) == [3]
    alice.sagemaker.delete_endpoint(EndpointName=name)


def test_a_server_that_does_not_come_up_fails_the_endpoint(alice: User) -> None:
    described = settled(alice, deploy(alice, model(alice, script="1/0")))
    assert described["EndpointStatus"] == "Failed"
    assert "did not pass the ping health check" in described["FailureReason"]


def test_an_image_without_a_program_cannot_serve(alice: User) -> None:
    described = settled(alice, deploy(alice, model(alice, Environment={})))
    assert described["EndpointStatus"] == "Failed"
    assert "CannotStartContainerError" in described["FailureReason"]


def test_a_deleted_endpoint_is_gone(alice: User) -> None:
    name = deploy(alice, model(alice))
    settled(alice, name)
    alice.sagemaker.delete_endpoint(EndpointName=name)

    def gone() -> bool:
        try:
            alice.sagemaker.describe_endpoint(EndpointName=name)
        except ClientError as error:
            return "Could not find endpoint" in str(error)
        return False

    until(gone, f"{name} to be gone")
    with pytest.raises(ClientError, match="not found"):
        invoke(alice, name, [1])


def test_many_models_are_loaded_when_they_are_asked_for(alice: User) -> None:
    prefix = alice.new_name("models")
    for factor in (5, 7):
        files = {"code/inference.py": SCRIPT, "weights.json": json.dumps({"factor": factor})}
        alice.put(f"{prefix}/{factor}.tar.gz", archive(files))
    multi = model(alice, Mode="MultiModel", ModelDataUrl=f"s3://{alice.bucket}/{prefix}/")
    name = deploy(alice, multi)
    assert settled(alice, name)["EndpointStatus"] == "InService"
    group = f"/aws/sagemaker/Endpoints/{name}"
    assert "loading" not in alice.log("AllTraffic", group)
    assert invoke(alice, name, [1], TargetModel="5.tar.gz") == [5]
    assert invoke(alice, name, [1], TargetModel="7.tar.gz") == [7]
    assert invoke(alice, name, [2], TargetModel="5.tar.gz") == [10]
    until(lambda: alice.log("AllTraffic", group).count("loading") == 2, "each model to be loaded once")
    with pytest.raises(ClientError, match="Failed to download model data"):
        invoke(alice, name, [1], TargetModel="6.tar.gz")
    with pytest.raises(ClientError, match="TargetModel"):
        invoke(alice, name, [1])


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"Containers": [{"Image": "a"}, {"Image": "b"}]}, "does not support this: More than one container"),
        ({}, "either PrimaryContainer or Containers"),
        ({"PrimaryContainer": {"Image": "a", "ModelDataUrl": "https://x/y"}}, "is not an S3 URI"),
        ({"PrimaryContainer": {"Image": "a", "Mode": "MultiModel"}}, "ModelDataUrl is required"),
        (
            {"PrimaryContainer": {"Image": "a", "Environment": {"A": "x" * 1025}}},
            "less than or equal to 1024",
        ),
    ],
)
def test_what_sagemaker_refuses_is_refused(alice: User, members: dict[str, Any], text: str) -> None:
    with pytest.raises(ClientError) as caught:
        alice.sagemaker.create_model(
            ModelName=alice.new_name(), ExecutionRoleArn=alice.info["role_arn"], **members
        )
    assert text in caught.value.response["Error"]["Message"]


def test_what_an_endpoint_needs_must_be_there(alice: User) -> None:
    with pytest.raises(ClientError, match="Could not find model"):
        config(alice, "none")
    with pytest.raises(ClientError, match="Could not find endpoint configuration"):
        alice.sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="none")
