"""
Signs of life: when to ping, when to give a connection up.
"""

import enum
from typing import Optional

SLEPT = 10.0  # seconds the wall clock gains on ours when the machine was asleep
DOUBT_TIMEOUT = 5.0  # seconds for a sign of life after that


class Life(enum.Enum):
    """What to do about a connection now."""

    FINE = 0
    PING = 1
    DEAD = 2


class Keepalive:
    """
    When to ping a silent peer, and when to give it up. Only times; whatever the peer sends is a sign of life.

    A wall clock that runs ahead of the monotonic one means that the machine slept. Then the peer has to
    answer within seconds, or a laptop would sit for half a minute in front of a connection that died
    hours ago.

    Args:
        interval: seconds of silence before a ping. Twice that, and the peer is dead: also one that takes
            nothing more from us, though our ping is stuck then, too. As long as it took our data, however
            slowly, it acknowledged it.
        now, wall: when the connection began, by the two clocks.
    """

    def __init__(self, interval: float, now: float, wall: float) -> None:
        self.interval = interval
        self._heard_at = self._pinged_at = self._now = now
        self._wall = wall
        self._doubted_at: Optional[float] = None

    def next_check(self, heard_at: float) -> float:
        """When to call ``check`` at the latest."""
        check = max(heard_at, self._pinged_at) + self.interval
        check = min(check, heard_at + 2 * self.interval)
        if self._doubted_at is not None and heard_at <= self._doubted_at:
            check = min(check, self._doubted_at + DOUBT_TIMEOUT)
        return check

    def check(self, now: float, wall: float, heard_at: float) -> Life:
        """
        What to do. PING counts as done.

        Args:
            heard_at: when the peer last sent anything.
        """
        slept = wall - self._wall - (now - self._now) > SLEPT
        self._now, self._wall = now, wall
        if self._doubted_at is not None and heard_at > self._doubted_at:
            self._doubted_at = None
        if slept and self._doubted_at is None:
            self._doubted_at = self._pinged_at = now
            return Life.PING
        if now >= heard_at + 2 * self.interval:
            return Life.DEAD
        if self._doubted_at is not None and now >= self._doubted_at + DOUBT_TIMEOUT:
            return Life.DEAD
        if now >= max(heard_at, self._pinged_at) + self.interval:
            self._pinged_at = now
            return Life.PING
        return Life.FINE
