"""
Hyperparameter tuning jobs: training jobs, one after another and at once, each with values of its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import secrets
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from sagemaker_ssh_helper.emulator import job_logs
from sagemaker_ssh_helper.emulator.job_host import JobHost
from sagemaker_ssh_helper.emulator.job_record import utc_now
from sagemaker_ssh_helper.emulator.resource_table import ResourceTable, check_tags, invalid, unsupported
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Cloud, Operation
from sagemaker_ssh_helper.emulator.training import TrainingJobs
from sagemaker_ssh_helper.emulator.tuning_record import (
    Child,
    Definition,
    TuningRecord,
    child_name,
    definitions_of,
)
from sagemaker_ssh_helper.errors import trace_of
from sagemaker_ssh_helper.names import ResourceKind

logger = logging.getLogger(__name__)

ARN_TYPE = "hyper-parameter-tuning-job"

DEFAULT_JOBS = 500
"""Training jobs of a tuning job that sets no limit of its own."""


class TuningJobs:
    """CreateHyperParameterTuningJob and the others."""

    def __init__(self, cloud: Cloud, table: ResourceTable, host: JobHost, training: TrainingJobs) -> None:
        self._cloud = cloud
        self._table = table
        self._host = host
        self._training = training
        self.operations: Mapping[str, Operation] = {
            "CreateHyperParameterTuningJob": self._create,
            "DescribeHyperParameterTuningJob": self._describe,
            "ListHyperParameterTuningJobs": self._list,
            "StopHyperParameterTuningJob": self._stop,
            "ListTrainingJobsForHyperParameterTuningJob": self._list_children,
        }

    async def _create(self, call: Call) -> Mapping[str, Any]:
        request = call.params
        arn = self._table.arn(ARN_TYPE, request["HyperParameterTuningJobName"])
        tags = self._table.may_create(call, arn)
        definitions = definitions_of(request)
        for definition in definitions:
            self._host.credentials(call, definition.role).close()
        check_tags(tags)
        self._check(request, definitions)
        if self._table.get(arn) is not None:
            raise ApiError(
                "ResourceInUse",
                "Hyperparameter tuning job names must be unique within an AWS account and Region, and a "
                f"hyperparameter tuning job with this name already exists ({arn})",
            )
        record = TuningRecord(request, arn, utc_now(), tags)
        self._table.add(record)
        run = TuningRun(record, definitions, self._cloud, self._table, self._host, self._training)
        self._host.start(arn, run)
        return {"HyperParameterTuningJobArn": arn}

    def _check(self, request: Mapping[str, Any], definitions: list[Definition]) -> None:
        if ("TrainingJobDefinition" in request) == bool(request.get("TrainingJobDefinitions")):
            raise invalid("Specify either TrainingJobDefinition or TrainingJobDefinitions, but not both.")
        for definition in definitions:
            if definition.ranges.get("AutoParameters"):
                raise unsupported("AutoParameters")
            for problem in definition.problems():
                raise invalid(problem)
            tuned = next(definition.draws(random.Random(0)))
            sample = definition.request("sample", tuned)
            if "ResourceConfig" not in sample:
                raise invalid("ResourceConfig is required.")
            self._training.check(sample)

    async def _describe(self, call: Call) -> Mapping[str, Any]:
        return self._found(call).describe()

    async def _list(self, call: Call) -> Mapping[str, Any]:
        self._cloud.iam.authorize(call.principal, f"sagemaker:{call.operation}")
        found = self._table.of_type(ARN_TYPE)
        return self._table.page(
            call, found, "HyperParameterTuningJobSummaries", lambda record: record.summarize()
        )

    async def _stop(self, call: Call) -> Mapping[str, Any]:
        record = self._found(call)
        run = self._host.running(record.arn)
        if run is None or record.final:
            raise invalid(
                "The request was rejected because the hyperparameter tuning job is in status "
                f"{record.primary_status}."
            )
        run.stop()
        return {}

    async def _list_children(self, call: Call) -> Mapping[str, Any]:
        record = self._found(call)
        if call.params.get("SortBy") == "FinalObjectiveMetricValue":
            raise unsupported("SortBy FinalObjectiveMetricValue")
        # The only list of SageMaker's that is sorted by name, upwards, when nothing is said.
        by_name = dataclasses.replace(
            call, params={"SortBy": "Name", "SortOrder": "Ascending", **call.params}
        )
        return self._table.page(
            by_name, record.children, "TrainingJobSummaries", lambda child: child.summarize()
        )

    def _found(self, call: Call) -> TuningRecord:
        arn = self._table.arn(ARN_TYPE, call.params["HyperParameterTuningJobName"])
        record: TuningRecord = self._table.authorized(call, arn)
        return record


class TuningRun:
    """One tuning job from its request to its end, in ``run``: makes its training jobs and waits for them."""

    def __init__(
        self,
        record: TuningRecord,
        definitions: list[Definition],
        cloud: Cloud,
        table: ResourceTable,
        host: JobHost,
        training: TrainingJobs,
    ) -> None:
        self._record = record
        self._definitions = definitions
        self._cloud = cloud
        self._table = table
        self._host = host
        self._training = training
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Everything. Raises nothing; cancelled, it leaves the training jobs to whoever ends those."""
        try:
            await self._work()
        except Exception as error:
            logger.error("! %s: the local cloud failed:\n%s", self._record.name, trace_of(error))
            self._record.failure_reason = "InternalServerError: We encountered an internal error."
            self._stop_children()
            self._enter("Failed")

    def stop(self) -> None:
        """End it as StopHyperParameterTuningJob does: no more training jobs, and those that run stop."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._enter("Stopping")
            self._stop_children()

    async def _work(self) -> None:
        limits = self._record.limits
        left = limits.get("MaxNumberOfTrainingJobs", DEFAULT_JOBS)
        plan = self._plan()
        running: set[asyncio.Task[None]] = set()
        stop = asyncio.create_task(self._stopping.wait())
        try:
            while True:
                while left and not stop.done() and len(running) < limits["MaxParallelTrainingJobs"]:
                    child = next(plan, None)
                    if child is None:
                        left = 0
                        break
                    left -= 1
                    running.add(asyncio.create_task(self._child(*child)))
                if not running:
                    break
                waited = running if stop.done() else {*running, stop}
                done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                running -= done
                for task in done - {stop}:
                    task.result()
        finally:
            stop.cancel()
            for task in running:
                task.cancel()
        if self._stopping.is_set():
            self._enter("Stopped")
        elif any(child.primary_status == "Completed" for child in self._record.children):
            self._enter("Completed")
        else:
            count = len(self._record.children)
            self._record.failure_reason = (
                f"No training job succeeded after {count} attempts. See the training jobs for the reasons."
            )
            self._enter("Failed")

    def _plan(self) -> Iterator[tuple[Definition, dict[str, str]]]:
        """What the training jobs are to be, the definitions taking turns."""
        seed = self._record.request["HyperParameterTuningJobConfig"].get("RandomSeed")
        draws = [(definition, definition.draws(random.Random(seed))) for definition in self._definitions]
        while draws:
            for each in list(draws):
                tuned = next(each[1], None)
                if tuned is None:
                    draws.remove(each)
                else:
                    yield each[0], tuned

    async def _child(self, definition: Definition, tuned: dict[str, str]) -> None:
        """One training job to its end, and the value of the objective in its log."""
        number = len(self._record.children) + 1
        name = child_name(self._record.name, number, secrets.token_hex(4))
        request = definition.request(name, tuned)
        record = self._training.record(
            request, self._table.arn(ResourceKind.TRAINING.arn_type, name), dict(self._record.tags)
        )
        record.tuning_job_arn = self._record.arn
        child = Child(record, self._record.name, definition, tuned)
        self._record.children.append(child)
        await self._training.start(record, self._host.session_credentials(definition.role))
        loop = asyncio.get_running_loop()
        child.value = definition.value(
            await loop.run_in_executor(self._host.executor, partial(self._log, name))
        )

    def _log(self, name: str) -> list[str]:
        return job_logs.read(self._cloud.aws("logs"), str(ResourceKind.TRAINING.log_group), f"{name}/")

    def _stop_children(self) -> None:
        for child in self._record.children:
            run = self._host.running(child.arn)
            if run is not None and not child.record.status.final:
                run.stop()

    def _enter(self, status: str) -> None:
        logger.info("= %s is %s", self._record.name, status)
        self._record.change(status, utc_now())
