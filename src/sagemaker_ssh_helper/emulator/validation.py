"""
Requests against botocore's models: what the service would refuse is refused here, in AWS's words.

botocore's own validator runs in the client and knows neither maxima, patterns nor enums, so this one is ours.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from sagemaker_ssh_helper.emulator.service import ApiError

EITHER_CASE = frozenset(("AssociationFilter",))
"""Structures whose members official agents write with a capital, and the model without."""

MAX_PATTERN_BYTES = 16 * 1024
"""Longer texts are not matched with the model's patterns, which were not written with our engine in mind."""


def validate(shape: Any, value: Any) -> Any:
    """
    The parameters of a call in the types that boto3's caller would use.

    Members that the shape does not know are left out, as the services ignore them; timestamps become aware
    datetimes and blobs bytes.

    Args:
        shape: botocore's input shape of the operation; None when it takes nothing.
        value: the decoded JSON, or what ``parse_query`` made of a form.

    Raises:
        ApiError: ``SerializationException`` for a wrong type, ``ValidationException`` for what breaks the
            model's constraints; the message lists all of them.
    """
    if shape is None:
        return {}
    violations: list[str] = []
    result = _Walk(violations).walk(shape, value, "")
    if violations:
        count = len(violations)
        noun = "error" if count == 1 else "errors"
        raise ApiError("ValidationException", f"{count} validation {noun} detected: {'; '.join(violations)}")
    return result


class _Walk:
    def __init__(self, violations: list[str]) -> None:
        self._violations = violations

    def walk(self, shape: Any, value: Any, path: str) -> Any:
        convert = getattr(self, f"_{shape.type_name}", None)
        return value if convert is None else convert(shape, value, path)

    def _violate(self, shape: Any, value: Any, path: str, constraint: str) -> None:
        shown = "'***'" if shape.metadata.get("sensitive") else "null" if value is None else f"'{value}'"
        self._violations.append(
            f"Value {shown} at '{path}' failed to satisfy constraint: Member must {constraint}"
        )

    def _structure(self, shape: Any, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _wrong_type(value, "a structure")
        result = {}
        for name, member in shape.members.items():
            key = member.serialization.get("name", name)
            given = value.get(key)
            if given is None and shape.name in EITHER_CASE:
                given = value.get(key[:1].upper() + key[1:])
            inner = _join(path, name[:1].lower() + name[1:])
            if given is not None:
                result[name] = self.walk(member, given, inner)
            elif name in shape.required_members:
                self._violate(member, None, inner, "not be null")
        return result

    def _list(self, shape: Any, value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong_type(value, "a list")
        self._check_length(shape, value, path)
        return [
            self.walk(shape.member, item, f"{path}.{index}.member") for index, item in enumerate(value, 1)
        ]

    def _map(self, shape: Any, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _wrong_type(value, "a map")
        self._check_length(shape, value, path)
        return {
            self.walk(shape.key, key, path): self.walk(shape.value, item, f"{path}.{key}.member")
            for key, item in value.items()
            if item is not None
        }

    def _string(self, shape: Any, value: Any, path: str) -> str:
        if not isinstance(value, str):
            raise _wrong_type(value, "a String")
        self._check_length(shape, value, path)
        pattern = _pattern(shape.metadata.get("pattern"))
        if pattern and len(value) <= MAX_PATTERN_BYTES and not pattern.fullmatch(value):
            text = shape.metadata["pattern"]
            self._violate(shape, value, path, f"satisfy regular expression pattern: {text}")
        if shape.enum and value not in shape.enum:
            self._violate(shape, value, path, f"satisfy enum value set: [{', '.join(shape.enum)}]")
        return value

    def _integer(self, shape: Any, value: Any, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
            raise _wrong_type(value, "an Integer")
        self._check_range(shape, value, path)
        return int(value)

    _long = _integer

    def _float(self, shape: Any, value: Any, path: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _wrong_type(value, "a Float")
        self._check_range(shape, value, path)
        return value

    _double = _float

    def _boolean(self, shape: Any, value: Any, path: str) -> bool:
        if not isinstance(value, bool):
            raise _wrong_type(value, "a Boolean")
        return value

    def _timestamp(self, shape: Any, value: Any, path: str) -> datetime:
        try:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return datetime.fromtimestamp(value, timezone.utc)
            if isinstance(value, str):
                moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
                return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        except (ValueError, OverflowError, OSError):
            pass
        raise _wrong_type(value, "a Timestamp")

    def _blob(self, shape: Any, value: Any, path: str) -> bytes:
        try:
            decoded = base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise _wrong_type(value, "a Blob") from None
        self._check_length(shape, decoded, path)
        return decoded

    def _check_length(self, shape: Any, value: Any, path: str) -> None:
        minimum, maximum = shape.metadata.get("min"), shape.metadata.get("max")
        shown = "…" if isinstance(value, bytes) else value
        if minimum is not None and len(value) < minimum:
            self._violate(shape, shown, path, f"have length greater than or equal to {minimum}")
        if maximum is not None and len(value) > maximum:
            self._violate(shape, shown, path, f"have length less than or equal to {maximum}")

    def _check_range(self, shape: Any, value: float, path: str) -> None:
        minimum, maximum = shape.metadata.get("min"), shape.metadata.get("max")
        if minimum is not None and value < minimum:
            self._violate(shape, value, path, f"have value greater than or equal to {minimum}")
        if maximum is not None and value > maximum:
            self._violate(shape, value, path, f"have value less than or equal to {maximum}")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrong_type(value: Any, wanted: str) -> ApiError:
    kinds = {str: "STRING_VALUE", bool: "BOOLEAN_VALUE", int: "NUMBER_VALUE", float: "DECIMAL_VALUE"}
    kinds.update({list: "START_ARRAY", dict: "START_OBJECT"})
    kind = kinds.get(type(value), "NULL_VALUE")
    return ApiError("SerializationException", f"{kind} cannot be converted to {wanted}")


@lru_cache(maxsize=4096)
def _pattern(text: str | None) -> "re.Pattern[str] | None":
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error:
        # A construct of the services' own regular expressions that Python does not have, such as \p{L}.
        return None
