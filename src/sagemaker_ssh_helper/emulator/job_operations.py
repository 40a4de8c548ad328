"""
Create, Describe, List and Stop of one kind of job: what they share whatever the job does.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from sagemaker_ssh_helper.emulator.job_credentials import JobCredentials
from sagemaker_ssh_helper.emulator.job_host import JobHost, Run
from sagemaker_ssh_helper.emulator.job_record import JobRecord
from sagemaker_ssh_helper.emulator.job_storage import S3Uri
from sagemaker_ssh_helper.emulator.jobs import JobRun, JobSetup
from sagemaker_ssh_helper.emulator.resource_table import ResourceTable, invalid
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Cloud, Operation
from sagemaker_ssh_helper.names import ResourceKind

R = TypeVar("R", bound=JobRecord)


class JobOperations(abc.ABC, Generic[R]):
    """The four calls of one kind; ``Training`` in their names is ``word``."""

    kind: ResourceKind
    word: str

    def __init__(self, cloud: Cloud, table: ResourceTable, host: JobHost) -> None:
        self._cloud = cloud
        self._table = table
        self._host = host
        self.operations: Mapping[str, Operation] = {
            f"Create{self.word}Job": self._create,
            f"Describe{self.word}Job": self._describe,
            f"List{self.word}Jobs": self._list,
            f"Stop{self.word}Job": self._stop,
        }

    @abc.abstractmethod
    def role(self, request: Mapping[str, Any]) -> str:
        """The ARN of the role that the job has. Raises ApiError."""

    @abc.abstractmethod
    def context(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The condition keys of the Create call that policies use most."""

    @abc.abstractmethod
    def check(self, request: Mapping[str, Any]) -> None:
        """Refuse what SageMaker refuses beyond its model, and clearly what the local cloud does not do."""

    @abc.abstractmethod
    def record(self, request: Mapping[str, Any], arn: str, tags: dict[str, str]) -> R:
        """A new job."""

    @abc.abstractmethod
    def setup(self, record: R, credentials: JobCredentials) -> JobSetup:
        """What its nodes are made of."""

    @abc.abstractmethod
    def describe(self, record: R) -> dict[str, Any]:
        """The answer of the Describe call."""

    @abc.abstractmethod
    def summarize(self, record: R) -> dict[str, Any]:
        """An entry in the answer of the List call."""

    async def _create(self, call: Call) -> Mapping[str, Any]:
        return {f"{self.word}JobArn": self.create(call, call.params).arn}

    def create(self, call: Call, request: Mapping[str, Any]) -> R:
        """A job of this caller, running. Raises ApiError."""
        arn = self._table.arn(self.kind.arn_type, request[f"{self.word}JobName"])
        tags = self._table.may_create(call, arn, self.context(request))
        credentials = self.credentials(call, request)
        try:
            self.check(request)
            if self._table.get(arn) is not None:
                label = self.kind.label
                raise ApiError(
                    "ResourceInUse",
                    f"{label.capitalize()} names must be unique within an AWS account and Region, and a "
                    f"{label} with this name already exists ({arn})",
                )
            return self.launch(request, arn, tags, credentials)
        except BaseException:
            credentials.close()
            raise

    def launch(
        self, request: Mapping[str, Any], arn: str, tags: dict[str, str], credentials: JobCredentials
    ) -> R:
        """A job that was checked, running."""
        record = self.record(request, arn, tags)
        self.start(record, credentials)
        return record

    def start(self, record: R, credentials: JobCredentials) -> asyncio.Task[None]:
        """A job that was checked begins to run; done when it has ended."""
        run = self.run(record, credentials)
        self._table.add(record)
        return self._host.start(record.arn, run)

    def credentials(self, call: Call, request: Mapping[str, Any]) -> JobCredentials:
        """Keys of the job's role, when the caller may pass it. Raises ApiError."""
        return self._host.credentials(call, self.role(request))

    def run(self, record: R, credentials: JobCredentials) -> Run:
        """What runs it."""
        setup = self.setup(record, credentials)
        host = self._host
        return JobRun(record, setup, self._cloud, credentials, host.settings, host.executor)

    async def _describe(self, call: Call) -> Mapping[str, Any]:
        return self.describe(self._table.authorized(call, self._arn(call)))

    async def _list(self, call: Call) -> Mapping[str, Any]:
        self._cloud.iam.authorize(call.principal, f"sagemaker:{call.operation}")
        found = self._table.of_type(self.kind.arn_type)
        return self._table.page(call, found, f"{self.word}JobSummaries", self.summarize)

    async def _stop(self, call: Call) -> Mapping[str, Any]:
        record: R = self._table.authorized(call, self._arn(call))
        run = self._host.running(record.arn)
        if run is None or record.status.final:
            raise ApiError(
                "ValidationException",
                f"The request was rejected because the {self.kind.label} is in status "
                f"{record.primary_status}.",
            )
        run.stop()
        return {}

    def _arn(self, call: Call) -> str:
        return self._table.arn(self.kind.arn_type, call.params[f"{self.word}JobName"])


def ended_members(record: JobRecord, word: str) -> dict[str, Any]:
    """The members of a description that say when a job began, when and why it ended."""
    shown: dict[str, Any] = {
        f"{word}JobName": record.name,
        f"{word}JobArn": record.arn,
        f"{word}JobStatus": record.primary_status,
        "CreationTime": record.created_at,
    }
    if record.ended_at is not None:
        shown[f"{word}EndTime"] = record.ended_at
    if record.failure_reason is not None:
        shown["FailureReason"] = record.failure_reason
    return shown


def check_s3_uri(text: str, where: str) -> None:
    """Refuse what is no ``s3://`` URI. Raises ApiError."""
    try:
        S3Uri.parse(text)
    except ValueError as error:
        raise invalid(f"{where}: {error}.") from error


def check_no_nul(variables: Mapping[str, str]) -> None:
    """Refuse what an API call can carry and an operating system's call cannot. Raises ApiError."""
    for name, value in variables.items():
        if "\0" in name + value:
            raise invalid(f"The value of {name!r} has a NUL character.")
