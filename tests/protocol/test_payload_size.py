"""How the size of payloads is found out: the rules alone, and two channels on links with limits."""

from typing import Any, Dict, List, Tuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.link import Fate, Limit, Link, fates, make_channel
from sagemaker_ssh_helper.protocol.data_channel import Side, State
from sagemaker_ssh_helper.protocol.message import HEADER_BYTES, AgentMessage, PayloadType, format_message_id
from sagemaker_ssh_helper.protocol.payload_size import (
    MAX_PAYLOAD_BYTES,
    PAYLOAD_BYTES,
    PROBE_AFTER_BYTES,
    PROBE_SIZES,
    TRIES,
    PayloadSize,
)
from sagemaker_ssh_helper.protocol.payloads import Acknowledge

pytestmark = pytest.mark.container

BOTH = pytest.mark.parametrize("side", list(Side), ids=lambda side: side.value)
LARGEST = PROBE_SIZES[-1]
PLENTY = 700_000
WINDOW = 100_000


@BOTH
@pytest.mark.parametrize("max_payload_bytes", [PAYLOAD_BYTES, MAX_PAYLOAD_BYTES])
@pytest.mark.parametrize("number", [-1, 1_000_000])
def test_an_acknowledge_of_no_message_proves_no_size(side: Side, max_payload_bytes: int, number: int) -> None:
    """No number and no id are those of no probe."""
    link = Link(make_channel(Side.CLIENT, max_payload_bytes=max_payload_bytes)).start()
    channel = link.ends[side].channel
    body = b'{"AcknowledgedMessageType":"","AcknowledgedMessageId":"","AcknowledgedMessageSequenceNumber":%d}'
    link.gateway_says(side, AgentMessage("acknowledge", body % number, created_ms=1).serialize())

    assert channel.payload_bytes == PAYLOAD_BYTES
    link.send(side, bytes(PLENTY))
    link.run(lambda: link.settled)


# -- the rules alone --------------------------------------------------------------------------------


def probe(size: PayloadSize, number: int = 7) -> int:
    """The size of the probe that is under way now."""
    probed = size.next_probe(PROBE_AFTER_BYTES)
    assert probed
    size.sent(number, "probe")
    return probed


def climb(limit: int, max_bytes: int = MAX_PAYLOAD_BYTES) -> Tuple[int, List[int]]:
    """What is found where longer messages vanish, and the probes that it took."""
    size = PayloadSize(max_bytes)
    probes = []
    while not size.is_found:
        probes.append(probe(size))
        size.acknowledged("probe" if probes[-1] + HEADER_BYTES <= limit else "another")
    return size.payload_bytes, probes


def test_a_message_of_each_size_is_a_power_of_two_with_its_header() -> None:
    assert [size + HEADER_BYTES for size in PROBE_SIZES] == [2048, 4096, 8192, 16384, 32768, 65536]
    assert LARGEST <= MAX_PAYLOAD_BYTES


def test_where_nothing_is_lost_three_probes_find_the_largest() -> None:
    assert climb(1 << 20) == (LARGEST, [PROBE_SIZES[1], PROBE_SIZES[3], LARGEST])


@pytest.mark.parametrize("limit", [1144, 1500, 2048, 3000, 4096, 8192, 16384, 30000, 32768, 65535, 65536])
def test_a_limit_is_used_to_more_than_its_half(limit: int) -> None:
    found, probes = climb(limit)

    fitting = [size for size in PROBE_SIZES if size + HEADER_BYTES <= limit]
    assert found == (fitting[-1] if fitting else PAYLOAD_BYTES)
    assert len(probes) <= 2 + 2 * TRIES


@pytest.mark.parametrize("max_bytes", [1, 1024, 1927])
def test_a_peer_that_takes_little_is_not_probed(max_bytes: int) -> None:
    size = PayloadSize(max_bytes)

    assert size.is_found
    assert size.next_probe(1 << 30) == 0
    assert size.payload_bytes == PAYLOAD_BYTES


def test_no_probe_is_larger_than_both_ends_take() -> None:
    assert climb(1 << 20, 10_000)[0] == 8072
    assert climb(1 << 20, LARGEST - 1)[0] == PROBE_SIZES[-2]


def test_little_traffic_is_not_worth_a_probe() -> None:
    size = PayloadSize(MAX_PAYLOAD_BYTES)

    assert size.next_probe(PROBE_AFTER_BYTES - 1) == 0
    assert size.next_probe(1) == PROBE_SIZES[1]


def test_one_probe_at_a_time() -> None:
    size = PayloadSize(MAX_PAYLOAD_BYTES)
    probe(size)

    assert size.next_probe(1 << 20) == 0
    assert not size.is_found


