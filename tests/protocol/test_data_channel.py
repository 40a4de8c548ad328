"""The data channel, both sides: two real machines on a link, and single machines against given messages."""

import json
import logging
import uuid
from typing import Any, Dict, List, Optional, Tuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.link import Fate, Link, Mishap, counting_bytes, fates, make_channel, plans
from sagemaker_ssh_helper.errors import HandshakeFailed
from sagemaker_ssh_helper.protocol import payloads
from sagemaker_ssh_helper.protocol.data_channel import (
    AGENT_HANDSHAKE_TIMEOUT,
    CLIENT_HANDSHAKE_TIMEOUT,
    GRACE,
    MAX_EARLY_BYTES,
    MAX_PENDING,
    MAX_REQUESTS,
    PAYLOAD_BYTES,
    RELEASE_BYTES,
    ChannelClosed,
    DataChannel,
    Event,
    Failed,
    FlagReceived,
    PeerTerminating,
    Ready,
    Side,
    State,
    StreamData,
)
from sagemaker_ssh_helper.protocol.message import (
    HEADER_BYTES,
    SYN,
    SYN_FIN,
    AgentMessage,
    Flag,
    MessageType,
    PayloadType,
    format_message_id,
)
from sagemaker_ssh_helper.protocol.payloads import (
    Acknowledge,
    AgentSessionState,
    HandshakeComplete,
    HandshakeRequest,
    HandshakeResponse,
    OpenDataChannelInput,
    ProcessedAction,
    SessionType,
)
from sagemaker_ssh_helper.protocol.stream import Receiver

pytestmark = pytest.mark.container

BOTH = pytest.mark.parametrize("side", list(Side), ids=lambda side: side.value)
STREAM = {Side.CLIENT: MessageType.OUTPUT_STREAM_DATA, Side.AGENT: MessageType.INPUT_STREAM_DATA}
"""What each side receives."""

_ids = counting_bytes()


def stream(side: Side, number: int, payload: bytes, payload_type: int = PayloadType.OUTPUT) -> bytes:
    """A stream message for that side."""
    return AgentMessage(
        STREAM[side],
        payload,
        sequence_number=number,
        payload_type=payload_type,
        message_id=_ids(16),
        created_ms=1700000000000,
    ).serialize()


def other(message_type: str, payload: bytes = b"{}") -> bytes:
    """A message outside the stream."""
    return AgentMessage(message_type, payload, message_id=_ids(16), created_ms=1700000000000).serialize()


def sent(channel: DataChannel, now: Optional[float] = None) -> List[AgentMessage]:
    """What the channel wants to write now."""
    return [AgentMessage.parse(data) for data in channel.messages_to_send(now)]


def acknowledged(messages: List[AgentMessage]) -> List[int]:
    return [
        Acknowledge.parse_sequence_number(message.payload)
        for message in messages
        if message.message_type == MessageType.ACKNOWLEDGE
    ]


def of_type(messages: List[AgentMessage], payload_type: int) -> List[AgentMessage]:
    return [message for message in messages if message.payload_type == payload_type]


def opened(side: Side, **options: Any) -> DataChannel:
    channel = make_channel(side, **options)
    channel.open("token", 0.0)
    channel.text_to_send()
    return channel


def ready(side: Side, **options: Any) -> Tuple[DataChannel, int]:
    """A channel that is OPEN, with nothing left to write, and the number the peer uses next."""
    channel = opened(side, **options)
    sent(channel, 0.0)
    if side is Side.CLIENT:
        request = HandshakeRequest("3.3.1000.0", SessionType.PORT, {"portNumber": "22"}, sm_ssh=MARKER)
        channel.receive_message(stream(side, 0, request.serialize(), PayloadType.HANDSHAKE_REQUEST), 0.0)
        sent(channel, 0.0)
        channel.receive_message(acknowledge(Side.CLIENT, 0), 0.0)
        complete = HandshakeComplete(1, "").serialize()
        channel.receive_message(stream(side, 1, complete, PayloadType.HANDSHAKE_COMPLETE), 0.0)
        number = 2
    else:
        channel.receive_message(acknowledge(side, 0), 0.0)
        channel.receive_message(stream(side, 0, RESPONSE, PayloadType.HANDSHAKE_RESPONSE), 0.0)
        sent(channel, 0.0)
        channel.receive_message(acknowledge(side, 1), 0.0)
        number = 1
    sent(channel, 0.0)
    assert channel.state is State.OPEN
    assert channel.drained
    return channel, number


MARKER: Dict[str, int] = {"v": 1, "max": 65536}
RESPONSE = HandshakeResponse("1.2.700.0", (ProcessedAction("SessionType"),)).serialize()


def acknowledge(side: Side, number: int) -> bytes:
    """The peer's acknowledge of a message of that side."""
    message_type = STREAM[Side.AGENT if side is Side.CLIENT else Side.CLIENT]
    return other(MessageType.ACKNOWLEDGE, Acknowledge(message_type, "an id", number).serialize())


def identity(data: bytes) -> Tuple[str, int, bytes]:
    """What two copies of a message have in common, and no other message."""
    message = AgentMessage.parse(data)
    is_stream = message.message_type in STREAM.values()
    return message.message_type, message.sequence_number, b"" if is_stream else message.message_id


# -- two machines -----------------------------------------------------------------------------------


def test_two_of_our_ends_find_each_other() -> None:
    link = Link().start()

    assert link.client.events == [Ready("Port", {"portNumber": "22"}, "3.3.1000.0", "")]
    assert link.agent.events == [Ready("Port", {"portNumber": "22"}, "3.3.1000.0", "")]
    assert link.client.channel.peer_max_payload_bytes == 65536
    assert link.agent.channel.peer_max_payload_bytes == 65536


def test_the_handshake_takes_three_trips_and_the_agent_does_not_wait_for_the_client() -> None:
    link = Link(delay=0.1)
    link.open(Side.AGENT)
    link.open(Side.CLIENT)
    began = link.now
    link.run(lambda: link.client.ready)

    assert link.now - began == pytest.approx(0.3)


