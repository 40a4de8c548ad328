"""
Training jobs: what their calls take and refuse.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

from sagemaker_ssh_helper.emulator import instance_groups, training_toolkit
from sagemaker_ssh_helper.emulator.job_credentials import JobCredentials
from sagemaker_ssh_helper.emulator.job_host import JobHost
from sagemaker_ssh_helper.emulator.job_operations import JobOperations, check_no_nul, check_s3_uri
from sagemaker_ssh_helper.emulator.job_record import Status, utc_now
from sagemaker_ssh_helper.emulator.jobs import JobRun, JobSettings, JobSetup
from sagemaker_ssh_helper.emulator.node import BASE
from sagemaker_ssh_helper.emulator.remote_debug import RemoteDebug
from sagemaker_ssh_helper.emulator.resource_table import (
    ResourceTable,
    boolean,
    check_tags,
    invalid,
    unsupported,
)
from sagemaker_ssh_helper.emulator.service import Call, Cloud
from sagemaker_ssh_helper.emulator.training_record import TrainingRecord
from sagemaker_ssh_helper.emulator.training_setup import TrainingSetup
from sagemaker_ssh_helper.names import ResourceKind

HYPERPARAMETER_CHARACTERS = 2500

RULE_STATUSES = ("InProgress", "NoIssuesFound", "IssuesFound", "Error", "Stopping", "Stopped")


_REMOTE_DEBUG_KEY = "sagemaker:EnableRemoteDebug"


class TrainingRun(JobRun):
    """The run of a training job, and its remote debugging."""

    def __init__(
        self,
        record: TrainingRecord,
        setup: JobSetup,
        cloud: Cloud,
        credentials: JobCredentials,
        settings: JobSettings,
        executor: Executor,
        debug: RemoteDebug,
    ) -> None:
        super().__init__(record, setup, cloud, credentials, settings, executor, debug)
        self.debug = debug


class TrainingJobs(JobOperations[TrainingRecord]):
    """CreateTrainingJob and the others."""

    kind = ResourceKind.TRAINING
    word = "Training"

    def __init__(self, cloud: Cloud, table: ResourceTable, host: JobHost) -> None:
        super().__init__(cloud, table, host)
        cloud.faults.register("rule-status", self._set_rule_status)
        self.operations = {**self.operations, "UpdateTrainingJob": self._update}

    def role(self, request: Mapping[str, Any]) -> str:
        return str(request["RoleArn"])

    def context(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return _job_context(request)

    def check(self, request: Mapping[str, Any]) -> None:
        _check_request(request)

    def record(self, request: Mapping[str, Any], arn: str, tags: dict[str, str]) -> TrainingRecord:
        return TrainingRecord(request, arn, utc_now(), tags)

    def setup(self, record: TrainingRecord, credentials: JobCredentials) -> JobSetup:
        return TrainingSetup(record, self._cloud, credentials)

    def run(self, record: TrainingRecord, credentials: JobCredentials) -> TrainingRun:
        debug = RemoteDebug(self._cloud, record.name, credentials.role.user_id, on=bool(record.remote_debug))
        setup, host = self.setup(record, credentials), self._host
        return TrainingRun(record, setup, self._cloud, credentials, host.settings, host.executor, debug)

    async def _update(self, call: Call) -> Mapping[str, Any]:
        """Remote debugging, on or off; nothing else of a job can be changed here."""
        params = call.params
        config = params.get("RemoteDebugConfig", {})
        asked = {_REMOTE_DEBUG_KEY: boolean(config.get("EnableRemoteDebug", False))} if config else {}
        record: TrainingRecord = self._table.authorized(call, self._arn(call), asked)
        for member in ("ProfilerConfig", "ProfilerRuleConfigurations", "ResourceConfig"):
            if member in params:
                raise unsupported(f"{member} of UpdateTrainingJob")
        on = config.get("EnableRemoteDebug")
        if on is None:
            return {"TrainingJobArn": record.arn}
        if record.status not in (Status.DOWNLOADING, Status.TRAINING):
            raise invalid(
                "RemoteDebugConfig can be updated only when the secondary status of the training job is "
                f"Downloading or Training; it is {record.status.text}."
            )
        if on:
            _check_remote_debug(record.request)
        record.remote_debug = on
        run = self._host.running(record.arn)
        assert isinstance(run, TrainingRun), "a job in these statuses is running"
        await run.debug.switch(on)
        return {"TrainingJobArn": record.arn}

    def describe(self, record: TrainingRecord) -> dict[str, Any]:
        return record.describe(utc_now())

    def summarize(self, record: TrainingRecord) -> dict[str, Any]:
        return record.summarize()

    async def _set_rule_status(self, body: Mapping[str, Any]) -> None:
        """Let a rule of the profiler or debugger have found something, or nothing."""
        job, rule, status = (body.get(name) for name in ("training_job", "rule", "status"))
        if status not in RULE_STATUSES:
            raise invalid(f"A switch of kind rule-status needs a status: one of {', '.join(RULE_STATUSES)}.")
        record = self._table.get(self._table.arn(self.kind.arn_type, str(job)))
        if record is None or rule not in record.rules:
            raise invalid(f"There is no training job {job} with a rule {rule}.")
        record.rule_statuses[rule] = status


def _check_request(request: Mapping[str, Any]) -> None:
    """Refuse what SageMaker refuses beyond its model, and clearly what the local cloud does not do."""
    algorithm = request["AlgorithmSpecification"]
    if ("TrainingImage" in algorithm) == ("AlgorithmName" in algorithm):
        raise invalid(
            "Specify either TrainingImage or AlgorithmName in AlgorithmSpecification, but not both."
        )
    if "AlgorithmName" in algorithm:
        raise unsupported("AlgorithmSpecification.AlgorithmName")
    if "ServerlessJobConfig" in request:
        raise unsupported("ServerlessJobConfig")
    if request.get("RemoteDebugConfig", {}).get("EnableRemoteDebug"):
        _check_remote_debug(request)
    instance_groups.check(request)
    for name, value in request.get("HyperParameters", {}).items():
        if len(value) > HYPERPARAMETER_CHARACTERS:
            raise invalid(f"Hyperparameter {name} is longer than {HYPERPARAMETER_CHARACTERS} characters.")
    check_no_nul({**request.get("Environment", {}), **request.get("HyperParameters", {})})
    _check_channels(request)
    _check_places(request)
    check_tags({tag["Key"]: tag["Value"] for tag in request.get("Tags", ())})


def _check_remote_debug(request: Mapping[str, Any]) -> None:
    if request.get("EnableNetworkIsolation"):
        raise invalid("Remote debug cannot be enabled for a training job with network isolation.")


def _check_channels(request: Mapping[str, Any]) -> None:
    seen = set()
    for channel in request.get("InputDataConfig", ()):
        name = channel["ChannelName"]
        if name in seen:
            raise invalid(f"The channel name {name} is used more than once.")
        seen.add(name)
        if name in (".", ".."):
            raise invalid(f"{name} cannot be the name of a channel.")
        source = channel["DataSource"].get("S3DataSource")
        if source is None:
            raise unsupported(f"A data source other than S3DataSource (channel {name})")
        if source["S3DataType"] != "S3Prefix":
            raise unsupported(f"S3DataType {source['S3DataType']} (channel {name})")
        check_s3_uri(source["S3Uri"], f"channel {name}")
        mode = channel.get("InputMode", request["AlgorithmSpecification"]["TrainingInputMode"])
        if mode == "Pipe":
            raise unsupported(f"Input mode Pipe (channel {name})")


def _check_places(request: Mapping[str, Any]) -> None:
    check_s3_uri(request["OutputDataConfig"]["S3OutputPath"], "OutputDataConfig")
    if "CheckpointConfig" in request:
        checkpoints = request["CheckpointConfig"]
        check_s3_uri(checkpoints["S3Uri"], "CheckpointConfig")
        path = checkpoints.get("LocalPath", f"{BASE}/checkpoints")
        if not path.startswith(BASE + "/") or os.path.normpath(path) != path.rstrip("/"):
            raise unsupported(f"CheckpointConfig.LocalPath outside {BASE}")
    submitted = training_toolkit.setting(
        training_toolkit.SUBMIT_DIRECTORY, request.get("HyperParameters", {}), request.get("Environment", {})
    )
    if submitted is not None and not submitted.startswith("/"):
        check_s3_uri(submitted, training_toolkit.SUBMIT_DIRECTORY)


def _job_context(request: Mapping[str, Any]) -> dict[str, Any]:
    """Condition keys of CreateTrainingJob that policies use most."""
    resources = request.get("ResourceConfig", {})
    context: dict[str, Any] = {
        "sagemaker:NetworkIsolation": boolean(request.get("EnableNetworkIsolation", False)),
        "sagemaker:InterContainerTrafficEncryption": boolean(
            request.get("EnableInterContainerTrafficEncryption", False)
        ),
        _REMOTE_DEBUG_KEY: boolean(request.get("RemoteDebugConfig", {}).get("EnableRemoteDebug", False)),
    }
    groups = resources.get("InstanceGroups") or [resources]
    if types := [group["InstanceType"] for group in groups if "InstanceType" in group]:
        context["sagemaker:InstanceTypes"] = types
    if "VpcConfig" in request:
        context["sagemaker:VpcSubnets"] = request["VpcConfig"]["Subnets"]
        context["sagemaker:VpcSecurityGroupIds"] = request["VpcConfig"]["SecurityGroupIds"]
    return context
