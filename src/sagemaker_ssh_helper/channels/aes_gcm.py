"""
AES-256-GCM, for sessions that are encrypted with a KMS key: the one thing we need a package for.
"""

from typing import Callable

from sagemaker_ssh_helper.errors import LocalSetup
from sagemaker_ssh_helper.protocol.encryption import Aead


def load() -> Callable[[bytes], Aead]:
    """
    What makes AES-256-GCM of a key.

    Takes tens of milliseconds the first time. Raises LocalSetup when ``cryptography`` is not installed.
    """
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise LocalSetup(
            "sessions that are encrypted with a KMS key need the Python package cryptography",
            evidence=str(error),
            fix="Install it: pip install cryptography",
        ) from error

    class AesGcm:
        def __init__(self, key: bytes) -> None:
            self._cipher = AESGCM(key)

        def seal(self, nonce: bytes, data: bytes) -> bytes:
            return self._cipher.encrypt(nonce, data, None)

        def open(self, nonce: bytes, sealed: bytes) -> bytes:
            try:
                return self._cipher.decrypt(nonce, sealed, None)
            except InvalidTag:
                raise ValueError("the tag does not fit") from None

    return AesGcm
