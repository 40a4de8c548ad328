"""The real SageMaker Python SDK 3, which needs an environment of its own: `make test-all` has it."""

from pathlib import Path
from typing import Callable

import pytest

from e2e import sdk_programs
from e2e.laptop import Job, Laptop, until

pytestmark = [pytest.mark.sdk, pytest.mark.matrix]


def launch(alice: Laptop, folder: Path, scenario: str) -> "dict[str, str]":
    told: dict[str, str] = sdk_programs.run(
        3, alice, "sdk_v3_job.py", scenario, alice.info["role_arn"], str(folder)
    )
    return told


def check_training(job: Job) -> None:
    """ssh comes before the job's own script, which has not heard of it, and the job goes on after it."""
    job.wait_online()
    assert job.laptop.ssh(job.host, "printenv TRAINING_JOB_NAME").stdout.decode().strip() == job.name
    assert "training for" not in job.log(), (job.name, job.log())
    assert job.laptop.ssh(job.host, "sm-wait stop").returncode == 0
    until(lambda: job.describe()["TrainingJobStatus"] == "Completed", "the job to end", 60)
    assert "training for 3 epochs with ['data.csv']" in job.log()


def test_a_trainer_of_an_enabled_session_is_reached_by_ssh(
    laptop: Callable[[str], Laptop], tmp_path: Path
) -> None:
    alice = laptop("alice")
    check_training(Job(alice, launch(alice, tmp_path, "trainer_of_an_enabled_session")["name"]))


def test_a_session_is_enabled_after_the_sdk_has_made_its_clients(
    laptop: Callable[[str], Laptop], tmp_path: Path
) -> None:
    alice = laptop("alice")
    first, second = launch(alice, tmp_path, "trainer_whose_session_is_enabled")["name"]
    assert "START_SSH" not in (Job(alice, first).describe().get("Environment") or {})
    check_training(Job(alice, second))
