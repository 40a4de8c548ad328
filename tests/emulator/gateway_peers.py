"""Scripted peers of the message gateway: an agent and a client that do exactly what a test tells them."""

import base64
import hashlib
import json
import os
import socket
import ssl
import struct
import time
import uuid
from datetime import datetime, timezone
from typing import Any, List, Mapping, Optional, Tuple, Type, TypeVar
from urllib.parse import urlsplit

from botocore.credentials import Credentials
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from emulator.cloud_process import TIMEOUT, CloudProcess
from sagemaker_ssh_helper.errors import ConnectionFailed
from sagemaker_ssh_helper.names import AGENT_VERSION, CLIENT_VERSION, PRODUCT
from sagemaker_ssh_helper.protocol.control_channel import ControlPayload, parse_control, serialize_control
from sagemaker_ssh_helper.protocol.message import AgentMessage, parse_message_id, serialize_message
from sagemaker_ssh_helper.protocol.payloads import (
    Acknowledge,
    AgentJob,
    AgentJobAck,
    AgentTaskComplete,
    ChannelClosed,
    CreateChannelInput,
    CreateChannelOutput,
    InteractiveShell,
    OpenControlChannelInput,
    OpenDataChannelInput,
)
from sagemaker_ssh_helper.protocol.websocket import (
    Close,
    Event,
    Message,
    Opcode,
    Pong,
    Role,
    WebSocket,
    client_request,
    mask,
    new_key,
    parse_response,
)

OFFICIAL_VERSION = "3.3.0.0"
"""What the official agent of the captures calls itself; any version that is not ours counts as official."""

OFFICIAL_CLIENT_VERSION = "1.2.0.0"
"""The same of the official client."""

Payload = TypeVar("Payload")


OUR_HEADERS = {"User-Agent": f"{PRODUCT}/9.9.9 of another version"}
"""By which the gateway knows our agent and our client, whatever their versions."""


class Lost(Exception):
    """The connection is over."""


