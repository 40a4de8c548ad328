"""
Processing jobs: what their calls take and refuse, and what their containers are made of.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagemaker_ssh_helper.emulator import job_storage
from sagemaker_ssh_helper.emulator.container_environment import container_environment
from sagemaker_ssh_helper.emulator.job_credentials import JobCredentials
from sagemaker_ssh_helper.emulator.job_operations import (
    JobOperations,
    check_no_nul,
    check_s3_uri,
    ended_members,
)
from sagemaker_ssh_helper.emulator.job_record import JobRecord, utc_now
from sagemaker_ssh_helper.emulator.job_storage import S3Uri
from sagemaker_ssh_helper.emulator.jobs import Entry, JobSetup
from sagemaker_ssh_helper.emulator.node import BASE, Node
from sagemaker_ssh_helper.emulator.resource_table import boolean, check_tags, invalid, unsupported
from sagemaker_ssh_helper.emulator.service import Cloud
from sagemaker_ssh_helper.names import ResourceKind

PROCESSING = f"{BASE}/processing"
"""Where inputs and outputs of a processing job are; SageMaker refuses other places."""

_REQUEST_MEMBERS = (
    "ProcessingInputs",
    "ProcessingOutputConfig",
    "ProcessingResources",
    "StoppingCondition",
    "AppSpecification",
    "Environment",
    "NetworkConfig",
    "RoleArn",
    "ExperimentConfig",
)
"""Members of CreateProcessingJob that DescribeProcessingJob gives back as they came."""


@dataclass
class ProcessingRecord(JobRecord):
    """One processing job."""

    name_member = "ProcessingJobName"

    exit_message: str | None = None


class ProcessingJobs(JobOperations[ProcessingRecord]):
    """CreateProcessingJob and the others."""

    kind = ResourceKind.PROCESSING
    word = "Processing"

    def role(self, request: Mapping[str, Any]) -> str:
        return str(request["RoleArn"])

    def context(self, request: Mapping[str, Any]) -> dict[str, Any]:
        network = request.get("NetworkConfig", {})
        context: dict[str, Any] = {
            "sagemaker:NetworkIsolation": boolean(network.get("EnableNetworkIsolation", False)),
            "sagemaker:InterContainerTrafficEncryption": boolean(
                network.get("EnableInterContainerTrafficEncryption", False)
            ),
            "sagemaker:InstanceTypes": [request["ProcessingResources"]["ClusterConfig"]["InstanceType"]],
        }
        if "VpcConfig" in network:
            context["sagemaker:VpcSubnets"] = network["VpcConfig"]["Subnets"]
            context["sagemaker:VpcSecurityGroupIds"] = network["VpcConfig"]["SecurityGroupIds"]
        return context

    def check(self, request: Mapping[str, Any]) -> None:
        check_no_nul(request.get("Environment", {}))
        check_tags({tag["Key"]: tag["Value"] for tag in request.get("Tags", ())})
        names = [item["InputName"] for item in request.get("ProcessingInputs", ())]
        names += [item["OutputName"] for item in _outputs(request)]
        for name in names:
            if names.count(name) > 1:
                raise invalid(f"The name {name} is used by more than one input or output.")
        for item in request.get("ProcessingInputs", ()):
            _check_input(item, request["ProcessingResources"]["ClusterConfig"]["InstanceCount"])
        for item in _outputs(request):
            where = f"output {item['OutputName']}"
            if "S3Output" not in item:
                raise unsupported(f"An output other than S3Output ({where})")
            check_s3_uri(item["S3Output"]["S3Uri"], where)
            if "LocalPath" in item["S3Output"]:
                _check_place(item["S3Output"]["LocalPath"], where)

    def record(self, request: Mapping[str, Any], arn: str, tags: dict[str, str]) -> ProcessingRecord:
        return ProcessingRecord(request, arn, utc_now(), tags)

    def setup(self, record: ProcessingRecord, credentials: JobCredentials) -> JobSetup:
        return ProcessingSetup(record, self._cloud, credentials)

    def describe(self, record: ProcessingRecord) -> dict[str, Any]:
        shown = {name: record.request[name] for name in _REQUEST_MEMBERS if name in record.request}
        shown.update(ended_members(record, self.word))
        shown["LastModifiedTime"] = record.modified_at
        shown["StoppingCondition"] = {"MaxRuntimeInSeconds": record.max_runtime_seconds}
        if record.began_at is not None:
            shown["ProcessingStartTime"] = record.began_at
        if record.exit_message:
            shown["ExitMessage"] = record.exit_message
        return shown

    def summarize(self, record: ProcessingRecord) -> dict[str, Any]:
        return {**ended_members(record, self.word), "LastModifiedTime": record.modified_at}


class ProcessingSetup:
    """
    What one processing job puts into its nodes and takes out of them: a JobSetup.

    Args:
        record: the job.
        credentials: of its role, whose rights decide what can be read and written.
    """

    log_group = str(ResourceKind.PROCESSING.log_group)
    program = ""

    def __init__(self, record: ProcessingRecord, cloud: Cloud, credentials: JobCredentials) -> None:
        self._record = record
        self._request = record.request
        self._cloud = cloud
        self._credentials = credentials
        self._cluster = self._request["ProcessingResources"]["ClusterConfig"]
        self.node_count = int(self._cluster["InstanceCount"])
        self.image = str(self._request["AppSpecification"]["ImageUri"])

    def stage(self, nodes: Sequence[Node]) -> list[Entry]:
        """Put all that a job finds when it starts into every node; how each starts. Raises StorageError."""
        s3 = self._credentials.role.client("s3")
        hosts = [node.name for node in nodes]
        for node in nodes:
            for folder in ("config", "processing", "output"):
                (node.base / folder).mkdir(parents=True)
            configuration = {"ProcessingJobArn": self._record.arn, **self._request}
            configuration.pop("Tags", None)
            _write_json(node.base / "config" / "processingjobconfig.json", configuration)
            _write_json(
                node.base / "config" / "resourceconfig.json",
                {
                    "current_host": node.name,
                    "current_instance_type": self._cluster["InstanceType"],
                    "hosts": hosts,
                },
            )
            for item in self._request.get("ProcessingInputs", ()):
                source = item["S3Input"]
                place = node.path_of(source.get("LocalPath", PROCESSING))
                place.mkdir(parents=True, exist_ok=True)
                if not item.get("AppManaged", False):
                    uri = S3Uri.parse(source["S3Uri"])
                    job_storage.download_prefix(s3, uri, place, self._request["RoleArn"])
            for item in _outputs(self._request):
                if "LocalPath" in item["S3Output"]:
                    node.path_of(item["S3Output"]["LocalPath"]).mkdir(parents=True, exist_ok=True)
        return [self._entry(node) for node in nodes]

    def _entry(self, node: Node) -> Entry:
        application = self._request["AppSpecification"]
        command = [
            node.seen(word)
            for word in (
                *application.get("ContainerEntrypoint", ()),
                *application.get("ContainerArguments", ()),
            )
        ]
        environment = container_environment(
            node,
            self._cloud,
            self._credentials,
            self._request.get("Environment", {}),
            insisted={},
            isolated=self._request.get("NetworkConfig", {}).get("EnableNetworkIsolation", False),
        )
        # An image's own entry point is unknown here: the run says that there is nothing to start.
        return Entry(command or ["ENTRYPOINT"], str(node.home), environment)

    def upload(self, nodes: Sequence[Node]) -> None:
        """Put what the nodes made into S3, one after the other. Raises StorageError."""
        s3 = self._credentials.role.client("s3")
        for node in nodes:
            self._record.exit_message = self._record.exit_message or _message(node)
            for item in _outputs(self._request):
                output = item["S3Output"]
                if "LocalPath" in output and not item.get("AppManaged", False):
                    folder = node.path_of(output["LocalPath"])
                    job_storage.upload_files(s3, folder, S3Uri.parse(output["S3Uri"]))


def _outputs(request: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    outputs: Sequence[Mapping[str, Any]] = request.get("ProcessingOutputConfig", {}).get("Outputs", ())
    return outputs


def _check_input(item: Mapping[str, Any], nodes: int) -> None:
    where = f"input {item['InputName']}"
    if "S3Input" not in item:
        raise unsupported(f"An input other than S3Input ({where})")
    source = item["S3Input"]
    check_s3_uri(source["S3Uri"], where)
    if source["S3DataType"] != "S3Prefix":
        raise unsupported(f"S3DataType {source['S3DataType']} ({where})")
    if source.get("S3InputMode", "File") != "File":
        raise unsupported(f"S3InputMode {source['S3InputMode']} ({where})")
    if source.get("S3CompressionType", "None") != "None":
        raise unsupported(f"S3CompressionType {source['S3CompressionType']} ({where})")
    if nodes > 1 and source.get("S3DataDistributionType", "FullyReplicated") != "FullyReplicated":
        raise unsupported(f"S3DataDistributionType {source['S3DataDistributionType']} ({where})")
    if "LocalPath" in source:
        _check_place(source["LocalPath"], where)
    elif not item.get("AppManaged", False):
        raise invalid(f"{where}: LocalPath is required.")


def _check_place(path: str, where: str) -> None:
    if not (path.rstrip("/") + "/").startswith(PROCESSING + "/") or os.path.normpath(path) != path.rstrip(
        "/"
    ):
        raise invalid(f"{where}: LocalPath {path} must be under {PROCESSING}.")


def _message(node: Node) -> str | None:
    """The beginning of ``/opt/ml/output/message``, which a job may leave for DescribeProcessingJob."""
    try:
        with (node.base / "output" / "message").open("rb") as file:
            return file.read(1024).decode("utf-8", "replace").strip() or None
    except OSError:
        return None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
