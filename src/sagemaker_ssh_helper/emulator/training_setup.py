"""
The files, environment and command of a training job's nodes, as SageMaker lays them out. Blocking.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sagemaker_ssh_helper.emulator import instance_groups, job_storage, training_toolkit
from sagemaker_ssh_helper.emulator.container_environment import container_environment
from sagemaker_ssh_helper.emulator.job_credentials import JobCredentials
from sagemaker_ssh_helper.emulator.job_storage import S3Uri, StorageError
from sagemaker_ssh_helper.emulator.jobs import Entry
from sagemaker_ssh_helper.emulator.node import BASE, Node
from sagemaker_ssh_helper.emulator.service import Cloud
from sagemaker_ssh_helper.emulator.training_record import TrainingRecord
from sagemaker_ssh_helper.names import ResourceKind

INTERFACE = "lo0" if sys.platform == "darwin" else "lo"
"""The network interface that nodes of one job share here."""


class TrainingSetup:
    """
    What one training job puts into its nodes and takes out of them: a JobSetup.

    Args:
        record: the job.
        credentials: of its role, whose rights decide what can be read and written.
    """

    log_group = str(ResourceKind.TRAINING.log_group)
    program = "train"

    def __init__(self, record: TrainingRecord, cloud: Cloud, credentials: JobCredentials) -> None:
        self._record = record
        self._request = record.request
        self._groups = instance_groups.groups_of(self._request["ResourceConfig"])
        self._hosts = [host for group in self._groups for host in group.hosts]
        self.node_count = len(self._hosts)
        self.image = str(self._request["AlgorithmSpecification"].get("TrainingImage", ""))
        self._cloud = cloud
        self._credentials = credentials

    def stage(self, nodes: Sequence[Node]) -> list[Entry]:
        """Put all that a job finds when it starts into every node; how each starts. Raises StorageError."""
        s3 = self._credentials.role.client("s3")
        for node in nodes:
            for folder in ("input/config", "input/data", "code", "model", "output/data"):
                (node.base / folder).mkdir(parents=True)
            for name, content in self._configuration(node).items():
                (node.base / "input" / "config" / f"{name}.json").write_text(
                    json.dumps(content), encoding="utf-8"
                )
            for channel, hosts in self._channels(node):
                folder = node.base / "input" / "data" / channel["ChannelName"]
                folder.mkdir()
                source = channel["DataSource"]["S3DataSource"]
                sharded = source.get("S3DataDistributionType") == "ShardedByS3Key"
                job_storage.download_prefix(
                    s3,
                    S3Uri.parse(source["S3Uri"]),
                    folder,
                    self._request["RoleArn"],
                    share=(hosts.index(node.name), len(hosts)) if sharded else (0, 1),
                )
            if "CheckpointConfig" in self._request:
                self._restore_checkpoints(s3, node)
        return [self._entry(s3, node) for node in nodes]

    def _channels(self, node: Node) -> list[tuple[Mapping[str, Any], list[str]]]:
        """The channels that this node gets, each with all nodes that get it."""
        wanted = [
            (channel, instance_groups.hosts_of_channel(channel, self._groups))
            for channel in self._request.get("InputDataConfig", ())
        ]
        return [(channel, hosts) for channel, hosts in wanted if node.name in hosts]

    def _configuration(self, node: Node) -> dict[str, Any]:
        """The files of ``/opt/ml/input/config``, by name."""
        own = next(group for group in self._groups if node.name in group.hosts)
        return {
            "hyperparameters": self._request.get("HyperParameters", {}),
            "resourceconfig": {
                "current_host": node.name,
                "current_instance_type": own.instance_type,
                "current_group_name": own.name,
                "hosts": self._hosts,
                "instance_groups": [group.describe() for group in self._groups],
                "network_interface_name": INTERFACE,
            },
            "inputdataconfig": {
                channel["ChannelName"]: self._channel(channel) for channel, _ in self._channels(node)
            },
        }

    def _channel(self, channel: Mapping[str, Any]) -> dict[str, str]:
        source = channel["DataSource"]["S3DataSource"]
        shown = {
            "TrainingInputMode": channel.get("InputMode")
            or self._request["AlgorithmSpecification"]["TrainingInputMode"],
            "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
            "RecordWrapperType": channel.get("RecordWrapperType", "None"),
        }
        if "ContentType" in channel:
            shown["ContentType"] = channel["ContentType"]
        return shown

    def _entry(self, s3: Any, node: Node) -> Entry:
        """How this node's container is started; the user's code is in place afterwards."""
        environment = self._environment(node)
        algorithm = self._request["AlgorithmSpecification"]
        arguments = [node.seen(argument) for argument in algorithm.get("ContainerArguments", ())]
        if "ContainerEntrypoint" in algorithm:
            entrypoint = [node.seen(word) for word in algorithm["ContainerEntrypoint"]]
            return Entry([*entrypoint, *arguments], str(node.home), environment)
        hyperparameters = self._request.get("HyperParameters", {})
        own_environment = self._request.get("Environment", {})
        program = training_toolkit.setting(training_toolkit.PROGRAM, hyperparameters, own_environment)
        if program is None:
            return Entry(arguments or ["train"], str(node.home), environment)
        submitted = training_toolkit.setting(
            training_toolkit.SUBMIT_DIRECTORY, hyperparameters, own_environment
        )
        if submitted is not None:
            self._place_code(s3, node, submitted)
        configuration = self._configuration(node)
        script = training_toolkit.script_entry(
            program,
            hyperparameters=hyperparameters,
            environment=environment,
            resource_config=configuration["resourceconfig"],
            input_data_config=configuration["inputdataconfig"],
            code=node.base / "code",
            base=node.seen_base,
            python=str(node.python / "bin" / "python"),
            job_name=self._record.name,
        )
        return Entry(script.command, script.cwd, {**environment, **script.environment}, script.script_command)

    def _environment(self, node: Node) -> dict[str, str]:
        return container_environment(
            node,
            self._cloud,
            self._credentials,
            self._request.get("Environment", {}),
            insisted={"TRAINING_JOB_NAME": self._record.name, "TRAINING_JOB_ARN": self._record.arn},
            isolated=self._request.get("EnableNetworkIsolation", False),
        )

    def _place_code(self, s3: Any, node: Node, submitted: str) -> None:
        code = node.base / "code"
        if submitted.startswith("s3://"):
            job_storage.download_archive(s3, S3Uri.parse(submitted), code)
            return
        place = Path(submitted)
        if submitted.startswith(BASE + "/"):
            place = node.path_of(submitted)
        if place == code:
            return
        try:
            with place.open("rb") as file:
                job_storage.extract(file, code, submitted)
        except OSError as error:
            raise StorageError(
                f"AlgorithmError: {training_toolkit.SUBMIT_DIRECTORY} {submitted}: {error.strerror}"
            ) from error

    def _restore_checkpoints(self, s3: Any, node: Node) -> None:
        folder = self._checkpoints(node)
        folder.mkdir(parents=True, exist_ok=True)
        uri = S3Uri.parse(self._request["CheckpointConfig"]["S3Uri"])
        job_storage.download_prefix(s3, uri, folder, self._request["RoleArn"], may_be_empty=True)

    def _checkpoints(self, node: Node) -> Path:
        return node.path_of(self._request["CheckpointConfig"].get("LocalPath", f"{BASE}/checkpoints"))

    def upload(self, nodes: Sequence[Node]) -> None:
        """Put what the job made in all its nodes into S3, and say so in the record. Raises StorageError."""
        s3 = self._credentials.role.client("s3")
        output = self._request["OutputDataConfig"]
        target = S3Uri.parse(output["S3OutputPath"]) / self._record.name / "output"
        models = [node.base / "model" for node in nodes]
        data = [folder for node in nodes if (folder := node.base / "output" / "data").is_dir()]
        if output.get("CompressionType") == "NONE":
            for name, folders in (("model", models), ("data", data)):
                for folder in folders:
                    job_storage.upload_files(s3, folder, target / name)
            self._record.model_artifacts = f"{target / 'model'}/"
        else:
            temporary = nodes[0].temporary
            job_storage.upload_archive(s3, models, target / "model.tar.gz", temporary)
            self._record.model_artifacts = str(target / "model.tar.gz")
            if any(any(folder.iterdir()) for folder in data):
                job_storage.upload_archive(s3, data, target / "output.tar.gz", temporary)
        if "CheckpointConfig" in self._request:
            uri = S3Uri.parse(self._request["CheckpointConfig"]["S3Uri"])
            for node in nodes:
                job_storage.upload_files(s3, self._checkpoints(node), uri)
