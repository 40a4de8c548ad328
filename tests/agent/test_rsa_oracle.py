"""Keys and signatures of all roads, judged by the cryptography package."""

import base64
import sys

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric import rsa as oracle

from sagemaker_ssh_helper.agent import rsa

GENERATORS = ["cryptography", "openssl", "ssh-keygen", "python"]
SIGNERS = ["cryptography", "openssl", "python"]
SCHEME = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)


def public_key(key: rsa.PrivateKey) -> oracle.RSAPublicKey:
    loaded = serialization.load_der_public_key(base64.b64decode(key.public_key))
    assert isinstance(loaded, oracle.RSAPublicKey)
    return loaded


@pytest.mark.parametrize("road", GENERATORS)
def test_keys_of_every_road_are_accepted_and_serialised_alike(road: str) -> None:
    key = rsa.generate([road])

    loaded = serialization.load_der_private_key(key.serialize(), password=None)
    assert isinstance(loaded, oracle.RSAPrivateKey)

    assert loaded.key_size == 2048
    assert key.serialize() == loaded.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    assert base64.b64decode(key.public_key) == loaded.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert len(key.public_key) == 392


@pytest.mark.parametrize("road", SIGNERS)
def test_signatures_of_every_road_verify_with_a_salt_of_32_bytes(road: str) -> None:
    key = rsa.generate(["cryptography"])
    for length in (0, 1, 1000):
        message = b"x" * length

        signature = rsa.sign_pss(key, message, [road])

        public_key(key).verify(signature, message, SCHEME, hashes.SHA256())
        with pytest.raises(InvalidSignature):
            public_key(key).verify(signature, message + b"y", SCHEME, hashes.SHA256())


def test_many_signatures_by_python_alone_verify() -> None:
    key = rsa.generate(["cryptography"])
    public = public_key(key)
    for number in range(50):
        message = str(number).encode()
        public.verify(rsa.sign_pss(key, message, ["python"]), message, SCHEME, hashes.SHA256())

    assert public.key_size == 2048


def test_pkcs8_is_read_too() -> None:
    made = oracle.generate_private_key(public_exponent=65537, key_size=2048)
    der = made.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    assert rsa.PrivateKey.parse(der).n == made.public_key().public_numbers().n


def test_package_that_is_already_loaded_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    key = rsa.generate(["cryptography"])
    used = []
    for road in SIGNERS:
        monkeypatch.setitem(rsa._SIGNERS, road, lambda *_, road=road: used.append(road) or b"")

    rsa.sign_pss(key, b"message")
    monkeypatch.delitem(sys.modules, "cryptography.hazmat.primitives.asymmetric")
    rsa.sign_pss(key, b"message")

    assert used == ["cryptography", "openssl"]
