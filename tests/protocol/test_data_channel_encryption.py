"""Sessions that are encrypted with a KMS key: two machines, their handshake, and what each refuses."""

import json
import logging
from typing import Any, Callable, List, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.aead import ToyAead
from protocol.link import OTHER, Fate, Link, fates, make_channel
from sagemaker_ssh_helper.errors import AccessDenied, HandshakeFailed, ProtocolError, SSHHelperError
from sagemaker_ssh_helper.protocol import payloads
from sagemaker_ssh_helper.protocol.data_channel import (
    AGENT_HANDSHAKE_TIMEOUT,
    DATA_KEY_TIMEOUT,
    ENCRYPTED_MESSAGE,
    REFUSAL_TIMEOUT,
    ChannelClosed,
    DataChannel,
    DataKeyNeeded,
    Event,
    Failed,
    Ready,
    Side,
    State,
    StreamData,
)
from sagemaker_ssh_helper.protocol.encryption import DataKey
from sagemaker_ssh_helper.protocol.message import AgentMessage, MessageType, PayloadType
from sagemaker_ssh_helper.protocol.payloads import (
    HandshakeRequest,
    HandshakeResponse,
    KmsResult,
    ProcessedAction,
    SessionType,
)

pytestmark = pytest.mark.container

SHELL = SessionType.STANDARD_STREAM
KEY_ID = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
INSTANCE = "mi-0123456789abcdef0"
KEY = DataKey(bytes(range(64)), b"encrypted data key")
DENIED = AccessDenied("AWS does not let you call kms:GenerateDataKey")

Answer = Callable[[DataChannel, DataKeyNeeded, float], List[Event]]


def provide(channel: DataChannel, needed: DataKeyNeeded, now: float) -> List[Event]:
    return channel.provide_data_key(KEY, ToyAead, now)


def make(side: Side, **options: Any) -> DataChannel:
    options.setdefault("session_type", SHELL)
    if side is Side.AGENT:
        options.setdefault("kms_key_id", KEY_ID)
        options.setdefault("properties", None)
    return make_channel(side, instance_id=INSTANCE, **options)


class EncryptedLink(Link):
    """A link whose ends get their data keys, at once unless a test says otherwise."""

    def __init__(self, *, answers: Optional[Tuple[Answer, Answer]] = None, **options: Any) -> None:
        self.asked: List[DataKeyNeeded] = []
        self._answers = dict(zip(Side, answers or (provide, provide)))
        super().__init__(make(Side.CLIENT), make(Side.AGENT), **options)

    def _take(self, end: Any, events: List[Event]) -> None:
        super()._take(end, events)
        for event in events:
            if isinstance(event, DataKeyNeeded):
                self.asked.append(event)
                answer = self._answers[end.channel.side]
                super()._take(end, answer(end.channel, event, self.now))


def failures(link: Link) -> List[SSHHelperError]:
    ends = (link.client, link.agent)
    return [event.error for end in ends for event in end.events if isinstance(event, Failed)]


def start(link: Link) -> None:
    link.open(Side.AGENT)
    link.open(Side.CLIENT)


def opened(**options: Any) -> EncryptedLink:
    link = EncryptedLink(**options)
    start(link)
    link.run(lambda: link.client.ready and link.agent.ready)
    return link


def on_wire(link: Link, payload_type: int) -> List[bytes]:
    parsed = [AgentMessage.parse(data) for _, data in link.messages]
    return [message.payload for message in parsed if message.payload_type == payload_type]


# -- the handshake ----------------------------------------------------------------------------------


def test_a_session_is_encrypted_both_ways() -> None:
    link = opened()
    link.send(Side.CLIENT, b"typed in secret" * 100)
    link.send(Side.AGENT, b"shown in secret" * 100)
    link.run(lambda: len(link.client.received) == len(link.agent.received) == 1500)

    assert bytes(link.agent.received) == b"typed in secret" * 100
    assert bytes(link.client.received) == b"shown in secret" * 100
    assert not any(b"in secret" in data for _, data in link.messages)
    assert {len(payload) for payload in on_wire(link, PayloadType.OUTPUT)} == {1024 + 28, 476 + 28}
    assert link.client.channel.encrypted
    assert link.agent.channel.encrypted
    assert failures(link) == []


