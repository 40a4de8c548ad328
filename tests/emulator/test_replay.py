"""
What the official agent and client sent in the recorded sessions, sent again to the live gateway.

A scripted peer on each side sends the recorded messages, byte for byte but for the ids and tokens that are
made anew each time, and takes what the gateway sends. Relayed messages must be the sender's bytes; the
gateway's own must be of the recorded type, with the same header fields and the same members in the payload.
One that is missing, and one that nobody expects, fail the test. Within each kind (stream, acknowledges, the
gateway's own) the recorded order must hold; between them it is open, because acknowledges to an official
agent are held back for some milliseconds and other messages overtake them.

The texts of the documents are those of the stand-in that recorded the sessions, so of them the members are
compared and not the words.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from emulator.cloud_process import CloudProcess
from emulator.gateway_peers import ControlPeer, Node, Peer
from sagemaker_ssh_helper import names
from sagemaker_ssh_helper.protocol.message import AgentMessage, format_message_id
from sagemaker_ssh_helper.protocol.payloads import CreateChannelOutput
from sagemaker_ssh_helper.protocol.websocket import Opcode

CAPTURES = Path(__file__).parents[1] / "captures"
SESSIONS = [
    "03-send-command",
    "04-ssh-session",
    "05-shell-session",
    "06-port-forward",
    "07-interactive-command",
    "08-non-interactive-command",
    "09-kms-session",
    "10-port-basic",
    "11-resume",
    "12-cancel-command",
]
INSTANCE_ID = "mi-ae5e479b7ca04881f"
SETTLE = 0.3  # seconds in which nothing more may come

RELAYED = ("input_stream_data", "output_stream_data", "acknowledge")


@pytest.fixture
def quick_polls(ssm_cloud: CloudProcess) -> Iterator[CloudProcess]:
    """A cloud that answers GetMessages after a second."""
    ssm_cloud.faults(kind="message-poll", seconds=1)
    yield ssm_cloud
    ssm_cloud.clear_faults()


def read_capture(name: str) -> list[dict[str, Any]]:
    with (CAPTURES / f"{name}.jsonl").open() as lines:
        return [json.loads(line) for line in lines]


def members(value: Any) -> Any:
    """The members of a JSON value, without the values."""
    if isinstance(value, Mapping):
        return {key: members(item) for key, item in value.items()}
    return type(value).__name__


class Inbox:
    """What one peer was sent and nobody has asked for yet."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._waiting: list[AgentMessage] = []
        self._pongs: list[bytes] = []

    def take(self, kind: str) -> AgentMessage:
        """The next message of this kind: ``"stream"``, ``"acknowledge"`` or ``"gateway"``."""
        while True:
            for message in self._waiting:
                if kind_of(message.message_type) == kind:
                    self._waiting.remove(message)
                    return message
            self._receive()

    def take_pong(self) -> bytes:
        while not self._pongs:
            self._receive()
        return self._pongs.pop(0)

    def assert_empty(self) -> None:
        self.peer.assert_silent(SETTLE)
        assert self._waiting == []
        assert self._pongs == []

    def _receive(self) -> None:
        event = self.peer.receive_event()
        if getattr(event, "opcode", None) == Opcode.BINARY:
            self._waiting.append(AgentMessage.parse(event.data))
        else:
            self._pongs.append(event.data)


def kind_of(message_type: str) -> str:
    if message_type == "acknowledge":
        return "acknowledge"
    return "stream" if message_type in RELAYED else "gateway"


