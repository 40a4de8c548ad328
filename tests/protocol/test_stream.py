"""The two halves of the stream, with time as a number."""

import random
from typing import Dict, List, Set

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.link import assert_consistent
from sagemaker_ssh_helper.protocol.stream import (
    BURST_MESSAGES,
    FEW_MESSAGES,
    FOREIGN_HELD_MESSAGES,
    MAX_RTO,
    MIN_RTO,
    SILENCES,
    WINDOW_MESSAGES,
    Receiver,
    Sender,
)

pytestmark = pytest.mark.container


def make_sender(count: int = 0, **options: int) -> Sender:
    """A connected sender with that many messages of 10 bytes pushed: b"0", b"1" and so on."""
    sender = Sender(**options)
    sender.restart(0.0)
    push(sender, count)
    return sender


def push(sender: Sender, count: int) -> None:
    for _ in range(count):
        sender.push(str(sender.next_sequence_number).encode(), 10)


def numbers(messages: List[bytes]) -> List[int]:
    return [int(message) for message in messages]


def expire(sender: Sender) -> float:
    """Let the next deadline pass; the time it then is."""
    deadline = sender.next_deadline()
    assert deadline is not None
    sender.handle_timer(deadline)
    return deadline


# -- sender: handing out and acknowledging ----------------------------------------------------------


def test_messages_are_handed_out_once_and_in_order() -> None:
    sender = make_sender(3)

    assert numbers(sender.take(0.0)) == [0, 1, 2]
    assert sender.take(0.0) == []


def test_take_stops_at_the_bytes_it_was_given() -> None:
    sender = make_sender(3)

    assert numbers(sender.take(0.0, max_bytes=2)) == [0, 1]
    assert numbers(sender.take(0.0, max_bytes=2)) == [2]


def test_nothing_is_handed_out_without_a_connection() -> None:
    sender = Sender()
    push(sender, 1)

    assert sender.take(0.0) == []
    assert sender.next_deadline() is None

    sender.restart(1.0)

    assert numbers(sender.take(1.0)) == [0]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_acknowledges_count_in_any_order(order: List[int]) -> None:
    sender = make_sender(3)
    sender.take(0.0)

    for number in order:
        assert not sender.drained
        assert sender.acknowledge(number, 0.01)

    assert sender.drained
    assert sender.next_deadline() is None


def test_unknown_acknowledges_change_nothing() -> None:
    sender = make_sender(2)
    sender.take(0.0)
    push(sender, 1)
    sender.acknowledge(1, 0.01)
    srtt = sender.srtt

    # Never pushed, never handed out, acknowledged before, and nonsense.
    for number in (3, 2, 1, -1, 1 << 70):
        assert not sender.acknowledge(number, 5.0)

    assert sender.unacknowledged == 2
    assert sender.srtt == srtt


def test_an_acknowledge_can_come_before_take_returns_to_its_caller() -> None:
    """The official peers buffer after sending, and lose such an acknowledge for good."""
    sender = make_sender(1)
    sender.take(0.0)

    assert sender.acknowledge(0, 0.0)
    assert sender.drained


# -- sender: the window -----------------------------------------------------------------------------


def test_the_window_is_a_span_from_the_oldest_message() -> None:
    sender = make_sender(5, window_bytes=100)
    sender.take(0.0)
    assert sender.room_bytes == 50

    # Acknowledged in the middle: the peer may still have to keep them all.
    for number in (1, 2, 3):
        sender.acknowledge(number, 0.01)
    assert sender.room_bytes == 50

    sender.acknowledge(0, 0.01)
    assert sender.room_bytes == 90

    sender.acknowledge(4, 0.01)
    assert sender.room_bytes == 100


def test_push_never_refuses_and_the_room_is_never_negative() -> None:
    sender = make_sender(12, window_bytes=100)

    assert sender.room_bytes == 0
    assert numbers(sender.take(0.0)) == list(range(12))


def test_small_messages_fill_the_window_by_their_number() -> None:
    """The public client can hold 10,000 messages out of order, however small."""
    sender = make_sender(WINDOW_MESSAGES - 1)
    assert sender.room_messages == 1
    push(sender, 2)
    assert sender.room_messages == 0


