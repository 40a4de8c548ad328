"""
A model checker for the data channel: every interleaving of a few events, on the real machines.

Two ``DataChannel`` objects stand at the ends of a network that is a bag of messages. From a scenario's
first state ``explore`` takes every event there is in that state, and so on to a depth, breadth first; states
that are the same but for the wall clock are looked at once. In every state the promises that need no future
are checked (``World``), and from every state the network is made good again (``recover``): then all bytes
must arrive, both ends must come to rest, and both must end.

============= =====================================================================================
event         meaning
============= =====================================================================================
deliver       any message on its way arrives: so they overtake one another
double        it arrives, and is still on its way
drop          it is lost
timer         time passes until the next deadline of either end
cut           an end loses its connection, and all that was on its way from and to it
break         it loses its connection; the gateway keeps what was on its way
reconnect     it has a new one
stop, start   its sink takes nothing any more, or again
hold, free    the gateway says pause_publication or start_publication to the agent
type          its user has one more byte
close         the gateway says channel_closed to both
============= =====================================================================================

A counterexample is the shortest list of events that leads to it.
"""

from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Callable, Dict, FrozenSet, List, NamedTuple, Optional, Tuple
from unittest.mock import patch

from protocol.link import assert_consistent, make_channel
from sagemaker_ssh_helper.protocol import payload_size, payloads, stream
from sagemaker_ssh_helper.protocol.data_channel import (
    ChannelClosed,
    DataChannel,
    Event,
    Failed,
    Side,
    State,
    StreamData,
)
from sagemaker_ssh_helper.protocol.message import AgentMessage, MessageType, PayloadType
from sagemaker_ssh_helper.protocol.payloads import SessionType
from sagemaker_ssh_helper.protocol.stream import Receiver

SIDES = (Side.CLIENT, Side.AGENT)
CLIENT, AGENT = 0, 1
RECOVERY = 30.0
"""Seconds after which a good network must have brought everything, from any state."""
RECOVERY_STEPS = 400

_STREAM = (MessageType.INPUT_STREAM_DATA, MessageType.OUTPUT_STREAM_DATA)


Happening = Tuple[str, int, bytes]
"""An event: its name, the end it is about (the sender of a message), and the message."""
Trace = Tuple[Happening, ...]


class Violation(Exception):
    """A promise is broken, by the events in ``trace``; those in ``recovery`` followed on a good network."""

    def __init__(self, what: str, trace: Trace = ()) -> None:
        super().__init__(what)
        self.what = what
        self.trace = trace
        self.recovery: Trace = ()

    def __str__(self) -> str:
        text = self.what + " after: " + (", ".join(map(_describe, self.trace)) or "nothing")
        if self.recovery:
            text += "; and on a good network: " + ", ".join(map(_describe, self.recovery))
        return text


class OfficialReceiver(Receiver[AgentMessage]):
    """That of the official client: says nothing about what it has delivered before."""

    def receive(self, sequence_number: int, item: AgentMessage, size: int) -> bool:
        known = sequence_number < self.expected
        return super().receive(sequence_number, item, size) and not known


class OfficialAgent(DataChannel):
    """
    The official agent's handshake: without our marker, and input that comes before the agent noted that its
    handshake is over, which takes it a moment, is acknowledged and dropped.
    """

    complete_at = 0.0

    def _push(self, payload: bytes, payload_type: int, created_ms: int) -> None:
        if payload_type == PayloadType.HANDSHAKE_REQUEST:
            request = payloads.HandshakeRequest.parse(payload)
            payload = replace(request, sm_ssh=None).serialize()
        elif payload_type == PayloadType.HANDSHAKE_COMPLETE:
            self.complete_at = self._now
        super()._push(payload, payload_type, created_ms)

    def _flush_run(self, run: List[bytes]) -> None:
        if self._now < self.complete_at + 0.04:
            run.clear()
        else:
            super()._flush_run(run)


