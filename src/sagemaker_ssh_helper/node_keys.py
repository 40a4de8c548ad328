"""
The key of one job, by which its nodes know each other and log in to each other.

The launch makes it, every node gets it in its environment: the 32 bytes of an ed25519 seed and the 32 of its
public key, as base64. On a node it becomes a file in OpenSSH's format (PROTOCOL.key in its documentation).
Imports the standard library only; Python 3.8.
"""

import base64
import binascii
import textwrap
from dataclasses import dataclass, field

from sagemaker_ssh_helper.errors import UsageError
from sagemaker_ssh_helper.public_keys import HOST_KEY_TYPE, PublicKey

_BYTES = 32
_MAGIC = b"openssh-key-v1\0"
_BEGIN = "-----BEGIN OPENSSH PRIVATE KEY-----"
_END = "-----END OPENSSH PRIVATE KEY-----"
# What an unencrypted key is padded to.
_BLOCK_BYTES = 8


@dataclass(frozen=True)
class NodeKey:
    """One ed25519 key pair. Its private half is in no ``repr``."""

    seed: bytes = field(repr=False)
    point: bytes

    @classmethod
    def parse(cls, text: str) -> "NodeKey":
        """Of :attr:`text`. Raises UsageError, without what was given."""
        try:
            both = base64.b64decode(text.encode("ascii"), validate=True)
        except (ValueError, binascii.Error):
            both = b""
        if len(both) != 2 * _BYTES:
            raise UsageError("that is no key of a job's nodes")
        return cls(both[:_BYTES], both[_BYTES:])

    @classmethod
    def from_openssh(cls, text: str) -> "NodeKey":
        """Of an unencrypted private key file, as ssh-keygen writes it. Raises UsageError."""
        lines = text.split()
        try:
            data = base64.b64decode("".join(lines[4:-4]), validate=True)
        except (ValueError, binascii.Error):
            data = b""
        # The last string but the comment is the seed followed by the public key.
        mark = (2 * _BYTES).to_bytes(4, "big")
        start = data.rfind(mark) + len(mark)
        both = data[start : start + 2 * _BYTES]
        if not data.startswith(_MAGIC) or start < len(mark) or both[_BYTES:] not in data[:start]:
            raise UsageError("that is no unencrypted ed25519 key")
        return cls(both[:_BYTES], both[_BYTES:])

    @property
    def text(self) -> str:
        """88 characters. A secret."""
        return base64.b64encode(self.seed + self.point).decode("ascii")

    @property
    def public(self) -> PublicKey:
        """Its public half."""
        name = HOST_KEY_TYPE.encode("ascii")
        return PublicKey(HOST_KEY_TYPE, _string(name) + _string(self.point))

    def openssh(self) -> str:
        """The content of a private key file, for sshd and ssh."""
        # The number twice says whether a decryption went well; nothing is encrypted here.
        secret = bytes(8) + self.public.blob + _string(self.seed + self.point) + _string(b"")
        padding = bytes(range(1, _BLOCK_BYTES))[: -len(secret) % _BLOCK_BYTES]
        plain = _string(b"none")
        data = _MAGIC + plain + plain + _string(b"") + (1).to_bytes(4, "big")
        data += _string(self.public.blob) + _string(secret + padding)
        return "\n".join([_BEGIN, *textwrap.wrap(base64.b64encode(data).decode("ascii"), 70), _END, ""])


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