# -- sender: time -----------------------------------------------------------------------------------


def test_the_estimate_follows_the_worked_values() -> None:
    sender = make_sender(2)
    assert (sender.srtt, sender.rttvar, sender.rto) == (0.1, 0.0, 0.2)
    sender.take(0.0)

    sender.acknowledge(0, 0.3)
    # rttvar 3/4 * 0 + 1/4 * |0.1 - 0.3|; srtt 7/8 * 0.1 + 1/8 * 0.3; rto srtt + 4 * rttvar
    assert sender.rttvar == pytest.approx(0.05)
    assert sender.srtt == pytest.approx(0.125)
    assert sender.rto == pytest.approx(0.325)

    sender.acknowledge(1, 0.3)
    assert sender.rttvar == pytest.approx(0.08125)
    assert sender.srtt == pytest.approx(0.146875)
    assert sender.rto == pytest.approx(0.471875)


def test_the_timeout_has_a_floor() -> None:
    sender = make_sender(100)
    sender.take(0.0)
    for number in range(100):
        sender.acknowledge(number, 0.001)

    assert sender.srtt == pytest.approx(0.001, abs=0.001)
    assert sender.rto == MIN_RTO


def test_the_timeout_has_a_cap_but_not_below_the_round_trip_itself() -> None:
    sender = make_sender(200)
    sender.take(0.0)
    sender.acknowledge(0, 0.9)
    assert sender.rto <= MAX_RTO

    for number in range(1, 200):
        sender.acknowledge(number, 20.0)
    assert sender.srtt == pytest.approx(20.0, abs=0.1)
    assert sender.rto >= 20.0


def test_a_resent_message_teaches_nothing_about_the_round_trip() -> None:
    sender = make_sender(1)
    sender.take(0.0)
    now = expire(sender)
    sender.take(now)

    sender.acknowledge(0, now + 0.001)

    assert sender.srtt == 0.1


def test_everything_is_resent_when_nothing_is_acknowledged_for_a_timeout() -> None:
    sender = make_sender(3)
    sender.take(0.0)
    assert sender.next_deadline() == 0.2

    sender.handle_timer(0.19)
    assert sender.take(0.19) == []

    sender.handle_timer(0.2)
    assert numbers(sender.take(0.2)) == [0, 1, 2]
    assert sender.resent == 3


def test_a_resent_message_has_the_same_bytes() -> None:
    sender = Sender()
    sender.restart(0.0)
    sender.push(b"exactly this", 12)
    first = sender.take(0.0)
    now = expire(sender)

    assert sender.take(now) == first == [b"exactly this"]


def test_acknowledges_that_flow_keep_the_others_from_timing_out() -> None:
    """A long queue is not a loss, however long."""
    sender = make_sender(1000)
    sender.take(0.0)
    for number in range(1000):
        now = 0.05 * (number + 1)
        sender.handle_timer(now)
        assert sender.take(now) == []
        sender.acknowledge(number, now)

    assert sender.resent == 0


def test_a_message_that_three_later_ones_overtook_is_resent_before_its_timeout() -> None:
    sender = make_sender(5)
    sender.take(0.0)
    for number in (1, 2):
        sender.acknowledge(number, 0.01)
    sender.handle_timer(0.15)
    assert sender.take(0.15) == []

    sender.acknowledge(3, 0.16)
    deadline = sender.next_deadline()
    assert deadline is not None
    assert deadline < 0.16
    sender.handle_timer(0.16)

    assert numbers(sender.take(0.16)) == [0]


def test_a_young_message_is_not_resent_because_others_overtook_it() -> None:
    sender = make_sender(10)
    sender.take(0.0)
    for number in range(1, 10):
        sender.acknowledge(number, 0.001)

    sender.handle_timer(0.001)

    assert sender.take(0.001) == []


def test_each_resend_waits_longer_up_to_the_cap() -> None:
    sender = make_sender(1)
    sender.take(0.0)
    times = [0.0]
    for _ in range(8):
        now = expire(sender)
        assert numbers(sender.take(now)) == [0]
        times.append(now)

    waits = [later - earlier for earlier, later in zip(times, times[1:])]
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0])


