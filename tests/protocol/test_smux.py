"""smux: what is on the wire, and two machines that carry streams over any cut of the bytes."""

import struct
from typing import Dict, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagemaker_ssh_helper.errors import ProtocolError
from sagemaker_ssh_helper.protocol import smux
from sagemaker_ssh_helper.protocol.smux import Closed, Command, Mux, Opened, Received, serialize_frame

pytestmark = pytest.mark.container

ALL = 1 << 30


def make(*, is_client: bool, flow_control: bool = False, keepalive: bool = False) -> Mux:
    return Mux(is_client=is_client, flow_control=flow_control, keepalive=keepalive, now=0.0)


def pair(flow_control: bool = False) -> Tuple[Mux, Mux]:
    return make(is_client=True, flow_control=flow_control), make(is_client=False, flow_control=flow_control)


# --- the wire, as the official peers were seen to write it ---------------------------------------


def test_frames_are_those_of_official_clients() -> None:
    client = make(is_client=True)
    stream = client.open()
    client.send(stream, b"GET")
    client.close(stream)

    assert stream == 3
    assert client.data_to_send(ALL).hex(" ") == (
        "01 00 00 00 03 00 00 00  01 02 03 00 03 00 00 00 47 45 54  01 01 00 00 03 00 00 00".replace(
            "  ", " "
        )
    )
    assert [client.open(), client.open()] == [5, 7]


def test_keepalive_is_that_of_official_peers_and_its_interval_ten_seconds() -> None:
    client = make(is_client=True, keepalive=True)

    assert client.next_deadline() == 10.0
    client.handle_timer(10.0)
    assert client.data_to_send(ALL) == bytes.fromhex("0103000000000000")
    client.handle_timer(19.9)
    assert client.data_to_send(ALL) == b""
    assert make(is_client=True).next_deadline() is None


def test_peer_that_kept_alive_and_falls_silent_is_dead_and_one_that_never_did_is_not() -> None:
    agent = make(is_client=False, keepalive=True)
    agent.handle_timer(100.0)
    agent.receive(serialize_frame(Command.NOP, 0))
    agent.handle_timer(100.0)
    agent.receive(serialize_frame(Command.NOP, 0))
    agent.handle_timer(130.0)

    with pytest.raises(ProtocolError, match="no frame for 30 s"):
        agent.handle_timer(160.0)


def test_big_data_is_cut_at_32768_and_streams_take_turns() -> None:
    client = make(is_client=True)
    one, other = client.open(), client.open()
    client.data_to_send(ALL)
    client.send(one, b"a" * 70_000)
    client.send(other, b"b")
    wire = client.data_to_send(ALL)

    lengths = []
    while wire:
        _, command, length, stream_id = struct.unpack("<BBHI", wire[:8])
        assert command == Command.PSH
        lengths.append((stream_id, length))
        wire = wire[8 + length :]
    assert lengths == [(one, 32768), (other, 1), (one, 32768), (one, 70_000 - 65536)]


def test_data_of_65535_bytes_is_accepted() -> None:
    agent = make(is_client=False)
    wire = serialize_frame(Command.SYN, 3) + serialize_frame(Command.PSH, 3, b"x" * 65535)

    assert agent.receive(wire) == [Opened(3), Received(3, b"x" * 65535)]


# --- what is ignored, what is fatal --------------------------------------------------------------


def test_frames_of_unknown_streams_and_second_openings_are_ignored() -> None:
    agent = make(is_client=False)
    wire = serialize_frame(Command.PSH, 9, b"lost") + serialize_frame(Command.FIN, 9)

    assert agent.receive(wire) == []
    assert agent.receive(serialize_frame(Command.SYN, 3) * 2) == [Opened(3)]
    assert agent.data_to_send(ALL) == b""


def test_agent_opens_no_streams() -> None:
    client = make(is_client=True)

    assert client.receive(serialize_frame(Command.SYN, 4)) == []
    assert len(client) == 0


@pytest.mark.parametrize(
    "wire",
    [
        b"\2" + serialize_frame(Command.NOP, 0)[1:],
        serialize_frame(Command.UPD, 3, bytes(4)),
        serialize_frame(99, 3),
        serialize_frame(Command.SYN, 3, b"x"),
    ],
)
def test_other_versions_and_commands_are_fatal(wire: bytes) -> None:
    with pytest.raises(ProtocolError, match="cannot be read"):
        make(is_client=False).receive(wire)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_events_or_our_error(wire: bytes, flow_control: bool) -> None:
    agent = make(is_client=False, flow_control=flow_control)
    try:
        events = agent.receive(wire)
    except ProtocolError:
        return
    assert all(isinstance(event, (Opened, Received, Closed)) for event in events)


# --- closing -------------------------------------------------------------------------------------


def test_close_is_delivered_after_the_data_and_answered_once() -> None:
    client, agent = pair()
    stream = client.open()
    client.send(stream, b"last words")
    client.close(stream)

    assert agent.receive(client.data_to_send(ALL)) == [Opened(3), Received(3, b"last words"), Closed(3)]
    answer = agent.data_to_send(ALL)
    assert answer == serialize_frame(Command.FIN, 3)
    assert client.receive(answer) == []
    assert client.data_to_send(ALL) == b""
    assert (len(client), len(agent)) == (0, 0)


