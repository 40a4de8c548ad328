"""A cipher with the shape of AES-256-GCM, of the standard library alone. It protects nothing."""

import hashlib
import hmac


class ToyAead:
    """Stands in for AES-256-GCM where the tests must run without any package."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == 32, "a half of a data key"
        self.key = key

    def seal(self, nonce: bytes, data: bytes) -> bytes:
        cipher_text = self._xor(nonce, data)
        return cipher_text + self._tag(nonce, cipher_text)

    def open(self, nonce: bytes, sealed: bytes) -> bytes:
        cipher_text, tag = sealed[:-16], sealed[-16:]
        if tag != self._tag(nonce, cipher_text):
            raise ValueError("the tag does not fit")
        return self._xor(nonce, cipher_text)

    def _xor(self, nonce: bytes, data: bytes) -> bytes:
        stream = hashlib.shake_128(self.key + nonce).digest(len(data))
        return bytes(one ^ other for one, other in zip(data, stream))

    def _tag(self, nonce: bytes, cipher_text: bytes) -> bytes:
        return hmac.new(self.key, nonce + cipher_text, hashlib.sha256).digest()[:16]
