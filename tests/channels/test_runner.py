"""Runners on real sockets: two of them, joined by a relay on loopback."""

import asyncio
import os
import socket
from typing import Any, List, Optional, Tuple

import pytest

from channels.party import Party, in_loop
from channels.relay import AGENT, CLIENT, Relay
from sagemaker_ssh_helper.channels import DataChannelRunner, Grant, Link
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    ConnectionFailed,
    EndpointUnreachable,
    HandshakeFailed,
    NotInstrumented,
    TargetEnded,
)
from sagemaker_ssh_helper.protocol.data_channel import (
    ChannelClosed,
    DataChannel,
    FlagReceived,
    Side,
    StreamData,
)
from sagemaker_ssh_helper.protocol.message import Flag, MessageType, serialize_message
from sagemaker_ssh_helper.protocol.payloads import ChannelClosed as ChannelClosedPayload
from sagemaker_ssh_helper.protocol.websocket import accept_value
from stream_server import StreamServer

pytestmark = pytest.mark.container

OTHER = {Side.CLIENT: Side.AGENT, Side.AGENT: Side.CLIENT}
QUICK = (0.01, 0.05)


def party(side: Side, relay: Relay, **options: Any) -> Party:
    options.setdefault("delays", QUICK)
    return Party(side, relay.url, **options)


def channel_closed(output: str) -> bytes:
    payload = ChannelClosedPayload("s-1", output=output).serialize()
    return serialize_message(MessageType.CHANNEL_CLOSED, payload, 0, 0, 0, os.urandom(16), 1700000000000)


def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# -- carrying ---------------------------------------------------------------------------------------


@in_loop
async def test_bytes_go_both_ways_at_once(relay: Relay) -> None:
    up, down = os.urandom(3_000_000), os.urandom(2_000_000)

    async with party(Side.AGENT, relay) as agent, party(Side.CLIENT, relay) as client:
        client.send(up)
        agent.send(down)
        await client.wait_for(lambda: len(client.received) >= len(down))
        await agent.wait_for(lambda: len(agent.received) >= len(up))
        assert await client.runner.drain(5.0)
        assert await agent.runner.drain(5.0)

    assert agent.received == up
    assert client.received == down


@in_loop
async def test_the_opening_frames_carry_token_and_ids_and_the_upgrade_the_headers(relay: Relay) -> None:

    async with party(Side.CLIENT, relay, headers=(("X-Amz-Date", "20260101T000000Z"),)):
        await relay.wait_for(lambda: bool(relay.openings))

    (opening,) = relay.openings
    assert (opening.token, opening.client_id, opening.client_version) == ("token-1", "client", "3.3.1000.0")
    assert relay.requests[0].headers["x-amz-date"] == "20260101T000000Z"
    assert relay.requests[0].path == "/v1/data-channel/s-1?role=publish_subscribe"


@in_loop
async def test_an_upgrade_that_is_throttled_is_tried_again(relay: Relay) -> None:
    body = b"<ThrottlingException><message>Rate exceeded</message></ThrottlingException>"
    relay.refusals.extend([(400, body)] * 3)

    async with party(Side.CLIENT, relay) as client:
        await client.wait_for(lambda: client.links == [(Link.UP, "")])

    assert client.resumed == [False] * 4


@in_loop
async def test_a_refused_upgrade_is_asked_for_in_another_way_within_the_same_attempt(relay: Relay) -> None:
    told: List[Tuple[Optional[int], str]] = []

    async def refused(error: ConnectionFailed) -> Grant:
        told.append((error.status, error.body))
        return Grant(relay.url, "token", {"X-Way": str(len(told))}, refused)

    async def grant(resume: bool) -> Grant:
        return Grant(relay.url, "token", {"X-Way": "0"}, refused)

    relay.refusals.extend([(403, b"no"), (400, b"")])
    up = asyncio.Event()
    channel = DataChannel(Side.CLIENT, "s-1", random_bytes=os.urandom, created_ms=lambda: 0, version="1")
    runner = DataChannelRunner(
        channel, grant, on_event=lambda event: None, on_link=lambda link, why: up.set(), open_timeout=0.0
    )
    running = asyncio.ensure_future(runner.run())
    await asyncio.wait_for(up.wait(), 10)
    runner.close()

    assert await running is None
    assert told == [(403, "no"), (400, "")]
    assert [request.headers["x-way"] for request in relay.requests] == ["0", "1", "2"]


