"""
The binary message of data and control channels: a 120-byte header and a payload.

Pure, standard library only, Python 3.8. One of these is made for every 1024 bytes a user moves, and another
for its acknowledge, so what looks like haste here (one ``struct``, a table of padded names, an ``__init__``
that writes ``__dict__``) is measured: see ``bench/protocol_core.py``.
"""

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Dict

from sagemaker_ssh_helper.errors import MalformedMessage


class MessageType:
    """
    The names of messages. A name that is not here is kept as text; receivers log it and drop the message.
    """

    # The stream of a data channel.
    INPUT_STREAM_DATA = "input_stream_data"
    OUTPUT_STREAM_DATA = "output_stream_data"
    ACKNOWLEDGE = "acknowledge"
    # What the gateway says on a data channel; CHANNEL_CLOSED also on the control channel.
    CHANNEL_CLOSED = "channel_closed"
    START_PUBLICATION = "start_publication"
    PAUSE_PUBLICATION = "pause_publication"
    # What the agent tells the gateway about its data channel.
    AGENT_SESSION_STATE = "agent_session_state"
    # The control channel: sessions ...
    INTERACTIVE_SHELL = "interactive_shell"
    AGENT_TASK_COMPLETE = "agent_task_complete"
    AGENT_TASK_ACKNOWLEDGE = "agent_task_acknowledge"
    # ... and commands.
    AGENT_JOB = "agent_job"
    AGENT_JOB_ACK = "agent_job_ack"
    AGENT_JOB_REPLY = "agent_job_reply"
    AGENT_JOB_REPLY_ACK = "agent_job_reply_ack"
    # Sent by official agents now and then; nobody answers them.
    AGENT_TELEMETRY = "agent_telemetry"
    AGENT_UPDATE_RESULT = "agent_update_result"


class PayloadType(IntEnum):
    """What a stream message carries. Numbers that are not here stay plain integers, and are acknowledged."""

    NONE = 0
    OUTPUT = 1
    ERROR = 2
    SIZE = 3
    PARAMETER = 4
    HANDSHAKE_REQUEST = 5
    HANDSHAKE_RESPONSE = 6
    HANDSHAKE_COMPLETE = 7
    ENC_CHALLENGE_REQUEST = 8
    ENC_CHALLENGE_RESPONSE = 9
    FLAG = 10
    STDERR = 11
    EXIT_CODE = 12
    # Between two of our ends only, as version 1 of the marker in their handshake says: padding.
    PROBE = 1001


class Flag(IntEnum):
    """The value in a FLAG payload. An unknown one is ignored, but acknowledged."""

    DISCONNECT_TO_PORT = 1
    TERMINATE_SESSION = 2
    CONNECT_TO_PORT_ERROR = 3


# Bits of the header's flags field (not to be confused with Flag). Receivers ignore them; we write what
# official peers write.
SYN = 1  # on the agent's stream message 0
FIN = 2
SYN_FIN = SYN | FIN  # on acknowledge and agent_session_state

HEADER_BYTES = 120
MESSAGE_ID_BYTES = 16

# The value of the header length field: the offset of the payload length, which it does not count.
_HEADER_LENGTH = 116
_TYPE_BYTES = 32
# Spaces are written; readers take off NULs and white space as well.
_PADDING = "\0 \t\n\v\f\r"

# Offsets are those in the table of AgentMessage; the message id is two halves.
_HEADER = struct.Struct(">I32sIQqQ8s8s32sII")

_PADDED: Dict[str, bytes] = {
    name: name.encode("ascii").ljust(_TYPE_BYTES)
    for field, name in vars(MessageType).items()
    if not field.startswith("_")
}
_NAMES: Dict[bytes, str] = {padded: name for name, padded in _PADDED.items()}

# The official client exempts these two from every check of the header, so a service may well send them
# with nothing filled in.
_UNCHECKED = frozenset({MessageType.START_PUBLICATION, MessageType.PAUSE_PUBLICATION})

