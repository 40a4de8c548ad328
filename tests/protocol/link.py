"""
Two data channels joined by a link that loses, doubles, reorders, delays and breaks; the clock is a number.

``Link`` is deterministic: every fate is given. ``fates`` and ``plans`` are the Hypothesis strategies that
give them.
"""

import heapq
import itertools
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from hypothesis import strategies as st

from sagemaker_ssh_helper.protocol.data_channel import (
    DataChannel,
    Event,
    Ready,
    Side,
    State,
    StreamData,
)
from sagemaker_ssh_helper.protocol.message import AgentMessage, MessageType
from sagemaker_ssh_helper.protocol.stream import Sender

OTHER = {Side.CLIENT: Side.AGENT, Side.AGENT: Side.CLIENT}
VERSION = "3.3.1000.0"
READ_BYTES = 65536  # given to a channel at once
_GATEWAYS_OWN = MessageType.AGENT_SESSION_STATE.encode().ljust(32)


def counting_bytes() -> Callable[[int], bytes]:
    """ "Random" bytes that differ every time and are the same in every run."""
    numbers = itertools.count(1)
    return lambda size: b"".join(next(numbers).to_bytes(4, "big") for _ in range(size // 4))


def make_channel(side: Side, **options: Any) -> DataChannel:
    """A data channel with everything that a test does not care about."""
    options.setdefault("random_bytes", counting_bytes())
    options.setdefault("created_ms", lambda: 1700000000000)
    options.setdefault("version", VERSION)
    if side is Side.CLIENT:
        options.setdefault("client_id", "00000000-0000-4000-8000-000000000001")
    else:
        options.setdefault("instance_id", "mi-0123456789abcdef0")
        options.setdefault("properties", {"portNumber": "22"})
    return DataChannel(side, "user-0123456789abcdef0", **options)


def assert_consistent(sender: Sender) -> None:
    """What the sender counts is what it holds; a leak here is a stall much later."""
    resent = {
        number
        for number, entry in sender._entries.items()
        if entry.transmissions > 1 and not entry.lost and not entry.presumed
    }
    assert sender._again_count == len(resent), "resends that wait for an acknowledge are miscounted"
    assert resent <= {number for _, number in sender._again}, "a resend has no timeout"
    assert {number for number, entry in sender._entries.items() if entry.lost} <= {
        number for *_, number in sender._lost
    }, "a lost message will never be sent again"
    assert {number for number, entry in sender._entries.items() if entry.presumed} <= set(sender._presumed), (
        "a message presumed delivered will never be repeated"
    )
    assert all(
        sender._flight <= number < sender._unsent
        for number, entry in sender._entries.items()
        if entry.in_flight
    ), "a message in flight is not watched"
    assert sender._burst > 0, "nothing may be sent again"


@dataclass(frozen=True)
class Fate:
    """What becomes of one message: how many copies arrive, and how much later than usual."""

    copies: int = 1
    delay: float = 0.0


def fates(max_size: int = 60) -> st.SearchStrategy[List[Fate]]:
    """Fates of the first messages each way; later ones arrive."""
    return st.lists(
        st.one_of(
            st.just(Fate()),
            st.builds(
                Fate,
                copies=st.sampled_from([0, 0, 1, 2]),
                delay=st.sampled_from([0.0, 0.0, 0.003, 0.05, 0.5, 3.0]),
            ),
        ),
        max_size=max_size,
    )


@dataclass(frozen=True)
class Mishap:
    """Something that happens to a side, so many seconds from now, and what undoes it ``amount`` later."""

    after: float
    what: str
    side: Side
    amount: float


def plans(max_size: int = 8) -> st.SearchStrategy[List[Mishap]]:
    """Cuts, slow links, sinks that stop, publication that is paused."""
    return st.lists(
        st.builds(
            Mishap,
            st.floats(0, 3),
            st.sampled_from(["cut", "slow", "stop sink", "pause publication"]),
            st.sampled_from(list(Side)),
            st.sampled_from([0.0, 0.01, 0.3, 1.5]),
        ),
        max_size=max_size,
    )


def publication(message_type: str) -> bytes:
    """The gateway's pause_publication or start_publication."""
    return AgentMessage(
        message_type, b"{}", message_id=bytes(15) + b"\1", created_ms=1700000000000
    ).serialize()


@dataclass(frozen=True)
class Limit:
    """What a service may think of messages that are too long: it breaks the connection, or says nothing."""

    message_bytes: int
    closes: bool = False


@dataclass
class End:
    """One side of the link and what happened there."""

    channel: DataChannel
    fates: Iterator[Fate]
    epoch: int = 0
    connected: bool = False
    texts: List[bytes] = field(default_factory=list)
    events: List[Event] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    to_send: bytes = b""

    @property
    def ready(self) -> bool:
        return any(isinstance(event, Ready) for event in self.events)


class Link:
    """
    The link, its gateway and the two ends.

    A message takes ``delay`` seconds. A cut loses what is on its way from and to that side; what is sent
    to a side that is away is lost as well. ``limits`` say how long messages from a side may be.
    """

    def __init__(
        self,
        client: Optional[DataChannel] = None,
        agent: Optional[DataChannel] = None,
        *,
        delay: float = 0.01,
        up: Sequence[Fate] = (),
        down: Sequence[Fate] = (),
        limits: Mapping[Side, Limit] = MappingProxyType({}),
    ) -> None:
        self.now = 100.0
        self.delay = delay
        self.client = End(client or make_channel(Side.CLIENT), iter(up))
        self.agent = End(agent or make_channel(Side.AGENT), iter(down))
        self.ends: Dict[Side, End] = {Side.CLIENT: self.client, Side.AGENT: self.agent}
        self.messages: List[Tuple[Side, bytes]] = []
        """Everything that was sent, lost or not."""
        self.broken_by: List[Tuple[Side, int]] = []
        """Connections that a limit broke: whose, and the size of the message."""
        self._limits = limits
        self._order = itertools.count()
        self._due: List[Tuple[float, int, Callable[[], None]]] = []

    # -- what a test does --

    def open(self, side: Side) -> None:
        """Give a side a connection."""
        end = self.ends[side]
        assert not end.connected, "open already"
        end.connected = True
        end.channel.open("token", self.now)
        self._pump()

    def cut(self, side: Side, away: float = 0.2) -> None:
        """Take it away, for that long."""
        end = self.ends[side]
        if not end.connected:
            return
        end.connected = False
        end.epoch += 1
        end.channel.connection_lost(self.now)
        self.at(self.now + away, lambda: self.open(side))

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do something at that time."""
        heapq.heappush(self._due, (time, next(self._order), action))

    def send(self, side: Side, data: bytes) -> None:
        """Send bytes from a side, as fast as its window allows."""
        self.ends[side].to_send += data
        self._pump()

    def gateway_says(self, side: Side, message: bytes) -> None:
        """A message of the gateway's own."""
        self._take(self.ends[side], self.ends[side].channel.receive_message(message, self.now))

    def follow(self, plan: Sequence[Mishap]) -> None:
        """Let all that happen, in its time."""
        for mishap in plan:
            self._plan(self.now + mishap.after, mishap)

    def _plan(self, at: float, mishap: Mishap) -> None:
        side, amount = mishap.side, mishap.amount
        if mishap.what == "cut":
            self.at(at, lambda: self.cut(side, amount))
        elif mishap.what == "slow":
            self.at(at, lambda: setattr(self, "delay", amount))
        elif mishap.what == "stop sink":
            self.at(at, lambda: self.pause_delivery(side))
            self.at(at + amount, lambda: self.resume_delivery(side))
        else:
            pause, start = MessageType.PAUSE_PUBLICATION, MessageType.START_PUBLICATION
            self.at(at, lambda: self.gateway_says(side, publication(pause)))
            self.at(at + amount, lambda: self.gateway_says(side, publication(start)))

    def run(self, until: Callable[[], bool], limit: float = 120.0) -> None:
        """Let time pass until something is true. After ``limit`` seconds that is a failure."""
        end = self.now + limit
        while not until():
            times = [self._due[0][0]] if self._due else []
            times += [
                deadline
                for deadline in (self._deadline(one) for one in self.ends.values())
                if deadline is not None
            ]
            assert times, f"nothing will ever happen; {self._state()}"
            moment = max(self.now, min(times))
            assert moment <= end, f"not in {limit} s; {self._state()}"
            self.now = moment
            while self._due and self._due[0][0] <= moment:
                heapq.heappop(self._due)[2]()
            for one in self.ends.values():
                deadline = self._deadline(one)
                if deadline is not None and deadline <= moment:
                    self._take(one, one.channel.handle_timer(moment))
            self._pump()

    def run_for(self, seconds: float) -> None:
        """Let that much time pass."""
        passed: List[bool] = []
        self.at(self.now + seconds, lambda: passed.append(True))
        self.run(lambda: bool(passed), seconds + 1.0)

    def start(self) -> "Link":
        """Open both sides and finish the handshake."""
        self.open(Side.AGENT)
        self.open(Side.CLIENT)
        self.run(lambda: self.client.channel.state is State.OPEN and self.agent.channel.state is State.OPEN)
        return self

    def pause_delivery(self, side: Side) -> None:
        self.ends[side].channel.pause_delivery()

    def resume_delivery(self, side: Side) -> None:
        end = self.ends[side]
        self._take(end, end.channel.resume_delivery(self.now))
        self._pump()

    @property
    def settled(self) -> bool:
        """All was sent, received and acknowledged, both ways."""
        return all(not end.to_send and end.channel.drained for end in self.ends.values())

    # -- inside --

    def _deadline(self, end: End) -> Optional[float]:
        return end.channel.next_deadline()

    def _take(self, end: End, events: List[Event]) -> None:
        for event in events:
            end.events.append(event)
            if isinstance(event, StreamData):
                end.received += event.data

    def _pump(self) -> None:
        for side, end in self.ends.items():
            channel = end.channel
            assert_consistent(channel._sender)
            while end.to_send and channel.writable:
                size = min(channel.send_capacity_bytes, READ_BYTES)
                data, end.to_send = end.to_send[:size], end.to_send[size:]
                channel.send_data(data, self.now)
            text = channel.text_to_send()
            if text is not None:
                end.texts.append(text)
            for data in channel.messages_to_send(self.now):
                self.messages.append((side, data))
                if data[4:36] != _GATEWAYS_OWN:
                    self._forward(side, data)

    def _forward(self, side: Side, data: bytes) -> None:
        sender, receiver = self.ends[side], self.ends[OTHER[side]]
        epoch = sender.epoch
        fate = next(sender.fates, Fate())
        limit = self._limits.get(side)
        if limit is not None and len(data) > limit.message_bytes:
            if limit.closes:
                self.broken_by.append((side, len(data)))
                self.at(self.now + self.delay, lambda: self.cut(side))
            return

        def arrive() -> None:
            if sender.epoch == epoch and receiver.connected and receiver.epoch == receiver_epoch:
                self._take(receiver, receiver.channel.receive_message(data, self.now))
                self._pump()

        receiver_epoch = receiver.epoch
        for _ in range(fate.copies):
            self.at(self.now + self.delay + fate.delay, arrive)

    def _state(self) -> str:
        return ", ".join(
            f"{side.value} {end.channel.state.name} {len(end.received)} B in, {len(end.to_send)} B to send,"
            f" {end.channel.unacknowledged} unacknowledged"
            for side, end in self.ends.items()
        )
