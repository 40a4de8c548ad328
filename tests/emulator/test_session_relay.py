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
    channel_closed,
    closed_payload,
)
from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.message import AgentMessage


class Socket:
    """Takes messages while ``writable``."""

    def __init__(self) -> None:
        self.writable = True
        self.sent: list[bytes] = []
        self.is_read = True

    def send(self, messages: Sequence[bytes]) -> None:
        self.sent += messages

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