def test_a_client_that_comes_late_gets_its_handshake() -> None:
    link = Link()
    link.open(Side.AGENT)
    link.at(link.now + 9.0, lambda: link.open(Side.CLIENT))
    link.run(lambda: link.client.ready and link.agent.ready)

    # What the agent repeats meanwhile is one message, ever more rarely.
    requests = [data for side, data in link.messages if side is Side.AGENT][:-10]
    assert len(requests) < 20


@BOTH
def test_bytes_arrive(side: Side) -> None:
    link = Link().start()
    data = bytes(range(256)) * 40
    link.send(side, data)
    receiver = link.agent if side is Side.CLIENT else link.client
    link.run(lambda: link.settled and len(receiver.received) >= len(data))

    assert receiver.received == data


@BOTH
def test_one_lost_message_among_many_costs_about_a_round_trip(side: Side) -> None:
    link = Link(delay=0.02).start()
    link.send(side, b"x" * 200_000)
    link.run(lambda: link.settled)
    end = link.ends[side]
    end.fates = iter([Fate()] * 3 + [Fate(copies=0)])
    began = link.now
    link.send(side, b"y" * 200_000)
    receiver = link.agent if side is Side.CLIENT else link.client
    link.run(lambda: len(receiver.received) == 400_000)

    assert end.channel.resent == 1
    assert link.now - began < 0.15


@BOTH
def test_the_last_message_lost_costs_a_timeout(side: Side) -> None:
    link = Link(delay=0.02).start()
    link.send(side, b"x" * 200_000)
    link.run(lambda: link.settled)
    link.ends[side].fates = iter([Fate(copies=0)])
    began = link.now
    link.send(side, b"!")
    link.run(lambda: link.settled)

    assert link.now - began == pytest.approx(0.1 + 0.04, abs=0.06)


@BOTH
def test_a_lost_acknowledge_is_repeated_when_the_message_is(side: Side) -> None:
    """The official client stays silent, and its agent resends for the rest of the session."""
    link = Link().start()
    receiver = link.agent if side is Side.CLIENT else link.client
    receiver.fates = iter([Fate(copies=0)] * 3)
    link.send(side, b"x" * 3000)
    link.run(lambda: link.settled)

    assert receiver.received == b"x" * 3000


@BOTH
def test_a_cut_in_mid_stream_loses_nothing(side: Side) -> None:
    link = Link(delay=0.03).start()
    up, down = b"u" * 500_000, b"d" * 400_000
    link.send(Side.CLIENT, up)
    link.send(Side.AGENT, down)
    for number in range(5):
        link.at(link.now + 0.04 * number, lambda: link.cut(side, 0.01))
    link.run(lambda: link.settled)

    assert link.agent.received == up
    assert link.client.received == down
    assert len(link.ends[side].texts) > 2


def test_a_paused_sink_holds_the_writer_while_acknowledges_flow() -> None:
    # Small payloads only, so that no probe takes room in the window.
    client = make_channel(Side.CLIENT, window_bytes=100_000, max_payload_bytes=PAYLOAD_BYTES)
    link = Link(client).start()
    link.pause_delivery(Side.AGENT)
    link.send(Side.CLIENT, b"u" * 500_000)
    link.send(Side.AGENT, b"d" * 500_000)
    link.run(lambda: len(link.client.received) == 500_000 and link.agent.channel.drained)
    link.run_for(60.0)

    assert link.agent.received == b""
    assert len(link.client.to_send) == 400_000
    # A minute of waiting costs next to nothing.
    assert link.client.channel.resent < 200

    link.resume_delivery(Side.AGENT)
    link.run(lambda: link.settled)
    assert link.agent.received == b"u" * 500_000


@given(
    up=fates(),
    down=fates(),
    delay=st.sampled_from([0.0, 0.001, 0.04, 0.7]),
    plan=plans(),
    up_bytes=st.integers(0, 300_000),
    down_bytes=st.integers(0, 60_000),
)
def test_all_bytes_arrive_in_order_and_once_whatever_the_link_does(
    up: List[Fate],
    down: List[Fate],
    delay: float,
    plan: List[Mishap],
    up_bytes: int,
    down_bytes: int,
) -> None:
    link = Link(up=up, down=down, delay=delay)
    link.open(Side.AGENT)
    link.open(Side.CLIENT)
    link.follow(plan)
    sent_up = bytes(number * 7 % 251 for number in range(up_bytes))
    sent_down = bytes(number * 5 % 241 for number in range(down_bytes))
    link.send(Side.CLIENT, sent_up)
    link.send(Side.AGENT, sent_down)

    link.run(lambda: link.settled or any(end.channel.state is State.CLOSED for end in link.ends.values()))

    # A link so bad that the handshake takes longer than its deadline is another test.
    assume(link.client.channel.state is State.OPEN)
    assume(link.agent.channel.state is State.OPEN)
    assert link.agent.received == sent_up
    assert link.client.received == sent_down
    assert link.client.channel.malformed == link.agent.channel.malformed == 0
    assert link.client.channel.refused == link.agent.channel.refused == 0
    for side, end in link.ends.items():
        # A probe that is sent again has the same number only.
        handed_out = [identity(data) for sender, data in link.messages if sender is side]
        assert len(handed_out) - len(set(handed_out)) == end.channel.resent, (
            "handed out twice, and not as a resend"
        )


# -- an agent of ours and an official client --------------------------------------------------------


class OfficialReceiver(Receiver[AgentMessage]):
    """Says nothing about what it has delivered before."""

    def receive(self, sequence_number: int, item: AgentMessage, size: int) -> bool:
        known = sequence_number < self.expected
        return super().receive(sequence_number, item, size) and not known


def link_to_official_client(delay: float, window_bytes: int) -> Link:
    link = Link(agent=make_channel(Side.AGENT, window_bytes=window_bytes), delay=delay)
    link.client.channel._receiver = OfficialReceiver()
    link.start()
    link.agent.channel._meet(None)
    return link


