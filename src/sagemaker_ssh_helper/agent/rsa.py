"""
The key of a managed instance: RSA-2048, and PSS signatures with SHA-256 and a salt of 32 bytes.

Three roads lead to each, and all give the same kind of key and signature: the ``cryptography`` package, a
program (openssl, or ssh-keygen for keys), and Python alone. Which are there depends on the image; the last
one always is.

Making a key can take a second, so a child process does it while other things are set up::

    python -m sagemaker_ssh_helper.agent.rsa FILE

writes FILE (mode 0600: base64 of the PKCS#1 structure) unless it exists, and may run several times at once.
"""

import base64
import fcntl
import hashlib
import logging
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from typing import List, Optional, Sequence, Tuple

from sagemaker_ssh_helper.errors import LocalSetup, reason_of

KEY_BITS = 2048
PUBLIC_EXPONENT = 65537
SALT_BYTES = 32
_HASH_BYTES = 32
_PROGRAM_TIMEOUT = 60.0
# rsaEncryption, with the NULL parameters that go with it.
_ALGORITHM_DER = bytes.fromhex("300d06092a864886f70d0101010500")
# FIPS 186-5, table B.1 asks 4 rounds for a random 1024-bit candidate; a few more cost 20 ms.
_PRIMALITY_ROUNDS = 8

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrivateKey:
    """An RSA private key, as PKCS#1 names its parts. Printing it shows the public part only."""

    n: int
    e: int
    d: int = field(repr=False)
    p: int = field(repr=False)
    q: int = field(repr=False)

    @classmethod
    def parse(cls, der: bytes) -> "PrivateKey":
        """The key in a PKCS#1 or an unencrypted PKCS#8 structure. Raises ValueError for anything else."""
        body = _read_only(der, 0x30)
        _, rest = _read(body, 0x02)
        if rest[:1] == b"\x30":
            # PKCS#8: version, algorithm, then the PKCS#1 structure in an octet string.
            _, rest = _read(rest, 0x30)
            return cls.parse(_read(rest, 0x04)[0])
        numbers: List[int] = []
        for _ in range(5):
            number, rest = _read(rest, 0x02)
            numbers.append(int.from_bytes(number, "big"))
        key = cls(*numbers)
        if key.p * key.q != key.n or (key.e * key.d) % (key.p - 1) != 1 or (key.e * key.d) % (key.q - 1) != 1:
            raise ValueError("the parts of the RSA key do not belong together")
        return key

    def serialize(self) -> bytes:
        """PKCS#1, DER."""
        numbers = (
            0,
            self.n,
            self.e,
            self.d,
            self.p,
            self.q,
            self.d % (self.p - 1),
            self.d % (self.q - 1),
            pow(self.q, -1, self.p),
        )
        return _tag(0x30, b"".join(_integer(number) for number in numbers))

    @property
    def public_key(self) -> str:
        """Base64 of the SubjectPublicKeyInfo: 392 characters for 2048 bits."""
        numbers = _tag(0x30, _integer(self.n) + _integer(self.e))
        info = _tag(0x30, _ALGORITHM_DER + _tag(0x03, b"\x00" + numbers))
        return base64.b64encode(info).decode("ascii")

    @property
    def size_bytes(self) -> int:
        return (self.n.bit_length() + 7) // 8


def generate(roads: Optional[Sequence[str]] = None) -> PrivateKey:
    """
    A new RSA-2048 key.

    Args:
        roads: those to try, in order, of "cryptography", "openssl", "ssh-keygen" and "python".
    """
    for road in roads or tuple(_GENERATORS):
        try:
            return _GENERATORS[road]()
        # Whatever is wrong with a package or program of the image, the next road does without it.
        except Exception as error:
            _logger.debug("! no RSA key by %s: %s", road, type(error).__name__)
    raise LocalSetup("no RSA key could be made", evidence=f"tried: {', '.join(roads or _GENERATORS)}")


def sign_pss(key: PrivateKey, message: bytes, roads: Optional[Sequence[str]] = None) -> bytes:
    """
    The PSS signature of ``message`` (SHA-256, MGF1 with SHA-256, salt of 32 bytes).

    Args:
        roads: those to try, in order, of "cryptography", "openssl" and "python".
    """
    if roads is None:
        # The package is used where the process has it anyway. To import it for the two signatures an hour
        # of an agent would cost 8 MB for as long as the job runs.
        loaded = "cryptography.hazmat.primitives.asymmetric" in sys.modules
        roads = ("cryptography", "openssl", "python") if loaded else ("openssl", "python")
    for road in roads:
        try:
            return _SIGNERS[road](key, message)
        except Exception as error:
            _logger.debug("! no RSA signature by %s: %s", road, type(error).__name__)
    raise LocalSetup("no RSA signature could be made", evidence=f"tried: {', '.join(roads)}")


