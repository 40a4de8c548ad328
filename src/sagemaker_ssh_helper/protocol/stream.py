"""
The reliable ordered stream: numbered messages, one acknowledge each, in any order, over a link that may
lose them.

``Sender`` and ``Receiver`` are the two halves of one direction. They know numbers, bytes and times,
nothing of message types or sockets. ``now`` is monotonic seconds and never goes back.

A message of the sender is in one of four places::

      push            take              acknowledge
     ------> UNSENT ------> IN FLIGHT ---------------> gone
                              |  ^                      ^
            silent, overtaken |  | take, at most        | acknowledge (a late one counts as well)
            or reconnected    v  | ``burst`` unanswered |
                             LOST ----------------------+

Every message is buffered before it is handed out, so no acknowledge can come too early, and it stays
until it is acknowledged. See docs/explanation/the-stream.md.

A peer that never acknowledges an old message again, as the official client, needs one place more: a message
whose acknowledge was lost stays here for ever. What tells is that such a peer acknowledges every copy of what
is newer than the one it waits for. So silence about a copy of P means that it is past P, and everything up to
P is PRESUMED delivered: nothing waits for it any more. A copy can be lost, too, so one silence is no answer:
SILENCES of them are, if between any two of them something else got through. What is presumed stays here until
the peer acknowledged more later messages than it could hold without it, and the newest of it is repeated now
and then: an acknowledge says that the presumption was wrong, and all of it is sent again, the newest first.
"""

from collections import deque
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Deque, Dict, Generic, List, Optional, Tuple, TypeVar

# What the public peers do, and we obey.
INITIAL_RTO = 0.2  # seconds
INITIAL_SRTT = 0.1  # seconds
SRTT_GAIN = 1 / 8
RTTVAR_GAIN = 1 / 4
RTO_MARGIN = 0.01  # seconds, the least distance between round trip and timeout
MAX_RTO = 1.0  # seconds

# What we chose.
WINDOW_BYTES = 8 << 20
WINDOW_MESSAGES = 8192  # stays below the 10,000 messages the public client can hold out of order
MIN_RTO = 0.1  # seconds; nothing is lost on a healthy WebSocket, so a hasty resend is mostly a wasted one
OVERTAKEN_BY = 3  # numbers between an acknowledged message and an older one that counts as lost
OVERTAKEN_AGE = 1.25  # round trips
LONGEST_SAMPLE = 5.0  # seconds; longer is a peer that was away, not a path
BURST_MESSAGES = 32  # unanswered resends; grows by one with each acknowledge, so it doubles every round trip
SILENCES = 2  # copies without an answer that show that a peer is past a message
PRESUMED_DELAYS = (
    0.25,
    1.0,
)  # seconds between repeats of the newest message presumed delivered: at first, at last
FEW_MESSAGES = 4
PRESUMED_MESSAGES = 8192  # more are not kept, however many acknowledges are lost
FOREIGN_LEAST_BURST = 2  # the newest message that is not answered, and one of the others
FOREIGN_HELD_MESSAGES = 10_000  # what the public client holds out of order at most
# The part of the window that is added when nothing but the acknowledge of something new will open it.
WIDENING = 1 / 64
HELD_MESSAGES = 10_000
HELD_BYTES = 16 << 20

_UNLIMITED = 1 << 62
_NO_SILENCE = (-1, 0)
_SCATTER = 0x9E3779B1  # odd, and near 2**32 over the golden ratio: neighbours end up far from each other


class _Entry:
    """One message that is not acknowledged."""

    __slots__ = (
        "again", "doubted", "lost", "message", "offset", "order", "presumed", "seen", "sent_at", "timed_out",
        "transmissions",
    )  # fmt: skip

    def __init__(self, message: bytes, offset: int, again: Optional[bytes]) -> None:
        self.message = message
        self.again = again
        self.offset = offset
        self.sent_at = 0.0
        self.transmissions = 0
        self.lost = False
        self.timed_out = False
        self.presumed = False
        self.doubted = False  # it was presumed delivered, and perhaps is not
        self.order = 0
        self.seen = 0  # the latest send that was answered when this one was handed out again

    @property
    def in_flight(self) -> bool:
        """Handed out once, and not given up."""
        return self.transmissions == 1 and not self.lost and not self.presumed


