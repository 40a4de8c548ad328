"""
Switches that make the network between the gateway and the peers of a session a bad one.

An administrator sets them with ``POST /_local/faults``; each takes an optional ``session`` (an id; left out:
every session, those to come as well) and most an optional ``side`` (``client``, ``agent`` or ``both``)::

    {"kind": "cut", "side": "client"}                                       now, with a reset
    {"kind": "cut", "side": "both", "how": "close", "code": 1001}           now, with a close frame
    {"kind": "cut", "cuts": [{"at": 40000, "side": "agent"}, ...]}          later, by the stream's bytes
    {"kind": "link", "drop_data": 0.05, "drop_acks": 0.05, "duplicate": 0.01, "reorder": 0.01, "rtt": 0.08}
    {"kind": "link", "max_message": 32768, "too_long": "closed", "bandwidth": 1000000}
    {"kind": "freeze", "side": "client", "seconds": 40}                     silence, both ways
    {"kind": "freeze", "side": "both", "seconds": 600, "new": false}        and a new connection is good
    {"kind": "rotation", "side": "both", "seconds": 3600}                   a close frame, again and again
    {"kind": "refuse-resume"}                                               nobody is let in again

A session without a switch has no :class:`BadLink` and costs one comparison for each batch of messages.
"""

import asyncio
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sagemaker_ssh_helper.emulator.faults import Faults
from sagemaker_ssh_helper.emulator.service import ApiError
from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.message import HEADER_BYTES, MessageType, PayloadType
from sagemaker_ssh_helper.protocol.payloads import Acknowledge

if TYPE_CHECKING:
    from sagemaker_ssh_helper.emulator.live_session import DataSocket, LiveSession

CLOSE_CODE = 1001
"""Of a cut with a close frame, unless it names another: going away; RFC 6455 section 7.4.1."""

TOO_LONG_CODE = 1009
"""Of the close frame that answers a message which is too long; RFC 6455 section 7.4.1."""

REORDERED_BY = 0.03
"""Seconds that a message is late which others overtake."""

QUEUE_BYTES = 64 << 10
"""In front of a link with little bandwidth, from one side; more waits in the sender's own socket."""

TICK = 0.005
"""Seconds: what such a link carries in that time arrives together."""

_SIDES = ("client", "agent", "both")
_OTHER = {"client": "agent", "agent": "client"}
_ACKNOWLEDGE = MessageType.ACKNOWLEDGE.encode()
_DATA = (MessageType.INPUT_STREAM_DATA.encode(), MessageType.OUTPUT_STREAM_DATA.encode())
_TYPE_AT = slice(4, 36)
_NUMBER_AT = slice(48, 56)
_PAYLOAD_TYPE_AT = slice(112, 116)
_HANDSHAKE = (
    PayloadType.HANDSHAKE_REQUEST,
    PayloadType.HANDSHAKE_RESPONSE,
    PayloadType.HANDSHAKE_COMPLETE,
)


@dataclass(frozen=True)
class Cut:
    """Breaks connections when a session has carried ``at`` bytes of user data, both ways together."""

    at: int
    side: str
    how: str = "reset"
    code: int = CLOSE_CODE


@dataclass(frozen=True)
class Weather:
    """What a link does to messages: shares of them, and seconds."""

    drop_data: float = 0.0
    drop_acks: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    rtt: float = 0.0
    max_message: int = 0
    """Bytes of a message, header included; 0: any number."""
    too_long: str = "closed"
    """What becomes of a longer one: it is ``lost``, or the connection is ``closed``."""
    bandwidth: float = 0.0
    """Bytes a second; 0: no limit."""
    side: str = "both"
    """Whose connection is bad."""


@dataclass
class Rule:
    """What holds for one session, or (``session`` is None) for all that have no rule of their own."""

    session: str | None = None
    cuts: tuple[Cut, ...] = ()
    weather: Weather = field(default_factory=Weather)
    rotation: float = 0.0
    rotation_side: str = "both"
    seed: int | None = None