_sha256 = hashlib.sha256
_pack = _HEADER.pack
_unpack_from = _HEADER.unpack_from


def serialize_message(
    message_type: str,
    payload: bytes,
    sequence_number: int,
    flags: int,
    payload_type: int,
    message_id: bytes,
    created_ms: int,
    schema_version: int = 1,
) -> bytes:
    """
    The bytes of one message, without making an AgentMessage first.

    Raises:
        ValueError: a value that does not fit its field; no peer can cause it.
    """
    padded = _PADDED.get(message_type)
    if padded is None:
        padded = _pad(message_type)
    if len(message_id) != MESSAGE_ID_BYTES:
        raise ValueError(f"a message id has {MESSAGE_ID_BYTES} bytes, not {len(message_id)}")
    try:
        header = _pack(
            _HEADER_LENGTH,
            padded,
            schema_version,
            created_ms,
            sequence_number,
            flags,
            message_id[8:],
            message_id[:8],
            _sha256(payload).digest(),
            payload_type,
            len(payload),
        )
    except struct.error as error:
        raise ValueError(f"a header field of {message_type} is out of range: {error}") from error
    return header + payload


@dataclass(frozen=True)
class AgentMessage:
    """
    One binary message on a data or control channel. Integers are big-endian.

    ======  ====  ===============  =====================================================
    offset  size  field            meaning (offsets and sizes in bytes)
    ======  ====  ===============  =====================================================
         0     4  header length    offset of *payload length*; we write 116
         4    32  message type     UTF-8, padded with spaces; readers also strip NULs
        36     4  schema version   1
        40     8  created date     milliseconds since the Unix epoch, UTC; never 0
        48     8  sequence number  signed; stream messages count from 0 each way
        56     8  flags            bit 0 SYN, bit 1 FIN; an acknowledge sets both
        64    16  message id       UUID with its halves swapped: bytes 8-15, then 0-7
        80    32  payload digest   SHA-256 of the payload
       112     4  payload type     a PayloadType; 0 outside the stream
       116     4  payload length   bytes
       120     n  payload          JSON or raw bytes, by message type
    ======  ====  ===============  =====================================================

    ``message_id`` holds the 16 bytes in the order of the UUID's text; ``format_message_id`` gives that text.
    ``parse`` raises MalformedMessage, and nothing else, for input that is not such a message. As the
    official peers do, it takes the payload from *header length* + 4 to the end whatever *payload length*
    says, and does not look at the digest when that field is 0.

    Vectors: tests/protocol/vectors.py, names starting FRAME_.
    """

    message_type: str
    payload: bytes
    sequence_number: int = 0
    flags: int = 0
    payload_type: int = 0
    message_id: bytes = bytes(MESSAGE_ID_BYTES)
    created_ms: int = 1
    schema_version: int = 1

    # The generated __init__ of a frozen class pays a function call for each field: 1 us of every message.
    def __init__(
        self,
        message_type: str,
        payload: bytes,
        sequence_number: int = 0,
        flags: int = 0,
        payload_type: int = 0,
        message_id: bytes = bytes(MESSAGE_ID_BYTES),
        created_ms: int = 1,
        schema_version: int = 1,
    ) -> None:
        fields = self.__dict__
        fields["message_type"] = message_type
        fields["payload"] = payload
        fields["sequence_number"] = sequence_number
        fields["flags"] = flags
        fields["payload_type"] = payload_type
        fields["message_id"] = message_id
        fields["created_ms"] = created_ms
        fields["schema_version"] = schema_version

    def __str__(self) -> str:
        """For logs: type, sequence number, length; never the payload."""
        kind = f" {payload_type_name(self.payload_type)}" if self.payload_type else ""
        return f"{self.message_type}{kind} #{self.sequence_number} {len(self.payload)} B"

    def serialize(self) -> bytes:
        """The bytes of the message. Raises ValueError when a value does not fit its field."""
        return serialize_message(
            self.message_type,
            self.payload,
            self.sequence_number,
            self.flags,
            self.payload_type,
            self.message_id,
            self.created_ms,
            self.schema_version,
        )

    @classmethod
    def parse(cls, data: bytes) -> "AgentMessage":
        """The message in these bytes, the content of one WebSocket message. Raises MalformedMessage."""
        if len(data) < HEADER_BYTES:
            raise MalformedMessage(f"a message of {len(data)} bytes is shorter than its header")
        (
            header_length,
            padded,
            schema_version,
            created_ms,
            sequence_number,
            flags,
            id_low,
            id_high,
            digest,
            payload_type,
            payload_length,
        ) = _unpack_from(data)
        message_type = _NAMES.get(padded)
        if message_type is None:
            message_type = _unpad(padded)
        if header_length == _HEADER_LENGTH:
            payload = data[HEADER_BYTES:]
        elif _HEADER_LENGTH < header_length <= len(data) - 4:
            payload = data[header_length + 4 :]
        elif message_type in _UNCHECKED:
            payload = data[HEADER_BYTES:]
        else:
            raise MalformedMessage(f"{message_type} of {len(data)} bytes has header length {header_length}")
        if message_type not in _UNCHECKED:
            if not created_ms:
                raise MalformedMessage(f"{message_type} has no created date")
            if payload_length and _sha256(payload).digest() != digest:
                raise MalformedMessage(f"the payload of {message_type} does not match its digest")
        return cls(
            message_type,
            payload,
            sequence_number,
            flags,
            payload_type,
            id_high + id_low,
            created_ms,
            schema_version,
        )


