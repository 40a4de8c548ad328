"""
SageMaker: training jobs, run as real processes.

Requests arrive valid against botocore's model; what the service refuses beyond that is refused here, in its
words.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sagemaker_ssh_helper.emulator import mounts, other_resources, training_toolkit
from sagemaker_ssh_helper.emulator.job_credentials import SESSION_NAME, JobCredentials, RoleSession
from sagemaker_ssh_helper.emulator.job_storage import S3Uri
from sagemaker_ssh_helper.emulator.jobs import JobSettings, TrainingRun
from sagemaker_ssh_helper.emulator.node import BASE
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Cloud, Operation
from sagemaker_ssh_helper.emulator.training_record import TrainingRecord, utc_now
from sagemaker_ssh_helper.errors import LocalSetup
from sagemaker_ssh_helper.names import Env, ResourceKind

logger = logging.getLogger(__name__)

SERVICE_PRINCIPAL = "sagemaker.amazonaws.com"

DEFAULT_PAGE = 10
MAX_TAGS = 50
HYPERPARAMETER_CHARACTERS = 2500

WORKERS = 8
"""Threads for moving data; a job uses one of them at a time."""

WARM_UP_DELAY = 0.3
"""Seconds after the start when what the first job needs is made: it then starts half a second earlier."""


class SageMakerService:
    """The service. Needs a running event loop; ``cloud`` is complete."""

    name = "sagemaker"
    anonymous: frozenset[str] = frozenset()

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._jobs: dict[str, TrainingRecord] = {}  # by ARN, oldest first
        self._runs: dict[str, tuple[TrainingRun, asyncio.Task[None]]] = {}  # those that have not ended
        self._role_sessions: dict[str, RoleSession] = {}
        self._settings = _settings(os.environ)
        self._stop_timeout = self._settings.stop_timeout
        self._executor = ThreadPoolExecutor(WORKERS, "sagemaker")
        self.operations: Mapping[str, Operation] = {
            **other_resources.operations(cloud),
            "CreateTrainingJob": self._create_training_job,
            "DescribeTrainingJob": self._describe_training_job,
            "ListTrainingJobs": self._list_training_jobs,
            "StopTrainingJob": self._stop_training_job,
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "DeleteTags": self._delete_tags,
        }
        cloud.faults.register("stop-timeout", self._set_stop_timeout, self._reset_stop_timeout)
        cloud.on_close(self._close)
        self._warm_up = asyncio.get_running_loop().call_later(
            WARM_UP_DELAY, self._executor.submit, self._prepare
        )

    # -- training jobs ---------------------------------------------------------------------------------------

    async def _create_training_job(self, call: Call) -> Mapping[str, Any]:
        request = call.params
        name = request["TrainingJobName"]
        arn = self._arn(name)
        tags = _tags(request.get("Tags", ()))
        context = {**_request_tags(tags), **_job_context(request)}
        self._cloud.iam.authorize(call.principal, "sagemaker:CreateTrainingJob", arn, context)
        if tags:
            self._cloud.iam.authorize(call.principal, "sagemaker:AddTags", arn, context)
        role = self._cloud.iam.authorize_pass_role(call.principal, request["RoleArn"], SERVICE_PRINCIPAL)
        _check_request(request)
        if arn in self._jobs:
            raise ApiError(
                "ResourceInUse",
                "Training job names must be unique within an AWS account and Region, and a training job with "
                f"this name already exists ({arn})",
            )
        record = TrainingRecord(request, arn, utc_now(), tags)
        credentials = JobCredentials(self._cloud, self._role_session(role))
        run = TrainingRun(record, self._cloud, credentials, self._settings, self._executor)
        self._jobs[arn] = record
        task = asyncio.create_task(run.run(), name=f"training job {name}")
        self._runs[arn] = run, task
        task.add_done_callback(lambda _: self._runs.pop(arn, None))
        return {"TrainingJobArn": arn}

    async def _describe_training_job(self, call: Call) -> Mapping[str, Any]:
        arn = self._arn(call.params["TrainingJobName"])
        record = self._authorized(call, "sagemaker:DescribeTrainingJob", arn)
        return record.describe(utc_now())

    async def _stop_training_job(self, call: Call) -> Mapping[str, Any]:
        arn = self._arn(call.params["TrainingJobName"])
        record = self._authorized(call, "sagemaker:StopTrainingJob", arn)
        if arn not in self._runs or record.status.final:
            status = record.primary_status
            raise ApiError(
                "ValidationException",
                f"The request was rejected because the training job is in status {status}.",
            )
        self._runs[arn][0].stop()
        return {}

    async def _list_training_jobs(self, call: Call) -> Mapping[str, Any]:
        self._cloud.iam.authorize(call.principal, "sagemaker:ListTrainingJobs")
        params = call.params
        found = [record for record in self._jobs.values() if _matches(record, params)]
        key = _SORT_KEYS[params.get("SortBy", "CreationTime")]
        descending = params.get("SortOrder", "Descending") == "Descending"
        found.sort(key=key, reverse=descending)
        if "NextToken" in params:
            after = _decode_token(params["NextToken"])
            found = [
                record for record in found if (key(record) < after if descending else key(record) > after)
            ]
        size = params.get("MaxResults", DEFAULT_PAGE)
        answer: dict[str, Any] = {"TrainingJobSummaries": [record.summarize() for record in found[:size]]}
        if len(found) > size:
            answer["NextToken"] = _encode_token(key(found[size - 1]))
        return answer

    # -- tags ------------------------------------------------------------------------------------------------

    async def _add_tags(self, call: Call) -> Mapping[str, Any]:
        tags = _tags(call.params["Tags"])
        record = self._authorized(call, "sagemaker:AddTags", call.params["ResourceArn"], _request_tags(tags))
        _check_tags({**record.tags, **tags})
        record.tags.update(tags)
        return {"Tags": _tag_list(record.tags)}

    async def _list_tags(self, call: Call) -> Mapping[str, Any]:
        record = self._authorized(call, "sagemaker:ListTags", call.params["ResourceArn"])
        return {"Tags": _tag_list(record.tags)}

    async def _delete_tags(self, call: Call) -> Mapping[str, Any]:
        keys = call.params["TagKeys"]
        context = {"aws:TagKeys": keys}
        record = self._authorized(call, "sagemaker:DeleteTags", call.params["ResourceArn"], context)
        for key in keys:
            record.tags.pop(key, None)
        return {}

    # -- what they share -------------------------------------------------------------------------------------

    def _arn(self, name: str) -> str:
        # SageMaker writes names in ARNs in small letters, which also makes names differ by more than case.
        cloud = self._cloud
        kind = ResourceKind.TRAINING.arn_type
        return f"arn:aws:sagemaker:{cloud.region}:{cloud.account_id}:{kind}/{name.lower()}"

    def _authorized(
        self, call: Call, action: str, arn: str, context: Mapping[str, Any] | None = None
    ) -> TrainingRecord:
        """The job of this ARN when the caller may do this with it. Raises ApiError."""
        record = self._jobs.get(arn)
        tags = record.tags if record is not None else {}
        resource_tags = {
            f"{prefix}/{key}": value
            for prefix in ("aws:ResourceTag", "sagemaker:ResourceTag")
            for key, value in tags.items()
        }
        self._cloud.iam.authorize(call.principal, action, arn, {**resource_tags, **(context or {})})
        if record is None:
            raise ApiError("ValidationException", "Requested resource not found.")
        return record

    def _role_session(self, role: str) -> RoleSession:
        caller = self._cloud.iam.role_caller(role, SESSION_NAME)
        # By id, not by name: a role that was deleted and made again is another one.
        if caller.user_id not in self._role_sessions:
            self._role_sessions[caller.user_id] = RoleSession(self._cloud, caller)
        return self._role_sessions[caller.user_id]

    async def _set_stop_timeout(self, body: Mapping[str, Any]) -> None:
        seconds = body.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= 3600:
            raise ApiError("ValidationException", "A switch of kind stop-timeout needs seconds, 0 to 3600.")
        self._settings.stop_timeout = float(seconds)

    async def _reset_stop_timeout(self) -> None:
        self._settings.stop_timeout = self._stop_timeout

    def _prepare(self) -> None:
        try:
            mounts.available()
            self._cloud.aws("logs")
            self._role_session(self._cloud.role_arn).client("s3")
        except Exception:
            logger.debug("! warming up failed; the first job will say why", exc_info=True)

    async def _close(self) -> None:
        """End every job's processes and remove their files."""
        self._warm_up.cancel()
        tasks = [task for _, task in self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._executor.shutdown(wait=False)


def _settings(environment: Mapping[str, str]) -> JobSettings:
    """What the cloud's environment says about jobs. Raises LocalSetup for what is no number."""
    settings = JobSettings()
    try:
        settings.stop_timeout = float(environment.get(Env.JOB_STOP_SECONDS, settings.stop_timeout))
        settings.log_bytes = int(environment.get(Env.JOB_LOG_BYTES, settings.log_bytes))
        if settings.stop_timeout < 0 or settings.log_bytes < 0:
            raise ValueError("a number below 0")
    except ValueError as error:
        raise LocalSetup(
            f"{Env.JOB_STOP_SECONDS} and {Env.JOB_LOG_BYTES} must be numbers from 0",
            evidence=str(error),
            fix="Correct or unset the variable",
        ) from error
    return settings


def _check_request(request: Mapping[str, Any]) -> None:
    """Refuse what SageMaker refuses beyond its model, and clearly what the local cloud does not do."""
    algorithm = request["AlgorithmSpecification"]
    if ("TrainingImage" in algorithm) == ("AlgorithmName" in algorithm):
        raise _invalid(
            "Specify either TrainingImage or AlgorithmName in AlgorithmSpecification, but not both."
        )
    if "AlgorithmName" in algorithm:
        raise _unsupported("AlgorithmSpecification.AlgorithmName")
    if "ServerlessJobConfig" in request:
        raise _unsupported("ServerlessJobConfig")
    resources = request.get("ResourceConfig")
    if resources is None or "InstanceType" not in resources or "InstanceCount" not in resources:
        if resources is not None and "InstanceGroups" in resources:
            raise _unsupported("ResourceConfig.InstanceGroups")
        raise _invalid("ResourceConfig must have InstanceType and InstanceCount.")
    if resources["InstanceCount"] < 1:
        raise _invalid("ResourceConfig.InstanceCount must be greater than or equal to 1.")
    if resources["InstanceCount"] > 1:
        raise _unsupported("ResourceConfig.InstanceCount above 1")
    for name, value in request.get("HyperParameters", {}).items():
        if len(value) > HYPERPARAMETER_CHARACTERS:
            raise _invalid(f"Hyperparameter {name} is longer than {HYPERPARAMETER_CHARACTERS} characters.")
    for name, value in {**request.get("Environment", {}), **request.get("HyperParameters", {})}.items():
        if "\0" in name + value:
            raise _invalid(f"The value of {name!r} has a NUL character.")
    _check_channels(request)
    _check_places(request)
    _check_tags(_tags(request.get("Tags", ())))


def _check_channels(request: Mapping[str, Any]) -> None:
    seen = set()
    for channel in request.get("InputDataConfig", ()):
        name = channel["ChannelName"]
        if name in seen:
            raise _invalid(f"The channel name {name} is used more than once.")
        seen.add(name)
        if name in (".", ".."):
            raise _invalid(f"{name} cannot be the name of a channel.")
        source = channel["DataSource"].get("S3DataSource")
        if source is None:
            raise _unsupported(f"A data source other than S3DataSource (channel {name})")
        if source["S3DataType"] != "S3Prefix":
            raise _unsupported(f"S3DataType {source['S3DataType']} (channel {name})")
        _check_s3_uri(source["S3Uri"], f"channel {name}")
        mode = channel.get("InputMode", request["AlgorithmSpecification"]["TrainingInputMode"])
        if mode == "Pipe":
            raise _unsupported(f"Input mode Pipe (channel {name})")


def _check_places(request: Mapping[str, Any]) -> None:
    _check_s3_uri(request["OutputDataConfig"]["S3OutputPath"], "OutputDataConfig")
    if "CheckpointConfig" in request:
        checkpoints = request["CheckpointConfig"]
        _check_s3_uri(checkpoints["S3Uri"], "CheckpointConfig")
        path = checkpoints.get("LocalPath", f"{BASE}/checkpoints")
        if not path.startswith(BASE + "/") or os.path.normpath(path) != path.rstrip("/"):
            raise _unsupported(f"CheckpointConfig.LocalPath outside {BASE}")
    submitted = training_toolkit.setting(
        training_toolkit.SUBMIT_DIRECTORY, request.get("HyperParameters", {}), request.get("Environment", {})
    )
    if submitted is not None and not submitted.startswith("/"):
        _check_s3_uri(submitted, training_toolkit.SUBMIT_DIRECTORY)


def _check_s3_uri(text: str, where: str) -> None:
    try:
        S3Uri.parse(text)
    except ValueError as error:
        raise _invalid(f"{where}: {error}.") from error


def _check_tags(tags: Mapping[str, str]) -> None:
    if len(tags) > MAX_TAGS:
        raise _invalid(f"A resource can have at most {MAX_TAGS} tags.")
    for key in tags:
        if key.lower().startswith("aws:"):
            raise _invalid(f"The tag key {key} begins with aws:, which is reserved for AWS.")


def _invalid(message: str) -> ApiError:
    return ApiError("ValidationException", message)


def _unsupported(what: str) -> ApiError:
    return ApiError("ValidationException", f"The local cloud does not support this: {what}.")


def _job_context(request: Mapping[str, Any]) -> dict[str, Any]:
    """Condition keys of CreateTrainingJob that policies use most."""
    resources = request.get("ResourceConfig", {})
    context: dict[str, Any] = {
        "sagemaker:NetworkIsolation": _boolean(request.get("EnableNetworkIsolation", False)),
        "sagemaker:InterContainerTrafficEncryption": _boolean(
            request.get("EnableInterContainerTrafficEncryption", False)
        ),
        "sagemaker:EnableRemoteDebug": _boolean(
            request.get("RemoteDebugConfig", {}).get("EnableRemoteDebug", False)
        ),
    }
    if "InstanceType" in resources:
        context["sagemaker:InstanceTypes"] = [resources["InstanceType"]]
    if "VpcConfig" in request:
        context["sagemaker:VpcSubnets"] = request["VpcConfig"]["Subnets"]
        context["sagemaker:VpcSecurityGroupIds"] = request["VpcConfig"]["SecurityGroupIds"]
    return context


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _request_tags(tags: Mapping[str, str]) -> dict[str, Any]:
    context: dict[str, Any] = {f"aws:RequestTag/{key}": value for key, value in tags.items()}
    if tags:
        context["aws:TagKeys"] = list(tags)
    return context


def _tags(tags: Any) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _matches(record: TrainingRecord, params: Mapping[str, Any]) -> bool:
    if params.get("NameContains", "").lower() not in record.name.lower():
        return False
    if params.get("StatusEquals", record.primary_status) != record.primary_status:
        return False
    # No job of the local cloud is kept warm, and none belongs to a training plan.
    if "WarmPoolStatusEquals" in params or "TrainingPlanArnEquals" in params:
        return False
    for name, moment in (("CreationTime", record.created_at), ("LastModifiedTime", record.modified_at)):
        if not params.get(f"{name}After", moment) <= moment <= params.get(f"{name}Before", moment):
            return False
    return True


_SORT_KEYS: Mapping[str, Callable[[TrainingRecord], tuple[str, str]]] = {
    "Name": lambda record: (record.name, record.arn),
    "CreationTime": lambda record: (record.created_at.isoformat(timespec="microseconds"), record.arn),
    "Status": lambda record: (record.primary_status, record.arn),
}


def _encode_token(position: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def _decode_token(token: str) -> tuple[str, str]:
    try:
        first, second = json.loads(base64.urlsafe_b64decode(token.encode("ascii")))
    except (ValueError, TypeError, binascii.Error) as error:
        raise _invalid("The NextToken is not valid.") from error
    if not isinstance(first, str) or not isinstance(second, str):
        raise _invalid("The NextToken is not valid.")
    return first, second
