"""
Every resource of the local SageMaker by its ARN: who may do what with it, its tags, and pages of a kind.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Protocol

from sagemaker_ssh_helper.emulator.service import ApiError, Call, Cloud, Operation

DEFAULT_PAGE = 10
MAX_TAGS = 50


class Record(Protocol):
    """What any resource has."""

    arn: str
    created_at: datetime
    tags: dict[str, str]

    @property
    def name(self) -> str: ...

    @property
    def primary_status(self) -> str: ...

    @property
    def modified_at(self) -> datetime: ...


class ResourceTable:
    """All of them, oldest first."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._records: dict[str, Any] = {}
        self.operations: Mapping[str, Operation] = {
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "DeleteTags": self._delete_tags,
        }

    def arn(self, arn_type: str, name: str) -> str:
        """The ARN of a resource. SageMaker writes names in it in small letters: names differ by more."""
        cloud = self._cloud
        return f"arn:aws:sagemaker:{cloud.region}:{cloud.account_id}:{arn_type}/{name.lower()}"

    def get(self, arn: str) -> Any:
        """The resource of this ARN; None when there is none."""
        return self._records.get(arn)

    def add(self, record: Record) -> None:
        self._records[record.arn] = record

    def remove(self, arn: str) -> None:
        self._records.pop(arn, None)

    def tagged(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """The ARNs and tags of all."""
        return ((arn, record.tags) for arn, record in self._records.items())

    def of_type(self, arn_type: str) -> list[Any]:
        """Every resource whose ARN says this type, oldest first."""
        part = f":{arn_type}/"
        return [record for arn, record in self._records.items() if part in arn]

    def may_create(self, call: Call, arn: str, context: Mapping[str, Any] | None = None) -> dict[str, str]:
        """The tags of a new resource, when the caller may make it so. Raises ApiError."""
        tags = {tag["Key"]: tag["Value"] for tag in call.params.get("Tags", ())}
        asked = {**_request_tags(tags), **(context or {})}
        self._cloud.iam.authorize(call.principal, f"sagemaker:{call.operation}", arn, asked)
        if tags:
            self._cloud.iam.authorize(call.principal, "sagemaker:AddTags", arn, asked)
        return tags

    def authorized(self, call: Call, arn: str, context: Mapping[str, Any] | None = None) -> Any:
        """The resource of this ARN when the caller may do this call with it. Raises ApiError."""
        record = self._records.get(arn)
        tags = record.tags if record is not None else {}
        resource_tags = {
            f"{prefix}/{key}": value
            for prefix in ("aws:ResourceTag", "sagemaker:ResourceTag")
            for key, value in tags.items()
        }
        action = f"sagemaker:{call.operation}"
        self._cloud.iam.authorize(call.principal, action, arn, {**resource_tags, **(context or {})})
        if record is None:
            raise ApiError("ValidationException", "Requested resource not found.")
        return record

    def page(
        self, call: Call, records: Iterable[Any], member: str, summarize: Callable[[Any], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The answer of a List… call: filtered, sorted and cut as its parameters say. Raises ApiError."""
        params = call.params
        found = [record for record in records if _matches(record, params)]
        key = _SORT_KEYS[params.get("SortBy", "CreationTime")]
        descending = params.get("SortOrder", "Descending") == "Descending"
        found.sort(key=key, reverse=descending)
        if "NextToken" in params:
            after = _decode_token(params["NextToken"])
            found = [
                record for record in found if (key(record) < after if descending else key(record) > after)
            ]
        size = params.get("MaxResults", DEFAULT_PAGE)
        answer: dict[str, Any] = {member: [summarize(record) for record in found[:size]]}
        if len(found) > size:
            answer["NextToken"] = _encode_token(key(found[size - 1]))
        return answer

    async def _add_tags(self, call: Call) -> Mapping[str, Any]:
        tags = {tag["Key"]: tag["Value"] for tag in call.params["Tags"]}
        record = self.authorized(call, call.params["ResourceArn"], _request_tags(tags))
        check_tags({**record.tags, **tags})
        record.tags.update(tags)
        return {"Tags": _tag_list(record.tags)}

    async def _list_tags(self, call: Call) -> Mapping[str, Any]:
        record = self.authorized(call, call.params["ResourceArn"])
        return {"Tags": _tag_list(record.tags)}

    async def _delete_tags(self, call: Call) -> Mapping[str, Any]:
        keys = call.params["TagKeys"]
        record = self.authorized(call, call.params["ResourceArn"], {"aws:TagKeys": keys})
        for key in keys:
            record.tags.pop(key, None)
        return {}


def invalid(message: str) -> ApiError:
    """What SageMaker refuses beyond its model."""
    return ApiError("ValidationException", message)


def unsupported(what: str) -> ApiError:
    """What only the local cloud refuses, because it does not do it."""
    return ApiError("ValidationException", f"The local cloud does not support this: {what}.")


def check_tags(tags: Mapping[str, str]) -> None:
    """Refuse tags that no resource may have. Raises ApiError."""
    if len(tags) > MAX_TAGS:
        raise invalid(f"A resource can have at most {MAX_TAGS} tags.")
    for key in tags:
        if key.lower().startswith("aws:"):
            raise invalid(f"The tag key {key} begins with aws:, which is reserved for AWS.")


def boolean(value: bool) -> str:
    """A boolean as condition keys have it."""
    return "true" if value else "false"


def _request_tags(tags: Mapping[str, str]) -> dict[str, Any]:
    context: dict[str, Any] = {f"aws:RequestTag/{key}": value for key, value in tags.items()}
    if tags:
        context["aws:TagKeys"] = list(tags)
    return context


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _matches(record: Record, params: Mapping[str, Any]) -> bool:
    if params.get("NameContains", "").lower() not in record.name.lower():
        return False
    if params.get("StatusEquals", record.primary_status) != record.primary_status:
        return False
    # No job of the local cloud is kept warm, and none belongs to a training plan.
    if "WarmPoolStatusEquals" in params or "TrainingPlanArnEquals" in params:
        return False
    for name, moment in (("CreationTime", record.created_at), ("LastModifiedTime", record.modified_at)):
        if not params.get(f"{name}After", moment) <= moment <= params.get(f"{name}Before", moment):
            return False
    return True


_SORT_KEYS: Mapping[str, Callable[[Record], tuple[str, str]]] = {
    "Name": lambda record: (record.name, record.arn),
    "CreationTime": lambda record: (record.created_at.isoformat(timespec="microseconds"), record.arn),
    "Status": lambda record: (record.primary_status, record.arn),
}


def _encode_token(position: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def _decode_token(token: str) -> tuple[str, str]:
    try:
        first, second = json.loads(base64.urlsafe_b64decode(token.encode("ascii")))
    except (ValueError, TypeError, binascii.Error) as error:
        raise invalid("The NextToken is not valid.") from error
    if not isinstance(first, str) or not isinstance(second, str):
        raise invalid("The NextToken is not valid.")
    return first, second
