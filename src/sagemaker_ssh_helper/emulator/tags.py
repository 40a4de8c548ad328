"""
The rules for tags of Systems Manager, as one function each.
"""

import unicodedata
from collections.abc import Iterable, Mapping

from sagemaker_ssh_helper.emulator.service import ApiError

# Numbers we must obey.
MAX_TAGS = 50  # on one resource
MAX_KEY_CHARS = 128
MAX_VALUE_CHARS = 256

# The service writes its rule as \p{L}\p{Z}\p{N} and these.
_PUNCTUATION = frozenset("_.:/=+-@")
_RESERVED = "aws:"


def parse_tags(items: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """
    The tags of a request, ``[{"Key": …, "Value": …}]``, as a dict.

    Raises:
        ApiError: ``ValidationException`` for a key or value that breaks the rules, or a key given twice.
    """
    tags: dict[str, str] = {}
    for number, item in enumerate(items, start=1):
        key, value = item["Key"], item["Value"]
        _check(f"tags.{number}.member.key", key, 1, MAX_KEY_CHARS)
        _check(f"tags.{number}.member.value", value, 0, MAX_VALUE_CHARS)
        if key.lower().startswith(_RESERVED):
            raise ApiError("ValidationException", f"Tag keys beginning with {_RESERVED} are reserved: {key}")
        if key in tags:
            raise ApiError("ValidationException", f"Duplicate tag key: {key}")
        tags[key] = value
    if len(tags) > MAX_TAGS:
        raise _too_many()
    return tags


def merge_tags(existing: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """Both, the added ones winning. Raises ApiError ``TooManyTagsError`` above 50."""
    merged = {**existing, **added}
    if len(merged) > MAX_TAGS:
        raise _too_many()
    return merged


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """The tags as an answer writes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def request_context(tags: Mapping[str, str]) -> dict[str, str | list[str]]:
    """What a policy may ask about the tags of a request: ``aws:RequestTag/KEY`` and ``aws:TagKeys``."""
    context: dict[str, str | list[str]] = {f"aws:RequestTag/{key}": value for key, value in tags.items()}
    context["aws:TagKeys"] = list(tags)
    return context


def resource_context(tags: Mapping[str, str]) -> dict[str, str | list[str]]:
    """What a policy may ask about a resource: ``ssm:resourceTag/KEY`` and ``aws:ResourceTag/KEY``."""
    context: dict[str, str | list[str]] = {}
    for key, value in tags.items():
        context[f"ssm:resourceTag/{key}"] = value
        context[f"aws:ResourceTag/{key}"] = value
    return context


def _check(where: str, text: str, least: int, most: int) -> None:
    if len(text) < least:
        rule = f"Member must have length greater than or equal to {least}"
    elif len(text) > most:
        rule = f"Member must have length less than or equal to {most}"
    elif not all(map(_allowed, text)):
        rule = r"Member must satisfy regular expression pattern: ^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$"
    else:
        return
    raise ApiError(
        "ValidationException",
        f"1 validation error detected: Value '{text}' at '{where}' failed to satisfy constraint: {rule}",
    )


def _allowed(character: str) -> bool:
    return character in _PUNCTUATION or unicodedata.category(character)[0] in "LZN"


def _too_many() -> ApiError:
    return ApiError("TooManyTagsError", f"The number of tags exceeds the limit of {MAX_TAGS}.")
