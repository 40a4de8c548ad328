"""RFC 6455 framing: the examples of the RFC, arbitrary splits, every way to break it, and the upgrade."""

from typing import Any, List, Sequence, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import strategies
from protocol.rfc6455 import KEY, frame, peer_of, play
from sagemaker_ssh_helper.errors import ConnectionFailed
from sagemaker_ssh_helper.protocol.websocket import (
    Close,
    Message,
    Opcode,
    Ping,
    Pong,
    Role,
    State,
    WebSocket,
    accept_value,
    client_request,
    is_key,
    mask,
    new_key,
    parse_request,
    parse_response,
    server_response,
)

pytestmark = pytest.mark.container

both_roles = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)


def websocket(role: Role, max_message_bytes: int = 1 << 20) -> WebSocket:
    return WebSocket(role, max_message_bytes=max_message_bytes, random_bytes=strategies.counter_bytes())


def receive(receiver: WebSocket, pieces: Sequence[bytes]) -> Tuple[List[Any], Any]:
    """The events of these pieces, and the close code of the failure, if they failed the connection."""
    events: List[Any] = []
    for piece in pieces:
        try:
            events += receiver.receive_data(piece)
        except ConnectionFailed as failure:
            return events + list(failure.events), failure.close_code
    return events, None


# -- the examples of RFC 6455, section 5.7 --


@pytest.mark.parametrize(
    ("sender", "data", "event"),
    [
        (Role.SERVER, "810548656c6c6f", Message(Opcode.TEXT, b"Hello")),
        (Role.CLIENT, "818537fa213d7f9f4d5158", Message(Opcode.TEXT, b"Hello")),
        (Role.SERVER, "010348656c 80026c6f", Message(Opcode.TEXT, b"Hello")),
        (Role.SERVER, "890548656c6c6f", Ping(b"Hello")),
        (Role.CLIENT, "8a8537fa213d7f9f4d5158", Pong(b"Hello")),
        (Role.SERVER, "827e0100" + "00" * 256, Message(Opcode.BINARY, bytes(256))),
        (Role.SERVER, "827f0000000000010000" + "00" * 65536, Message(Opcode.BINARY, bytes(65536))),
    ],
)
def test_example_is_read(sender: Role, data: str, event: Any) -> None:
    assert websocket(peer_of(sender)).receive_data(bytes.fromhex(data)) == [event]


@pytest.mark.parametrize(
    ("size", "head"),
    [(0, "8200"), (125, "827d"), (126, "827e007e"), (65535, "827effff"), (65536, "827f0000000000010000")],
)
def test_lengths_are_written_in_the_shortest_form(size: int, head: str) -> None:
    server = websocket(Role.SERVER)
    server.send_message(Opcode.BINARY, bytes(size))

    assert server.data_to_send() == bytes.fromhex(head) + bytes(size)


# -- what arrives --


@both_roles
@given(strategies.scripts, st.data())
def test_arbitrary_splits_give_the_same_events(role: Role, script: strategies.Script, data: Any) -> None:
    sent, events = play(peer_of(role), script)

    assert receive(websocket(role), data.draw(strategies.splits(sent))) == (events, None)


@both_roles
def test_bytes_one_by_one_give_the_same_events(role: Role) -> None:
    script = [("binary", bytes(300)), ("text", b"text"), ("fragments", [b"a", b"", b"b"]), ("ping", b"p")]
    sent, events = play(peer_of(role), script)

    assert receive(websocket(role), [bytes([byte]) for byte in sent]) == (events, None)


@both_roles
def test_large_message_byte_by_byte_until_its_payload(role: Role) -> None:
    sent, events = play(peer_of(role), [("binary", bytes(65536))])
    pieces = [sent[at : at + 1] for at in range(16)] + [sent[16:40000], sent[40000:]]

    assert receive(websocket(role), pieces) == (events, None)


