"""
A hyperparameter tuning job as the API shows it, and the training jobs that it makes. Pure.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sagemaker_ssh_helper.emulator.training_record import TrainingRecord

OBJECTIVE = "_tuning_objective_metric"
"""The hyperparameter by which a training job is told what it is tuned for."""

NAME_CHARACTERS = 63  # of a training job

_CHILD_MEMBERS = (
    "RoleArn",
    "InputDataConfig",
    "VpcConfig",
    "OutputDataConfig",
    "ResourceConfig",
    "StoppingCondition",
    "EnableNetworkIsolation",
    "EnableInterContainerTrafficEncryption",
    "EnableManagedSpotTraining",
    "CheckpointConfig",
    "RetryStrategy",
    "Environment",
)
"""Members of a training job's definition that its CreateTrainingJob has, too."""

_REQUEST_MEMBERS = (
    "HyperParameterTuningJobName",
    "HyperParameterTuningJobConfig",
    "TrainingJobDefinition",
    "TrainingJobDefinitions",
    "WarmStartConfig",
    "Autotune",
)
"""Members of CreateHyperParameterTuningJob that the description gives back as they came."""


@dataclass
class TuningRecord:
    """
    One tuning job: ``InProgress``, then ``Completed`` or ``Failed``, or by way of ``Stopping`` ``Stopped``.
    """

    request: Mapping[str, Any]
    arn: str
    created_at: datetime
    tags: dict[str, str] = field(default_factory=dict)
    primary_status: str = "InProgress"
    failure_reason: str | None = None
    children: list[Child] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.modified_at = self.created_at
        self.ended_at: datetime | None = None

    @property
    def name(self) -> str:
        return str(self.request["HyperParameterTuningJobName"])

    @property
    def limits(self) -> Mapping[str, Any]:
        """How many training jobs, in all and at once."""
        found: Mapping[str, Any] = self.request["HyperParameterTuningJobConfig"]["ResourceLimits"]
        return found

    @property
    def final(self) -> bool:
        return self.ended_at is not None

    def change(self, status: str, now: datetime) -> None:
        self.primary_status, self.modified_at = status, now
        if status in ("Completed", "Failed", "Stopped"):
            self.ended_at = now

    def describe(self) -> dict[str, Any]:
        """The answer of DescribeHyperParameterTuningJob."""
        shown = {name: self.request[name] for name in _REQUEST_MEMBERS if name in self.request}
        shown.update(self._state())
        if self.failure_reason is not None:
            shown["FailureReason"] = self.failure_reason
        if best := best_of(self.children):
            shown["BestTrainingJob"] = best.summarize()
        return shown

    def summarize(self) -> dict[str, Any]:
        """Its entry in the answer of ListHyperParameterTuningJobs."""
        config = self.request["HyperParameterTuningJobConfig"]
        return {
            "HyperParameterTuningJobName": self.name,
            "Strategy": config["Strategy"],
            "ResourceLimits": config["ResourceLimits"],
            **self._state(),
        }

    def _state(self) -> dict[str, Any]:
        statuses = [child.record.primary_status for child in self.children]
        objectives = [child.objective_status for child in self.children]
        shown: dict[str, Any] = {
            "HyperParameterTuningJobArn": self.arn,
            "HyperParameterTuningJobStatus": self.primary_status,
            "CreationTime": self.created_at,
            "LastModifiedTime": self.modified_at,
            "TrainingJobStatusCounters": {
                "Completed": statuses.count("Completed"),
                "InProgress": statuses.count("InProgress") + statuses.count("Stopping"),
                "RetryableError": 0,
                "NonRetryableError": statuses.count("Failed"),
                "Stopped": statuses.count("Stopped"),
            },
            "ObjectiveStatusCounters": {
                status: objectives.count(status) for status in ("Succeeded", "Pending", "Failed")
            },
        }
        if self.ended_at is not None:
            shown["HyperParameterTuningEndTime"] = self.ended_at
        return shown