def test_a_size_is_tried_again_before_it_is_given_up() -> None:
    size = PayloadSize(MAX_PAYLOAD_BYTES)
    probed = [probe(size)]
    for _ in range(TRIES):
        size.acknowledged("the byte in its place")
        probed.append(probe(size))

    assert probed == [PROBE_SIZES[1]] * TRIES + [PROBE_SIZES[0]]


def test_a_connection_that_breaks_ends_the_search() -> None:
    size = PayloadSize(MAX_PAYLOAD_BYTES)
    probe(size)
    size.acknowledged("PROBE")
    probe(size)
    size.broken_off()

    assert size.is_found
    assert size.next_probe(1 << 20) == 0
    assert size.payload_bytes == PROBE_SIZES[1]


# -- two channels -----------------------------------------------------------------------------------


def sizes(link: Link, side: Side, payload_type: int) -> List[int]:
    """Of the payloads that a side sent, in order; copies as well."""
    return [
        len(message.payload)
        for sender, message in ((one, AgentMessage.parse(data)) for one, data in link.messages)
        if sender is side and message.payload_type == payload_type
    ]


def payloads_by_number(link: Link, side: Side) -> Dict[int, List[AgentMessage]]:
    """The different messages that a side sent under each number of its stream."""
    found: Dict[int, List[AgentMessage]] = {}
    for sender, data in link.messages:
        message = AgentMessage.parse(data)
        if sender is side and message.payload_type:
            copies = found.setdefault(message.sequence_number, [])
            if message not in copies:
                copies.append(message)
    return found


def assert_probed_first(link: Link, side: Side) -> None:
    """No user bytes in a size before the acknowledge of its probe had been sent; no message cut anew."""
    proven = PAYLOAD_BYTES
    probes: Dict[str, int] = {}
    for sender, data in link.messages:
        message = AgentMessage.parse(data)
        if sender is side and message.payload_type == PayloadType.PROBE:
            assert not message.payload.strip(b"\0"), "a probe has padding only"
            probes[format_message_id(message.message_id)] = len(message.payload)
        elif sender is side and message.payload_type == PayloadType.OUTPUT:
            assert len(message.payload) <= proven
        elif sender is not side and message.message_type == "acknowledge":
            proven = max(proven, probes.get(Acknowledge.parse(message.payload).message_id, 0))
    for number, copies in payloads_by_number(link, side).items():
        if len(copies) > 1:
            assert [len(copy.payload) for copy in copies[1:]] == [1], f"message {number} was changed"
            assert all(copy.payload_type == PayloadType.PROBE for copy in copies)


def joined(**options: Any) -> Link:
    """Two ends with small windows, which have shaken hands."""
    client, agent = (make_channel(side, window_bytes=WINDOW) for side in Side)
    return Link(client, agent, delay=0.02, **options).start()


