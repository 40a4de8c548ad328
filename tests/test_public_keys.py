"""Public keys: what is taken apart is checked, and what is written again is canonical."""

import base64
import hashlib
import subprocess

import pytest

from sagemaker_ssh_helper.errors import UsageError
from sagemaker_ssh_helper.public_keys import PublicKey, key_fingerprint, parse_host_key

pytestmark = pytest.mark.container


def blob_of(key_type: str, body: bytes) -> bytes:
    return len(key_type).to_bytes(4, "big") + key_type.encode() + len(body).to_bytes(4, "big") + body


def line_of(key_type: str = "ssh-ed25519", body: bytes = bytes(range(32))) -> str:
    return f"{key_type} {base64.b64encode(blob_of(key_type, body)).decode()}"


def test_a_comment_is_dropped_and_the_line_is_canonical():
    assert PublicKey.parse(f"  {line_of()}   me@laptop with spaces\n").line == line_of()


def test_the_fingerprint_is_the_first_16_characters_of_the_unpadded_base64_sha256():
    for first in range(64):  # enough of them to meet both '/' and '+'
        body = bytes([first]) + bytes(31)
        digest = hashlib.sha256(blob_of("ssh-ed25519", body)).digest()
        expected = base64.b64encode(digest).decode().rstrip("=")[:16].replace("/", "_").replace("+", "-")

        assert key_fingerprint(line_of(body=body)) == expected


def test_ssh_keygen_agrees_on_key_and_fingerprint(tmp_path):
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    listed = subprocess.run(["ssh-keygen", "-l", "-f", str(path)], check=True, stdout=subprocess.PIPE)
    key = PublicKey.parse((tmp_path / "key.pub").read_text())

    assert key.sha256 == listed.stdout.decode().split()[1]
    assert (tmp_path / "key.pub").read_text().startswith(key.line)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-dss " + line_of().split()[1],
        "ssh-rsa " + line_of().split()[1],  # the blob says ed25519
        'command="id" ' + line_of(),
        line_of() + "\n" + line_of(),
        line_of() + "\0",
        line_of()[:-4] + "$(id",
        line_of(body=bytes(31)),
        line_of(body=bytes(33)),
        line_of("ssh-rsa", bytes(5000)),
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_anything_else_is_refused_without_repeating_it(line):
    with pytest.raises(UsageError, match="no public key") as caught:
        PublicKey.parse(line)
    assert "BEGIN" not in str(caught.value)


def test_a_host_key_is_ed25519():
    assert parse_host_key(line_of()).line == line_of()
    with pytest.raises(UsageError, match="ssh-rsa"):
        parse_host_key(line_of("ssh-rsa", bytes(300)))
