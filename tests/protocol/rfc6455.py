"""Frames in other words than the code under test: byte by byte, as the RFC says them."""

from typing import Any, List, Tuple

from protocol import strategies
from sagemaker_ssh_helper.protocol.websocket import Message, Opcode, Ping, Pong, Role

KEY = bytes.fromhex("37fa213d")


def peer_of(role: Role) -> Role:
    return Role.SERVER if role is Role.CLIENT else Role.CLIENT


def frame(role: Role, first: int, payload: bytes = b"") -> bytes:
    """A frame as ``role`` sends it, in other words than the code under test: byte by byte."""
    size = len(payload)
    masked = 0x80 if role is Role.CLIENT else 0
    if size < 126:
        head = bytes([first, masked + size])
    elif size < 65536:
        head = bytes([first, masked + 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, masked + 127]) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    return head + KEY + bytes(byte ^ KEY[at % 4] for at, byte in enumerate(payload))


def play(role: Role, script: strategies.Script) -> Tuple[bytes, List[Any]]:
    """What ``role`` sends when it does what the script says, and the events that makes of it."""
    data = b""
    events: List[Any] = []
    for verb, argument in script:
        if verb == "binary":
            data += frame(role, 0x82, argument)
            events.append(Message(Opcode.BINARY, argument))
        elif verb == "text":
            data += frame(role, 0x81, argument)
            events.append(Message(Opcode.TEXT, argument))
        elif verb == "ping":
            data += frame(role, 0x89, argument)
            events.append(Ping(argument))
        elif verb == "pong":
            data += frame(role, 0x8A, argument)
            events.append(Pong(argument))
        else:
            # A ping stands between the fragments, as it may.
            data += frame(role, 0x02, argument[0]) + frame(role, 0x89, b"between")
            data += b"".join(frame(role, 0x00, middle) for middle in argument[1:-1])
            data += frame(role, 0x80, argument[-1])
            events += [Ping(b"between"), Message(Opcode.BINARY, b"".join(argument))]
    return data, events
