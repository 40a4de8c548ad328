"""
SSMManager: the managed instances behind SageMaker resources, under the name scripts know.
"""

from __future__ import annotations

import abc
import re
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cached_property
from typing import Any

from sagemaker_ssh_helper.aws import instances
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.errors import UsageError
from sagemaker_ssh_helper.names import InstanceId, ResourceKind, Tag

PING_STATUS = "$__SSMManager__.PingStatus"
"""Key under which list_all_instances_and_fetch_tags puts what is no tag: Online, ConnectionLost, Inactive."""

_OUR_TAGS = "SSH"
"""What the names of our tags begin with, those of older helpers too."""

Instances = dict[str, dict[str, str]]


class SSMManagerBase(abc.ABC):
    """
    What finds managed instances and waits for them: a subclass says how one look is made.

    Args:
        region_name: the AWS region; that of ``session`` if None, else the one of the environment.
        sleep_between_retries_in_seconds: how long to pause between two looks while waiting.
        redo_attempts: kept for callers that pass it; waits are limited by time alone.
        session: the boto3 session to take credentials and region from; the user's own if None.

    Nothing is asked of AWS, and no credentials are looked for, before the first look.
    """

    def __init__(
        self,
        region_name: str | None = None,
        sleep_between_retries_in_seconds: float = 10,
        redo_attempts: int = 5,
        *,
        session: Any | None = None,
    ) -> None:
        self.sleep_between_retries_in_seconds = sleep_between_retries_in_seconds
        self.redo_attempts = redo_attempts
        self._region_name = region_name
        self._boto_session = session

    @property
    def region_name(self) -> str:
        """The region that is asked. Raises RegionMissing when none is known."""
        if self._region_name is None:
            self._region_name = self._client.session.region
        return self._region_name

    @cached_property
    def _client(self) -> Client:
        if self._boto_session is None:
            return Client(Session.open(region=self._region_name))
        return Client(Session.from_boto3(self._boto_session, self._region_name))

    def get_instance_ids(
        self,
        arn_resource_type: str,
        arn_resource_name: str,
        timeout_in_sec: float = 0,
        expected_count: int = 1,
        arn_filter_regex: str | None = None,
        not_earlier_than_timestamp: float = 0,
    ) -> list[str]:
        """
        The managed instances of one resource, as get_instance_ids_once gives them.

        Waits for ``expected_count`` of them, at most ``timeout_in_sec`` seconds; returns those there are.
        """
        return self._waited_for(
            lambda: self.get_instance_ids_once(
                arn_resource_type, arn_resource_name, arn_filter_regex, not_earlier_than_timestamp
            ),
            timeout_in_sec,
            expected_count,
        )

    @abc.abstractmethod
    def get_instance_ids_once(
        self,
        arn_resource_type: str,
        arn_resource_name: str,
        arn_filter_regex: str | None = None,
        not_earlier_than_timestamp: float = 0,
    ) -> list[str]:
        """
        The managed instances of one resource, by one look.

        Args:
            arn_resource_type: as in ARNs: ``training-job``, ``processing-job``, ``transform-job``,
                ``endpoint``, ``app``, ``notebook-instance``.
            arn_resource_name: the resource's name, the last part of its ARN.
            arn_filter_regex: only those whose resource's ARN has a match of it.
            not_earlier_than_timestamp: only those registered then or later, in seconds since the epoch.
        """

    def _waited_for(
        self,
        look: Callable[[], list[str]],
        timeout_in_sec: float,
        count: int,
        over: Callable[[], bool] | None = None,
    ) -> list[str]:
        deadline = time.monotonic() + timeout_in_sec
        while True:
            found = look()
            left = deadline - time.monotonic()
            if len(found) >= count or left <= 0 or (over is not None and over()):
                return found
            time.sleep(min(self.sleep_between_retries_in_seconds, left))