def test_both_sides_ask_kms_with_the_same_context() -> None:
    link = opened()
    by_client, by_agent = link.asked
    (sent,) = on_wire(link, PayloadType.HANDSHAKE_REQUEST)
    challenge = HandshakeRequest.parse(sent).challenge

    assert challenge
    assert by_client == DataKeyNeeded(
        KEY_ID,
        {
            "aws:ssm:SessionId": "user-0123456789abcdef0",
            "aws:ssm:TargetId": INSTANCE,
            "aws:ssm:RandomChallenge": challenge,
        },
    )
    assert by_agent == DataKeyNeeded(KEY_ID, by_client.encryption_context, KEY.cipher_text)


def test_the_handshake_is_told_as_the_specification_says() -> None:
    link = opened()
    types = [AgentMessage.parse(data).payload_type for _, data in link.messages]

    assert [number for number in types if number] == [5, 6, 8, 9, 7]
    (request,) = on_wire(link, PayloadType.HANDSHAKE_REQUEST)
    actions = json.loads(request)["RequestedClientActions"]
    assert [action["ActionType"] for action in actions] == ["SessionType", "KMSEncryption"]
    (response,) = on_wire(link, PayloadType.HANDSHAKE_RESPONSE)
    result = json.loads(response)["ProcessedClientActions"][1]
    assert (result["ActionType"], result["ActionStatus"], result["Error"]) == ("KMSEncryption", 1, "")
    assert result["ActionResult"] == {
        "KMSCipherTextKey": "ZW5jcnlwdGVkIGRhdGEga2V5",
        "KMSCipherTextHash": None,
        "ChallengeAcknowledgement": True,
    }
    (ready,) = [event for event in link.client.events if isinstance(event, Ready)]
    assert (ready.session_type, ready.customer_message) == (SHELL, ENCRYPTED_MESSAGE)


def test_an_older_agent_sends_no_challenge_for_the_context() -> None:
    channel = make(Side.CLIENT)
    channel.open("token", 0.0)
    request = HandshakeRequest("3.1.0.0", SHELL, kms_key_id=KEY_ID)
    (needed,) = channel.receive_message(to_client(0, request.serialize(), 5), 0.0)
    assert isinstance(needed, DataKeyNeeded)
    assert set(needed.encryption_context) == {"aws:ssm:SessionId", "aws:ssm:TargetId"}

    provide(channel, needed, 0.0)
    assert response_of(channel).processed_actions[1].result == KmsResult(KEY.cipher_text).to_json()


def test_a_client_that_leaves_the_challenge_out_is_served() -> None:
    """As the recorded official client does."""
    channel, _ = asked_agent(KmsResult(KEY.cipher_text).to_json())
    assert channel.state is State.KEYING


def test_a_port_session_is_not_encrypted() -> None:
    """Nor is its client asked to."""
    link = Link(agent=make_channel(Side.AGENT, kms_key_id=KEY_ID))
    start(link)
    link.run(lambda: link.client.ready and link.agent.ready)
    link.send(Side.CLIENT, b"SSH-2.0-me")
    link.run(lambda: bool(link.agent.received))

    assert on_wire(link, PayloadType.OUTPUT) == [b"SSH-2.0-me"]
    assert b"KMSEncryption" not in on_wire(link, PayloadType.HANDSHAKE_REQUEST)[0]


def test_stderr_and_exit_code_are_encrypted_and_sizes_and_flags_are_not() -> None:
    link = opened()
    link.agent.channel.send_data(b"oh no", link.now, PayloadType.STDERR)
    link.agent.channel.send_data(b"EXIT_CODE: 3", link.now, PayloadType.EXIT_CODE)
    link.client.channel.send_size(80, 24, link.now)
    link.client.channel.send_flag(2, link.now)
    link._pump()
    link.run(lambda: len(link.client.received) == 17 and bool(on_wire(link, PayloadType.FLAG)))

    data = [event for event in link.client.events if isinstance(event, StreamData)]
    assert data == [
        StreamData(PayloadType.STDERR, b"oh no"),
        StreamData(PayloadType.EXIT_CODE, b"EXIT_CODE: 3"),
    ]
    assert [len(one) for one in on_wire(link, PayloadType.STDERR)] == [5 + 28]
    assert [len(one) for one in on_wire(link, PayloadType.EXIT_CODE)] == [12 + 28]
    assert on_wire(link, PayloadType.SIZE) == [b'{"cols":80,"rows":24}']
    assert on_wire(link, PayloadType.FLAG) == [b"\0\0\0\2"]


