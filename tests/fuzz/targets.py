"""
What is fuzzed: for each parser one function over bytes, that returns or raises.

A target catches the errors that its parser documents. Anything else that comes out is a finding, and so is an
AssertionError of the properties checked here: the same result however the bytes are cut, what was parsed can
be serialized and parsed again, and memory bounded by a constant.
"""

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Tuple

from fuzz import seeds
from protocol.aead import ToyAead
from sagemaker_ssh_helper import aws_errors, proxy_variables, public_keys
from sagemaker_ssh_helper.agent import aws_api, credentials, documents, ports, programs
from sagemaker_ssh_helper.agent.transport import Answer
from sagemaker_ssh_helper.aws import instances, json_rpc, sessions
from sagemaker_ssh_helper.channels import proxy
from sagemaker_ssh_helper.client import trust
from sagemaker_ssh_helper.errors import ConnectionFailed, MalformedMessage, SSHHelperError, UsageError
from sagemaker_ssh_helper.names import Tag
from sagemaker_ssh_helper.protocol import control_channel, data_channel, go_json, message, payloads, websocket
from sagemaker_ssh_helper.protocol.data_channel import DataChannel, DataKeyNeeded, Side, State
from sagemaker_ssh_helper.protocol.message import (
    AgentMessage,
    MessageType,
    serialize_message,
)
from sagemaker_ssh_helper.protocol.payload_size import PROBE_AFTER_BYTES


@dataclass(frozen=True)
class Target:
    """One parser."""

    name: str
    run: Callable[[bytes], None]
    """Raises for a finding only."""
    seeds: Callable[[], List[bytes]]
    covers: Tuple[Any, ...]
    """Modules, classes and functions whose branches it shall reach."""
    longest: int = 1 << 13
    """Bytes of an input at most."""