@dataclass(frozen=True)
class Scenario:
    """Where an exploration begins, and how far it goes."""

    name: str
    depth: int
    up: bytes = b""
    down: bytes = b""
    """What each end has to send at once, one byte a message."""
    type_up: bytes = b""
    type_down: bytes = b""
    """What its user has later."""
    window: int = 3
    """Messages that may be outstanding."""
    handshake: bool = False
    """Begin before the handshake."""
    session_type: str = SessionType.PORT
    official: Optional[Side] = None
    """That end behaves as the official peer does, as far as it differs."""
    burst: int = stream.BURST_MESSAGES
    """Resends that may be unanswered at first."""
    probes: bool = False
    """Larger payloads are tried with the first byte."""
    limit: int = 1 << 30
    """Bytes of a message beyond which the gateway loses it."""
    without: FrozenSet[str] = frozenset()
    """Events that do not happen here."""


class Count(NamedTuple):
    """What an exploration looked at."""

    states: int
    steps: int
    depth: int
    slowest: float
    """Seconds a good network needed at most to bring everything."""


_MESSAGES: Dict[bytes, AgentMessage] = {}


def _parse(data: bytes) -> AgentMessage:
    message = _MESSAGES.get(data)
    if message is None:
        if len(_MESSAGES) > 100_000:
            _MESSAGES.clear()
        message = _MESSAGES[data] = AgentMessage.parse(data)
    return message


