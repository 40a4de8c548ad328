"""
JSON as the official peers, which are Go programs, write and read it.

Pure, standard library only, Python 3.8. Errors name what is wrong, never a value: it may be a token.
"""

import base64
import binascii
import json
import math
import re
from typing import Any, Dict, Mapping, Optional, Pattern, Sequence, Tuple

from sagemaker_ssh_helper.errors import MalformedMessage

# Python's encoder leaves these alone, the Go encoder escapes them. All occur inside strings only.
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ESCAPED: Pattern[str] = re.compile("[<>&\u2028\u2029]")
_SURROGATES: Pattern[str] = re.compile("[\ud800-\udfff]")

# An integer of JSON with more digits fits no field; the limit keeps a long one from being computed.
_MAX_INTEGER_DIGITS = 32

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def serialize_json(value: Any) -> bytes:
    """The JSON of a value as the Go encoder writes it: no spaces, ``<``, ``>`` and ``&`` escaped."""
    text = _ESCAPED.sub(lambda match: _ESCAPES[match[0]], _encode(value))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text).encode("utf-8")


def parse_json(data: bytes, what: str) -> Dict[str, Any]:
    """
    The JSON object in these bytes. ``what`` names them in the error.

    Strings in it can be encoded: half a surrogate pair becomes U+FFFD, as in the Go decoder. Raises
    MalformedMessage for anything that is not one JSON object, numbers that are none included.
    """
    try:
        # A byte order mark is an error too: json would accept it from bytes.
        value = _decode(data.decode("utf-8"))
        if isinstance(value, dict):
            return _encodable(value) if b"\\u" in data else value
    except (ValueError, RecursionError):
        # Not chained: a JSON error quotes its input, which may hold a token.
        raise MalformedMessage(f"{what} is not JSON") from None
    raise MalformedMessage(f"{what} is not a JSON object")


def _integer(text: str) -> int:
    if len(text) > _MAX_INTEGER_DIGITS:
        raise ValueError("an integer is too long")
    return int(text)


def _real(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


_decode = json.JSONDecoder(parse_int=_integer, parse_float=_real, parse_constant=_constant).decode


def _encodable(value: Any) -> Any:
    """The same JSON value with no half of a surrogate pair in it."""
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value


class Fields:
    """
    A JSON object being read: keys in any case, null as absent, MalformedMessage for a wrong type.

    ``what`` names the object in errors, which never quote a value.
    """

    def __init__(self, value: Mapping[str, Any], what: str) -> None:
        self._what = what
        self._values = {key.lower(): item for key, item in value.items()}

    @classmethod
    def parse(cls, data: bytes, what: str) -> "Fields":
        return cls(parse_json(data, what), what)

    def _wrong(self, name: str, wanted: str) -> MalformedMessage:
        return MalformedMessage(f"{name} in {self._what} is not {wanted}")

    def value(self, name: str) -> Any:
        return self._values.get(name.lower())

    def optional_text(self, name: str) -> Optional[str]:
        value = self.value(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, "text")
        return value

    def text(self, name: str) -> str:
        return self.optional_text(name) or ""

    def lenient_text(self, name: str) -> str:
        value = self.value(name)
        return value if isinstance(value, str) else ""

    def optional_texts(self, name: str) -> Optional[Tuple[str, ...]]:
        value = self.value(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of texts")
        return tuple(value)

    def optional_integer(self, name: str) -> Optional[int]:
        value = self.value(name)
        # bool is an int in Python, but true is no number in JSON.
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self._wrong(name, "an integer")
        return value

    def integer(self, name: str) -> int:
        return self.optional_integer(name) or 0

    def required_integer(self, name: str) -> int:
        value = self.optional_integer(name)
        if value is None:
            raise MalformedMessage(f"{self._what} has no {name}")
        return value

    def optional_boolean(self, name: str) -> Optional[bool]:
        value = self.value(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def boolean(self, name: str) -> bool:
        return self.optional_boolean(name) or False

    def optional_mapping(self, name: str, *, lenient: bool = False) -> Optional[Dict[str, Any]]:
        value = self.value(name)
        if value is None or isinstance(value, dict):
            return value
        if lenient:
            return None
        raise self._wrong(name, "a JSON object")

    def fields(self, name: str) -> "Fields":
        return Fields(self.optional_mapping(name) or {}, f"{name} of {self._what}")

    def objects(self, name: str) -> Sequence["Fields"]:
        value = self.value(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._wrong(name, "a list of JSON objects")
        return [Fields(item, f"{name} of {self._what}") for item in value]

    def base64(self, name: str) -> bytes:
        try:
            return base64.b64decode(self.text(name), validate=True)
        except (binascii.Error, ValueError):
            raise self._wrong(name, "base64") from None