@dataclass
class Child:
    """One training job of a tuning job. It is listed as a resource of its own, too."""

    record: TrainingRecord
    tuning_job: str
    definition: Definition
    tuned: Mapping[str, str]
    value: float | None = None
    """Of the objective, once the job has ended and has told one."""

    @property
    def arn(self) -> str:
        return self.record.arn

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def primary_status(self) -> str:
        return self.record.primary_status

    @property
    def created_at(self) -> datetime:
        return self.record.created_at

    @property
    def modified_at(self) -> datetime:
        return self.record.modified_at

    @property
    def tags(self) -> dict[str, str]:
        return self.record.tags

    @property
    def objective_status(self) -> str:
        """``Pending`` while it runs; ``Failed`` when it ended without telling a value."""
        if self.value is not None:
            return "Succeeded"
        return "Failed" if self.record.status.final else "Pending"

    def summarize(self) -> dict[str, Any]:
        """Its entry in the answer of ListTrainingJobsForHyperParameterTuningJob."""
        record = self.record
        shown: dict[str, Any] = {
            "TrainingJobName": record.name,
            "TrainingJobArn": record.arn,
            "TuningJobName": self.tuning_job,
            "CreationTime": record.created_at,
            "TrainingJobStatus": record.primary_status,
            "TunedHyperParameters": dict(self.tuned),
            "ObjectiveStatus": self.objective_status,
        }
        if self.definition.name is not None:
            shown["TrainingJobDefinitionName"] = self.definition.name
        if record.began_at is not None:
            shown["TrainingStartTime"] = record.began_at
        if record.ended_at is not None:
            shown["TrainingEndTime"] = record.ended_at
        if record.failure_reason is not None:
            shown["FailureReason"] = record.failure_reason
        if self.value is not None:
            objective = self.definition.objective
            shown["FinalHyperParameterTuningJobObjectiveMetric"] = {
                "Type": objective["Type"],
                "MetricName": objective["MetricName"],
                "Value": self.value,
            }
        return shown


def best_of(children: Sequence[Child]) -> Child | None:
    """The one with the best value of the objective; None when none has told one."""
    told = [child for child in children if child.value is not None]

    def goodness(child: Child) -> float:
        assert child.value is not None
        return child.value if child.definition.objective["Type"] == "Maximize" else -child.value

    return max(told, key=goodness, default=None)


