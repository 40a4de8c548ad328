"""
SSHLog: what CloudWatch Logs knows of containers, and where the console shows it, under the name scripts know.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone

from sagemaker_ssh_helper.aws import console, instances, logs
from sagemaker_ssh_helper.errors import UsageError
from sagemaker_ssh_helper.launch import boto3_session
from sagemaker_ssh_helper.manager import SSMManagerBase
from sagemaker_ssh_helper.names import ResourceKind

_KERNEL_APP = "KernelGateway"


class SSHLog(SSMManagerBase):
    """
    Looks into the logs of SageMaker's containers, and links to them.

    Arguments as for SSMManagerBase. The links ask AWS nothing: they need the name of the region, no more.
    What looks into logs raises AwsError; the instances that a log tells may be gone since, and
    ``SSMManager`` finds the live ones.
    """

    def get_instance_ids_once(
        self,
        arn_resource_type: str,
        arn_resource_name: str,
        arn_filter_regex: str | None = None,
        not_earlier_than_timestamp: float = 0,
    ) -> list[str]:
        """
        The instances that the containers of a resource told in its log, newest first.

        ``arn_filter_regex`` is refused with UsageError: a log tells no ARNs.
        """
        kind = next((each for each in ResourceKind if each.arn_type == arn_resource_type), None)
        if kind is None or kind.log_group is None or arn_filter_regex is not None:
            raise UsageError(
                f"a log tells no {arn_resource_type!r} of {arn_filter_regex!r}",
                fix="Ask SSMManager, which looks at the tags",
            )
        group, stream = kind.log_group, f"{arn_resource_name}/"
        if kind is ResourceKind.INFERENCE:
            group, stream = f"{group}/{arn_resource_name}", ""
        return self.get_ssm_instance_ids_once(group, stream, not_earlier_than_timestamp)

    def get_ssm_instance_ids_once(
        self, log_group: str, stream_name: str, not_earlier_than_timestamp: float = 0
    ) -> list[str]:
        """
        The instances that were told in a log group, newest first, by one look; in the streams whose names
        begin with ``stream_name``.
        """
        found = logs.registered_in(self._client, log_group, stream_name, since=not_earlier_than_timestamp)
        return [str(instance_id) for instance_id in found]

    def get_ssm_instance_ids(
        self,
        log_group: str,
        stream_name: str,
        retry: int | None = None,
        sleep_between_retries_seconds: float | None = None,
        timeout_in_sec: float = 900,
        expected_count: int = 1,
    ) -> list[str]:
        """
        The same, waited for: until there are ``expected_count``, at most ``timeout_in_sec`` seconds.

        ``retry`` is deprecated, and has no effect.
        """
        warn_of_retry(retry, timeout_in_sec)
        if sleep_between_retries_seconds is not None:
            self.sleep_between_retries_in_seconds = sleep_between_retries_seconds
        return self._waited_for(
            lambda: self.get_ssm_instance_ids_once(log_group, stream_name), timeout_in_sec, expected_count
        )

    def get_training_ssm_instance_ids(
        self, training_job_name: str, timeout_in_sec: float = 0, expected_count: int = 1
    ) -> list[str]:
        """The instances that a training job's nodes told in their log, newest first, waited for."""
        return self._told_by(ResourceKind.TRAINING, training_job_name, timeout_in_sec, expected_count)

    def get_processing_ssm_instance_ids(
        self, processing_job_name: str, timeout_in_sec: float = 0
    ) -> list[str]:
        """The same for a processing job."""
        return self._told_by(ResourceKind.PROCESSING, processing_job_name, timeout_in_sec)

    def get_endpoint_ssm_instance_ids(self, endpoint_name: str, timeout_in_sec: float = 0) -> list[str]:
        """The same for an endpoint."""
        return self._told_by(ResourceKind.INFERENCE, endpoint_name, timeout_in_sec)

    def get_transformer_ssm_instance_ids(
        self, transform_job_name: str, timeout_in_sec: float = 0
    ) -> list[str]:
        """The same for a batch transform job."""
        return self._told_by(ResourceKind.TRANSFORM, transform_job_name, timeout_in_sec)

    def get_studio_kgw_ssm_instance_ids(self, kgw_name: str, timeout_in_sec: float = 0) -> list[str]:
        """The same for an app of Studio's kernel gateway, of whatever user and domain."""
        group = ResourceKind.STUDIO.log_group or ""
        return self._waited_for(
            lambda: [
                str(each)
                for each in logs.registered_in(
                    self._client, group, pattern=rf"/{_KERNEL_APP}/{kgw_name}(/|$)"
                )
            ],
            timeout_in_sec,
            1,
        )

    def get_ip_addresses(self, training_job_name: str, retry: int = 0) -> list[str]:
        """
        The addresses that the nodes of a training job have in their network, ``algo-1`` first.

        They come from Systems Manager, to which each node's agent tells its own. ``retry`` is how often to
        look again, ``sleep_between_retries_in_seconds`` apart, while there are none.
        """

        def look() -> list[str]:
            nodes = instances.instances_of(self._client, ResourceKind.TRAINING, training_job_name)
            return [node.ip_address for node in nodes if node.ip_address]

        return self._waited_for(look, retry * self.sleep_between_retries_in_seconds, 1)

    def count_sns_notifications(self, topic_name: str, period: timedelta) -> int:
        """
        How many messages were published to a topic of SNS in the last ``period``, as CloudWatch counts them:
        some minutes late. Raises botocore's ClientError.
        """
        now = datetime.now(timezone.utc)
        # A period of CloudWatch is whole minutes.
        seconds = max(60, -(-int(period.total_seconds()) // 60) * 60)
        cloudwatch = boto3_session(self._boto_session).client("cloudwatch", region_name=self.region_name)
        answer = cloudwatch.get_metric_statistics(
            Namespace="AWS/SNS",
            MetricName="NumberOfMessagesPublished",
            Dimensions=[{"Name": "TopicName", "Value": topic_name}],
            StartTime=now - timedelta(seconds=seconds),
            EndTime=now,
            Period=seconds,
            Statistics=["Sum"],
        )
        return int(sum(point["Sum"] for point in answer["Datapoints"]))

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

    def get_ide_cloudwatch_url(self, domain: str, user: str, app_name: str) -> str:
        """Where the console shows the log of an app of Studio; of all the user's without a name."""
        names = [domain, user, _KERNEL_APP, app_name] if app_name else [domain, user]
        return console.log_url(self.region_name, ResourceKind.STUDIO, *names)

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

    def get_endpoint_config_metadata_url(self, endpoint_config_name: str) -> str:
        """Where the console shows the configuration of an endpoint."""
        return console.page_url(self.region_name, "endpointConfig", endpoint_config_name)

    def get_model_metadata_url(self, model_name: str) -> str:
        """Where the console shows a model."""
        return console.page_url(self.region_name, "models", model_name)

    def get_ide_metadata_url(self, domain: str, user: str) -> str:
        """Where the console shows a user's profile in a domain of Studio."""
        return console.page_url(self.region_name, "studio", domain, "user", user)

    def _told_by(self, kind: ResourceKind, name: str, timeout: float, count: int = 1) -> list[str]:
        return self.get_instance_ids(kind.arn_type, name, timeout, count)


def warn_of_retry(retry: int | None, timeout_in_sec: float) -> None:
    """Tell whoever still gives ``retry`` that the time counts."""
    if retry is not None:
        logging.getLogger(__name__).warning(
            "retry=%s has no effect: timeout_in_sec=%s is how long to wait", retry, timeout_in_sec
        )
