"""What a data channel hands out is handed out once."""

import itertools
from typing import List

import pytest

from protocol.link import make_channel
from sagemaker_ssh_helper.protocol.data_channel import DataChannel, Side

pytestmark = pytest.mark.container


def opened(now: float = 0.0) -> List[DataChannel]:
    """A client and an agent whose handshake is over."""
    ends = [make_channel(Side.CLIENT), make_channel(Side.AGENT)]
    for end in ends:
        end.open("token", now)
        end.text_to_send()
    for _ in range(6):
        for end, other in itertools.permutations(ends):
            other.receive_messages(end.messages_to_send(now), now)
    return ends


@pytest.mark.parametrize("side", [Side.CLIENT, Side.AGENT])
def test_a_message_is_handed_out_once_while_nothing_says_that_it_is_lost(side: Side) -> None:
    sender = next(end for end in opened() if end.side is side)
    sender.send_data(b"content", 1.0)
    assert len(sender.messages_to_send(1.0)) == 1
    assert sender.messages_to_send(1.0) == []


@pytest.mark.parametrize("side", [Side.CLIENT, Side.AGENT])
def test_a_message_is_acknowledged_once_each_time_it_comes(side: Side) -> None:
    ends = opened()
    sender = next(end for end in ends if end.side is side)
    receiver = next(end for end in ends if end.side is not side)
    sender.send_data(b"content", 1.0)
    (message,) = sender.messages_to_send(1.0)
    receiver.receive_messages([message], 1.0)
    assert len(receiver.messages_to_send(1.0)) == 1
    assert receiver.messages_to_send(1.0) == []
    receiver.receive_messages([message], 1.1)
    assert len(receiver.messages_to_send(1.1)) == 1
