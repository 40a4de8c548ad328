"""
Systems Manager and its message gateway in a thread of the test, just enough for one agent.

It is the far end of everything an agent speaks: the JSON calls, the two Create...Channel calls, both kinds
of WebSocket. The client of a session is in it too, as our own machine: the bytes it sends and gets are the
test's. Nothing is checked here that the local cloud checks; this is for what the agent does, on every Python.
"""

import asyncio
import json
import os
import threading
import time
import uuid
from types import TracebackType
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Type, TypeVar

from protocol.aead import ToyAead
from sagemaker_ssh_helper.errors import SSHHelperError
from sagemaker_ssh_helper.protocol.control_channel import ControlPayload, parse_control, serialize_control
from sagemaker_ssh_helper.protocol.data_channel import (
    ChannelClosed,
    DataChannel,
    DataKeyNeeded,
    Event,
    Failed,
    FlagReceived,
    Ready,
    Side,
    StreamData,
)
from sagemaker_ssh_helper.protocol.encryption import DataKey
from sagemaker_ssh_helper.protocol.message import (
    AgentMessage,
    MessageType,
    format_message_id,
    new_message_id,
    serialize_message,
)
from sagemaker_ssh_helper.protocol.payloads import (
    AgentJob,
    AgentJobAck,
    AgentJobReply,
    AgentJobReplyAck,
    AgentTaskAcknowledge,
    AgentTaskComplete,
    CreateChannelOutput,
    InteractiveShell,
    JobTopic,
)
from sagemaker_ssh_helper.protocol.payloads import ChannelClosed as ChannelClosedBody
from sagemaker_ssh_helper.protocol.websocket import (
    Close,
    Message,
    Opcode,
    Role,
    WebSocket,
    server_response,
)
from stream_server import StreamServer

MI = "mi-0123456789abcdef0"
DATA_KEY = DataKey(bytes(range(64)), b"encrypted by KMS")
"""Of every encrypted session here, under a toy cipher."""
TIMEOUT = 30.0

SSH_DOCUMENT = {
    "schemaVersion": "1.0",
    "sessionType": "Port",
    "parameters": {"portNumber": {"type": "String", "default": "22", "allowedPattern": "^[1-9][0-9]{0,4}$"}},
    "properties": {"portNumber": "{{ portNumber }}"},
}

RUN_SHELL_SCRIPT = {
    "schemaVersion": "1.2",
    "parameters": {
        "commands": {"type": "StringList"},
        "workingDirectory": {"type": "String", "default": ""},
        "executionTimeout": {"type": "String", "default": "3600"},
    },
    "runtimeConfig": {
        "aws:runShellScript": {
            "properties": [
                {
                    "id": "0.aws:runShellScript",
                    "runCommand": "{{ commands }}",
                    "workingDirectory": "{{ workingDirectory }}",
                    "timeoutSeconds": "{{ executionTimeout }}",
                }
            ]
        }
    },
}

_T = TypeVar("_T")
Answer = Tuple[int, Any]


def _created_ms() -> int:
    return int(time.time() * 1000)


