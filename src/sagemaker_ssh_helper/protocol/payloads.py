"""
The JSON bodies of messages, the opening text frames, and the answers of the two Create...Channel calls.

Each is a frozen dataclass; ``parse`` takes the bytes of a payload (MalformedMessage, and nothing else, for
what is not one), ``serialize`` gives the bytes as the official peers write them: their key order, no spaces,
``<``, ``>`` and ``&`` escaped. Keys are matched whatever their case, unknown ones are ignored, null counts as
absent. Vectors: the recorded payloads of the official peers in tests/captures.

Pure, standard library only, Python 3.8.
"""

import base64
import datetime
import json
import re
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Dict, List, Mapping, Optional, Tuple

from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.go_json import Fields

# Others take these from here, as a part of what payloads are written with.
from sagemaker_ssh_helper.protocol.go_json import parse_json as parse_json
from sagemaker_ssh_helper.protocol.go_json import serialize_json as serialize_json
from sagemaker_ssh_helper.protocol.message import format_message_id

SCHEMA_VERSION = 1
"""In the JSON of binary messages."""

TEXT_SCHEMA_VERSION = "1.0"
"""In opening frames and the Create...Channel calls, where it is text."""

# -- opening ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenDataChannelInput:
    """
    The first frame, text, on a data channel.

    The agent fills ``client_instance_id`` and leaves ``client_id`` empty; the client fills ``client_id``, and
    ``client_version`` unless it is old. ``token`` is a bearer secret, so it is no part of the repr.
    """

    token: str
    request_id: str
    client_id: str = ""
    client_version: Optional[str] = None
    client_instance_id: Optional[str] = None

    def __repr__(self) -> str:
        return f"OpenDataChannelInput(client_id={self.client_id!r}, instance={self.client_instance_id!r})"

    @property
    def is_agent(self) -> bool:
        """Whether an agent opens this channel; else a client does."""
        return self.client_instance_id is not None

    def serialize(self) -> bytes:
        fields: Dict[str, Any] = {
            "MessageSchemaVersion": TEXT_SCHEMA_VERSION,
            "RequestId": self.request_id,
            "TokenValue": self.token,
        }
        if self.client_instance_id is not None:
            fields["ClientInstanceId"] = self.client_instance_id
        fields["ClientId"] = self.client_id
        if self.client_version is not None:
            fields["ClientVersion"] = self.client_version
        return serialize_json(fields)

    @classmethod
    def parse(cls, data: bytes) -> "OpenDataChannelInput":
        fields = Fields.parse(data, "the opening frame of a data channel")
        return cls(
            token=fields.text("TokenValue"),
            request_id=fields.text("RequestId"),
            client_id=fields.text("ClientId"),
            client_version=fields.optional_text("ClientVersion"),
            client_instance_id=fields.optional_text("ClientInstanceId"),
        )