class BadLink:
    """
    The bad network of one session.

    Attributes:
        log: a row for each cut that was made: where, whose, how, and how many messages of data were sent and
            not yet acknowledged at that moment, by their sender.
        lost: messages thrown away so far.
        too_long: messages that were longer than the link takes, so far.
    """

    def __init__(self, live: "LiveSession", rule: Rule) -> None:
        self.log: list[dict[str, Any]] = []
        self.lost = 0
        self.too_long = 0
        self.carried = 0
        self._live = live
        self._weather = rule.weather
        self._cuts = deque(sorted(rule.cuts, key=lambda cut: cut.at))
        self._chance = random.Random(rule.seed)
        self._in_flight: dict[str, set[bytes]] = {"client": set(), "agent": set()}
        self._rotation = (rule.rotation, rule.rotation_side)
        self._timer: asyncio.TimerHandle | None = None
        # Of a link with little bandwidth: when it has carried what it took, and what it did not carry yet.
        self._free_at = {"client": 0.0, "agent": 0.0}
        self._queued_bytes = {"client": 0, "agent": 0}
        self._rotate_later()

    def change(self, rule: Rule) -> None:
        """Another rule holds from now on. Bytes are counted on."""
        self._weather = rule.weather
        to_come = (cut for cut in rule.cuts if cut.at > self.carried)
        self._cuts = deque(sorted(to_come, key=lambda cut: cut.at))
        self._rotation = (rule.rotation, rule.rotation_side)
        self._rotate_later()

    def pass_on(self, socket: "DataSocket", messages: Sequence[bytes]) -> None:
        """What one side sent, on its way into the gateway. Raises MalformedMessage."""
        weather = self._weather
        is_bad = weather.side in (socket.side, "both")
        kept: list[bytes] = []
        late: list[bytes] = []
        for data in messages:
            kind = data[_TYPE_AT].rstrip(b" \0")
            is_data = kind in _DATA
            copies = 1
            if is_bad and weather.max_message and len(data) > weather.max_message:
                self.too_long += 1
                if weather.too_long == "closed":
                    self._live.cut(socket.side, "close", TOO_LONG_CODE)
                    break
                self.lost += 1
                copies = 0
            elif is_bad:
                share = weather.drop_data if is_data else weather.drop_acks if kind == _ACKNOWLEDGE else 0.0
                if share and self._chance.random() < share:
                    self.lost += 1
                    copies = 0
                elif weather.duplicate and self._chance.random() < weather.duplicate:
                    copies = 2
                elif weather.reorder and is_data and self._chance.random() < weather.reorder:
                    late.append(data)
                    copies = 0
            kept += [data] * copies
            if not self._note(socket.side, kind, data):
                # The connection is gone, and with it what came behind this message.
                break
        delay = weather.rtt / 2 if is_bad else 0.0
        if is_bad and weather.bandwidth:
            self._queue(socket, kept, delay)
        else:
            self._deliver(socket, kept, delay)
        if late:
            self._deliver(socket, late, delay + REORDERED_BY)

    def describe(self) -> dict[str, Any]:
        """For ``GET /_local/faults``."""
        return {
            "kind": "link",
            "session": self._live.session.id,
            "carried": self.carried,
            "lost": self.lost,
            "too_long": self.too_long,
            "cuts": self.log,
            "cuts_to_come": len(self._cuts),
        }

    def end(self) -> None:
        """The session is over, or its link is good again. What is delayed still arrives."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- within --

    def _note(self, side: str, kind: bytes, data: bytes) -> bool:
        """Count a message; False when a connection of its own sender was cut at it."""
        if kind == _ACKNOWLEDGE:
            try:
                number = Acknowledge.parse_sequence_number(data[HEADER_BYTES:])
            except MalformedMessage:
                return True
            self._in_flight[_OTHER[side]].discard(number.to_bytes(8, "big", signed=True))
            return True
        if kind not in _DATA or int.from_bytes(data[_PAYLOAD_TYPE_AT], "big") in _HANDSHAKE:
            return True
        self._in_flight[side].add(data[_NUMBER_AT])
        self.carried += max(0, len(data) - HEADER_BYTES)
        stands = True
        while self._cuts and self.carried >= self._cuts[0].at:
            cut = self._cuts.popleft()
            self.log.append(
                {
                    "at": self.carried,
                    "side": cut.side,
                    "how": cut.how,
                    "in_flight": {name: len(numbers) for name, numbers in self._in_flight.items()},
                }
            )
            self._live.cut(cut.side, cut.how, cut.code)
            stands = stands and cut.side not in (side, "both")
        return stands

    def _deliver(self, socket: "DataSocket", messages: list[bytes], delay: float) -> None:
        if delay:
            asyncio.get_running_loop().call_later(delay, socket.receive_late, messages)
        elif messages:
            socket.receive_now(messages)

    def _queue(self, socket: "DataSocket", messages: list[bytes], delay: float) -> None:
        """Carry these one after another, behind those before them."""
        loop = asyncio.get_running_loop()
        bandwidth = self._weather.bandwidth
        piece: list[bytes] = []
        size = 0
        for number, data in enumerate(messages, 1):
            piece.append(data)
            size += len(data)
            if size >= bandwidth * TICK or number == len(messages):
                at = max(loop.time(), self._free_at[socket.side]) + size / bandwidth
                self._free_at[socket.side] = at
                self._queued_bytes[socket.side] += size
                loop.call_at(at, self._leave_queue, socket, piece, size, delay)
                piece, size = [], 0
        if self._queued_bytes[socket.side] > QUEUE_BYTES:
            socket.pause_reading()

    def _leave_queue(self, socket: "DataSocket", messages: list[bytes], size: int, delay: float) -> None:
        self._queued_bytes[socket.side] -= size
        if self._queued_bytes[socket.side] <= QUEUE_BYTES // 2:
            socket.resume_reading()
        if delay:
            self._deliver(socket, messages, delay)
        else:
            socket.receive_late(messages)

    def _rotate_later(self) -> None:
        self.end()
        seconds, _ = self._rotation
        if seconds:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._rotate)

    def _rotate(self) -> None:
        self._live.cut(self._rotation[1], "close", CLOSE_CODE)
        self._rotate_later()


class LinkFaults:
    """
    The switches of one gateway.

    Args:
        live: the sessions under way, by id; the gateway's own table.
    """

    def __init__(self, live: Mapping[str, "LiveSession"]) -> None:
        self._live = live
        self._rules: dict[str | None, Rule] = {}
        self._refused: set[str | None] = set()

    def register(self, faults: Faults) -> None:
        """Serve these kinds of switch."""
        faults.register("link", self.switch_link, self.clear, self.describe)
        faults.register("freeze", self.switch_freeze)
        faults.register("rotation", self.switch_rotation)
        faults.register("refuse-resume", self.switch_refuse_resume)

    def begin(self, live: "LiveSession") -> None:
        """A session begins; give it the link that the switches say."""
        rule = self._rules.get(None)
        if rule is not None:
            live.bad_link = BadLink(live, replace(rule, session=live.session.id))

    def refuses_resume(self, session_id: str) -> bool:
        """Whether the client of this session may not come back."""
        return bool(self._refused) and (None in self._refused or session_id in self._refused)

    # -- switches --

    async def switch_cut(self, body: Mapping[str, Any]) -> None:
        """Cuts now, or ``cuts`` to come."""
        later = "cuts" in body
        side, how = _side(body, "both" if later else None), _how(body)
        code = _number(body, "code", CLOSE_CODE, 1000, 4999)
        if not later:
            for live in self._meant(body):
                live.cut(side, how, int(code))
            return
        rows = body["cuts"]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ApiError("ValidationException", "cuts must be a list of objects.")
        cuts = tuple(
            Cut(
                at=int(_number(row, "at", None, 1, 1 << 50)),
                side=_side(row, side),
                how=_how(row, how),
                code=int(_number(row, "code", code, 1000, 4999)),
            )
            for row in rows
        )
        self._change(body, cuts=cuts)

    async def switch_link(self, body: Mapping[str, Any]) -> None:
        """Losses, duplicates, disorder, delay, limits. What is left out is 0."""
        shares = {
            name: _number(body, name, 0.0, 0, 1)
            for name in ("drop_data", "drop_acks", "duplicate", "reorder")
        }
        too_long = body.get("too_long", "closed")
        if too_long not in ("closed", "lost"):
            raise ApiError("ValidationException", "too_long must be closed or lost.")
        weather = Weather(
            rtt=_number(body, "rtt", 0.0, 0, 60),
            max_message=int(_number(body, "max_message", 0, 0, 1 << 30)),
            too_long=too_long,
            bandwidth=_number(body, "bandwidth", 0.0, 0, 1 << 40),
            side=_side(body, "both"),
            **shares,
        )
        seed = body.get("seed")
        if seed is not None and not isinstance(seed, int):
            raise ApiError("ValidationException", "seed must be a whole number.")
        self._change(body, weather=weather, seed=seed)

    async def switch_freeze(self, body: Mapping[str, Any]) -> None:
        """
        Neither read nor write for so many seconds. Nothing is lost, as in a network that is away: whoever
        still has the connection afterwards gets what was sent. New connections of that side are silent, too,
        unless ``new`` is false.
        """
        side, seconds = _side(body, "both"), _number(body, "seconds", None, 0, 3600)
        for live in self._meant(body):
            live.freeze(side, seconds, new_too=bool(body.get("new", True)))

    async def switch_rotation(self, body: Mapping[str, Any]) -> None:
        """A close frame every so many seconds; 0 ends it."""
        seconds = _number(body, "seconds", None, 0, 1 << 20)
        self._change(body, rotation=seconds, rotation_side=_side(body, "both"))

    async def switch_refuse_resume(self, body: Mapping[str, Any]) -> None:
        """ResumeSession is answered without a token: as for a session that is over."""
        self._refused.add(_session(body))

    async def clear(self) -> None:
        """All links are good again."""
        self._rules.clear()
        self._refused.clear()
        for live in self._live.values():
            live.freeze("both", 0)
            if live.bad_link is not None:
                live.bad_link.end()
                live.bad_link = None

    def describe(self) -> list[dict[str, Any]]:
        """The bad links there are."""
        return [live.bad_link.describe() for live in self._live.values() if live.bad_link is not None]

    # -- within --

    def _meant(self, body: Mapping[str, Any]) -> list["LiveSession"]:
        session_id = _session(body)
        return [live for live in self._live.values() if session_id in (None, live.session.id)]

    def _change(self, body: Mapping[str, Any], **changes: Any) -> None:
        session_id = _session(body)
        if session_id is not None and session_id not in self._live:
            raise ApiError("ValidationException", "There is no such session under way.")
        rule = self._rules.get(session_id) or self._rules.get(None) or Rule()
        rule = self._rules[session_id] = replace(rule, session=session_id, **changes)
        for live in self._meant(body):
            if live.bad_link is None:
                live.bad_link = BadLink(live, rule)
            else:
                live.bad_link.change(rule)


def _session(body: Mapping[str, Any]) -> str | None:
    session_id = body.get("session")
    if session_id is not None and not isinstance(session_id, str):
        raise ApiError("ValidationException", "session must be the id of one.")
    return session_id


def _side(body: Mapping[str, Any], default: str | None = None) -> str:
    side = body.get("side", default)
    if side not in _SIDES:
        raise ApiError("ValidationException", f"side must be one of {', '.join(_SIDES)}.")
    return str(side)


def _how(body: Mapping[str, Any], default: str = "reset") -> str:
    how = body.get("how", default)
    if how not in ("reset", "close"):
        raise ApiError("ValidationException", "how must be reset or close.")
    return str(how)


def _number(body: Mapping[str, Any], name: str, default: float | None, low: float, high: float) -> float:
    value = body.get(name, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise ApiError("ValidationException", f"{name} must be a number from {low:g} to {high:g}.")
    return value