class World:
    """Both ends, what is on its way, and what is known from outside."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.trace: Trace = ()
        self.now = 100.0
        self.way: List[Tuple[bytes, ...]] = [(), ()]
        """On the way *from* that end, sorted: a bag."""
        self.connected = [False, False]
        self.to_send = [scenario.up, scenario.down]
        self.to_type = [scenario.type_up, scenario.type_down]
        self.promised = [scenario.up, scenario.down]
        """All that each end's user said so far."""
        self.received = [b"", b""]
        self.stopped = [False, False]
        self.held = [False, False]
        self.said: List[Tuple[bytes, ...]] = [(), ()]
        """The messages of its stream, by number."""
        self.answered: List[FrozenSet[int]] = [frozenset(), frozenset()]
        """Numbers of that end whose acknowledge arrived."""
        self.acknowledged: List[FrozenSet[int]] = [frozenset(), frozenset()]
        """Numbers that this end acknowledged."""
        self.told = False
        self.ended = [False, False]
        self.owed = b""
        """What the client still has to deliver after channel_closed."""
        options: Dict[str, Any] = {
            "random_bytes": bytes,
            "window_bytes": scenario.window,
            "session_type": scenario.session_type,
        }
        client = make_channel(Side.CLIENT, **options)
        agent = make_channel(Side.AGENT, **options)
        client.payload_bytes = agent.payload_bytes = 1
        if scenario.official is Side.AGENT:
            agent.__class__ = OfficialAgent
        self.channels = [client, agent]
        self.keys: List[Optional[int]] = [None, None]
        self._do_reconnect(AGENT)
        self._do_reconnect(CLIENT)
        if not scenario.handshake:
            self._until_open()
        if scenario.official is Side.CLIENT:
            client._receiver = OfficialReceiver()
            client._receiver.expected = client._receiver._contiguous = 2
            agent._meet(None)
        self.pump()

    def _until_open(self) -> None:
        to_send, self.to_send = self.to_send, [b"", b""]
        self.pump()
        while any(self.way):
            for end in (AGENT, CLIENT):
                for data in self.way[end]:
                    self._do_deliver(end, data)
            self.pump()
        self.to_send = to_send
        assert all(channel.state is State.OPEN and channel.drained for channel in self.channels)

    # -- copies and comparison --

    def clone(self) -> "World":
        """The same again. The machines are shared; ``do`` replaces those that it touches."""
        other = World.__new__(World)
        attributes = other.__dict__
        attributes.update(self.__dict__)
        for name, value in attributes.items():
            if type(value) is list:
                attributes[name] = value[:]
        return other

    def key(self) -> int:
        """The same for states that go on in the same way."""
        for end in (CLIENT, AGENT):
            if self.keys[end] is None:
                self.keys[end] = _channel_key(self.channels[end], self.now)
        return hash(
            (
                tuple(self.way), tuple(self.connected), tuple(self.to_send), tuple(self.to_type),
                tuple(self.received), tuple(self.stopped), tuple(self.held), tuple(map(len, self.said)),
                tuple(self.answered), tuple(self.acknowledged), self.told, tuple(self.ended), self.owed,
                *self.keys,
            )
        )  # fmt: skip

    # -- events --

    def events(self) -> List[Happening]:
        """What may happen now."""
        events: List[Happening] = []
        if all(self.ended):
            return events
        for end in (CLIENT, AGENT):
            channel = self.channels[end]
            away = not self.connected[1 - end]
            for data in dict.fromkeys(self.way[end]):
                if not away:
                    events.append(("deliver", end, data))
                    events.append(("double", end, data))
                events.append(("drop", end, data))
            if self.connected[end]:
                events.append(("cut", end, b""))
                events.append(("break", end, b""))
                if end == AGENT and not self.held[end]:
                    events.append(("hold", end, b""))
            elif channel.state is not State.CLOSED:
                events.append(("reconnect", end, b""))
            if self.held[end]:
                events.append(("free", end, b""))
            events.append(("start" if self.stopped[end] else "stop", end, b""))
            if self.to_type[end]:
                events.append(("type", end, b""))
        if self.deadline() is not None:
            events.append(("timer", CLIENT, b""))
        if not self.told:
            events.append(("close", CLIENT, b""))
        without = self.scenario.without
        return [event for event in events if event[0] not in without] if without else events

    def do(self, event: Happening) -> None:
        """Let it happen, and let both ends write what they want to write."""
        what, end, data = event
        self.trace += (event,)
        touched: Tuple[int, ...] = (end,)
        if what in ("deliver", "double"):
            touched = (1 - end,)
        elif what in ("timer", "close"):
            touched = (CLIENT, AGENT)
        elif what == "drop":
            touched = ()
        for index in touched:
            self.channels[index] = _clone_channel(self.channels[index])
            self.keys[index] = None
        if what == "deliver":
            self._do_deliver(end, data)
        elif what == "double":
            self._arrive(end, data)
        elif what == "drop":
            self._take_away(end, data)
        elif what in ("cut", "break"):
            self._do_cut(end, what == "cut")
        else:
            getattr(self, "_do_" + what)(end)
        self.pump(touched)

    def deadline(self) -> Optional[float]:
        deadlines = [
            deadline
            for deadline in (channel.next_deadline() for channel in self.channels)
            if deadline is not None
        ]
        return max(self.now, min(deadlines)) if deadlines else None

    def _take_away(self, end: int, data: bytes) -> None:
        way = list(self.way[end])
        way.remove(data)
        self.way[end] = tuple(way)

    def _do_deliver(self, end: int, data: bytes) -> None:
        self._take_away(end, data)
        self._arrive(end, data)

    def _arrive(self, sender: int, data: bytes) -> None:
        end = 1 - sender
        channel = self.channels[end]
        message = _parse(data)
        if message.message_type == MessageType.ACKNOWLEDGE:
            self._acknowledge_arrives(end, channel, message)
        else:
            self._events(end, channel.receive_message(data, self.now))
        # The gateway has passed something on, so it holds nothing back any more.
        self.held[end] = False

    def _acknowledge_arrives(self, end: int, channel: DataChannel, message: AgentMessage) -> None:
        sender = channel._sender
        number = payloads.Acknowledge.parse_sequence_number(message.payload)
        entry = sender._entries.get(number)
        estimate = sender.srtt
        original = entry is not None and entry.transmissions == 1
        premature = original and number in sender._doubtful and entry.timed_out  # type: ignore[union-attr]
        doubtful = sender._doubtful
        self._events(end, channel.receive_message(message.serialize(), self.now))
        self.answered[end] |= {number}
        if sender.srtt != estimate and not original:
            raise Violation("a round trip was measured that nobody can know")
        if premature and any(
            sender._entries[other].lost
            for other in doubtful
            if other in sender._entries and sender._entries[other].transmissions == 1
        ):
            raise Violation("a timeout that came too early was not taken back")
        front = sender._front()
        if original and front is not None and not sender._again and channel.state is State.OPEN:
            deadline = sender.next_deadline()
            overtaken = max(self.answered[end]) >= sender._flight + stream.OVERTAKEN_BY
            if deadline is not None and not overtaken and deadline < self.now + sender.rto - 1e-9:
                raise Violation("an acknowledge that arrived did not restart the timeout")

    def _do_timer(self, end: int) -> None:
        moment = self.deadline()
        assert moment is not None
        for index, channel in enumerate(self.channels):
            sender = channel._sender
            if not self.connected[index] or sender.paused or channel.state is not State.OPEN:
                continue
            for number, entry in sender._entries.items():
                age = max(1.25 * sender.srtt, sender.srtt + 0.01)
                if (
                    entry.in_flight
                    and moment > max(self.now, entry.sent_at + age) + 1e-9
                    and len([other for other in self.answered[index] if other > number]) >= 3
                    and self.scenario.official is None
                ):
                    raise Violation("a message that three others overtook is not sent again")
        self.now = moment
        for index, channel in enumerate(self.channels):
            deadline = channel.next_deadline()
            if deadline is not None and deadline <= moment:
                self._events(index, channel.handle_timer(moment))
                after = channel.next_deadline()
                if after is not None and after <= moment and not channel._receiver.releasable:
                    raise Violation("a timer that is never satisfied")

    def _do_cut(self, end: int, lost: bool) -> None:
        self.connected[end] = False
        self.held[end] = False
        self.channels[end].connection_lost(self.now)
        if lost:
            self.way = [(), ()]

    def _do_reconnect(self, end: int) -> None:
        channel = self.channels[end]
        outstanding = set(range(len(self.said[end]))) - self.answered[end]
        self.connected[end] = True
        channel.open("token", self.now)
        if channel.text_to_send() is None:
            raise Violation("a connection was not opened with a token")
        said = self.way[end]
        self.pump((end,))
        sent = [data for data in self.way[end] if _parse(data).message_type == _STREAM[end]]
        for data in said:
            if data in sent:
                sent.remove(data)
        again = {_parse(data).sequence_number for data in sent}
        left = len(outstanding - again - {number for number in outstanding if self._presumed(end, number)})
        flowing = channel.state not in (State.GRACE, State.CLOSED)
        if flowing and left and len(outstanding & again) < self.scenario.burst:
            raise Violation("after a reconnect something outstanding is not sent again")

    def _presumed(self, end: int, number: int) -> bool:
        entry = self.channels[end]._sender._entries.get(number)
        return entry is not None and entry.presumed

    def _do_stop(self, end: int) -> None:
        self.stopped[end] = True
        self.channels[end].pause_delivery()

    def _do_start(self, end: int) -> None:
        self.stopped[end] = False
        self._events(end, self.channels[end].resume_delivery(self.now))

    def _gateway_says(self, end: int, message_type: str, payload: bytes = b"{}") -> None:
        data = AgentMessage(message_type, payload, message_id=bytes(16), created_ms=1).serialize()
        self._events(end, self.channels[end].receive_message(data, self.now))

    def _do_hold(self, end: int) -> None:
        self.held[end] = True
        self._gateway_says(end, MessageType.PAUSE_PUBLICATION)

    def _do_free(self, end: int) -> None:
        self.held[end] = False
        self._gateway_says(end, MessageType.START_PUBLICATION)

    def _do_type(self, end: int) -> None:
        typed, self.to_type[end] = self.to_type[end][:1], self.to_type[end][1:]
        self.to_send[end] += typed
        self.promised[end] += typed

    def _do_close(self, end: int) -> None:
        """The gateway reaches an end that is away when it comes back; it makes no difference to it."""
        self.told = True
        receiver = self.channels[CLIENT]._receiver
        store = receiver._store
        if self.channels[CLIENT].state in (State.GRACE, State.OPEN):
            held = [store[number][0] for number in range(receiver.expected, receiver._contiguous)]
            # Probes are held as well, and are nobody's bytes.
            self.owed = b"".join(one.payload for one in held if one.payload_type == PayloadType.OUTPUT)
        for index in (CLIENT, AGENT):
            if self.channels[index].state is not State.CLOSED:
                body = payloads.ChannelClosed("a session", created_date="now").serialize()
                self._gateway_says(index, MessageType.CHANNEL_CLOSED, body)

    # -- what must be true --

    def _events(self, end: int, events: List[Event]) -> None:
        for event in events:
            if self.ended[end]:
                raise Violation("something was told after the end")
            if isinstance(event, StreamData):
                if self.stopped[end]:
                    raise Violation("bytes were delivered to a sink that takes none")
                self.received[end] += event.data
                if end == CLIENT and self.told:
                    self.owed = self.owed[len(event.data) :]
            elif isinstance(event, (ChannelClosed, Failed)):
                self.ended[end] = True
                if not self.told and (isinstance(event, ChannelClosed) or self.now < 115.0):
                    raise Violation("the session ended though nobody ended it")
                if end == CLIENT and self.owed:
                    raise Violation("what was held at the end is not delivered")
        if not self.promised[1 - end].startswith(self.received[end]):
            raise Violation(
                f"the {SIDES[end].value} received {self.received[end]!r} of {self.promised[1 - end]!r}"
            )

    def pump(self, ends: Tuple[int, ...] = (CLIENT, AGENT)) -> None:
        """These ends send what they have."""
        for end in ends:
            channel = self.channels[end]
            sender = channel._sender
            if self.to_send[end]:
                size = min(channel.send_capacity_bytes, len(self.to_send[end]))
                data, self.to_send[end] = self.to_send[end][:size], self.to_send[end][size:]
                if data:
                    channel.send_data(data, self.now)
            messages = channel.messages_to_send(self.now)
            try:
                assert_consistent(sender)
            except AssertionError as error:
                raise Violation(str(error)) from error
            if messages:
                self._say(end, messages)
            self._check_answers(end)
            if (channel.state is State.CLOSED) != self.ended[end]:
                raise Violation("an end is closed, and its user was not told")
            self._check_window(end)

    def _check_window(self, end: int) -> None:
        channel = self.channels[end]
        if channel.state is not State.OPEN:
            return
        said = len(self.said[end])
        oldest = next((n for n in range(said) if n not in self.answered[end]), said)
        span = sum(
            len(_parse(data).payload)
            for data in self.said[end][oldest:]
            if _parse(data).payload_type == PayloadType.OUTPUT
        )
        if span > self.scenario.window and self.scenario.official is None:
            raise Violation(f"{span} bytes are outstanding, and the window is {self.scenario.window}")

    def _say(self, end: int, messages: List[bytes]) -> None:
        if not self.connected[end]:
            raise Violation("something was handed out without a connection")
        channel = self.channels[end]
        on_the_way = []
        again = 0
        for data in messages:
            message = _parse(data)
            if message.message_type == MessageType.AGENT_SESSION_STATE:
                continue
            if len(data) <= self.scenario.limit:
                on_the_way.append(data)
            number = message.sequence_number
            if message.message_type == MessageType.ACKNOWLEDGE:
                self._check_acknowledge(end, payloads.Acknowledge.parse_sequence_number(message.payload))
                continue
            if self.held[end]:
                raise Violation("data was sent in spite of pause_publication")
            if number in self.answered[end]:
                raise Violation("a message was sent again after its acknowledge")
            if number < len(self.said[end]):
                again += 1
                probe = message.payload_type == PayloadType.PROBE and len(message.payload) == 1
                if data != self.said[end][number] and not probe:
                    raise Violation("a message was sent again, and changed")
            elif number > len(self.said[end]):
                raise Violation("a number was left out")
            else:
                self.said[end] += (data,)
        if again and channel._sender._again_count > max(channel._sender._burst, self.scenario.burst):
            raise Violation("more is sent again than was answered")
        self.way[end] = tuple(sorted(self.way[end] + tuple(on_the_way)))

    def _check_answers(self, end: int) -> None:
        receiver = self.channels[end]._receiver
        if self.connected[end] and not self.acknowledged[end].issuperset(range(receiver.expected)):
            raise Violation("a message was delivered and not acknowledged")

    def _check_acknowledge(self, end: int, number: int) -> None:
        self.acknowledged[end] |= {number}
        receiver = self.channels[end]._receiver
        if number >= receiver.expected and number not in receiver._store:
            raise Violation("a message was acknowledged that was neither delivered nor stored")
        if receiver.paused and receiver.expected <= number < receiver._contiguous:
            stored = receiver._store[number]
            if not stored[2]:
                raise Violation("a message was acknowledged that a slow sink did not take")

    @property
    def settled(self) -> bool:
        """All that was said has arrived, and both ends are at rest."""
        if any(self.to_send) or self.received != self.promised[::-1]:
            return False
        if self.scenario.official is Side.CLIENT:
            return True  # The agent never knows, and goes on repeating.
        return not any(self.way) and all(channel.drained for channel in self.channels)


