"""
Messages for one managed instance that nobody has seen arrive yet.

An agent may drop what reaches it right after it opened its control channel, without a word. So an offer of a
session stays here until the agent asks for the session's data channel, and a job until the agent acknowledges
it; both are sent again in between.
"""

from dataclasses import dataclass

# Number we chose. The official agent asks for a data channel 60 to 100 ms after an offer, and drops
# duplicates.
RETRY_INTERVAL = 3.0  # seconds


@dataclass
class Delivery:
    """One message on its way. ``due_at`` is when it should be sent (again), monotonic seconds."""

    key: str
    data: bytes
    due_at: float
    attempts: int = 0
    is_once: bool = False
    """Nothing tells that it arrived: it is sent once, when there is a connection."""


class Outbox:
    """What one instance has still to receive, oldest first, by key. No clock and no sockets."""

    def __init__(self) -> None:
        self._deliveries: dict[str, Delivery] = {}

    def __len__(self) -> int:
        return len(self._deliveries)

    def __contains__(self, key: str) -> bool:
        return key in self._deliveries

    def put(self, key: str, data: bytes, now: float) -> None:
        """Keep a serialised message until it is settled; it is due at once."""
        self._deliveries[key] = Delivery(key, data, now)

    def put_once(self, key: str, data: bytes, now: float) -> None:
        """Keep a serialised message until it is taken; it is due at once."""
        self._deliveries[key] = Delivery(key, data, now, is_once=True)

    def settle(self, key: str) -> None:
        """It arrived, or is not wanted any more. Unknown keys are fine: evidence may come twice."""
        self._deliveries.pop(key, None)

    def postpone(self, key: str, until: float) -> None:
        """The agent has no room for it now."""
        delivery = self._deliveries.get(key)
        if delivery is not None:
            delivery.due_at = until

    def make_due(self, now: float) -> None:
        """A new connection: whatever was sent on the old one is sent again."""
        for delivery in self._deliveries.values():
            delivery.due_at = now

    def take_due(
        self, now: float, retry_interval: float = RETRY_INTERVAL, prefix: str = ""
    ) -> list[Delivery]:
        """
        What to send now, of those whose key begins with ``prefix``. Each comes back after
        ``retry_interval`` unless it is settled.
        """
        due = [
            delivery
            for key, delivery in self._deliveries.items()
            if delivery.due_at <= now and key.startswith(prefix)
        ]
        for delivery in due:
            delivery.attempts += 1
            delivery.due_at = now + retry_interval
            if delivery.is_once:
                self.settle(delivery.key)
        return due

    def next_due_at(self) -> float | None:
        """When ``take_due`` has something next; None while there is nothing."""
        return min((delivery.due_at for delivery in self._deliveries.values()), default=None)