class Definition:
    """
    One kind of training job that a tuning job makes.

    Args:
        request: of the tuning job.
        definition: its TrainingJobDefinition, or one of its TrainingJobDefinitions.
    """

    def __init__(self, request: Mapping[str, Any], definition: Mapping[str, Any]) -> None:
        config = request["HyperParameterTuningJobConfig"]
        self._definition = definition
        self._tags = request.get("Tags", ())
        self.name: str | None = definition.get("DefinitionName")
        self.objective: Mapping[str, str] = (
            definition.get("TuningObjective") or config.get("HyperParameterTuningJobObjective") or {}
        )
        self.ranges: Mapping[str, Any] = (
            definition.get("HyperParameterRanges") or config.get("ParameterRanges") or {}
        )
        self.grid = config["Strategy"] == "Grid"

    @property
    def role(self) -> str:
        return str(self._definition["RoleArn"])

    def request(self, name: str, tuned: Mapping[str, str]) -> dict[str, Any]:
        """The CreateTrainingJob of one of its jobs."""
        algorithm = dict(self._definition["AlgorithmSpecification"])
        hyperparameters = {**self._definition.get("StaticHyperParameters", {}), **tuned}
        if self.objective:
            hyperparameters[OBJECTIVE] = self.objective["MetricName"]
        return {
            "TrainingJobName": name,
            "AlgorithmSpecification": algorithm,
            "HyperParameters": hyperparameters,
            **_resources(self._definition.get("HyperParameterTuningResourceConfig")),
            **{member: self._definition[member] for member in _CHILD_MEMBERS if member in self._definition},
            **({"Tags": self._tags} if self._tags else {}),
        }

    def draws(self, generator: random.Random) -> Iterator[dict[str, str]]:
        """Values of the tuned hyperparameters: all combinations of a grid, else at random without end."""
        categories = self.ranges.get("CategoricalParameterRanges", ())
        if self.grid:
            names = [each["Name"] for each in categories]
            for values in itertools.product(*(each["Values"] for each in categories)):
                yield dict(zip(names, values))
            return
        while True:
            drawn = {each["Name"]: generator.choice(each["Values"]) for each in categories}
            for each in self.ranges.get("IntegerParameterRanges", ()):
                value = round(_between(each, generator))
                drawn[each["Name"]] = str(min(max(value, int(each["MinValue"])), int(each["MaxValue"])))
            for each in self.ranges.get("ContinuousParameterRanges", ()):
                drawn[each["Name"]] = str(_between(each, generator))
            yield drawn

    def value(self, lines: Sequence[str]) -> float | None:
        """The last value of the objective in a job's log; None when there is none."""
        wanted = self.objective.get("MetricName")
        metrics = self._definition["AlgorithmSpecification"].get("MetricDefinitions", ())
        found = None
        for metric in metrics:
            if metric["Name"] == wanted:
                expression = re.compile(metric["Regex"])
                for line in lines:
                    if match := expression.search(line):
                        found = _number(match.group(1) if expression.groups else match.group())
        return found

    def problems(self) -> Iterator[str]:
        """What SageMaker refuses in it."""
        kinds = ("IntegerParameterRanges", "ContinuousParameterRanges")
        for each in (each for kind in kinds for each in self.ranges.get(kind, ())):
            low, high = _number(each["MinValue"]), _number(each["MaxValue"])
            if low is None or high is None or low > high:
                yield f"The range of {each['Name']} is not valid: {each['MinValue']} to {each['MaxValue']}."
            elif each.get("ScalingType") == "Logarithmic" and low <= 0:
                yield f"The range of {each['Name']} must be above 0 for the scaling type Logarithmic."
        if self.grid and any(self.ranges.get(kind) for kind in kinds):
            yield "The strategy Grid takes categorical parameter ranges only."
        for metric in self._definition["AlgorithmSpecification"].get("MetricDefinitions", ()):
            try:
                re.compile(metric["Regex"])
            except re.error as error:
                yield f"The regular expression of the metric {metric['Name']} is not valid: {error}."


def definitions_of(request: Mapping[str, Any]) -> list[Definition]:
    """All definitions of a CreateHyperParameterTuningJob."""
    found = [request["TrainingJobDefinition"]] if "TrainingJobDefinition" in request else []
    return [Definition(request, each) for each in [*found, *request.get("TrainingJobDefinitions", ())]]


def child_name(tuning_job: str, number: int, suffix: str) -> str:
    """The name of a tuning job's ``number``-th training job, counted from 1."""
    end = f"-{number:03d}-{suffix}"
    return tuning_job[: NAME_CHARACTERS - len(end)] + end


def _resources(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The member ResourceConfig of a definition that has the other form; of several choices the first."""
    if config is None:
        return {}
    chosen = {**config, **(config.get("InstanceConfigs") or [{}])[0]}
    members = ("InstanceType", "InstanceCount", "VolumeSizeInGB", "VolumeKmsKeyId")
    return {"ResourceConfig": {member: chosen[member] for member in members if member in chosen}}


def _between(limits: Mapping[str, str], generator: random.Random) -> float:
    low, high = float(limits["MinValue"]), float(limits["MaxValue"])
    if limits.get("ScalingType") == "Logarithmic":
        return min(max(math.exp(generator.uniform(math.log(low), math.log(high))), low), high)
    return generator.uniform(low, high)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
