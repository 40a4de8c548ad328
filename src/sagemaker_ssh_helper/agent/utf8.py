"""
Cutting a stream of bytes into payloads so that no character of UTF-8 is divided between two of them. Pure.

Clients decode each payload by itself. Bytes that are no UTF-8 pass unchanged, and the last ones are never
lost.
"""

from typing import List

_LONGEST = 4


class Cutter:
    """One stream. What ends in the middle of a character is kept for the next call."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, data: bytes, limit_bytes: int) -> List[bytes]:
        """Payloads of at most ``limit_bytes`` (4 or more), in order: all that is whole by now."""
        assert limit_bytes >= _LONGEST, "a payload must have room for a character"
        data = self._kept + data
        end = len(data) - _incomplete(data)
        self._kept = data[end:]
        pieces = []
        start = 0
        while end - start > limit_bytes:
            piece = data[start : start + limit_bytes]
            piece = piece[: len(piece) - _incomplete(piece)]
            pieces.append(piece)
            start += len(piece)
        if end > start:
            pieces.append(data[start:end])
        return pieces

    def flush(self) -> bytes:
        """The rest, at the end of the stream."""
        kept, self._kept = self._kept, b""
        return kept


def _incomplete(data: bytes) -> int:
    """How many bytes at the end are the beginning of a character, and not all of it: 0 to 3."""
    for back in range(1, min(_LONGEST, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 4 if 0xF0 <= byte < 0xF5 else 3 if byte >= 0xE0 else 2 if byte >= 0xC2 else 1
        if byte >= 0xF5:
            length = 1
        return back if length > back else 0
    return 0