@pytest.mark.parametrize("side", list(Side), ids=lambda side: f"{side.value} cut")
@pytest.mark.parametrize("window_bytes", [20_000, 8 << 20])
def test_acknowledges_lost_in_a_cut_do_not_stop_a_download_of_an_official_client(
    side: Side, window_bytes: int
) -> None:
    """The official agent stands still for good there."""
    link = link_to_official_client(0.02, window_bytes)
    data = bytes(number % 251 for number in range(2_000_000))
    link.send(Side.AGENT, data)
    for number in range(5):
        link.at(link.now + 0.05 + 0.3 * number, lambda: link.cut(side, 0.01))
    link.run(lambda: len(link.client.received) >= len(data), limit=60.0)
    assert link.client.received == data

    # And what is said later arrives as quickly as ever.
    link.run_for(120.0)
    began = link.now
    link.send(Side.AGENT, b"!")
    link.run(lambda: bytes(link.client.received[-1:]) == b"!")
    assert link.now - began < 0.1


def test_all_acknowledges_of_a_full_window_may_be_lost() -> None:
    link = link_to_official_client(0.02, 100_000)
    data = bytes(number % 251 for number in range(400_000))
    link.send(Side.AGENT, data)
    # The window has arrived, its acknowledges are on their way.
    link.run_for(0.03)
    assert len(link.client.received) > 99_000
    link.cut(Side.CLIENT, 0.01)
    link.run(lambda: len(link.client.received) >= len(data), limit=30.0)

    assert link.client.received == data


@given(
    cuts=st.lists(st.tuples(st.floats(0, 3), st.sampled_from(list(Side))), max_size=6),
    delay=st.sampled_from([0.001, 0.04, 0.4]),
    window_bytes=st.sampled_from([5000, 60_000, 1 << 20]),
    size=st.integers(1, 200_000),
)
def test_a_download_of_an_official_client_survives_any_cuts(
    cuts: List[Tuple[float, Side]], delay: float, window_bytes: int, size: int
) -> None:
    link = link_to_official_client(delay, window_bytes)
    data = bytes(number * 7 % 251 for number in range(size))
    link.send(Side.AGENT, data)
    for after, side in cuts:
        link.at(link.now + after, lambda side=side: link.cut(side, 0.05))
    link.run(lambda: len(link.client.received) >= size, limit=300.0)

    assert link.client.received == data


# -- opening ----------------------------------------------------------------------------------------


def test_a_client_opens_with_its_id_and_version() -> None:
    channel = make_channel(Side.CLIENT, version="1.2.700.0")
    channel.open("secret", 0.0)
    text = channel.text_to_send()

    assert text is not None
    opening = OpenDataChannelInput.parse(text)
    assert (opening.token, opening.client_id, opening.client_version, opening.is_agent) == (
        "secret",
        "00000000-0000-4000-8000-000000000001",
        "1.2.700.0",
        False,
    )
    assert channel.text_to_send() is None
    assert sent(channel, 0.0) == []


def test_an_agent_opens_announces_itself_and_asks_for_the_handshake() -> None:
    channel = make_channel(Side.AGENT, version="3.3.1000.0")
    channel.open("secret", 0.0)
    text = channel.text_to_send()
    state, request = sent(channel, 0.0)

    assert text is not None
    opening = OpenDataChannelInput.parse(text)
    assert (opening.client_id, opening.client_instance_id) == ("", "mi-0123456789abcdef0")
    assert (state.message_type, state.flags, state.sequence_number) == ("agent_session_state", SYN_FIN, 0)
    assert AgentSessionState.parse(state.payload) == AgentSessionState("Connected", channel.session_id)
    assert (request.sequence_number, request.flags, request.payload_type) == (0, SYN, 5)
    parsed = HandshakeRequest.parse(request.payload)
    assert parsed == HandshakeRequest("3.3.1000.0", "Port", {"portNumber": "22"}, sm_ssh=MARKER)


@BOTH
def test_only_the_first_connection_announces_anything(side: Side) -> None:
    channel, _ = ready(side)
    channel.connection_lost(1.0)
    assert sent(channel, 1.0) == []
    channel.open("another", 2.0)
    text = channel.text_to_send()

    assert text is not None
    assert OpenDataChannelInput.parse(text).token == "another"
    assert sent(channel, 2.0) == []


