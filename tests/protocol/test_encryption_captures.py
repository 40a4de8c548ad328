"""Our encryption with real AES-256-GCM: worked examples, and the recorded session of official peers."""

import re
from pathlib import Path
from typing import Dict, List, Tuple

import pytest

from protocol.link import counting_bytes, make_channel
from protocol.test_data_channel_captures import answers, one, sent_to, stream_of
from sagemaker_ssh_helper.channels import aes_gcm
from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.data_channel import (
    ChannelClosed,
    DataKeyNeeded,
    Event,
    Ready,
    Side,
    StreamData,
)
from sagemaker_ssh_helper.protocol.encryption import NONCE_BYTES, DataKey, SessionCipher
from sagemaker_ssh_helper.protocol.message import AgentMessage, PayloadType
from sagemaker_ssh_helper.protocol.payloads import (
    EncryptionChallenge,
    HandshakeComplete,
    HandshakeRequest,
    HandshakeResponse,
    KmsResult,
    SessionType,
)

CAPTURE = "09-kms-session"
README = Path(__file__).parent.parent / "captures" / "README.md"
SESSION_ID = "lab-user-a16b0b985b5f24209"
INSTANCE = "mi-ae5e479b7ca04881f"
CONTEXT = {"aws:ssm:SessionId": SESSION_ID, "aws:ssm:TargetId": INSTANCE}

# Made by hand: a data key of the bytes 0 to 63.
EXAMPLES: Dict[str, Tuple[bool, bytes, bytes, str]] = {
    "agent to client": (
        True,
        bytes(range(0xA0, 0xAC)),
        b"hello",
        "a0a1a2a3a4a5a6a7a8a9aaab8e7d10412ab469edeb6fa84bae4731a07dbf70c564",
    ),
    "client to agent": (
        False,
        bytes(range(0xB0, 0xBC)),
        b"ls\r",
        "b0b1b2b3b4b5b6b7b8b9babb5a892733f5fefa69cb8a769711824236beac55",
    ),
}


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_the_worked_examples(name: str) -> None:
    is_agent, nonce, plain, expected = EXAMPLES[name]
    key = bytes(range(64))
    make = aes_gcm.load()
    sender = SessionCipher(key, is_agent=is_agent, aead=make, random_bytes=lambda size: nonce)
    receiver = SessionCipher(key, is_agent=not is_agent, aead=make, random_bytes=bytes)
    sealed = sender.encrypt(PayloadType.OUTPUT, plain)

    assert sealed.hex() == expected
    assert receiver.decrypt(PayloadType.OUTPUT, sealed) == plain
    for place in range(len(sealed)):
        altered = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        with pytest.raises(MalformedMessage):
            receiver.open(altered)


def data_key() -> DataKey:
    """That of the recorded session."""
    plain = re.search(r"[0-9a-f]{128}", README.read_text())
    assert plain is not None, "the capture's data key is in its README"
    response = HandshakeResponse.parse(one(stream_of(Side.AGENT, sent_to(Side.AGENT, CAPTURE)), 6).payload)
    result = KmsResult.from_json(response.processed_actions[1].result)
    return DataKey(bytes.fromhex(plain.group()), result.cipher_text_key)


def cipher(is_agent: bool) -> SessionCipher:
    return SessionCipher(data_key().plain, is_agent=is_agent, aead=aes_gcm.load(), random_bytes=bytes)


def replay(side: Side) -> Tuple[List[Event], List[DataKeyNeeded], List[AgentMessage]]:
    """The recorded session, with our machine in the place of that side; what it sent is the last."""
    key, challenge = (
        data_key(),
        EncryptionChallenge.parse(one(stream_of(Side.CLIENT, sent_to(Side.CLIENT, CAPTURE)), 8).payload),
    )
    # The recorded client proves what the recorded agent asked for, so that is what ours has to ask for.
    plain = cipher(False).open(challenge.challenge)
    counted = counting_bytes()
    channel = make_channel(
        side,
        session_type=SessionType.STANDARD_STREAM,
        properties=None,
        instance_id=INSTANCE,
        random_bytes=lambda size: plain if size == len(plain) else counted(size),
        kms_key_id="recorded" if side is Side.AGENT else "",
    )
    channel.session_id = SESSION_ID
    events: List[Event] = []
    asked: List[DataKeyNeeded] = []
    written: List[AgentMessage] = []
    channel.open("token", 0.0)
    for step, data in enumerate(sent_to(side, CAPTURE)):
        for event in channel.receive_message(data, 0.01 * step):
            events.append(event)
            if isinstance(event, DataKeyNeeded):
                asked.append(event)
                events += channel.provide_data_key(key, aes_gcm.load(), 0.01 * step)
        written += answers(channel)
    assert (channel.malformed, channel.refused) == (0, 0)
    return events, asked, written


