"""
A training job as the API shows it. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sagemaker_ssh_helper.emulator.job_record import JobRecord

_REQUEST_MEMBERS = (
    "TrainingJobName",
    "HyperParameters",
    "AlgorithmSpecification",
    "RoleArn",
    "InputDataConfig",
    "OutputDataConfig",
    "ResourceConfig",
    "VpcConfig",
    "CheckpointConfig",
    "DebugHookConfig",
    "DebugRuleConfigurations",
    "TensorBoardOutputConfig",
    "ExperimentConfig",
    "ProfilerConfig",
    "ProfilerRuleConfigurations",
    "Environment",
    "RetryStrategy",
    "InfraCheckConfig",
)
"""Members of CreateTrainingJob that DescribeTrainingJob gives back as they came."""

_RULE_KINDS = ("Profiler", "Debug")


@dataclass
class TrainingRecord(JobRecord):
    """One training job."""

    name_member = "TrainingJobName"

    rule_statuses: dict[str, str] = field(default_factory=dict)
    """What an administrator made of rules of the profiler and debugger, by their names."""
    model_artifacts: str | None = None
    tuning_job_arn: str | None = None
    remote_debug: bool | None = None
    """Whether remote debugging is on; None when nobody ever said."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.remote_debug = self.request.get("RemoteDebugConfig", {}).get("EnableRemoteDebug")

    def describe(self, now: datetime) -> dict[str, Any]:
        """The answer of DescribeTrainingJob."""
        shown = {name: self.request[name] for name in _REQUEST_MEMBERS if name in self.request}
        for name in (
            "EnableNetworkIsolation",
            "EnableInterContainerTrafficEncryption",
            "EnableManagedSpotTraining",
        ):
            shown[name] = self.request.get(name, False)
        # SageMaker fills these in, and its SDK reads them without asking whether they are there.
        shown["OutputDataConfig"] = {"KmsKeyId": "", "CompressionType": "GZIP", **shown["OutputDataConfig"]}
        if "InputDataConfig" in shown:
            defaults = {"CompressionType": "None", "RecordWrapperType": "None"}
            shown["InputDataConfig"] = [{**defaults, **channel} for channel in shown["InputDataConfig"]]
        shown.update(
            TrainingJobArn=self.arn,
            TrainingJobStatus=self.primary_status,
            SecondaryStatus=self.status.text,
            SecondaryStatusTransitions=[transition.describe() for transition in self.transitions],
            StoppingCondition={
                "MaxRuntimeInSeconds": self.max_runtime_seconds,
                **self.request.get("StoppingCondition", {}),
            },
            CreationTime=self.created_at,
            LastModifiedTime=self.modified_at,
            ProfilingStatus="Disabled" if self._profiler_disabled() else "Enabled",
        )
        began_at = self.began_at
        if began_at is not None:
            seconds = max(1, round(((self.ended_at or now) - began_at).total_seconds()))
            shown.update(TrainingStartTime=began_at, TrainingTimeInSeconds=seconds)
            if self.ended_at is not None:
                shown.update(TrainingEndTime=self.ended_at, BillableTimeInSeconds=seconds)
        for kind in _RULE_KINDS:
            if rules := self.request.get(f"{kind}RuleConfigurations"):
                shown[f"{kind}RuleEvaluationStatuses"] = [self._evaluation(rule) for rule in rules]
        if self.remote_debug is not None:
            shown["RemoteDebugConfig"] = {"EnableRemoteDebug": self.remote_debug}
        if self.tuning_job_arn is not None:
            shown["TuningJobArn"] = self.tuning_job_arn
        if self.model_artifacts is not None:
            shown["ModelArtifacts"] = {"S3ModelArtifacts": self.model_artifacts}
        if self.failure_reason is not None:
            shown["FailureReason"] = self.failure_reason
        return shown

    def summarize(self) -> dict[str, Any]:
        """Its entry in the answer of ListTrainingJobs."""
        shown = {
            "TrainingJobName": self.name,
            "TrainingJobArn": self.arn,
            "CreationTime": self.created_at,
            "LastModifiedTime": self.modified_at,
            "TrainingJobStatus": self.primary_status,
            "SecondaryStatus": self.status.text,
        }
        if self.ended_at is not None:
            shown["TrainingEndTime"] = self.ended_at
        return shown

    @property
    def rules(self) -> list[str]:
        """The names of the rules of its profiler and its debugger."""
        found = [rule for kind in _RULE_KINDS for rule in self.request.get(f"{kind}RuleConfigurations", ())]
        return [rule["RuleConfigurationName"] for rule in found]

    def _evaluation(self, rule: dict[str, Any]) -> dict[str, Any]:
        """No rule is really evaluated here."""
        name = rule["RuleConfigurationName"]
        jobs = self.arn.partition(":training-job/")[0]
        unless_told = "InProgress" if self.ended_at is None else "NoIssuesFound"
        return {
            "RuleConfigurationName": name,
            "RuleEvaluationJobArn": f"{jobs}:processing-job/{self.name}-{name}".lower(),
            "RuleEvaluationStatus": self.rule_statuses.get(name, unless_told),
            "LastModifiedTime": self.modified_at,
        }

    def _profiler_disabled(self) -> bool:
        config = self.request.get("ProfilerConfig")
        return config is None or bool(config.get("DisableProfiler", False))