@dataclass(frozen=True)
class OpenControlChannelInput:
    """The first frame, text, on a control channel. ``token`` is a bearer secret, so not in the repr."""

    token: str
    request_id: str
    agent_version: str
    platform_type: str = "linux"

    def __repr__(self) -> str:
        return f"OpenControlChannelInput(agent_version={self.agent_version!r})"

    def serialize(self) -> bytes:
        return serialize_json(
            {
                "Cookie": None,
                "MessageSchemaVersion": TEXT_SCHEMA_VERSION,
                "RequestId": self.request_id,
                "TokenValue": self.token,
                "AgentVersion": self.agent_version,
                "PlatformType": self.platform_type,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> "OpenControlChannelInput":
        fields = Fields.parse(data, "the opening frame of a control channel")
        return cls(
            token=fields.text("TokenValue"),
            request_id=fields.text("RequestId"),
            agent_version=fields.text("AgentVersion"),
            platform_type=fields.text("PlatformType"),
        )


@dataclass(frozen=True)
class CreateChannelInput:
    """
    The body of ``POST /v1/control-channel/<instance>`` and ``POST /v1/data-channel/<session>``.

    ``client_id`` is None for a control channel; agents send it empty for a data channel.
    """

    request_id: str
    client_id: Optional[str] = None

    def serialize(self) -> bytes:
        fields: Dict[str, Any] = {"MessageSchemaVersion": TEXT_SCHEMA_VERSION, "RequestId": self.request_id}
        if self.client_id is not None:
            fields["ClientId"] = self.client_id
        return serialize_json(fields)

    @classmethod
    def parse(cls, data: bytes) -> "CreateChannelInput":
        fields = Fields.parse(data, "a request for a channel")
        return cls(request_id=fields.text("RequestId"), client_id=fields.optional_text("ClientId"))


@dataclass(frozen=True)
class CreateChannelOutput:
    """
    The answer to it: status 201 and XML, whose root may have any name. ``token`` is a bearer secret.

    ``root`` is CreateControlChannelResponse or CreateDataChannelResponse when the service writes it.
    """

    token: str
    root: str = "CreateDataChannelResponse"

    STATUS = 201  # no annotation: not a field. Agents refuse any other status, 200 included
    _NAMESPACE = "http://ssmmessages.amazonaws.com/doc/2017-11-01/"

    def __repr__(self) -> str:
        return f"CreateChannelOutput(root={self.root!r})"

    def serialize(self) -> bytes:
        # xml.sax.saxutils does the same, and takes milliseconds to import.
        token = self.token.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return (
            f'<{self.root} xmlns="{self._NAMESPACE}">'
            f"<MessageSchemaVersion>{TEXT_SCHEMA_VERSION}</MessageSchemaVersion>"
            f"<TokenValue>{token}</TokenValue></{self.root}>"
        ).encode()

    @classmethod
    def parse(cls, data: bytes) -> "CreateChannelOutput":
        # Imported here: expat costs milliseconds, and only agents parse this.
        from xml.etree import ElementTree

        # No service needs a document type; without one there are no entities to expand.
        if b"<!DOCTYPE" in data or b"\0" in data:
            raise MalformedMessage(
                "the answer to a request for a channel has a document type, or is not text"
            )
        try:
            # As text, whatever encoding it names: in another one, that check would see nothing.
            root = ElementTree.fromstring(data.decode("utf-8"))
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise MalformedMessage("the answer to a request for a channel is not XML") from error
        for child in root:
            if _local_name(child.tag) == "TokenValue" and child.text:
                return cls(token=child.text, root=_local_name(root.tag))
        raise MalformedMessage("the answer to a request for a channel has no token")


# -- the stream -------------------------------------------------------------------------------------

_ACKNOWLEDGE = re.compile(
    rb'\{"AcknowledgedMessageType":"([a-z_]{1,32})","AcknowledgedMessageId":"([0-9a-f-]{36})"'
    rb',"AcknowledgedMessageSequenceNumber":(0|[1-9][0-9]{0,17}),"IsSequentialMessage":true\}'
).fullmatch


@dataclass(frozen=True)
class Acknowledge:
    """
    The body of an acknowledge: one stream message arrived and will be delivered.

    Receivers look at ``sequence_number`` only. There is one of these for every message of the stream, so
    both directions have a short way for the bytes that all known peers write.
    """

    message_type: str
    message_id: str
    sequence_number: int
    is_sequential: bool = True

    @staticmethod
    def body(message_type: str, message_id: bytes, sequence_number: int) -> bytes:
        """``Acknowledge(...).serialize()`` from a message's own fields, without making the object."""
        return (
            f'{{"AcknowledgedMessageType":"{message_type}","AcknowledgedMessageId":"'
            f'{format_message_id(message_id)}","AcknowledgedMessageSequenceNumber":{sequence_number}'
            f',"IsSequentialMessage":true}}'
        ).encode("ascii")

    @staticmethod
    def parse_sequence_number(data: bytes) -> int:
        """``Acknowledge.parse(data).sequence_number``, without making the object."""
        match = _ACKNOWLEDGE(data)
        if match is not None:
            return int(match[3])
        return Acknowledge.parse(data).sequence_number

    def serialize(self) -> bytes:
        return serialize_json(
            {
                "AcknowledgedMessageType": self.message_type,
                "AcknowledgedMessageId": self.message_id,
                "AcknowledgedMessageSequenceNumber": self.sequence_number,
                "IsSequentialMessage": self.is_sequential,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> "Acknowledge":
        match = _ACKNOWLEDGE(data)
        if match is not None:
            return cls(match[1].decode("ascii"), match[2].decode("ascii"), int(match[3]))
        fields = Fields.parse(data, "an acknowledge")
        return cls(
            message_type=fields.text("AcknowledgedMessageType"),
            message_id=fields.text("AcknowledgedMessageId"),
            sequence_number=fields.required_integer("AcknowledgedMessageSequenceNumber"),
            is_sequential=fields.boolean("IsSequentialMessage"),
        )


@dataclass(frozen=True)
class ChannelClosed:
    """
    The session is over, says the gateway; ``output`` is text for the user, perhaps empty.

    ``parse`` never fails: the session ends whatever the body holds, as it does for the official client, so
    what cannot be read is left empty. ``created_date`` is text; official agents do not end a session for a
    body where it is a number.
    """

    session_id: str
    destination_id: str = ""
    output: str = ""
    message_id: str = ""
    created_date: str = ""

    def serialize(self) -> bytes:
        return serialize_json(
            {
                "MessageType": "channel_closed",
                "MessageId": self.message_id,
                "DestinationId": self.destination_id,
                "SessionId": self.session_id,
                "SchemaVersion": SCHEMA_VERSION,
                "CreatedDate": self.created_date,
                "Output": self.output,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> "ChannelClosed":
        try:
            fields = Fields.parse(data, "channel_closed")
        except MalformedMessage:
            return cls("")
        return cls(
            session_id=fields.lenient_text("SessionId"),
            destination_id=fields.lenient_text("DestinationId"),
            output=fields.lenient_text("Output"),
            message_id=fields.lenient_text("MessageId"),
            created_date=fields.lenient_text("CreatedDate"),
        )


@dataclass(frozen=True)
class AgentSessionState:
    """What the agent tells the gateway: CONNECTED at once after opening, TERMINATING before the end."""

    state: str
    session_id: str

    CONNECTED = "Connected"
    TERMINATING = "Terminating"

    def serialize(self) -> bytes:
        return serialize_json(
            {"SchemaVersion": SCHEMA_VERSION, "SessionState": self.state, "SessionId": self.session_id}
        )

    @classmethod
    def parse(cls, data: bytes) -> "AgentSessionState":
        fields = Fields.parse(data, "agent_session_state")
        return cls(state=fields.text("SessionState"), session_id=fields.text("SessionId"))


@dataclass(frozen=True)
class Size:
    """The size of the user's terminal, in characters."""

    cols: int
    rows: int

    def serialize(self) -> bytes:
        return serialize_json({"cols": self.cols, "rows": self.rows})

    @classmethod
    def parse(cls, data: bytes) -> "Size":
        fields = Fields.parse(data, "a terminal size")
        size = cls(cols=fields.integer("cols"), rows=fields.integer("rows"))
        if not (0 <= size.cols < 1 << 32 and 0 <= size.rows < 1 << 32):
            raise MalformedMessage("a terminal size is out of range")
        return size


def serialize_flag(flag: int) -> bytes:
    """The four bytes of a FLAG payload."""
    return flag.to_bytes(4, "big")


def parse_flag(data: bytes) -> int:
    """The flag in a FLAG payload, perhaps one that has no name. Bytes after the first four are ignored."""
    if len(data) < 4:
        raise MalformedMessage(f"a flag of {len(data)} bytes needs 4")
    return int.from_bytes(data[:4], "big")


# -- handshake --------------------------------------------------------------------------------------


class SessionType:
    """The four kinds of session; a peer may name others, kept as text."""

    STANDARD_STREAM = "Standard_Stream"
    INTERACTIVE_COMMANDS = "InteractiveCommands"
    NON_INTERACTIVE_COMMANDS = "NonInteractiveCommands"
    PORT = "Port"


class ActionType:
    """What an agent may ask of a client in the handshake."""

    SESSION_TYPE = "SessionType"
    KMS_ENCRYPTION = "KMSEncryption"


class ActionStatus(IntEnum):
    """How it went. Official clients write 0, not 3, for what they do not support; any number is kept."""

    SUCCESS = 1
    FAILED = 2
    UNSUPPORTED = 3


@dataclass(frozen=True)
class HandshakeRequest:
    """
    The agent's first stream message, payload type HANDSHAKE_REQUEST.

    Attributes:
        session_type: one of SessionType, or another name; empty when the agent did not say.
        properties: the document's properties for a Port session (all values text), else None.
        kms_key_id: not None when the agent asks for encryption; ``challenge`` is then the base64 text that
            newer agents add.
        other_actions: the types of actions we do not know, in order; each needs an answer.
        sm_ssh: the marker by which two of our ends find each other, ``{"v": 1, "max": N}``. Official peers
            ignore it.
    """

    agent_version: str
    session_type: str
    properties: Optional[Mapping[str, Any]] = None
    kms_key_id: Optional[str] = None
    challenge: Optional[str] = None
    sm_ssh: Optional[Mapping[str, Any]] = None
    other_actions: Tuple[str, ...] = ()

    def serialize(self) -> bytes:
        actions: List[Dict[str, Any]] = []
        if self.session_type:
            # Official agents hold the properties in a map, and so write them sorted.
            parameters = {"SessionType": self.session_type, "Properties": _sorted(self.properties)}
            actions.append({"ActionType": ActionType.SESSION_TYPE, "ActionParameters": parameters})
        if self.kms_key_id is not None:
            parameters = {"KMSKeyId": self.kms_key_id}
            if self.challenge is not None:
                parameters["Challenge"] = self.challenge
            actions.append({"ActionType": ActionType.KMS_ENCRYPTION, "ActionParameters": parameters})
        actions.extend({"ActionType": name, "ActionParameters": None} for name in self.other_actions)
        fields: Dict[str, Any] = {"AgentVersion": self.agent_version, "RequestedClientActions": actions}
        if self.sm_ssh is not None:
            fields["SmSsh"] = self.sm_ssh
        return serialize_json(fields)

    @classmethod
    def parse(cls, data: bytes) -> "HandshakeRequest":
        fields = Fields.parse(data, "a handshake request")
        request = cls(
            agent_version=fields.text("AgentVersion"),
            session_type="",
            sm_ssh=fields.optional_mapping("SmSsh", lenient=True),
        )
        for action in fields.objects("RequestedClientActions"):
            action_type = action.text("ActionType")
            if action_type == ActionType.SESSION_TYPE:
                parameters = action.fields("ActionParameters")
                if not parameters.text("SessionType"):
                    raise MalformedMessage("a handshake request names no session type")
                request = replace(
                    request,
                    session_type=parameters.text("SessionType"),
                    properties=parameters.optional_mapping("Properties"),
                )
            elif action_type == ActionType.KMS_ENCRYPTION:
                parameters = action.fields("ActionParameters")
                request = replace(
                    request,
                    kms_key_id=parameters.text("KMSKeyId"),
                    challenge=parameters.optional_text("Challenge"),
                )
            else:
                request = replace(request, other_actions=(*request.other_actions, action_type))
        return request


@dataclass(frozen=True)
class ProcessedAction:
    """One answer in a handshake response. ``result`` is JSON: null, or what KmsResult holds."""

    action_type: str
    status: int = ActionStatus.SUCCESS
    result: Any = None
    error: str = ""


@dataclass(frozen=True)
class KmsResult:
    """
    The result of a KMSEncryption action: the data key, encrypted by KMS.

    ``challenge_acknowledged`` says that the agent's challenge was part of the encryption context; None leaves
    the key out, as the recorded client does.
    """

    cipher_text_key: bytes
    challenge_acknowledged: Optional[bool] = None

    def to_json(self) -> Dict[str, Any]:
        """For ``ProcessedAction.result``."""
        fields: Dict[str, Any] = {
            "KMSCipherTextKey": base64.b64encode(self.cipher_text_key).decode("ascii"),
            "KMSCipherTextHash": None,
        }
        if self.challenge_acknowledged is not None:
            fields["ChallengeAcknowledgement"] = self.challenge_acknowledged
        return fields

    @classmethod
    def from_json(cls, value: Any) -> "KmsResult":
        """From ``ProcessedAction.result``. Raises MalformedMessage."""
        if not isinstance(value, dict):
            raise MalformedMessage("the result of KMSEncryption is not a JSON object")
        fields = Fields(value, "the result of KMSEncryption")
        return cls(
            cipher_text_key=fields.base64("KMSCipherTextKey"),
            challenge_acknowledged=fields.optional_boolean("ChallengeAcknowledgement"),
        )


@dataclass(frozen=True)
class HandshakeResponse:
    """
    The client's answer, payload type HANDSHAKE_RESPONSE: one ProcessedAction for each action requested.

    ``errors`` is None, not empty, when there are none. ``sm_ssh`` as in HandshakeRequest.
    """

    client_version: str
    processed_actions: Tuple[ProcessedAction, ...] = ()
    errors: Optional[Tuple[str, ...]] = None
    sm_ssh: Optional[Mapping[str, Any]] = None

    def serialize(self) -> bytes:
        fields: Dict[str, Any] = {
            "ClientVersion": self.client_version,
            "ProcessedClientActions": [
                {
                    "ActionType": action.action_type,
                    "ActionStatus": int(action.status),
                    "ActionResult": action.result,
                    "Error": action.error,
                }
                for action in self.processed_actions
            ],
            "Errors": None if self.errors is None else list(self.errors),
        }
        if self.sm_ssh is not None:
            fields["SmSsh"] = self.sm_ssh
        return serialize_json(fields)

    @classmethod
    def parse(cls, data: bytes) -> "HandshakeResponse":
        fields = Fields.parse(data, "a handshake response")
        return cls(
            client_version=fields.text("ClientVersion"),
            processed_actions=tuple(
                ProcessedAction(
                    action_type=action.text("ActionType"),
                    status=action.integer("ActionStatus"),
                    result=action.value("ActionResult"),
                    error=action.text("Error"),
                )
                for action in fields.objects("ProcessedClientActions")
            ),
            errors=fields.optional_texts("Errors"),
            sm_ssh=fields.optional_mapping("SmSsh", lenient=True),
        )


@dataclass(frozen=True)
class HandshakeComplete:
    """
    The agent's last word of the handshake, payload type HANDSHAKE_COMPLETE.

    ``time_ns`` is how long it took; ``customer_message`` is text for the user, perhaps empty.
    """

    time_ns: int = 0
    customer_message: str = ""

    def serialize(self) -> bytes:
        return serialize_json(
            {"HandshakeTimeToComplete": self.time_ns, "CustomerMessage": self.customer_message}
        )

    @classmethod
    def parse(cls, data: bytes) -> "HandshakeComplete":
        fields = Fields.parse(data, "a handshake complete")
        return cls(
            time_ns=fields.integer("HandshakeTimeToComplete"),
            customer_message=fields.text("CustomerMessage"),
        )


@dataclass(frozen=True)
class EncryptionChallenge:
    """Payload types ENC_CHALLENGE_REQUEST and _RESPONSE: ``nonce || ciphertext || tag`` of 64 bytes."""

    challenge: bytes

    def serialize(self) -> bytes:
        return serialize_json({"Challenge": base64.b64encode(self.challenge).decode("ascii")})

    @classmethod
    def parse(cls, data: bytes) -> "EncryptionChallenge":
        return cls(Fields.parse(data, "an encryption challenge").base64("Challenge"))


# -- control channel: sessions ----------------------------------------------------------------------


@dataclass(frozen=True)
class InteractiveShell:
    """
    A session is offered to the agent, of any type despite the name.

    ``document_content`` is the session document, ``parameters`` fills its placeholders. ``task_id`` and
    ``topic`` are the service's own; the agent answers with the session id.
    """

    session_id: str
    document_name: str
    document_content: Mapping[str, Any]
    parameters: Mapping[str, Any]
    run_as_user: str = ""
    task_id: str = ""
    topic: str = ""
    session_owner: str = ""

    def serialize(self) -> bytes:
        content = serialize_json(
            {
                "DocumentName": self.document_name,
                "DocumentContent": self.document_content,
                "SessionId": self.session_id,
                "Parameters": self.parameters,
                "RunAsUser": self.run_as_user,
                "SessionOwner": self.session_owner,
            }
        )
        return serialize_json(
            {
                "Content": content.decode("utf-8"),
                "TaskId": self.task_id,
                "Topic": self.topic,
                "SchemaVersion": SCHEMA_VERSION,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> "InteractiveShell":
        outer = Fields.parse(data, "interactive_shell")
        inner = Fields.parse(outer.text("Content").encode("utf-8"), "the content of interactive_shell")
        session_id = inner.text("SessionId")
        if not session_id:
            raise MalformedMessage("interactive_shell names no session")
        return cls(
            session_id=session_id,
            document_name=inner.text("DocumentName"),
            document_content=inner.optional_mapping("DocumentContent") or {},
            parameters=inner.optional_mapping("Parameters") or {},
            run_as_user=inner.text("RunAsUser"),
            task_id=outer.text("TaskId"),
            topic=outer.text("Topic"),
            session_owner=inner.text("SessionOwner"),
        )


class TaskStatus:
    """How a session ended; AgentTaskComplete.final_status."""

    SUCCESS = "Success"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    TIMED_OUT = "TimedOut"


@dataclass(frozen=True)
class AgentTaskComplete:
    """
    A session ended, says the agent. ``task_id`` is the session id; ``output`` is the error's text, if any.

    Sent again with a greater ``retry_number`` (from 1) and the same message id until acknowledged; receivers
    must take several for one session.
    """

    task_id: str
    final_status: str
    instance_id: str
    output: str = ""
    retry_number: int = 1
    is_routing_failure: bool = False
    aws_account_id: str = ""
    s3_bucket: str = ""
    s3_url_suffix: str = ""
    cwl_group: str = ""
    cwl_stream: str = ""

    TOPIC = "agent_task_complete"

    def serialize(self) -> bytes:
        return serialize_json(
            {
                "SchemaVersion": SCHEMA_VERSION,
                "TaskId": self.task_id,
                "Topic": self.TOPIC,
                "FinalTaskStatus": self.final_status,
                "IsRoutingFailure": self.is_routing_failure,
                "AwsAccountId": self.aws_account_id,
                "InstanceId": self.instance_id,
                "Output": self.output,
                "S3Bucket": self.s3_bucket,
                "S3UrlSuffix": self.s3_url_suffix,
                "CwlGroup": self.cwl_group,
                "CwlStream": self.cwl_stream,
                "RetryNumber": self.retry_number,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> "AgentTaskComplete":
        fields = Fields.parse(data, "agent_task_complete")
        return cls(
            task_id=fields.text("TaskId"),
            final_status=fields.text("FinalTaskStatus"),
            instance_id=fields.text("InstanceId"),
            output=fields.text("Output"),
            retry_number=fields.integer("RetryNumber"),
            is_routing_failure=fields.boolean("IsRoutingFailure"),
            aws_account_id=fields.text("AwsAccountId"),
            s3_bucket=fields.text("S3Bucket"),
            s3_url_suffix=fields.text("S3UrlSuffix"),
            cwl_group=fields.text("CwlGroup"),
            cwl_stream=fields.text("CwlStream"),
        )


@dataclass(frozen=True)
class AgentTaskAcknowledge:
    """The service has the result. Agents match ``message_id``, the text of the result's message id, only."""

    message_id: str
    task_id: str = ""
    topic: str = AgentTaskComplete.TOPIC

    def serialize(self) -> bytes:
        return serialize_json(
            {
                "SchemaVersion": SCHEMA_VERSION,
                "MessageId": self.message_id,
                "TaskId": self.task_id,
                "Topic": self.topic,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> "AgentTaskAcknowledge":
        fields = Fields.parse(data, "agent_task_acknowledge")
        return cls(
            message_id=fields.text("MessageId"), task_id=fields.text("TaskId"), topic=fields.text("Topic")
        )


# -- control channel: commands ----------------------------------------------------------------------


class JobTopic:
    """Agents compare the beginning of an agent_job's topic with these; replies carry exactly these."""

    SEND_COMMAND = "aws.ssm.sendCommand"
    CANCEL_COMMAND = "aws.ssm.cancelCommand"


@dataclass(frozen=True)
class AgentJob:
    """
    A command, or the wish to cancel one.

    ``job_id`` is ``aws.ssm.<command id>.<instance id>``. ``content`` is None when its text is not a JSON
    object: such a job is to be answered with JobAckStatus.PARSE_ERROR, which is why it is no error here.
    """

    job_id: str
    topic: str
    content: Optional[Mapping[str, Any]]

    @property
    def command_id(self) -> str:
        """The command id in the job id; empty when the job id has another form."""
        parts = self.job_id.split(".")
        return parts[2] if len(parts) >= 4 and parts[:2] == ["aws", "ssm"] else ""

    def serialize(self) -> bytes:
        return serialize_json(
            {
                "Content": "" if self.content is None else serialize_json(self.content).decode("utf-8"),
                "JobId": self.job_id,
                "Topic": self.topic,
                "SchemaVersion": SCHEMA_VERSION,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> "AgentJob":
        fields = Fields.parse(data, "agent_job")
        content: Optional[Mapping[str, Any]]
        try:
            content = parse_json(fields.text("Content").encode("utf-8"), "the content of agent_job")
        except MalformedMessage:
            content = None
        return cls(job_id=fields.text("JobId"), topic=fields.text("Topic"), content=content)


class JobAckStatus:
    """What an agent answers to a job at once: (statusCode, errorMessage)."""

    SUCCESSFUL = ("200", "Successful")
    CLOSED = ("51401", "ClosedProcessor")
    BUFFER_FULL = ("51402", "ProcessorBufferFull")
    UNEXPECTED_TYPE = ("51403", "UnexpectedDocumentType")
    DUPLICATE = ("51405", "DuplicateCommand")
    INVALID_DOCUMENT = ("51406", "InvalidDocument")
    PARSE_ERROR = ("51408", "AgentJobMessageParseError")
    UNEXPECTED = ("51499", "UnexpectedError")


@dataclass(frozen=True)
class AgentJobAck:
    """
    The agent has the job, or refuses it; the status is one of JobAckStatus.

    ``acknowledged_message_id`` and ``created_date`` (ISO 8601) are those of the agent_job's header.
    """

    job_id: str
    acknowledged_message_id: str
    created_date: str
    status_code: str = JobAckStatus.SUCCESSFUL[0]
    error_message: str = JobAckStatus.SUCCESSFUL[1]

    def serialize(self) -> bytes:
        return serialize_json(
            {
                "jobId": self.job_id,
                "acknowledgedMessageId": self.acknowledged_message_id,
                "createdDate": self.created_date,
                "statusCode": self.status_code,
                "errorMessage": self.error_message,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> "AgentJobAck":
        fields = Fields.parse(data, "agent_job_ack")
        return cls(
            job_id=fields.text("jobId"),
            acknowledged_message_id=fields.text("acknowledgedMessageId"),
            created_date=fields.text("createdDate"),
            status_code=fields.text("statusCode"),
            error_message=fields.text("errorMessage"),
        )


MAX_REPLY_CONTENT_BYTES = 120000
"""Of the content of an agent_job_reply. Official agents drop a longer reply, and the command never ends."""

TRUNCATED = "--output truncated--"
"""The end of an output that was cut, counted in its limit."""

_OUTPUTS = ("standardOutput", "standardError", "output")


@dataclass(frozen=True)
class AgentJobReply:
    """
    How a command is getting on. ``content`` is the reply document, ``topic`` one of JobTopic.

    Replies may overtake each other; receivers merge ``runtimeStatus`` by key and never leave a terminal
    ``documentStatus``.
    """

    job_id: str
    content: Mapping[str, Any]
    topic: str = JobTopic.SEND_COMMAND

    @property
    def is_first(self) -> bool:
        """Whether it only says that the command began; services need not acknowledge that."""
        return self.content.get("documentStatus") == "InProgress" and not self.content.get("runtimeStatus")

    def fitted(self, max_bytes: int = MAX_REPLY_CONTENT_BYTES) -> "AgentJobReply":
        """
        This reply, or one that is cut so that its content has at most ``max_bytes`` bytes.

        The longest output of any plugin is halved until all fit; its cut ends with TRUNCATED. When even that
        is not enough, ``runtimeStatus`` is left out: the command must end for those who wait for it. Raises
        ValueError when the rest is still too long.
        """
        if len(serialize_json(self.content)) <= max_bytes:
            return self
        content: Dict[str, Any] = json.loads(serialize_json(self.content))
        statuses = content.get("runtimeStatus")
        plugins = statuses.values() if isinstance(statuses, dict) else ()
        outputs = [
            (plugin, name)
            for plugin in plugins
            if isinstance(plugin, dict)
            for name in _OUTPUTS
            if isinstance(plugin.get(name), str) and len(plugin[name]) > len(TRUNCATED)
        ]
        while outputs and len(serialize_json(content)) > max_bytes:
            # What counts is the length on the wire: a control character has six bytes there.
            plugin, name = max(outputs, key=lambda output: len(serialize_json(output[0][output[1]])))
            text = plugin[name]
            if text.endswith(TRUNCATED):
                text = text[: -len(TRUNCATED)]
            plugin[name] = text[: len(text) // 2] + TRUNCATED
            if plugin[name] == TRUNCATED:
                outputs.remove((plugin, name))
        if len(serialize_json(content)) > max_bytes:
            content["runtimeStatus"] = {}
            content["documentTraceOutput"] = TRUNCATED
        if len(serialize_json(content)) > max_bytes:
            raise ValueError(f"the reply to {self.job_id} is longer than {max_bytes} bytes without outputs")
        return replace(self, content=content)

    def serialize(self) -> bytes:
        return serialize_json(
            {
                "schemaVersion": SCHEMA_VERSION,
                "jobId": self.job_id,
                "content": serialize_json(self.content).decode("utf-8"),
                "topic": self.topic,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> "AgentJobReply":
        fields = Fields.parse(data, "agent_job_reply")
        return cls(
            job_id=fields.text("jobId"),
            content=parse_json(fields.text("content").encode("utf-8"), "the content of agent_job_reply"),
            topic=fields.text("topic"),
        )


@dataclass(frozen=True)
class AgentJobReplyAck:
    """The service has the reply whose message id has this text."""

    job_id: str
    acknowledged_message_id: str

    def serialize(self) -> bytes:
        return serialize_json({"jobId": self.job_id, "acknowledgedMessageId": self.acknowledged_message_id})

    @classmethod
    def parse(cls, data: bytes) -> "AgentJobReplyAck":
        fields = Fields.parse(data, "agent_job_reply_ack")
        return cls(job_id=fields.text("jobId"), acknowledged_message_id=fields.text("acknowledgedMessageId"))


_YEAR_10000_MS = 253402300800000


def format_created_date(created_ms: int) -> str:
    """A header's created date as payloads write it: ISO 8601 in UTC, with milliseconds and ``Z``."""
    # A header can hold any 64-bit number; a moment that no calendar has is written as the first.
    seconds, milliseconds = divmod(created_ms if 0 <= created_ms < _YEAR_10000_MS else 0, 1000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


def _sorted(value: Any) -> Any:
    """The same JSON value with the keys of its objects in order."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_sorted(item) for item in value]
    return value


def _local_name(tag: str) -> str:
    return tag.rpartition("}")[2]