@BOTH
def test_the_token_and_the_data_are_in_no_log(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        channel, number = ready(side)
        channel.send_data(b"a secret of the user", 0.0)
        sent(channel, 0.0)
        channel.receive_message(stream(side, number, b"a secret of the user"), 0.0)
        channel.connection_lost(1.0)
        channel.open("a secret of the service", 1.0)

    assert "= data channel of user-0123456789abcdef0 is OPEN" in caplog.text
    assert "secret" not in caplog.text


# -- handshake: the client --------------------------------------------------------------------------


def asked(request: Dict[str, Any]) -> Tuple[DataChannel, List[AgentMessage]]:
    """A client that got this HandshakeRequest, and what it answered."""
    channel = opened(Side.CLIENT)
    payload = json.dumps(request).encode()
    assert channel.receive_message(stream(Side.CLIENT, 0, payload, 5), 0.0) == []
    return channel, sent(channel, 0.0)


def session_type(name: str, properties: Any = None) -> Dict[str, Any]:
    return {
        "ActionType": "SessionType",
        "ActionParameters": {"SessionType": name, "Properties": properties},
    }


def answered(messages: List[AgentMessage]) -> HandshakeResponse:
    (response,) = of_type(messages, PayloadType.HANDSHAKE_RESPONSE)
    return HandshakeResponse.parse(response.payload)


def test_the_client_acknowledges_the_request_and_then_answers_once() -> None:
    _, messages = asked({"AgentVersion": "3.3.0.0", "RequestedClientActions": [session_type("Port", {})]})

    assert [message.message_type for message in messages] == ["acknowledge", "input_stream_data"]
    assert (messages[1].sequence_number, messages[1].flags) == (0, 0)
    response = answered(messages)
    assert response.processed_actions == (ProcessedAction("SessionType", 1, None, ""),)
    assert response.errors is None


def test_a_repeated_request_is_acknowledged_and_not_answered_again() -> None:
    """A second answer would block an official agent for ever."""
    request = HandshakeRequest("3.3.0.0", "Port", {}).serialize()
    channel = opened(Side.CLIENT)
    for _ in range(3):
        channel.receive_message(stream(Side.CLIENT, 0, request, 5), 0.0)
    messages = sent(channel, 0.0)

    assert acknowledged(messages) == [0, 0, 0]
    answered(messages)


def test_a_flood_of_requests_takes_no_memory_and_no_time() -> None:
    """Each new one could be answered, and begin the wait for the next step anew."""
    request = HandshakeRequest("3.3.0.0", "Port", {}).serialize()
    channel = opened(Side.CLIENT)
    channel.receive_message(stream(Side.CLIENT, 0, request, 5), 0.0)
    deadline = channel._handshake_until
    events = []
    for number in range(1, 1000):
        events += channel.receive_message(stream(Side.CLIENT, number, request, 5), 20.0)
        assert channel._handshake_until in (deadline, None)
    (failed,) = events

    assert isinstance(failed, Failed)
    assert "again and again" in str(failed.error)
    assert len(of_type(sent(channel), PayloadType.HANDSHAKE_RESPONSE)) <= MAX_REQUESTS
    assert channel.unacknowledged <= MAX_REQUESTS


def test_repeated_requests_do_not_prolong_the_handshake() -> None:
    request = HandshakeRequest("3.3.0.0", "Port", {}).serialize()
    channel = opened(Side.CLIENT)
    for number in range(2):
        channel.receive_message(stream(Side.CLIENT, number, request, 5), 20.0 * number)

    (failed,) = channel.handle_timer(CLIENT_HANDSHAKE_TIMEOUT)

    assert isinstance(failed, Failed)


@pytest.mark.parametrize("name", ["Port", "Standard_Stream", "InteractiveCommands", "NonInteractiveCommands"])
def test_the_client_takes_all_kinds_of_session(name: str) -> None:
    channel, messages = asked({"AgentVersion": "3.3.0.0", "RequestedClientActions": [session_type(name)]})
    assert answered(messages).processed_actions[0].status == 1

    complete = HandshakeComplete(5, "Session is encrypted").serialize()
    events = channel.receive_message(stream(Side.CLIENT, 1, complete, 7), 0.0)

    assert events == [Ready(name, None, "3.3.0.0", "Session is encrypted")]


def test_an_action_the_client_does_not_know_is_answered_as_unsupported() -> None:
    _, messages = asked(
        {
            "AgentVersion": "3.3.0.0",
            "RequestedClientActions": [
                session_type("Port"),
                {"ActionType": "Teleport", "ActionParameters": 5},
            ],
        }
    )

    response = answered(messages)
    error = "Unsupported action Teleport"
    assert response.processed_actions[1] == ProcessedAction("Teleport", 3, None, error)
    assert response.errors == (error,)


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (session_type("Dream"), "Unknown session type Dream"),
        (
            {"ActionType": "KMSEncryption", "ActionParameters": {"KMSKeyId": "key"}},
            "Not tried, as the session is refused",
        ),
    ],
)
def test_what_the_client_cannot_do_is_refused_and_named_at_the_end(action: Any, error: str) -> None:
    channel, messages = asked({"AgentVersion": "3.3.0.0", "RequestedClientActions": [action]})
    assert answered(messages).processed_actions[0].status == 2
    assert answered(messages).errors == (error,)

    closed = payloads.ChannelClosed("s", output="cancelled").serialize()
    (event,) = channel.receive_message(other(MessageType.CHANNEL_CLOSED, closed), 1.0)

    assert isinstance(event, Failed)
    assert str(event.error) == f"{error} (cancelled)"


def test_a_foreign_agent_gets_no_data_for_a_moment_after_the_handshake() -> None:
    """It marks its handshake as complete a little after it said so, and loses what comes between."""
    channel, _ = asked({"AgentVersion": "3.3.0.0", "RequestedClientActions": [session_type("Port")]})
    complete = HandshakeComplete().serialize()
    (event,) = channel.receive_message(stream(Side.CLIENT, 1, complete, 7), 1.0)
    assert isinstance(event, Ready)
    assert channel.state is State.GRACE
    assert channel.writable

    channel.send_data(b"SSH-2.0-me\r\n", 1.0)
    assert of_type(sent(channel, 1.0), PayloadType.OUTPUT) == []
    # Its own data needs no grace.
    assert channel.receive_message(stream(Side.CLIENT, 2, b"SSH-2.0-it\r\n"), 1.01) == [
        StreamData(1, b"SSH-2.0-it\r\n")
    ]

    deadline = 1.0 + GRACE
    assert channel.next_deadline() is not None
    channel.handle_timer(deadline)
    (message,) = of_type(sent(channel, deadline), PayloadType.OUTPUT)
    assert message.payload == b"SSH-2.0-me\r\n"


def test_what_a_foreign_agent_does_not_acknowledge_it_does_not_have() -> None:
    """
    Unlike clients, it acknowledges a message as often as it comes; what it is not ready for, not at all.
    """
    channel, _ = asked({"AgentVersion": "3.3.0.0", "RequestedClientActions": [session_type("Port")]})
    channel.receive_message(acknowledge(Side.CLIENT, 0), 0.0)
    complete = HandshakeComplete().serialize()
    channel.receive_message(stream(Side.CLIENT, 1, complete, 7), 0.0)
    channel.handle_timer(GRACE)
    room = channel.send_capacity_bytes

    channel.send_data(bytes(4 * 1024), 1.0)
    sent(channel, 1.0)
    for number in (2, 3, 4):
        channel.receive_message(acknowledge(Side.CLIENT, number), 1.01)
    channel.handle_timer(2.0)
    (again,) = of_type(sent(channel, 2.0), PayloadType.OUTPUT)
    channel.send_data(bytes(1024), 2.0)
    sent(channel, 2.0)
    channel.receive_message(acknowledge(Side.CLIENT, 5), 2.01)
    for tick in range(10):
        channel.handle_timer(3.0 + tick)
        assert [message.sequence_number for message in sent(channel, 3.0 + tick)] == [1]

    assert again.sequence_number == 1
    assert channel.send_capacity_bytes == room - 5 * 1024
    channel.receive_message(acknowledge(Side.CLIENT, 1), 13.0)
    assert channel.drained


@pytest.mark.parametrize("marker", [None, {}, {"v": 2, "max": 65536}, {"v": 1}, {"v": 1, "max": "big"}, 7])
def test_a_marker_that_cannot_be_read_is_that_of_a_foreigner(marker: Any) -> None:
    channel, _ = asked(
        {"AgentVersion": "3.3.0.0", "RequestedClientActions": [session_type("Port")], "SmSsh": marker}
    )

    assert channel.peer_max_payload_bytes is None