def test_a_resend_alone_backs_off_while_others_flow() -> None:
    """The official agent rejects data, unacknowledged, until its own target is connected."""
    sender = make_sender(20)
    sender.take(0.0)
    for number in range(1, 20):
        sender.acknowledge(number, 0.05)
    times = []
    now = 0.05
    for _ in range(5):
        now = expire(sender)
        assert numbers(sender.take(now)) == [0]
        times.append(now)

    waits = [later - earlier for earlier, later in zip(times, times[1:])]
    assert waits == sorted(waits)
    assert waits[0] >= MIN_RTO
    assert waits[-1] == pytest.approx(MAX_RTO)


def test_resends_are_paced_by_acknowledges() -> None:
    sender = make_sender(1000)
    sender.take(0.0)
    now = expire(sender)

    assert numbers(sender.take(now)) == list(range(BURST_MESSAGES))
    assert sender.take(now) == []

    for number in range(BURST_MESSAGES):
        sender.acknowledge(number, now + 0.01)
    assert numbers(sender.take(now + 0.01)) == list(range(BURST_MESSAGES, 3 * BURST_MESSAGES))


def test_new_messages_wait_behind_lost_ones() -> None:
    sender = make_sender(BURST_MESSAGES + 1)
    sender.take(0.0)
    now = expire(sender)
    push(sender, 1)

    assert numbers(sender.take(now)) == list(range(BURST_MESSAGES))
    sender.acknowledge(0, now + 0.01)
    assert numbers(sender.take(now + 0.01)) == [BURST_MESSAGES, BURST_MESSAGES + 1]


def test_a_silent_peer_is_asked_ever_more_softly() -> None:
    """An hour of ^Z at the other end must not cost an hour of resends."""
    sender = make_sender(1000)
    sender.take(0.0)
    counts = []
    now = 0.0
    for _ in range(40):
        now = expire(sender)
        counts.append(len(sender.take(now)))

    assert counts[0] == BURST_MESSAGES
    assert counts[-1] == 1
    assert now == pytest.approx(40.0, abs=5.0)


def test_a_timeout_that_came_too_early_is_taken_back() -> None:
    """The path got slower; the acknowledges of the originals show that nothing was lost."""
    sender = make_sender(1000)
    sender.take(0.0)
    now = expire(sender)
    sender.take(now)
    assert sender.resent == BURST_MESSAGES

    for number in range(BURST_MESSAGES, 1000):
        sender.acknowledge(number, 0.3)
        sender.take(0.3)

    assert sender.resent == BURST_MESSAGES
    # One sample was taken, so that the next timeout is not too early again.
    assert sender.rto > 0.2


def test_a_resend_has_a_timeout_of_its_own_when_the_others_are_taken_back() -> None:
    sender = make_sender(16)
    sender.take(0.0)
    for number in range(16):
        sender.acknowledge(number, 0.001)
    push(sender, BURST_MESSAGES + 2)
    sender.take(0.001)
    now = expire(sender)
    sender.take(now)
    sender.acknowledge(16 + BURST_MESSAGES, now)
    assert_consistent(sender)

    while sender.resent < 3 * BURST_MESSAGES:
        now = expire(sender)
        sender.take(now)
        assert_consistent(sender)


def test_a_peer_that_was_away_for_a_minute_does_not_spoil_the_estimate() -> None:
    sender = make_sender(1000)
    sender.take(0.0)
    now = expire(sender)
    sender.take(now)

    for number in range(1000):
        sender.acknowledge(number, 60.0)

    assert sender.drained
    assert sender.srtt < 1.0
    assert sender.rto <= MAX_RTO


# -- sender: connections and publication ------------------------------------------------------------


def test_after_a_reconnect_all_that_is_unacknowledged_goes_again_in_order() -> None:
    sender = make_sender(10)
    sender.take(0.0)
    sender.acknowledge(3, 0.01)
    sender.connection_lost()
    assert sender.take(0.02) == []
    assert sender.next_deadline() is None
    push(sender, 1)

    sender.restart(50.0)

    assert numbers(sender.take(50.0)) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]


def test_an_acknowledge_of_before_the_cut_counts_after_it_but_teaches_nothing() -> None:
    sender = make_sender(2)
    sender.take(0.0)
    sender.connection_lost()
    sender.restart(30.0)

    assert sender.acknowledge(0, 30.01)

    assert sender.srtt == 0.1
    assert numbers(sender.take(30.01)) == [1]