def test_no_key_and_no_secret_is_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        link = opened()
        link.send(Side.AGENT, b"shown in secret")
        link.run(lambda: bool(link.client.received))

    assert "is KEYING" in caplog.text
    for secret in ("secret", "ZW5jcnlwdGVk", "encrypted data key", repr(KEY.plain)[2:20]):
        assert secret not in caplog.text


# -- over a bad link --------------------------------------------------------------------------------


@given(up=fates(), down=fates(), cuts=st.lists(st.tuples(st.sampled_from(list(Side)), st.floats(0.0, 3.0))))
def test_every_byte_arrives_over_a_bad_link(
    up: List[Fate], down: List[Fate], cuts: List[Tuple[Side, float]]
) -> None:
    link = EncryptedLink(up=up, down=down)
    for side, moment in cuts[:4]:
        link.at(100.0 + moment, lambda side=side: link.cut(side))  # type: ignore[misc]
    start(link)
    link.run(lambda: link.client.ready and link.agent.ready)
    sent = {side: bytes(index % 251 for index in range(9000)) for side in Side}
    for side, data in sent.items():
        link.send(side, data)
    link.run(lambda: len(link.client.received) >= 9000 and len(link.agent.received) >= 9000)

    assert bytes(link.client.received) == bytes(link.agent.received) == sent[Side.CLIENT]
    assert failures(link) == []
    # Sent again, a message has the bytes it had: no nonce stands before two different texts.
    sealed = {payload[:12]: payload for payload in on_wire(link, PayloadType.OUTPUT)}
    assert all(sealed[payload[:12]] == payload for payload in on_wire(link, PayloadType.OUTPUT))


# -- refusals ---------------------------------------------------------------------------------------


def to_client(number: int, payload: bytes, payload_type: int = PayloadType.OUTPUT) -> bytes:
    return _stream(MessageType.OUTPUT_STREAM_DATA, number, payload, payload_type)


def to_agent(number: int, payload: bytes, payload_type: int = PayloadType.OUTPUT) -> bytes:
    return _stream(MessageType.INPUT_STREAM_DATA, number, payload, payload_type)


def _stream(message_type: str, number: int, payload: bytes, payload_type: int) -> bytes:
    return AgentMessage(
        message_type,
        payload,
        sequence_number=number,
        payload_type=payload_type,
        message_id=bytes([number + 1] * 16),
        created_ms=1700000000000,
    ).serialize()


def response_of(channel: DataChannel) -> HandshakeResponse:
    parsed = [AgentMessage.parse(data) for data in channel.messages_to_send(0.0)]
    (payload,) = [message.payload for message in parsed if message.payload_type == 6]
    return HandshakeResponse.parse(payload)


def asked_client() -> Tuple[DataChannel, DataKeyNeeded]:
    """A client that waits for its data key."""
    channel = make(Side.CLIENT)
    channel.open("token", 0.0)
    request = HandshakeRequest("3.3.0.0", SHELL, kms_key_id=KEY_ID, challenge="Zm9v")
    (needed,) = channel.receive_message(to_client(0, request.serialize(), 5), 0.0)
    assert isinstance(needed, DataKeyNeeded)
    return channel, needed


def asked_agent(result: Any) -> Tuple[DataChannel, List[Event]]:
    """An agent whose client gave that result for KMSEncryption; None leaves the action out."""
    channel = make(Side.AGENT)
    channel.open("token", 0.0)
    channel.messages_to_send(0.0)
    actions = [ProcessedAction("SessionType")]
    if result is not None:
        actions.append(ProcessedAction("KMSEncryption", 1, result))
    response = HandshakeResponse("1.2.0.0", tuple(actions))
    return channel, channel.receive_message(to_agent(0, response.serialize(), 6), 0.0)


def error_of(events: List[Event]) -> SSHHelperError:
    assert isinstance(events[-1], Failed)
    return events[-1].error


def test_a_client_without_a_key_says_so_and_keeps_its_own_error() -> None:
    channel, _ = asked_client()
    assert channel.refuse_data_key(DENIED, 1.0) == []
    response = response_of(channel)

    assert [action.status for action in response.processed_actions] == [1, 2]
    assert response.errors == (str(DENIED),)
    closed = payloads.ChannelClosed("s", output="the client refused KMSEncryption").serialize()
    data = AgentMessage(MessageType.CHANNEL_CLOSED, closed, created_ms=1).serialize()
    assert channel.receive_message(data, 1.5) == [Failed(DENIED)]