@in_loop
async def test_what_the_other_way_is_refused_with_ends_the_attempt(relay: Relay) -> None:
    async def refused(error: ConnectionFailed) -> None:
        raise AccessDenied("the first one was denied")

    async def grant(resume: bool) -> Grant:
        return Grant(relay.url, "token", {}, refused)

    relay.refusals.append((403, b"no"))
    channel = DataChannel(Side.CLIENT, "s-1", random_bytes=os.urandom, created_ms=lambda: 0, version="1")
    runner = DataChannelRunner(channel, grant, on_event=lambda event: None)

    assert isinstance(await runner.run(), AccessDenied)


@in_loop
async def test_a_client_pings_at_once(relay: Relay) -> None:

    async with party(Side.CLIENT, relay):
        await relay.wait_for(lambda: relay.pings == 1)

    assert relay.pings == 1


@in_loop
async def test_flags_and_sizes_arrive_in_order_with_the_data(relay: Relay) -> None:

    async with party(Side.AGENT, relay) as agent, party(Side.CLIENT, relay) as client:
        await client.wait_for(lambda: client.ready)
        client.runner.send_data(b"before")
        client.runner.send_size(80, 24)
        client.runner.send_flag(Flag.DISCONNECT_TO_PORT)
        await agent.wait_for(lambda: any(isinstance(event, FlagReceived) for event in agent.events))

    assert agent.received == b'before{"cols":80,"rows":24}'
    assert agent.events[-1] == FlagReceived(Flag.DISCONNECT_TO_PORT)


# -- losing and finding -----------------------------------------------------------------------------