def test_a_client_gives_up_when_no_handshake_comes() -> None:
    channel = opened(Side.CLIENT)
    assert channel.next_deadline() == CLIENT_HANDSHAKE_TIMEOUT
    assert channel.handle_timer(CLIENT_HANDSHAKE_TIMEOUT - 0.1) == []

    (event,) = channel.handle_timer(CLIENT_HANDSHAKE_TIMEOUT)

    assert isinstance(event, Failed)
    assert isinstance(event.error, HandshakeFailed)
    assert str(event.error) == "the agent did not complete the handshake in 30 s"
    assert channel.next_deadline() is None


def test_a_handshake_completed_without_a_type_of_session_fails() -> None:
    channel, _ = asked({"AgentVersion": "3.3.0.0", "RequestedClientActions": []})

    (event,) = channel.receive_message(stream(Side.CLIENT, 1, b"{}", PayloadType.HANDSHAKE_COMPLETE), 0.0)

    assert isinstance(event, Failed)


@pytest.mark.parametrize("payload_type", [PayloadType.OUTPUT, PayloadType.STDERR])
def test_output_before_a_handshake_means_that_there_is_none(payload_type: int) -> None:
    channel = opened(Side.CLIENT, session_type="InteractiveCommands")
    assert channel.next_deadline() is None

    events = channel.receive_message(stream(Side.CLIENT, 0, b"$ ", payload_type), 0.0)

    assert events == [Ready("Standard_Stream", None, "", ""), StreamData(payload_type, b"$ ")]
    channel.send_data(b"ls\r", 0.0)
    messages = sent(channel, 0.0)
    assert acknowledged(messages) == [0]
    assert of_type(messages, PayloadType.OUTPUT)[0].payload == b"ls\r"


# -- handshake: the agent ---------------------------------------------------------------------------


def test_the_agent_acknowledges_the_response_before_it_completes() -> None:
    """An official client in multiplexed mode cannot bear the reverse."""
    channel = opened(Side.AGENT)
    sent(channel, 0.0)

    (event,) = channel.receive_message(stream(Side.AGENT, 0, RESPONSE, 6), 0.25)

    assert event == Ready("Port", {"portNumber": "22"}, "1.2.700.0", "")
    messages = sent(channel, 0.25)
    assert [message.message_type for message in messages[:2]] == ["acknowledge", "output_stream_data"]
    complete = HandshakeComplete.parse(messages[1].payload)
    assert complete == HandshakeComplete(250_000_000, "")


@pytest.mark.parametrize("status", [0, 2, 3, 99])
def test_a_client_that_refuses_an_action_fails_the_session(status: int) -> None:
    channel = opened(Side.AGENT)
    response = HandshakeResponse("1.2", (ProcessedAction("SessionType", status, None, "cannot"),))

    (event,) = channel.receive_message(stream(Side.AGENT, 0, response.serialize(), 6), 0.0)

    assert isinstance(event, Failed)
    assert str(event.error) == f"the client refused SessionType of the handshake (status {status} cannot)"
    assert of_type(sent(channel, 0.0), PayloadType.HANDSHAKE_COMPLETE) == []


def test_an_agent_waits_fifteen_seconds_for_the_response() -> None:
    channel = opened(Side.AGENT)
    now = 0.0
    events: List[Event] = []
    while not events:
        sent(channel, now)
        deadline = channel.next_deadline()
        assert deadline is not None
        now = deadline
        events = channel.handle_timer(now)

    assert now == AGENT_HANDSHAKE_TIMEOUT
    assert isinstance(events[0], Failed)
    assert str(events[0].error) == "the client did not complete the handshake in 15 s"


def test_a_cut_does_not_prolong_the_handshake() -> None:
    channel = opened(Side.AGENT)
    channel.connection_lost(14.0)
    assert channel.next_deadline() == AGENT_HANDSHAKE_TIMEOUT

    channel.open("again", 14.5)
    assert isinstance(channel.handle_timer(15.0)[0], Failed)


def test_a_second_response_is_acknowledged_and_dropped() -> None:
    channel, number = ready(Side.AGENT)

    assert channel.receive_message(stream(Side.AGENT, number, RESPONSE, 6), 0.0) == []

    assert acknowledged(sent(channel, 0.0)) == [number]
    assert channel.refused == 1


@pytest.mark.parametrize("name", ["Standard_Stream", "InteractiveCommands"])
def test_an_agent_of_a_kind_without_handshake_is_ready_at_once(name: str) -> None:
    channel = make_channel(Side.AGENT, session_type=name, properties=None)
    channel.open("token", 5.0)

    assert channel.next_deadline() == 5.0
    assert channel.handle_timer(5.0) == [Ready(name, None, "", "")]
    channel.send_data(b"$ ", 5.0)
    state, output = sent(channel, 5.0)
    assert state.message_type == "agent_session_state"
    assert (output.sequence_number, output.flags, output.payload_type) == (0, SYN, 1)


# -- data before its time ---------------------------------------------------------------------------


def test_input_before_the_handshake_is_kept_for_after_it() -> None:
    """The official agent acknowledges and drops it."""
    channel = opened(Side.AGENT)
    assert channel.receive_message(stream(Side.AGENT, 0, b"too "), 0.0) == []
    assert channel.receive_message(stream(Side.AGENT, 1, b"early"), 0.0) == []

    events = channel.receive_message(stream(Side.AGENT, 2, RESPONSE, 6), 0.0)

    assert [type(event) for event in events] == [Ready, StreamData, StreamData]
    assert events[1:] == [StreamData(1, b"too "), StreamData(1, b"early")]
    assert acknowledged(sent(channel, 0.0)) == [0, 1, 2]


def test_output_before_the_handshake_is_complete_is_kept_for_after_it() -> None:
    channel, _ = asked({"AgentVersion": "3.3.0.0", "RequestedClientActions": [session_type("Port")]})
    assert channel.receive_message(stream(Side.CLIENT, 1, b"early"), 0.0) == []

    complete = HandshakeComplete().serialize()
    events = channel.receive_message(stream(Side.CLIENT, 2, complete, 7), 0.0)

    assert events[1:] == [StreamData(1, b"early")]


