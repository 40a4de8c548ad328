"""
The documents of Systems Manager that sessions and commands are made from, and values for their parameters.

Amazon's are fixed; an account adds session documents of its own, and changes its session preferences.

The names, the parameters and the properties are those that agents read; the descriptions are ours. What the
service itself keeps in these documents is not public, so a description proves nothing.
"""

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sagemaker_ssh_helper.emulator.service import ApiError
from sagemaker_ssh_helper.protocol.payloads import SessionType

DEFAULT_SESSION_DOCUMENT = "SSM-SessionManagerRunShell"
"""The one a session gets that names none: a shell, with the account's preferences."""

_SESSION_TYPES = (
    SessionType.STANDARD_STREAM,
    SessionType.INTERACTIVE_COMMANDS,
    SessionType.NON_INTERACTIVE_COMMANDS,
    SessionType.PORT,
)
_RESERVED = ("aws", "amazon", "amzn")
"""What names of an account's own documents do not begin with."""

_PORT_PATTERN = "^([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$"
# 0 stands for "any free one".
_LOCAL_PORT_PATTERN = (
    "^(0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$"
)


@dataclass(frozen=True)
class SessionLimits:
    """How long a session may last, in minutes."""

    idle: int = 20
    """Without any data, either way."""
    duration: int | None = None
    """In all; None without end."""

    @classmethod
    def of(cls, inputs: Mapping[str, Any]) -> "SessionLimits":
        """Those in the inputs of a session document. Raises ApiError."""
        idle = _minutes(inputs, "idleSessionTimeout", 60)
        duration = _minutes(inputs, "maxSessionDuration", 1440)
        return cls(cls.idle if idle is None else idle, duration)


