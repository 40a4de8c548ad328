"""Everything the official peers were recorded to send is read, and written again byte for byte."""

from typing import Any, Dict, Optional, Type

import pytest

from protocol.vectors import Recorded, recorded, recorded_messages
from sagemaker_ssh_helper.protocol import payloads
from sagemaker_ssh_helper.protocol.control_channel import parse_control, serialize_control
from sagemaker_ssh_helper.protocol.message import AgentMessage, MessageType, PayloadType, format_message_id

pytestmark = pytest.mark.container

BY_MESSAGE_TYPE: Dict[str, Type[Any]] = {
    MessageType.ACKNOWLEDGE: payloads.Acknowledge,
    MessageType.AGENT_SESSION_STATE: payloads.AgentSessionState,
    MessageType.CHANNEL_CLOSED: payloads.ChannelClosed,
    MessageType.INTERACTIVE_SHELL: payloads.InteractiveShell,
    MessageType.AGENT_TASK_COMPLETE: payloads.AgentTaskComplete,
    MessageType.AGENT_TASK_ACKNOWLEDGE: payloads.AgentTaskAcknowledge,
    MessageType.AGENT_JOB: payloads.AgentJob,
    MessageType.AGENT_JOB_ACK: payloads.AgentJobAck,
    MessageType.AGENT_JOB_REPLY: payloads.AgentJobReply,
    MessageType.AGENT_JOB_REPLY_ACK: payloads.AgentJobReplyAck,
}
BY_PAYLOAD_TYPE: Dict[int, Type[Any]] = {
    PayloadType.SIZE: payloads.Size,
    PayloadType.HANDSHAKE_REQUEST: payloads.HandshakeRequest,
    PayloadType.HANDSHAKE_RESPONSE: payloads.HandshakeResponse,
    PayloadType.HANDSHAKE_COMPLETE: payloads.HandshakeComplete,
    PayloadType.ENC_CHALLENGE_REQUEST: payloads.EncryptionChallenge,
    PayloadType.ENC_CHALLENGE_RESPONSE: payloads.EncryptionChallenge,
}
# The whole of what was recorded; a capture that is lost, or not looked at, shows here.
MESSAGES = 787
JSON_PAYLOADS = {
    payloads.Acknowledge: 358,
    payloads.AgentJob: 3,
    payloads.AgentJobAck: 3,
    payloads.AgentJobReply: 7,
    payloads.AgentJobReplyAck: 7,
    payloads.AgentSessionState: 12,
    payloads.AgentTaskAcknowledge: 8,
    payloads.AgentTaskComplete: 8,
    payloads.ChannelClosed: 9,
    payloads.EncryptionChallenge: 4,
    payloads.HandshakeComplete: 12,
    payloads.HandshakeRequest: 12,
    payloads.HandshakeResponse: 12,
    payloads.InteractiveShell: 8,
    payloads.Size: 8,
}


def payload_class(message: AgentMessage) -> Optional[Type[Any]]:
    if message.payload_type:
        return BY_PAYLOAD_TYPE.get(message.payload_type)
    return BY_MESSAGE_TYPE.get(message.message_type)


def test_every_message_comes_back_byte_for_byte() -> None:
    lines = recorded_messages()

    assert len(lines) == MESSAGES
    for line in lines:
        assert AgentMessage.parse(line.data).serialize() == line.data, line.where


def test_every_header_says_what_the_recording_says() -> None:
    for line in recorded_messages():
        message = AgentMessage.parse(line.data)
        header = {
            "MessageType": message.message_type,
            "SchemaVersion": message.schema_version,
            "CreatedDate": message.created_ms,
            "SequenceNumber": message.sequence_number,
            "Flags": message.flags,
            "MessageId": format_message_id(message.message_id),
            "PayloadType": message.payload_type,
            "PayloadLength": len(message.payload),
        }

        assert header == {name: line.decoded[name] for name in header}, line.where


def test_every_payload_of_an_official_peer_comes_back_byte_for_byte() -> None:
    counts: Dict[Type[Any], int] = dict.fromkeys(JSON_PAYLOADS, 0)
    for line in recorded_messages():
        message = AgentMessage.parse(line.data)
        payload = payload_class(message)
        if payload is None:
            continue
        counts[payload] += 1
        parsed = payload.parse(message.payload)
        written = parsed.serialize()
        if line.is_official:
            assert written == message.payload, line.where
        else:
            assert payload.parse(written) == parsed, line.where

    assert counts == JSON_PAYLOADS


def test_what_has_no_json_is_stream_or_publication() -> None:
    for line in recorded_messages():
        message = AgentMessage.parse(line.data)
        if payload_class(message) is None:
            assert message.message_type in (
                MessageType.INPUT_STREAM_DATA,
                MessageType.OUTPUT_STREAM_DATA,
                MessageType.START_PUBLICATION,
                MessageType.PAUSE_PUBLICATION,
            ), line.where


def test_every_flag_is_one_we_know() -> None:
    values = [
        payloads.parse_flag(message.payload)
        for message in (AgentMessage.parse(line.data) for line in recorded_messages())
        if message.payload_type == PayloadType.FLAG
    ]

    assert values == [2, 2, 1, 1, 1, 1, 2, 2]


def test_every_opening_frame_comes_back_byte_for_byte() -> None:
    lines = [line for line in recorded() if line.kind == "ws" and line.opcode == 1]

    assert len(lines) == 19
    for line in lines:
        assert opening(line).serialize() == line.data, line.where


def test_opening_frames_tell_who_opens() -> None:
    for line in recorded():
        if line.kind == "ws" and line.opcode == 1 and line.channel == "data-channel":
            frame = payloads.OpenDataChannelInput.parse(line.data)

            assert frame.is_agent == line.direction.startswith("agent"), line.where


def opening(line: Recorded) -> Any:
    if line.channel == "control-channel":
        return payloads.OpenControlChannelInput.parse(line.data)
    return payloads.OpenDataChannelInput.parse(line.data)


def test_every_request_for_a_channel_comes_back_byte_for_byte() -> None:
    lines = [
        line for line in recorded() if line.name in ("MGS.CreateControlChannel", "MGS.CreateDataChannel")
    ]

    assert len(lines) == 18
    for line in lines:
        body: Any = (
            payloads.CreateChannelInput if line.direction == "request" else payloads.CreateChannelOutput
        )
        assert body.parse(line.data).serialize() == line.data, line.where


def test_short_way_of_an_acknowledge_is_the_long_way() -> None:
    for line in recorded_messages():
        message = AgentMessage.parse(line.data)
        if message.message_type == MessageType.ACKNOWLEDGE:
            ack = payloads.Acknowledge.parse(message.payload)
            message_id = bytes.fromhex(ack.message_id.replace("-", ""))
            body = payloads.Acknowledge.body(ack.message_type, message_id, ack.sequence_number)

            assert body == message.payload, line.where
            assert payloads.Acknowledge.parse_sequence_number(message.payload) == ack.sequence_number


def test_control_messages_of_agents_come_back_byte_for_byte() -> None:
    count = 0
    for line in recorded_messages():
        if line.channel == "control-channel" and line.is_official:
            message, payload = parse_control(line.data)
            assert payload is not None, line.where
            written = serialize_control(payload, message_id=message.message_id, created_ms=message.created_ms)
            assert written == line.data, line.where
            count += 1

    assert count == 18