class _Peer:
    """One WebSocket of the agent's, seen from the service."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.websocket = WebSocket(Role.SERVER, max_message_bytes=1 << 20, random_bytes=os.urandom)

    def send(self, *messages: bytes) -> None:
        for message in messages:
            self.websocket.send_message(Opcode.BINARY, message)
        self.flush()

    def flush(self) -> None:
        data = self.websocket.data_to_send()
        if data and not self.writer.is_closing():
            self.writer.write(data)

    def cut(self) -> None:
        self.writer.transport.abort()


class SessionClient:
    """The client of one session. Its methods may be called from the test's thread."""

    def __init__(
        self,
        service: "FakeService",
        session_id: str,
        session_type: str = "Port",
        version: str = "1.2.4515.0",
    ) -> None:
        self.session_id = session_id
        self.received = bytearray()
        self.by_type: Dict[int, bytearray] = {}
        """What came, by payload type."""
        self.flags: List[int] = []
        self.ready: Optional[Ready] = None
        self.failed: Optional[SSHHelperError] = None
        self.asked: Optional[DataKeyNeeded] = None
        """What KMS would have been asked."""
        self.wire = bytearray()
        """All that the agent sent on the data channel."""
        self.opened = 0
        """How often the agent opened its data channel."""
        self.states: List[str] = []
        self.delivers = True
        self._service = service
        self._channel = DataChannel(
            Side.CLIENT,
            session_id,
            random_bytes=os.urandom,
            created_ms=_created_ms,
            client_id=str(uuid.uuid4()),
            instance_id=MI,
            version=version,
            session_type=session_type,
        )
        self._peer: Optional[_Peer] = None
        self._timer: Optional[asyncio.TimerHandle] = None

    def send(self, data: bytes) -> None:
        self._service.call(lambda: self._act(lambda now: self._channel.send_data(data, now)))

    def send_flag(self, flag: int) -> None:
        self._service.call(lambda: self._act(lambda now: self._channel.send_flag(flag, now)))

    def send_size(self, cols: int, rows: int) -> None:
        self._service.call(lambda: self._act(lambda now: self._channel.send_size(cols, rows, now)))

    def close(self, output: str = "") -> None:
        """Tell the agent on the data channel that the session is over."""
        body = ChannelClosedBody(self.session_id, output=output, created_date="now").serialize()
        message = serialize_message(
            MessageType.CHANNEL_CLOSED, body, 0, 0, 0, new_message_id(os.urandom(16)), _created_ms()
        )
        self._service.call(lambda: self._peer and self._peer.send(message))

    def cut(self) -> None:
        """Break the agent's connection."""
        self._service.call(lambda: self._peer and self._peer.cut())

    def hold(self) -> None:
        """Take nothing more from the stream, so that the agent's window fills."""
        self._service.call(self._channel.pause_delivery)

    def release(self) -> None:
        self._service.call(lambda: self._act(lambda now: self._on_events(self._channel.resume_delivery(now))))

    @property
    def unacknowledged(self) -> int:
        """Messages that the agent has not taken."""
        return self._channel.unacknowledged

    def wait_settled(self, value: Callable[[], int]) -> int:
        """The value, once it has been the same for half a second."""
        last, since = value(), time.monotonic()
        until = since + TIMEOUT
        while time.monotonic() - since < 0.5:
            assert time.monotonic() < until, f"still changing: {last}"
            self._service.pause(0.05)
            if value() != last:
                last, since = value(), time.monotonic()
        return last

    def wait_for(self, size: int) -> bytes:
        """What came, once it is that many bytes."""
        self._service.wait(lambda: len(self.received) >= size, f"{size} bytes of {self.session_id}")
        return bytes(self.received)

    def wait_until(self, wanted: bytes) -> bytes:
        """What came, once that is in it."""
        self._service.wait(lambda: wanted in self.received, f"{wanted!r}, not {bytes(self.received)!r}")
        return bytes(self.received)

    def wait_ready(self) -> "SessionClient":
        self._service.wait(lambda: self.ready is not None, f"handshake of {self.session_id}")
        return self

    # --- in the service's thread ---

    def attach(self, peer: _Peer) -> None:
        if self._peer is not None:
            self._channel.connection_lost(time.monotonic())
        self._peer = peer
        self.opened += 1
        self._act(lambda now: self._channel.open("client-token", now))
        self._service.changed()

    def receive(self, data: bytes) -> None:
        self.wire += data
        message = AgentMessage.parse(data)
        if message.message_type == MessageType.AGENT_SESSION_STATE:
            self.states.append(json.loads(message.payload.decode())["SessionState"])
        self._act(lambda now: self._on_events(self._channel.receive_message(data, now)))

    def _act(self, what: Callable[[float], None]) -> None:
        now = time.monotonic()
        what(now)
        self._channel.text_to_send()
        if self._peer is not None:
            self._peer.send(*self._channel.messages_to_send(now))
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._channel.next_deadline()
        if deadline is not None:
            delay = max(0.0, deadline - time.monotonic())
            self._timer = self._service.loop.call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._act(lambda now: self._on_events(self._channel.handle_timer(now)))

    def _on_events(self, events: List[Event]) -> None:
        for event in events:
            if isinstance(event, StreamData):
                self.received += event.data
                self.by_type.setdefault(event.payload_type, bytearray()).extend(event.data)
            elif isinstance(event, Ready):
                self.ready = event
            elif isinstance(event, DataKeyNeeded):
                self.asked = event
                self._channel.provide_data_key(DATA_KEY, ToyAead, time.monotonic())
            elif isinstance(event, FlagReceived):
                self.flags.append(event.flag)
            elif isinstance(event, Failed):
                self.failed = event.error
            elif isinstance(event, ChannelClosed):
                pass
        if events:
            self._service.changed()