@both_roles
@given(strategies.scripts)
def test_two_machines_understand_each_other(role: Role, script: strategies.Script) -> None:
    sender, receiver = websocket(role), websocket(peer_of(role))
    events: List[Any] = []
    for verb, argument in script:
        if verb == "binary":
            sender.send_message(Opcode.BINARY, argument)
            events.append(Message(Opcode.BINARY, argument))
        elif verb == "text":
            sender.send_message(Opcode.TEXT, argument)
            events.append(Message(Opcode.TEXT, argument))
        elif verb == "ping":
            sender.send_ping(argument)
            events.append(Ping(argument))
        elif verb == "pong":
            sender.send_pong(argument)
            events.append(Pong(argument))
        else:
            sender.send_messages(argument)
            events += [Message(Opcode.BINARY, payload) for payload in argument]

    assert receiver.receive_data(sender.data_to_send()) == events
    assert sender.data_to_send() == b""


@both_roles
@given(strategies.scripts, st.data())
def test_every_one_byte_change_gives_events_or_our_error(
    role: Role, script: strategies.Script, data: Any
) -> None:
    sent, _ = play(peer_of(role), [*script, ("text", b"end")])
    changed = data.draw(strategies.one_byte_changes(sent))
    receiver = websocket(role)
    _, code = receive(receiver, [changed])

    assert code in (None, 1002, 1007, 1009)
    assert code is None or receiver.state is State.CLOSED


@both_roles
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_noise_gives_events_or_our_error(role: Role, pieces: List[bytes]) -> None:
    split, whole = websocket(role), websocket(role)

    assert receive(split, pieces) == receive(whole, [b"".join(pieces)])


def test_a_ping_is_answered_and_reported() -> None:
    server = websocket(Role.SERVER)

    assert server.receive_data(frame(Role.CLIENT, 0x89, b"keepalive")) == [Ping(b"keepalive")]
    assert server.data_to_send() == frame(Role.SERVER, 0x8A, b"keepalive")


def test_any_number_of_empty_fragments_is_one_message() -> None:
    data = frame(Role.SERVER, 0x02) + frame(Role.SERVER, 0x00) * 10000 + frame(Role.SERVER, 0x80, b"end")

    assert websocket(Role.CLIENT).receive_data(data) == [Message(Opcode.BINARY, b"end")]


def test_what_is_received_does_not_change_when_the_buffer_does() -> None:
    client = websocket(Role.CLIENT)
    (event,) = client.receive_data(frame(Role.SERVER, 0x82, b"one"))
    client.receive_data(frame(Role.SERVER, 0x82, b"two"))

    assert event == Message(Opcode.BINARY, b"one")
    assert isinstance(event.data, bytes)


# -- the size limit --


@both_roles
def test_message_of_exactly_the_limit_is_taken(role: Role) -> None:
    receiver = websocket(role, max_message_bytes=300)

    assert receiver.receive_data(frame(peer_of(role), 0x82, bytes(300))) == [
        Message(Opcode.BINARY, bytes(300))
    ]


@both_roles
@pytest.mark.parametrize("size", [301, 1 << 16, (1 << 63) - 1])
def test_message_over_the_limit_is_refused_by_its_head(role: Role, size: int) -> None:
    head = frame(peer_of(role), 0x82, bytes(301))[:4] if size == 301 else b""
    masked = 0x80 if role is Role.SERVER else 0
    head = head or bytes([0x82, masked + 127]) + size.to_bytes(8, "big")

    assert receive(websocket(role, max_message_bytes=300), [head]) == ([], 1009)


@both_roles
def test_limit_holds_across_fragments(role: Role) -> None:
    peer = peer_of(role)
    fragments = [frame(peer, 0x02, bytes(200)), frame(peer, 0x00, bytes(100))]

    whole, code = receive(websocket(role, 300), [*fragments, frame(peer, 0x80)])
    assert (whole, code) == ([Message(Opcode.BINARY, bytes(300))], None)

    assert receive(websocket(role, 300), [*fragments, frame(peer, 0x80, b"!")]) == ([], 1009)


@both_roles
def test_limit_does_not_hold_for_control_frames(role: Role) -> None:
    peer = peer_of(role)
    data = frame(peer, 0x02, bytes(10)) + frame(peer, 0x89, bytes(125)) + frame(peer, 0x80)
    receiver = websocket(role, max_message_bytes=10)

    assert receiver.receive_data(data) == [Ping(bytes(125)), Message(Opcode.BINARY, bytes(10))]


# -- violations --