def test_endless_input_instead_of_a_handshake_fails_the_session() -> None:
    channel = opened(Side.AGENT)
    events: List[Event] = []
    number = 0
    while not events:
        events = channel.receive_message(stream(Side.AGENT, number, bytes(60_000)), 0.0)
        number += 1

    assert number == MAX_EARLY_BYTES // (60_000 + HEADER_BYTES) + 1
    assert isinstance(events[0], Failed)


def test_endless_messages_without_a_byte_instead_of_a_handshake_fail_the_session() -> None:
    channel = opened(Side.AGENT)
    events: List[Event] = []
    number = 0
    while not events:
        events = channel.receive_message(stream(Side.AGENT, number, b""), 0.0)
        number += 1

    assert number == MAX_EARLY_BYTES // HEADER_BYTES + 1
    assert isinstance(events[0], Failed)


@BOTH
def test_sending_before_ready_is_a_mistake(side: Side) -> None:
    channel = opened(side)
    assert not channel.writable
    assert channel.send_capacity_bytes == 0

    with pytest.raises(AssertionError, match="before Ready"):
        channel.send_data(b"x", 0.0)


# -- data -------------------------------------------------------------------------------------------


@BOTH
def test_data_is_cut_into_payloads_and_numbered(side: Side) -> None:
    channel, _ = ready(side)
    first = 1 if side is Side.CLIENT else 2
    channel.send_data(b"a" * 2500, 0.0)
    channel.send_data(b"", 0.0)
    channel.send_data(b"b", 0.0)
    messages = sent(channel, 0.0)

    assert [len(message.payload) for message in messages] == [1024, 1024, 452, 1]
    assert [message.sequence_number for message in messages] == [first, first + 1, first + 2, first + 3]
    assert {message.flags for message in messages} == {0}
    assert len({message.message_id for message in messages}) == 4