class Peer:
    """One WebSocket, blocking. Pongs to our pings come out of ``receive_event``."""

    def __init__(
        self, url: str, headers: Mapping[str, str] = {}, ssl_context: Optional[ssl.SSLContext] = None
    ) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "wss":
            assert ssl_context is not None, "the cloud's certificate has to be trusted"
            self._socket = ssl_context.wrap_socket(self._socket, server_hostname=parts.hostname)
        self._machine = WebSocket(Role.CLIENT, random_bytes=os.urandom)
        self._events: List[Event] = []
        self._send_timeout = TIMEOUT
        key = new_key(os.urandom(16))
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        others = [(name, value) for name, value in headers.items() if name.lower() != "host"]
        self._socket.sendall(client_request(parts.netloc, path, others, key))
        buffer = b""
        while True:
            data = self._socket.recv(65536)
            buffer += data
            try:
                size = parse_response(buffer, key, eof=not data)
            except ConnectionFailed:
                self._socket.close()
                raise
            if size is not None:
                break
        self._events += self._machine.receive_data(buffer[size:])

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send_text(self, data: bytes) -> None:
        self._machine.send_message(Opcode.TEXT, data)
        self._flush()

    def send(self, *messages: bytes) -> None:
        self._machine.send_messages(messages)
        self._flush()

    def send_raw(self, data: bytes) -> None:
        """Bytes that may be no WebSocket frame at all."""
        self._socket.sendall(data)

    def send_strictly(self, *messages: bytes) -> None:
        """The same. Raises TimeoutError when the other end takes nothing for ``set_send_timeout`` seconds."""
        self._machine.send_messages(messages)
        self._socket.settimeout(self._send_timeout)
        self._socket.sendall(self._machine.data_to_send())

    def set_send_timeout(self, seconds: float) -> None:
        self._send_timeout = seconds

    def send_fragment(self, data: bytes, *, first: bool, last: bool = False) -> None:
        """One fragment of a binary message. Raises Lost or OSError once nobody takes it."""
        if self.has_event():
            self.receive_event()
        head = (0x82 if last else 0x02) if first else (0x80 if last else 0x00)
        length = b"\xff" + len(data).to_bytes(8, "big") if len(data) > 0xFFFF else None
        if length is None:
            length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
        key = os.urandom(4)
        self.send_raw(bytes([head]) + length + key + mask(data, key))

    def send_fragmented(self, data: bytes, size: int) -> None:
        """One binary message in fragments of ``size`` bytes, which may be a few hundred at most."""
        for at in range(0, len(data), size):
            self.send_fragment(data[at : at + size], first=at == 0, last=at + size >= len(data))

    def has_event(self) -> bool:
        """Whether something is there to receive."""
        if self._events:
            return True
        self._socket.settimeout(0)
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False
        finally:
            self._socket.settimeout(TIMEOUT)

    def ping(self, data: bytes) -> None:
        self._machine.send_ping(data)
        self._flush()

    def receive_event(self, timeout: float = TIMEOUT) -> Event:
        """What comes next. Raises Lost, or TimeoutError after so many seconds."""
        until = time.monotonic() + timeout
        while not self._events:
            self._socket.settimeout(max(0.001, until - time.monotonic()))
            try:
                data = self._socket.recv(1 << 18)
            except (ConnectionResetError, BrokenPipeError):
                raise Lost from None
            if not data:
                raise Lost
            self._events += self._machine.receive_data(data)
            self._flush()
        event = self._events.pop(0)
        if isinstance(event, Close):
            raise Lost(f"{event.code} {event.reason}")
        return event

    def receive(self, timeout: float = TIMEOUT) -> bytes:
        """The next binary message; nothing else may come."""
        event = self.receive_event(timeout)
        assert isinstance(event, Message), event
        assert event.opcode == Opcode.BINARY, event
        return event.data

    def receive_message(self, timeout: float = TIMEOUT) -> AgentMessage:
        return AgentMessage.parse(self.receive(timeout))

    def receive_pong(self) -> bytes:
        event = self.receive_event()
        assert isinstance(event, Pong), event
        return event.data

    def synchronize(self) -> None:
        """Until the service has read all that was sent; what it sends meanwhile is kept."""
        self.ping(b"read?")
        kept: List[Event] = []
        while True:
            event = self.receive_event()
            if isinstance(event, Pong):
                assert event.data == b"read?", event
                break
            kept.append(event)
        self._events[:0] = kept

    def assert_silent(self, seconds: float) -> None:
        """Nothing comes for so long."""
        try:
            event = self.receive_event(seconds)
        except socket.timeout:
            return
        raise AssertionError(f"{event} came")

    def wait_lost(self) -> str:
        """Read until the connection is over; the Close frame's code and reason, or nothing."""
        while True:
            try:
                self.receive_event()
            except Lost as lost:
                return str(lost)

    def close(self) -> None:
        """The way official peers go: without a Close frame."""
        self._socket.close()

    def reset(self) -> None:
        """Drop the connection as a broken network does."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def _flush(self) -> None:
        data = self._machine.data_to_send()
        if data:
            self._socket.settimeout(TIMEOUT)
            try:
                self._socket.sendall(data)
            except OSError:
                # The other end is gone; receiving tells.
                return


def data_message(
    message_type: str,
    payload: bytes,
    number: int = 0,
    payload_type: int = 1,
    flags: int = 0,
    message_id: Optional[bytes] = None,
) -> bytes:
    """A message of a data channel."""
    created_ms = int(time.time() * 1000)
    message_id = uuid.uuid4().bytes if message_id is None else message_id
    return serialize_message(message_type, payload, number, flags, payload_type, message_id, created_ms)


def input_data(payload: bytes, number: int, payload_type: int = 1) -> bytes:
    return data_message("input_stream_data", payload, number, payload_type)


def output_data(payload: bytes, number: int, payload_type: int = 1) -> bytes:
    return data_message("output_stream_data", payload, number, payload_type, 0 if number else 1)


def acknowledge(data: bytes) -> bytes:
    """The acknowledge of a stream message."""
    message = AgentMessage.parse(data)
    body = Acknowledge.body(message.message_type, message.message_id, message.sequence_number)
    return data_message("acknowledge", body, 0, 0, 3)


class Node:
    """
    A managed instance without a program in it: registered, with credentials, and channels on request.

    Args:
        cloud: where.
        tags: of its activation.
        version: what its agent calls itself.
    """

    def __init__(
        self,
        cloud: CloudProcess,
        tags: Mapping[str, str] = {},
        *,
        version: str = OFFICIAL_VERSION,
        name: str = "algo-1.job.training.sagemaker",
    ) -> None:
        self.cloud = cloud
        self.version = version
        self.key = _KEY
        self.fingerprint = str(uuid.uuid4())
        activation = cloud.client("ssm").create_activation(
            IamRole=cloud.role,
            DefaultInstanceName=name,
            Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        )
        status, answer = cloud.post(
            "/",
            {
                "ActivationCode": activation["ActivationCode"],
                "ActivationId": activation["ActivationId"],
                "Fingerprint": self.fingerprint,
                "PublicKey": public_key_text(self.key),
                "PublicKeyType": "Rsa",
            },
            None,
            "ssm",
            target="AmazonSSM.RegisterManagedInstance",
        )
        assert status == 200, answer
        self.activation_id: str = activation["ActivationId"]
        self.id: str = answer["InstanceId"]
        status, token = self.request_token()
        assert status == 200, token
        self.token = token
        self.credentials = Credentials(token["AccessKeyId"], token["SecretAccessKey"], token["SessionToken"])

    def request_token(self, **changes: Any) -> Tuple[int, Any]:
        """RequestManagedInstanceRoleToken as the official agent sends it: RSA signature, chunked body."""
        return self.rsa_call("RequestManagedInstanceRoleToken", {"Fingerprint": self.fingerprint}, **changes)

    def rsa_call(
        self,
        operation: str,
        body: Mapping[str, Any],
        *,
        key: Optional[rsa.RSAPrivateKey] = None,
        date: str = "",
        salt_bytes: int = 32,
        instance_id: str = "",
    ) -> Tuple[int, Any]:
        """A call signed with the instance's own key."""
        url = urlsplit(self.cloud.info["endpoint_url"])
        data = json.dumps(body, separators=(",", ":")).encode()
        date = date or datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{date[:8]}/{self.cloud.region}/ssm/aws4_request"
        signed = {
            "content-type": "application/x-amz-json-1.1",
            "host": url.netloc,
            "x-amz-date": date,
            "x-amz-target": f"AmazonSSM.{operation}",
        }
        names = ";".join(signed)
        canonical = "\n".join(
            [
                *("POST", "/", ""),
                *(f"{name}:{value}" for name, value in signed.items()),
                *("", names, hashlib.sha256(data).hexdigest()),
            ]
        )
        text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        signature = (key or self.key).sign(
            text.encode(), padding.PSS(padding.MGF1(hashes.SHA256()), salt_bytes), hashes.SHA256()
        )
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={instance_id or self.id}/{scope}, SignedHeaders={names}, "
            f"Signature={base64.b64encode(signature).decode()}"
        )
        lines = [
            "POST / HTTP/1.1",
            *(f"{name}: {value}" for name, value in signed.items()),
            f"Authorization: {authorization}",
            f"X-Amz-Content-Sha256: {hashlib.sha256(data).hexdigest()}",
            "Transfer-Encoding: chunked",
            "Connection: close",
            "",
            f"{len(data):x}",
        ]
        plain = socket.create_connection((url.hostname, url.port), TIMEOUT)
        context = self.cloud.ssl_context
        with context.wrap_socket(plain, server_hostname=url.hostname) if context else plain as connection:
            connection.sendall("\r\n".join(lines).encode() + b"\r\n" + data + b"\r\n0\r\n\r\n")
            answer = b""
            while True:
                part = connection.recv(65536)
                if not part:
                    break
                answer += part
        head, _, text_body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(text_body)

    def call(self, operation: str, **params: Any) -> Tuple[int, Any]:
        """A call of Systems Manager that only agents make."""
        return self.cloud.post("/", params, self.credentials, "ssm", target=f"AmazonSSM.{operation}")

    def message_call(self, operation: str, **params: Any) -> Tuple[int, Any]:
        """A call of the message delivery service."""
        target = f"EC2WindowsMessageDeliveryService.{operation}"
        return self.cloud.post("/", params, self.credentials, "ec2messages", target=target)

    def ping(self, **more: Any) -> None:
        status, answer = self.call(
            "UpdateInstanceInformation",
            AgentName="amazon-ssm-agent",
            AgentVersion=self.version,
            InstanceId=self.id,
            PlatformType="Linux",
            **more,
        )
        assert (status, answer) == (200, {})

    def create_channel(self, kind: str, channel_id: str) -> Tuple[int, str]:
        """The POST that an agent opens a channel with: status and XML."""
        body = CreateChannelInput(str(uuid.uuid4()), None if kind == "control" else "").serialize()
        return self.cloud.request(
            "POST",
            f"/v1/{kind}-channel/{channel_id}",
            body,
            {"Content-Type": "application/json"},
            self.credentials,
            "ssmmessages",
        )

    def dial(self, kind: str, channel_id: str) -> Peer:
        """The WebSocket of a channel, without its opening frame."""
        query = "role=subscribe&stream=input" if kind == "control" else "role=publish_subscribe"
        path = f"/v1/{kind}-channel/{channel_id}?{query}"
        headers = self.cloud.signed_headers("GET", path, b"", {}, self.credentials, "ssmmessages")
        ours = OUR_HEADERS if self.version == AGENT_VERSION else {}
        return Peer(websocket_url(self.cloud) + path, {**headers, **ours}, self.cloud.ssl_context)

    def open_control(self) -> "ControlPeer":
        status, xml = self.create_channel("control", self.id)
        assert status == 201, xml
        peer = self.dial("control", self.id)
        token = CreateChannelOutput.parse(xml.encode()).token
        peer.send_text(OpenControlChannelInput(token, str(uuid.uuid4()), self.version).serialize())
        control = ControlPeer(peer, self)
        control.wait_connected()
        return control

    def open_data(self, session_id: str) -> Peer:
        status, xml = self.create_channel("data", session_id)
        assert status == 201, xml
        peer = self.dial("data", session_id)
        token = CreateChannelOutput.parse(xml.encode()).token
        opening = OpenDataChannelInput(token, str(uuid.uuid4()), client_instance_id=self.id)
        peer.send_text(opening.serialize())
        return peer


