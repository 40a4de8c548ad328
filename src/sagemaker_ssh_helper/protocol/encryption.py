"""
Encryption of a session with a data key of AWS KMS: the halves of the key, the nonces, what is encrypted.

AES-256-GCM itself is given, so that this stays pure: an ``Aead`` for each half of the key. A payload on the
wire is ``nonce (12) || ciphertext || tag (16)``, without additional data; the message's digest covers all of
it. Vectors: the recorded session in tests/captures, whose data key is in its README.
"""

from dataclasses import dataclass, field
from typing import Callable, Dict, Optional, Protocol

from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.message import PayloadType

# What the public peers do, and we obey.
DATA_KEY_BYTES = 64
NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES
"""By which an encrypted payload is longer."""
CHALLENGE_BYTES = 64
"""Random bytes by which the agent finds out whether the client has the key."""
CONTEXT_CHALLENGE_BYTES = 16
"""Random bytes, told as base64, which may become a part of the encryption context."""

ENCRYPTED_BY_AGENT = frozenset((PayloadType.OUTPUT, PayloadType.STDERR, PayloadType.EXIT_CODE))
ENCRYPTED_BY_CLIENT = frozenset((PayloadType.OUTPUT,))
"""Everything else goes plain: sizes, flags, the handshake."""

_NONCES = 1 << (8 * NONCE_BYTES)


class Aead(Protocol):
    """AES-256-GCM with one key of 32 bytes."""

    def seal(self, nonce: bytes, data: bytes) -> bytes:
        """The ciphertext of ``data``, and its tag of 16 bytes."""

    def open(self, nonce: bytes, sealed: bytes) -> bytes:
        """What was sealed. Raises ValueError when it was altered, or another key or nonce was used."""


@dataclass(frozen=True)
class DataKey:
    """A data key as KMS gives it: in plain, and encrypted for the agent, which asks KMS to decrypt it."""

    plain: bytes = field(repr=False)
    cipher_text: bytes = field(repr=False)


def encryption_context(session_id: str, target_id: str, challenge: Optional[str] = None) -> Dict[str, str]:
    """What both sides tell KMS that the data key is for; ``challenge`` when both agreed on it."""
    context = {"aws:ssm:SessionId": session_id, "aws:ssm:TargetId": target_id}
    if challenge is not None:
        context["aws:ssm:RandomChallenge"] = challenge
    return context


class SessionCipher:
    """
    Encrypts what one side sends, and decrypts what the other side sent.

    The agent numbers its nonces from a random one on, the client draws each; a message that is sent again
    keeps its bytes, so no nonce is used twice.

    Args:
        data_key: 64 bytes; the first half is for the way from the agent to the client, the second for the
            other.
        is_agent: which side we are.
        aead: makes AES-256-GCM of 32 bytes.
        random_bytes: gives that many random bytes.

    Raises MalformedMessage for a data key of another length.
    """

    def __init__(
        self,
        data_key: bytes,
        *,
        is_agent: bool,
        aead: Callable[[bytes], Aead],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        if len(data_key) != DATA_KEY_BYTES:
            raise MalformedMessage(f"a data key of {len(data_key)} bytes is not one of {DATA_KEY_BYTES}")
        half = DATA_KEY_BYTES // 2
        from_agent, from_client = aead(data_key[:half]), aead(data_key[half:])
        self._sealing, self._opening = (from_agent, from_client) if is_agent else (from_client, from_agent)
        self._sent = ENCRYPTED_BY_AGENT if is_agent else ENCRYPTED_BY_CLIENT
        self._received = ENCRYPTED_BY_CLIENT if is_agent else ENCRYPTED_BY_AGENT
        self._random_bytes = random_bytes
        self._counter = int.from_bytes(random_bytes(NONCE_BYTES), "little") if is_agent else None

    def encrypt(self, payload_type: int, payload: bytes) -> bytes:
        """A payload as it goes on the wire: unchanged when its type is not encrypted."""
        return self.seal(payload) if payload_type in self._sent else payload

    def decrypt(self, payload_type: int, payload: bytes) -> bytes:
        """The reverse. Raises MalformedMessage when it was altered, or encrypted with another key."""
        return self.open(payload) if payload_type in self._received else payload

    def seal(self, data: bytes) -> bytes:
        """``nonce || ciphertext || tag``, whatever it is for."""
        nonce = self._next_nonce()
        return nonce + self._sealing.seal(nonce, data)

    def open(self, sealed: bytes) -> bytes:
        """What the other side sealed. Raises MalformedMessage."""
        if len(sealed) < OVERHEAD_BYTES:
            raise MalformedMessage(f"{len(sealed)} encrypted bytes are too few")
        try:
            return self._opening.open(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:])
        except ValueError:
            raise MalformedMessage(
                "encrypted bytes were altered on their way, or encrypted with another key"
            ) from None

    def _next_nonce(self) -> bytes:
        if self._counter is None:
            return self._random_bytes(NONCE_BYTES)
        # Three 32-bit words of the lowest byte first, the lowest word first: one number of 96 bits.
        nonce = self._counter.to_bytes(NONCE_BYTES, "little")
        self._counter = (self._counter + 1) % _NONCES
        return nonce