# -- the search ---------------------------------------------------------------------------------------


class Search:
    """One exploration; ``run`` raises Violation, with the shortest trace, or counts."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.steps = 0
        self.good: Dict[int, float] = {}
        """Seconds that a good network needs from there."""
        self.good_while_stopped: Dict[int, float] = {}

    def run(self, max_states: Optional[int] = None) -> Count:
        with ExitStack() as patches:
            patches.enter_context(patch.object(stream, "BURST_MESSAGES", self.scenario.burst))
            if self.scenario.probes:
                patches.enter_context(patch.object(payload_size, "PROBE_AFTER_BYTES", 0))
            return self._run(max_states)

    def _run(self, max_states: Optional[int]) -> Count:
        first = World(self.scenario)
        seen = {first.key()}
        self._check_future(first)
        frontier = [first]
        for depth in range(self.scenario.depth):
            further: List[World] = []
            last = depth + 1 == self.scenario.depth
            for world in frontier:
                for event in world.events():
                    after = self._step(world, event)
                    key = after.key()
                    if key in seen:
                        continue
                    seen.add(key)
                    if max_states is not None and len(seen) > max_states:
                        raise AssertionError(f"more than {max_states} states at depth {depth + 1}")
                    self._check_future(after, key)
                    if not last:
                        further.append(after)
            frontier = further
        return Count(len(seen), self.steps, self.scenario.depth, max(self.good.values()))

    def _step(self, world: World, event: Happening) -> World:
        self.steps += 1
        after = world.clone()
        try:
            after.do(event)
        except Violation as violation:
            violation.trace = after.trace
            raise
        return after

    def _check_future(self, world: World, key: Optional[int] = None) -> None:
        if any(world.stopped) and not world.told and not any(world.ended) and self.scenario.official is None:
            self._recover(world, key, self.good_while_stopped, _next_while_stopped)
        self._recover(world, key, self.good, _next_when_good)

    def _recover(
        self,
        world: World,
        key: Optional[int],
        good: Dict[int, float],
        choose: Callable[[World], Optional[Happening]],
    ) -> None:
        """Make the network good again, and see that everything ends well."""
        trace = world.trace
        path: List[Tuple[int, float]] = []
        while True:
            key = world.key() if key is None else key
            known = good.get(key)
            if known is not None:
                end = world.now + known
                break
            path.append((key, world.now))
            key = None
            try:
                event = choose(world)
            except Violation as violation:
                violation.trace, violation.recovery = trace, world.trace[len(trace) :]
                raise
            if event is None:
                end = world.now
                break
            if len(path) > RECOVERY_STEPS:
                raise Violation("a good network never brings everything", trace)
            try:
                world = self._step(world, event)
            except Violation as violation:
                violation.trace, violation.recovery = trace, violation.trace[len(trace) :]
                raise
        for one, now in path:
            good[one] = end - now
        if path and end - path[0][1] > RECOVERY:
            raise Violation(f"a good network needs {end - path[0][1]:.1f} s to bring everything", trace)


def _next_when_good(world: World) -> Optional[Happening]:
    """The next event where all goes well; None at the end, when both ends are closed."""
    for end in (CLIENT, AGENT):
        if world.stopped[end]:
            return ("start", end, b"")
    if all(world.ended):
        return None
    if any(world.ended) or world.told:
        # One of them failed: the other is told. A client delivers before it ends.
        if not world.told:
            return ("close", CLIENT, b"")
        deadline = world.deadline()
        if deadline is None:
            raise Violation("an end was told to close, and does not")
        return ("timer", CLIENT, b"")
    return _next_of_flow(world, world.settled) or ("close", CLIENT, b"")


def _next_while_stopped(world: World) -> Optional[Happening]:
    """The same with sinks that stay stopped: what the others shall receive arrives, and is acknowledged."""
    if any(world.ended):
        return None
    flowing = [end for end in (CLIENT, AGENT) if not world.stopped[1 - end]]
    done = all(
        not world.to_send[end]
        and world.received[1 - end] == world.promised[end]
        and world.channels[end].drained
        for end in flowing
    )
    return None if done else _next_of_flow(world, False)


def _next_of_flow(world: World, settled: bool) -> Optional[Happening]:
    if settled:
        return None
    for end in (CLIENT, AGENT):
        if not world.connected[end]:
            return ("reconnect", end, b"")
        if world.held[end]:
            return ("free", end, b"")
    for end in (CLIENT, AGENT):
        if world.way[end]:
            return ("deliver", end, world.way[end][0])
    if world.deadline() is None:
        raise Violation("nothing will ever happen, and something is missing")
    return ("timer", CLIENT, b"")


def explore(scenario: Scenario, max_states: Optional[int] = None) -> Count:
    """
    Look at everything that can happen in a scenario.

    Raises:
        Violation: with the shortest list of events that breaks a promise.
    """
    return Search(scenario).run(max_states)


# -- copies and keys of the machines ------------------------------------------------------------------
# By name of attribute, so that a new one is copied and compared without a word here.

_TIMES = frozenset(
    ["_last_ack_at", "_presumed_at", "_widened_at", "_handshake_started_at", "_handshake_until",
     "_grace_until", "complete_at"]
)  # fmt: skip
_COUNTERS = frozenset(
    ["resent", "duplicates", "overflows", "malformed", "refused", "_requests", "_challenges"]
)
_FIXED = frozenset(
    ["side", "session_id", "payload_bytes", "window_bytes", "window_messages", "_random_bytes",
     "_created_ms", "_client_id", "_instance_id", "_version", "_properties", "_outgoing", "_incoming",
     "_ids", "max_messages", "max_bytes", "_now", "_request", "_response",
     "_sender", "_receiver", "_payload_size", "_sizes"]
)  # fmt: skip
_HEAPS = frozenset(["_again", "_lost", "_entries"])
"""Compared by what they hold."""
_ORDERS = frozenset(["_sends", "_acked_order"])
"""Which resend was answered matters with an official client only."""


def _clone_channel(channel: DataChannel) -> DataChannel:
    other = channel.__class__.__new__(channel.__class__)
    attributes = other.__dict__
    attributes.update(channel.__dict__)
    for name in ("_outbox", "_events", "_early"):
        attributes[name] = attributes[name][:]
    other._sender = _clone_part(channel._sender)
    other._receiver = _clone_part(channel._receiver)
    other._payload_size = _clone_part(channel._payload_size)
    entries = {}
    for number, entry in channel._sender._entries.items():
        copy = entries[number] = stream._Entry.__new__(stream._Entry)
        for name in stream._Entry.__slots__:
            setattr(copy, name, getattr(entry, name))
    other._sender._entries = entries
    return other


def _clone_part(half: Any) -> Any:
    other = half.__class__.__new__(half.__class__)
    attributes = other.__dict__
    attributes.update(half.__dict__)
    for name in _plan(half).containers:
        attributes[name] = attributes[name].copy()
    return other


class _Plan(NamedTuple):
    """The attributes of a machine that make a difference, by what they hold."""

    values: Callable[[Dict[str, Any]], Tuple[Any, ...]]
    times: Tuple[str, ...]
    containers: Tuple[str, ...]


_PLANS: Dict[Tuple[type, int], _Plan] = {}


def _plan(machine: Any) -> _Plan:
    kind = (machine.__class__, len(machine.__dict__))
    plan = _PLANS.get(kind)
    if plan is None:
        names = [name for name in sorted(machine.__dict__) if name not in _FIXED | _COUNTERS | _ORDERS]
        containers = tuple(n for n in names if isinstance(machine.__dict__[n], (list, dict, deque)))
        values = [name for name in names if name not in _TIMES and name not in containers]
        times = tuple(name for name in names if name in _TIMES)
        plan = _PLANS[kind] = _Plan(itemgetter(*values), times, containers)
    return plan


def _channel_key(channel: DataChannel, now: float) -> int:
    sender = channel._sender
    orders = not sender.repeats_acknowledges
    entries = tuple(
        (
            number, entry.message, entry.transmissions, entry.lost, entry.timed_out, entry.presumed,
            round(now - entry.sent_at, 6) if entry.transmissions else 0.0,
            (entry.order, entry.seen) if orders else (),
        )
        for number, entry in sender._entries.items()
    )  # fmt: skip
    return hash(
        (
            entries,
            tuple(sorted((round(at - now, 6), number) for at, number in sender._again)),
            tuple(sorted(sender._lost)),
            (sender._sends, sender._acked_order) if orders else (),
            _attributes_key(sender, now),
            _attributes_key(channel._receiver, now),
            _attributes_key(channel._payload_size, now),
            _attributes_key(channel, now),
        )
    )


def _attributes_key(machine: Any, now: float) -> Tuple[Any, ...]:
    attributes = machine.__dict__
    plan = _plan(machine)
    times = tuple(
        None if attributes[name] is None else round(attributes[name] - now, 6) for name in plan.times
    )
    containers = tuple(
        (name, _frozen(attributes[name]))
        for name in plan.containers
        if attributes[name] and name not in _HEAPS
    )
    return (plan.values(attributes), times, containers)


def _frozen(value: Any) -> Any:
    if isinstance(value, AgentMessage):
        return (value.message_type, value.sequence_number, value.payload)
    if isinstance(value, (tuple, list, deque)):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((name, _frozen(value[name])) for name in sorted(value))
    return value


def _describe(event: Happening) -> str:
    what, end, data = event
    if data:
        message = _parse(data)
        if message.message_type == MessageType.ACKNOWLEDGE:
            number = payloads.Acknowledge.parse_sequence_number(message.payload)
            return f"{what} acknowledge of #{number} to the {SIDES[1 - end].value}"
        return f"{what} #{message.sequence_number} to the {SIDES[1 - end].value}"
    return what if what in ("timer", "close") else f"{what} {SIDES[end].value}"
