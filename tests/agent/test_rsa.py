"""The instance's RSA key with Python alone and with programs; for the cryptography road see the oracle."""

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from sagemaker_ssh_helper.agent import rsa
from sagemaker_ssh_helper.agent.rsa import PrivateKey
from sagemaker_ssh_helper.errors import LocalSetup

pytestmark = pytest.mark.container


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return rsa.generate(["python"])


def verify(key: PrivateKey, message: bytes, signature: bytes) -> bool:
    """RFC 8017, 8.1.2, written for this test: the salt is read out of the signature and encoded again."""
    encoded = pow(int.from_bytes(signature, "big"), key.e, key.n).to_bytes(256, "big")
    masked, digest = encoded[:223], encoded[223:255]
    mask = rsa._mask(digest, 223)
    block = bytes(a ^ b for a, b in zip(masked, mask))
    return encoded == rsa._encode_pss(message, block[-32:], 2047)


def test_python_key_has_2048_bits_and_fits_together(key: PrivateKey) -> None:
    assert key.n.bit_length() == 2048
    assert key.p.bit_length() == key.q.bit_length() == 1024
    assert key.p * key.q == key.n
    assert pow(pow(7, key.d, key.n), key.e, key.n) == 7


def test_public_key_is_392_characters_of_base64(key: PrivateKey) -> None:
    assert len(key.public_key) == 392
    # SEQUENCE of 290 bytes, AlgorithmIdentifier rsaEncryption.
    info = base64.b64decode(key.public_key).hex()
    assert info.startswith("30820122300d06092a864886f70d01010105000382010f00")


def test_private_key_round_trip(key: PrivateKey) -> None:
    assert PrivateKey.parse(key.serialize()) == key


def test_key_does_not_print_its_secrets(key: PrivateKey) -> None:
    assert str(key.d) not in repr(key)
    assert str(key.p) not in repr(key)


def test_every_cut_key_is_refused(key: PrivateKey) -> None:
    der = key.serialize()
    refused: List[int] = []
    for length in range(len(der)):
        try:
            PrivateKey.parse(der[:length])
        except ValueError:
            refused.append(length)

    assert refused == list(range(len(der)))


def test_key_whose_parts_disagree_is_refused(key: PrivateKey) -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        PrivateKey.parse(PrivateKey(key.n, key.e, key.d + 2, key.p, key.q).serialize())


@pytest.mark.parametrize("road", ["python", "openssl"])
def test_signature_verifies_and_is_new_each_time(key: PrivateKey, road: str) -> None:
    first, second = (rsa.sign_pss(key, b"message", [road]) for _ in range(2))

    assert verify(key, b"message", first)
    assert verify(key, b"message", second)
    assert not verify(key, b"massage", first)
    assert len(first) == 256
    assert first != second


@pytest.mark.parametrize("road", ["openssl", "ssh-keygen"])
def test_key_made_by_a_program(road: str) -> None:
    made = rsa.generate([road])

    assert made.n.bit_length() == 2048
    assert verify(made, b"message", rsa.sign_pss(made, b"message", ["python"]))


def test_roads_that_are_not_there_are_passed_over(key: PrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)

    signature = rsa.sign_pss(key, b"message", ["cryptography", "openssl", "python"])

    assert verify(key, b"message", signature)
    with pytest.raises(LocalSetup, match=r"no RSA key could be made \(tried: cryptography, openssl\)"):
        rsa.generate(["cryptography", "openssl"])


def test_small_primes_and_composites_are_told_apart() -> None:
    primes = {5, 7, 11, 13, 65537, 2**127 - 1}
    # Carmichael numbers, a product of two large primes and squares.
    composites = {9, 25, 561, 1105, 1729, 294409, (2**127 - 1) * (2**89 - 1), 65537**2}

    assert {number for number in primes | composites if rsa._is_prime(number)} == primes


def test_key_file_is_private_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "key"

    made = rsa.ensure_key_file(str(path))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert rsa.ensure_key_file(str(path)) == made
    assert not (tmp_path / "key.new").exists()


def test_broken_key_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"half a ke")

    made = rsa.ensure_key_file(str(path))

    assert rsa.read_key_file(str(path)) == made


def test_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    with pytest.raises(LocalSetup, match="the instance's key cannot be kept in"):
        rsa.ensure_key_file(str(tmp_path / "missing" / "key"))


def test_children_started_together_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    command = [sys.executable, "-m", "sagemaker_ssh_helper.agent.rsa", str(path)]
    environment = {**os.environ, "PATH": "/nonexistent"}

    children = [subprocess.Popen(command, env=environment) for _ in range(3)]

    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert rsa.read_key_file(str(path)).n.bit_length() == 2048
    assert sorted(os.listdir(tmp_path)) == ["key", "key.lock"]


def test_child_says_why_it_failed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sagemaker_ssh_helper.agent.rsa", str(tmp_path / "missing" / "key")]

    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith(b"the instance's key cannot be kept in")