# First byte, payload, close code.
VIOLATIONS = {
    "first reserved bit": (0xC2, b"", 1002),
    "second reserved bit": (0xA2, b"", 1002),
    "third reserved bit": (0x92, b"", 1002),
    "reserved bit on a control frame": (0xC9, b"", 1002),
    "reserved data opcode": (0x83, b"", 1002),
    "reserved control opcode": (0x8B, b"", 1002),
    "highest opcode": (0x8F, b"", 1002),
    "continuation of nothing": (0x80, b"", 1002),
    "fragmented ping": (0x09, b"", 1002),
    "fragmented close": (0x08, b"", 1002),
    "long ping": (0x89, bytes(126), 1002),
    "long close": (0x88, b"\x03\xe8" + b"a" * 124, 1002),
    "close with half a code": (0x88, b"\x03", 1002),
    "close code 0": (0x88, b"\x00\x00", 1002),
    "close code 999": (0x88, b"\x03\xe7", 1002),
    "close code 1004": (0x88, b"\x03\xec", 1002),
    "close code 1005": (0x88, b"\x03\xed", 1002),
    "close code 1006": (0x88, b"\x03\xee", 1002),
    "close code 1015": (0x88, b"\x03\xf7", 1002),
    "close code 2999": (0x88, b"\x0b\xb7", 1002),
    "close code 5000": (0x88, b"\x13\x88", 1002),
    "close reason that is not UTF-8": (0x88, b"\x03\xe8\xff", 1007),
    "text that is not UTF-8": (0x81, b"\xc3\x28", 1007),
    "text with a surrogate": (0x81, b"\xed\xa0\x80", 1007),
    "text that ends in a character": (0x81, b"\xe2\x82", 1007),
}
of_each_violation = pytest.mark.parametrize("name", sorted(VIOLATIONS))


@both_roles
@of_each_violation
def test_violation_ends_with_its_close_code(role: Role, name: str) -> None:
    first, payload, code = VIOLATIONS[name]
    receiver = websocket(role)

    with pytest.raises(ConnectionFailed, match="broke the WebSocket protocol") as caught:
        receiver.receive_data(frame(peer_of(role), first, payload))

    assert caught.value.close_code == code
    assert close_codes(role, receiver.data_to_send()) == [code]
    assert receiver.state is State.CLOSED


def close_codes(role: Role, data: bytes) -> List[int]:
    """The codes of the Close frames in what ``role`` sent."""
    events = websocket(peer_of(role)).receive_data(data)
    return [event.code for event in events if isinstance(event, Close)]


@both_roles
def test_wrong_mask_is_a_violation(role: Role) -> None:
    # The receiver's own role sends it: a client frame to a client, a server frame to a server.
    assert receive(websocket(role), [frame(role, 0x82, b"data")]) == ([], 1002)


@both_roles
@pytest.mark.parametrize(
    "length", ["7e0000", "7e007d", "7f0000000000000000", "7f000000000000ffff", "7f8000000000000000"]
)
def test_length_that_is_not_minimal_is_a_violation(role: Role, length: str) -> None:
    head = bytearray(b"\x82" + bytes.fromhex(length))
    if role is Role.SERVER:
        head[1] |= 0x80

    assert receive(websocket(role), [bytes(head)]) == ([], 1002)


@both_roles
def test_message_inside_another_is_a_violation(role: Role) -> None:
    peer = peer_of(role)
    for first in (0x82, 0x81, 0x02):
        data = frame(peer, 0x02, b"begun") + frame(peer, first, b"other")

        assert receive(websocket(role), [data]) == ([], 1002)


def test_text_is_checked_when_its_fragments_are_joined() -> None:
    euro = "€".encode()
    split = frame(Role.SERVER, 0x01, euro[:1]) + frame(Role.SERVER, 0x80, euro[1:])
    broken = frame(Role.SERVER, 0x01, euro[:1]) + frame(Role.SERVER, 0x80, b"a")

    assert receive(websocket(Role.CLIENT), [split]) == ([Message(Opcode.TEXT, euro)], None)
    assert receive(websocket(Role.CLIENT), [broken]) == ([], 1007)


def test_events_before_a_violation_are_not_lost() -> None:
    data = frame(Role.SERVER, 0x82, b"first") + frame(Role.SERVER, 0x83)

    assert receive(websocket(Role.CLIENT), [data]) == ([Message(Opcode.BINARY, b"first")], 1002)


