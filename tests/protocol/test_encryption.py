"""The encryption of payloads: key halves, nonces, what is encrypted. The cipher itself is a toy here."""

from typing import List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.aead import ToyAead
from protocol.link import counting_bytes
from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.encryption import (
    ENCRYPTED_BY_AGENT,
    ENCRYPTED_BY_CLIENT,
    NONCE_BYTES,
    OVERHEAD_BYTES,
    DataKey,
    SessionCipher,
    encryption_context,
)
from sagemaker_ssh_helper.protocol.message import PayloadType

pytestmark = pytest.mark.container

KEY = bytes(range(64))


def pair(key: bytes = KEY, first_nonce: int = 0) -> Tuple[SessionCipher, SessionCipher]:
    """The client's and the agent's."""
    client = SessionCipher(key, is_agent=False, aead=ToyAead, random_bytes=counting_bytes())
    start = first_nonce.to_bytes(NONCE_BYTES, "little")
    agent = SessionCipher(key, is_agent=True, aead=ToyAead, random_bytes=lambda size: start)
    return client, agent


@given(st.binary(max_size=2000), st.booleans())
def test_what_one_side_encrypts_the_other_decrypts(data: bytes, from_agent: bool) -> None:
    client, agent = pair()
    sender, receiver = (agent, client) if from_agent else (client, agent)

    sealed = sender.encrypt(PayloadType.OUTPUT, data)

    assert len(sealed) == len(data) + OVERHEAD_BYTES
    assert receiver.decrypt(PayloadType.OUTPUT, sealed) == data


@given(st.binary(max_size=200), st.data(), st.booleans())
def test_any_changed_byte_is_noticed(data: bytes, choices: st.DataObject, from_agent: bool) -> None:
    client, agent = pair()
    sender, receiver = (agent, client) if from_agent else (client, agent)
    sealed = bytearray(sender.seal(data))
    place = choices.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= choices.draw(st.integers(1, 255))

    with pytest.raises(MalformedMessage, match="altered on their way, or encrypted with another key"):
        receiver.open(bytes(sealed))


@given(st.binary(max_size=100), st.data())
def test_a_cut_payload_is_refused(data: bytes, choices: st.DataObject) -> None:
    client, agent = pair()
    sealed = agent.seal(data)
    left = choices.draw(st.integers(0, len(sealed) - 1))

    with pytest.raises(MalformedMessage):
        client.open(sealed[:left])


def test_another_key_and_the_other_direction_are_refused() -> None:
    client, agent = pair()
    other, _ = pair(bytes(64))
    sealed = agent.seal(b"output")

    with pytest.raises(MalformedMessage):
        other.open(sealed)
    # What a side sent is not taken for what it received.
    with pytest.raises(MalformedMessage):
        agent.open(sealed)
    assert client.open(sealed) == b"output"


@given(st.integers(0, (1 << 96) - 1), st.lists(st.binary(max_size=3), min_size=2, max_size=300))
def test_an_agent_uses_no_nonce_twice(start: int, payloads: List[bytes]) -> None:
    _, agent = pair(first_nonce=start)
    nonces = [
        int.from_bytes(agent.encrypt(PayloadType.OUTPUT, data)[:NONCE_BYTES], "little") for data in payloads
    ]

    assert nonces == [(start + step) % (1 << 96) for step in range(len(payloads))]


def test_a_client_draws_every_nonce() -> None:
    drawn: List[bytes] = []
    counted = counting_bytes()

    def random_bytes(size: int) -> bytes:
        drawn.append(counted(size))
        return drawn[-1]

    client = SessionCipher(KEY, is_agent=False, aead=ToyAead, random_bytes=random_bytes)
    nonces = [client.seal(b"same")[:NONCE_BYTES] for _ in range(20)]

    assert nonces == drawn
    assert len(set(nonces)) == 20
    assert {len(nonce) for nonce in nonces} == {NONCE_BYTES}


@pytest.mark.parametrize("payload_type", list(PayloadType), ids=lambda one: one.name)
def test_only_some_types_are_encrypted(payload_type: PayloadType) -> None:
    client, agent = pair()
    sealed = agent.encrypt(payload_type, b"data"), client.encrypt(payload_type, b"data")

    assert (sealed[0] != b"data") is (payload_type in (1, 11, 12))
    assert (sealed[1] != b"data") is (payload_type == 1)
    assert client.decrypt(payload_type, sealed[0]) == agent.decrypt(payload_type, sealed[1]) == b"data"
    assert {int(one) for one in ENCRYPTED_BY_AGENT} == {1, 11, 12}
    assert {int(one) for one in ENCRYPTED_BY_CLIENT} == {1}


def test_the_halves_of_the_key_are_the_directions() -> None:
    made: List[ToyAead] = []

    def aead(key: bytes) -> ToyAead:
        made.append(ToyAead(key))
        return made[-1]

    nonce = bytes(NONCE_BYTES)
    agent = SessionCipher(KEY, is_agent=True, aead=aead, random_bytes=bytes)
    assert agent.seal(b"output")[NONCE_BYTES:] == ToyAead(KEY[:32]).seal(nonce, b"output")
    client = SessionCipher(KEY, is_agent=False, aead=aead, random_bytes=bytes)
    assert client.seal(b"input")[NONCE_BYTES:] == ToyAead(KEY[32:]).seal(nonce, b"input")
    assert {cipher.key for cipher in made} == {KEY[:32], KEY[32:]}


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_a_data_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(MalformedMessage, match=f"a data key of {size} bytes"):
        pair(bytes(size))


def test_a_data_key_is_not_printed() -> None:
    assert repr(DataKey(b"plain secret", b"cipher secret")) == "DataKey()"


def test_the_context_has_the_challenge_when_both_agreed_on_it() -> None:
    assert encryption_context("s", "mi-1") == {"aws:ssm:SessionId": "s", "aws:ssm:TargetId": "mi-1"}
    assert encryption_context("s", "mi-1", "Zm9v") == {
        "aws:ssm:SessionId": "s",
        "aws:ssm:TargetId": "mi-1",
        "aws:ssm:RandomChallenge": "Zm9v",
    }
