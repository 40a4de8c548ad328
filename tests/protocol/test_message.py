"""The binary message: worked examples, tolerance, and what is refused."""

import hashlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import strategies, vectors
from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.message import (
    HEADER_BYTES,
    AgentMessage,
    PayloadType,
    format_message_id,
    new_message_id,
    parse_message_id,
    payload_type_name,
    serialize_message,
)

pytestmark = pytest.mark.container

FRAME = vectors.FRAME_INPUT_STREAM_DATA


def changed(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


# -- worked examples --


@pytest.mark.parametrize("name", sorted(vectors.FRAMES))
def test_worked_example_is_the_one_of_the_layout(name: str) -> None:
    frame = vectors.FRAMES[name]

    assert hashlib.sha256(frame.data).hexdigest() == frame.sha256


@pytest.mark.parametrize("name", sorted(vectors.FRAMES))
def test_worked_example_is_written(name: str) -> None:
    frame = vectors.FRAMES[name]

    assert frame.message.serialize() == frame.data


@pytest.mark.parametrize("name", sorted(vectors.FRAMES))
def test_worked_example_is_read(name: str) -> None:
    frame = vectors.FRAMES[name]

    assert AgentMessage.parse(frame.data) == frame.message


def test_bytes_of_the_first_example_are_those_printed_in_the_layout() -> None:
    assert FRAME.message.serialize().hex() == vectors.FRAME_INPUT_STREAM_DATA_HEX


def test_serialize_message_needs_no_object() -> None:
    written = serialize_message(
        "input_stream_data",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        1,
        0,
        1,
        parse_message_id("01234567-89ab-4cde-8f01-23456789abcd"),
        1700000000000,
    )

    assert written == FRAME.data


# -- round trips --


@given(strategies.messages)
def test_what_is_written_is_read_again(message: AgentMessage) -> None:
    assert AgentMessage.parse(message.serialize()) == message


@given(strategies.messages)
def test_the_layout_in_other_words_agrees(message: AgentMessage) -> None:
    assert message.serialize() == vectors.worked_example(message)


@given(strategies.messages.map(AgentMessage.serialize), st.data())
def test_every_proper_prefix_is_a_message_or_our_error(data: bytes, draw: st.DataObject) -> None:
    prefix = data[: draw.draw(st.integers(0, len(data) - 1))]

    assert_message_or_our_error(prefix)


@given(st.sampled_from(sorted(vectors.FRAMES)).map(lambda name: vectors.FRAMES[name].data), st.data())
def test_every_one_byte_change_is_a_message_or_our_error(data: bytes, draw: st.DataObject) -> None:
    assert_message_or_our_error(draw.draw(strategies.one_byte_changes(data)))


def test_no_prefix_of_a_message_is_a_message() -> None:
    for size in range(len(FRAME.data)):
        with pytest.raises(MalformedMessage):
            AgentMessage.parse(FRAME.data[:size])


@given(st.binary(max_size=400))
def test_noise_is_a_message_or_our_error(data: bytes) -> None:
    assert_message_or_our_error(data)


def assert_message_or_our_error(data: bytes) -> None:
    try:
        message = AgentMessage.parse(data)
    except MalformedMessage:
        return
    assert AgentMessage.parse(message.serialize()) == message


# -- tolerance --


def test_type_may_be_padded_with_nul() -> None:
    data = changed(FRAME.data, 4, b"input_stream_data".ljust(32, b"\0"))

    assert AgentMessage.parse(data) == FRAME.message


def test_unknown_type_is_kept_as_text() -> None:
    data = changed(FRAME.data, 4, "größe".encode().ljust(32, b" "))

    assert AgentMessage.parse(data).message_type == "größe"


def test_unknown_payload_type_is_kept_as_number() -> None:
    data = changed(FRAME.data, 112, b"\x00\x00\x01\x00")

    assert AgentMessage.parse(data).payload_type == 256


def test_payload_length_does_not_cut_the_payload() -> None:
    data = changed(FRAME.data, 116, b"\x00\x00\x00\x05")

    assert AgentMessage.parse(data) == FRAME.message


def test_digest_is_not_looked_at_when_the_payload_length_is_zero() -> None:
    data = changed(changed(FRAME.data, 116, bytes(4)), 80, bytes(32))

    assert AgentMessage.parse(data).payload == FRAME.message.payload


def test_longer_header_moves_the_payload() -> None:
    data = changed(FRAME.data[:HEADER_BYTES] + b"more" + FRAME.message.payload, 0, b"\x00\x00\x00\x78")

    assert AgentMessage.parse(data) == FRAME.message


def test_empty_payload_is_read() -> None:
    message = AgentMessage("output_stream_data", b"", created_ms=5)

    assert AgentMessage.parse(message.serialize()) == message


@pytest.mark.parametrize("message_type", ["start_publication", "pause_publication"])
def test_publication_messages_are_exempt_from_every_check(message_type: str) -> None:
    data = bytes(4) + message_type.encode().ljust(32) + bytes(HEADER_BYTES - 36 - 1) + b"\x01" + b"{}"

    assert AgentMessage.parse(data).message_type == message_type
    assert AgentMessage.parse(data).payload == b"{}"


# -- what is refused --


@pytest.mark.parametrize(
    ("offset", "new", "fault"),
    [
        (0, bytes(4), "header length 0"),
        (0, b"\x00\x00\x00\x73", "header length 115"),
        (0, b"\x00\x00\x00\x8a", "header length 138"),
        (0, b"\xff\xff\xff\xff", "header length 4294967295"),
        (4, b" " * 32, "no type"),
        (4, bytes(32), "no type"),
        (4, b"\xff" * 32, "not UTF-8"),
        (4, b"\x1b[2J".ljust(32), "no type"),
        (40, bytes(8), "no created date"),
        (80, bytes(32), "does not match its digest"),
        (140, b"!", "does not match its digest"),
    ],
)
def test_refused(offset: int, new: bytes, fault: str) -> None:
    with pytest.raises(MalformedMessage, match=fault):
        AgentMessage.parse(changed(FRAME.data, offset, new))


@pytest.mark.parametrize("size", [0, 100, 115, 116, 118, 119])
def test_message_shorter_than_its_header_is_refused(size: int) -> None:
    with pytest.raises(MalformedMessage, match=f"{size} bytes"):
        AgentMessage.parse(FRAME.data[:size])


@pytest.mark.parametrize(
    "message",
    [
        AgentMessage("", b""),
        AgentMessage(" padded", b""),
        AgentMessage("two\nlines", b""),
        AgentMessage("x" * 33, b""),
        AgentMessage("acknowledge", b"", message_id=b"short"),
        AgentMessage("acknowledge", b"", sequence_number=1 << 63),
        AgentMessage("acknowledge", b"", payload_type=-1),
    ],
)
def test_values_that_fit_no_field_are_our_own_mistake(message: AgentMessage) -> None:
    with pytest.raises(ValueError, match=r"message type|message id|out of range"):
        message.serialize()


# -- the small things --


def test_text_for_logs_has_no_payload() -> None:
    message = AgentMessage("output_stream_data", b"secret", sequence_number=41, payload_type=1)

    assert str(message) == "output_stream_data OUTPUT #41 6 B"
    assert str(AgentMessage("acknowledge", b"")) == "acknowledge #0 0 B"


def test_a_message_is_frozen() -> None:
    with pytest.raises(AttributeError):
        FRAME.message.payload = b""  # type: ignore[misc]


def test_payload_type_without_a_name_is_its_number() -> None:
    assert payload_type_name(PayloadType.EXIT_CODE) == "EXIT_CODE"
    assert payload_type_name(99) == "99"


@given(strategies.message_ids)
def test_message_id_is_the_text_of_a_uuid(message_id: bytes) -> None:
    assert format_message_id(message_id) == str(uuid.UUID(bytes=message_id))
    assert parse_message_id(format_message_id(message_id)) == message_id


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "g" * 32, " " * 32, "0 " * 32])
def test_text_that_is_no_uuid_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage):
        parse_message_id(text)


@given(st.binary(min_size=16, max_size=16))
def test_new_message_id_is_a_random_uuid(random16: bytes) -> None:
    made = uuid.UUID(bytes=new_message_id(random16))

    assert made.version == 4
    assert made.variant == uuid.RFC_4122
