"""
The Resource Groups Tagging API: what has which tags, over all services of ours.

Read operations only; tags are set by the services that have the resources. They are there at once, which AWS
does not promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sagemaker_ssh_helper.emulator.paging import position_page
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Cloud, Operation
from sagemaker_ssh_helper.emulator.tags import tag_list

DEFAULT_PAGE = 50
MAX_PAGE = 100

Source = Callable[[], Iterable["tuple[str, Mapping[str, str]]"]]
"""The ARNs and tags of one service's resources."""


class TaggingService:
    """GetResources, GetTagKeys and GetTagValues, of what the sources have."""

    # What its requests are signed for.
    name = "tagging"
    anonymous: frozenset[str] = frozenset()

    def __init__(self, cloud: Cloud, *sources: Source) -> None:
        self._cloud = cloud
        self._sources = sources
        self.operations: Mapping[str, Operation] = {
            "GetResources": self._get_resources,
            "GetTagKeys": self._get_tag_keys,
            "GetTagValues": self._get_tag_values,
        }

    async def _get_resources(self, call: Call) -> Mapping[str, Any]:
        params = call.params
        if "ResourceARNList" in params and len(params) > 1:
            raise _invalid("ResourceARNList cannot be combined with other parameters.")
        if "TagsPerPage" in params:
            raise _invalid("The local cloud does not support this: TagsPerPage.")
        size = params.get("ResourcesPerPage", DEFAULT_PAGE)
        if not 1 <= size <= MAX_PAGE:
            raise _invalid(f"ResourcesPerPage must be between 1 and {MAX_PAGE}.")
        found = [
            {"ResourceARN": arn, "Tags": tag_list(tags)}
            for arn, tags in self._tagged(call)
            if arn in params.get("ResourceARNList", (arn,))
            and _is_of(arn, params.get("ResourceTypeFilters") or ())
            and all(_matches(tags, each) for each in params.get("TagFilters") or ())
        ]
        return _page(params, found, size, "ResourceTagMappingList")

    async def _get_tag_keys(self, call: Call) -> Mapping[str, Any]:
        keys = sorted({key for _, tags in self._tagged(call) for key in tags})
        return _page(call.params, keys, DEFAULT_PAGE, "TagKeys")

    async def _get_tag_values(self, call: Call) -> Mapping[str, Any]:
        key = call.params["Key"]
        values = sorted({tags[key] for _, tags in self._tagged(call) if key in tags})
        return _page(call.params, values, DEFAULT_PAGE, "TagValues")

    def _tagged(self, call: Call) -> list[tuple[str, Mapping[str, str]]]:
        """All resources with tags. Raises ApiError when the caller may not ask."""
        self._cloud.iam.authorize(call.principal, f"tag:{call.operation}", "*", {})
        return sorted(each for source in self._sources for each in source() if each[1])


def _is_of(arn: str, types: Sequence[str]) -> bool:
    """Whether an ARN is of one of these types, ``sagemaker`` or ``ssm:managed-instance``."""
    parts = arn.split(":", 5)
    service, kind = parts[2], parts[5].partition("/")[0]
    return not types or service in types or f"{service}:{kind}" in types


def _matches(tags: Mapping[str, str], wanted: Mapping[str, Any]) -> bool:
    key, values = wanted.get("Key", ""), wanted.get("Values") or ()
    return key in tags and (not values or tags[key] in values)


def _page(params: Mapping[str, Any], items: Sequence[Any], size: int, member: str) -> dict[str, Any]:
    try:
        page, token = position_page(items, size, params.get("PaginationToken"))
    except ApiError:
        raise _invalid("The PaginationToken is not valid.") from None
    # An empty token says that there is no more.
    return {member: page, "PaginationToken": token or ""}


def _invalid(message: str) -> ApiError:
    return ApiError("InvalidParameterException", message)