class Reader:
    """Takes an input apart, for targets that want more than one string of bytes. Never runs dry."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def number(self, size: int = 1) -> int:
        return int.from_bytes(self.bytes(size), "big")

    def bytes(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def block(self) -> bytes:
        """Its length is in the two bytes before it."""
        return self.bytes(self.number(2))

    def rest(self) -> bytes:
        return self.bytes(len(self._data))


def _told(error: Exception, *, statuses: Tuple[int, ...] = (), secret: bytes = b"") -> None:
    """What a documented error must be: short, and without what must not be told."""
    text = str(error)
    assert len(text) < 1000, "the whole input is quoted"
    assert not statuses or getattr(error, "status", None) in statuses
    assert len(secret) < 30 or secret[:100] not in text.encode("utf-8", "replace")


# -- protocol ---------------------------------------------------------------------------------------------

MAX_MESSAGE_BYTES = 512


def _events_of(role: websocket.Role, pieces: List[bytes], closing: bool) -> Tuple[List[Any], str, bytes]:
    socket = websocket.WebSocket(role, max_message_bytes=MAX_MESSAGE_BYTES, random_bytes=bytes)
    if closing:
        socket.send_close(1000, "")
    events: List[Any] = []
    fault = ""
    for piece in pieces:
        try:
            events += socket.receive_data(piece)
        except ConnectionFailed as error:
            events += error.events
            fault = str(error)
        held = len(socket._partial) + socket._fragments_bytes
        assert held <= 2 * MAX_MESSAGE_BYTES + len(piece) + 14, "bytes are hoarded"
    return [_plain(event) for event in events], fault, socket.data_to_send()


def _plain(event: Any) -> Tuple[Any, ...]:
    names = [name for name in ("opcode", "data", "code", "reason") if hasattr(event, name)]
    return (type(event).__name__, *(getattr(event, name) for name in names))


def _websocket(role: websocket.Role) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        # A hundred pieces at most: more of them only cost time.
        size = max(1, data[0] if data else 1, len(data) // 100)
        pieces = [data[at : at + size] for at in range(1, len(data), size)]
        closing = size % 4 == 3
        cut = _events_of(role, pieces, closing)
        whole = _events_of(role, [data[1:]], closing)
        assert cut == whole, "the result depends on how the bytes are cut"
        if role is websocket.Role.SERVER:
            key = data[:4].ljust(4, b"k")
            for text in (data, data * (websocket._STRIDED_BYTES // len(data) + 1) if data else b""):
                assert websocket.mask(websocket.mask(text, key), key) == text

    return run


def upgrade_response(data: bytes) -> None:
    reader = Reader(data)
    key = websocket.new_key(bytes(16))
    eof = reader.number() & 1 == 1
    buffer = reader.rest().replace(b"ACCEPT", websocket.accept_value(key).encode())
    try:
        size = websocket.parse_response(buffer, key, eof=eof)
    except ConnectionFailed as error:
        _told(error)
        return
    assert size is not None or len(buffer) < 1 << 17


def upgrade_request(data: bytes) -> None:
    try:
        found = websocket.parse_request(data)
    except ConnectionFailed as error:
        _told(error, statuses=(400, 426, 431))
        return
    if found is not None:
        request, size = found
        assert websocket.parse_request(data[:size]) == found
        websocket.parse_response(websocket.server_response(request.key), request.key)


def agent_message(data: bytes) -> None:
    try:
        parsed = AgentMessage.parse(data)
    except MalformedMessage as error:
        _told(error)
        return
    str(parsed)
    try:
        again = AgentMessage.parse(parsed.serialize())
    except ValueError:
        # It has a value that we would never write: an id of zeros, for one.
        return
    assert again == parsed


_PAYLOADS: Tuple[Any, ...] = tuple(
    value
    for _, value in sorted(vars(payloads).items())
    if isinstance(value, type) and hasattr(value, "parse") and value is not go_json.Fields
)


def payload(data: bytes) -> None:
    reader = Reader(data)
    kind = reader.number()
    body = reader.rest()
    try:
        if kind == 255:
            payloads.parse_flag(body)
            return
        if kind == 254:
            payloads.Acknowledge.parse_sequence_number(body)
            return
        if kind == 253:
            payloads.KmsResult.from_json(go_json.parse_json(body, "a result"))
            return
        parser = _PAYLOADS[kind % len(_PAYLOADS)]
        found = parser.parse(body)
    except MalformedMessage as error:
        _told(error)
        return
    str(found)
    again = parser.parse(found.serialize())
    assert parser.parse(again.serialize()) == again
    if parser is payloads.AgentJobReply:
        try:
            found.fitted(2000)
        except ValueError as error:
            _told(error)


_TYPES = sorted(value for name, value in vars(MessageType).items() if name[0] != "_")
_KINDS = (*sorted(data_channel.KINDS), "Something_New")


MAX_STEPS = 40
"""Of one conversation; more of them reach nothing new."""


def _data_channel(side: Side) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        reader = Reader(data)
        flags = reader.number()
        channel = DataChannel(
            side,
            "a-session",
            random_bytes=bytes,
            created_ms=lambda: 1700000000000,
            instance_id="mi-1",
            client_id="a client",
            version="3.3.1000.0",
            session_type=_KINDS[flags % len(_KINDS)],
            properties={"portNumber": "22"} if flags & 8 else None,
            kms_key_id="a key" if flags & 16 else "",
            window_bytes=4096,
        )
        now = 0.0
        channel.open("token", now)
        connected = True
        steps = 0
        while reader.more and steps < MAX_STEPS:
            steps += 1
            connected, now = _step(channel, reader, connected, now)
            channel.messages_to_send(now if flags & 32 else None)
            assert channel.writable == (channel.send_capacity_bytes > 0)
            deadline = channel.next_deadline()
            assert deadline is None or deadline >= 0.0
            if channel.state is State.CLOSED:
                assert channel.next_deadline() is None
        receiver = channel._receiver
        assert len(channel._early) <= data_channel.MAX_EARLY_BYTES
        assert len(receiver._store) <= receiver.max_messages
        assert receiver._stored_bytes <= receiver.max_bytes

    incoming = MessageType.OUTPUT_STREAM_DATA if side is Side.CLIENT else MessageType.INPUT_STREAM_DATA

    def _step(channel: DataChannel, reader: Reader, connected: bool, now: float) -> Tuple[bool, float]:
        what = reader.number() % 18
        ready = channel.state in (State.OPEN, State.GRACE, State.CLOSING, State.CLOSED)
        events: List[Any] = []
        if what == 0:
            events = channel.receive_message(reader.block(), now)
        elif what <= 4:
            number = channel._receiver._contiguous if what <= 2 else reader.number()
            payload_type = reader.number()
            events = channel.receive_messages(
                [serialize_message(incoming, reader.block(), number, 0, payload_type, bytes(16), 1)], now
            )
        elif what == 5:
            kind = _TYPES[reader.number() % len(_TYPES)]
            events = channel.receive_text(serialize_message(kind, reader.block(), 0, 3, 0, bytes(16), 1), now)
        elif what == 6:
            message_id = ("another id", seeds.ANY_ID)[reader.number() & 1]
            body = payloads.Acknowledge(channel._outgoing, message_id, reader.number()).serialize()
            events = channel.receive_message(
                serialize_message(MessageType.ACKNOWLEDGE, body, 0, 3, 0, bytes(16), 1), now
            )
        elif what == 7 and ready:
            channel.send_data(bytes(reader.number(2) % 3000), now)
        elif what == 8 and ready:
            channel.send_flag(reader.number(), now)
        elif what == 9 and ready:
            channel.send_size(reader.number(), reader.number(), now)
        elif what == 10 and ready:
            channel.send_nothing(now)
        elif what == 11:
            channel.pause_delivery()
        elif what == 12:
            events = channel.resume_delivery(now)
        elif what == 13:
            now += reader.number() / 16
            events = channel.handle_timer(now)
        elif what == 14:
            if connected:
                channel.connection_lost(now)
            else:
                channel.open("token", now)
            connected = not connected
        elif what == 15:
            deadline = channel.next_deadline()
            if deadline is not None:
                now = max(now, deadline)
                events = channel.handle_timer(now)
        elif what == 16:
            channel.text_to_send()
        elif what == 17:
            number = reader.number()
            if number == 255:
                channel.close(now)
            elif number == 254:
                # As if so much had been sent already.
                channel._payload_size.next_probe(PROBE_AFTER_BYTES)
        for event in events:
            str(event)
            if isinstance(event, DataKeyNeeded):
                # The second comes too late.
                number = reader.number()
                if number & 1:
                    channel.provide_data_key(seeds.DATA_KEY, ToyAead, now)
                if number & 2 or not number & 1:
                    channel.refuse_data_key(UsageError("no key"), now)
                if number & 4:
                    channel.provide_data_key(seeds.DATA_KEY, ToyAead, now)
        return connected, now

    return run


def control(data: bytes) -> None:
    """The agent's machine, and the gateway's reading of what agents say."""
    channel = control_channel.ControlChannel(
        "mi-1", random_bytes=bytes, created_ms=lambda: 1700000000000, version="3.3.1000.0"
    )
    reader = Reader(data)
    now = 0.0
    channel.open("token", now)
    while reader.more:
        what = reader.number() % 8
        if what <= 3:
            kind = _TYPES[reader.number() % len(_TYPES)]
            body = reader.block()
            found = serialize_message(kind, body, 0, 3, 0, bytes(16), 1) if what else body
            for event in channel.receive_message(found, now):
                str(event)
                if isinstance(event, control_channel.JobOffered):
                    channel.job_ack(event)
            try:
                control_channel.parse_control(found)
            except MalformedMessage:
                pass
        elif what == 4:
            now += reader.number()
            channel.handle_timer(now)
        elif what == 5:
            channel.task_complete(payloads.AgentTaskComplete("a-session", "Success", "mi-1"), now)
        elif what == 6:
            channel.connection_lost(now)
        else:
            channel.open("token", now)
        channel.text_to_send()
        channel.messages_to_send()
        channel.next_deadline()
    assert channel.pending <= control_channel.MAX_PENDING


# -- the agent --------------------------------------------------------------------------------------------


def _json(data: bytes) -> Dict[str, Any]:
    return go_json.parse_json(data, "a document")


def command_document(data: bytes) -> None:
    """A command as the agent gets it: the payload of agent_job, its document, its steps."""
    try:
        for step in documents.command_steps(_json(data)):
            step.applies_to("Linux")
            assert isinstance(step.script.encode(), bytes)
            assert step.timeout > 0
            assert step.working_directory[:1] in ("", "/")
            assert step.on_failure in ("", "exit", "successAndExit")
            str(step)
    except (documents.DocumentRefused, MalformedMessage) as error:
        _told(error)


def session_document(data: bytes) -> None:
    """A session as the agent gets it: the payload of interactive_shell, and what it asks for."""
    for read in (programs.read_program, ports.port_target):
        try:
            found = read(payloads.InteractiveShell.parse(data))  # type: ignore[operator]
        except (documents.DocumentRefused, MalformedMessage) as error:
            _told(error)
            continue
        str(found)
    try:
        ports.refuse_denied("host", [data[:40].decode("latin-1")])
    except documents.DocumentRefused:
        pass


def credential_answer(data: bytes) -> None:
    """What a credential endpoint answers."""
    try:
        credentials._parse(data, "an endpoint")
    except SSHHelperError as error:
        _told(error, secret=data)
    try:
        credentials._refuse_exposed(data[:200].decode("latin-1"))
    except SSHHelperError as error:
        _told(error)


class _Road:
    """A transport whose answers are given."""

    def __init__(self, answers: List[Answer]) -> None:
        self.answers = answers

    def request(self, *arguments: Any, **options: Any) -> Answer:
        return self.answers.pop() if self.answers else Answer(404, {}, b"")


def _answer(reader: Reader) -> Answer:
    headers: Dict[str, str] = {}
    flags = reader.number()
    if flags & 1:
        headers["x-amzn-errortype"] = reader.bytes(20).decode("latin-1")
    if flags & 2:
        headers["date"] = reader.block()[:60].decode("latin-1")
    status = (200, 201, 400, 403, 429, 500)[flags // 4 % 6]
    return Answer(status, headers, reader.block())


def agent_api(data: bytes) -> None:
    """What AWS answers the agent."""
    reader = Reader(data)
    operation = reader.number() % 6
    api = aws_api.AwsApi(
        "eu-west-1",
        lambda: credentials.Credentials("AKIA", "secret", None, None),
        environ={},
        transport=_Road([_answer(reader), _answer(reader)]),  # type: ignore[arg-type]
        now=lambda: 1700000000.0,
        sleep=lambda seconds: None,
    )
    try:
        if operation == 0:
            api.create_activation("role", "name", {})
        elif operation == 1:
            api.create_control_channel(instances.InstanceId("mi-1"))
        elif operation == 2:
            api.create_data_channel("a-session")
        elif operation == 3:
            api.decrypt("key", b"", {})
        elif operation == 4:
            api.deregister_managed_instance(instances.InstanceId("mi-1"))
        else:
            api.update_instance_information(instances.InstanceId("mi-1"))
    except SSHHelperError as error:
        _told(error)


# -- the user's side --------------------------------------------------------------------------------------


class _Session:
    """As much of a session as its client needs."""

    region = "eu-west-1"
    region_origin = "here"
    profile = None

    def __init__(self) -> None:
        self.clock = aws_errors.Clock()

    def endpoint_url(self, service: str) -> str:
        return "https://aws.example"

    def signed_headers(self, *arguments: Any) -> Dict[str, str]:
        return {}

    def renew(self) -> bool:
        return True


class _Response:
    def __init__(self, answer: Answer) -> None:
        self.status_code = answer.status
        self.headers = answer.headers
        self.content = answer.body


class _Http:
    def __init__(self, answers: List[Answer]) -> None:
        self.answers = answers

    def send(self, request: Any) -> _Response:
        return _Response(self.answers.pop() if self.answers else Answer(404, {}, b""))


def client_api(data: bytes) -> None:
    """What AWS answers the user's side."""
    reader = Reader(data)
    operation = reader.number() % 4
    client = json_rpc.Client(_Session(), sleep=lambda seconds: None)  # type: ignore[arg-type]
    http = _Http([_answer(reader), _answer(reader)])
    client._http_for = lambda url: http  # type: ignore[method-assign]
    try:
        if operation == 0:
            sessions.start(client, instances.InstanceId("mi-1"))
        elif operation == 1:
            for instance in instances.list_all(client):
                str(instance)
        elif operation == 2:
            client.caller_id()
        else:
            instances.tags_of(client, instances.InstanceId("mi-1"))
    except SSHHelperError as error:
        _told(error)


