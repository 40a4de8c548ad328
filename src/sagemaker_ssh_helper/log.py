"""
SSHLog: what CloudWatch Logs knows of containers, and where the console shows it, under the name scripts know.
"""

from __future__ import annotations

import time
from typing import Any

from sagemaker_ssh_helper.aws import console, logs
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.names import ResourceKind


class SSHLog:
    """
    Looks into the logs of SageMaker's containers, and links to them.

    Args:
        region_name: the AWS region; that of ``session`` if None.
        session: the boto3 session to take credentials and region from; the user's own if None.
    """

    def __init__(self, region_name: str | None = None, *, session: Any | None = None) -> None:
        if session is None:
            caller = Session.open(region=region_name)
        else:
            caller = Session.from_boto3(session, region_name)
        self.region_name = caller.region
        self._client = Client(caller)

    def get_endpoint_ssm_instance_ids(self, endpoint_name: str, timeout_in_sec: int = 0) -> list[str]:
        """
        The managed instances that an endpoint's containers said they were registered as, newest first.

        Waits for the first of them at most ``timeout_in_sec`` seconds. They may be gone since: see
        ``SSMManager.get_endpoint_instance_ids`` for the live ones. Raises AwsError.
        """
        deadline = time.monotonic() + timeout_in_sec
        while True:
            found = logs.registered_in(self._client, endpoint_name)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return [str(instance_id) for instance_id in found]
            time.sleep(min(_INTERVAL, left))

    def get_training_cloudwatch_url(self, training_job_name: str) -> str:
        """Where the console shows the log of a training job."""
        return console.log_url(self.region_name, ResourceKind.TRAINING, training_job_name)

    def get_processing_cloudwatch_url(self, processing_job_name: str) -> str:
        """Where the console shows the log of a processing job."""
        return console.log_url(self.region_name, ResourceKind.PROCESSING, processing_job_name)

    def get_transform_cloudwatch_url(self, transform_job_name: str) -> str:
        """Where the console shows the log of a batch transform job."""
        return console.log_url(self.region_name, ResourceKind.TRANSFORM, transform_job_name)

    def get_endpoint_cloudwatch_url(self, endpoint_name: str) -> str:
        """Where the console shows the log of an endpoint."""
        return console.log_url(self.region_name, ResourceKind.INFERENCE, endpoint_name)

    def get_training_metadata_url(self, training_job_name: str) -> str:
        """Where the console shows a training job."""
        return console.resource_url(self.region_name, ResourceKind.TRAINING, training_job_name)

    def get_processing_metadata_url(self, processing_job_name: str) -> str:
        """Where the console shows a processing job."""
        return console.resource_url(self.region_name, ResourceKind.PROCESSING, processing_job_name)

    def get_transform_metadata_url(self, transform_job_name: str) -> str:
        """Where the console shows a batch transform job."""
        return console.resource_url(self.region_name, ResourceKind.TRANSFORM, transform_job_name)

    def get_endpoint_metadata_url(self, endpoint_name: str) -> str:
        """Where the console shows an endpoint."""
        return console.resource_url(self.region_name, ResourceKind.INFERENCE, endpoint_name)


_INTERVAL = 3.0
"""Seconds between two looks."""
