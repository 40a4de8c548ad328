"""
Vectors: worked examples, and what the official peers sent.

``FRAME_`` are the three worked examples of the message layout, made by the formula in ``worked_example`` and
told apart by the SHA-256 of the whole message. The rest is read from tests/captures.
"""

import hashlib
import json
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

from sagemaker_ssh_helper.protocol.message import AgentMessage

CAPTURES = Path(__file__).parent.parent / "captures"


@dataclass(frozen=True)
class Frame:
    """A message, its bytes, and the SHA-256 of those as the layout's description gives it."""

    message: AgentMessage
    data: bytes
    sha256: str


def worked_example(message: AgentMessage) -> bytes:
    """The layout once more, in other words than the code under test."""
    message_id = uuid.UUID(bytes=message.message_id).bytes
    return (
        struct.pack(
            ">I32sIQqQ",
            116,
            message.message_type.encode().ljust(32, b" "),
            message.schema_version,
            message.created_ms,
            message.sequence_number,
            message.flags,
        )
        + message_id[8:]
        + message_id[:8]
        + hashlib.sha256(message.payload).digest()
        + struct.pack(">II", message.payload_type, len(message.payload))
        + message.payload
    )


def _frame(message: AgentMessage, sha256: str) -> Frame:
    return Frame(message, worked_example(message), sha256)


FRAME_INPUT_STREAM_DATA = _frame(
    AgentMessage(
        message_type="input_stream_data",
        payload=b"SSH-2.0-OpenSSH_9.6\r\n",
        sequence_number=1,
        flags=0,
        payload_type=1,
        message_id=uuid.UUID("01234567-89ab-4cde-8f01-23456789abcd").bytes,
        created_ms=1700000000000,
    ),
    "d15fa918d930422ac3aabb7dc9d8b16086af14eb2e2112ffe5d529dd7fcec527",
)

ACKNOWLEDGE_BODY = (
    b'{"AcknowledgedMessageType":"input_stream_data",'
    b'"AcknowledgedMessageId":"01234567-89ab-4cde-8f01-23456789abcd",'
    b'"AcknowledgedMessageSequenceNumber":1,"IsSequentialMessage":true}'
)

FRAME_ACKNOWLEDGE = _frame(
    AgentMessage(
        message_type="acknowledge",
        payload=ACKNOWLEDGE_BODY,
        sequence_number=0,
        flags=3,
        payload_type=0,
        message_id=uuid.UUID("fedcba98-7654-4321-8000-0123456789ab").bytes,
        created_ms=1700000000050,
    ),
    "7726282b6a579ab78498f1742b53a1fc18af25a994e3049e289b960c6d677da2",
)

FRAME_TERMINATE_SESSION = _frame(
    AgentMessage(
        message_type="input_stream_data",
        payload=b"\x00\x00\x00\x02",
        sequence_number=9,
        flags=0,
        payload_type=10,
        message_id=uuid.UUID("00112233-4455-4677-8899-aabbccddeeff").bytes,
        created_ms=1700000000100,
    ),
    "19069ce8df4100c01efa9265bc3e0a04cc57d37276a455aafff003914190d729",
)

FRAMES = {
    "input_stream_data": FRAME_INPUT_STREAM_DATA,
    "acknowledge": FRAME_ACKNOWLEDGE,
    "terminate_session": FRAME_TERMINATE_SESSION,
}

# Byte for byte, from the layout's description: a mistake in worked_example would show here.
FRAME_INPUT_STREAM_DATA_HEX = (
    "00000074696e7075745f73747265616d"
    "5f646174612020202020202020202020"
    "20202020000000010000018bcfe56800"
    "00000000000000010000000000000000"
    "8f0123456789abcd0123456789ab4cde"
    "7bfce07c2ab775ed4fd61e86b0e3234e"
    "c4ed9a880a09cfeffe4eb78e5446437d"
    "00000001000000155353482d322e302d"
    "4f70656e5353485f392e360d0a"
)


@dataclass(frozen=True)
class Recorded:
    """One line of a capture: where it stands, and its raw bytes."""

    where: str
    kind: str
    direction: str
    channel: str
    name: str
    opcode: int
    data: bytes
    decoded: Any

    @property
    def is_official(self) -> bool:
        """Whether an official peer wrote it, not the stand-in for the cloud."""
        return not self.direction.startswith("cloud") and self.direction != "response"


def recorded() -> List[Recorded]:
    """Every line of every capture, in order."""
    lines = []
    for path in sorted(CAPTURES.glob("*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            line: Dict[str, Any] = json.loads(text)
            lines.append(
                Recorded(
                    where=f"{path.stem}:{line['n']}",
                    kind=line["kind"],
                    direction=line["dir"],
                    channel=line.get("channel", ""),
                    name=line["id"],
                    opcode=line.get("opcode", 0),
                    data=bytes.fromhex(line.get("hex", "")),
                    decoded=line.get("decoded"),
                )
            )
    return lines


def recorded_messages() -> List[Recorded]:
    """The binary WebSocket messages."""
    return [line for line in recorded() if line.kind == "ws" and line.opcode == 2]
