"""Our data channel, given the bytes that official peers sent to each other."""

from typing import Any, List

import pytest

from protocol import vectors
from protocol.link import make_channel
from sagemaker_ssh_helper.protocol.data_channel import (
    KINDS,
    ChannelClosed,
    DataChannel,
    Event,
    Failed,
    FlagReceived,
    Ready,
    Side,
    StreamData,
)
from sagemaker_ssh_helper.protocol.message import AgentMessage, MessageType, PayloadType
from sagemaker_ssh_helper.protocol.payloads import (
    Acknowledge,
    HandshakeRequest,
    HandshakeResponse,
    parse_flag,
)

pytestmark = pytest.mark.container

TYPES = {
    "04-ssh-session": "Port",
    "05-shell-session": "Standard_Stream",
    "06-port-forward": "Port",
    "07-interactive-command": "InteractiveCommands",
    "08-non-interactive-command": "NonInteractiveCommands",
    "10-port-basic": "Port",
    "11-resume": "Port",
}
"""Sessions without encryption; for the other see test_encryption_captures."""

HANDSHAKE = (
    PayloadType.HANDSHAKE_REQUEST,
    PayloadType.HANDSHAKE_RESPONSE,
    PayloadType.HANDSHAKE_COMPLETE,
)


def sent_to(side: Side, capture: str) -> List[bytes]:
    """What the recorded peer and its gateway sent to that side."""
    return [
        message.data
        for message in vectors.recorded_messages()
        if message.channel == "data-channel"
        and message.direction == f"cloud->{side.value}"
        and message.where.startswith(capture + ":")
    ]


def stream_of(side: Side, messages: List[bytes]) -> List[AgentMessage]:
    incoming = MessageType.OUTPUT_STREAM_DATA if side is Side.CLIENT else MessageType.INPUT_STREAM_DATA
    parsed = [AgentMessage.parse(data) for data in messages]
    return [message for message in parsed if message.message_type == incoming]


def one(messages: List[AgentMessage], payload_type: int) -> AgentMessage:
    """The only one of that type."""
    (message,) = [message for message in messages if message.payload_type == payload_type]
    return message


def replay(channel: DataChannel, messages: List[bytes]) -> List[Event]:
    events: List[Event] = []
    channel.open("token", 0.0)
    for step, data in enumerate(messages):
        events += channel.receive_message(data, 0.01 * step)
    return events


def answers(channel: DataChannel) -> List[AgentMessage]:
    return [AgentMessage.parse(data) for data in channel.messages_to_send()]


def make(side: Side, capture: str, **options: Any) -> DataChannel:
    session_type = TYPES[capture]
    properties = {"portNumber": "22"} if session_type == "Port" else None
    return make_channel(side, session_type=session_type, properties=properties, **options)


@pytest.mark.parametrize("side", list(Side), ids=lambda side: side.value)
@pytest.mark.parametrize("capture", sorted(TYPES))
def test_a_recorded_session_is_understood_to_its_last_byte(side: Side, capture: str) -> None:
    messages = sent_to(side, capture)
    channel = make(side, capture)
    events = replay(channel, messages)
    if side is Side.AGENT and not KINDS[TYPES[capture]].handshake:
        events = channel.handle_timer(1.0) + events

    ready = events[0]
    assert isinstance(ready, Ready)
    # Without a handshake a client knows only that it is a shell.
    known = side is Side.AGENT or KINDS[TYPES[capture]].handshake
    assert ready.session_type == (TYPES[capture] if known else "Standard_Stream")

    carried = [message for message in stream_of(side, messages) if message.payload_type not in HANDSHAKE]
    assert b"".join(event.data for event in events if isinstance(event, StreamData)) == b"".join(
        message.payload for message in carried if message.payload_type != PayloadType.FLAG
    )
    assert [event.flag for event in events if isinstance(event, FlagReceived)] == [
        parse_flag(message.payload) for message in carried if message.payload_type == PayloadType.FLAG
    ]
    assert (channel.malformed, channel.refused) == (0, 0)
    assert not any(isinstance(event, Failed) for event in events)
    ended = any(AgentMessage.parse(data).message_type == MessageType.CHANNEL_CLOSED for data in messages)
    assert isinstance(events[-1], ChannelClosed) is ended


@pytest.mark.parametrize("side", list(Side), ids=lambda side: side.value)
@pytest.mark.parametrize("capture", sorted(TYPES))
def test_every_recorded_message_of_the_stream_is_acknowledged_once(side: Side, capture: str) -> None:
    messages = sent_to(side, capture)
    channel = make(side, capture)
    replay(channel, messages)

    acknowledged = [
        Acknowledge.parse_sequence_number(message.payload)
        for message in answers(channel)
        if message.message_type == MessageType.ACKNOWLEDGE
    ]
    assert acknowledged == [message.sequence_number for message in stream_of(side, messages)]


@pytest.mark.parametrize("capture", [name for name in sorted(TYPES) if KINDS[TYPES[name]].handshake])
def test_our_answer_to_a_recorded_request_is_the_recorded_one(capture: str) -> None:
    channel = make(Side.CLIENT, capture)
    # Up to the request, and before the session ends in the capture.
    channel.open("token", 0.0)
    channel.receive_message(sent_to(Side.CLIENT, capture)[0], 0.0)
    ours = one(answers(channel), 6)
    theirs = one(stream_of(Side.AGENT, sent_to(Side.AGENT, capture)), 6)

    assert HandshakeResponse.parse(ours.payload).processed_actions == (
        HandshakeResponse.parse(theirs.payload).processed_actions
    )
    assert HandshakeResponse.parse(ours.payload).errors == HandshakeResponse.parse(theirs.payload).errors
    assert (ours.sequence_number, ours.flags) == (theirs.sequence_number, theirs.flags) == (0, 0)


@pytest.mark.parametrize("capture", ["04-ssh-session", "08-non-interactive-command", "11-resume"])
def test_our_request_is_the_recorded_one(capture: str) -> None:
    theirs = one(stream_of(Side.CLIENT, sent_to(Side.CLIENT, capture)), 5)
    request = HandshakeRequest.parse(theirs.payload)
    channel = make_channel(
        Side.AGENT,
        session_type=request.session_type,
        properties=request.properties,
        version=request.agent_version,
    )
    channel.open("token", 0.0)
    ours = one(answers(channel), 5)

    # But for the marker at its end.
    assert ours.payload.startswith(theirs.payload[:-1])
    assert (ours.sequence_number, ours.flags) == (theirs.sequence_number, theirs.flags) == (0, 1)
