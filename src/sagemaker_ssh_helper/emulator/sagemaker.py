"""
SageMaker: jobs of every kind, run as real processes.

Requests arrive valid against botocore's model; what the service refuses beyond that is refused here, in its
words.
"""

from __future__ import annotations

from collections.abc import Mapping

from sagemaker_ssh_helper.emulator import other_resources
from sagemaker_ssh_helper.emulator.hosting import Hosting
from sagemaker_ssh_helper.emulator.job_host import JobHost
from sagemaker_ssh_helper.emulator.native_nodes import NativeNodes
from sagemaker_ssh_helper.emulator.processing import ProcessingJobs
from sagemaker_ssh_helper.emulator.resource_table import ResourceTable
from sagemaker_ssh_helper.emulator.service import Cloud, Operation
from sagemaker_ssh_helper.emulator.training import TrainingJobs
from sagemaker_ssh_helper.emulator.transform import TransformJobs
from sagemaker_ssh_helper.emulator.tuning import TuningJobs


class SageMakerService:
    """The service. Needs a running event loop; ``cloud`` is complete."""

    name = "sagemaker"
    anonymous: frozenset[str] = frozenset()

    def __init__(self, cloud: Cloud) -> None:
        table = ResourceTable(cloud)
        self.tagged = table.tagged
        host = JobHost(cloud)
        cloud.hosting = Hosting(cloud, table, host)
        training = TrainingJobs(cloud, table, host)
        self.operations: Mapping[str, Operation] = {
            **other_resources.operations(cloud),
            **table.operations,
            **training.operations,
            **ProcessingJobs(cloud, table, host).operations,
            **cloud.hosting.operations,
            **TransformJobs(cloud, table, host, cloud.hosting).operations,
            **TuningJobs(cloud, table, host, training).operations,
            **NativeNodes(cloud, host).operations,
        }
