"""
Bodies in ``aws-chunked``: chunks with or without signatures, and trailers with checksums. S3 only.

::

    <hex size>[;chunk-signature=<hex>]\\r\\n<data>\\r\\n  … 0[;chunk-signature=<hex>]\\r\\n
    [<trailer>:<value>\\r\\n …][x-amz-trailer-signature:<hex>\\r\\n]\\r\\n
"""

import base64
import binascii
import hashlib
import hmac
import zlib
from collections.abc import Callable, Iterator

from sagemaker_ssh_helper.emulator.authentication import EMPTY_SHA256, ChunkKey, Reason, refusal
from sagemaker_ssh_helper.emulator.service import ApiError
from sagemaker_ssh_helper.emulator.wire import Family

SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
MODES = (SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER)

MAX_LINE_BYTES = 4096
MAX_TRAILER_BYTES = 16 * 1024


class Crc32:
    """zlib's CRC-32 in the shape of a hashlib object."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


_CHECKSUMS: dict[str, Callable[[], "Crc32 | hashlib._Hash"]] = {
    "x-amz-checksum-crc32": Crc32,
    "x-amz-checksum-sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "x-amz-checksum-sha256": hashlib.sha256,
}
"""The others (CRC-32C, CRC-64/NVME) are taken over unchecked: no module of Python's computes them."""


def checksum(name: str) -> "Crc32 | hashlib._Hash | None":
    """What computes the checksum of this header; None for one that is not computed here."""
    make = _CHECKSUMS.get(name)
    return make() if make else None


class ChunkDecoder:
    """
    The data in the chunks. Feed what arrives; after the last byte call ``end``.

    Args:
        mode: the value of ``x-amz-content-sha256``, one of MODES.
        key: for the signed modes.
        decoded_bytes: ``x-amz-decoded-content-length``.
        trailers: the names announced in ``x-amz-trailer``.

    Raises ApiError from ``feed`` and ``end`` for a signature or checksum that does not match, and for a
    body that is not in this form. Data that was already handed out is then worthless.
    """

    def __init__(self, mode: str, key: ChunkKey | None, decoded_bytes: int, trailers: list[str]) -> None:
        self._key = key if mode != UNSIGNED_TRAILER else None
        self._signed = mode != UNSIGNED_TRAILER
        self._has_trailer = mode != SIGNED
        self._decoded_bytes = decoded_bytes
        self._announced = trailers
        self._checksums = {name: computed for name in trailers if (computed := checksum(name))}
        self._buffer = bytearray()
        self._left = 0
        self._signature = ""
        self._hash = hashlib.sha256()
        self._total = 0
        self._state = self._read_header
        self.trailers: dict[str, str] = {}

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        while True:
            before = len(self._buffer), self._state
            piece = self._state()
            if piece:
                yield piece
            if (len(self._buffer), self._state) == before:
                return

    def end(self) -> None:
        if self._state != self._read_nothing or self._total != self._decoded_bytes:
            raise ApiError("IncompleteBody", "The request body terminated unexpectedly", 400)

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise _malformed()
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _read_header(self) -> bytes:
        line = self._line()
        if line is None:
            return b""
        size, _, extension = line.partition(b";")
        try:
            self._left = int(size, 16)
        except ValueError:
            raise _malformed() from None
        name, _, value = extension.partition(b"=")
        if self._signed and name.strip() != b"chunk-signature":
            raise _malformed()
        self._signature = value.decode("latin-1").strip()
        self._total += self._left
        if self._left < 0 or self._total > self._decoded_bytes:
            raise _malformed()
        self._hash = hashlib.sha256()
        if self._left == 0:
            self._check_signature()
            self._state = self._read_trailer if self._has_trailer else self._read_end
        else:
            self._state = self._read_data
        return b""

    def _read_data(self) -> bytes:
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: len(piece)]
        self._left -= len(piece)
        self._hash.update(piece)
        for computed in self._checksums.values():
            computed.update(piece)
        if self._left == 0:
            self._check_signature()
            self._state = self._read_data_end
        return piece

    def _read_data_end(self) -> bytes:
        self._expect_line_end(self._read_header)
        return b""

    def _read_end(self) -> bytes:
        self._expect_line_end(self._read_nothing)
        return b""

    def _expect_line_end(self, state: Callable[[], bytes]) -> None:
        if len(self._buffer) >= 2:
            if self._buffer[:2] != b"\r\n":
                raise _malformed()
            del self._buffer[:2]
            self._state = state

    def _read_trailer(self) -> bytes:
        line = self._line()
        if line is None:
            return b""
        if line:
            name, _, value = line.decode("latin-1").partition(":")
            self.trailers[name.strip().lower()] = value.strip()
            if sum(len(name) + len(value) for name, value in self.trailers.items()) > MAX_TRAILER_BYTES:
                raise _malformed()
            return b""
        self._check_trailer()
        self._state = self._read_nothing
        return b""

    def _read_nothing(self) -> bytes:
        if self._buffer:
            raise _malformed()
        return b""

    def _check_signature(self) -> None:
        if self._key is not None:
            hashes = [EMPTY_SHA256, self._hash.hexdigest()]
            if not self._key.matches("PAYLOAD", hashes, self._signature):
                raise refusal(Family.S3, Reason.SIGNATURE)

    def _check_trailer(self) -> None:
        signature = self.trailers.pop("x-amz-trailer-signature", "")
        if sorted(self.trailers) != sorted(self._announced):
            raise ApiError(
                "MalformedTrailerError", "The request contained trailing data that was not well-formed", 400
            )
        if self._key is not None:
            text = "".join(f"{name}:{value}\n" for name, value in sorted(self.trailers.items()))
            if not self._key.matches("TRAILER", [hashlib.sha256(text.encode()).hexdigest()], signature):
                raise refusal(Family.S3, Reason.SIGNATURE)
        for name, computed in self._checksums.items():
            check_checksum(name, self.trailers[name], computed.digest())


def check_checksum(name: str, sent: str, computed: bytes) -> None:
    """Return when the checksum that was sent, in base64, is the computed one; else raise ApiError."""
    try:
        matches = hmac.compare_digest(base64.b64decode(sent, validate=True), computed)
    except (binascii.Error, ValueError):
        matches = False
    if not matches:
        algorithm = name.rpartition("-")[2].upper()
        raise ApiError(
            "BadDigest", f"The {algorithm} you specified did not match the calculated checksum.", 400
        )


def _malformed() -> ApiError:
    return ApiError(
        "InvalidRequest", "The body is not in the aws-chunked form that its headers announce.", 400
    )