def _minutes(inputs: Mapping[str, Any], name: str, most: int) -> int | None:
    text = str(inputs.get(name) or "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise ApiError("InvalidDocumentContent", f"{name} is a number of minutes from 1 to {most}.")
    return int(text)


@dataclass(frozen=True)
class Document:
    """One document. ``kind`` is ``Session`` or ``Command``; ``content`` is what goes to the agent."""

    name: str
    kind: str
    content: Mapping[str, Any]
    platforms: Sequence[str] = ("Linux", "MacOS", "Windows")
    owner: str = "Amazon"
    version: int = 1
    created_at: float = field(default_factory=time.time)
    text: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", json.dumps(self.content, indent=2))

    def __str__(self) -> str:
        return self.name

    @property
    def parameters(self) -> Mapping[str, Mapping[str, Any]]:
        """Parameter names and their definitions."""
        parameters: Mapping[str, Mapping[str, Any]] = self.content.get("parameters", {})
        return parameters

    @property
    def digest(self) -> str:
        """SHA-256 of the text, hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def arn(self, region: str, account_id: str) -> str:
        """Documents that Amazon owns have no account in their ARN."""
        owner = "" if self.owner == "Amazon" else account_id
        return f"arn:aws:ssm:{region}:{owner}:document/{self.name}"

    def arguments(self, values: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """
        The values of a request, where every one is a list of strings, in the document's own types: a plain
        string for ``String``, a list for ``StringList``. Parameters without a value get their default.

        Raises:
            ApiError: ``InvalidParameters`` for a name the document does not have, a value that it does not
            allow, or one that it needs and did not get.
        """
        unknown = sorted(set(values) - set(self.parameters))
        if unknown:
            raise ApiError(
                "InvalidParameters", f"The document {self.name} has no parameter {', '.join(unknown)}."
            )
        arguments: dict[str, Any] = {}
        for name, definition in self.parameters.items():
            if name in values:
                arguments[name] = _argument(name, definition, values[name])
            elif "default" in definition:
                arguments[name] = definition["default"]
            else:
                raise ApiError("InvalidParameters", f"The parameter {name} of {self.name} needs a value.")
        return arguments


def _argument(name: str, definition: Mapping[str, Any], value: Sequence[str]) -> Any:
    if definition["type"] == "StringList":
        if len(value) < definition.get("minItems", 0):
            raise ApiError("InvalidParameters", f"The parameter {name} needs at least one value.")
        return list(value)
    if len(value) != 1:
        raise ApiError("InvalidParameters", f"The parameter {name} takes one value, not {len(value)}.")
    text = value[0]
    if len(text) > definition.get("maxChars", len(text)) or len(text) < definition.get("minChars", 0):
        raise ApiError("InvalidParameters", f"The value of the parameter {name} is too long or too short.")
    pattern = definition.get("allowedPattern")
    if pattern is not None and not re.search(pattern, text):
        raise ApiError(
            "InvalidParameters", f"The value of the parameter {name} does not match its pattern {pattern}."
        )
    allowed = definition.get("allowedValues")
    if allowed is not None and text not in allowed:
        raise ApiError("InvalidParameters", f"The parameter {name} is one of {', '.join(allowed)}.")
    return text


def _port_parameters(default_port: str, *, local: bool, host: bool) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if host:
        parameters["host"] = {
            "type": "String",
            "description": "Name or address to connect to, as the managed node sees it",
            "allowedPattern": "^[0-9A-Za-z._:%-]{1,253}$",
        }
    parameters["portNumber"] = {
        "type": "String",
        "description": "TCP port to connect to",
        "allowedPattern": _PORT_PATTERN,
        "default": default_port,
    }
    if local:
        parameters["localPortNumber"] = {
            "type": "String",
            "description": "TCP port to listen on at the client; 0 takes a free one",
            "allowedPattern": _LOCAL_PORT_PATTERN,
            "default": "0",
        }
    return parameters


def _forwarding(*, host: bool) -> dict[str, Any]:
    properties = {
        "portNumber": "{{ portNumber }}",
        "type": "LocalPortForwarding",
        "localPortNumber": "{{ localPortNumber }}",
    }
    if host:
        properties["host"] = "{{ host }}"
    return {
        "schemaVersion": "1.0",
        "description": "Forward a local port to a port "
        + ("of a host that the managed node can reach" if host else "of the managed node"),
        "sessionType": "Port",
        "parameters": _port_parameters("80", local=True, host=host),
        "properties": properties,
    }


def _command(session_type: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    # The command parameter is "commands" in the properties, the others keep their names.
    properties: dict[str, Any] = {"commands": "{{ command }}", "runAsElevated": False}
    for name in parameters:
        if name != "command":
            properties[name] = f"{{{{ {name} }}}}"
    return {
        "schemaVersion": "1.0",
        "description": description,
        "sessionType": session_type,
        "parameters": parameters,
        "properties": {platform: dict(properties) for platform in ("linux", "macos", "windows")},
    }


def _text(description: str, default: str | None = None, **rules: Any) -> dict[str, Any]:
    definition: dict[str, Any] = {"type": "String", "description": description, **rules}
    if default is not None:
        definition["default"] = default
    return definition


_SHELL: dict[str, Any] = {
    "schemaVersion": "1.0",
    "description": "A shell, with the session preferences of this account",
    "sessionType": "Standard_Stream",
    "inputs": {
        "s3BucketName": "",
        "s3KeyPrefix": "",
        "s3EncryptionEnabled": False,
        "cloudWatchLogGroupName": "",
        "cloudWatchEncryptionEnabled": False,
        "cloudWatchStreamingEnabled": False,
        "kmsKeyId": "",
        "runAsEnabled": False,
        "runAsDefaultUser": "",
        "idleSessionTimeout": "20",
        "maxSessionDuration": "",
        "shellProfile": {"windows": "", "linux": ""},
    },
}

_RUN_SHELL_SCRIPT: dict[str, Any] = {
    "schemaVersion": "1.2",
    "description": "Run a shell script",
    "parameters": {
        "commands": {
            "type": "StringList",
            "description": "The lines of the script",
            "minItems": 1,
            "displayType": "textarea",
        },
        "workingDirectory": _text("Where to run it", "", maxChars=4096),
        "executionTimeout": _text(
            "Seconds after which the script is ended",
            "3600",
            allowedPattern="^[1-9][0-9]{0,5}$",
        ),
    },
    "runtimeConfig": {
        "aws:runShellScript": {
            "properties": [
                {
                    "id": "0.aws:runShellScript",
                    # The bare placeholder: a list around it would be a list in a list, which agents refuse.
                    "runCommand": "{{ commands }}",
                    "workingDirectory": "{{ workingDirectory }}",
                    "timeoutSeconds": "{{ executionTimeout }}",
                }
            ]
        }
    },
}

_SSH: dict[str, Any] = {
    "schemaVersion": "1.0",
    "description": "A byte stream to a port of the managed node, for ssh",
    "sessionType": "Port",
    "parameters": _port_parameters("22", local=False, host=False),
    "properties": {"portNumber": "{{ portNumber }}"},
}

_COMMAND_PARAMETER = {"command": _text("The command to run", "")}

_SEPARATE_PARAMETERS = {
    **_COMMAND_PARAMETER,
    "separateOutputStream": _text(
        "Whether the error output comes apart from the output", "False", allowedValues=["True", "False"]
    ),
    "stdOutSeparatorPrefix": _text("Written before each piece of output", "", maxChars=30),
    "stdErrSeparatorPrefix": _text("Written before each piece of error output", "", maxChars=30),
}

DOCUMENTS: Mapping[str, Document] = {
    document.name: document
    for document in (
        Document(DEFAULT_SESSION_DOCUMENT, "Session", _SHELL, owner="Self"),
        Document("AWS-StartSSHSession", "Session", _SSH),
        Document("AWS-StartPortForwardingSession", "Session", _forwarding(host=False)),
        Document("AWS-StartPortForwardingSessionToRemoteHost", "Session", _forwarding(host=True)),
        Document(
            "AWS-StartInteractiveCommand",
            "Session",
            _command("InteractiveCommands", "One command on a terminal", _COMMAND_PARAMETER),
        ),
        Document(
            "AWS-StartNonInteractiveCommand",
            "Session",
            _command("NonInteractiveCommands", "One command without a terminal", _SEPARATE_PARAMETERS),
        ),
        Document("AWS-RunShellScript", "Command", _RUN_SHELL_SCRIPT, platforms=("Linux", "MacOS")),
    )
}


class Documents:
    """The documents of one account in one region."""

    def __init__(self) -> None:
        self._own: dict[str, Document] = {}

    def find(self, name_or_arn: str, kind: str | None = None) -> Document:
        """
        The document of this name or ARN.

        Raises:
            ApiError: ``InvalidDocument`` when there is none, or it is not of the kind wanted.
        """
        name = name_or_arn.rsplit(":document/", 1)[-1]
        document = self._own.get(name) or DOCUMENTS.get(name)
        if document is None:
            raise ApiError("InvalidDocument", f"Document with name {name} does not exist.")
        if kind is not None and document.kind != kind:
            raise ApiError("InvalidDocument", f"Document with name {name} is not a {kind} document.")
        return document

    def create(self, name: str, text: str) -> Document:
        """
        A new session document of the account.

        Raises:
            ApiError: ``DocumentAlreadyExists``, ``InvalidDocumentContent``, or ``ValidationException`` for a
            name that is Amazon's.
        """
        if name.lower().startswith(_RESERVED):
            raise ApiError(
                "ValidationException", f"The name {name} begins as those of Amazon's documents do."
            )
        if name in self._own or name in DOCUMENTS:
            raise ApiError("DocumentAlreadyExists", f"Document with name {name} already exists.")
        self._own[name] = Document(name, "Session", _session_content(text), owner="Self")
        return self._own[name]

    def update(self, name: str, text: str, version: str | None) -> Document:
        """
        A new version of a document of the account, which takes the place of the one before.

        Raises:
            ApiError: ``InvalidDocument``, ``InvalidDocumentOperation`` for a document of Amazon's,
            ``InvalidDocumentVersion``, ``InvalidDocumentContent``, ``DuplicateDocumentContent``.
        """
        old = self.find(name)
        self._check_own(old)
        if version not in (None, "$LATEST", str(old.version)):
            raise ApiError("InvalidDocumentVersion", f"Version {version} is not the latest of {old.name}.")
        content = _session_content(text)
        if content == old.content:
            raise ApiError("DuplicateDocumentContent", f"The content of {old.name} is the same already.")
        self._own[old.name] = replace(old, content=content, version=old.version + 1)
        return self._own[old.name]

    def delete(self, name: str) -> None:
        """
        Remove a document of the account; its session preferences are then those of a new account.

        Raises:
            ApiError: ``InvalidDocument``, ``InvalidDocumentOperation`` for a document of Amazon's.
        """
        document = self.find(name)
        self._check_own(document)
        self._own.pop(document.name, None)

    def with_preferences(self, document: Document) -> Document:
        """
        A session document as it goes to the agent: those of Amazon's that run a program have no inputs of
        their own, and get the account's preferences.
        """
        preferences = self._own.get(DEFAULT_SESSION_DOCUMENT)
        runs_program = document.content.get("sessionType") != SessionType.PORT
        if document.owner != "Amazon" or preferences is None or not runs_program:
            return document
        return replace(
            document, content={**document.content, "inputs": preferences.content.get("inputs", {})}
        )

    def limits(self, document: Document) -> SessionLimits:
        """How long a session of this document may last: by its own inputs, else by the preferences."""
        inputs = document.content.get("inputs")
        if inputs is None:
            inputs = self.find(DEFAULT_SESSION_DOCUMENT).content.get("inputs", {})
        return SessionLimits.of(inputs)

    def _check_own(self, document: Document) -> None:
        if document.owner == "Amazon":
            raise ApiError("InvalidDocumentOperation", f"{document.name} is a document of Amazon's.")


def _session_content(text: str) -> Mapping[str, Any]:
    """The content of a session document. Raises ApiError."""

    def refuse(why: str) -> ApiError:
        return ApiError("InvalidDocumentContent", f"The content of a session document {why}.")

    try:
        content = json.loads(text)
    except ValueError:
        raise refuse("is not JSON, which is all that the local cloud reads") from None
    if not isinstance(content, dict):
        raise refuse("is not a JSON object")
    if content.get("schemaVersion") != "1.0":
        raise refuse("has the schemaVersion 1.0")
    if content.get("sessionType") not in _SESSION_TYPES:
        raise refuse(f"has a sessionType of {', '.join(_SESSION_TYPES)}")
    if not all(isinstance(content.get(part, {}), dict) for part in ("inputs", "properties")):
        raise refuse("has objects for its inputs and its properties")
    SessionLimits.of(content.get("inputs", {}))
    parameters = content.get("parameters", {})
    if not isinstance(parameters, dict) or not all(
        isinstance(definition, dict) and definition.get("type") in ("String", "StringList")
        for definition in parameters.values()
    ):
        raise refuse("has parameters of the types String and StringList")
    return content
