"""
RFC 6455 framing, both sides: bytes in, messages out, and the reverse; and the HTTP upgrade before it.

Pure, standard library only, Python 3.8. No extensions and no subprotocols: the official peers offer neither.
Why it is our own: docs/adr/0001-speak-the-protocol-ourselves.md. The oracle in its tests is ``websockets``.

``WebSocket`` starts when the upgrade is done::

    OPEN ---- send_close ----> CLOSING ---- Close received, receive_eof ----> CLOSED
      \\                                                                     /
       `------ Close received (echoed), receive_eof, a violation -----------'
"""

import base64
import functools
import hashlib
import logging
import re
import struct
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from sagemaker_ssh_helper.errors import ConnectionFailed

logger = logging.getLogger(__name__)


class Opcode(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class Role(Enum):
    """Which end we are. Clients mask what they send; servers never do."""

    CLIENT = "client"
    SERVER = "server"


class State(Enum):
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class CloseCode(IntEnum):
    """The codes we send or make up."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    # Never on the wire: the peer's Close frame had no code.
    NO_STATUS = 1005
    INVALID_DATA = 1007
    TOO_BIG = 1009


@dataclass(frozen=True)
class Message:
    """A whole message, its fragments joined. TEXT is checked to be UTF-8, but still bytes."""

    opcode: int
    data: bytes

    # As in message.AgentMessage: the generated __init__ of a frozen class is slow, and this is the hot path.
    def __init__(self, opcode: int, data: bytes) -> None:
        fields = self.__dict__
        fields["opcode"] = opcode
        fields["data"] = data


@dataclass(frozen=True)
class Ping:
    """The peer's ping. Its pong is queued already."""

    data: bytes


@dataclass(frozen=True)
class Pong:
    data: bytes


@dataclass(frozen=True)
class Close:
    """The peer's Close frame. Its echo is queued already; nothing can be sent any more."""

    code: int
    reason: str


Event = Union[Message, Ping, Pong, Close]

# A gateway message may have 142,000 bytes; no known peer sends more.
DEFAULT_MAX_MESSAGE_BYTES = 1 << 20

# RFC 6455, section 5.5.
MAX_CONTROL_BYTES = 125

_FIN = 0x80
_RESERVED = 0x70
_OPCODE = 0x0F
_MASKED = 0x80
_LENGTH = 0x7F
_LENGTH_16 = 126
_LENGTH_64 = 127
_KEY_BYTES = 4
# From here on a table look-up for every fourth byte is quicker than arithmetic on one long integer.
_STRIDED_BYTES = 8192
# How many masking keys are asked for at once when messages are sent one by one.
_KEYS_AT_ONCE = 256

# What nearly every frame begins with.
_WHOLE_BINARY = _FIN | Opcode.BINARY

_TEXT = Opcode.TEXT
_BINARY = Opcode.BINARY

_pack_16 = struct.Struct(">BBH").pack
_pack_64 = struct.Struct(">BBQ").pack
_unpack_64 = struct.Struct(">Q").unpack_from


def mask(data: bytes, key: bytes) -> bytes:
    """``data`` with the four bytes of ``key`` applied over and over. The same call takes it off again."""
    size = len(data)
    if size >= _STRIDED_BYTES:
        masked = bytearray(size)
        for at in range(_KEY_BYTES):
            masked[at::_KEY_BYTES] = data[at::_KEY_BYTES].translate(_mask_table(key[at]))
        return bytes(masked)
    # One exclusive or of two long integers.
    keys = key * (size >> 2)
    if size & 3:
        keys += key[: size & 3]
    return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")


@functools.lru_cache(maxsize=256)
def _mask_table(byte: int) -> bytes:
    """What each byte becomes under this byte of a key."""
    return bytes(value ^ byte for value in range(256))


class WebSocket:
    """
    One open connection, after the upgrade.

    Feed what arrives to ``receive_data``; send what ``data_to_send`` gives after every call of any method,
    after one that raised as well: the Close frame that says why is in it.

    Args:
        role: which end we are.
        max_message_bytes: a longer message, fragmented or not, fails the connection with code 1009 as soon
            as its length is known.
        random_bytes: gives so many unpredictable bytes, for masking keys; only clients call it.
    """

    def __init__(
        self,
        role: Role,
        *,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.role = role
        self.state = State.OPEN
        self._max_message_bytes = max_message_bytes
        self._random_bytes = random_bytes
        self._sends_masked = role is Role.CLIENT
        # What the mask bit of each frame we receive has to be.
        self._expected_mask = _MASKED if role is Role.SERVER else 0

        # Received bytes of a frame that is not complete, and how many complete it as far as we know.
        self._partial = bytearray()
        self._needed_bytes = 2
        # Fragments of a message that is not complete.
        self._fragments: List[bytes] = []
        self._fragments_bytes = 0
        self._fragments_opcode = Opcode.CONTINUATION

        self._queue: List[bytes] = []
        # What the last ping said, until it is answered.
        self._pong: Optional[bytes] = None
        self._keys = b""
        self._keys_used = 0

    # -- receiving --

    def receive_data(self, data: bytes) -> List[Event]:
        """
        What these bytes complete, in order. A pong, and the echo of a Close, are queued; of several pings
        the last one is answered, which RFC 6455 section 5.5.3 allows: a peer that sends them and reads
        nothing must not take memory.

        After a Close or a failure, further bytes are ignored.

        Raises:
            ConnectionFailed: the peer broke RFC 6455 or the size limit; ``close_code`` says how, ``events``
                holds what came before it in these bytes. The Close frame is queued and the state is CLOSED.
        """
        if self.state is State.CLOSED:
            return []
        partial = self._partial
        if partial:
            partial += data
            if len(partial) < self._needed_bytes:
                return []
            data = bytes(partial)
            partial.clear()
        events: List[Event] = []
        at = self._parse(data, events)
        if at < len(data):
            partial += data[at:] if at else data
        return events

    def _parse(self, data: bytes, events: List[Event]) -> int:
        """Append to ``events``; return where the first incomplete frame begins, and set how much it needs."""
        size = len(data)
        expected_mask = self._expected_mask
        max_message_bytes = self._max_message_bytes
        append = events.append
        at = 0
        while True:
            if size - at < 2:
                self._needed_bytes = 2
                return at
            first = data[at]
            second = data[at + 1]
            if second & _MASKED != expected_mask:
                fault = "a frame is not masked" if expected_mask else "a frame is masked"
                raise self._violation(CloseCode.PROTOCOL_ERROR, fault, events)
            begin = at + 2
            length = second & _LENGTH
            if length >= _LENGTH_16:
                if length == _LENGTH_16:
                    begin = at + 4
                    if begin > size:
                        self._needed_bytes = 4
                        return at
                    length = data[at + 2] << 8 | data[at + 3]
                    if length < _LENGTH_16:
                        raise self._violation(CloseCode.PROTOCOL_ERROR, "a length is not minimal", events)
                else:
                    begin = at + 10
                    if begin > size:
                        self._needed_bytes = 10
                        return at
                    length = _unpack_64(data, at + 2)[0]
                    if length < 1 << 16 or length >= 1 << 63:
                        raise self._violation(
                            CloseCode.PROTOCOL_ERROR, "a length is not minimal, or negative", events
                        )
            whole_binary = first == _WHOLE_BINARY and not self._fragments_opcode
            if not whole_binary:
                self._check(first, length, events)
            if length + self._fragments_bytes > max_message_bytes and first & _OPCODE < Opcode.CLOSE:
                raise self._violation(
                    CloseCode.TOO_BIG, f"a message is longer than {max_message_bytes} bytes", events
                )
            if expected_mask:
                begin += _KEY_BYTES
            end = begin + length
            if end > size:
                self._needed_bytes = end - at
                return at
            payload = data[begin:end]
            if expected_mask:
                payload = mask(payload, data[begin - _KEY_BYTES : begin])
            at = end
            if whole_binary:
                append(Message(_BINARY, payload))
            else:
                self._receive_frame(first, payload, events)
                if self.state is State.CLOSED:
                    return size

    def _check(self, first: int, length: int, events: List[Event]) -> None:
        """Refuse a frame by its first bytes, before its payload is there."""
        opcode = first & _OPCODE
        fault = None
        if first & _RESERVED:
            fault = "a reserved bit is set"
        elif opcode == Opcode.CONTINUATION:
            if not self._fragments_opcode:
                fault = "a continuation continues nothing"
        elif opcode in (_TEXT, _BINARY):
            if self._fragments_opcode:
                fault = "a message begins inside another"
        elif opcode not in (Opcode.CLOSE, Opcode.PING, Opcode.PONG):
            fault = f"opcode {opcode} is reserved"
        elif not first & _FIN:
            fault = "a control frame is fragmented"
        elif length > MAX_CONTROL_BYTES:
            fault = f"a control frame is longer than {MAX_CONTROL_BYTES} bytes"
        elif opcode == Opcode.CLOSE and length == 1:
            fault = "a Close frame has half a code"
        if fault:
            raise self._violation(CloseCode.PROTOCOL_ERROR, fault, events)

    def _receive_frame(self, first: int, payload: bytes, events: List[Event]) -> None:
        opcode = first & _OPCODE
        if opcode == Opcode.PING:
            if self.state is State.OPEN:
                self._pong = payload
            events.append(Ping(payload))
        elif opcode == Opcode.PONG:
            events.append(Pong(payload))
        elif opcode == Opcode.CLOSE:
            events.append(self._receive_close(payload, events))
        elif first & _FIN:
            if opcode == Opcode.CONTINUATION:
                opcode = self._fragments_opcode
                self._fragments.append(payload)
                payload = b"".join(self._fragments)
                self._fragments.clear()
                self._fragments_bytes = 0
                self._fragments_opcode = Opcode.CONTINUATION
            if opcode == _TEXT and not _is_utf8(payload):
                raise self._violation(CloseCode.INVALID_DATA, "a text is not UTF-8", events)
            events.append(Message(Opcode(opcode), payload))
        else:
            if opcode != Opcode.CONTINUATION:
                self._fragments_opcode = Opcode(opcode)
            # A peer may send any number of empty fragments; they must not take memory.
            if payload:
                self._fragments.append(payload)
                self._fragments_bytes += len(payload)

    def _receive_close(self, payload: bytes, events: List[Event]) -> Close:
        if payload:
            code = payload[0] << 8 | payload[1]
            if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
                raise self._violation(CloseCode.PROTOCOL_ERROR, f"{code} is no close code", events)
            if not _is_utf8(payload[2:]):
                raise self._violation(CloseCode.INVALID_DATA, "the reason of a Close is not UTF-8", events)
            close = Close(code, payload[2:].decode("utf-8"))
        else:
            close = Close(CloseCode.NO_STATUS, "")
        if self.state is State.OPEN:
            self._queue_frame(_FIN | Opcode.CLOSE, payload[:2])
        self._change_state(State.CLOSED)
        return close

    def receive_eof(self) -> None:
        """Note that no more bytes will come. Half a frame or half a message is forgotten."""
        self._change_state(State.CLOSED)

    # -- sending --

    def send_message(self, opcode: int, data: bytes) -> None:
        """
        Queue one message, TEXT or BINARY, in one frame.

        Raises:
            ConnectionFailed: the connection is closing or closed.
        """
        assert opcode in (_TEXT, _BINARY), "control frames have methods of their own"
        self._require_open()
        self._queue_frame(_FIN | opcode, data)

    def send_messages(self, payloads: Sequence[bytes]) -> None:
        """Queue many binary messages. Raises as ``send_message`` does."""
        self._require_open()
        queue = self._queue
        masked = self._sends_masked
        keys = self._random_bytes(_KEY_BYTES * len(payloads)) if masked else b""
        mask_bit = _MASKED if masked else 0
        key_at = 0
        header = b""
        header_size = -1
        for payload in payloads:
            size = len(payload)
            # Messages of a bulk stream all have one size.
            if size != header_size:
                header = _header(_WHOLE_BINARY, mask_bit, size)
                header_size = size
            if masked:
                key = keys[key_at : key_at + _KEY_BYTES]
                key_at += _KEY_BYTES
                queue.append(header + key)
                queue.append(mask(payload, key))
            else:
                queue.append(header)
                queue.append(payload)

    def send_ping(self, data: bytes = b"") -> None:
        """Queue a ping of at most 125 bytes. Raises as ``send_message`` does."""
        assert len(data) <= MAX_CONTROL_BYTES, "a ping is a control frame"
        self._require_open()
        self._queue_frame(_FIN | Opcode.PING, data)

    def send_pong(self, data: bytes = b"") -> None:
        """Queue a pong that answers no ping. Raises as ``send_message`` does."""
        assert len(data) <= MAX_CONTROL_BYTES, "a pong is a control frame"
        self._require_open()
        self._queue_frame(_FIN | Opcode.PONG, data)

    def send_close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """
        Queue a Close frame, unless one was queued before. The peer's messages still come until it answers.

        ``reason`` is cut to the 123 bytes there are.
        """
        if self.state is State.OPEN:
            self._queue_close(code, reason)
            self._change_state(State.CLOSING)

    def data_to_send(self) -> bytes:
        """Everything queued since the last call; empty when there is nothing."""
        if self._pong is not None:
            self._answer_ping()
        queue = self._queue
        if not queue:
            return b""
        data = b"".join(queue)
        queue.clear()
        return data

    # -- within --

    def _require_open(self) -> None:
        if self.state is not State.OPEN:
            raise ConnectionFailed("nothing can be sent: the WebSocket is " + self.state.value)

    def _answer_ping(self) -> None:
        """Behind all that was queued: it says that what came before the ping was seen to."""
        payload, self._pong = self._pong, None
        if payload is not None and self.state is State.OPEN:
            self._queue_frame(_FIN | Opcode.PONG, payload)

    def _queue_frame(self, first: int, payload: bytes) -> None:
        if not self._sends_masked:
            self._queue.append(_header(first, 0, len(payload)))
            self._queue.append(payload)
            return
        if self._keys_used == len(self._keys):
            self._keys = self._random_bytes(_KEY_BYTES * _KEYS_AT_ONCE)
            self._keys_used = 0
        key = self._keys[self._keys_used : self._keys_used + _KEY_BYTES]
        self._keys_used += _KEY_BYTES
        self._queue.append(_header(first, _MASKED, len(payload)) + key)
        self._queue.append(mask(payload, key))

    def _queue_close(self, code: int, reason: str) -> None:
        text = reason.encode("utf-8", "replace")[: MAX_CONTROL_BYTES - 2]
        # A cut may have gone through a character.
        text = text.decode("utf-8", "ignore").encode("utf-8")
        self._queue_frame(_FIN | Opcode.CLOSE, code.to_bytes(2, "big") + text)

    def _violation(self, code: CloseCode, fault: str, events: List[Event]) -> ConnectionFailed:
        """The error to raise; the connection has failed when this returns."""
        if self.state is State.OPEN:
            self._queue_close(code, fault)
        self._change_state(State.CLOSED)
        return ConnectionFailed(
            f"the peer broke the WebSocket protocol: {fault}",
            evidence=f"closed with code {int(code)}",
            close_code=int(code),
            events=tuple(events),
        )

    def _change_state(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            logger.debug("= websocket is %s", state.name)
        if state is State.CLOSED:
            self._partial.clear()
            self._fragments.clear()


def _header(first: int, mask_bit: int, size: int) -> bytes:
    if size < _LENGTH_16:
        return bytes((first, mask_bit | size))
    if size < 1 << 16:
        return _pack_16(first, mask_bit | _LENGTH_16, size)
    return _pack_64(first, mask_bit | _LENGTH_64, size)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


# -- the upgrade ------------------------------------------------------------------------------------

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_MAX_HEAD_BYTES = 16384
# Of the body of an answer that refuses: enough to find the service's reason in it.
_MAX_BODY_BYTES = 2048

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?").fullmatch
_REQUEST_LINE = re.compile(rb"GET ([!-~]+) HTTP/1\.1").fullmatch
_HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*").fullmatch
# Python refuses to read numbers of thousands of digits.
_CONTENT_LENGTH = re.compile(r"[0-9]{1,18}").fullmatch
_HEADER_VALUE = re.compile(r"[\t -~\x80-\xff]*").fullmatch


@dataclass(frozen=True)
class UpgradeRequest:
    """A client's request to upgrade. The names of ``headers`` are in lower case."""

    path: str
    headers: Mapping[str, str]
    key: str


def new_key(random16: bytes) -> str:
    """The value of Sec-WebSocket-Key, from 16 random bytes."""
    assert len(random16) == 16, "a key has 16 bytes"
    return base64.b64encode(random16).decode("ascii")


def accept_value(key: str) -> str:
    """The value of Sec-WebSocket-Accept that answers this key."""
    return base64.b64encode(hashlib.sha1(key.encode("ascii") + _GUID).digest()).decode("ascii")


def client_request(host: str, path: str, headers: Sequence[Tuple[str, str]], key: str) -> bytes:
    """
    The request that asks for the upgrade.

    Args:
        host: with the port, where it is not the scheme's own.
        path: with the query.
        headers: what else to send: signatures, for example.
        key: from ``new_key``.

    Raises:
        ValueError: a part that would break out of its line.
    """
    if not _REQUEST_LINE(b"GET " + path.encode("latin-1") + b" HTTP/1.1"):
        raise ValueError("a path has characters that a request line cannot hold")
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
    lines += [f"{name}: {value}" for name, value in headers]
    for line in lines[1:]:
        if not _HEADER_VALUE(line):
            raise ValueError(f"the header {line.partition(':')[0]!r} has characters that no header can hold")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def parse_response(buffer: bytes, key: str, *, eof: bool = False) -> Optional[int]:
    """
    How many bytes of ``buffer`` are the answer to ``client_request``; frames follow. None: more is needed.

    Args:
        buffer: all that has arrived.
        key: the one that was sent.
        eof: nothing more will arrive.

    Raises:
        ConnectionFailed: the answer is not an upgrade to our WebSocket. ``status`` is its status, ``headers``
            and ``body`` are its headers and the beginning of its body.
    """
    head = _parse_head(buffer)
    if head is None:
        if eof:
            raise ConnectionFailed("the server closed the connection before it answered the upgrade")
        return None
    first_line, headers, size = head
    match = _STATUS_LINE(first_line)
    if match is None:
        raise ConnectionFailed("the answer to the upgrade is not HTTP")
    status = int(match[1])
    if status != 101:
        length = headers.get("content-length", "")
        told = _CONTENT_LENGTH(length) is not None
        body_bytes = min(int(length), _MAX_BODY_BYTES) if told else _MAX_BODY_BYTES
        if told and len(buffer) < size + body_bytes and not eof:
            return None
        body = buffer[size : size + body_bytes].decode("utf-8", "replace")
        raise ConnectionFailed(
            f"the server refused the WebSocket with status {status}",
            evidence=" ".join(body.split())[:200] or None,
            status=status,
            body=body,
            headers=headers,
        )
    fault = None
    if headers.get("upgrade", "").lower() != "websocket":
        fault = "no upgrade to websocket"
    elif "upgrade" not in _tokens(headers.get("connection", "")):
        fault = "no upgraded connection"
    elif headers.get("sec-websocket-accept") != accept_value(key):
        fault = "the wrong Sec-WebSocket-Accept"
    elif "sec-websocket-extensions" in headers or "sec-websocket-protocol" in headers:
        fault = "an extension or a subprotocol that was not asked for"
    if fault:
        raise ConnectionFailed("the answer to the upgrade is not valid", evidence=fault, status=status)
    return size


def parse_request(buffer: bytes) -> Optional[Tuple[UpgradeRequest, int]]:
    """
    The request to upgrade at the start of ``buffer`` and how many bytes it has. None: more is needed.

    Raises:
        ConnectionFailed: it is something else. ``status`` is the one to answer with.
    """
    head = _parse_head(buffer)
    if head is None:
        return None
    first_line, headers, size = head
    match = _REQUEST_LINE(first_line)
    if match is None:
        raise ConnectionFailed("this is no GET of HTTP/1.1", status=400)
    key = headers.get("sec-websocket-key", "")
    if headers.get("upgrade", "").lower() != "websocket" or "upgrade" not in _tokens(
        headers.get("connection", "")
    ):
        raise ConnectionFailed("a WebSocket was not asked for", status=426)
    if headers.get("sec-websocket-version") != "13":
        raise ConnectionFailed("the version of the WebSocket protocol is not 13", status=426)
    if not is_key(key):
        raise ConnectionFailed("the Sec-WebSocket-Key is not valid", status=400)
    return UpgradeRequest(match[1].decode("ascii"), headers, key), size


def is_key(key: str) -> bool:
    """Whether this can be a Sec-WebSocket-Key: the base64 of 16 bytes."""
    try:
        return len(base64.b64decode(key.encode("ascii"), validate=True)) == 16
    except ValueError:
        return False


def server_response(key: str) -> bytes:
    """
    The answer that upgrades.

    Official agents compare the whole values of Upgrade and Connection, so each holds one token.
    """
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_value(key)}\r\n"
        "\r\n"
    ).encode("ascii")


def _parse_head(buffer: bytes) -> Optional[Tuple[bytes, Dict[str, str], int]]:
    """First line, headers by lower-case name, and size of an HTTP head; None when it is not all there."""
    end = buffer.find(b"\r\n\r\n", 0, _MAX_HEAD_BYTES)
    if end < 0:
        if len(buffer) >= _MAX_HEAD_BYTES:
            raise ConnectionFailed(f"an HTTP head is longer than {_MAX_HEAD_BYTES} bytes", status=431)
        return None
    first_line, *lines = bytes(buffer[:end]).split(b"\r\n")
    headers: Dict[str, str] = {}
    for line in lines:
        match = _HEADER_LINE(line)
        if match is None:
            raise ConnectionFailed("an HTTP head has a line that is no header", status=400)
        name = match[1].decode("ascii").lower()
        value = match[2].decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return first_line, headers, end + 4


def _tokens(value: str) -> List[str]:
    return [token.strip().lower() for token in value.split(",")]