def ensure_key_file(path: str, roads: Optional[Sequence[str]] = None) -> PrivateKey:
    """
    The key in this file; made and written (0600) when there is none.

    Processes that call this at the same time get the same key: one makes it, the others wait. A file that
    holds no key is replaced. Raises LocalSetup when the folder is not writable.

    Args:
        roads: as for ``generate``.
    """
    try:
        with _locked(path + ".lock"):
            try:
                return read_key_file(path)
            except (FileNotFoundError, ValueError):
                pass
            key = generate(roads)
            descriptor = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(base64.b64encode(key.serialize()))
            os.replace(path + ".new", path)
            return key
    except OSError as error:
        raise LocalSetup(f"the instance's key cannot be kept in {path}", evidence=reason_of(error)) from error


def read_key_file(path: str) -> PrivateKey:
    """The key in this file. Raises OSError, or ValueError when the file holds no key."""
    with open(path, "rb") as file:
        return PrivateKey.parse(base64.b64decode(file.read(), validate=True))


class _locked:
    """Holds an exclusive lock on a file, which stays where it is."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._descriptor)


# --- with the cryptography package ----------------------------------------------------------------


def _generate_cryptography() -> PrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    made = rsa.generate_private_key(public_exponent=PUBLIC_EXPONENT, key_size=KEY_BITS)
    return PrivateKey.parse(
        made.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )


def _sign_cryptography(key: PrivateKey, message: bytes) -> bytes:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    loaded = serialization.load_der_private_key(key.serialize(), password=None)
    if not isinstance(loaded, rsa.RSAPrivateKey):
        raise ValueError("not an RSA key")
    scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=SALT_BYTES)
    return loaded.sign(message, scheme, hashes.SHA256())


# --- with a program -------------------------------------------------------------------------------


def _run(command: List[str], stdin: bytes = b"", pass_fds: Sequence[int] = ()) -> bytes:
    """What the command printed. Raises OSError, ValueError or SubprocessError when it is missing or fails."""
    done = subprocess.run(
        command,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=pass_fds,
        timeout=_PROGRAM_TIMEOUT,
        check=True,
    )
    return done.stdout


def _generate_openssl() -> PrivateKey:
    return _parse_pem(_run(["openssl", "genrsa", str(KEY_BITS)]))


def _generate_ssh_keygen() -> PrivateKey:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "key")
        command = ["ssh-keygen", "-q", "-t", "rsa", "-b", str(KEY_BITS), "-m", "PEM", "-N", "", "-f", path]
        _run(command)
        with open(path, "rb") as file:
            return _parse_pem(file.read())


def _sign_openssl(key: PrivateKey, message: bytes) -> bytes:
    # The key goes through a pipe: no file, and nothing in the process list.
    pem = b"-----BEGIN RSA PRIVATE KEY-----\n" + base64.encodebytes(key.serialize())
    read_end, write_end = os.pipe()
    try:
        with open(write_end, "wb") as pipe:
            pipe.write(pem + b"-----END RSA PRIVATE KEY-----\n")
        options = ["rsa_padding_mode:pss", f"rsa_pss_saltlen:{SALT_BYTES}", "digest:sha256"]
        command = ["openssl", "pkeyutl", "-sign", "-inkey", f"/dev/fd/{read_end}"]
        for option in options:
            command += ["-pkeyopt", option]
        signature = _run(command, hashlib.sha256(message).digest(), pass_fds=[read_end])
    finally:
        os.close(read_end)
    if len(signature) != key.size_bytes:
        raise ValueError("openssl gave no signature")
    return signature


def _parse_pem(text: bytes) -> PrivateKey:
    lines = text.strip().splitlines()
    if len(lines) < 3 or not lines[0].startswith(b"-----BEGIN") or b"PRIVATE KEY" not in lines[0]:
        raise ValueError("not a private key in PEM")
    return PrivateKey.parse(base64.b64decode(b"".join(lines[1:-1]), validate=True))


# --- with Python alone ----------------------------------------------------------------------------


def _small_primes(limit: int) -> List[int]:
    sieve = bytearray([1]) * limit
    for number in range(2, int(limit**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, limit, number)))
    return [number for number in range(3, limit) if sieve[number]]


def _is_prime(candidate: int, rounds: int = _PRIMALITY_ROUNDS) -> bool:
    """Miller and Rabin's test for an odd number above 3, with random bases."""
    odd, twos = candidate - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(rounds):
        power = pow(secrets.randbelow(candidate - 3) + 2, odd, candidate)
        if power in (1, candidate - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % candidate
            if power == candidate - 1:
                break
        else:
            return False
    return True


def _random_prime(bits: int, small_primes: Sequence[int]) -> int:
    """A prime with its two highest bits set, so that the product of two has twice the bits."""
    span = 4096
    while True:
        start = secrets.randbits(bits) | (0b11 << (bits - 2)) | 1
        # Index i stands for start + 2 * i. What a small prime divides is struck out first, being cheap.
        composite = bytearray(span)
        for prime in small_primes:
            first = (-start * ((prime + 1) // 2)) % prime
            composite[first::prime] = b"\x01" * len(range(first, span, prime))
        for index in range(span):
            candidate = start + 2 * index
            if not composite[index] and candidate.bit_length() == bits and _is_prime(candidate):
                return candidate


def _generate_python() -> PrivateKey:
    small_primes = _small_primes(1 << 14)
    half = KEY_BITS // 2
    while True:
        p, q = _random_prime(half, small_primes), _random_prime(half, small_primes)
        if p < q:
            p, q = q, p
        # FIPS 186-5 A.1.3: the primes must not be close, and the exponent must have an inverse.
        if p - q <= 1 << (half - 100) or (p - 1) % PUBLIC_EXPONENT == 0 or (q - 1) % PUBLIC_EXPONENT == 0:
            continue
        d = pow(PUBLIC_EXPONENT, -1, (p - 1) * (q - 1))
        return PrivateKey(p * q, PUBLIC_EXPONENT, d, p, q)


def _mask(seed: bytes, length: int) -> bytes:
    """MGF1 with SHA-256."""
    blocks = [
        hashlib.sha256(seed + counter.to_bytes(4, "big")).digest()
        for counter in range((length + _HASH_BYTES - 1) // _HASH_BYTES)
    ]
    return b"".join(blocks)[:length]


def _encode_pss(message: bytes, salt: bytes, bits: int) -> bytes:
    """RFC 8017, 9.1.1: the number to be raised, ``bits`` long, as bytes."""
    length = (bits + 7) // 8
    digest = hashlib.sha256(bytes(8) + hashlib.sha256(message).digest() + salt).digest()
    block = (b"\x01" + salt).rjust(length - _HASH_BYTES - 1, b"\x00")
    mask = _mask(digest, len(block))
    masked = int.from_bytes(block, "big") ^ int.from_bytes(mask, "big")
    masked &= (1 << (bits - 8 * (_HASH_BYTES + 1))) - 1
    return masked.to_bytes(len(block), "big") + digest + b"\xbc"


def _sign_python(key: PrivateKey, message: bytes) -> bytes:
    encoded = _encode_pss(message, secrets.token_bytes(SALT_BYTES), key.n.bit_length() - 1)
    number = int.from_bytes(encoded, "big")
    # Blinding: the time the private operation takes tells nothing about the number signed.
    blind = secrets.randbelow(key.n - 2) + 2
    blinded = number * pow(blind, key.e, key.n) % key.n
    from_p = pow(blinded, key.d % (key.p - 1), key.p)
    from_q = pow(blinded, key.d % (key.q - 1), key.q)
    power = from_q + key.q * (pow(key.q, -1, key.p) * (from_p - from_q) % key.p)
    signature = power * pow(blind, -1, key.n) % key.n
    # One wrong bit in either half would give the key away with the signature.
    if pow(signature, key.e, key.n) != number:
        raise ValueError("the RSA signature does not verify")
    return signature.to_bytes(key.size_bytes, "big")


# --- which road -----------------------------------------------------------------------------------

_GENERATORS = {
    "cryptography": _generate_cryptography,
    "openssl": _generate_openssl,
    "ssh-keygen": _generate_ssh_keygen,
    "python": _generate_python,
}
_SIGNERS = {"cryptography": _sign_cryptography, "openssl": _sign_openssl, "python": _sign_python}


# --- DER ------------------------------------------------------------------------------------------


def _tag(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def _integer(number: int) -> bytes:
    # One bit more than the number has: the first bit is the sign.
    return _tag(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _read(data: bytes, tag: int) -> Tuple[bytes, bytes]:
    """The body of the element that comes first, and what follows it. Raises ValueError for another tag."""
    if len(data) < 2 or data[0] != tag:
        raise ValueError("not the expected DER element")
    size, start = data[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")
    if start + size > len(data):
        raise ValueError("the DER element is cut short")
    return data[start : start + size], data[start + size :]


def _read_only(data: bytes, tag: int) -> bytes:
    body, rest = _read(data, tag)
    if rest:
        raise ValueError("more follows the DER element")
    return body


def main(arguments: Sequence[str]) -> int:
    """Entry of the child process: makes sure the key file named by the only argument exists."""
    try:
        ensure_key_file(arguments[0])
    except LocalSetup as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