class FakeService:
    """
    Use it as a context manager; its fields may be read at any time.

    ``answers`` holds what to say to an operation instead of the usual: statuses with a body (bytes, or JSON),
    one for each call, the last one for ever.
    """

    def __init__(self) -> None:
        self.url = ""
        self.calls: List[Tuple[str, Any, Mapping[str, str]]] = []
        """(operation or path, JSON body, headers) of each HTTP request."""
        self.answers: Dict[str, List[Answer]] = {}
        self.controls: List[_Peer] = []
        """The control channels that are open."""
        self.control_openings = 0
        self.opening_frames: List[bytes] = []
        """The first message of each WebSocket."""
        self.sessions: Dict[str, SessionClient] = {}
        self.results: List[AgentTaskComplete] = []
        self.job_acks: List[AgentJobAck] = []
        self.job_replies: List[AgentJobReply] = []
        self.acknowledges = True
        """Whether results and replies are acknowledged."""
        self.token_life = 3600.0
        self.update_key_pair = False
        self.loop = asyncio.new_event_loop()
        self._changed = threading.Condition()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stop: Optional[asyncio.Event] = None

    # --- the test's side ---

    def __enter__(self) -> "FakeService":
        self._thread.start()
        assert self._started.wait(TIMEOUT)
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        assert self._stop is not None
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(TIMEOUT)

    def call(self, what: Callable[[], _T]) -> _T:
        """Do something in the service's thread."""

        async def run() -> _T:
            return what()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(TIMEOUT)

    def wait(self, condition: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
        """Until the condition holds; it is looked at whenever something happened, and now and then."""
        until = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < until, f"waited {timeout:g} s for: {what}"
            self.pause(0.05)

    def pause(self, seconds: float) -> None:
        """Until something happens, or that long."""
        with self._changed:
            self._changed.wait(seconds)

    def changed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def operations(self) -> List[str]:
        return [name for name, _, _ in self.calls]

    def wait_online(self) -> None:
        self.wait(lambda: bool(self.controls), "a control channel")

    def offer_session(
        self,
        port: Any = None,
        *,
        session_id: str = "",
        document: Optional[Mapping[str, Any]] = None,
        parameters: Optional[Mapping[str, Any]] = None,
        run_as_user: str = "",
        client_version: str = "1.2.4515.0",
    ) -> SessionClient:
        """Offer a session to the agent, and be its client."""
        session_id = session_id or f"user-{uuid.uuid4().hex[:17]}"
        document = document or SSH_DOCUMENT
        client = SessionClient(self, session_id, str(document.get("sessionType")), client_version)
        self.sessions.setdefault(session_id, client)
        if parameters is None:
            parameters = {} if port is None else {"portNumber": str(port)}
        self.send_control(
            InteractiveShell(session_id, "AWS-StartSSHSession", document, parameters, run_as_user)
        )
        return self.sessions[session_id]

    def send_control(self, payload: ControlPayload) -> str:
        """Send a message on the control channel; returns the text of its id."""
        message_id = new_message_id(os.urandom(16))
        message = serialize_control(payload, message_id=message_id, created_ms=_created_ms())
        self.call(lambda: self.controls[-1].send(message))
        return format_message_id(message_id)

    def send_command(
        self,
        *commands: str,
        command_id: str = "",
        document: Optional[Mapping[str, Any]] = None,
        **parameters: Any,
    ) -> str:
        """Offer a command; returns its id."""
        command_id = command_id or str(uuid.uuid4())
        content = {
            "CommandId": command_id,
            "DocumentName": "AWS-RunShellScript",
            "DocumentContent": document or RUN_SHELL_SCRIPT,
            "Parameters": {"commands": list(commands), **parameters},
        }
        topic = JobTopic.SEND_COMMAND + ".test"
        self.send_control(AgentJob(f"aws.ssm.{command_id}.{MI}", topic, content))
        return command_id

    def cancel_command(self, command_id: str) -> str:
        content = {"CancelMessageId": f"aws.ssm.{command_id}.{MI}"}
        job_id = f"aws.ssm.{uuid.uuid4()}.{MI}"
        self.send_control(AgentJob(job_id, JobTopic.CANCEL_COMMAND + ".test", content))
        return job_id

    def result(self, client: SessionClient) -> AgentTaskComplete:
        """How the session ended, once the agent says so."""

        def found() -> List[AgentTaskComplete]:
            return [result for result in self.results if result.task_id == client.session_id]

        self.wait(lambda: bool(found()), f"result of {client.session_id}")
        return found()[0]

    def replies(self, command_id: str) -> List[AgentJobReply]:
        return [reply for reply in self.job_replies if f".{command_id}." in reply.job_id]

    def final_reply(self, command_id: str) -> Mapping[str, Any]:
        """The content of the command's last reply, once it is there."""

        def found() -> List[Mapping[str, Any]]:
            contents = [reply.content for reply in self.replies(command_id)]
            return [content for content in contents if content["documentStatus"] != "InProgress"]

        self.wait(lambda: bool(found()), f"end of {command_id}")
        return found()[0]

    def cut_control(self) -> None:
        """Break the control channel's connection."""
        self.call(lambda: self.controls[-1].cut())

    # --- the service's side ---

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._serve())
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            asyncio.set_event_loop(None)
            self.loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        async with StreamServer(self._on_connection) as server:
            self.url = f"http://127.0.0.1:{server.port}"
            self._started.set()
            await self._stop.wait()
        for client in self.sessions.values():
            if client._timer is not None:
                client._timer.cancel()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            method, path, _ = first.split(" ", 2)
            headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
            if headers.get("upgrade") == "websocket":
                self.calls.append((path, None, headers))
                writer.write(server_response(headers["sec-websocket-key"]))
                await self._websocket(path, reader, writer)
                return
            body = await self._body(reader, headers)
            status, answer = self._answer(method, path, headers, json.loads(body.decode() or "null"))
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
            self.changed()

    async def _body(self, reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return await reader.readexactly(int(headers.get("content-length", 0)))
        body = b""
        while True:
            size = int(await reader.readline(), 16)
            body += (await reader.readexactly(size + 2))[:size]
            if size == 0:
                return body

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Answer:
        operation = headers.get("x-amz-target", "").partition(".")[2] or path
        self.calls.append((operation, body, headers))
        kind = "/".join(operation.split("/")[:3])
        scripted = self.answers.get(operation) or self.answers.get(kind)
        if scripted:
            return scripted.pop(0) if len(scripted) > 1 else scripted[0]
        if operation == "RegisterManagedInstance":
            return 200, {"InstanceId": MI}
        if operation == "RequestManagedInstanceRoleToken":
            update, self.update_key_pair = self.update_key_pair, False
            return 200, {
                "AccessKeyId": "ASIANODE",
                "SecretAccessKey": "secret",
                "SessionToken": f"token-{len(self.calls)}",
                "TokenExpirationDate": time.time() + self.token_life,
                "UpdateKeyPair": update,
            }
        if path.startswith("/v1/"):
            return 201, CreateChannelOutput(f"token-{len(self.calls)}").serialize()
        return 200, {}

    async def _websocket(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _Peer(writer)
        session = self.sessions.get(path.partition("?")[0].rpartition("/")[2])
        opened = False
        try:
            while True:
                data = await reader.read(65536)
                if not data:
                    return
                for event in peer.websocket.receive_data(data):
                    if isinstance(event, Close):
                        return
                    if not isinstance(event, Message):
                        continue
                    if not opened:
                        opened = True
                        self.opening_frames.append(event.data)
                        self._opened(peer, session)
                    elif session is not None:
                        session.receive(event.data)
                    else:
                        self._on_control(peer, event.data)
                peer.flush()
        finally:
            if peer in self.controls:
                self.controls.remove(peer)
            self.changed()

    def _opened(self, peer: _Peer, session: Optional[SessionClient]) -> None:
        if session is not None:
            session.attach(peer)
        else:
            self.controls.append(peer)
            self.control_openings += 1
        self.changed()

    def _on_control(self, peer: _Peer, data: bytes) -> None:
        message, payload = parse_control(data)
        text = format_message_id(message.message_id)
        answer: Optional[ControlPayload] = None
        if isinstance(payload, AgentTaskComplete):
            self.results.append(payload)
            answer = AgentTaskAcknowledge(text, payload.task_id)
        elif isinstance(payload, AgentJobReply):
            self.job_replies.append(payload)
            answer = AgentJobReplyAck(payload.job_id, text)
        elif isinstance(payload, AgentJobAck):
            self.job_acks.append(payload)
        if answer is not None and self.acknowledges:
            peer.send(
                serialize_control(answer, message_id=new_message_id(os.urandom(16)), created_ms=_created_ms())
            )
        self.changed()