class ControlPeer:
    """An agent's control channel."""

    def __init__(self, peer: Peer, node: Node) -> None:
        self.peer = peer
        self._node = node

    def __enter__(self) -> "ControlPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.peer.close()

    def wait_connected(self) -> None:
        """Until the service has read all that was sent, the opening frame at first."""
        self.peer.synchronize()

    def receive(self, kind: Type[Payload], timeout: float = TIMEOUT) -> Tuple[AgentMessage, Payload]:
        """The next message, which has to be of this kind."""
        message, payload = parse_control(self.peer.receive(timeout))
        assert isinstance(payload, kind), payload
        return message, payload

    def receive_offer(self) -> InteractiveShell:
        return self.receive(InteractiveShell)[1]

    def receive_job(self) -> Tuple[AgentMessage, AgentJob]:
        return self.receive(AgentJob)

    def send(self, payload: ControlPayload, message_id: Optional[str] = None) -> None:
        identifier = parse_message_id(message_id or str(uuid.uuid4()))
        created_ms = int(time.time() * 1000)
        self.peer.send(serialize_control(payload, message_id=identifier, created_ms=created_ms))

    def acknowledge_job(self, message: AgentMessage, job: AgentJob, code: str = "200") -> None:
        self.send(AgentJobAck(job.job_id, str(uuid.UUID(bytes=message.message_id)), "", code, "said so"))

    def complete(self, session_id: str, status: str = "Success", output: str = "") -> None:
        self.send(AgentTaskComplete(session_id, status, self._node.id, output))


def open_client(
    grant: Mapping[str, str],
    token: str = "",
    ssl_context: Optional[ssl.SSLContext] = None,
    version: str = OFFICIAL_CLIENT_VERSION,
) -> Peer:
    """The client's data channel, opened with what StartSession answered."""
    ours = OUR_HEADERS if version == CLIENT_VERSION else {}
    peer = Peer(grant["StreamUrl"], ours, ssl_context=ssl_context)
    opening = OpenDataChannelInput(
        token or grant["TokenValue"], str(uuid.uuid4()), str(uuid.uuid4()), version
    )
    peer.send_text(opening.serialize())
    return peer


def closed_output(data: bytes) -> str:
    """The output of a channel_closed message."""
    message = AgentMessage.parse(data)
    assert message.message_type == "channel_closed", message
    return ChannelClosed.parse(message.payload).output


def websocket_url(cloud: CloudProcess) -> str:
    url: str = cloud.info["message_gateway_url"]
    return url.replace("http", "ws", 1)


def public_key_text(key: rsa.RSAPrivateKey) -> str:
    """A public key as it is registered."""
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def new_private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


# Making one takes a tenth of a second; nodes may share it.
_KEY = new_private_key()