def format_message_id(message_id: bytes) -> str:
    """The text of a message id as JSON payloads write it: lower-case hyphenated UUID."""
    text = message_id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_message_id(text: str) -> bytes:
    """The 16 bytes of a UUID's text. Raises MalformedMessage for text that is none."""
    digits = text.replace("-", "")
    try:
        message_id = bytes.fromhex(digits)
    except ValueError:
        raise MalformedMessage("an id is not a UUID", evidence=repr(text[:64])) from None
    if len(digits) != 2 * MESSAGE_ID_BYTES or len(message_id) != MESSAGE_ID_BYTES:
        raise MalformedMessage("an id is not a UUID", evidence=repr(text[:64]))
    return message_id


def new_message_id(random16: bytes) -> bytes:
    """A message id, a version 4 UUID, from 16 random bytes."""
    fields = bytearray(random16)
    fields[6] = fields[6] & 0x0F | 0x40
    fields[8] = fields[8] & 0x3F | 0x80
    return bytes(fields)


def payload_type_name(payload_type: int) -> str:
    """For logs: ``HANDSHAKE_REQUEST``, or the number when it has no name here."""
    try:
        return PayloadType(payload_type).name
    except ValueError:
        return str(payload_type)


def _pad(message_type: str) -> bytes:
    padded = message_type.encode("utf-8").ljust(_TYPE_BYTES)
    if (
        len(padded) > _TYPE_BYTES
        or message_type.strip(_PADDING) != message_type
        or not _is_name(message_type)
    ):
        raise ValueError(f"{message_type!r} is no message type: 1 to {_TYPE_BYTES} bytes, no space around")
    return padded


def _unpad(padded: bytes) -> str:
    try:
        name = padded.decode("utf-8").strip(_PADDING)
    except UnicodeDecodeError:
        raise MalformedMessage("a message type is not UTF-8", evidence=padded.hex()) from None
    if not _is_name(name):
        raise MalformedMessage("a message has no type", evidence=padded.hex())
    return name


def _is_name(message_type: str) -> bool:
    # It goes to logs, which are read on terminals.
    return bool(message_type) and message_type.isprintable()
