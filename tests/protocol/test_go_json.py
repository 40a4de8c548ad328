"""JSON as Go programs write and read it."""

from typing import Any

import pytest
from hypothesis import given

from protocol import strategies
from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.go_json import Fields, parse_json, serialize_json

pytestmark = pytest.mark.container


def test_json_is_written_as_the_go_encoder_writes_it() -> None:
    value = {"b": '<a href="x">&</a>', "a": [1, True, None, "\u2028\u2029", "é\n\t\u0001"]}

    assert serialize_json(value).decode() == (
        '{"b":"\\u003ca href=\\"x\\"\\u003e\\u0026\\u003c/a\\u003e",'
        '"a":[1,true,null,"\\u2028\\u2029","é\\n\\t\\u0001"]}'
    )


@given(strategies.json_objects)
def test_json_that_is_written_is_read_again(value: Any) -> None:
    assert parse_json(serialize_json(value), "a value") == value


def test_half_a_surrogate_pair_is_replaced_as_in_go() -> None:
    parsed = parse_json(b'{"\\ud800":["\\udc00x",{"k":"\\ud83d\\ude00"}]}', "a value")

    assert parsed == {"\ufffd": ["\ufffdx", {"k": "\U0001f600"}]}
    assert serialize_json({"a": "\ud800"}) == '{"a":"\ufffd"}'.encode()


def test_the_last_of_equal_keys_counts() -> None:
    assert Fields.parse(b'{"SessionId":"a","sessionid":"b"}', "a value").text("SESSIONID") == "b"


@pytest.mark.parametrize("hostile", strategies.HOSTILE_JSON, ids=range(len(strategies.HOSTILE_JSON)))
def test_what_is_no_json_object_is_refused(hostile: bytes) -> None:
    # Nesting is within the limits of some Pythons, and then it is JSON.
    try:
        value = parse_json(hostile, "a value")
    except MalformedMessage:
        return
    assert list(value) == ["a"]


@pytest.mark.parametrize("number", ["1" * 33, "1e999", "-1e999", "NaN", "Infinity"])
def test_numbers_that_fit_no_field_are_refused(number: str) -> None:
    with pytest.raises(MalformedMessage, match="a value is not JSON"):
        parse_json(f'{{"a":{number}}}'.encode(), "a value")


@pytest.mark.parametrize(
    "read", ["text", "optional_texts", "integer", "boolean", "optional_mapping", "objects", "base64"]
)
def test_value_of_the_wrong_type_is_named_but_not_quoted(read: str) -> None:
    fields = Fields.parse(b'{"key":1.5}', "a value")

    with pytest.raises(MalformedMessage, match=r"^key in a value is not [a-zA-Z0-9 ]+$"):
        getattr(fields, read)("key")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have_are_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        serialize_json({"a": value})
