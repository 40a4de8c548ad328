"""
Batch transform jobs: a model server, the records of S3 objects fed to it, and its answers put back into S3.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sagemaker_ssh_helper.emulator import job_storage
from sagemaker_ssh_helper.emulator.hosting import Hosting, container_of
from sagemaker_ssh_helper.emulator.job_credentials import JobCredentials
from sagemaker_ssh_helper.emulator.job_host import JobHost, Run
from sagemaker_ssh_helper.emulator.job_operations import (
    JobOperations,
    check_no_nul,
    check_s3_uri,
    ended_members,
)
from sagemaker_ssh_helper.emulator.job_record import JobRecord, Status, utc_now
from sagemaker_ssh_helper.emulator.job_storage import S3Uri, StorageError
from sagemaker_ssh_helper.emulator.jobs import JobSetup
from sagemaker_ssh_helper.emulator.model_server import ModelServer, ServerFailed
from sagemaker_ssh_helper.emulator.resource_table import ResourceTable, check_tags, unsupported
from sagemaker_ssh_helper.emulator.service import Call, Cloud
from sagemaker_ssh_helper.errors import trace_of
from sagemaker_ssh_helper.names import ResourceKind

logger = logging.getLogger(__name__)

DEFAULT_PAYLOAD_MB = 6
"""What a request to the model holds at most when MaxPayloadInMB does not say; the same on AWS."""

_REQUEST_MEMBERS = (
    "ModelName",
    "MaxConcurrentTransforms",
    "ModelClientConfig",
    "MaxPayloadInMB",
    "BatchStrategy",
    "Environment",
    "TransformInput",
    "TransformOutput",
    "DataCaptureConfig",
    "TransformResources",
    "DataProcessing",
    "ExperimentConfig",
)
"""Members of CreateTransformJob that DescribeTransformJob gives back as they came."""


@dataclass
class TransformRecord(JobRecord):
    """One transform job."""

    name_member = "TransformJobName"


class TransformJobs(JobOperations[TransformRecord]):
    """CreateTransformJob and the others."""

    kind = ResourceKind.TRANSFORM
    word = "Transform"

    def __init__(self, cloud: Cloud, table: ResourceTable, host: JobHost, hosting: Hosting) -> None:
        super().__init__(cloud, table, host)
        self._hosting = hosting

    def role(self, request: Mapping[str, Any]) -> str:
        return str(self._hosting.model(request["ModelName"]).request["ExecutionRoleArn"])

    def credentials(self, call: Call, request: Mapping[str, Any]) -> JobCredentials:
        # The role was passed with the model.
        return self._host.session_credentials(self.role(request))

    def context(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"sagemaker:InstanceTypes": [request["TransformResources"]["InstanceType"]]}

    def check(self, request: Mapping[str, Any]) -> None:
        check_no_nul(request.get("Environment", {}))
        check_tags({tag["Key"]: tag["Value"] for tag in request.get("Tags", ())})
        source = request["TransformInput"]["DataSource"].get("S3DataSource")
        if source is None or source["S3DataType"] != "S3Prefix":
            raise unsupported("A data source other than S3Prefix")
        check_s3_uri(source["S3Uri"], "TransformInput")
        check_s3_uri(request["TransformOutput"]["S3OutputPath"], "TransformOutput")
        if request["TransformInput"].get("SplitType", "None") not in ("None", "Line"):
            raise unsupported(f"SplitType {request['TransformInput']['SplitType']}")
        if request["TransformInput"].get("CompressionType", "None") != "None":
            raise unsupported(f"CompressionType {request['TransformInput']['CompressionType']}")
        if request["TransformResources"]["InstanceCount"] != 1:
            raise unsupported("TransformResources.InstanceCount above 1")
        if "DataProcessing" in request:
            raise unsupported("DataProcessing")
        if container_of(self._hosting.model(request["ModelName"]).request).get("Mode") == "MultiModel":
            raise unsupported("A multi-model container in a transform job")

    def record(self, request: Mapping[str, Any], arn: str, tags: dict[str, str]) -> TransformRecord:
        return TransformRecord(request, arn, utc_now(), tags)

    def setup(self, record: TransformRecord, credentials: JobCredentials) -> JobSetup:
        raise AssertionError("a transform job is run by a server")

    def run(self, record: TransformRecord, credentials: JobCredentials) -> Run:
        model = self._hosting.model(record.request["ModelName"]).request
        definition = dict(container_of(model))
        definition["Environment"] = {
            **definition.get("Environment", {}),
            **record.request.get("Environment", {}),
        }
        strategy = record.request.get("BatchStrategy", "MultiRecord")
        server = ModelServer(
            definition,
            credentials,
            self._cloud,
            self._host.settings,
            self._host.executor,
            group=str(self.kind.log_group),
            stream=f"{record.name}/i-{secrets.token_hex(9)[:17]}",
            isolated=model.get("EnableNetworkIsolation", False),
            variables={
                "TRANSFORM_JOB_ARN": record.arn,
                "SAGEMAKER_BATCH": "true",
                "SAGEMAKER_BATCH_STRATEGY": strategy,
                "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(_payload_mb(record.request)),
                "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": str(record.request.get("MaxConcurrentTransforms", 1)),
            },
        )
        return TransformRun(record, server, credentials, str(model["ExecutionRoleArn"]))

    def describe(self, record: TransformRecord) -> dict[str, Any]:
        shown = {name: record.request[name] for name in _REQUEST_MEMBERS if name in record.request}
        shown.update(ended_members(record, self.word))
        if record.began_at is not None:
            shown["TransformStartTime"] = record.began_at
        return shown

    def summarize(self, record: TransformRecord) -> dict[str, Any]:
        return {**ended_members(record, self.word), "LastModifiedTime": record.modified_at}


class TransformRun:
    """
    One transform job from its request to its end, in ``run``.

    Args:
        record: what the API shows; changed as the job goes on.
        server: of the model; started and stopped here.
        credentials: of the model's role.
    """

    def __init__(
        self, record: TransformRecord, server: ModelServer, credentials: JobCredentials, role_arn: str
    ) -> None:
        self._record = record
        self._request = record.request
        self._server = server
        self._credentials = credentials
        self._role_arn = role_arn
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """
        Everything, to the job's final status. Raises nothing.

        Cancelled, it ends the job's processes, removes its files and lets the cancellation through.
        """
        reason: str | None = None
        work = asyncio.create_task(self._work())
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        except (ServerFailed, StorageError) as error:
            reason = str(error)
        except Exception as error:
            logger.error("! %s: the local cloud failed:\n%s", self._record.name, trace_of(error))
            reason = "InternalServerError: We encountered an internal error. Please try again."
        except asyncio.CancelledError:
            self._server.kill()
            raise
        finally:
            stop.cancel()
            work.cancel()
            await asyncio.gather(work, stop, return_exceptions=True)
            await self._server.stop()
        if self._record.stop_requested:
            self._record.change(Status.STOPPED, utc_now())
        elif reason is not None:
            self._record.fail(reason, utc_now())
        else:
            self._record.change(Status.UPLOADING, utc_now())
            self._record.change(Status.COMPLETED, utc_now())

    def stop(self) -> None:
        """End the job as StopTransformJob does."""
        self._record.stop_requested = True
        if self._record.status is not Status.STOPPING:
            self._record.change(Status.STOPPING, utc_now())
        self._stopping.set()

    async def _work(self) -> None:
        self._record.change(Status.DOWNLOADING, utc_now())
        await self._server.start()
        self._record.change(Status.TRAINING, utc_now())
        s3 = await asyncio.to_thread(self._credentials.role.client, "s3")
        source = self._request["TransformInput"]
        uri = S3Uri.parse(source["DataSource"]["S3DataSource"]["S3Uri"])
        listing = partial(job_storage.list_objects, s3, uri, self._role_arn)
        for key, path in await asyncio.to_thread(listing):
            body = await asyncio.to_thread(partial(job_storage.get_object, s3, S3Uri(uri.bucket, key)))
            answers = [await self._ask(key, record) for record in self._records(body)]
            target = S3Uri.parse(self._request["TransformOutput"]["S3OutputPath"]) / f"{path}.out"
            joint = b"\n" if self._request["TransformOutput"].get("AssembleWith") == "Line" else b""
            result = b"".join(
                answer if answer.endswith(joint) and joint else answer + joint for answer in answers
            )
            await asyncio.to_thread(partial(job_storage.put_object, s3, target, result))

    async def _ask(self, key: str, record: bytes) -> bytes:
        headers = {
            "Content-Type": self._request["TransformInput"].get("ContentType", "application/octet-stream"),
            "Accept": self._request["TransformOutput"].get("Accept", "*/*"),
        }
        answer = await self._server.invoke(record, headers)
        if answer.status >= 300:
            message = answer.body[:500].decode("utf-8", "replace")
            raise ServerFailed(f"ClientError: {key}: the model answered {answer.status}: {message}")
        return answer.body

    def _records(self, body: bytes) -> Iterator[bytes]:
        """The bodies of the requests for one object. Raises StorageError for one that is too large."""
        limit = _payload_mb(self._request) * 1024 * 1024
        lines = [body]
        if self._request["TransformInput"].get("SplitType", "None") == "Line":
            lines = body.splitlines(keepends=True)
        together = self._request.get("BatchStrategy", "MultiRecord") == "MultiRecord"
        batch = b""
        for line in lines:
            if limit and len(line) > limit:
                raise StorageError(f"ClientError: a record is larger than MaxPayloadInMB ({limit >> 20})")
            if batch and (not together or (limit and len(batch) + len(line) > limit)):
                yield batch
                batch = b""
            batch += line
        if batch:
            yield batch


def _payload_mb(request: Mapping[str, Any]) -> int:
    return int(request.get("MaxPayloadInMB", DEFAULT_PAYLOAD_MB))