def test_a_client_without_a_key_does_not_wait_long_for_the_end() -> None:
    channel, _ = asked_client()
    channel.refuse_data_key(DENIED, 1.0)
    assert channel.handle_timer(1.0 + REFUSAL_TIMEOUT) == [Failed(DENIED)]


def test_an_agent_without_a_key_ends_the_session() -> None:
    channel, (needed,) = asked_agent(KmsResult(b"sealed", True).to_json())
    assert isinstance(needed, DataKeyNeeded)
    assert channel.refuse_data_key(DENIED, 1.0) == [Failed(DENIED)]
    assert channel.state is State.CLOSED


def test_a_client_that_refuses_ends_the_session_at_the_agent() -> None:
    link = EncryptedLink(answers=(lambda channel, _, now: channel.refuse_data_key(DENIED, now), provide))
    start(link)
    link.run(lambda: bool(failures(link)))

    assert str(failures(link)[-1]) == (
        f"the client refused KMSEncryption of the handshake (status 2 {DENIED})"
    )
    assert not link.agent.ready


def test_an_agent_is_not_satisfied_without_an_answer_about_encryption() -> None:
    """Or a client, or what stands between, could have the session in plain."""
    _, events = asked_agent(None)
    assert str(error_of(events)) == "the client did not answer KMSEncryption of the handshake"


@pytest.mark.parametrize("result", [3, {"KMSCipherTextKey": "no base64!"}, "key"])
def test_an_unreadable_answer_about_encryption_ends_the_session(result: Any) -> None:
    _, events = asked_agent(result)
    assert isinstance(error_of(events), HandshakeFailed)
    assert error_of(events).what == "the handshake cannot be read"


def test_a_client_with_another_key_is_found_out() -> None:
    def other(channel: DataChannel, needed: DataKeyNeeded, now: float) -> List[Event]:
        return channel.provide_data_key(DataKey(bytes(64), KEY.cipher_text), ToyAead, now)

    link = EncryptedLink(answers=(other, provide))
    start(link)
    link.run(lambda: bool(failures(link)))
    assert "encrypted with another key" in str(failures(link)[0])
    assert not link.client.ready


def test_a_wrong_proof_ends_the_session() -> None:
    channel, (needed,) = asked_agent(KmsResult(b"sealed").to_json())
    assert isinstance(needed, DataKeyNeeded)
    provide(channel, needed, 0.0)
    proof = payloads.EncryptionChallenge(bytes(12) + ToyAead(KEY.plain[32:]).seal(bytes(12), b"guess" * 13))
    events = channel.receive_message(to_agent(1, proof.serialize(), 9), 0.1)
    assert str(error_of(events)) == "the client did not prove that it has the session's data key"


@pytest.mark.parametrize("size", [0, 32, 65])
def test_a_key_of_another_length_is_no_key(size: int) -> None:
    channel, _ = asked_client()
    channel.provide_data_key(DataKey(bytes(size), b"x"), ToyAead, 0.0)
    assert f"a data key of {size} bytes" in (response_of(channel).errors or ("",))[0]
    assert not channel.encrypted

    channel, _ = asked_agent(KmsResult(b"sealed").to_json())
    events = channel.provide_data_key(DataKey(bytes(size), b""), ToyAead, 0.0)
    assert f"a data key of {size} bytes" in str(error_of(events))


def test_a_challenge_that_was_not_asked_for_ends_the_session() -> None:
    channel = make(Side.CLIENT)
    channel.open("token", 0.0)
    channel.receive_message(to_client(0, HandshakeRequest("3.3.0.0", SHELL).serialize(), 5), 0.0)
    challenge = payloads.EncryptionChallenge(bytes(92)).serialize()
    events = channel.receive_message(to_client(1, challenge, 8), 0.0)
    assert str(error_of(events)) == "the agent asks for a proof of encryption that it did not ask for"


@pytest.mark.parametrize(
    ("wait", "timeout", "who"),
    [
        ("for the key, at the client", DATA_KEY_TIMEOUT, "service that has the KMS key"),
        ("for the key, at the agent", DATA_KEY_TIMEOUT, "service that has the KMS key"),
        ("for the proof", AGENT_HANDSHAKE_TIMEOUT, "client"),
    ],
)
def test_no_wait_is_for_ever(wait: str, timeout: float, who: str) -> None:
    if "client" in wait:
        channel, _ = asked_client()
    else:
        channel, (needed,) = asked_agent(KmsResult(b"sealed").to_json())
        assert isinstance(needed, DataKeyNeeded)
        if "proof" in wait:
            provide(channel, needed, 0.0)
    assert channel.handle_timer(timeout - 0.1) == []
    assert str(error_of(channel.handle_timer(timeout))) == (
        f"the {who} did not complete the handshake in {timeout:.0f} s"
    )
    # What comes too late changes nothing.
    assert channel.provide_data_key(KEY, ToyAead, timeout) == []
    assert channel.refuse_data_key(DENIED, timeout) == []
    assert channel.state is State.CLOSED