def transfer(link: Link, side: Side, amount: int = PLENTY) -> None:
    content = bytes(number * 7 % 251 for number in range(251)) * (amount // 251)
    other = link.agent if side is Side.CLIENT else link.client
    link.send(side, content)
    link.run(lambda: link.settled)
    assert other.received == content
    assert link.client.channel.refused == link.agent.channel.refused == 0
    assert_probed_first(link, side)


@BOTH
def test_payloads_grow_to_the_largest(side: Side) -> None:
    link = joined()
    transfer(link, side)

    assert sizes(link, side, PayloadType.PROBE) == [PROBE_SIZES[1], PROBE_SIZES[3], LARGEST]
    assert link.ends[side].channel.payload_bytes == LARGEST
    assert max(sizes(link, side, PayloadType.OUTPUT)) == LARGEST


@BOTH
def test_the_first_bytes_are_not_delayed(side: Side) -> None:
    link = joined()
    link.send(side, b"x" * 1000)
    began = link.now
    link.run(lambda: link.settled)

    assert link.now - began == pytest.approx(0.04)
    assert sizes(link, side, PayloadType.PROBE) == []


@BOTH
@pytest.mark.parametrize("max_bytes", [1024, 5000])
def test_either_end_may_want_small_payloads(side: Side, max_bytes: int) -> None:
    for wanting in Side:
        client, agent = (
            make_channel(one, window_bytes=WINDOW, max_payload_bytes=max_bytes if one is wanting else LARGEST)
            for one in Side
        )
        link = Link(client, agent).start()
        transfer(link, side, 500_000)

        assert max(sizes(link, side, PayloadType.OUTPUT)) == max(
            [1024, *(n for n in PROBE_SIZES if n <= max_bytes)]
        )


@BOTH
@pytest.mark.parametrize("limit", [1144, 3000, 20_000, 40_000])
def test_messages_that_vanish_set_the_size(side: Side, limit: int) -> None:
    link = joined(limits={side: Limit(limit)})
    transfer(link, side)

    fitting = [size for size in PROBE_SIZES if size + HEADER_BYTES <= limit]
    assert link.ends[side].channel.payload_bytes == (fitting[-1] if fitting else PAYLOAD_BYTES)
    assert len(link.ends[side].texts) == 1


@BOTH
@pytest.mark.parametrize("limit", [1144, 3000, 20_000, 40_000])
def test_a_connection_is_broken_once_and_by_a_probe(side: Side, limit: int) -> None:
    link = joined(limits={side: Limit(limit, closes=True)})
    transfer(link, side)

    (broken,) = link.broken_by
    probes = sizes(link, side, PayloadType.PROBE)
    assert broken[1] - HEADER_BYTES == max(probes)
    assert probes.count(max(probes)) == 1
    assert probes[-1] == 1
    assert len(link.ends[side].texts) == 2


@BOTH
def test_a_cut_in_the_middle_of_a_probe_ends_the_search(side: Side) -> None:
    link = joined()
    link.send(side, b"x" * 100_000)
    link.cut(side)
    transferred = link.agent if side is Side.CLIENT else link.client
    link.run(lambda: link.settled)

    assert transferred.received == b"x" * 100_000
    assert sizes(link, side, PayloadType.PROBE) == [PROBE_SIZES[1], 1]
    assert link.ends[side].channel.payload_bytes == PAYLOAD_BYTES


@BOTH
def test_a_probe_that_never_left_is_no_reason_to_stop(side: Side) -> None:
    link = joined()
    link.cut(side, away=1.0)
    transfer(link, side)

    assert link.ends[side].channel.payload_bytes == LARGEST


@BOTH
def test_a_late_acknowledge_of_the_probe_itself_counts(side: Side) -> None:
    """The byte in its place was sent, too, but the peer says by the id which of them it got."""
    link = joined()
    link.run(lambda: link.settled)
    channel = link.ends[side].channel
    link.delay = 0.5
    link.send(side, b"x" * PROBE_AFTER_BYTES)
    link.run(lambda: channel.payload_bytes > PAYLOAD_BYTES)

    assert sizes(link, side, PayloadType.PROBE)[:2] == [PROBE_SIZES[1], 1]


@given(
    limits=st.dictionaries(
        st.sampled_from(list(Side)), st.builds(Limit, st.integers(1500, 70_000), st.booleans())
    ),
    up=fates(),
    down=fates(),
    delay=st.sampled_from([0.0, 0.001, 0.04]),
    cuts=st.lists(st.tuples(st.floats(0, 3), st.sampled_from(list(Side))), max_size=3),
    up_bytes=st.integers(0, 400_000),
    down_bytes=st.integers(0, 400_000),
)
def test_all_bytes_arrive_whatever_the_limits_and_no_size_is_used_unproven(
    limits: Dict[Side, Limit],
    up: List[Fate],
    down: List[Fate],
    delay: float,
    cuts: List[Tuple[float, Side]],
    up_bytes: int,
    down_bytes: int,
) -> None:
    client, agent = (make_channel(side, window_bytes=WINDOW) for side in Side)
    link = Link(client, agent, up=up, down=down, delay=delay, limits=limits)
    link.open(Side.AGENT)
    link.open(Side.CLIENT)
    for after, side in cuts:
        link.at(link.now + after, lambda side=side: link.cut(side))
    sent = {Side.CLIENT: b"u" * up_bytes, Side.AGENT: b"d" * down_bytes}
    for side, content in sent.items():
        link.send(side, content)
    link.run(lambda: link.settled or any(end.channel.state is State.CLOSED for end in link.ends.values()))

    # A link so bad that the handshake takes longer than its deadline is another test.
    assume(link.client.channel.state is link.agent.channel.state is State.OPEN)
    assert link.agent.received == sent[Side.CLIENT]
    assert link.client.received == sent[Side.AGENT]
    for side in Side:
        assert_probed_first(link, side)
        assert [one for one, _ in link.broken_by].count(side) <= 1


@BOTH
def test_when_the_byte_in_its_place_came_first_the_probe_counts_as_lost(side: Side) -> None:
    link = joined()
    link.run(lambda: link.settled)
    link.ends[side].fates = iter([Fate(delay=1.0)])
    link.send(side, b"x" * PROBE_AFTER_BYTES)
    link.run_for(5.0)
    link.send(side, b"x")
    link.run(lambda: link.settled)

    assert sizes(link, side, PayloadType.PROBE) == [PROBE_SIZES[1], 1, PROBE_SIZES[1]]