def test_nothing_is_read_after_a_violation() -> None:
    client = websocket(Role.CLIENT)
    receive(client, [frame(Role.SERVER, 0x83)])

    assert client.receive_data(frame(Role.SERVER, 0x82, b"more")) == []


# -- closing --


@both_roles
@pytest.mark.parametrize(
    ("payload", "event"),
    [
        (b"", Close(1005, "")),
        (b"\x03\xe8", Close(1000, "")),
        (b"\x03\xe9bye \xe2\x82\xac", Close(1001, "bye €")),
        (b"\x03\xf4", Close(1012, "")),
        (b"\x0f\xa0", Close(4000, "")),
    ],
)
def test_close_is_echoed_and_ends_all(role: Role, payload: bytes, event: Close) -> None:
    peer = peer_of(role)
    receiver = websocket(role)
    events = receiver.receive_data(frame(peer, 0x88, payload) + frame(peer, 0x82, b"late"))

    assert events == [event]
    assert websocket(peer).receive_data(receiver.data_to_send()) == [Close(event.code, "")]
    assert receiver.state is State.CLOSED
    assert receiver.receive_data(frame(peer, 0x82, b"late")) == []


def test_close_that_we_began_is_not_echoed() -> None:
    client, server = websocket(Role.CLIENT), websocket(Role.SERVER)
    client.send_close(1001, "going")
    client.send_close(1000)

    assert server.receive_data(client.data_to_send()) == [Close(1001, "going")]
    assert client.state is State.CLOSING
    assert client.receive_data(server.data_to_send()) == [Close(1001, "")]
    assert client.state is State.CLOSED
    assert client.data_to_send() == b""


def test_of_many_pings_the_last_one_is_answered_behind_all_that_was_queued() -> None:
    client, server = websocket(Role.CLIENT), websocket(Role.SERVER)
    for number in range(1000):
        client.send_ping(b"%d" % number)
    client.send_message(Opcode.BINARY, b"after them")
    server.receive_data(client.data_to_send())
    server.send_message(Opcode.BINARY, b"an answer")

    assert client.receive_data(server.data_to_send()) == [
        Message(Opcode.BINARY, b"an answer"),
        Pong(b"999"),
    ]
    assert server.data_to_send() == b""


def test_messages_still_come_while_we_close_but_no_pong_goes() -> None:
    client = websocket(Role.CLIENT)
    client.send_close()
    client.data_to_send()
    data = frame(Role.SERVER, 0x82, b"late") + frame(Role.SERVER, 0x89, b"ping")

    assert client.receive_data(data) == [Message(Opcode.BINARY, b"late"), Ping(b"ping")]
    assert client.data_to_send() == b""


def test_violation_while_we_close_sends_no_second_close() -> None:
    client = websocket(Role.CLIENT)
    client.send_close()
    client.data_to_send()

    assert receive(client, [frame(Role.SERVER, 0x83)]) == ([], 1002)
    assert client.data_to_send() == b""


@given(st.text(st.characters(), max_size=200))
def test_close_reason_is_cut_to_what_a_control_frame_holds(reason: str) -> None:
    server = websocket(Role.SERVER)
    server.send_close(1000, reason)
    (event,) = websocket(Role.CLIENT).receive_data(server.data_to_send())

    whole = reason.encode("utf-8", "replace").decode("utf-8")
    assert isinstance(event, Close)
    assert whole.startswith(event.reason)
    assert event.reason == whole or len(event.reason.encode("utf-8")) >= 120


@pytest.mark.parametrize("end", ["send_close", "receive_eof", "close received"])
def test_nothing_can_be_sent_after_the_end(end: str) -> None:
    client = websocket(Role.CLIENT)
    if end == "close received":
        client.receive_data(frame(Role.SERVER, 0x88))
    else:
        getattr(client, end)()
    client.data_to_send()

    for send in (
        lambda: client.send_message(Opcode.TEXT, b"t"),
        lambda: client.send_messages([b"m"]),
        lambda: client.send_ping(b""),
        lambda: client.send_pong(b""),
    ):
        with pytest.raises(ConnectionFailed, match="nothing can be sent"):
            send()
    client.send_close()
    assert client.data_to_send() == b""


