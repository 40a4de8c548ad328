"""
SSMManager: the managed instances behind SageMaker resources, under the name scripts know.
"""

import re
import time
from datetime import timedelta
from typing import Any, Callable, Dict, List, Optional

from sagemaker_ssh_helper.aws import instances
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.names import ResourceKind, Tag

PING_STATUS = "$__SSMManager__.PingStatus"
"""Key under which list_all_instances_and_fetch_tags puts what is no tag: Online, ConnectionLost, Inactive."""

Instances = Dict[str, Dict[str, str]]


class SSMManager:
    """
    Finds managed instances by the SageMaker resource they belong to.

    Args:
        region_name: the AWS region; that of ``session`` if None.
        sleep_between_retries_in_seconds: how long to pause between two looks while waiting.
        redo_attempts: kept for callers that pass it; the waits are limited by time alone.
        clock_timestamp_override: the time to measure ages against, in seconds since the epoch; now if None.
        session: the boto3 session to take credentials and region from; the user's own if None.
    """

    def __init__(
        self,
        region_name: Optional[str] = None,
        sleep_between_retries_in_seconds: float = 2,
        redo_attempts: int = 5,
        clock_timestamp_override: Optional[float] = None,
        *,
        session: Optional[Any] = None,
    ) -> None:
        if session is None:
            caller = Session.open(region=region_name)
        else:
            caller = Session.from_boto3(session, region_name)
        self.region_name = caller.region
        self.sleep_between_retries_in_seconds = sleep_between_retries_in_seconds
        self.redo_attempts = redo_attempts
        self.clock_timestamp_override = clock_timestamp_override
        self._client = Client(caller)

    def list_all_instances_and_fetch_tags(self) -> Instances:
        """
        Every managed instance that carries our tags, with its tags and PING_STATUS.

        One call per instance. Replace this method to answer from elsewhere: the ``get_…_instance_ids`` family
        then asks it alone.
        """
        return {
            found.id: {**instances.tags_of(self._client, found.id), PING_STATUS: found.ping_status}
            for found in instances.list_all(self._client)
        }

    def get_training_instance_ids(self, training_job_name: str, timeout_in_sec: int = 0) -> List[str]:
        """The live instances of a training job, ``algo-1`` first; waits for the first as long as given."""
        return self.get_instance_ids_of(
            ResourceKind.TRAINING, training_job_name, timeout_in_sec=timeout_in_sec
        )

    def get_processing_instance_ids(self, processing_job_name: str, timeout_in_sec: int = 0) -> List[str]:
        """As get_training_instance_ids, for a processing job."""
        return self.get_instance_ids_of(
            ResourceKind.PROCESSING, processing_job_name, timeout_in_sec=timeout_in_sec
        )

    def get_transformer_instance_ids(self, transform_job_name: str, timeout_in_sec: int = 0) -> List[str]:
        """As get_training_instance_ids, for a batch transform job."""
        return self.get_instance_ids_of(
            ResourceKind.TRANSFORM, transform_job_name, timeout_in_sec=timeout_in_sec
        )

    def get_endpoint_instance_ids(self, endpoint_name: str, timeout_in_sec: int = 0) -> List[str]:
        """As get_training_instance_ids, for an endpoint."""
        return self.get_instance_ids_of(ResourceKind.INFERENCE, endpoint_name, timeout_in_sec=timeout_in_sec)

    def get_notebook_instance_ids(self, instance_name: str, timeout_in_sec: int = 0) -> List[str]:
        """As get_training_instance_ids, for a notebook instance."""
        return self.get_instance_ids_of(ResourceKind.NOTEBOOK, instance_name, timeout_in_sec=timeout_in_sec)

    def get_studio_instance_ids(self, app_name: str, timeout_in_sec: int = 0) -> List[str]:
        """As get_training_instance_ids, for an app of Studio."""
        return self.get_instance_ids_of(ResourceKind.STUDIO, app_name, timeout_in_sec=timeout_in_sec)

    def get_instance_ids_of(
        self,
        kind: ResourceKind,
        name: str,
        *,
        timeout_in_sec: int = 0,
        count: int = 1,
        over: Callable[[], bool] = lambda: False,
    ) -> List[str]:
        """
        The live instances of one resource, by the number in ``algo-N``.

        Waits for ``count`` of them, at most ``timeout_in_sec`` seconds and until ``over``, which is asked
        after each look, says that no more will come; returns those there are.
        """
        deadline = time.monotonic() + timeout_in_sec
        while True:
            found = self._live_instances_of(kind, name)
            left = deadline - time.monotonic()
            if len(found) >= count or left <= 0 or over():
                return found
            time.sleep(min(self.sleep_between_retries_in_seconds, left))

    def list_expired_ssh_instances(self, expiration_days: int = 0) -> List[str]:
        """The instances with our tags that were registered more than ``expiration_days`` days ago."""
        now = self.clock_timestamp_override or time.time()
        limit = timedelta(days=expiration_days).total_seconds()
        return [
            instance_id
            for instance_id, tags in self.list_all_instances_and_fetch_tags().items()
            if _registered_at(tags) is not None and now - (_registered_at(tags) or 0) > limit
        ]

    def _live_instances_of(self, kind: ResourceKind, name: str) -> List[str]:
        if getattr(self.list_all_instances_and_fetch_tags, "__func__", None) is _OWN_LISTING:
            # One call finds the nodes of one resource, however many others the account has.
            return [found.id for found in instances.instances_of(self._client, kind, name) if found.online]
        tags_by_id = {
            instance_id: tags
            for instance_id, tags in self.list_all_instances_and_fetch_tags().items()
            if tags.get(Tag.RESOURCE_NAME) == name
            and instances.kind_of_arn(tags.get(Tag.RESOURCE_ARN, "")) in (kind, None)
            and tags.get(PING_STATUS, instances.ONLINE) == instances.ONLINE
        }
        return sorted(tags_by_id, key=lambda instance_id: _rank(tags_by_id[instance_id]))


_OWN_LISTING = SSMManager.list_all_instances_and_fetch_tags
"""To know it from a replacement, also from one for the whole class."""


def _rank(tags: Dict[str, str]) -> int:
    number = re.fullmatch(r"algo-(\d+)", tags.get(Tag.NODE, ""))
    return int(number.group(1)) if number else 1


def _registered_at(tags: Dict[str, str]) -> Optional[float]:
    try:
        return float(tags[Tag.TIMESTAMP])
    except (KeyError, ValueError):
        return None