_PROXY = proxy_variables.Proxy("proxy", 3128)
_ADDRESS = proxy.Address(True, "host", 443, "host", "/")


def connect_answer(data: bytes) -> None:
    """What a proxy answers CONNECT, and the addresses that a service hands out."""
    try:
        proxy.check_answer(data, _PROXY, _ADDRESS)
    except ConnectionFailed as error:
        _told(error)
    try:
        proxy.Address.parse(data.decode("latin-1"))
    except ConnectionFailed as error:
        _told(error)


_NAME = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def tags(data: bytes) -> None:
    """The tags of a node, which whoever can tag it writes: its host key, its port, its user, its keys."""
    reader = Reader(data)
    names = (Tag.HOST_KEY, Tag.PORT, Tag.USER, Tag.KEYS)
    found: Dict[str, str] = {}
    for name in names:
        if reader.more:
            found[name] = reader.block().decode("utf-8", "replace")
    instance = instances.Instance(instances.InstanceId("mi-1"), "Online")
    try:
        key = trust._host_key(instance, found)
        if key is not None:
            assert public_keys.parse_host_key(key.line) == key
    except SSHHelperError as error:
        _told(error)
    assert 0 < trust.port_of(found) < 65536
    user = trust._user(found)
    assert user is None or (set(user[:-1]) <= _NAME and user[0] != "-"), "that goes into ssh"
    trust._keys(found)
    try:
        parsed = public_keys.PublicKey.parse(found.get(Tag.HOST_KEY, ""))
    except UsageError:
        return
    assert public_keys.PublicKey.parse(parsed.line) == parsed
    assert len(parsed.fingerprint) == 16