# -- masking --


@given(st.binary(max_size=70), st.binary(min_size=4, max_size=4))
def test_mask_is_its_own_inverse_and_bytewise(data: bytes, key: bytes) -> None:
    masked = mask(data, key)

    assert masked == bytes(byte ^ key[at % 4] for at, byte in enumerate(data))
    assert mask(masked, key) == data


@pytest.mark.parametrize("size", [8191, 8192, 8193, 8194, 8195, 65536])
def test_large_messages_are_masked_the_same_way(size: int) -> None:
    data = bytes(at * at & 255 for at in range(size))

    assert mask(data, KEY) == bytes(byte ^ KEY[at % 4] for at, byte in enumerate(data))


def test_every_frame_of_a_client_has_a_masking_key_of_its_own() -> None:
    client = websocket(Role.CLIENT)
    client.send_messages([b"", b"", b""])
    client.send_ping(b"")
    client.send_message(Opcode.TEXT, b"")
    data = client.data_to_send()
    keys = {data[at + 2 : at + 6] for at in range(0, len(data), 6)}

    assert len(data) == 5 * 6
    assert len(keys) == 5


def test_a_server_asks_for_no_randomness() -> None:
    def refuse(size: int) -> bytes:
        raise AssertionError(f"a server asked for {size} random bytes")

    server = WebSocket(Role.SERVER, random_bytes=refuse)
    server.send_messages([b"a"])
    server.send_message(Opcode.TEXT, b"b")
    server.send_close()

    assert close_codes(Role.SERVER, server.data_to_send()) == [1000]


# -- the upgrade --

SAMPLE_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def test_accept_value_is_that_of_the_rfc() -> None:
    assert new_key(b"the sample nonce") == SAMPLE_KEY
    assert accept_value(SAMPLE_KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_request_is_one_a_server_reads() -> None:
    request = client_request(
        "localhost:8443", "/v1/data-channel/s?role=publish_subscribe", [("X-Amz-Date", "now")], SAMPLE_KEY
    )
    parsed = parse_request(request + b"rest")

    assert request.startswith(
        b"GET /v1/data-channel/s?role=publish_subscribe HTTP/1.1\r\nHost: localhost:8443\r\n"
    )
    assert parsed is not None
    assert parsed[1] == len(request)
    assert parsed[0].path == "/v1/data-channel/s?role=publish_subscribe"
    assert parsed[0].headers["x-amz-date"] == "now"
    assert parsed[0].key == SAMPLE_KEY


def test_answer_is_the_one_official_agents_take() -> None:
    # They compare the whole values, so neither may be a list.
    assert server_response(SAMPLE_KEY) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


def test_answer_may_come_in_pieces_and_be_followed_by_frames() -> None:
    answer = server_response(SAMPLE_KEY)
    for size in range(len(answer)):
        assert parse_response(answer[:size], SAMPLE_KEY) is None

    assert parse_response(answer + b"\x82\x00", SAMPLE_KEY) == len(answer)


def test_connection_may_hold_several_tokens_in_any_case() -> None:
    answer = server_response(SAMPLE_KEY).replace(b"Connection: Upgrade", b"connection:keep-alive, UPGRADE ")

    assert parse_response(answer, SAMPLE_KEY) == len(answer)


REFUSED = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: 20\r\n\r\ntoken is not\n valid!!"
)


def test_refused_upgrade_has_status_and_body() -> None:
    with pytest.raises(ConnectionFailed, match="status 403") as caught:
        parse_response(REFUSED, SAMPLE_KEY)

    assert caught.value.status == 403
    assert caught.value.body == "token is not\n valid!"
    assert str(caught.value) == "the server refused the WebSocket with status 403 (token is not valid!)"


def test_body_of_a_refusal_is_waited_for_unless_the_connection_ends() -> None:
    assert parse_response(REFUSED[:-8], SAMPLE_KEY) is None
    with pytest.raises(ConnectionFailed, match="status 403") as caught:
        parse_response(REFUSED[:-9], SAMPLE_KEY, eof=True)

    assert caught.value.body == "token is not"


