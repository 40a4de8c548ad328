"""
Public keys as both ends write them: one line, ``TYPE BASE64``, no options and no comment.

A key crosses trust borders here (a tag, an environment variable, a Run Command), so a line is taken apart,
checked and written again; nothing of the original text is kept.
Imports the standard library only; Python 3.8.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from sagemaker_ssh_helper.errors import UsageError

HOST_KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256")
"""Of host keys and of the keys of a job's nodes, best first. Others do not fit into a tag."""

KEY_MAKING = {
    "ssh-ed25519": ("-t", "ed25519"),
    # For systems whose policy, such as FIPS 140, refuses the first.
    "ecdsa-sha2-nistp256": ("-t", "ecdsa", "-b", "256"),
    "ssh-rsa": ("-t", "rsa", "-b", "3072"),
}
"""What makes ssh-keygen make a key of a type, best first."""

_TYPES = frozenset(
    [
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    ]
)
# What follows the type in a key of fixed length, and how long the whole is.
_FORMS = {
    "ssh-ed25519": (b"\0\0\0\x20", 51),
    "ecdsa-sha2-nistp256": (b"\0\0\0\x08nistp256\0\0\0\x41\x04", 104),
}
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
# An RSA key of 16384 bits has 2,068 bytes; nothing longer is a key.
_MAX_BLOB_BYTES = 4096


@dataclass(frozen=True)
class PublicKey:
    """
    One public key.

    ``blob`` is the key as SSH writes it on the wire, beginning with its type.
    """

    type: str
    blob: bytes

    @classmethod
    def parse(cls, line: str) -> "PublicKey":
        """
        The key in ``TYPE BASE64 [COMMENT]``; the comment is dropped.

        Raises UsageError (a ValueError) for anything else: several lines, options in front, an unknown type,
        or a blob that names another type than the line.
        """
        # Said without the text itself: it may be a private key that somebody pasted.
        refusal = UsageError("that is no public key", fix="One is a single line, like: ssh-ed25519 AAAA…")
        if any(character in line.strip("\r\n") for character in "\r\n\0"):
            raise refusal
        fields = line.split()
        if len(fields) < 2 or fields[0] not in _TYPES or not _BASE64.fullmatch(fields[1]):
            raise refusal
        try:
            blob = base64.b64decode(fields[1], validate=True)
        except binascii.Error:
            raise refusal from None
        named = fields[0].encode()
        if len(blob) > _MAX_BLOB_BYTES or not blob.startswith(len(named).to_bytes(4, "big") + named):
            raise refusal
        form, size = _FORMS.get(fields[0], (b"", len(blob)))
        if len(blob) != size or not blob.startswith(form, 4 + len(named)):
            raise refusal
        return cls(type=fields[0], blob=blob)

    @property
    def line(self) -> str:
        """``TYPE BASE64``: letters, digits, ``+ / = @ . -`` and one space, so it fits a tag or a file."""
        return f"{self.type} {base64.b64encode(self.blob).decode()}"

    @property
    def fingerprint(self) -> str:
        """16 characters for the tag SSHKeys: 96 bits of the SHA-256, urlsafe base64."""
        return base64.urlsafe_b64encode(hashlib.sha256(self.blob).digest())[:16].decode()

    @property
    def sha256(self) -> str:
        """The fingerprint as ``ssh-keygen -l`` prints it, ``SHA256:…``, for people to compare."""
        digest = hashlib.sha256(self.blob).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def key_fingerprint(public_line: str) -> str:
    """The 16-character fingerprint of a public key line. Raises UsageError when it is none."""
    return PublicKey.parse(public_line).fingerprint


def parse_host_key(line: str) -> PublicKey:
    """The host key in a line. Raises UsageError for any other text or type."""
    key = PublicKey.parse(line)
    if key.type not in HOST_KEY_TYPES:
        raise UsageError(
            f"a host key of type {key.type} is not used", fix=f"Only {' and '.join(HOST_KEY_TYPES)} are"
        )
    return key
