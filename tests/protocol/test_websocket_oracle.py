"""Our framing against the ``websockets`` library's, on the same bytes: what one writes, the other reads."""

from typing import Any, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.frames import Opcode as TheirOpcode
from websockets.http11 import Request
from websockets.protocol import OPEN, Protocol
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from protocol import strategies
from protocol.rfc6455 import peer_of, play
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
    client_request,
    new_key,
    parse_request,
    parse_response,
    server_response,
)

LIMIT = 1 << 20
both_roles = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)


def ours(role: Role) -> WebSocket:
    return WebSocket(role, max_message_bytes=LIMIT, random_bytes=strategies.counter_bytes())


def theirs(role: Role) -> Protocol:
    if role is Role.SERVER:
        return ServerProtocol(state=OPEN, max_size=LIMIT)
    return ClientProtocol(parse_uri("ws://localhost/"), state=OPEN, max_size=LIMIT)


def send(sender: Any, script: strategies.Script) -> None:
    """Do what the script says with the library's protocol."""
    for verb, argument in script:
        if verb == "fragments":
            sender.send_binary(argument[0], fin=False)
            for middle in argument[1:-1]:
                sender.send_continuation(middle, fin=False)
            sender.send_continuation(argument[-1], fin=True)
        else:
            getattr(sender, f"send_{verb}")(argument)


def events_of(frames: List[Frame]) -> List[Any]:
    """The library reports frames; these are the events we make of them."""
    events: List[Any] = []
    parts: List[bytes] = []
    begun = TheirOpcode.BINARY
    for frame in frames:
        data = bytes(frame.data)
        if frame.opcode is TheirOpcode.PING:
            events.append(Ping(data))
        elif frame.opcode is TheirOpcode.PONG:
            events.append(Pong(data))
        elif frame.opcode is TheirOpcode.CLOSE:
            code = int.from_bytes(data[:2], "big") if data else 1005
            events.append(Close(code, data[2:].decode()))
        else:
            if frame.opcode is not TheirOpcode.CONT:
                begun = frame.opcode
            parts.append(data)
            if frame.fin:
                events.append(Message(Opcode(begun.value), b"".join(parts)))
                parts = []
    return events


@both_roles
@given(strategies.scripts)
def test_we_read_what_the_library_writes(role: Role, script: strategies.Script) -> None:
    sender: Any = theirs(peer_of(role))
    send(sender, script)
    sender.send_close(1001, "going")
    expected: List[Any] = []
    for verb, argument in script:
        if verb == "fragments":
            expected.append(Message(Opcode.BINARY, b"".join(argument)))
        elif verb in ("ping", "pong"):
            expected.append(Ping(argument) if verb == "ping" else Pong(argument))
        else:
            expected.append(Message(Opcode[verb.upper()], argument))

    received = ours(role).receive_data(b"".join(sender.data_to_send()))
    assert received == [*expected, Close(1001, "going")]


@both_roles
@given(strategies.scripts)
def test_the_library_reads_what_we_write(role: Role, script: strategies.Script) -> None:
    sender = ours(role)
    expected: List[Any] = []
    for verb, argument in script:
        if verb == "fragments":
            sender.send_messages(argument)
            expected += [Message(Opcode.BINARY, payload) for payload in argument]
        elif verb in ("ping", "pong"):
            sender.send_ping(argument) if verb == "ping" else sender.send_pong(argument)
            expected.append(Ping(argument) if verb == "ping" else Pong(argument))
        else:
            sender.send_message(Opcode[verb.upper()], argument)
            expected.append(Message(Opcode[verb.upper()], argument))
    sender.send_close(1000, "bye")
    receiver: Any = theirs(peer_of(role))
    receiver.receive_data(sender.data_to_send())

    assert events_of(receiver.events_received()) == [*expected, Close(1000, "bye")]


@both_roles
@given(strategies.scripts, st.data())
def test_both_refuse_the_same_bytes_with_the_same_code(
    role: Role, script: strategies.Script, data: Any
) -> None:
    sent, _ = play(peer_of(role), [*script, ("binary", b"end")])
    changed = data.draw(strategies.one_byte_changes(sent))
    our_events, our_code, fault = our_verdict(role, changed)
    their_events, their_code = their_verdict(role, changed)

    if "not minimal" in fault or our_code == 1007:
        # The library takes such lengths as they are, and leaves UTF-8 in messages to its caller.
        assert our_events == their_events[: len(our_events)]
    elif our_code == 1002:
        # A frame may have two faults, of which the library sees the other first; or the library waits for the
        # end of a frame that we refuse by its head.
        assert our_events == their_events
        assert their_code in (1002, 1007, 1009, None)
    else:
        assert (our_events, our_code) == (their_events, their_code)


def our_verdict(role: Role, data: bytes) -> Tuple[List[Any], Any, str]:
    receiver = ours(role)
    try:
        return list(receiver.receive_data(data)), None, ""
    except ConnectionFailed as failure:
        assert receiver.state is State.CLOSED
        return list(failure.events), failure.close_code, str(failure)


def their_verdict(role: Role, data: bytes) -> Tuple[List[Any], Any]:
    receiver: Any = theirs(role)
    receiver.receive_data(data)
    failed = receiver.parser_exc is not None
    return events_of(receiver.events_received()), receiver.close_sent.code if failed else None


# -- the upgrade --


def test_the_library_takes_our_request_and_we_take_its_answer() -> None:
    key = new_key(bytes(16))
    server = ServerProtocol()
    server.receive_data(client_request("localhost:1", "/v1/data-channel/s?stream=input", [], key))
    (request,) = server.events_received()
    assert isinstance(request, Request)
    server.send_response(server.accept(request))
    answer = b"".join(server.data_to_send())

    assert request.path == "/v1/data-channel/s?stream=input"
    assert parse_response(answer, key) == len(answer)


def test_we_take_its_request_and_the_library_takes_our_answer() -> None:
    client = ClientProtocol(parse_uri("ws://localhost:1/v1/control-channel/mi-1?role=subscribe"))
    client.send_request(client.connect())
    parsed = parse_request(b"".join(client.data_to_send()))
    assert parsed is not None
    client.receive_data(server_response(parsed[0].key))

    assert parsed[0].path == "/v1/control-channel/mi-1?role=subscribe"
    assert client.handshake_exc is None
    assert client.state is OPEN


def test_its_refusal_tells_us_status_and_body() -> None:
    server = ServerProtocol()
    server.send_response(server.reject(403, "Session is already terminated"))

    with pytest.raises(ConnectionFailed) as caught:
        parse_response(b"".join(server.data_to_send()), new_key(bytes(16)))

    assert caught.value.status == 403
    assert caught.value.body == "Session is already terminated"
