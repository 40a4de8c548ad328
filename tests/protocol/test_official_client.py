"""
Our sender with the official client's receiver at the other end of a link that loses messages each way.

The client is scripted by its rules, not by our receiver: it never acknowledges an old number again, holds
10,000 messages out of order, and drops what finds no room without a word.
"""

import heapq
import random
from typing import Callable, Dict, List, Optional, Set, Tuple

import pytest

from protocol.link import assert_consistent
from sagemaker_ssh_helper.protocol.stream import Sender

pytestmark = pytest.mark.container

PAYLOAD_BYTES = 1024
PAYLOAD = bytes(PAYLOAD_BYTES - 8)
CLIENT_HOLDS = 10_000


class OfficialClient:
    """What it does with the numbers that reach it."""

    def __init__(self) -> None:
        self.expected = 0
        self.stored: Set[int] = set()
        self.most_stored = 0

    def receive(self, number: int) -> bool:
        """Take one message; whether it is acknowledged."""
        if number < self.expected:
            return False
        if number > self.expected:
            if len(self.stored) >= CLIENT_HOLDS:
                return False
            self.stored.add(number)
            self.most_stored = max(self.most_stored, len(self.stored))
            return True
        self.expected += 1
        while self.expected in self.stored:
            self.stored.remove(self.expected)
            self.expected += 1
        return True


class Download:
    """A download to that client in time that is a number; ``passes`` says what reaches the other end."""

    def __init__(
        self, size_bytes: int, passes: Callable[[str, int, float], bool], *, delay: float = 0.002
    ) -> None:
        self.count = size_bytes // PAYLOAD_BYTES
        self.client = OfficialClient()
        self.sender = Sender()
        self.sender.repeats_acknowledges = False
        self.now = 0.0
        self.longest_stall = 0.0
        self.most_kept = 0
        self._passes = passes
        self._delay = delay
        self._progress_at = 0.0
        self._free_at = 0.0
        self._events: List[Tuple[float, int, str, int]] = []
        self._order = 0
        self.sender.restart(self.now)

    def run(self, limit: float = 120.0) -> "Download":
        """Until the client has everything; a failure when that takes longer than ``limit``."""
        sender, client = self.sender, self.client
        while client.expected < self.count:
            self._write()
            times = [self._events[0][0]] if self._events else []
            deadline = sender.next_deadline()
            times += [] if deadline is None else [deadline]
            assert times, "nothing will ever happen"
            self.now = max(self.now, min(times))
            assert self.now < limit, f"stands still at {client.expected} of {self.count}"
            while self._events and self._events[0][0] <= self.now:
                self._arrive(*heapq.heappop(self._events)[2:])
            deadline = sender.next_deadline()
            if deadline is not None and deadline <= self.now:
                sender.handle_timer(self.now)
                assert_consistent(sender)
        return self

    def _write(self) -> None:
        sender = self.sender
        while sender.next_sequence_number < self.count and sender.room_bytes and sender.room_messages:
            number = sender.next_sequence_number.to_bytes(8, "big")
            sender.push(number + PAYLOAD, PAYLOAD_BYTES)
        for message in sender.take(self.now):
            # The client takes some 20 MB a second.
            self._free_at = max(self._free_at, self.now) + PAYLOAD_BYTES / 20e6
            self._travel("data", int.from_bytes(message[:8], "big"), self._free_at)
        self.most_kept = max(self.most_kept, sender.unacknowledged)

    def _travel(self, what: str, number: int, at: float) -> None:
        if self._passes(what, number, at):
            self._order += 1
            heapq.heappush(self._events, (at + self._delay, self._order, what, number))

    def _arrive(self, what: str, number: int) -> None:
        if what == "acknowledge":
            self.sender.acknowledge(number, self.now)
            return
        expected = self.client.expected
        if self.client.receive(number):
            self._travel("acknowledge", number, self.now)
        if self.client.expected > expected:
            self.longest_stall = max(self.longest_stall, self.now - self._progress_at)
            self._progress_at = self.now


def losing(
    share: float, seed: int, acknowledges: Optional[float] = None
) -> Callable[[str, int, float], bool]:
    """Each message, and each acknowledge, is lost by chance."""
    chance = random.Random(seed)
    shares: Dict[str, float] = {"data": share, "acknowledge": share if acknowledges is None else acknowledges}
    return lambda what, number, at: chance.random() >= shares[what]


@pytest.mark.parametrize("seed", range(3))
def test_a_download_through_one_percent_of_loss_each_way_never_stands_still(seed: int) -> None:
    download = Download(30_000_000, losing(0.01, seed)).run()
    print(
        f"{download.now:.1f} s, longest stall {download.longest_stall:.2f} s, {download.sender.resent} again"
    )

    assert download.longest_stall < 2.0
    assert download.sender.resent < 0.1 * download.count


def test_a_healthy_link_costs_nothing() -> None:
    download = Download(10_000_000, losing(0.0, 0)).run()

    assert download.sender.resent == 0