def test_long_body_of_a_refusal_is_not_waited_for() -> None:
    answer = b"HTTP/1.1 500 Oops\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 3000

    with pytest.raises(ConnectionFailed) as caught:
        parse_response(answer, SAMPLE_KEY)

    assert len(caught.value.body) == 2048


@pytest.mark.parametrize("length", [b"", b"-1", b"1e3", b"twelve", b"9" * 9999])
def test_refusal_with_a_length_that_is_none_has_what_is_there(length: bytes) -> None:
    answer = b"HTTP/1.1 500 Oops\r\nContent-Length: " + length + b"\r\n\r\nbody"

    with pytest.raises(ConnectionFailed, match="status 500") as caught:
        parse_response(answer, SAMPLE_KEY)

    assert caught.value.body == "body"


def test_connection_that_ends_without_an_answer_says_so() -> None:
    with pytest.raises(ConnectionFailed, match="before it answered"):
        parse_response(b"HTTP/1.1 101 Swi", SAMPLE_KEY, eof=True)


GOOD = server_response(SAMPLE_KEY)


@pytest.mark.parametrize(
    "answer",
    [
        GOOD.replace(b"websocket", b"h2c"),
        GOOD.replace(b"Connection: Upgrade", b"Connection: close"),
        GOOD.replace(b"s3pPLMBi", b"S3PPLMBI"),
        GOOD.replace(b"Upgrade: websocket\r\n", b""),
        GOOD.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
        GOOD.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chat\r\n\r\n"),
        GOOD.replace(b"\r\n\r\n", b"\r\nno header\r\n\r\n"),
        GOOD.replace(b"\r\n\r\n", b"\r\n folded: header\r\n\r\n"),
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"x" * 16384,
    ],
)
def test_answer_that_is_no_upgrade_is_refused(answer: bytes) -> None:
    with pytest.raises(ConnectionFailed):
        parse_response(answer, SAMPLE_KEY)


@given(st.data())
def test_every_one_byte_change_of_an_answer_is_one_or_our_error(data: Any) -> None:
    changed = data.draw(strategies.one_byte_changes(GOOD) | strategies.one_byte_changes(REFUSED))
    try:
        size = parse_response(changed, SAMPLE_KEY)
    except ConnectionFailed:
        return
    assert size in (None, len(GOOD))


@given(st.binary(max_size=300))
def test_noise_is_no_upgrade(noise: bytes) -> None:
    with pytest.raises(ConnectionFailed):
        parse_response(b"HTTP/1.1 " + noise + b"\r\n\r\n", SAMPLE_KEY)
    with pytest.raises(ConnectionFailed):
        parse_request(noise + b"\r\n\r\n")


REQUEST = client_request("localhost", "/", [], SAMPLE_KEY)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (REQUEST.replace(b"GET", b"POST"), 400),
        (REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
        (REQUEST.replace(b"Upgrade: websocket\r\n", b""), 426),
        (REQUEST.replace(b"Connection: Upgrade\r\n", b""), 426),
        (REQUEST.replace(b"Version: 13", b"Version: 8"), 426),
        (REQUEST.replace(SAMPLE_KEY.encode(), b"short"), 400),
        (b"x" * 16384, 431),
    ],
)
def test_request_that_is_no_upgrade_is_refused(request_bytes: bytes, status: int) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        parse_request(request_bytes)

    assert caught.value.status == status


def test_request_that_is_not_all_there_is_waited_for() -> None:
    assert parse_request(REQUEST[:-1]) is None


@pytest.mark.parametrize("key", ["", "dGhlIHNhbXBsZSBub25jZQ", "dGhl", "ключ", SAMPLE_KEY + "\n"])
def test_keys_that_are_none(key: str) -> None:
    assert not is_key(key)


@pytest.mark.parametrize(
    ("host", "path", "headers"),
    [
        ("host\r\nX: y", "/", []),
        ("host", "/a b", []),
        ("host", "/\r\nX: y", []),
        ("host", "/", [("X", "y\r\nZ: z")]),
        ("host", "/", [("X\n", "y")]),
    ],
)
def test_nothing_breaks_out_of_its_line(host: str, path: str, headers: List[Tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match="characters that"):
        client_request(host, path, headers, SAMPLE_KEY)
