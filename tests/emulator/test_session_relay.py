"""The relay's queues, without sockets: what waits, what is dropped, who is held back."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from emulator.gateway_peers import acknowledge, data_message, input_data, output_data
from sagemaker_ssh_helper.emulator import session_relay
from sagemaker_ssh_helper.emulator.session_relay import (
    AcknowledgedNumbers,
    Outlet,
    SessionRelay,
    Unacknowledged,
    channel_closed,
    closed_payload,
)
from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.message import AgentMessage, PayloadType
from sagemaker_ssh_helper.protocol.payloads import Acknowledge


class Socket:
    """Takes messages while ``writable``."""

    def __init__(self) -> None:
        self.writable = True
        self.sent: list[bytes] = []
        self.is_read = True

    def send(self, messages: Sequence[bytes]) -> None:
        self.sent += messages

    def ping(self, data: bytes) -> None:
        self.sent.append(b"ping " + data)

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    @property
    def types(self) -> list[str]:
        return [AgentMessage.parse(data).message_type for data in self.sent]


def run(test: Callable[[SessionRelay, Any, Any], None], *, is_official: bool = False) -> None:
    """Run a test inside an event loop, with a relay whose two sides are there."""

    async def inside() -> None:
        relay = SessionRelay("session", "mi-1", is_official=is_official)
        client, agent = Socket(), Socket()
        relay.attach_client(client)
        relay.attach_agent(agent)
        test(relay, client, agent)
        relay.close(channel_closed(closed_payload("session", "mi-1", "")))

    asyncio.run(inside())


def test_outlet_keeps_order_and_no_duplicates() -> None:
    outlet, socket = Outlet(), Socket()
    messages = [input_data(b"x", number) for number in range(5)]
    outlet.send(messages[:2])
    outlet.send(messages[:3])
    assert outlet.queued_bytes == sum(map(len, messages[:3]))

    outlet.socket = socket
    outlet.flush()
    outlet.send(messages[3:4])
    socket.writable = False
    outlet.send(messages[4:])
    # Once sent, the same message is passed on again.
    outlet.send(messages[:1])

    assert socket.sent == messages[:4]
    socket.writable = True
    outlet.flush()
    assert socket.sent == [*messages, messages[0]]
    assert (bool(outlet), outlet.queued_bytes) == (False, 0)


def test_acknowledged_numbers_stay_small() -> None:
    numbers = AcknowledgedNumbers()
    for number in (0, 2, 1, 1, 5):
        numbers.add(number)

    assert [number for number in range(7) if number in numbers] == [0, 1, 2, 5]
    for number in range(100_000):
        numbers.add(number)
    assert not numbers._above


def test_full_outlet_to_the_client_pauses_the_agent_and_then_its_socket() -> None:
    def test(relay: SessionRelay, client: Socket, agent: Socket) -> None:
        client.writable = False
        number = 0
        while agent.is_read:
            relay.receive_from_agent([output_data(bytes(100_000), number)])
            number += 1
        assert relay.to_client.queued_bytes >= session_relay.HARD_LIMIT_BYTES
        # Asked again and again, as anything from a client makes an agent go on.
        assert set(agent.types) == {"pause_publication"}
        assert 30 < len(agent.sent) < 60

        client.writable = True
        relay.client_drained()

        assert len(client.sent) == number
        assert agent.is_read
        assert agent.types[-1] == "start_publication"

    run(test)


def test_full_outlet_to_the_agent_stops_the_client() -> None:
    def test(relay: SessionRelay, client: Socket, agent: Socket) -> None:
        agent.writable = False
        number = 0
        while client.is_read:
            relay.receive_from_client([input_data(bytes(100_000), number)])
            number += 1
        assert relay.to_agent.queued_bytes >= session_relay.HARD_LIMIT_BYTES

        agent.writable = True
        relay.agent_drained()

        assert client.is_read
        assert len(agent.sent) == number

    run(test)


def test_held_client_is_read_again_when_the_session_ends() -> None:
    def test(relay: SessionRelay, client: Socket, agent: Socket) -> None:
        agent.writable = False
        while client.is_read:
            relay.receive_from_client([input_data(bytes(1_000_000), 0)])
        relay.close(channel_closed(closed_payload("session", "mi-1", "over")))

        assert client.is_read
        assert client.types == ["channel_closed"]
        assert not relay.to_agent
        relay.receive_from_agent([output_data(b"late", 0)])
        assert client.types == ["channel_closed"]

    run(test)


def test_closing_comes_after_all_output() -> None:
    def test(relay: SessionRelay, client: Socket, agent: Socket) -> None:
        client.writable = False
        data = output_data(b"last", 0)
        relay.receive_from_agent([data])
        relay.close(channel_closed(closed_payload("session", "mi-1", "over")))
        client.writable = True
        relay.client_drained()

        assert client.sent[0] == data
        assert client.types == ["output_stream_data", "channel_closed"]

    run(test)


def test_unreadable_acknowledge_is_not_passed_to_an_official_agent() -> None:
    def test(relay: SessionRelay, client: Socket, agent: Socket) -> None:
        relay.receive_from_client([data_message("acknowledge", b"no JSON", 0, 0, 3)])
        relay.receive_from_client([input_data(b"x", 0)])

        assert agent.types == ["input_stream_data"]

    run(test, is_official=True)


def test_messages_before_a_malformed_one_do_not_pass_alone() -> None:
    def test(relay: SessionRelay, client: Socket, agent: Socket) -> None:
        with pytest.raises(MalformedMessage):
            relay.receive_from_client([input_data(b"x", 0), b"nonsense"])
        assert agent.sent == []

    run(test)


def test_output_without_a_handshake_is_passed_at_once() -> None:
    def test(relay: SessionRelay, client: Socket, agent: Socket) -> None:
        first, second = output_data(b"shell", 0), output_data(b"more", 1)
        relay.receive_from_agent([first])
        relay.receive_from_agent([second, acknowledge(input_data(b"x", 0))])

        assert client.sent[:2] == [first, second]

    run(test)


def test_agent_that_must_not_be_paused_is_not() -> None:
    async def inside() -> None:
        relay = SessionRelay("session", "mi-1", is_official=True, may_pause=False)
        client, agent = Socket(), Socket()
        relay.attach_client(client)
        relay.attach_agent(agent)
        relay.detach(client)
        data = output_data(b"while away", 0)
        relay.receive_from_agent([data])
        relay.attach_client(client)

        assert agent.sent == []
        assert client.sent == [data]
        relay.close(channel_closed(closed_payload("session", "mi-1", "")))

    asyncio.run(inside())


# -- what a broken connection may have lost ----------------------------------------------------------


def run_official(test: Callable[[SessionRelay, Any, Any], Any]) -> None:
    """The same as ``run`` with an official agent, for a test that waits for held acknowledges."""

    async def inside() -> None:
        relay = SessionRelay("session", "mi-1", is_official=True)
        client, agent = Socket(), Socket()
        relay.attach_client(client)
        relay.attach_agent(agent)
        await test(relay, client, agent)
        relay.close(channel_closed(closed_payload("session", "mi-1", "")))

    asyncio.run(inside())


async def acknowledged_numbers(agent: Socket, count: int) -> list[int]:
    """What the agent was told that the client has, once it was told so often."""
    while True:
        found = [
            Acknowledge.parse(message.payload).sequence_number
            for message in map(AgentMessage.parse, agent.sent)
            if message.message_type == "acknowledge"
        ]
        if len(found) >= count:
            return found
        await asyncio.sleep(0.002)


def test_output_that_a_cut_may_have_lost_is_sent_again_before_the_rest() -> None:
    async def test(relay: SessionRelay, client: Socket, agent: Socket) -> None:
        output = [output_data(b"x", number) for number in range(4)]
        relay.receive_from_agent(output[:3])
        relay.receive_from_client([acknowledge(output[0])])
        relay.detach(client)
        relay.receive_from_agent(output[3:])
        again = Socket()
        relay.attach_client(again)

        # The ping is behind them: whoever answers it has read them.
        assert again.sent == [*output[1:], b"ping 1"]

    run_official(test)


def test_official_agent_is_told_of_what_the_client_had_before_the_cut() -> None:
    async def test(relay: SessionRelay, client: Socket, agent: Socket) -> None:
        output = [output_data(b"x", number) for number in range(3)]
        relay.receive_from_agent(output)
        relay.detach(client)
        again = Socket()
        relay.attach_client(again)
        # The client had 0 and 1, and does not acknowledge them a second time; 2 is new.
        relay.receive_from_client([acknowledge(output[2])])
        relay.client_ponged(b"0")
        assert await acknowledged_numbers(agent, 1) == [2]

        relay.client_ponged(b"1")

        assert await acknowledged_numbers(agent, 3) == [2, 0, 1]
        relay.receive_from_agent(output[:1])
        assert again.sent[-1] == b"ping 1"

    run_official(test)


def test_ping_waits_until_a_slow_client_took_what_is_repeated() -> None:
    async def test(relay: SessionRelay, client: Socket, agent: Socket) -> None:
        output = output_data(b"x", 0)
        relay.receive_from_agent([output])
        relay.detach(client)
        slow = Socket()
        slow.writable = False
        relay.attach_client(slow)
        assert slow.sent == []

        slow.writable = True
        relay.client_drained()

        assert slow.sent == [output, b"ping 1"]

    run_official(test)


def test_input_and_acknowledges_are_repeated_to_an_official_agent_that_is_back() -> None:
    async def test(relay: SessionRelay, client: Socket, agent: Socket) -> None:
        output, inputs = output_data(b"x", 0), [input_data(b"y", number) for number in range(2)]
        relay.receive_from_agent([output])
        ack = acknowledge(output)
        relay.receive_from_client([*inputs, ack])
        relay.receive_from_agent([acknowledge(inputs[0])])
        await acknowledged_numbers(agent, 1)
        relay.detach(agent)
        again = Socket()
        relay.attach_agent(again)

        assert again.sent == [inputs[1], ack]

    run_official(test)


def test_acknowledges_reach_an_official_agent_at_the_end_of_the_session() -> None:
    """It waits for them, two seconds at most, before it closes the data channel."""

    async def test(relay: SessionRelay, client: Socket, agent: Socket) -> None:
        output = [output_data(b"x", number) for number in range(2)]
        relay.receive_from_agent(output)
        relay.receive_from_client([acknowledge(output[0])])
        relay.close(channel_closed(closed_payload("session", "mi-1", "")))
        assert agent.types == ["acknowledge"]

        relay.receive_from_client([acknowledge(output[1])])
        assert await acknowledged_numbers(agent, 2) == [0, 1]

    run_official(test)


def test_what_is_kept_for_a_cut_is_bounded() -> None:
    kept = Unacknowledged(max_bytes=3 * len(input_data(b"x", 0)))
    for number in range(5):
        kept.add(input_data(b"x", number))
        kept.add(input_data(b"x", number))

    assert [AgentMessage.parse(data).sequence_number for data in kept.messages()] == [2, 3, 4]
    kept.discard(3)
    kept.discard(3)
    assert [number in kept for number in range(2, 5)] == [True, False, True]


@pytest.mark.parametrize("is_official", [False, True])
def test_the_end_of_the_handshake_follows_the_acknowledge_of_the_response(is_official: bool) -> None:
    """An official client would take it for the answer to its response, and lose it."""
    acknowledged = acknowledge(input_data(b"{}", 0))
    complete = output_data(b"{}", 1, PayloadType.HANDSHAKE_COMPLETE)

    def late(relay: SessionRelay, client: Socket, agent: Socket) -> None:
        relay.receive_from_agent([complete])
        assert client.sent == []
        relay.receive_from_agent([acknowledged])
        assert client.sent == [acknowledged, complete]

    def in_time(relay: SessionRelay, client: Socket, agent: Socket) -> None:
        relay.receive_from_agent([acknowledged])
        relay.receive_from_agent([complete])
        assert client.sent == [acknowledged, complete]

    run(late, is_official=is_official)
    run(in_time, is_official=is_official)