def test_what_comes_for_a_stream_that_was_closed_here_is_dropped() -> None:
    client, agent = pair()
    stream = client.open()
    agent.receive(client.data_to_send(ALL))
    agent.send(stream, b"too late")
    client.close(stream)
    client.data_to_send(ALL)

    assert client.receive(agent.data_to_send(ALL)) == []


def test_streams_beyond_the_limit_are_closed_at_once() -> None:
    agent = make(is_client=False)
    opened = b"".join(serialize_frame(Command.SYN, 3 + 2 * index) for index in range(smux.MAX_STREAMS + 1))

    assert len(agent.receive(opened)) == smux.MAX_STREAMS
    assert agent.data_to_send(ALL) == serialize_frame(Command.FIN, 3 + 2 * smux.MAX_STREAMS)


def test_peer_that_opens_and_takes_no_answers_is_cut_off() -> None:
    agent = make(is_client=False)
    churn = serialize_frame(Command.SYN, 3) + serialize_frame(Command.FIN, 3)

    with pytest.raises(ProtocolError, match="faster than it takes answers"):
        agent.receive(churn * smux.MAX_ANSWERS_BYTES)


# --- windows, between our own ends ---------------------------------------------------------------


def test_a_stream_whose_reader_stalls_holds_no_more_than_its_window_and_no_other_stream() -> None:
    client, agent = pair(flow_control=True)
    stalled, other = client.open(), client.open()
    agent.receive(client.data_to_send(ALL))
    agent.send(stalled, bytes(2 * smux.WINDOW_BYTES))
    agent.send(other, b"through")

    came: Dict[int, int] = {stalled: 0, other: 0}
    for event in client.receive(agent.data_to_send(ALL)):
        assert isinstance(event, Received)
        came[event.stream_id] += len(event.data)
    assert came == {stalled: smux.WINDOW_BYTES, other: 7}
    assert agent.data_to_send(ALL) == b""
    assert not agent.writable(stalled)

    client.consumed(stalled, smux.WINDOW_BYTES)
    agent.receive(client.data_to_send(ALL))
    rest = client.receive(agent.data_to_send(ALL))
    assert sum(len(event.data) for event in rest if isinstance(event, Received)) == smux.WINDOW_BYTES
    assert agent.writable(stalled)


def test_peer_that_sends_more_than_it_may_or_takes_more_than_it_got_is_cut_off() -> None:
    for too_much in (
        serialize_frame(Command.PSH, 3, bytes(65535)) * 5,
        serialize_frame(Command.UPD, 3, struct.pack("<I", 1)),
    ):
        agent = make(is_client=False, flow_control=True)
        agent.receive(serialize_frame(Command.SYN, 3))
        with pytest.raises(ProtocolError):
            agent.receive(too_much)


def test_without_windows_no_update_is_sent() -> None:
    client, agent = pair()
    stream = client.open()
    agent.receive(client.data_to_send(ALL))
    agent.consumed(stream, ALL)

    assert agent.data_to_send(ALL) == b""


# --- any streams, any cuts -----------------------------------------------------------------------

STREAMS = st.lists(
    st.tuples(st.lists(st.integers(1, 200_000), max_size=4), st.lists(st.integers(1, 200_000), max_size=4)),
    min_size=1,
    max_size=5,
)


def pattern(size: int, seed: int) -> bytes:
    block = bytes((index * 7 + seed) % 251 for index in range(251))
    return (block * (size // 251 + 1))[:size]


@given(STREAMS, st.booleans(), st.integers(1, 100_000), st.integers(1, 50_000))
def test_streams_arrive_whole_in_order_and_end(
    streams: List[Tuple[List[int], List[int]]], flow_control: bool, budget: int, cut: int
) -> None:
    ends = pair(flow_control)
    client, agent = ends
    ids = [client.open() for _ in streams]
    sent: List[Dict[int, bytes]] = [{}, {}]
    heard: List[Dict[int, bytearray]] = [{}, {}]
    closed: List[int] = []
    for stream_id, sizes in zip(ids, streams):
        for side in (0, 1):
            data = b"".join(pattern(size, stream_id + index) for index, size in enumerate(sizes[side]))
            sent[side][stream_id] = data
            heard[1 - side][stream_id] = bytearray()

    def carry(side: int) -> bool:
        wire = ends[side].data_to_send(budget)
        for start in range(0, len(wire), cut):
            for event in ends[1 - side].receive(wire[start : start + cut]):
                if isinstance(event, Received):
                    heard[1 - side][event.stream_id] += event.data
                    ends[1 - side].consumed(event.stream_id, len(event.data))
                elif isinstance(event, Closed):
                    closed.append(event.stream_id)
        return bool(wire)

    def settle() -> None:
        while any([carry(0), carry(1)]):
            pass

    settle()
    for side in (0, 1):
        for stream_id in ids:
            ends[side].send(stream_id, sent[side][stream_id])
    settle()
    assert heard[1] == sent[0]
    assert heard[0] == sent[1]
    for index, stream_id in enumerate(ids):
        ends[index % 2].close(stream_id)
    settle()
    assert closed == sorted(closed, key=lambda one: (ids.index(one) % 2, one))
    assert sorted(closed) == ids
    assert (len(client), len(agent)) == (0, 0)
