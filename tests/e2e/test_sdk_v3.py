"""The real SageMaker Python SDK 3, which needs an environment of its own: `make test-all` has it."""

import json
from pathlib import Path
from typing import Any, Callable

import pytest

from e2e import sdk_programs
from e2e.laptop import Job, Laptop, until

pytestmark = [pytest.mark.sdk, pytest.mark.matrix, pytest.mark.timeout(sdk_programs.TIMEOUT + 160)]


def launch(alice: Laptop, folder: Path, scenario: str) -> Any:
    return sdk_programs.run(3, alice, "sdk_v3_job.py", scenario, alice.info["role_arn"], str(folder))


def let_go(alice: Laptop, host: str) -> None:
    # A job that goes on may end at once, and the connection with it: what it does next tells.
    alice.ssh(host, "sm-wait stop")


def check_training(job: Job) -> None:
    """ssh comes before the job's own script, which has not heard of it, and the job goes on after it."""
    job.wait_online()
    assert job.laptop.ssh(job.host, "printenv TRAINING_JOB_NAME").stdout.decode().strip() == job.name
    assert "training for" not in job.log()
    let_go(job.laptop, job.host)
    until(lambda: job.describe()["TrainingJobStatus"] == "Completed", "the job to end", 60)
    assert "training for 3 epochs with ['data.csv']" in job.log()


def wait_until_online(alice: Laptop, name: str) -> None:
    """Until a node of the resource, whatever its kind, can be reached."""
    filters = [{"Key": "tag:SSHResourceName", "Values": [name]}]
    ssm = alice.client("ssm")

    def online() -> bool:
        found = ssm.describe_instance_information(Filters=filters)["InstanceInformationList"]
        return any(node["PingStatus"] == "Online" for node in found)

    until(online, f"{name} to be online", 60)


def test_a_trainer_of_an_enabled_session_is_reached_by_ssh(
    laptop: Callable[[str], Laptop], tmp_path: Path
) -> None:
    alice = laptop("alice")
    check_training(Job(alice, launch(alice, tmp_path, "trainer_of_an_enabled_session")))


def test_a_session_is_enabled_after_the_sdk_has_made_its_clients(
    laptop: Callable[[str], Laptop], tmp_path: Path
) -> None:
    alice = laptop("alice")
    first, second = launch(alice, tmp_path, "trainer_whose_session_is_enabled")
    assert "START_SSH" not in (Job(alice, first).describe().get("Environment") or {})
    check_training(Job(alice, second))


def test_a_wrapped_trainer_is_reached_by_ssh(laptop: Callable[[str], Laptop], tmp_path: Path) -> None:
    alice = laptop("alice")
    told = launch(alice, tmp_path, "wrapped_trainer")
    assert told["again"].startswith(f"the estimator has already started {told['name']}")
    check_training(Job(alice, told["name"]))


def test_a_child_of_a_tuner_is_reached_by_ssh(laptop: Callable[[str], Laptop], tmp_path: Path) -> None:
    alice = laptop("alice")
    named = {"HyperParameterTuningJobName": launch(alice, tmp_path, "tuning_job")}
    sagemaker = alice.client("sagemaker")

    def children() -> Any:
        answer = sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(**named)
        return answer["TrainingJobSummaries"]

    (child,) = until(children, "the tuning job to start a training job")
    check_training(Job(alice, child["TrainingJobName"]))

    def status() -> str:
        return str(sagemaker.describe_hyper_parameter_tuning_job(**named)["HyperParameterTuningJobStatus"])

    until(lambda: status() != "InProgress", "the tuning job to end", 60)
    assert status() == "Completed"


def test_a_trainer_in_network_isolation_is_refused(laptop: Callable[[str], Laptop], tmp_path: Path) -> None:
    alice = laptop("alice")
    by_wrapper, by_session = launch(alice, tmp_path, "isolated_trainer")
    assert by_wrapper.startswith("the estimator runs in network isolation")
    assert "runs in network isolation" in by_session
    assert alice.client("sagemaker").list_training_jobs(NameContains="isolated")["TrainingJobSummaries"] == []


@pytest.mark.parametrize("scenario", ["script_processor", "framework_processor"])
def test_a_processor_is_reached_by_ssh(
    laptop: Callable[[str], Laptop], tmp_path: Path, scenario: str
) -> None:
    alice = laptop("alice")
    name = launch(alice, tmp_path, scenario)
    wait_until_online(alice, name)
    host = f"{name}.processing.sagemaker"
    done = alice.ssh(host, "grep -c processing-job /opt/ml/config/processingjobconfig.json")
    assert done.stdout.decode().strip() == "1", done.stderr.decode()
    let_go(alice, host)
    sagemaker = alice.client("sagemaker")

    def status() -> str:
        return str(sagemaker.describe_processing_job(ProcessingJobName=name)["ProcessingJobStatus"])

    until(lambda: status() != "InProgress", "the job to end", 60)
    assert status() == "Completed"


def test_an_endpoint_of_a_model_builder_is_reached_by_ssh(
    laptop: Callable[[str], Laptop], tmp_path: Path
) -> None:
    alice = laptop("alice")
    name = launch(alice, tmp_path, "endpoint")
    done = alice.ssh(f"{name}.inference.sagemaker", "printenv SAGEMAKER_PROGRAM")
    assert done.stdout.decode().strip() == "inference.py", done.stderr.decode()
    answer = alice.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=name, Body="[1, 2]", ContentType="application/json"
    )
    assert json.loads(answer["Body"].read()) == [2, 4]
    alice.client("sagemaker").delete_endpoint(EndpointName=name)


def test_a_transformer_of_a_model_builder_is_reached_by_ssh(
    laptop: Callable[[str], Laptop], tmp_path: Path
) -> None:
    alice = laptop("alice")
    name = launch(alice, tmp_path, "transform_job")
    wait_until_online(alice, name)
    host = f"{name}.transform.sagemaker"
    assert name in alice.ssh(host, "printenv TRANSFORM_JOB_ARN").stdout.decode()
    let_go(alice, host)
    sagemaker = alice.client("sagemaker")

    def status() -> str:
        return str(sagemaker.describe_transform_job(TransformJobName=name)["TransformJobStatus"])

    until(lambda: status() != "InProgress", "the job to end", 60)
    assert status() == "Completed"