def test_a_pause_holds_new_messages_and_resends() -> None:
    sender = make_sender(1)
    sender.take(0.0)
    sender.pause()
    push(sender, 1)

    assert sender.next_deadline() is None
    sender.handle_timer(10.0)
    assert sender.take(10.0) == []

    sender.resume(10.0)

    # The pause did not make message 0 late.
    assert numbers(sender.take(10.0)) == [1]
    assert sender.next_deadline() == pytest.approx(10.2)


def test_a_reconnect_ends_a_pause() -> None:
    sender = make_sender(1)
    sender.pause()
    sender.connection_lost()
    sender.restart(1.0)

    assert numbers(sender.take(1.0)) == [0]


class SenderMachine(RuleBasedStateMachine):
    """Anything may happen to a sender; what it counts stays true and nothing is forgotten."""

    repeats_acknowledges = True

    def __init__(self) -> None:
        super().__init__()
        self.sender = make_sender()
        self.sender.repeats_acknowledges = self.repeats_acknowledges
        self.now = 0.0
        self.seen: Set[int] = set()
        self.acknowledged: Set[int] = set()

    @rule(count=st.integers(1, 70))
    def push(self, count: int) -> None:
        push(self.sender, count)

    @rule(max_bytes=st.sampled_from([1, 20, 1 << 30]))
    def take(self, max_bytes: int) -> None:
        taken = numbers(self.sender.take(self.now, max_bytes))
        assert not self.acknowledged & set(taken)
        self.seen |= set(taken)

    @precondition(lambda self: self.seen)
    @rule(share=st.floats(0, 1), count=st.integers(1, 60))
    def acknowledge(self, share: float, count: int) -> None:
        seen = sorted(self.seen)
        start = int(share * (len(seen) - 1))
        for number in seen[start : start + count]:
            assert self.sender.acknowledge(number, self.now) is (number not in self.acknowledged)
            self.acknowledged.add(number)

    @rule(count=st.integers(1, 40))
    def flow(self, count: int) -> None:
        """New messages pass at once, whatever became of older ones: the timeout gets short."""
        push(self.sender, count)
        taken = numbers(self.sender.take(self.now))
        self.seen |= set(taken)
        self.now += 0.001
        for number in taken[-count:]:
            self.sender.acknowledge(number, self.now)
            self.acknowledged.add(number)

    @rule(seconds=st.sampled_from([0.001, 0.05, 0.1, 0.15, 0.3, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.sender.handle_timer(self.now)
        deadline = self.sender.next_deadline()
        assert deadline is None or deadline > self.now, "a timer that is never satisfied"

    @rule()
    def reconnect(self) -> None:
        self.sender.connection_lost()
        self.sender.restart(self.now)

    @rule()
    def pause(self) -> None:
        self.sender.pause()

    @rule()
    def resume(self) -> None:
        self.sender.resume(self.now)

    @invariant()
    def counts_are_true(self) -> None:
        assert_consistent(self.sender)
        assert self.sender.unacknowledged == self.sender.next_sequence_number - len(self.acknowledged)
        if self.repeats_acknowledges:
            oldest = min(set(range(self.sender.next_sequence_number)) - self.acknowledged, default=None)
            span = 0 if oldest is None else 10 * (self.sender.next_sequence_number - oldest)
            assert self.sender.room_bytes == max(0, self.sender.window_bytes - span)

    def teardown(self) -> None:
        """With a peer that answers everything it ends."""
        self.sender.resume(self.now)
        for _ in range(1000):
            if self.sender.drained:
                break
            taken = numbers(self.sender.take(self.now))
            for number in taken:
                self.sender.acknowledge(number, self.now)
            if not taken:
                deadline = self.sender.next_deadline()
                assert deadline is not None, "stuck"
                self.now = max(self.now, deadline)
                self.sender.handle_timer(self.now)
        assert self.sender.drained


class ForeignSenderMachine(SenderMachine):
    """The same against a peer that may stay silent about what it has."""

    repeats_acknowledges = False


TestSenderMachine = SenderMachine.TestCase
TestForeignSenderMachine = ForeignSenderMachine.TestCase
TestSenderMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestForeignSenderMachine.settings = TestSenderMachine.settings


# -- sender: a peer that does not repeat its acknowledges -------------------------------------------


def make_foreign_sender(count: int, **options: int) -> Sender:
    sender = make_sender(count, **options)
    sender.repeats_acknowledges = False
    return sender


def say_something_new(sender: Sender, now: float) -> None:
    """One more message goes out after what is there, and is acknowledged at once."""
    push(sender, 1)
    sender.take(now)
    assert sender.acknowledge(sender.next_sequence_number - 1, now)


def stay_silent(sender: Sender, now: float, times: int) -> float:
    """The peer says nothing about copies of old messages, and acknowledges what is new."""
    for _ in range(times):
        sender.take(now)
        say_something_new(sender, now)
        now = expire(sender)
    return now


def test_the_newest_of_what_is_lost_goes_again_first() -> None:
    """It is the likeliest to be answered; and when it is not, the others need not be sent."""
    sender = make_foreign_sender(200)
    sender.take(0.0)
    sender.connection_lost()
    sender.restart(1.0)

    assert numbers(sender.take(1.0)) == list(range(199, 199 - BURST_MESSAGES, -1))
    sender.acknowledge(199, 1.01)
    assert numbers(sender.take(1.01)) == [199 - BURST_MESSAGES, 198 - BURST_MESSAGES]


def test_what_the_peer_has_but_will_never_acknowledge_holds_nothing_up() -> None:
    """Its acknowledges were lost in a cut. Official client, and our agent."""
    sender = make_foreign_sender(200, window_bytes=4000)
    sender.take(0.0)
    sender.connection_lost()
    sender.restart(1.0)
    # It has all of them, and says nothing.
    now = stay_silent(sender, 1.0, SILENCES)

    assert sender.room_bytes == 4000
    assert sender.resent < 100
    # The newest is repeated now and then, since nobody can be sure.
    repeated = []
    for _ in range(100):
        now = expire(sender)
        repeated += numbers(sender.take(now))
    assert set(repeated) == {199}
    assert now > 60.0
    # And any of them would still be taken for new.
    assert sender.acknowledge(50, now)


def test_one_silence_is_no_answer() -> None:
    """The copy may have been lost, as the message before."""
    sender = make_foreign_sender(10, window_bytes=1000)
    sender.take(0.0)
    sender.connection_lost()
    sender.restart(1.0)

    stay_silent(sender, 1.0, SILENCES - 1)

    assert sender.room_bytes < 900


def test_copies_that_one_gap_may_have_swallowed_count_as_one() -> None:
    sender = make_foreign_sender(10, window_bytes=1000)
    sender.take(0.0)
    sender.connection_lost()
    sender.restart(1.0)
    assert len(sender.take(1.0)) == 10
    say_something_new(sender, 1.0)

    expire(sender)

    assert sender.room_bytes < 900


def test_a_copy_that_is_answered_makes_silences_about_later_ones_void() -> None:
    """The peer was not past it, so it was not past what comes after."""
    sender = make_foreign_sender(10, window_bytes=1000)
    sender.take(0.0)
    sender.connection_lost()
    sender.restart(1.0)
    now = stay_silent(sender, 1.0, SILENCES - 1)
    sender.take(now)
    sender.acknowledge(3, now)

    stay_silent(sender, now, 1)

    assert sender.room_bytes < 900


def test_messages_wrongly_presumed_delivered_are_soon_repeated() -> None:
    """Cuts at the client that took every copy, between others that it got: nobody told us."""
    sender = make_foreign_sender(200)
    sender.take(0.0)
    sender.connection_lost()
    sender.restart(1.0)
    now = stay_silent(sender, 1.0, SILENCES)
    assert sender.room_messages == WINDOW_MESSAGES
    # Of all these it has every fourth, and waits for the first that it has not.
    missing = {number for number in range(200) if number % 4}
    expected = 1

    while missing:
        deadline = sender.next_deadline()
        assert deadline is not None
        now = max(now, deadline)
        sender.handle_timer(now)
        while taken := [number for number in numbers(sender.take(now)) if number >= expected]:
            now += 0.01
            for number in taken:
                sender.acknowledge(number, now)
            missing -= set(taken)
            expected = min(missing, default=200)

    assert now < 3.0
    assert sender.resent < 600


def test_what_the_peer_could_not_have_gone_on_without_is_forgotten() -> None:
    """It holds 10,000 messages out of order; with more acknowledged than that, it has the one before them."""
    sender = make_foreign_sender(3)
    sender.take(0.0)
    sender.connection_lost()
    sender.restart(1.0)
    now = stay_silent(sender, 1.0, SILENCES)
    for _ in range(FOREIGN_HELD_MESSAGES + 1 - SILENCES):
        assert sender.unacknowledged == 3
        say_something_new(sender, now)

    # It is noticed with the next that is presumed delivered.
    push(sender, 1)
    sender.take(now)
    sender.connection_lost()
    sender.restart(now)
    stay_silent(sender, now, SILENCES)

    assert sender.unacknowledged == 1


def test_new_messages_pass_those_that_are_never_acknowledged() -> None:
    sender = make_foreign_sender(3)
    sender.take(0.0)
    sender.connection_lost()
    sender.restart(1.0)
    now = 1.0
    sender.take(now)
    for _ in range(10):
        now = expire(sender)
        sender.take(now)
    push(sender, 1)

    assert 3 in numbers(sender.take(now))
    sender.acknowledge(3, now + 0.01)
    stay_silent(sender, now + 0.01, 8)
    assert sender.room_messages == WINDOW_MESSAGES


def test_a_window_full_of_what_the_peer_has_opens_a_little() -> None:
    """Only the acknowledge of something new can tell that it has the rest."""
    sender = make_foreign_sender(10, window_bytes=100)
    sender.take(0.0)
    assert sender.room_bytes == 0
    now = 0.0
    while not sender.room_bytes:
        now = expire(sender)
        sender.take(now)
    assert now < 1.0

    for _ in range(SILENCES):
        say_something_new(sender, now)
        while not sender.room_bytes:
            now = expire(sender)
            sender.take(now)
    assert now < 2.0
    assert sender.room_bytes == 100


def test_a_window_opens_no_further_when_a_peer_is_away() -> None:
    """What is kept for it has a bound."""
    sender = make_foreign_sender(0, window_messages=50)
    now = 0.0
    for _ in range(2000):
        push(sender, sender.room_messages)
        sender.take(now)
        now = expire(sender)

    assert sender.unacknowledged <= 2 * 50 + FEW_MESSAGES


# -- receiver ---------------------------------------------------------------------------------------


def test_messages_in_order_are_delivered_and_acknowledged_at_once() -> None:
    receiver: Receiver[str] = Receiver()

    assert receiver.receive(0, "a", 1)
    assert receiver.receive(1, "b", 1)

    assert receiver.take() == ["a", "b"]
    assert receiver.take() == []
    assert receiver.expected == 2


def test_a_message_ahead_is_acknowledged_at_once_and_delivered_in_order() -> None:
    receiver: Receiver[str] = Receiver()

    assert receiver.receive(2, "c", 1)
    assert receiver.receive(1, "b", 1)
    assert receiver.take() == []

    assert receiver.receive(0, "a", 1)
    assert receiver.take() == ["a", "b", "c"]
    assert receiver.expected == 3


def test_a_duplicate_is_acknowledged_but_not_delivered() -> None:
    receiver: Receiver[str] = Receiver()
    receiver.receive(0, "a", 1)
    receiver.receive(2, "c", 1)
    receiver.take()

    assert receiver.receive(0, "again", 1)
    assert receiver.receive(2, "again", 1)

    assert receiver.take() == []
    assert receiver.duplicates == 2


def test_what_finds_no_room_is_forgotten_unacknowledged() -> None:
    receiver: Receiver[str] = Receiver(max_messages=2, max_bytes=100)
    assert receiver.receive(1, "b", 60)
    assert not receiver.receive(2, "c", 60)
    assert receiver.receive(3, "d", 1)
    assert not receiver.receive(4, "e", 1)
    assert receiver.overflows == 2

    # The one that is missing is always taken.
    assert receiver.receive(0, "a", 60)
    assert receiver.take() == ["a", "b"]
    assert receiver.receive(2, "c", 60)
    assert receiver.take() == ["c", "d"]


def test_a_paused_receiver_keeps_messages_unacknowledged() -> None:
    receiver: Receiver[str] = Receiver()
    receiver.receive(0, "a", 1)
    receiver.take()
    receiver.pause()

    assert not receiver.receive(1, "b", 1)
    assert not receiver.receive(2, "c", 1)
    # Duplicates of what is held are ignored, those of what was delivered are not.
    assert not receiver.receive(1, "b", 1)
    assert receiver.receive(0, "a", 1)
    assert receiver.take() == []

    assert receiver.release() == [(1, "b"), (2, "c")]
    assert receiver.take() == ["b", "c"]
    assert not receiver.holding


def test_what_was_acknowledged_ahead_is_not_acknowledged_again_by_release() -> None:
    receiver: Receiver[str] = Receiver()
    receiver.pause()
    assert receiver.receive(1, "b", 1)
    assert not receiver.receive(0, "a", 1)
    # Contiguous now, and acknowledged before.
    assert receiver.receive(1, "b", 1)

    assert receiver.release() == [(0, "a")]
    assert receiver.take() == ["a", "b"]


def test_release_in_parts_keeps_the_order_of_what_comes_between() -> None:
    receiver: Receiver[int] = Receiver()
    receiver.pause()
    for number in range(10):
        receiver.receive(number, number, 10)

    assert [number for number, _ in receiver.release(max_bytes=25)] == [0, 1, 2]
    assert receiver.releasable
    assert receiver.take() == [0, 1, 2]
    # Not paused, but what is held comes first.
    assert not receiver.receive(10, 10, 10)
    assert [number for number, _ in receiver.release()] == list(range(3, 11))
    assert receiver.take() == list(range(3, 11))
    assert receiver.receive(11, 11, 10)
    assert receiver.take() == [11]


def test_a_pause_between_two_releases_holds_again() -> None:
    receiver: Receiver[int] = Receiver()
    receiver.pause()
    for number in range(4):
        receiver.receive(number, number, 10)
    receiver.release(max_bytes=10)
    receiver.pause()

    assert not receiver.releasable
    assert receiver.holding
    assert receiver.take() == [0]


def test_a_full_receiver_says_so_only_while_it_is_paused() -> None:
    receiver: Receiver[int] = Receiver(max_messages=2)
    for number in (1, 2):
        receiver.receive(number, number, 1)
    # Reading on is the only way to get number 0.
    assert not receiver.full

    receiver.pause()
    assert receiver.full


@given(
    order=st.permutations(list(range(30))),
    again=st.lists(st.integers(0, 29), max_size=20),
    pauses=st.lists(st.integers(0, 50), max_size=4, unique=True),
    max_messages=st.integers(1, 40),
    seed=st.integers(0, 1 << 16),
)
def test_whatever_comes_is_delivered_once_and_in_order(
    order: List[int], again: List[int], pauses: List[int], max_messages: int, seed: int
) -> None:
    """A peer that repeats what is not acknowledged gets everything through, whatever the store holds."""
    receiver: Receiver[int] = Receiver(max_messages=max_messages)
    chance = random.Random(seed)
    delivered: List[int] = []
    acknowledged: Dict[int, int] = {}

    def receive(number: int) -> None:
        if receiver.receive(number, number, 1):
            acknowledged[number] = acknowledged.get(number, 0) + 1
        delivered.extend(receiver.take())

    for step, number in enumerate([*order, *again]):
        if step in pauses:
            receiver.pause()
        receive(number)
        if receiver.holding and chance.random() < 0.2:
            for held, _ in receiver.release(max_bytes=chance.randrange(1, 8)):
                acknowledged[held] = acknowledged.get(held, 0) + 1
            delivered.extend(receiver.take())
    rounds = 0
    while set(range(30)) - set(acknowledged):
        rounds += 1
        assert rounds < 100, "never delivered"
        for held, _ in receiver.release():
            acknowledged[held] = acknowledged.get(held, 0) + 1
        delivered.extend(receiver.take())
        for number in sorted(set(range(30)) - set(acknowledged)):
            receive(number)
    for _ in receiver.release():
        pass
    delivered.extend(receiver.take())

    assert delivered == list(range(30))