class SSMManager(SSMManagerBase):
    """
    Finds managed instances by the SageMaker resource they belong to. All look-ups raise AwsError.

    Arguments as for SSMManagerBase, and ``clock_timestamp_override``: the time to measure ages against, in
    seconds since the epoch; now if None.
    """

    PING_STATUS = PING_STATUS

    def __init__(
        self,
        region_name: str | None = None,
        sleep_between_retries_in_seconds: float = 10,
        redo_attempts: int = 5,
        clock_timestamp_override: float | None = None,
        *,
        session: Any | None = None,
    ) -> None:
        super().__init__(region_name, sleep_between_retries_in_seconds, redo_attempts, session=session)
        self.clock_timestamp_override = clock_timestamp_override

    def list_all_instances_and_fetch_tags(self) -> Instances:
        """
        Every managed instance that carries our tags, with its tags and PING_STATUS.

        One call per instance. Replace this method to answer from elsewhere: every look-up of this class then
        asks it alone. Values of a replacement may be numbers.
        """
        return {
            found.id: {**instances.tags_of(self._client, found.id), PING_STATUS: found.ping_status}
            for found in instances.list_all(self._client)
        }

    def get_training_instance_ids(
        self, training_job_name: str, timeout_in_sec: float = 0, expected_count: int = 1
    ) -> list[str]:
        """
        The live instances of a training job: ``algo-1`` first, the newest first where nodes have no number.

        Waits for ``expected_count`` of them, at most ``timeout_in_sec`` seconds.
        """
        return self.get_instance_ids_of(
            ResourceKind.TRAINING, training_job_name, timeout_in_sec=timeout_in_sec, count=expected_count
        )

    def get_processing_instance_ids(self, processing_job_name: str, timeout_in_sec: float = 0) -> list[str]:
        """As get_training_instance_ids, for a processing job."""
        return self.get_instance_ids_of(
            ResourceKind.PROCESSING, processing_job_name, timeout_in_sec=timeout_in_sec
        )

    def get_transformer_instance_ids(self, transform_job_name: str, timeout_in_sec: float = 0) -> list[str]:
        """As get_training_instance_ids, for a batch transform job."""
        return self.get_instance_ids_of(
            ResourceKind.TRANSFORM, transform_job_name, timeout_in_sec=timeout_in_sec
        )

    def get_endpoint_instance_ids(self, endpoint_name: str, timeout_in_sec: float = 0) -> list[str]:
        """As get_training_instance_ids, for an endpoint."""
        return self.get_instance_ids_of(ResourceKind.INFERENCE, endpoint_name, timeout_in_sec=timeout_in_sec)

    def get_notebook_instance_ids(self, instance_name: str, timeout_in_sec: float = 0) -> list[str]:
        """As get_training_instance_ids, for a notebook instance."""
        return self.get_instance_ids_of(ResourceKind.NOTEBOOK, instance_name, timeout_in_sec=timeout_in_sec)

    def get_studio_kgw_instance_ids(
        self, kgw_name: str, timeout_in_sec: float = 0, not_earlier_than_timestamp: float = 0
    ) -> list[str]:
        """As get_training_instance_ids, for an app of Studio by its name, of whatever user and domain."""
        return self.get_instance_ids(
            ResourceKind.STUDIO.arn_type,
            kgw_name,
            timeout_in_sec,
            not_earlier_than_timestamp=not_earlier_than_timestamp,
        )

    def get_studio_user_kgw_instance_ids(
        self,
        domain_id: str,
        user_profile_name: str,
        kgw_name: str,
        timeout_in_sec: float = 0,
        not_earlier_than_timestamp: float = 0,
    ) -> list[str]:
        """The same for one user's app; an empty ``domain_id`` is any domain."""
        domain = re.escape(domain_id) if domain_id else "[^/]+"
        return self.get_instance_ids(
            ResourceKind.STUDIO.arn_type,
            kgw_name,
            timeout_in_sec,
            arn_filter_regex=f":app/{domain}/{re.escape(user_profile_name)}/",
            not_earlier_than_timestamp=not_earlier_than_timestamp,
        )

    def get_instance_ids_once(
        self,
        arn_resource_type: str,
        arn_resource_name: str,
        arn_filter_regex: str | None = None,
        not_earlier_than_timestamp: float = 0,
    ) -> list[str]:
        kind = next((each for each in ResourceKind if each.arn_type == arn_resource_type), None)
        if kind is None:
            known = ", ".join(each.arn_type for each in ResourceKind)
            raise UsageError(f"{arn_resource_type!r} is not a type of resource", fix=f"The types are {known}")
        return self._live_instances_of(
            kind, arn_resource_name, arn_filter_regex, not_earlier_than_timestamp or 0
        )

    def get_instance_ids_of(
        self,
        kind: ResourceKind,
        name: str,
        *,
        timeout_in_sec: float = 0,
        count: int = 1,
        over: Callable[[], bool] | None = None,
    ) -> list[str]:
        """
        The live instances of one resource, by the number in ``algo-N``.

        Waits for ``count`` of them, at most ``timeout_in_sec`` seconds and until ``over``, which is asked
        after each look, says that no more will come; returns those there are.
        """
        return self._waited_for(lambda: self._live_instances_of(kind, name), timeout_in_sec, count, over)

    def get_registered_ids_of(self, kind: ResourceKind, name: str) -> list[str]:
        """Every instance that is registered for one resource, live or not, in the same order; one look."""
        return self._instances_of(kind, name, live=False)

    def list_expired_ssh_instances(self, expiration_days: int = 0) -> list[str]:
        """
        The instances with our tags that do not answer, and were registered over ``expiration_days`` days ago.

        One that answers is never among them, however old. One whose tag SSHTimestamp is missing or no number
        counts as old.
        """
        now = self.clock_timestamp_override or time.time()
        limit = timedelta(days=expiration_days).total_seconds()
        return [
            instance_id
            for instance_id, tags in self.list_all_instances_and_fetch_tags().items()
            if tags.get(PING_STATUS) != instances.ONLINE
            and any(key.startswith(_OUR_TAGS) for key in tags)
            and now - _registered_at(tags) > limit
        ]

    def get_ssh_instance_timestamp(self, instance_id: str) -> int:
        """When an instance was registered, in seconds since the epoch; 0 when its tags do not say."""
        if self._is_replaced():
            tags: Mapping[str, str] = self.list_all_instances_and_fetch_tags().get(instance_id, {})
        else:
            tags = instances.tags_of(self._client, InstanceId(instance_id))
        return int(_registered_at(tags))

    def _is_replaced(self) -> bool:
        listing = self.list_all_instances_and_fetch_tags
        return getattr(listing, "__func__", None) is not _OWN_LISTING

    def _live_instances_of(
        self, kind: ResourceKind, name: str, arn_regex: str | None = None, not_earlier: float = 0
    ) -> list[str]:
        return self._instances_of(kind, name, arn_regex, not_earlier, live=True)

    def _instances_of(
        self,
        kind: ResourceKind,
        name: str,
        arn_regex: str | None = None,
        not_earlier: float = 0,
        *,
        live: bool,
    ) -> list[str]:
        if self._is_replaced():
            listed = self.list_all_instances_and_fetch_tags()
        else:
            # One call finds the nodes of one resource, however many others the account has.
            found_ones = instances.instances_of(self._client, kind, name)
            listed = {each.id: self._tags_of(each, name, whole=bool(arn_regex)) for each in found_ones}
        found = {
            instance_id: tags
            for instance_id, tags in listed.items()
            if str(tags.get(Tag.RESOURCE_NAME)) == name
            and instances.kind_of_arn(_arn(tags)) in (kind, None)
            and (arn_regex is None or re.search(arn_regex, _arn(tags)))
            and (_answers(tags) or not live)
            and _registered_at(tags) >= not_earlier
        }
        return sorted(found, key=lambda each: (_rank(found[each]), -_registered_at(found[each])))

    def _tags_of(self, found: instances.Instance, name: str, *, whole: bool) -> dict[str, str]:
        """What a listing says of an instance of the resource ``name``; ``whole``: with all its tags."""
        tags = found.tags
        if tags is None and whole:
            tags = instances.tags_of(self._client, found.id)
        known = {Tag.NODE: found.node or "", Tag.TIMESTAMP: str(found.registered_at or 0)}
        return {**known, **(tags or {}), Tag.RESOURCE_NAME: name, PING_STATUS: found.ping_status}


_OWN_LISTING = SSMManager.list_all_instances_and_fetch_tags
"""To know it from a replacement, also from one for the whole class."""


def _answers(tags: Mapping[str, str]) -> bool:
    return tags.get(PING_STATUS, instances.ONLINE) == instances.ONLINE


def _arn(tags: Mapping[str, str]) -> str:
    return str(tags.get(Tag.RESOURCE_ARN, ""))


def _rank(tags: Mapping[str, str]) -> int:
    number = re.fullmatch(r"algo-(\d+)", str(tags.get(Tag.NODE, "")))
    return int(number.group(1)) if number else 1


def _registered_at(tags: Mapping[str, str]) -> float:
    """Seconds since the epoch; 0 when it is not said."""
    try:
        return float(tags[Tag.TIMESTAMP])
    except (KeyError, TypeError, ValueError):
        return 0.0