class Sender:
    """
    The sending half: what was not acknowledged, when to send it again, and how much more may be pushed.

    The window is a span: payload bytes (and messages) from the oldest unacknowledged message to the
    newest, whatever was acknowledged between. So it bounds what the peer has to hold out of order as well
    as our own memory.

    Args:
        window_bytes: the span at which ``room_bytes`` becomes 0. ``push`` itself never refuses.
        window_messages: the same in messages.
    """

    def __init__(self, window_bytes: int = WINDOW_BYTES, window_messages: int = WINDOW_MESSAGES) -> None:
        self.window_bytes = window_bytes
        self.window_messages = window_messages
        self.next_sequence_number = 0
        self.resent = 0
        """Messages handed out again so far."""
        self.repeats_acknowledges = True
        """
        The peer acknowledges old messages again. Official agents and our ends do, official clients do
        not.
        """
        self.srtt = INITIAL_SRTT
        self.rttvar = 0.0
        self.rto = INITIAL_RTO
        self.paused = False
        self.connected = False
        self._entries: Dict[int, _Entry] = {}
        self._oldest = 0
        self._oldest_offset = 0
        self._next_offset = 0
        self._unsent = 0  # numbers from here on were never handed out
        self._flight = 0  # numbers from here to _unsent were handed out once and are not known to be lost
        self._newest_acked = -1  # of those handed out once
        self._last_ack_at = 0.0
        # Heaps of numbers; those that are not what they were are passed over.
        self._lost: List[Tuple[int, int, int]] = []  # by what _lose thinks is urgent
        self._again: List[Tuple[float, int]] = []  # resends, by the time they are lost as well
        self._again_count = 0
        self._burst = BURST_MESSAGES
        self._doubtful = range(0)  # what the last timeout gave up, perhaps too early
        self._sends = 0
        self._acked_order = 0  # the latest send that was certainly answered
        # For each count of silences: the newest message that the peer was silent about so often, about a copy
        # of it or of one after it; and the send of the last of these copies.
        self._silences = [_NO_SILENCE] * SILENCES
        self._presumed: Deque[int] = deque()
        self._presumed_at = 0.0
        self._presumed_due = False  # repeat one of them now
        self._presumed_turn = 0
        self._presumed_delay = PRESUMED_DELAYS[0]
        self._extra_bytes = self._extra_messages = 0  # by how much the window is wider than it should be
        self._widened_at = 0.0
        self._answering = True
        self._silent = False  # nothing was acknowledged since the last timeout

    @property
    def drained(self) -> bool:
        """Everything pushed is acknowledged."""
        return not self._entries

    @property
    def unacknowledged(self) -> int:
        """Messages pushed and not acknowledged."""
        return len(self._entries)

    @property
    def room_bytes(self) -> int:
        """Payload bytes that may be pushed now; 0 when the window is full."""
        return max(0, self.window_bytes + self._extra_bytes - self._span_bytes)

    @property
    def _span_bytes(self) -> int:
        return self._next_offset - self._oldest_offset

    @property
    def _span_messages(self) -> int:
        return self.next_sequence_number - self._oldest

    @property
    def room_messages(self) -> int:
        """Messages that may be pushed now; 0 when the window is full."""
        return max(0, self.window_messages + self._extra_messages - self._span_messages)

    def push(self, message: bytes, size: int, again: Optional[bytes] = None) -> None:
        """
        Buffer the message numbered ``next_sequence_number``; ``take`` hands it out.

        Args:
            message: the bytes as they go on the wire, every time.
            size: its payload bytes, which is what the window counts.
            again: what goes on the wire instead when it has to be sent again.
        """
        self._entries[self.next_sequence_number] = _Entry(message, self._next_offset, again)
        self.next_sequence_number += 1
        self._next_offset += size

    def was_taken(self, sequence_number: int) -> bool:
        """This message was handed out at least once."""
        return sequence_number < self._unsent

    def take(self, now: float, max_bytes: int = _UNLIMITED) -> List[bytes]:
        """Messages to write now, lost ones first. A little more than ``max_bytes`` at most."""
        messages: List[bytes] = []
        if self.paused or not self.connected:
            return messages
        entries = self._entries
        while self._lost and max_bytes > 0:
            entry = entries.get(self._lost[0][2])
            if entry is None or not entry.lost:
                heappop(self._lost)
                continue
            if self._again_count >= self._burst:
                if self.repeats_acknowledges:
                    return messages
                break
            number = heappop(self._lost)[2]
            if entry.again is not None:
                entry.message = entry.again
            entry.lost = False
            entry.transmissions += 1
            entry.sent_at = now
            self._sends += 1
            entry.order = self._sends
            entry.seen = self._acked_order
            heappush(
                self._again, (now + (self._backoff(entry) if self.repeats_acknowledges else self.rto), number)
            )
            self._again_count += 1
            self.resent += 1
            messages.append(entry.message)
            max_bytes -= len(entry.message)
        if self._presumed_due and self._presumed:
            self._presumed_due = False
            self._repeat_presumed(messages)
        number = self._unsent
        end = self.next_sequence_number
        sends = self._sends
        while number < end and max_bytes > 0:
            entry = entries[number]
            sends += 1
            entry.order = sends
            entry.transmissions = 1
            entry.sent_at = now
            messages.append(entry.message)
            max_bytes -= len(entry.message)
            number += 1
        self._unsent = number
        self._sends = sends
        return messages

    def acknowledge(self, sequence_number: int, now: float) -> bool:
        """
        Forget a message: the peer has it.

        Returns:
            False for a number that is not waiting: acknowledged before, or never sent. It changes nothing.
        """
        if sequence_number >= self._unsent:
            return False
        entry = self._entries.pop(sequence_number, None)
        if entry is None:
            return False
        self._last_ack_at = now
        self._silent = False
        if not self._answering:
            self._set_answering(True)
        if entry.transmissions > 1 and not self.repeats_acknowledges:
            self._forget_silences(sequence_number)
        if entry.transmissions == 1:
            # Karn's rule: nobody can tell which copy a resent message's acknowledge answers.
            if entry.order > self._acked_order:
                self._acked_order = entry.order
            if not entry.timed_out:
                self._measure(now - entry.sent_at)
            elif entry.lost and sequence_number in self._doubtful:
                self._measure(min(now - entry.sent_at, LONGEST_SAMPLE))
                self._take_back()
            if sequence_number > self._newest_acked:
                self._newest_acked = sequence_number
        elif entry.presumed:
            self._doubt_presumed()
        elif not entry.lost:
            self._again_count -= 1
        self._burst += 1
        if sequence_number == self._oldest:
            self._advance()
        return True

    def pause(self) -> None:
        """Hand out nothing until ``resume`` or ``restart``."""
        self.paused = True

    def resume(self, now: float) -> None:
        """End a pause. Time spent in it does not make messages late."""
        if self.paused:
            self.paused = False
            self._last_ack_at = now

    def connection_lost(self) -> None:
        """Hand out nothing, and let no time count, until ``restart``."""
        self.connected = False

    def restart(self, now: float) -> None:
        """A fresh connection: everything that was handed out and not acknowledged is lost, and goes first."""
        self.connected = True
        self.paused = False
        self._last_ack_at = now
        self._doubtful = range(0)
        self._again.clear()
        self._again_count = 0
        self._lost = []
        for number in range(self._oldest, self._unsent):
            entry = self._entries.get(number)
            if entry is not None and not entry.presumed:
                entry.timed_out = True
                self._lose(number, entry)
        self._flight = self._unsent
        self._burst = BURST_MESSAGES
        self._set_answering(True)
        if not self.repeats_acknowledges:
            self._widen(now)

    def next_deadline(self) -> Optional[float]:
        """When ``handle_timer`` has something to do; None when nothing waits for time."""
        if self.paused or not self.connected:
            return None
        deadline: Optional[float] = None
        entry = self._front()
        if entry is not None:
            deadline = max(entry.sent_at, self._last_ack_at) + self.rto
            if self._flight + OVERTAKEN_BY <= self._newest_acked:
                deadline = min(deadline, self._overtaken_at(entry))
        while self._again and self._again[0][1] not in self._entries:
            heappop(self._again)
        if self._again and (deadline is None or self._again[0][0] < deadline):
            deadline = self._again[0][0]
        if self._presumed and (deadline is None or self._presumed_at < deadline):
            deadline = self._presumed_at
        return deadline

    def handle_timer(self, now: float) -> None:
        """
        Decide what is lost by now; ``take`` then hands it out again.

        In flight, two things make a message lost: one three or more later was acknowledged and it is older
        than a round trip and a quarter; or nothing at all was acknowledged for a timeout, which makes all of
        them lost at once. A resend has its own timeout, doubled each time.
        """
        if self.paused or not self.connected:
            return
        timed_out = silent = False
        entry = self._front()
        while (
            entry is not None
            and self._flight + OVERTAKEN_BY <= self._newest_acked
            and now >= self._overtaken_at(entry)
        ):
            self._lose(self._flight, entry)
            self._flight += 1
            entry = self._front()
        if entry is not None and now >= max(entry.sent_at, self._last_ack_at) + self.rto:
            self._doubtful = range(self._flight, self._unsent)
            for number in self._doubtful:
                entry = self._entries.get(number)
                if entry is not None and entry.in_flight:
                    entry.timed_out = True
                    self._lose(number, entry)
            self._flight = self._unsent
            timed_out = True
        while self._again and self._again[0][0] <= now:
            number = heappop(self._again)[1]
            entry = self._entries.get(number)
            if entry is None or entry.presumed:
                continue
            answered = False
            if not self.repeats_acknowledges:
                answered = entry.order < self._acked_order
                if answered:
                    silent = True
                    self._note_silence(number, entry)
                elif now < entry.sent_at + self._backoff(entry):
                    # Nothing got through that was sent later: look again, as this tells more than time does.
                    heappush(self._again, (now + self.rto, number))
                    continue
            timed_out = timed_out or not answered
            self._again_count -= 1
            self._lose(number, entry)
        if silent:
            self._set_answering(True)
            self._presume(now)
            self._widen(now)
        if self._presumed and now >= self._presumed_at:
            self._presumed_due = True
            self._presumed_at = now + self._presumed_delay
            self._presumed_delay = min(PRESUMED_DELAYS[1], self._presumed_delay * 1.1)
        if timed_out:
            if not silent and self._answering:
                self._presumed_due = True
                self._presumed_delay = PRESUMED_DELAYS[0]
            self._set_answering(silent)
            # A peer that says nothing is away or its sink is slow: knock ever more softly, down to one
            # message.
            least = 1 if self.repeats_acknowledges else FOREIGN_LEAST_BURST
            self._burst = max(least, self._burst // 2) if self._silent else BURST_MESSAGES
            if not self.repeats_acknowledges:
                self._widen(now)
            self._silent = True
            self.rto = max(self.rto, min(MAX_RTO, self.rto * 2))

    def _backoff(self, entry: _Entry) -> float:
        """How long to wait for the acknowledge of this resend."""
        return max(self.rto, min(MAX_RTO, MIN_RTO * (1 << min(entry.transmissions - 1, 10))))

    def _widen(self, now: float) -> None:
        """
        Let something new be sent though the window is full: a part of it for each timeout, and few messages
        where the peer may hold no more out of order.

        A peer that says nothing may have everything, and all its acknowledges were lost; then only the
        acknowledge of something new can tell. What is kept meanwhile is at most twice a window.
        """
        if now < self._widened_at + self.rto or (self.room_bytes and self.room_messages):
            return
        if len(self._entries) >= 2 * self.window_messages:
            return
        self._widened_at = now
        messages = max(1, int(self.window_messages * WIDENING))
        if self._span_messages + messages > FOREIGN_HELD_MESSAGES:
            messages = FEW_MESSAGES
        size = max(1, int(self.window_bytes * WIDENING))
        self._extra_bytes = max(0, self._span_bytes - self.window_bytes) + size
        self._extra_messages = max(0, self._span_messages - self.window_messages) + messages

    def _front(self) -> Optional[_Entry]:
        """The oldest message in flight; moves ``_flight`` to it."""
        number = self._flight
        unsent = self._unsent
        entries = self._entries
        if number < self._oldest:
            number = self._oldest
        while number < unsent:
            entry = entries.get(number)
            if entry is not None and entry.in_flight:
                self._flight = number
                return entry
            number += 1
        self._flight = unsent
        return None

    def _overtaken_at(self, entry: _Entry) -> float:
        return entry.sent_at + max(self.srtt * OVERTAKEN_AGE, self.srtt + RTO_MARGIN)

    def _lose(self, number: int, entry: _Entry) -> None:
        entry.lost = True
        heappush(self._lost, self._rank(number, entry))

    def _rank(self, number: int, entry: _Entry) -> Tuple[int, int, int]:
        """By which lost messages go again; the least first."""
        if self.repeats_acknowledges:
            # The oldest is what the peer waits for.
            return 0, number, number
        if self._answering or number == next(reversed(self._entries)):
            # The newest is what answers, if any does; and if it does not, the others need not be sent.
            return 0, -number, number
        # Away, or without room for more: ask here and there, each in its turn, and find one that answers.
        turn = entry.transmissions // 8 if entry.doubted else entry.transmissions
        return turn, number * _SCATTER & 0xFFFFFFFF, number

    def _set_answering(self, answering: bool) -> None:
        """The peer is there, or seems not to be."""
        if answering is self._answering:
            return
        self._answering = answering
        if self._lost and not self.repeats_acknowledges:
            lost = {number for *_, number in self._lost}
            entries = self._entries
            self._lost = [
                self._rank(number, entries[number])
                for number in lost
                if number in entries and entries[number].lost
            ]
            heapify(self._lost)

    def _note_silence(self, number: int, entry: _Entry) -> None:
        """
        Something that was sent after this copy is acknowledged, and the copy is not.

        One cut, or one gap, can take several copies. So two of them count as two only if something that was
        sent between them got through.
        """
        silences = self._silences
        for count in range(SILENCES - 1, 0, -1):
            before, order = silences[count - 1]
            newest = min(before, number)
            if order < entry.seen and newest > silences[count][0]:
                silences[count] = (newest, entry.order)
        if number > silences[0][0]:
            silences[0] = (number, entry.order)

    def _forget_silences(self, number: int) -> None:
        """A copy of this one was answered, so the peer was not past it: what was silent after it was lost."""
        self._silences = [_NO_SILENCE if one[0] >= number else one for one in self._silences]

    def _presume(self, now: float) -> None:
        """Let nothing wait for what the peer is past."""
        past = self._silences[-1][0]
        if past < self._oldest:
            return
        if not self._presumed:
            self._presumed_at = now + PRESUMED_DELAYS[0]
            self._presumed_delay = PRESUMED_DELAYS[0]
        for number in range(self._oldest, past + 1):
            entry = self._entries.get(number)
            if entry is None or entry.presumed:
                continue
            if entry.transmissions > 1 and not entry.lost:
                self._again_count -= 1
            entry.presumed = True
            entry.lost = False
            self._presumed.append(number)
        self._advance()
        self._drop_presumed()

    def _drop_presumed(self) -> None:
        """Forget those presumed that the peer must have: it could not hold all that it acknowledged since."""
        presumed = self._presumed
        entries = self._entries
        while presumed:
            number = presumed[0]
            if number in entries:
                acknowledged_since = self.next_sequence_number - number - len(entries)
                if acknowledged_since <= FOREIGN_HELD_MESSAGES and len(presumed) <= PRESUMED_MESSAGES:
                    return
                del entries[number]
            presumed.popleft()

    def _doubt_presumed(self) -> None:
        """One was not delivered, so others may not have been."""
        self._silences = [_NO_SILENCE] * SILENCES
        entries = self._entries
        self._again = [one for one in self._again if one[1] in entries and not entries[one[1]].presumed]
        heapify(self._again)
        for number in self._presumed:
            entry = entries.get(number)
            if entry is not None:
                entry.presumed = False
                entry.transmissions = max(2, entry.transmissions)
                entry.doubted = entry.lost = True
                # Before all others: what the peer waits for is here.
                heappush(self._lost, (-1, -number, number))
                self._oldest = min(self._oldest, number)
        self._presumed.clear()
        self._burst = max(self._burst, BURST_MESSAGES)
        self._oldest -= 1
        self._advance()

    def _repeat_presumed(self, messages: List[bytes]) -> None:
        """
        Hand out the newest of those presumed delivered: when the peer is past it, it is past all.

        A peer that says nothing at all may have no room for more, and wait for any of them: then each in its
        turn.
        """
        presumed = self._presumed
        if self._answering:
            while presumed and presumed[-1] not in self._entries:
                presumed.pop()
            numbers = [presumed[-1]] if presumed else []
        else:
            first = self._presumed_turn % len(presumed)
            self._presumed_turn = first + BURST_MESSAGES
            numbers = list(islice(presumed, first, first + BURST_MESSAGES))
        for number in numbers:
            entry = self._entries.get(number)
            if entry is not None:
                self._sends += 1
                entry.order = self._sends
                entry.transmissions = max(2, entry.transmissions)
                self.resent += 1
                messages.append(entry.message)

    def _take_back(self) -> None:
        """The timeout came too early: what it gave up and was not resent is in flight."""
        for number in self._doubtful:
            entry = self._entries.get(number)
            if entry is not None and entry.transmissions == 1 and not entry.presumed:
                entry.lost = False
        self._flight = self._doubtful.start
        self._doubtful = range(0)

    def _measure(self, round_trip: float) -> None:
        self.rttvar += RTTVAR_GAIN * (abs(self.srtt - round_trip) - self.rttvar)
        self.srtt += SRTT_GAIN * (round_trip - self.srtt)
        rto = self.srtt + max(RTO_MARGIN, 4 * self.rttvar)
        # The cap gives way where the round trip itself is longer, as through a long queue: a resend that
        # cannot be answered in time would only make the queue longer.
        self.rto = min(max(rto, MIN_RTO), max(MAX_RTO, self.srtt * OVERTAKEN_AGE))

    def _advance(self) -> None:
        """Move the window to the oldest message that is still there, and not presumed delivered."""
        self._extra_bytes = self._extra_messages = 0
        number = self._oldest + 1
        entries = self._entries
        end = self.next_sequence_number
        while number < end:
            entry = entries.get(number)
            if entry is not None and not entry.presumed:
                self._oldest = number
                self._oldest_offset = entry.offset
                return
            number += 1
        self._oldest = end
        self._oldest_offset = self._next_offset


Item = TypeVar("Item")


class Receiver(Generic[Item]):
    """
    The receiving half: puts items in order, and says which to acknowledge.

    ``paused`` is how a slow sink holds the writer: items that would be delivered are kept instead,
    unacknowledged, and acknowledges of the other direction can still be read meanwhile.

    Args:
        max_messages: how many items are kept, out of order and held ones together.
        max_bytes: the same in bytes.
    """

    def __init__(self, max_messages: int = HELD_MESSAGES, max_bytes: int = HELD_BYTES) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.expected = 0
        """The number to be delivered next."""
        self.paused = False
        self.duplicates = 0
        self.overflows = 0
        self._store: Dict[int, Tuple[Item, int, bool]] = {}  # item, size, acknowledged
        self._stored_bytes = 0
        self._contiguous = 0  # expected, and beyond it what is held in order
        self._ready: List[Item] = []

    @property
    def holding(self) -> bool:
        """Items that could be delivered are held: paused, or not yet released since."""
        return self.paused or self.expected < self._contiguous

    @property
    def releasable(self) -> bool:
        """``release`` has something to deliver."""
        return not self.paused and self.expected < self._contiguous

    @property
    def full(self) -> bool:
        """Nothing more can be held. The last resort is then to stop reading."""
        return self.paused and (len(self._store) >= self.max_messages or self._stored_bytes >= self.max_bytes)

    def receive(self, sequence_number: int, item: Item, size: int) -> bool:
        """
        Take one message as it came.

        Returns:
            Whether to acknowledge it now. An old one is always acknowledged again, since its first
            acknowledge may be lost and some peers resend for ever. One that is held will be told by
            ``release``. One that found no room is forgotten; the peer sends it again.
        """
        contiguous = self._contiguous
        if sequence_number == contiguous:
            if not self.paused and self.expected == contiguous:
                self._ready.append(item)
                contiguous += 1
                while contiguous in self._store:
                    item, size, _ = self._store.pop(contiguous)
                    self._stored_bytes -= size
                    self._ready.append(item)
                    contiguous += 1
                self._contiguous = self.expected = contiguous
                return True
            if self._keep(sequence_number, item, size, False):
                contiguous += 1
                while contiguous in self._store:
                    contiguous += 1
                self._contiguous = contiguous
            return False
        if sequence_number < self.expected:
            self.duplicates += 1
            return True
        stored = self._store.get(sequence_number)
        if stored is not None:
            self.duplicates += 1
            return stored[2]
        return self._keep(sequence_number, item, size, True)

    def take(self) -> List[Item]:
        """Items that became deliverable, in order."""
        ready = self._ready
        if ready:
            self._ready = []
        return ready

    def pause(self) -> None:
        """Hold what would be delivered from now on."""
        self.paused = True

    def release(self, max_bytes: int = _UNLIMITED) -> List[Tuple[int, Item]]:
        """
        End a pause, and make held items deliverable: all, or a little more than ``max_bytes``.

        Returns:
            The (number, item) pairs to acknowledge now. When ``releasable`` is still true, call again.
        """
        self.paused = False
        unacknowledged = []
        while self.expected < self._contiguous and max_bytes > 0:
            item, size, acknowledged = self._store.pop(self.expected)
            self._stored_bytes -= size
            max_bytes -= size
            self._ready.append(item)
            if not acknowledged:
                unacknowledged.append((self.expected, item))
            self.expected += 1
        return unacknowledged

    def _keep(self, sequence_number: int, item: Item, size: int, acknowledged: bool) -> bool:
        if len(self._store) >= self.max_messages or self._stored_bytes + size > self.max_bytes:
            self.overflows += 1
            return False
        self._store[sequence_number] = (item, size, acknowledged)
        self._stored_bytes += size
        return True
