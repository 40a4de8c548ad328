"""The key of a job's nodes: as ssh-keygen writes and reads it."""

import base64
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagemaker_ssh_helper.errors import UsageError
from sagemaker_ssh_helper.node_keys import NodeKey

pytestmark = pytest.mark.container


@pytest.fixture(params=["ed25519", "ecdsa"])
def made(request, tmp_path):
    path = tmp_path / "key"
    words = ["ssh-keygen", "-q", "-t", request.param, "-N", "", "-C", "a comment", "-f", str(path)]
    subprocess.run(words, check=True)
    return path


def test_a_key_goes_through_the_environment_and_is_the_same(made, tmp_path):
    key = NodeKey.from_openssh(made.read_text())
    assert key.public.line.split() == made.with_name("key.pub").read_text().split()[:2]
    copy = tmp_path / "copy"
    copy.write_text(NodeKey.parse(key.text).openssh())
    copy.chmod(0o600)
    shown = subprocess.run(["ssh-keygen", "-y", "-P", "", "-f", str(copy)], capture_output=True, check=True)
    assert shown.stdout.decode().split()[:2] == key.public.line.split()


@given(st.binary(min_size=64, max_size=64) | st.binary(min_size=97, max_size=97))
def test_its_forms_are_one_key(both):
    key = NodeKey(both[:32], both[32:])
    assert NodeKey.parse(key.text) == NodeKey.from_openssh(key.openssh()) == key
    assert len(key.text) in (88, 132)
    assert key.text not in repr(key)
    assert "secret" not in repr(key)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_key_or_an_error(data):
    texts = [b"openssh-key-v1\0" + data, data]
    for text in texts:
        lines = ["-----BEGIN OPENSSH PRIVATE KEY-----", base64.b64encode(text).decode()]
        try:
            NodeKey.from_openssh("\n".join([*lines, "-----END OPENSSH PRIVATE KEY-----"]))
        except UsageError:
            pass


@pytest.mark.parametrize("secret", [b"\0" * 31 + b"\1", b"\x80" + b"\1" * 31, b"\x7f" * 32])
def test_a_number_of_any_size_is_kept(secret):
    key = NodeKey(secret, b"\4" * 65)
    assert NodeKey.from_openssh(key.openssh()) == key


@pytest.mark.parametrize("text", ["", "x", "AAAA", "\u00e9" * 88, "A" * 87 + "!", "A" * 92])
def test_what_is_no_key_is_refused_without_being_told(text):
    for read in (NodeKey.parse, NodeKey.from_openssh):
        with pytest.raises(UsageError) as refused:
            read(text)
        assert not text or text not in str(refused.value)


def test_an_encrypted_key_is_refused(made):
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(made)], check=True)
    with pytest.raises(UsageError, match="unencrypted"):
        NodeKey.from_openssh(made.read_text())


@pytest.mark.parametrize("kind", [("rsa", "-b", "2048"), ("ecdsa", "-b", "384")])
def test_a_key_of_another_type_is_refused(tmp_path, kind):
    path = tmp_path / "key"
    words = ["ssh-keygen", "-q", "-t", *kind, "-N", "", "-f", str(path)]
    subprocess.run(words, check=True)
    with pytest.raises(UsageError):
        NodeKey.from_openssh(path.read_text())
