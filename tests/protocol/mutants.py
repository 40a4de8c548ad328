"""
The reliability rules, each with machines that break it: what the model checker must find.

The numbers are those of docs/adr/0002-reliability-rules.md. A mutant replaces one method of the real machine
(or one number); nearly all are mistakes that an implementation of this protocol was seen to make, or that
ours would make with one line less.
"""

from dataclasses import dataclass
from typing import Any, List, Tuple

from protocol.model import Scenario
from sagemaker_ssh_helper.protocol import data_channel, stream
from sagemaker_ssh_helper.protocol.data_channel import ChannelClosed, DataChannel, Side, State
from sagemaker_ssh_helper.protocol.message import AgentMessage, MessageType, serialize_message
from sagemaker_ssh_helper.protocol.stream import Receiver, Sender, _Entry

# -- where to look ------------------------------------------------------------------------------------

ONE = Scenario("one message each way, anything may happen", 3, up=b"a", down=b"A")
TWO = Scenario("two messages up, anything may happen", 4, up=b"ab", window=2)
THREE = Scenario("three messages down, a window of two", 4, down=b"ABC", window=2)
TYPED = Scenario("typed later", 4, type_up=b"a", type_down=b"A")
PACED = Scenario("three messages up, one resend at a time", 4, up=b"abc", burst=1)
OVERTAKEN = Scenario(
    "five messages up, and only the network errs", 7, up=b"abcde", window=5,
    without=frozenset(["cut", "break", "hold", "stop", "close", "double"]),
)  # fmt: skip
LATE = Scenario(
    "two messages each way, and all is late", 6, up=b"ab", down=b"AB",
    without=frozenset(["drop", "double", "cut", "break", "hold", "stop", "close"]),
)  # fmt: skip
PROBES = Scenario(
    "larger payloads are tried, and lost", 4, up=b"a", type_down=b"A", window=10_000,
    probes=True, limit=2000,
)  # fmt: skip
HANDSHAKE = Scenario("from the first connection on", 4, handshake=True, type_up=b"a", type_down=b"A")
OFFICIAL_AGENT = Scenario("the agent is an official one", 4, up=b"a", handshake=True, official=Side.AGENT)
OFFICIAL_CLIENT = Scenario("the client is an official one", 4, down=b"AB", window=2, official=Side.CLIENT)
SILENT = Scenario(
    "an official client, and messages are lost", 7, down=b"A", type_down=b"BC", official=Side.CLIENT,
    without=frozenset(["double", "cut", "break", "hold", "stop", "close"]),
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A machine with one mistake."""

    rule: int
    mistake: str
    scenario: Scenario
    finding: str
    """What the checker says about it, in part."""
    patches: Tuple[Tuple[Any, str, Any], ...]
    """Object, attribute, replacement."""


_take = Sender.take
_acknowledge = Sender.acknowledge
_restart = Sender.restart
_handle_timer = Sender.handle_timer
_next_deadline = Sender.next_deadline
_resume = Sender.resume
_receive = Receiver.receive
_receive_messages = DataChannel.receive_messages
_connection_lost = DataChannel.connection_lost
_messages_to_send = DataChannel.messages_to_send


# -- 1. buffer, then send -----------------------------------------------------------------------------


def _forget_what_is_handed_out(self: Sender, now: float, max_bytes: int = 1 << 62) -> List[bytes]:
    messages = _take(self, now, max_bytes)
    for number in [number for number, entry in self._entries.items() if entry.transmissions]:
        del self._entries[number]
    self._again.clear()
    self._again_count = 0
    return messages


def _acknowledge_unless_quick(self: Sender, sequence_number: int, now: float) -> bool:
    """The message is buffered a moment after it was sent, so a quick acknowledge finds nothing."""
    entry = self._entries.get(sequence_number)
    return (entry is None or now > entry.sent_at) and _acknowledge(self, sequence_number, now)


def _restart_from_nothing(self: Sender, now: float) -> None:
    for number in [number for number, entry in self._entries.items() if entry.transmissions]:
        del self._entries[number]
    _restart(self, now)


def _acknowledge_all_before(self: Sender, sequence_number: int, now: float) -> bool:
    """As if acknowledges were cumulative."""
    known = [_acknowledge(self, number, now) for number in range(sequence_number + 1)]
    return any(known)


# -- 2. acknowledge what is delivered or stored; old messages again -----------------------------------


def _stay_silent_about_old_ones(self: Receiver[Any], sequence_number: int, item: Any, size: int) -> bool:
    known = sequence_number < self.expected
    return _receive(self, sequence_number, item, size) and not known


def _acknowledge_without_storing(self: Receiver[Any], sequence_number: int, item: Any, size: int) -> bool:
    return sequence_number > self._contiguous or _receive(self, sequence_number, item, size)


def _deliver_at_once(self: Receiver[Any], sequence_number: int, item: Any, size: int) -> bool:
    """Without order."""
    if sequence_number >= self.expected:
        self.expected = self._contiguous = sequence_number + 1
        self._ready.append(item)
    return True


def _deliver_again(self: Receiver[Any], sequence_number: int, item: Any, size: int) -> bool:
    if sequence_number < self.expected:
        self._ready.append(item)
        return True
    return _receive(self, sequence_number, item, size)


# -- 3. a window by span ------------------------------------------------------------------------------


def _count_unacknowledged(self: Sender) -> int:
    return self.window_bytes - len(self._entries)


def _drop_the_oldest(self: Sender, message: bytes, size: int, again: Any = None) -> None:
    """A buffer of two messages, and the oldest makes room."""
    self._entries[self.next_sequence_number] = _Entry(message, self._next_offset, again)
    self.next_sequence_number += 1
    self._next_offset += size
    if len(self._entries) > 2:
        number = min(self._entries)
        del self._entries[number]
        self._unsent = max(self._unsent, number + 1)
        self._oldest = self._flight = number + 1


# -- 4. resend all that is late -----------------------------------------------------------------------


def _restart_and_wait(self: Sender, now: float) -> None:
    """What is outstanding waits for its timeout."""
    _restart(self, now)
    _wait_for_a_timeout(self, now, 0)


def _restart_the_oldest(self: Sender, now: float) -> None:
    _restart(self, now)
    _wait_for_a_timeout(self, now, 1)


def _wait_for_a_timeout(sender: Sender, now: float, but: int) -> None:
    sender._lost.sort()
    for *_, number in sender._lost[but:]:
        sender._entries[number].lost = False
        sender._entries[number].transmissions = 2
        sender._again.append((now + 0.5, number))
        sender._again_count += 1
    del sender._lost[but:]


def _resend_once(self: Sender, now: float) -> None:
    """A resend has no timeout of its own."""
    again, self._again = self._again, []
    _handle_timer(self, now)
    self._again = again + self._again


def _deadline_without_resends(self: Sender) -> Any:
    again, self._again = self._again, []
    deadline = _next_deadline(self)
    self._again = again
    return deadline


def _push_again_with_a_new_number(self: DataChannel, now: Any = None, max_bytes: Any = None) -> List[bytes]:
    """A resend is numbered like a new message."""
    known = self._sender._unsent
    messages = _messages_to_send(self, now, max_bytes)
    for index, data in enumerate(messages):
        message = AgentMessage.parse(data)
        if message.message_type == self._outgoing and message.sequence_number < known:
            messages[index] = serialize_message(
                self._outgoing, message.payload, self._sender.next_sequence_number, 0, message.payload_type,
                bytes(16), 1,
            )  # fmt: skip
    return messages


_push = Sender.push


def _push_one_form(self: Sender, message: bytes, size: int, again: Any = None) -> None:
    _push(self, message, size)


def _acknowledge_and_leave_the_pace(self: Sender, sequence_number: int, now: float) -> bool:
    """An acknowledge does not open the way for further resends."""
    burst, again = self._burst, self._again_count
    known = _acknowledge(self, sequence_number, now)
    self._burst, self._again_count = burst, again
    return known


def _take_without_pace(self: Sender, now: float, max_bytes: int = 1 << 62) -> List[bytes]:
    burst, self._burst = self._burst, 1000
    messages = _take(self, now, max_bytes)
    self._burst = burst
    return messages


# -- 5. the estimate ----------------------------------------------------------------------------------


def _measure_every_acknowledge(self: Sender, sequence_number: int, now: float) -> bool:
    entry = self._entries.get(sequence_number)
    if entry is not None and entry.transmissions > 1:
        self._measure(now - entry.sent_at)
    return _acknowledge(self, sequence_number, now)


def _acknowledge_without_the_timeout(self: Sender, sequence_number: int, now: float) -> bool:
    """An acknowledge does not restart the timeout."""
    last = self._last_ack_at
    known = _acknowledge(self, sequence_number, now)
    self._last_ack_at = last
    return known


# -- 6. a slow sink is answered by silence ------------------------------------------------------------


def _acknowledge_what_is_held(self: Receiver[Any], sequence_number: int, item: Any, size: int) -> bool:
    return _receive(self, sequence_number, item, size) or sequence_number in self._store


def _read_nothing_while_holding(self: DataChannel, batch: Any, now: float) -> List[Any]:
    """The socket is not read while the sink is full: acknowledges neither."""
    return [] if self._receiver.paused else _receive_messages(self, batch, now)


_release = Receiver.release


def _release_in_silence(self: Receiver[Any], max_bytes: int = 1 << 62) -> List[Any]:
    """What was held is delivered; only a copy of it will be acknowledged."""
    _release(self, max_bytes)
    return []


# -- 8. publication -----------------------------------------------------------------------------------


def _restart_paused(self: Sender, now: float) -> None:
    """A new connection does not end a pause."""
    paused = self.paused
    _restart(self, now)
    self.paused = paused


def _receive_while_paused(self: DataChannel, batch: Any, now: float) -> List[Any]:
    """Only start_publication ends a pause, no sign of the peer does."""
    paused = self._sender.paused
    batch = list(batch)
    events = _receive_messages(self, batch, now)
    first = AgentMessage.parse(batch[0]).message_type
    if paused and first in (self._incoming, MessageType.ACKNOWLEDGE):
        self._sender.paused = True
    return events


def _resume_without_a_timer(self: Sender, now: float) -> None:
    """The timer that the pause stopped is not started again."""
    if self.paused:
        _resume(self, now)
        for entry in self._entries.values():
            if entry.in_flight:
                entry.sent_at = float("inf")


def _deadline_unless_infinite(self: Sender) -> Any:
    deadline = _next_deadline(self)
    return None if deadline == float("inf") else deadline


# -- 9. only channel_closed ends a session ------------------------------------------------------------


def _end_with_the_connection(self: DataChannel, now: float) -> None:
    _connection_lost(self, now)
    self._events.append(ChannelClosed(""))
    self._enter(State.CLOSED)


def _forget_unsent_acknowledges(self: DataChannel, now: float) -> None:
    """Harmless in itself with a peer that sends again; but the stream's own state goes with it."""
    _connection_lost(self, now)
    self._receiver._store.clear()


def _write_into_nothing(self: DataChannel, now: float) -> None:
    """The sender goes on, as if there were a connection."""
    _connection_lost(self, now)
    self._sender.connected = True
    self._connected = True


def _reopen(self: DataChannel, token: str, now: float) -> None:
    self._connected = False
    _open(self, token, now)


_open = DataChannel.open


def _close_at_once(self: DataChannel, body: Any) -> None:
    """What is held at the end is dropped."""
    self._events.append(ChannelClosed(body.output))
    self._enter(State.CLOSED)


MUTANTS = (
    Mutant(
        1, "a message is forgotten when it is sent", ONE, "something is missing",
        ((Sender, "take", _forget_what_is_handed_out),),
    ),
    Mutant(
        1, "a message is buffered after it is sent", HANDSHAKE, "sent again after its acknowledge",
        ((Sender, "acknowledge", _acknowledge_unless_quick),),
    ),
    Mutant(
        1, "a new connection forgets what is outstanding", ONE, "not sent again",
        ((Sender, "restart", _restart_from_nothing),),
    ),
    Mutant(
        1, "an acknowledge counts for all before it", TWO, "something is missing",
        ((Sender, "acknowledge", _acknowledge_all_before),),
    ),
    Mutant(
        1, "a message is forgotten when an official client says nothing about a copy of it", SILENT,
        "something is missing", ((stream, "SILENCES", 1), (stream, "FOREIGN_HELD_MESSAGES", -1)),
    ),
    Mutant(
        2, "an old message is not acknowledged again", ONE, "never brings everything",
        ((Receiver, "receive", _stay_silent_about_old_ones),),
    ),
    Mutant(
        2, "a message is acknowledged and not stored", TWO, "neither delivered nor stored",
        ((Receiver, "receive", _acknowledge_without_storing),),
    ),
    Mutant(
        2, "messages are delivered as they come", TWO, "received",
        ((Receiver, "receive", _deliver_at_once),),
    ),
    Mutant(2, "a copy is delivered", ONE, "received", ((Receiver, "receive", _deliver_again),)),
    Mutant(
        3, "the window counts what is unacknowledged, whatever its span", THREE, "the window is 2",
        ((Sender, "room_bytes", property(_count_unacknowledged)),),
    ),
    Mutant(
        3, "a full buffer drops its oldest message", PACED, "left out", ((Sender, "push", _drop_the_oldest),),
    ),
    Mutant(
        4, "after a reconnect all waits for a timeout", ONE, "not sent again",
        ((Sender, "restart", _restart_and_wait),),
    ),
    Mutant(
        4, "after a reconnect only the oldest is sent again", TWO, "not sent again",
        ((Sender, "restart", _restart_the_oldest),),
    ),
    Mutant(
        4, "a resend that is lost is not sent again", ONE, "something is missing",
        ((Sender, "handle_timer", _resend_once), (Sender, "next_deadline", _deadline_without_resends)),
    ),
    Mutant(
        4, "a resend has a new number", ONE, "sent again after its acknowledge",
        ((DataChannel, "messages_to_send", _push_again_with_a_new_number),),
    ),
    Mutant(
        4, "a probe that is lost is sent again in its full size", PROBES, "never brings everything",
        ((Sender, "push", _push_one_form),),
    ),
    Mutant(
        4, "three that overtake a message mean nothing", OVERTAKEN, "three others overtook",
        ((stream, "OVERTAKEN_BY", 1000),),
    ),
    Mutant(
        4, "an acknowledge lets no further resend follow", PACED, "miscounted",
        ((Sender, "acknowledge", _acknowledge_and_leave_the_pace),),
    ),
    Mutant(
        4, "all is sent again at once", PACED, "more is sent again than was answered",
        ((Sender, "take", _take_without_pace),),
    ),
    Mutant(
        5, "the acknowledge of a resend is measured", ONE, "nobody can know",
        ((Sender, "acknowledge", _measure_every_acknowledge),),
    ),
    Mutant(
        5, "an acknowledge does not restart the timeout", LATE, "did not restart the timeout",
        ((Sender, "acknowledge", _acknowledge_without_the_timeout),),
    ),
    Mutant(
        5, "a timeout is never taken back", PACED, "not taken back",
        ((Sender, "_take_back", lambda self: None),),
    ),
    Mutant(
        6, "what is held is acknowledged", ONE, "that a slow sink did not take",
        ((Receiver, "receive", _acknowledge_what_is_held),),
    ),
    Mutant(
        6, "while a sink is full nothing is read", ONE, "sent again after its acknowledge",
        ((DataChannel, "receive_messages", _read_nothing_while_holding),),
    ),
    Mutant(
        6, "what was held is not acknowledged when it is delivered", ONE, "delivered and not acknowledged",
        ((Receiver, "release", _release_in_silence),),
    ),
    Mutant(
        7, "a client speaks at once after the handshake", OFFICIAL_AGENT, "something is missing",
        ((data_channel, "GRACE", 0.0),),
    ),
    Mutant(
        8, "pause_publication is ignored", TYPED, "in spite of pause_publication",
        ((Sender, "pause", lambda self: None),),
    ),
    Mutant(
        8, "a new connection does not end a pause", ONE, "not sent again",
        ((Sender, "restart", _restart_paused),),
    ),
    Mutant(
        8, "a sign of the peer does not end a pause", TYPED, "something is missing",
        ((DataChannel, "receive_messages", _receive_while_paused),),
    ),
    Mutant(
        8, "start_publication does not start the timer again", ONE, "something is missing",
        ((Sender, "resume", _resume_without_a_timer), (Sender, "next_deadline", _deadline_unless_infinite)),
    ),
    Mutant(
        9, "a lost connection ends the session", ONE, "its user was not told",
        ((DataChannel, "connection_lost", _end_with_the_connection),),
    ),
    Mutant(
        9, "a lost connection forgets what is stored", TWO, "something is missing",
        ((DataChannel, "connection_lost", _forget_unsent_acknowledges),),
    ),
    Mutant(
        9, "something is sent without a connection", TYPED, "without a connection",
        ((DataChannel, "connection_lost", _write_into_nothing), (DataChannel, "open", _reopen)),
    ),
    Mutant(
        9, "what is held at the end is dropped", ONE, "is not delivered",
        ((DataChannel, "_on_channel_closed", _close_at_once),),
    ),
)  # fmt: skip
"""At least one for each rule."""