def test_our_client_answers_as_the_recorded_one() -> None:
    _, _, ours = replay(Side.CLIENT)
    theirs = stream_of(Side.AGENT, sent_to(Side.AGENT, CAPTURE))
    response = HandshakeResponse.parse(one(ours, 6).payload)
    recorded = HandshakeResponse.parse(one(theirs, 6).payload)
    assert [action.status for action in response.processed_actions] == [1, 1]
    ours_result = KmsResult.from_json(response.processed_actions[1].result)
    recorded_result = KmsResult.from_json(recorded.processed_actions[1].result)
    assert ours_result.cipher_text_key == recorded_result.cipher_text_key
    proofs = [
        cipher(True).open(EncryptionChallenge.parse(one(messages, 9).payload).challenge)
        for messages in (ours, theirs)
    ]
    assert proofs[0] == proofs[1]
    assert len(proofs[0]) == 64


def shown(events: List[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, StreamData))


def test_our_client_reads_the_recorded_session() -> None:
    events, (needed,), _ = replay(Side.CLIENT)
    request = HandshakeRequest.parse(one(stream_of(Side.CLIENT, sent_to(Side.CLIENT, CAPTURE)), 5).payload)

    assert needed.key_id == request.kms_key_id
    # The recorded client left the challenge out of the context; ours takes it in, as newer ones do.
    assert needed.encryption_context == {**CONTEXT, "aws:ssm:RandomChallenge": request.challenge}
    (ready,) = [event for event in events if isinstance(event, Ready)]
    assert (ready.session_type, ready.peer_version) == (SessionType.STANDARD_STREAM, "3.3.0.0")
    assert "encrypted" in ready.customer_message
    assert b"typed-42" in shown(events)
    assert isinstance(events[-1], ChannelClosed)


def test_our_agent_reads_the_recorded_session() -> None:
    events, (needed,), _ = replay(Side.AGENT)

    assert needed == DataKeyNeeded("recorded", CONTEXT, data_key().cipher_text)
    assert any(isinstance(event, Ready) for event in events)
    assert b"echo typed-$((40+2))\r" in shown(
        [event for event in events if isinstance(event, StreamData) and event.payload_type == 1]
    )


def test_our_request_is_the_recorded_one() -> None:
    theirs = one(stream_of(Side.CLIENT, sent_to(Side.CLIENT, CAPTURE)), 5).payload
    recorded = HandshakeRequest.parse(theirs)
    channel = make_channel(
        Side.AGENT,
        session_type=recorded.session_type,
        properties=None,
        kms_key_id=recorded.kms_key_id,
        version=recorded.agent_version,
    )
    channel.open("token", 0.0)
    ours = one(answers(channel), 5).payload
    parsed = HandshakeRequest.parse(ours)

    assert len(parsed.challenge or "") == len(recorded.challenge or "") == 24
    # But for the challenge, and the marker at its end.
    assert ours.replace((parsed.challenge or "").encode(), (recorded.challenge or "").encode()).startswith(
        theirs[:-1]
    )


def test_the_recorded_agent_counts_its_nonces_as_ours_does() -> None:
    theirs = stream_of(Side.CLIENT, sent_to(Side.CLIENT, CAPTURE))
    (challenge,) = [
        EncryptionChallenge.parse(message.payload).challenge
        for message in theirs
        if message.payload_type == 8
    ]
    sealed = [challenge] + [message.payload for message in theirs if message.payload_type == 1]
    numbers = [int.from_bytes(payload[:NONCE_BYTES], "little") for payload in sealed]
    steps = {later - earlier for earlier, later in zip(numbers, numbers[1:])}

    assert len(sealed) > 5
    assert steps <= {0, 1}
    # A repeated number is a message sent again.
    assert len(set(zip(numbers, sealed))) == len(set(numbers))


def test_the_recorded_complete_is_read() -> None:
    complete = one(stream_of(Side.CLIENT, sent_to(Side.CLIENT, CAPTURE)), 7)
    assert HandshakeComplete.parse(complete.payload).customer_message
