"""docs/reference/protocol.md names everything the codecs know."""

import re
from pathlib import Path
from typing import Dict

import pytest

from sagemaker_ssh_helper.protocol import control_channel, go_json, message, payloads, websocket
from sagemaker_ssh_helper.protocol.message import Flag, MessageType, PayloadType
from sagemaker_ssh_helper.protocol.payloads import JobAckStatus

PAGE = Path(__file__).parents[2].joinpath("docs", "reference", "protocol.md").read_text(encoding="utf-8")


def public(table: type) -> Dict[str, object]:
    return {name: value for name, value in vars(table).items() if not name.startswith("_")}


def test_every_message_type_has_a_row_and_every_row_a_type() -> None:
    section = PAGE[PAGE.index("### Message types") : PAGE.index("### Payload types")]

    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(public(MessageType).values())


@pytest.mark.parametrize("table", [PayloadType, Flag])
def test_every_number_has_a_row(table: type) -> None:
    for item in table:  # type: ignore[attr-defined]
        assert f"| {item.value} | {item.name} |" in PAGE


@pytest.mark.parametrize("name", sorted(public(JobAckStatus)))
def test_every_answer_to_a_command_has_a_row(name: str) -> None:
    code, text = getattr(JobAckStatus, name)

    assert f"| {code} | {text} |" in PAGE


@pytest.mark.parametrize(
    "sentence",
    [
        f"at most {websocket._MAX_HEAD_BYTES} bytes",
        f"{websocket.DEFAULT_MAX_MESSAGE_BYTES} bytes unless set otherwise",
        f"shorter than {message.HEADER_BYTES} bytes",
        f"up to {control_channel.MAX_TASK_COMPLETE_SENDS} times",
        f"{control_channel.TASK_COMPLETE_INTERVAL:.0f} s apart",
        f"4 … {control_channel.MAX_JOB_REPLY_INTERVAL:.0f} s",
        f"at most {payloads.MAX_REPLY_CONTENT_BYTES} bytes",
        f"end with `{payloads.TRUNCATED}`",
        f"At most {control_channel.MAX_RESENDS_AT_ONCE} are sent again",
        f"at most {control_channel.MAX_PENDING} or {control_channel.MAX_PENDING_BYTES >> 20} MiB",
        f"more than {go_json._MAX_INTEGER_DIGITS} digits",
    ],
)
def test_every_number_in_the_text_is_the_one_in_the_code(sentence: str) -> None:
    assert sentence in " ".join(PAGE.split())
