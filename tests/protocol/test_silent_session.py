"""A session without handshake whose program says nothing."""

import itertools

import pytest

from protocol.link import make_channel
from sagemaker_ssh_helper.protocol.data_channel import Ready, Side, StreamData
from sagemaker_ssh_helper.protocol.payloads import SessionType

pytestmark = pytest.mark.container


def test_a_payload_without_bytes_begins_it_at_the_client() -> None:
    agent = make_channel(Side.AGENT, session_type=SessionType.STANDARD_STREAM)
    client = make_channel(Side.CLIENT, session_type=SessionType.STANDARD_STREAM)
    for channel in (agent, client):
        channel.open("token", 0.0)
    agent.send_nothing(0.1)
    begun = list(
        itertools.chain.from_iterable(client.receive_message(m, 0.2) for m in agent.messages_to_send(0.1))
    )
    assert begun == [Ready(SessionType.STANDARD_STREAM, None, "", "")]

    client.send_data(b"typed", 0.3)
    events = list(
        itertools.chain.from_iterable(agent.receive_message(m, 0.4) for m in client.messages_to_send(0.3))
    )
    assert events[-1] == StreamData(1, b"typed")
    assert agent.drained