@pytest.mark.parametrize("side", [Side.CLIENT, Side.AGENT])
@in_loop
async def test_a_cut_in_mid_stream_loses_no_byte_either_way(relay: Relay, side: Side) -> None:
    up, down = os.urandom(2_000_000), os.urandom(2_000_000)

    async with party(Side.AGENT, relay) as agent, party(Side.CLIENT, relay) as client:
        cut = client if side is Side.CLIENT else agent
        await client.wait_for(lambda: client.ready)
        client.send(up)
        agent.send(down)
        for number in (1, 2, 3):
            await client.wait_for(lambda number=number: len(client.received) >= number * len(down) // 4)
            await relay.cut_and_wait(side.value)
        await client.wait_for(lambda: len(client.received) >= len(down))
        await agent.wait_for(lambda: len(agent.received) >= len(up))
        assert await client.runner.drain(5.0)
        assert await agent.runner.drain(5.0)

    assert agent.received == up
    assert client.received == down
    assert cut.resumed == [False, True, True, True]
    assert [link for link, _ in cut.links] == [Link.UP, Link.DOWN] * 3 + [Link.UP]


@in_loop
async def test_every_connection_has_its_own_token_and_request_id(relay: Relay) -> None:

    async with party(Side.CLIENT, relay) as client:
        await relay.wait_for(lambda: CLIENT in relay.connections)
        relay.cut(CLIENT)
        await relay.wait_for(lambda: len(relay.openings) == 2)
        assert client.runner.resumes == 1

    first, second = relay.openings
    assert (first.token, second.token) == ("token-1", "token-2")
    assert first.request_id != second.request_id
    assert first.client_id == second.client_id


@in_loop
async def test_a_close_frame_is_a_lost_connection_not_the_end(relay: Relay) -> None:

    async with party(Side.AGENT, relay) as agent, party(Side.CLIENT, relay) as client:
        await client.wait_for(lambda: client.ready)
        relay.connections[CLIENT].close_frame(1001)
        await client.wait_for(lambda: len(client.links) == 3)
        client.send(b"still here")
        await agent.wait_for(lambda: agent.received == b"still here")

    assert client.links[1] == (Link.DOWN, "the peer closed the WebSocket with code 1001")


@in_loop
async def test_a_peer_that_breaks_the_websocket_is_replaced(relay: Relay) -> None:

    async with party(Side.CLIENT, relay) as client:
        await relay.wait_for(lambda: CLIENT in relay.connections)
        relay.connections[CLIENT].write_raw(b"\xff\xff")
        await client.wait_for(lambda: len(client.links) == 3)

    assert "broke the WebSocket protocol" in client.links[1][1]


@in_loop
async def test_a_silent_peer_is_noticed_and_replaced(relay: Relay) -> None:
    relay.answers_pings = False

    async with party(Side.CLIENT, relay, keepalive_interval=0.05) as client:
        await client.wait_for(lambda: len(client.links) >= 2)
        relay.answers_pings = True
        await client.wait_for(lambda: len(client.links) >= 3)

    assert client.links[1][0] is Link.DOWN
    assert client.links[1][1].startswith("no sign of life for")


@in_loop
async def test_a_peer_that_answers_pings_is_kept(relay: Relay) -> None:

    async with party(Side.CLIENT, relay, keepalive_interval=0.3) as client:
        await relay.wait_for(lambda: relay.pings >= 3)

    assert [link for link, _ in client.links] == [Link.UP]


@in_loop
async def test_data_sent_while_away_is_held_and_arrives(relay: Relay) -> None:

    async with party(Side.AGENT, relay) as agent, party(Side.CLIENT, relay) as client:
        await client.wait_for(lambda: client.ready)
        relay.cut(CLIENT)
        await client.wait_for(lambda: client.links[-1][0] is Link.DOWN)
        assert not client.runner.connected
        client.send(b"typed in the dark")
        await agent.wait_for(lambda: agent.received == b"typed in the dark")

    assert client.resumed == [False, True]


# -- refusals ---------------------------------------------------------------------------------------


@in_loop
async def test_a_refused_upgrade_ends_it_and_shows_the_answer(relay: Relay) -> None:
    relay.refusals.append((403, b'{"message": "the token is not valid"}'))

    async with party(Side.CLIENT, relay) as client:
        error = await client.ended()

    assert isinstance(error, ConnectionFailed)
    assert (error.status, error.body) == (403, '{"message": "the token is not valid"}')
    assert str(error) == (
        'the server refused the WebSocket with status 403 ({"message": "the token is not valid"})'
    )
    assert client.resumed == [False]


@pytest.mark.parametrize("status", [429, 500, 503])
@in_loop
async def test_a_busy_server_is_asked_again(relay: Relay, status: int) -> None:
    relay.refusals += [(status, b"busy")] * 2

    async with party(Side.CLIENT, relay) as client:
        await client.wait_for(lambda: client.links == [(Link.UP, "")])

    assert client.resumed == [False] * 3


@in_loop
async def test_a_resumed_connection_that_is_refused_thrice_is_the_end(relay: Relay) -> None:

    async with party(Side.CLIENT, relay) as client:
        await relay.wait_for(lambda: CLIENT in relay.connections)
        relay.refusals += [(403, b"gone")] * 3
        relay.cut(CLIENT)
        error = await client.ended()

    assert isinstance(error, ConnectionFailed)
    assert error.status == 403
    assert client.resumed == [False, True, True, True]


@in_loop
async def test_nobody_listening_is_an_error_that_names_the_address() -> None:
    port = unused_port()

    async with Party(Side.CLIENT, f"ws://127.0.0.1:{port}/", delays=QUICK, open_timeout=0.1) as client:
        error = await client.ended()

    assert isinstance(error, ConnectionFailed)
    assert error.what == "no connection in 0.1 s"
    assert error.evidence is not None
    assert f"cannot reach 127.0.0.1:{port}" in error.evidence
    assert len(client.resumed) > 2


@in_loop
async def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with StreamServer(say_nothing) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        async with Party(Side.CLIENT, url, connect_timeout=0.05, open_timeout=0.1, delays=QUICK) as client:
            error = await client.ended()

    assert isinstance(error, ConnectionFailed)
    assert error.evidence == f"127.0.0.1:{server.port} did not answer in 0.05 s"


@in_loop
async def test_a_connection_that_cannot_be_regained_is_given_up_in_time(relay: Relay) -> None:

    async with party(Side.CLIENT, relay, resume_timeout=0.2) as client:
        await relay.wait_for(lambda: CLIENT in relay.connections)
        await relay.close()
        error = await client.ended()

    assert isinstance(error, ConnectionFailed)
    assert error.what == "the connection was lost and could not be regained in 0.2 s"


@in_loop
async def test_a_server_that_accepts_and_drops_is_not_asked_for_ever() -> None:
    """A service that checks the token after the upgrade does that."""

    async def accept_and_drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        key = next(line for line in request.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key:"))
        accept = accept_value(key.split(b":")[1].strip().decode())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n"
        )
        await reader.read(1)

    async with StreamServer(accept_and_drop) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        async with Party(Side.CLIENT, url, resume_timeout=0.3, delays=(0.05, 0.1)) as client:
            error = await client.ended()

    assert isinstance(error, ConnectionFailed)
    assert "could not be regained" in error.what
    assert 3 <= len(client.resumed) <= 12


@pytest.mark.parametrize("error", [NotInstrumented("no"), TargetEnded("over"), HandshakeFailed("no")])
@in_loop
async def test_an_error_of_the_grant_that_stays_ends_it_at_once(relay: Relay, error: Exception) -> None:

    async with party(Side.CLIENT, relay) as client:
        await relay.wait_for(lambda: CLIENT in relay.connections)
        client.failures.append(error)
        relay.cut(CLIENT)
        assert await client.ended() is error

    assert client.resumed == [False, True]


@pytest.mark.parametrize(
    "error",
    [OSError("no route"), ConnectionFailed("lost"), EndpointUnreachable("dns"), asyncio.TimeoutError()],
)
@in_loop
async def test_an_error_of_the_grant_that_may_pass_is_tried_again(relay: Relay, error: Exception) -> None:

    async with party(Side.CLIENT, relay) as client:
        client.failures += [error, error]
        await client.wait_for(lambda: client.links == [(Link.UP, "")])

    assert client.resumed == [False] * 3


@in_loop
async def test_a_hint_that_the_network_is_back_ends_the_pause(relay: Relay) -> None:
    hour = 3600.0

    async with party(Side.CLIENT, relay, delays=(hour, hour), open_timeout=2 * hour) as client:
        # The second attempt comes at once, the third would after an hour.
        client.failures += [EndpointUnreachable("dns")] * 2
        while not client.links:
            client.runner.hurry()
            await asyncio.sleep(0)

    assert client.links == [(Link.UP, "")]
    assert client.resumed == [False] * 3


@in_loop
async def test_a_mistake_in_the_grant_comes_out_of_run(relay: Relay) -> None:

    async with party(Side.CLIENT, relay) as client:
        client.failures.append(KeyError("a mistake"))
        with pytest.raises(KeyError):
            await client.ended()


@in_loop
async def test_a_mistake_in_a_callback_comes_out_of_run(relay: Relay) -> None:

    async with party(Side.AGENT, relay) as agent, party(Side.CLIENT, relay) as client:
        await client.wait_for(lambda: client.ready)

        def fail(data: bytes) -> None:
            raise ZeroDivisionError

        client.on_data = fail
        agent.send(b"x")
        with pytest.raises(ZeroDivisionError):
            await client.ended()


# -- backpressure -----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [Side.CLIENT, Side.AGENT])
@in_loop
async def test_a_slow_sink_holds_the_writer_and_loses_nothing(relay: Relay, side: Side) -> None:
    window = 256 << 10
    data = os.urandom(2_000_000)

    async with party(Side.AGENT, relay, window_bytes=window) as agent, party(
        Side.CLIENT, relay, window_bytes=window
    ) as client:
        reader, writer = (client, agent) if side is Side.CLIENT else (agent, client)
        await reader.wait_for(lambda: reader.ready)
        reader.runner.pause_delivery()
        writer.send(data)
        # What the reader sends meanwhile is acknowledged: it still reads.
        reader.send(b"x" * 100_000)
        await writer.wait_for(lambda: len(writer.received) == 100_000)
        assert await reader.runner.drain(5.0)
        assert not writer.runner.writable
        assert window <= writer.sent <= window + 16384
        assert not reader.received

        reader.runner.resume_delivery()
        await reader.wait_for(lambda: len(reader.received) == len(data))
        assert await writer.runner.drain(5.0)

    assert reader.received == data


@in_loop
async def test_a_sink_that_stops_in_a_callback_gets_nothing_more_until_it_resumes(relay: Relay) -> None:
    data = os.urandom(1_000_000)

    async with party(Side.AGENT, relay) as agent, party(Side.CLIENT, relay) as client:
        stopped = False
        loop = asyncio.get_running_loop()

        def take(piece: bytes) -> None:
            nonlocal stopped
            assert not stopped
            client.received.extend(piece)
            stopped = True
            client.runner.pause_delivery()
            loop.call_soon(go_on)

        def go_on() -> None:
            nonlocal stopped
            stopped = False
            client.runner.resume_delivery()

        client.on_data = take
        agent.send(data)
        await client.wait_for(lambda: len(client.received) == len(data))

    assert client.received == data


@in_loop
async def test_a_socket_that_takes_nothing_holds_the_writer_within_its_window(relay: Relay) -> None:
    window = 256 << 10

    async with party(Side.AGENT, relay), party(Side.CLIENT, relay, window_bytes=window) as client:
        await client.wait_for(lambda: client.ready)
        relay.connections[CLIENT].pause_reading()
        client.send(b"x" * 4_000_000)
        assert client.sent <= window + 16384
        relay.connections[CLIENT].resume_reading()
        await client.wait_for(lambda: client.sent == 4_000_000)
        assert await client.runner.drain(10.0)


@in_loop
async def test_a_writer_that_knows_no_window_is_left_in_its_socket_and_loses_nothing(relay: Relay) -> None:
    """Official peers have none; what is held here has an end."""
    data = os.urandom(2_000_000)

    # Nor do they probe for larger payloads, and wait for the answer.
    official = {"window_bytes": 64 << 20, "max_payload_bytes": 1024}
    async with party(Side.AGENT, relay, **official) as agent, party(Side.CLIENT, relay) as client:
        agent.runner.channel._sender.window_messages = 1 << 20
        await client.wait_for(lambda: client.ready)
        channel = client.runner.channel
        channel._receiver.max_bytes = 1 << 20
        client.runner.pause_delivery()
        agent.send(data)
        await relay.wait_for(lambda: channel.overloaded)
        assert agent.sent == len(data)
        client.runner.resume_delivery()
        await client.wait_for(lambda: len(client.received) == len(data))

    assert client.received == data


# -- ending -----------------------------------------------------------------------------------------


@in_loop
async def test_channel_closed_is_the_end_and_comes_after_the_data(relay: Relay) -> None:

    async with party(Side.AGENT, relay) as agent, party(Side.CLIENT, relay) as client:
        await client.wait_for(lambda: client.ready)
        agent.send(b"last words")
        await agent.runner.drain(5.0)
        relay.send(CLIENT, [channel_closed("idle for too long")])
        assert await client.ended() is None

    assert client.received == b"last words"
    assert client.events[-1] == ChannelClosed("idle for too long")


@in_loop
async def test_channel_closed_waits_for_a_slow_sink_of_the_client(relay: Relay) -> None:

    async with party(Side.AGENT, relay) as agent, party(Side.CLIENT, relay) as client:
        await client.wait_for(lambda: client.ready)
        client.runner.pause_delivery()
        agent.send(b"x" * 5000)
        await relay.wait_for(lambda: relay.forwarded[CLIENT] >= 7)  # two of the handshake, five of data
        relay.send(CLIENT, [channel_closed("")])
        # The service hangs up behind it; that is no reason to connect again.
        relay.connections[CLIENT].close_frame(1000)
        await client.wait_for(lambda: client.links[-1][0] is Link.DOWN)
        assert not client.done
        client.runner.resume_delivery()
        assert await client.ended() is None

    assert client.received == b"x" * 5000
    assert client.resumed == [False]


@in_loop
async def test_channel_closed_cancels_an_agent_whose_sink_is_stuck(relay: Relay) -> None:

    async with party(Side.AGENT, relay) as agent, party(Side.CLIENT, relay) as client:
        await agent.wait_for(lambda: agent.ready)
        agent.runner.pause_delivery()
        await client.wait_for(lambda: client.ready)
        client.send(b"x" * 5000)
        relay.send(AGENT, [channel_closed("")])
        assert await agent.ended() is None

    assert agent.events[-1] == ChannelClosed("")
    assert not any(isinstance(event, StreamData) for event in agent.events)


@in_loop
async def test_an_end_before_the_beginning_is_an_error_with_the_reason(relay: Relay) -> None:

    async with party(Side.CLIENT, relay) as client:
        await relay.wait_for(lambda: CLIENT in relay.connections)
        relay.send(CLIENT, [channel_closed("Unable to connect to specified port: connection refused")])
        error = await client.ended()

    assert isinstance(error, HandshakeFailed)
    assert str(error) == (
        "the session was closed before it began (Unable to connect to specified port: connection refused)"
    )


@in_loop
async def test_closing_ends_the_run_and_the_connection(relay: Relay) -> None:

    async with party(Side.CLIENT, relay) as client:
        await relay.wait_for(lambda: CLIENT in relay.connections)
        client.runner.close()
        assert await client.ended() is None
        await relay.wait_for(lambda: CLIENT not in relay.connections)

    assert client.resumed == [False]


@in_loop
async def test_an_agent_of_a_shell_says_goodbye(relay: Relay) -> None:

    async with party(Side.AGENT, relay, session_type="Standard_Stream") as agent:
        await agent.wait_for(lambda: agent.ready)
        agent.runner.close()
        await agent.ended()
        await relay.wait_for(lambda: len(relay.states) == 2)

    assert [b"Connected" in relay.states[0].payload, b"Terminating" in relay.states[1].payload] == [
        True,
        True,
    ]


@in_loop
async def test_closing_before_the_run_and_while_connecting() -> None:
    port = unused_port()
    early = Party(Side.CLIENT, f"ws://127.0.0.1:{port}/")
    early.runner.close()
    async with early:
        assert await early.ended() is None
    assert early.resumed == []

    async with Party(Side.CLIENT, f"ws://127.0.0.1:{port}/", delays=(5.0, 5.0)) as client:
        await asyncio.sleep(0)
        client.runner.close()
        assert await client.ended() is None


@in_loop
async def test_cancelling_the_run_closes_the_connection(relay: Relay) -> None:

    async with party(Side.CLIENT, relay) as client:
        await relay.wait_for(lambda: CLIENT in relay.connections)
        assert client.task is not None
        client.task.cancel()
        await relay.wait_for(lambda: CLIENT not in relay.connections)
        with pytest.raises(asyncio.CancelledError):
            await client.ended()


@in_loop
async def test_drain_gives_up_after_its_time(relay: Relay) -> None:

    async with party(Side.AGENT, relay) as agent, party(Side.CLIENT, relay) as client:
        await client.wait_for(lambda: client.ready)
        relay.cut(AGENT)
        agent.runner.close()
        await agent.ended()
        client.send(b"to nobody")
        assert not await client.runner.drain(0.05)
