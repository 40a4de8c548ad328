"""A whole session of every kind, from its first connection to its end, over a link that does anything."""

from functools import partial
from itertools import groupby
from typing import List, Tuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.link import End, Fate, Link, Mishap, fates, make_channel, plans
from sagemaker_ssh_helper.protocol.data_channel import (
    KINDS,
    ChannelClosed,
    FlagReceived,
    PeerTerminating,
    Side,
    State,
    StreamData,
)
from sagemaker_ssh_helper.protocol.message import AgentMessage, Flag, MessageType, PayloadType
from sagemaker_ssh_helper.protocol.payloads import ChannelClosed as LastWords
from sagemaker_ssh_helper.protocol.payloads import SessionType, Size

pytestmark = pytest.mark.container

Part = Tuple[int, bytes]
"""A payload type and bytes of it."""

EXIT_CODE = (int(PayloadType.EXIT_CODE), b"EXIT_CODE: 7")


def parts(payload_types: List[int]) -> st.SearchStrategy[List[Tuple[float, Part]]]:
    """What a side says, and after how many seconds."""
    data = st.integers(1, 9000).map(lambda size: bytes(number * 7 % 251 for number in range(size)))
    part = st.tuples(st.sampled_from([int(one) for one in payload_types]), data)
    return st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.01, 0.4, 2.0]), part), max_size=8)


INPUT = {
    SessionType.PORT: [PayloadType.OUTPUT, PayloadType.FLAG],
    SessionType.STANDARD_STREAM: [PayloadType.OUTPUT, PayloadType.SIZE],
    SessionType.INTERACTIVE_COMMANDS: [PayloadType.OUTPUT, PayloadType.SIZE],
    SessionType.NON_INTERACTIVE_COMMANDS: [PayloadType.OUTPUT],
}
OUTPUT = {
    SessionType.PORT: [PayloadType.OUTPUT, PayloadType.FLAG],
    SessionType.STANDARD_STREAM: [PayloadType.OUTPUT],
    SessionType.INTERACTIVE_COMMANDS: [PayloadType.OUTPUT],
    SessionType.NON_INTERACTIVE_COMMANDS: [PayloadType.OUTPUT, PayloadType.STDERR],
}


def say(link: Link, end: End, script: List[Tuple[float, Part]]) -> List[Part]:
    """Have a side say that in its time; what the other has to hear."""
    at = link.now
    heard: List[Part] = []
    for after, (payload_type, data) in script:
        at += after
        if payload_type == PayloadType.FLAG:
            data = bytes([len(data) % 3 + 1])
        elif payload_type == PayloadType.SIZE:
            data = Size(80, len(data)).serialize()
        heard.append((payload_type, data))
        link.at(at, partial(_send, link, end, payload_type, data))
    return heard


def _send(link: Link, end: End, payload_type: int, data: bytes) -> None:
    if payload_type == PayloadType.FLAG:
        end.channel.send_flag(data[0], link.now)
    elif payload_type == PayloadType.SIZE:
        size = Size.parse(data)
        end.channel.send_size(size.cols, size.rows, link.now)
    else:
        end.channel.send_data(data, link.now, payload_type)


def heard(end: End) -> List[Part]:
    """Everything of the stream that its user was told, in order."""
    told: List[Part] = []
    for event in end.events:
        if isinstance(event, StreamData):
            told.append((event.payload_type, event.data))
        elif isinstance(event, FlagReceived):
            told.append((int(PayloadType.FLAG), bytes([event.flag])))
    return told


def joined(told: List[Part]) -> List[Part]:
    """Neighbours of one type are one: where the bytes were cut is nobody's business."""
    whole: List[Part] = []
    for payload_type, group in groupby(told, key=lambda part: part[0]):
        if payload_type in (PayloadType.FLAG, PayloadType.SIZE):
            whole.extend(group)
        else:
            whole.append((payload_type, b"".join(data for _, data in group)))
    return whole


@pytest.mark.parametrize("session_type", sorted(KINDS))
@given(data=st.data(), up=fates(), down=fates(), plan=plans(), delay=st.sampled_from([0.001, 0.04, 0.4]))
def test_both_hear_everything_in_order_and_once_and_both_end(
    session_type: str, data: st.DataObject, up: List[Fate], down: List[Fate], plan: List[Mishap], delay: float
) -> None:
    client, agent = (make_channel(side, session_type=session_type) for side in (Side.CLIENT, Side.AGENT))
    link = Link(client, agent, up=up, down=down, delay=delay)
    link.open(Side.AGENT)
    link.open(Side.CLIENT)
    link.follow(plan)
    if not KINDS[session_type].handshake:
        link.at(link.now, lambda: agent.send_nothing(link.now))
    link.run(
        lambda: (link.client.ready and link.agent.ready) or State.CLOSED in (client.state, agent.state),
        limit=300.0,
    )
    # A link so bad that the handshake takes longer than its deadline is another test.
    assume(State.CLOSED not in (client.state, agent.state))

    typed = say(link, link.client, data.draw(parts(INPUT[session_type]), label="typed"))
    shown = say(link, link.agent, data.draw(parts(OUTPUT[session_type]), label="shown"))
    if session_type == SessionType.NON_INTERACTIVE_COMMANDS:
        link.run_for(20.0)  # The program is over when all it had to say was said.
        agent.send_data(EXIT_CODE[1], link.now, EXIT_CODE[0])
        shown.append(EXIT_CODE)
    link.run_for(20.0)
    link.run(lambda: link.settled, limit=300.0)

    # As the agent ends: drained, it tells the gateway, and that tells the client.
    agent.close(link.now)
    farewell = [AgentMessage.parse(message).message_type for message in agent.messages_to_send(link.now)]
    last_words = AgentMessage(
        MessageType.CHANNEL_CLOSED,
        LastWords("a session", output="bye", created_date="now").serialize(),
        message_id=bytes(16),
        created_ms=1700000000000,
    )
    link.gateway_says(Side.CLIENT, last_words.serialize())

    assert joined(heard(link.agent)) == joined(typed)
    assert joined(heard(link.client)) == joined(shown)
    assert client.state is agent.state is State.CLOSED
    assert link.client.events[-1] == ChannelClosed("bye")
    assert farewell == [MessageType.AGENT_SESSION_STATE] * KINDS[session_type].terminating
    assert (client.malformed, client.refused, agent.malformed, agent.refused) == (0, 0, 0, 0)
    assert client.next_deadline() is agent.next_deadline() is None
    assert PeerTerminating() not in link.client.events, "only the gateway hears that"


def test_the_flags_said_here_have_names() -> None:
    assert {Flag(number) for number in (1, 2, 3)} == set(Flag)
