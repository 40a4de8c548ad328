"""Tuning jobs: real training jobs, each with values of its own."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from emulator.training_jobs import JobCloud, User, until
from sagemaker_ssh_helper.emulator import tuning_record

SCRIPT = """
import argparse, os, time
parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float)
parser.add_argument("--kind")
parser.add_argument("--hang", default="")
arguments = parser.parse_args()
if arguments.hang:
    print("hanging", flush=True)
    time.sleep(600)
if arguments.kind == "bad":
    raise SystemExit("bad kind")
print(f"score={arguments.rate:.6f};", flush=True)
"""

CONFIG = {
    "Strategy": "Random",
    "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "score"},
    "ResourceLimits": {"MaxNumberOfTrainingJobs": 3, "MaxParallelTrainingJobs": 2},
    "ParameterRanges": {
        "ContinuousParameterRanges": [{"Name": "rate", "MinValue": "0.1", "MaxValue": "0.9"}],
        "CategoricalParameterRanges": [{"Name": "kind", "Values": ["good"]}],
    },
}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobCloud]:
    environment = {"SM_SSH_JOB_STOP_SECONDS": "0.1"}
    with JobCloud(tmp_path_factory.mktemp("cloud"), environment=environment) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def alice(cloud: JobCloud) -> User:
    return cloud.user("alice")


def request(alice: User, config: dict[str, Any], **static: str) -> dict[str, Any]:
    job = alice.request(SCRIPT, HyperParameters=static)
    return {
        "HyperParameterTuningJobName": alice.new_name("tuning"),
        "HyperParameterTuningJobConfig": config,
        "TrainingJobDefinition": {
            "StaticHyperParameters": job["HyperParameters"],
            "AlgorithmSpecification": {
                **job["AlgorithmSpecification"],
                "MetricDefinitions": [{"Name": "score", "Regex": "score=([0-9.]+);"}],
            },
            **{
                member: job[member]
                for member in ("RoleArn", "OutputDataConfig", "ResourceConfig", "StoppingCondition")
            },
        },
        "Tags": [{"Key": "team", "Value": "a"}],
    }


def describe(alice: User, name: str) -> dict[str, Any]:
    return dict(alice.sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name))


def children(alice: User, name: str, **params: Any) -> list[dict[str, Any]]:
    answer = alice.sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name, **params
    )
    return list(answer["TrainingJobSummaries"])


def ended(alice: User, name: str) -> dict[str, Any]:
    def there() -> Any:
        described = describe(alice, name)
        return described if "HyperParameterTuningEndTime" in described else None

    return dict(until(there, f"{name} to end"))


def test_a_tuning_job_runs_its_training_jobs_and_finds_the_best(alice: User) -> None:
    wanted = request(alice, CONFIG)
    name = wanted["HyperParameterTuningJobName"]
    alice.sagemaker.create_hyper_parameter_tuning_job(**wanted)

    job = ended(alice, name)
    assert job["HyperParameterTuningJobStatus"] == "Completed", job
    assert job["TrainingJobStatusCounters"]["Completed"] == 3
    assert job["ObjectiveStatusCounters"]["Succeeded"] == 3
    found = children(alice, name)
    assert [child["TrainingJobName"] for child in found] == sorted(c["TrainingJobName"] for c in found)
    assert all(child["TrainingJobName"].startswith(f"{name}-00") for child in found)
    for child in found:
        told = child["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
        assert told == pytest.approx(float(child["TunedHyperParameters"]["rate"]), abs=1e-5)
        assert 0.1 <= told <= 0.9
    best = max(found, key=lambda child: float(child["TunedHyperParameters"]["rate"]))
    assert job["BestTrainingJob"]["TrainingJobName"] == best["TrainingJobName"]

    own = alice.describe(best["TrainingJobName"])
    assert own["TuningJobArn"] == job["HyperParameterTuningJobArn"]
    assert own["HyperParameters"]["_tuning_objective_metric"] == "score"
    tags = alice.sagemaker.list_tags(ResourceArn=own["TrainingJobArn"])["Tags"]
    assert tags == [{"Key": "team", "Value": "a"}]
    listed = alice.sagemaker.list_hyper_parameter_tuning_jobs(NameContains=name)
    (summary,) = listed["HyperParameterTuningJobSummaries"]
    assert summary["HyperParameterTuningJobStatus"] == "Completed"
    assert summary["Strategy"] == "Random"


def test_a_stopped_tuning_job_stops_its_training_jobs_and_starts_no_more(alice: User) -> None:
    wanted = request(alice, CONFIG, hang="yes")
    name = wanted["HyperParameterTuningJobName"]
    alice.sagemaker.create_hyper_parameter_tuning_job(**wanted)
    until(lambda: len(children(alice, name)) == 2, "two training jobs")
    for child in children(alice, name):
        alice.wait_for_line(child["TrainingJobName"], "hanging")
        assert child["ObjectiveStatus"] == "Pending"

    alice.sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)

    assert ended(alice, name)["HyperParameterTuningJobStatus"] == "Stopped"
    assert [child["TrainingJobStatus"] for child in children(alice, name)] == ["Stopped", "Stopped"]
    assert children(alice, name, StatusEquals="Completed") == []
    with pytest.raises(ClientError, match="is in status Stopped"):
        alice.sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)


def test_a_tuning_job_without_one_success_fails(alice: User) -> None:
    config = {
        **CONFIG,
        "Strategy": "Grid",
        "ParameterRanges": {"CategoricalParameterRanges": [{"Name": "kind", "Values": ["bad"]}]},
        "ResourceLimits": {"MaxParallelTrainingJobs": 5},
    }
    wanted = request(alice, config)
    alice.sagemaker.create_hyper_parameter_tuning_job(**wanted)

    job = ended(alice, wanted["HyperParameterTuningJobName"])
    assert job["HyperParameterTuningJobStatus"] == "Failed"
    assert "No training job succeeded after 1 attempts" in job["FailureReason"]
    assert job["TrainingJobStatusCounters"]["NonRetryableError"] == 1
    assert job["ObjectiveStatusCounters"]["Failed"] == 1
    assert "BestTrainingJob" not in job


def test_what_sagemaker_refuses_is_refused(alice: User) -> None:
    create = alice.sagemaker.create_hyper_parameter_tuning_job
    wanted = request(alice, CONFIG)
    definition = wanted.pop("TrainingJobDefinition")
    with pytest.raises(ClientError, match="either TrainingJobDefinition or TrainingJobDefinitions"):
        create(**wanted)
    many = {**definition, "Environment": {f"V{n}": "x" for n in range(49)}}
    with pytest.raises(ClientError, match="less than or equal to 48"):
        create(**wanted, TrainingJobDefinition=many)
    turned = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "2", "MaxValue": "1"}]}
    wanted["HyperParameterTuningJobConfig"] = {**CONFIG, "ParameterRanges": turned}
    with pytest.raises(ClientError, match="range of rate is not valid"):
        create(**wanted, TrainingJobDefinition=definition)
    with pytest.raises(ClientError, match="Requested resource not found"):
        describe(alice, "no-such-tuning-job")
    with pytest.raises(ClientError, match="Requested resource not found"):
        children(alice, "no-such-tuning-job")


def definition(strategy: str, ranges: dict[str, Any]) -> tuning_record.Definition:
    config = {"Strategy": strategy, "ParameterRanges": ranges}
    return tuning_record.Definition({"HyperParameterTuningJobConfig": config}, {"AlgorithmSpecification": {}})


def test_a_grid_goes_through_all_combinations() -> None:
    ranges = {
        "CategoricalParameterRanges": [{"Name": "a", "Values": ["1", "2"]}, {"Name": "b", "Values": ["x"]}]
    }
    drawn = list(definition("Grid", ranges).draws(random.Random(1)))
    assert drawn == [{"a": "1", "b": "x"}, {"a": "2", "b": "x"}]


def test_values_drawn_stay_within_their_ranges() -> None:
    ranges = {
        "IntegerParameterRanges": [{"Name": "n", "MinValue": "1", "MaxValue": "3"}],
        "ContinuousParameterRanges": [
            {"Name": "x", "MinValue": "0.001", "MaxValue": "10", "ScalingType": "Logarithmic"}
        ],
    }
    draws = definition("Bayesian", ranges).draws(random.Random(1))
    drawn = [next(draws) for _ in range(200)]
    assert {each["n"] for each in drawn} == {"1", "2", "3"}
    assert all(0.001 <= float(each["x"]) <= 10 for each in drawn)
    assert sum(float(each["x"]) < 0.1 for each in drawn) > 60


def test_resources_may_be_given_in_either_form() -> None:
    config = {"HyperParameterTuningJobConfig": {"Strategy": "Random"}}
    choices = [{"InstanceType": "ml.a", "InstanceCount": 2, "VolumeSizeInGB": 3}, {"InstanceType": "ml.b"}]
    for given in (choices[0], {"InstanceConfigs": choices, "AllocationStrategy": "Prioritized"}):
        each = {"AlgorithmSpecification": {}, "HyperParameterTuningResourceConfig": given}
        asked = tuning_record.Definition(config, each).request("job", {})
        assert asked["ResourceConfig"] == choices[0]


def test_long_names_leave_room_for_the_number() -> None:
    name = tuning_record.child_name("t" * 70, 12, "abcdef01")
    assert name == "t" * 50 + "-012-abcdef01"
    assert len(name) == 63