# -- after the handshake ----------------------------------------------------------------------------


def sealed_for_client(data: bytes, nonce: int = 7) -> bytes:
    raw = nonce.to_bytes(12, "little")
    return raw + ToyAead(KEY.plain[:32]).seal(raw, data)


def ready_client() -> DataChannel:
    channel, needed = asked_client()
    provide(channel, needed, 0.0)
    complete = payloads.HandshakeComplete(1, "").serialize()
    channel.receive_message(to_client(1, complete, 7), 0.0)
    channel.messages_to_send(0.0)
    return channel


@pytest.mark.parametrize("payload_type", [1, 11, 12])
@pytest.mark.parametrize(
    "payload",
    [b"in plain", b"", sealed_for_client(b"altered")[:-1] + b"\0", b"x" * 27],
    ids=["plain", "empty", "altered", "short"],
)
def test_what_was_not_encrypted_for_us_ends_the_session(payload_type: int, payload: bytes) -> None:
    channel = ready_client()
    good = to_client(2, sealed_for_client(b"good"))
    bad = to_client(3, payload, payload_type)
    later = to_client(4, sealed_for_client(b"later"))
    events = channel.receive_messages([good, bad, later], 0.1)

    assert events[0] == StreamData(1, b"good")
    assert len(events) == 2
    assert isinstance(error_of(events), ProtocolError)
    assert error_of(events).what == "a message of the encrypted session cannot be read"
    assert channel.receive_message(to_client(5, sealed_for_client(b"more")), 0.2) == []


def test_early_output_in_plain_is_not_taken_for_the_agents() -> None:
    """It comes before the key is there, but is delivered after: it has to be encrypted all the same."""
    channel, needed = asked_client()
    assert channel.receive_message(to_client(1, b"forged prompt"), 0.0) == []
    provide(channel, needed, 0.0)
    complete = payloads.HandshakeComplete(1, "").serialize()
    events = channel.receive_message(to_client(2, complete, 7), 0.1)
    assert isinstance(events[0], Ready)
    assert error_of(events).what == "a message of the encrypted session cannot be read"
    assert not any(isinstance(event, StreamData) for event in events)


def test_what_is_held_for_a_slow_sink_is_decrypted_when_it_is_delivered() -> None:
    channel = ready_client()
    channel.pause_delivery()
    assert channel.receive_message(to_client(2, sealed_for_client(b"held")), 0.1) == []
    assert channel.resume_delivery(0.2) == [StreamData(1, b"held")]


def test_an_empty_output_of_an_encrypted_session_is_no_data() -> None:
    channel = ready_client()
    assert channel.receive_message(to_client(2, sealed_for_client(b"")), 0.1) == []


@pytest.mark.parametrize("side", list(Side), ids=lambda side: side.value)
def test_larger_payloads_stay_within_what_was_probed(side: Side) -> None:
    link = opened()
    data = bytes(index % 251 for index in range(2_500_000))
    link.send(side, data)
    other = link.ends[OTHER[side]]
    link.run(lambda: len(other.received) == len(data))

    probed = {len(payload) for payload in on_wire(link, PayloadType.PROBE)}
    sizes = {len(payload) for payload in on_wire(link, PayloadType.OUTPUT)}
    assert bytes(other.received) == data
    assert 1024 + 28 in sizes
    assert sizes & probed
    assert max(sizes) <= max(probed)


def test_the_service_may_end_it_while_the_key_is_awaited() -> None:
    channel, _ = asked_client()
    closed = payloads.ChannelClosed("s", output="too late").serialize()
    data = AgentMessage(MessageType.CHANNEL_CLOSED, closed, created_ms=1).serialize()
    assert str(error_of(channel.receive_message(data, 0.5))) == (
        "the session was closed before it began (too late)"
    )
    agent, _ = asked_agent(KmsResult(b"sealed").to_json())
    assert agent.receive_message(data, 0.5) == [ChannelClosed("too late")]