TARGETS = {
    target.name: target
    for target in (
        Target(
            "websocket-client", _websocket(websocket.Role.CLIENT), seeds.websocket_frames(False),
            (websocket.WebSocket._parse, websocket.WebSocket._check, websocket.WebSocket._receive_frame,
             websocket.WebSocket._receive_close, websocket.WebSocket.receive_data), 1 << 10,
        ),
        Target(
            "websocket-server", _websocket(websocket.Role.SERVER), seeds.websocket_frames(True),
            (websocket.WebSocket._parse, websocket.WebSocket._check, websocket.WebSocket._receive_frame,
             websocket.WebSocket._receive_close, websocket.WebSocket.receive_data, websocket.mask), 1 << 10,
        ),
        Target(
            "upgrade-response", upgrade_response, seeds.upgrade_responses,
            (websocket.parse_response, websocket._parse_head),
        ),
        Target(
            "upgrade-request", upgrade_request, seeds.upgrade_requests,
            (websocket.parse_request, websocket.is_key, websocket._parse_head),
        ),
        Target("agent-message", agent_message, seeds.messages, (message.AgentMessage.parse,)),
        Target("payload", payload, seeds.payloads(_PAYLOADS), (payloads, go_json)),
        Target(
            "data-channel-client", _data_channel(Side.CLIENT), seeds.data_channels(_TYPES),
            (DataChannel,), 1 << 11,
        ),
        Target(
            "data-channel-agent", _data_channel(Side.AGENT), seeds.data_channels(_TYPES),
            (DataChannel,), 1 << 11,
        ),
        Target(
            "control-channel", control, seeds.control_channels(_TYPES),
            (control_channel.ControlChannel.receive_message, control_channel.parse_control,
             control_channel.ControlChannel._forget),
        ),
        Target("command-document", command_document, seeds.command_documents, (documents,)),
        Target(
            "session-document", session_document, seeds.session_documents,
            (programs, ports.port_target, ports.refuse_denied, ports._property),
        ),
        Target(
            "credential-answer", credential_answer, seeds.credential_answers,
            (credentials._parse, credentials.parse_time, credentials._refuse_exposed),
        ),
        Target(
            "agent-api", agent_api, seeds.api_answers,
            (aws_api._object, aws_api._text, aws_errors.read_error, aws_errors.kind_of, aws_api._error,
             aws_api.AwsApi._create_channel, aws_api.AwsApi._learn_skew, payloads.CreateChannelOutput),
        ),
        Target(
            "client-api", client_api, seeds.api_answers,
            (aws_errors.read_error, json_rpc.error_of, json_rpc.Client.call, json_rpc.Client.pages,
             json_rpc.Client.caller, instances._described, sessions._grant, sessions.start,
             instances.tags_of),
        ),
        Target(
            "connect-answer", connect_answer, seeds.connect_answers,
            (proxy.check_answer, proxy.Address.parse),
        ),
        Target(
            "tags", tags, seeds.tags,
            (public_keys, trust._host_key, trust.port_of, trust._user, trust._keys),
        ),
    )
}  # fmt: skip