def test_message_ids_are_random_uuids() -> None:
    channel, _ = ready(Side.CLIENT, random_bytes=lambda size: bytes(range(256)) * (size // 256))
    channel.send_data(bytes(300 * 1024), 0.0)

    for message in sent(channel, 0.0):
        parsed = uuid.UUID(bytes=message.message_id)
        assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)


@BOTH
def test_neighbouring_messages_of_a_batch_come_as_one(side: Side) -> None:
    channel, number = ready(side)

    events = channel.receive_messages(
        [
            stream(side, number, b"one "),
            stream(side, number + 1, b"two "),
            stream(side, number + 2, b"err", PayloadType.STDERR),
            stream(side, number + 3, b"", PayloadType.OUTPUT),
            stream(side, number + 4, b"three"),
        ],
        0.0,
    )

    assert events == [StreamData(1, b"one two "), StreamData(11, b"err"), StreamData(1, b"three")]
    assert acknowledged(sent(channel, 0.0)) == [number + step for step in range(5)]


@BOTH
def test_an_acknowledge_names_the_message_by_type_id_and_number(side: Side) -> None:
    channel, number = ready(side)
    message = AgentMessage.parse(stream(side, number, b"x"))
    channel.receive_message(message.serialize(), 0.0)
    (acknowledge_,) = sent(channel, 0.0)

    assert Acknowledge.parse(acknowledge_.payload) == Acknowledge(
        STREAM[side], format_message_id(message.message_id), number
    )
    assert (acknowledge_.sequence_number, acknowledge_.flags, acknowledge_.payload_type) == (0, SYN_FIN, 0)


@BOTH
@pytest.mark.parametrize("flag", [Flag.DISCONNECT_TO_PORT, Flag.TERMINATE_SESSION, 99])
def test_flags_are_told_known_or_not(side: Side, flag: int) -> None:
    channel, number = ready(side)

    payload = payloads.serialize_flag(flag)
    message = stream(side, number, payload, PayloadType.FLAG)
    assert channel.receive_message(message, 0.0) == [FlagReceived(flag)]


@BOTH
def test_a_broken_flag_is_acknowledged_and_dropped(side: Side) -> None:
    channel, number = ready(side)

    assert channel.receive_message(stream(side, number, b"\0", PayloadType.FLAG), 0.0) == []

    assert acknowledged(sent(channel, 0.0)) == [number]
    assert channel.malformed == 1
    assert channel.state is State.OPEN


@BOTH
def test_flags_and_sizes_are_sent_as_the_official_peers_do(side: Side) -> None:
    channel, _ = ready(side)
    channel.send_flag(Flag.TERMINATE_SESSION, 0.0)
    channel.send_size(80, 24, 0.0)
    flag, size = sent(channel, 0.0)

    assert (flag.payload_type, flag.payload) == (10, b"\0\0\0\2")
    assert (size.payload_type, size.payload) == (3, b'{"cols":80,"rows":24}')


@BOTH
def test_the_window_closes_and_opens(side: Side) -> None:
    channel, _ = ready(side, window_bytes=4096)
    assert channel.send_capacity_bytes == 4096
    channel.send_data(b"x" * 4096, 0.0)
    assert not channel.writable
    messages = sent(channel, 0.0)

    channel.receive_message(acknowledge(side, messages[1].sequence_number), 0.01)
    assert not channel.writable
    channel.receive_message(acknowledge(side, messages[0].sequence_number), 0.01)
    assert channel.send_capacity_bytes == 2048


@BOTH
def test_what_was_sent_while_away_goes_first_after_the_reconnect(side: Side) -> None:
    channel, _ = ready(side)
    channel.send_data(b"before", 0.0)
    first = sent(channel, 0.0)
    channel.connection_lost(1.0)
    channel.send_data(b"while away", 2.0)
    assert channel.writable
    channel.open("again", 3.0)

    again = sent(channel, 3.0)
    assert [message.payload for message in again] == [b"before", b"while away"]
    assert again[0] == first[0]


# -- a slow sink ------------------------------------------------------------------------------------


@BOTH
def test_paused_delivery_holds_messages_and_resuming_acknowledges_them(side: Side) -> None:
    channel, number = ready(side)
    channel.pause_delivery()
    for step in range(3):
        assert channel.receive_message(stream(side, number + step, b"%d" % step), 0.0) == []
    assert sent(channel, 0.0) == []
    assert channel.holding

    assert channel.resume_delivery(1.0) == [StreamData(1, b"012")]
    assert acknowledged(sent(channel, 1.0)) == [number, number + 1, number + 2]
    assert not channel.holding


@BOTH
def test_much_that_was_held_comes_in_parts(side: Side) -> None:
    channel, number = ready(side)
    channel.pause_delivery()
    count = 3 * RELEASE_BYTES // 1024
    for step in range(count):
        channel.receive_message(stream(side, number + step, bytes(1024)), 0.0)

    sizes = [len(event.data) for event in channel.resume_delivery(1.0) if isinstance(event, StreamData)]
    while channel.next_deadline() == 1.0 and channel.holding:
        sizes += [len(event.data) for event in channel.handle_timer(1.0) if isinstance(event, StreamData)]

    assert sizes == [RELEASE_BYTES] * 3


@BOTH
def test_a_pause_wished_before_ready_holds_what_comes_after_it(side: Side) -> None:
    channel = opened(side)
    channel.pause_delivery()
    sent(channel, 0.0)
    if side is Side.CLIENT:
        request = HandshakeRequest("3.3.0.0", "Port", {}).serialize()
        channel.receive_message(stream(side, 0, request, 5), 0.0)
        channel.receive_message(stream(side, 1, HandshakeComplete().serialize(), 7), 0.0)
        number = 2
    else:
        channel.receive_message(stream(side, 0, RESPONSE, 6), 0.0)
        number = 1

    assert channel.receive_message(stream(side, number, b"held"), 0.0) == []
    assert channel.resume_delivery(0.0) == [StreamData(1, b"held")]


# -- publication ------------------------------------------------------------------------------------


def test_pause_publication_holds_data_but_not_acknowledges() -> None:
    side = Side.AGENT
    channel, number = ready(side)
    channel.receive_message(other(MessageType.PAUSE_PUBLICATION, b""), 0.0)
    channel.send_data(b"held", 0.0)
    assert sent(channel, 10.0) == []
    assert channel.next_deadline() is None

    channel.receive_message(other(MessageType.START_PUBLICATION), 10.0)
    assert [message.payload for message in sent(channel, 10.0)] == [b"held"]

    channel.receive_message(other(MessageType.PAUSE_PUBLICATION), 11.0)
    channel.receive_message(stream(side, number, b"x"), 11.0)
    assert acknowledged(sent(channel, 11.0)) == [number]


@pytest.mark.parametrize("sign", ["stream", "acknowledge", "reconnect"])
def test_any_sign_of_the_peer_ends_a_pause(sign: str) -> None:
    side = Side.AGENT
    channel, number = ready(side)
    channel.receive_message(other(MessageType.PAUSE_PUBLICATION), 0.0)
    channel.send_data(b"held", 0.0)
    if sign == "stream":
        channel.receive_message(stream(side, number, b"x"), 1.0)
    elif sign == "acknowledge":
        channel.receive_message(acknowledge(side, 12345), 1.0)
    else:
        channel.connection_lost(1.0)
        channel.open("again", 1.0)

    assert [message.payload for message in of_type(sent(channel, 1.0), 1)] == [b"held"]


def test_a_client_takes_no_notice_of_publication() -> None:
    """As the official one: a start that never comes must not hold what the user types for ever."""
    channel, _ = ready(Side.CLIENT)
    channel.receive_message(other(MessageType.PAUSE_PUBLICATION), 0.0)
    channel.send_data(b"typed", 0.0)
    assert [message.payload for message in sent(channel, 0.0)] == [b"typed"]
    assert channel.handle_timer(1.0) == []
    assert len(sent(channel, 1.0)) == 1
    assert channel.refused == 0


def test_publication_messages_may_have_an_empty_header() -> None:
    """The official client takes them without a created date or digest."""
    channel, _ = ready(Side.AGENT)
    bare = bytearray(120)
    bare[4:36] = b"pause_publication".ljust(32)
    channel.receive_message(bytes(bare), 0.0)
    channel.send_data(b"held", 0.0)

    assert sent(channel, 1.0) == []


# -- the end ----------------------------------------------------------------------------------------


@BOTH
def test_channel_closed_ends_the_session_after_the_data_before_it(side: Side) -> None:
    channel, number = ready(side)
    closed = payloads.ChannelClosed("s", output="bye").serialize()

    events = channel.receive_messages(
        [
            stream(side, number, b"last"),
            other(MessageType.CHANNEL_CLOSED, closed),
            stream(side, number + 1, b"?"),
        ],
        0.0,
    )

    assert events == [StreamData(1, b"last"), ChannelClosed("bye")]
    assert channel.state is State.CLOSED
    assert channel.next_deadline() is None
    assert channel.receive_message(stream(side, number + 1, b"?"), 1.0) == []


@BOTH
@pytest.mark.parametrize("payload", [b"", b"not JSON", b'{"CreatedDate":5}'])
def test_channel_closed_ends_the_session_whatever_it_says(side: Side, payload: bytes) -> None:
    channel, _ = ready(side)

    assert channel.receive_message(other(MessageType.CHANNEL_CLOSED, payload), 0.0) == [ChannelClosed("")]


def test_a_client_delivers_what_it_holds_before_the_end() -> None:
    channel, number = ready(Side.CLIENT)
    channel.pause_delivery()
    channel.receive_message(stream(Side.CLIENT, number, b"held"), 0.0)
    assert channel.receive_message(other(MessageType.CHANNEL_CLOSED), 0.0) == []
    assert channel.state is State.CLOSING

    assert channel.resume_delivery(1.0) == [StreamData(1, b"held"), ChannelClosed("")]
    assert channel.state is State.CLOSED


def test_an_agent_is_cancelled_at_once_whatever_it_holds() -> None:
    channel, number = ready(Side.AGENT)
    channel.pause_delivery()
    channel.receive_message(stream(Side.AGENT, number, b"held"), 0.0)

    assert channel.receive_message(other(MessageType.CHANNEL_CLOSED), 0.0) == [ChannelClosed("")]


@pytest.mark.parametrize(
    ("name", "farewell"),
    [("Port", False), ("Standard_Stream", True), ("InteractiveCommands", True)],
)
def test_an_agent_says_terminating_where_its_kind_does(name: str, farewell: bool) -> None:
    channel = make_channel(Side.AGENT, session_type=name, properties=None)
    channel.open("token", 0.0)
    sent(channel, 0.0)
    if name == "Port":
        channel.receive_message(stream(Side.AGENT, 0, RESPONSE, 6), 0.0)
        sent(channel, 0.0)
    channel.close(1.0)
    messages = sent(channel, 1.0)

    assert [AgentSessionState.parse(message.payload).state for message in messages] == (
        ["Terminating"] if farewell else []
    )
    assert channel.state is State.CLOSED


def test_a_client_hears_that_the_agent_is_about_to_end() -> None:
    channel, _ = ready(Side.CLIENT)
    terminating = AgentSessionState("Terminating", "s").serialize()

    assert channel.receive_message(other(MessageType.AGENT_SESSION_STATE, terminating), 0.0) == [
        PeerTerminating()
    ]


def test_an_agent_that_is_about_to_end_for_ever_takes_no_memory() -> None:
    channel, _ = ready(Side.CLIENT)
    said = payloads.AgentSessionState("Terminating", "s").serialize()
    batch = [other(MessageType.AGENT_SESSION_STATE, said)] * 100

    assert len(channel.receive_messages(batch, 1.0)) == 1
    assert channel.receive_messages(batch, 2.0) == []


@BOTH
def test_after_the_end_calls_do_nothing(side: Side) -> None:
    channel, number = ready(side)
    channel.close(1.0)
    channel.close(1.0)
    channel.send_data(b"x", 2.0)
    channel.send_flag(1, 2.0)
    channel.connection_lost(2.0)
    channel.open("again", 3.0)

    assert channel.text_to_send() is None
    assert sent(channel, 3.0) == []
    assert channel.handle_timer(4.0) == []
    assert channel.receive_message(stream(side, number, b"x"), 5.0) == []
    assert not channel.writable


# -- bad messages -----------------------------------------------------------------------------------


@BOTH
def test_messages_that_are_none_are_dropped_and_counted(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    channel, number = ready(side)
    good = stream(side, number, b"payload")
    damaged = good[:-1] + b"?"
    bad = [b"", b"x", good[:119], damaged, b"\xff" * 200, good[:4] + b" " * 32 + good[36:]]

    with caplog.at_level(logging.WARNING):
        assert channel.receive_messages(bad, 0.0) == []

    assert channel.malformed == len(bad)
    # One warning, not a flood.
    assert len(caplog.records) == 1
    assert sent(channel, 0.0) == []
    assert channel.receive_message(good, 0.0) == [StreamData(1, b"payload")]


@BOTH
def test_messages_with_no_meaning_here_are_dropped_unacknowledged(side: Side) -> None:
    channel, number = ready(side)
    wrong_way = STREAM[Side.AGENT if side is Side.CLIENT else Side.CLIENT]
    messages = [
        AgentMessage(wrong_way, b"x", sequence_number=number, payload_type=1).serialize(),
        other("a_type_of_the_future"),
        other(MessageType.INTERACTIVE_SHELL),
    ]

    assert channel.receive_messages(messages, 0.0) == []
    assert channel.refused == 3
    assert sent(channel, 0.0) == []


@BOTH
def test_a_payload_type_of_the_future_is_acknowledged_and_dropped(side: Side) -> None:
    channel, number = ready(side)

    assert channel.receive_message(stream(side, number, b"x", 99), 0.0) == []

    assert acknowledged(sent(channel, 0.0)) == [number]
    assert channel.refused == 1


@BOTH
@pytest.mark.parametrize("payload", [b"", b"{}", b"[1]", b'{"AcknowledgedMessageSequenceNumber":"1"}'])
def test_a_broken_acknowledge_is_dropped(side: Side, payload: bytes) -> None:
    channel, _ = ready(side)
    channel.send_data(b"x", 0.0)
    sent(channel, 0.0)

    assert channel.receive_message(other(MessageType.ACKNOWLEDGE, payload), 0.0) == []

    assert channel.malformed == 1
    assert not channel.drained


@pytest.mark.parametrize(("side", "payload_type"), [(Side.CLIENT, 5), (Side.AGENT, 6)])
def test_a_handshake_that_cannot_be_read_fails_the_session(side: Side, payload_type: int) -> None:
    channel = opened(side)

    (event,) = channel.receive_message(stream(side, 0, b"{]", payload_type), 0.0)

    assert isinstance(event, Failed)
    assert event.error.what == "the handshake cannot be read"


def test_a_peer_that_repeats_itself_while_our_socket_is_stuck_takes_no_memory() -> None:
    channel, number = ready(Side.AGENT)
    message = stream(Side.AGENT, number, b"x")
    channel.receive_messages([message] * (MAX_PENDING + 1000), 0.0)

    assert channel.overloaded
    assert len(channel.messages_to_send(0.0)) == MAX_PENDING
    assert not channel.overloaded


@given(data=st.data())
def test_nothing_a_peer_sends_breaks_a_channel(data: st.DataObject) -> None:
    side = data.draw(st.sampled_from(list(Side)))
    state = data.draw(st.sampled_from(["opened", "ready"]))
    channel = opened(side) if state == "opened" else ready(side)[0]
    names = [value for name, value in vars(MessageType).items() if name[0] != "_"]
    now = 0.0
    for _ in range(data.draw(st.integers(1, 12))):
        message = AgentMessage(
            data.draw(st.sampled_from([STREAM[side]] * 6 + names)),
            data.draw(st.one_of(st.binary(max_size=40), st.sampled_from([RESPONSE, b"{}", b"\0\0\0\1"]))),
            sequence_number=data.draw(st.one_of(st.integers(0, 5), st.integers(-(1 << 63), (1 << 63) - 1))),
            payload_type=data.draw(st.one_of(st.integers(0, 13), st.integers(0, (1 << 32) - 1))),
        ).serialize()
        if data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(message) - 1))
            message = message[:at] + data.draw(st.binary(max_size=3)) + message[at + 1 :]
        now += 0.1
        channel.receive_message(message, now)
        channel.messages_to_send(now)
        deadline = channel.next_deadline()
        if deadline is not None:
            channel.handle_timer(max(now, deadline))

    assert channel.state in set(State)