class Replay:
    """
    One recorded session, against a node whose control channel is open.

    ``ids`` maps recorded ids to those of now; texts are translated by replacing them.
    """

    def __init__(self, cloud: CloudProcess, capture: str, version: str) -> None:
        self.cloud = cloud
        self.entries = read_capture(capture)
        self.ssm = cloud.client("ssm")
        self.node = Node(cloud, version=version)
        self.ids = {INSTANCE_ID: self.node.id}
        self.control = self.node.open_control()
        self.inboxes: dict[str, Inbox] = {"agent control-channel": Inbox(self.control.peer)}
        self.grant: Mapping[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.answers: dict[str, Any] = {}
        self.sent: dict[bytes, bytes] = {}
        self.closed: list[Peer] = [self.control.peer]
        self.threads: list[threading.Thread] = []

    def run(self) -> None:
        try:
            for entry in self.entries:
                getattr(self, f"_{entry['kind']}_{entry['dir'].replace('->', '_to_')}")(entry)
            for inbox in self.inboxes.values():
                inbox.assert_empty()
        finally:
            for peer in self.closed:
                peer.close()
            for thread in self.threads:
                thread.join()

    # -- calls --

    def _http_request(self, entry: dict[str, Any]) -> None:
        service, _, operation = entry["id"].partition(".")
        if entry["id"] == "upgrade":
            self._upgrade(entry)
        elif service == "AmazonSSM" and "x-amz-security-token" in entry["headers"]:
            status, answer = self.node.call(operation, **self._translated(entry["decoded"]))
            self.answers[entry["id"]] = status, answer
        elif service == "AmazonSSM":
            call = getattr(self.ssm, _METHODS[operation])
            answer = call(**self._translated(entry["decoded"]))
            metadata = answer.pop("ResponseMetadata")
            self.answers[entry["id"]] = metadata["HTTPStatusCode"], answer
        elif service == "EC2WindowsMessageDeliveryService":
            self._poll(entry)
        elif service == "MGS":
            status, xml = self.node.create_channel("data", self._translate(entry["path"].split("/")[-1]))
            self.answers[entry["id"]] = status, xml
        else:
            assert service == "TrentService", f"{entry['id']} is not for the gateway or Systems Manager"

    def _http_response(self, entry: dict[str, Any]) -> None:
        name = entry["id"]
        if name == "upgrade" or name.startswith("TrentService."):
            return
        if name.endswith(".GetMessages"):
            self._check_poll(entry)
            return
        status, answer = self.answers[name]
        assert status == entry["status"]
        if name.startswith("MGS."):
            root = CreateChannelOutput.parse(entry["decoded"].encode()).root
            found = CreateChannelOutput.parse(answer.encode())
            assert found.root == root
            self.tokens["agent"] = found.token
            return
        recorded = entry["decoded"]
        # Other members than the stand-in knew are no harm.
        assert set(recorded) <= set(answer)
        if "SessionId" in recorded:
            self.ids[recorded["SessionId"]] = answer["SessionId"]
        if "TokenValue" in recorded:
            self.grant = answer
            self.tokens["client"] = answer["TokenValue"]
            expected = self._translate(recorded["StreamUrl"].partition("/v1/")[2])
            assert answer["StreamUrl"].partition("&cell-number=")[0].endswith(expected)
        if "Command" in recorded:
            command, live = recorded["Command"], answer["Command"]
            self.ids[command["CommandId"]] = live["CommandId"]
            assert live["Status"] == "Pending"
            for member in ("DocumentName", "Parameters", "InstanceIds"):
                assert live[member] == self._translated(command[member])

    def _poll(self, entry: dict[str, Any]) -> None:
        """A long poll answers while other things happen."""

        def ask() -> None:
            self.answers[entry["id"]] = self.node.message_call(
                "GetMessages", **self._translated(entry["decoded"])
            )

        self.threads.append(threading.Thread(target=ask))
        self.threads[-1].start()

    def _check_poll(self, entry: dict[str, Any]) -> None:
        if not self.threads:
            # This one answers a call that is in another recording.
            fields = self._translated(entry["decoded"])
            del fields["Messages"]
            self._poll({"id": entry["id"], "decoded": {**fields, "VisibilityTimeoutInSeconds": 10}})
        self.threads.pop().join()
        assert self.answers[entry["id"]] == (200, self._translated(entry["decoded"]))

    def _upgrade(self, entry: dict[str, Any]) -> None:
        if "authorization" in entry["headers"]:
            side = "agent"
            peer = self.node.dial("data", self._translate(_session_of(entry)))
        else:
            side = "client"
            peer = Peer(self.grant["StreamUrl"])
        self.closed.append(peer)
        self.inboxes[f"{side} data-channel"] = Inbox(peer)

    # -- messages of the peers --

    def _ws_agent_to_cloud(self, entry: dict[str, Any]) -> None:
        self._send("agent", entry)

    def _ws_client_to_cloud(self, entry: dict[str, Any]) -> None:
        self._send("client", entry)

    def _send(self, side: str, entry: dict[str, Any]) -> None:
        peer = self.inboxes[f"{side} {entry['channel']}"].peer
        data = bytes.fromhex(entry["hex"])
        if entry["opname"] == "ping":
            peer.ping(data)
        elif entry["opname"] == "text":
            recorded = json.loads(data)["TokenValue"]
            text = self._translate(data.decode()).replace(recorded, self.tokens[side])
            peer.send_text(text.encode())
        else:
            message = AgentMessage.parse(data)
            if message.message_type == "agent_task_complete":
                # The agent closed its data channel before; the recording has no line for that.
                inbox = self.inboxes.pop("agent data-channel")
                inbox.assert_empty()
                inbox.peer.close()
            if message.message_type not in RELAYED:
                payload = self._translate(message.payload.decode()).encode()
                data = AgentMessage(
                    message.message_type,
                    payload,
                    message.sequence_number,
                    message.flags,
                    message.payload_type,
                    message.message_id,
                    message.created_ms,
                ).serialize()
            self.sent[message.message_id] = data
            peer.send(data)

    # -- messages of the gateway --

    def _ws_cloud_to_agent(self, entry: dict[str, Any]) -> None:
        self._expect("agent", entry)

    def _ws_cloud_to_client(self, entry: dict[str, Any]) -> None:
        self._expect("client", entry)

    def _expect(self, side: str, entry: dict[str, Any]) -> None:
        inbox = self.inboxes[f"{side} {entry['channel']}"]
        data = bytes.fromhex(entry["hex"])
        if entry["opname"] == "pong":
            assert inbox.take_pong() == data
            return
        recorded = AgentMessage.parse(data)
        if recorded.message_type == "pause_publication":
            # The recording has no line for the cut that caused it.
            self.inboxes["client data-channel"].peer.reset()
        message = inbox.take(kind_of(recorded.message_type))
        assert message.message_type == recorded.message_type
        if message.message_type in RELAYED:
            # The sender's bytes: in one recording the stand-in had changed two of them on the way.
            assert message.serialize() == self.sent[recorded.message_id]
            return
        for field in ("sequence_number", "flags", "payload_type", "schema_version"):
            assert getattr(message, field) == getattr(recorded, field)
        check = getattr(self, f"_check_{message.message_type}", self._check_same)
        check(json.loads(recorded.payload), json.loads(message.payload))
        self.ids[format_message_id(recorded.message_id)] = format_message_id(message.message_id)

    def _check_same(self, recorded: Any, live: Any) -> None:
        """pause_publication, start_publication, agent_task_acknowledge, agent_job_reply_ack."""
        assert live == self._translated(recorded)

    def _check_channel_closed(self, recorded: Any, live: Any) -> None:
        assert list(live) == list(recorded)
        assert members(live) == members(recorded)
        for member in ("MessageType", "DestinationId", "SessionId", "SchemaVersion", "Output"):
            assert live[member] == self._translated(recorded[member])

    def _check_interactive_shell(self, recorded: Any, live: Any) -> None:
        # The offer leaves before StartSession has answered.
        recorded_content, content = json.loads(recorded["Content"]), json.loads(live["Content"])
        self.ids[recorded_content["SessionId"]] = content["SessionId"]
        assert list(live) == list(recorded)
        assert (live["TaskId"], live["Topic"]) == (content["SessionId"], recorded["Topic"])
        assert list(content) == list(recorded_content)
        for member in ("DocumentName", "Parameters", "RunAsUser", "SessionId"):
            assert content[member] == self._translated(recorded_content[member])
        document, recorded_document = content["DocumentContent"], recorded_content["DocumentContent"]
        assert set(document) == set(recorded_document)
        for member in ("schemaVersion", "sessionType"):
            assert document[member] == recorded_document[member]
        for member in ("parameters", "inputs"):
            assert set(document.get(member, {})) == set(recorded_document.get(member, {}))
        assert members(document.get("properties")) == members(recorded_document.get("properties"))

    def _check_agent_job(self, recorded: Any, live: Any) -> None:
        assert list(live) == list(recorded)
        recorded_content, content = json.loads(recorded["Content"]), json.loads(live["Content"])
        if "CommandId" in content:
            self.ids[recorded_content["CommandId"]] = content["CommandId"]
            self.ids[recorded["JobId"]] = live["JobId"]
            assert live["JobId"] == f"aws.ssm.{content['CommandId']}.{self.node.id}"
            document, recorded_document = (
                content.pop("DocumentContent"),
                recorded_content.pop("DocumentContent"),
            )
            assert set(document) == set(recorded_document)
            assert document["schemaVersion"] == recorded_document["schemaVersion"]
            assert document["runtimeConfig"] == recorded_document["runtimeConfig"]
            assert set(document["parameters"]) == set(recorded_document["parameters"])
        else:
            self.ids[recorded["JobId"].split(".")[2]] = live["JobId"].split(".")[2]
        assert content == self._translated(recorded_content)
        # The stand-in's topics end with a word of its own.
        assert live["Topic"].split(".")[:3] == recorded["Topic"].split(".")[:3]

    # -- ids --

    def _translate(self, text: str) -> str:
        # The longest first: some contain others.
        for recorded in sorted(self.ids, key=len, reverse=True):
            text = text.replace(recorded, self.ids[recorded])
        return text

    def _translated(self, value: Any) -> Any:
        return json.loads(self._translate(json.dumps(value)))


_METHODS = {
    "StartSession": "start_session",
    "ResumeSession": "resume_session",
    "TerminateSession": "terminate_session",
    "SendCommand": "send_command",
    "CancelCommand": "cancel_command",
}


def _session_of(entry: dict[str, Any]) -> str:
    return str(entry["path"].partition("?")[0].rsplit("/", 1)[-1])


@pytest.mark.parametrize("capture", SESSIONS)
def test_recorded_session_passes_the_live_gateway(quick_polls: CloudProcess, capture: str) -> None:
    replay = Replay(quick_polls, capture, "3.3.0.0")
    replay.node.ping()
    replay.run()


@pytest.mark.parametrize("capture", ["03-send-command", "04-ssh-session", "11-resume"])
def test_recorded_session_passes_as_ours(quick_polls: CloudProcess, capture: str) -> None:
    """The same from an agent that needs no help with acknowledges."""
    replay = Replay(quick_polls, capture, names.AGENT_VERSION)
    replay.node.ping()
    replay.run()


def test_recorded_registration_is_answered_alike(ssm_cloud: CloudProcess) -> None:
    _, made, registration, registered = read_capture("01-register")
    answer = ssm_cloud.client("ssm").create_activation(IamRole=ssm_cloud.role, RegistrationLimit=10)
    body = {**registration["decoded"], **{key: answer[key] for key in made["decoded"]}}

    status, found = ssm_cloud.post("/", body, None, "ssm", target=registration["headers"]["x-amz-target"])

    assert (status, members(found)) == (registered["status"], members(registered["decoded"]))
    assert len(found["InstanceId"]) == len(registered["decoded"]["InstanceId"])


def test_recorded_start_of_an_agent_is_answered_alike(quick_polls: CloudProcess) -> None:
    """Token, pings, a poll in between, and the control channel; the signatures are made anew."""
    entries = read_capture("02-control-channel")
    node = Node(quick_polls)
    by_id = {(entry["id"], entry.get("dir")): entry for entry in entries}
    token = by_id["AmazonSSM.RequestManagedInstanceRoleToken", "response"]["decoded"]
    assert members(node.token) == members(token)
    pings = [entry for entry in entries if entry["id"] == "AmazonSSM.UpdateInstanceInformation"]
    for request, response in zip(pings[::2], pings[1::2], strict=True):
        answer = node.call("UpdateInstanceInformation", **{**request["decoded"], "InstanceId": node.id})
        assert answer == (response["status"], response["decoded"])

    status, xml = node.create_channel("control", node.id)

    recorded = by_id["MGS.CreateControlChannel", "response"]
    assert status == recorded["status"]
    assert CreateChannelOutput.parse(xml.encode()).root == (
        CreateChannelOutput.parse(recorded["decoded"].encode()).root
    )
    opening = next(entry for entry in entries if entry["kind"] == "ws")
    peer = node.dial("control", node.id)
    with ControlPeer(peer, node) as control:
        text = bytes.fromhex(opening["hex"]).decode()
        live = CreateChannelOutput.parse(xml.encode()).token
        peer.send_text(text.replace(opening["decoded"]["TokenValue"], live).encode())
        control.wait_connected()
        ssm = quick_polls.client("ssm")
        assert ssm.get_connection_status(Target=node.id)["Status"] == "connected"
        peer.assert_silent(SETTLE)
