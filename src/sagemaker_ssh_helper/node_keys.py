"""
The key of one job, by which its nodes know each other and log in to each other.

The launch makes it, every node gets it in its environment: the 32 bytes of an ed25519 seed and the 32 of its
public key, or those of a P-256 number and the 65 of its point, as base64. On a node it becomes a file in
OpenSSH's format (PROTOCOL.key in its documentation).
Imports the standard library only; Python 3.8.
"""

import base64
import binascii
import textwrap
from dataclasses import dataclass, field

from sagemaker_ssh_helper.errors import UsageError
from sagemaker_ssh_helper.public_keys import PublicKey

_MAGIC = b"openssh-key-v1\0"
_BEGIN = "-----BEGIN OPENSSH PRIVATE KEY-----"
_END = "-----END OPENSSH PRIVATE KEY-----"
# What an unencrypted key is padded to.
_BLOCK_BYTES = 8
_SECRET_BYTES = 32
# By the length of its public half.
_TYPES = {32: "ssh-ed25519", 65: "ecdsa-sha2-nistp256"}


@dataclass(frozen=True)
class NodeKey:
    """One key pair, ed25519 or ECDSA P-256: a seed or a number, in no ``repr``, and a point."""

    secret: bytes = field(repr=False)
    point: bytes

    @classmethod
    def parse(cls, text: str) -> "NodeKey":
        """Of :attr:`text`. Raises UsageError, without what was given."""
        try:
            both = base64.b64decode(text.encode("ascii"), validate=True)
        except (ValueError, binascii.Error):
            both = b""
        if len(both) - _SECRET_BYTES not in _TYPES:
            raise UsageError("that is not a valid key of a job's nodes")
        return cls(both[:_SECRET_BYTES], both[_SECRET_BYTES:])

    @classmethod
    def from_openssh(cls, text: str) -> "NodeKey":
        """Of an unencrypted private key file, as ssh-keygen writes it. Raises UsageError."""
        refusal = UsageError("that is not an unencrypted ed25519 or ECDSA P-256 key")
        lines = text.split()
        try:
            data = base64.b64decode("".join(lines[4:-4]), validate=True)
        except (ValueError, binascii.Error):
            raise refusal from None
        reader = _Reader(data)
        if reader.take(len(_MAGIC)) != _MAGIC:
            raise refusal
        cipher, _, _, count = reader.string(), reader.string(), reader.string(), reader.take(4)
        public, inner = reader.string(), _Reader(reader.string())
        # The number that is there twice says whether a decryption went well.
        inner.take(8)
        name = inner.string().decode("ascii", "replace")
        if name == "ecdsa-sha2-nistp256":
            inner.string()
        point, secret = inner.string(), inner.string().lstrip(b"\0").rjust(_SECRET_BYTES, b"\0")
        key = cls(secret[:_SECRET_BYTES], point)
        if cipher != b"none" or count != b"\0\0\0\1" or _TYPES.get(len(point)) != name or key._blob != public:
            raise refusal
        return key

    @property
    def text(self) -> str:
        """At most 132 characters. A secret."""
        return base64.b64encode(self.secret + self.point).decode("ascii")

    @property
    def public(self) -> PublicKey:
        """Its public half."""
        return PublicKey(_TYPES[len(self.point)], self._blob)

    @property
    def _blob(self) -> bytes:
        name = _TYPES[len(self.point)]
        curve = b"" if name == "ssh-ed25519" else _string(b"nistp256")
        return _string(name.encode("ascii")) + curve + _string(self.point)

    def openssh(self) -> str:
        """The content of a private key file, for sshd and ssh."""
        if self.public.type == "ssh-ed25519":
            private = _string(self.secret + self.point)
        else:
            # A number without a sign: its first bit is none.
            number = self.secret.lstrip(b"\0")
            private = _string(b"\0" + number if number[:1] >= b"\x80" else number)
        # The number twice says whether a decryption went well; nothing is encrypted here.
        secret = bytes(8) + self._blob + private + _string(b"")
        padding = bytes(range(1, _BLOCK_BYTES))[: -len(secret) % _BLOCK_BYTES]
        plain = _string(b"none")
        data = _MAGIC + plain + plain + _string(b"") + (1).to_bytes(4, "big")
        data += _string(self._blob) + _string(secret + padding)
        return "\n".join([_BEGIN, *textwrap.wrap(base64.b64encode(data).decode("ascii"), 70), _END, ""])


class _Reader:
    """Reads SSH's strings. What is not there is empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, count: int) -> bytes:
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def string(self) -> bytes:
        return self.take(int.from_bytes(self.take(4), "big"))


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
