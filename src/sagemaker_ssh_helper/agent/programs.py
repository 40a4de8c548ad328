"""
What a session document asks to be run: a shell, a command on a terminal, a command without one. Pure.

What cannot be done as the document asks is refused with a reason that reaches the user. Commands and values
are never quoted in a reason: they may be secret.
"""

import re
import shlex
import sys
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Tuple

from sagemaker_ssh_helper.agent.documents import (
    TOO_DEEP,
    DocumentRefused,
    parameter_values,
    refuse_references,
    substitute,
)
from sagemaker_ssh_helper.protocol.payloads import InteractiveShell, SessionType

SCHEMA_VERSION = "1.0"
"""Of session documents. Official agents accept no other."""

PROGRAM_TYPES = (
    SessionType.STANDARD_STREAM,
    SessionType.INTERACTIVE_COMMANDS,
    SessionType.NON_INTERACTIVE_COMMANDS,
)

_LOGGING_INPUTS = ("s3BucketName", "cloudWatchLogGroupName")
_PLATFORM = "macos" if sys.platform == "darwin" else "linux"
_PREFIX = re.compile(r"[A-Za-z0-9\r\n_:-]{0,30}")


@dataclass(frozen=True)
class Program:
    """One program, and how it is joined to the session."""

    session_type: str
    words: Tuple[str, ...] = field(repr=False)
    terminal: bool
    user: str = ""
    """Who it runs as; empty: the agent's own user."""
    first_input: bytes = field(default=b"", repr=False)
    """Typed into the terminal before the user's input."""
    separate: bool = False
    """Error output and exit code are told apart from the output, all of it as it comes."""
    output_prefix: bytes = b""
    error_prefix: bytes = b""
    kms_key_id: str = ""
    """Of the key that encrypts the session; empty: it is not encrypted."""


def read_inputs(shell: InteractiveShell) -> Tuple[Mapping[str, Any], Mapping[str, Any]]:
    """
    The inputs and the properties of a session document, its placeholders filled in.

    Raises DocumentRefused, also for a document that demands that its sessions are logged: this agent does
    not do that, and never runs such a session unlogged.
    """
    try:
        return _read_inputs(shell)
    except RecursionError:
        raise DocumentRefused(TOO_DEEP) from None


def _read_inputs(shell: InteractiveShell) -> Tuple[Mapping[str, Any], Mapping[str, Any]]:
    document = shell.document_content
    version = document.get("schemaVersion")
    if version != SCHEMA_VERSION:
        raise DocumentRefused(f"the session document's schema version {version!r} is not supported")
    refuse_references(document, shell.parameters)
    parameters = parameter_values(document.get("parameters"), shell.parameters)
    inputs = substitute(document.get("inputs") or {}, parameters)
    inputs = inputs if isinstance(inputs, dict) else {}
    for name in _LOGGING_INPUTS:
        if inputs.get(name):
            raise DocumentRefused(
                f"the session document wants the session logged ({name}), which this agent does not do"
            )
    properties = substitute(document.get("properties") or {}, parameters)
    if not isinstance(properties, dict):
        raise DocumentRefused("the session document's properties are no object")
    return inputs, properties


def read_program(shell: InteractiveShell) -> Program:
    """What the offer of a session of one of PROGRAM_TYPES asks for. Raises DocumentRefused."""
    session_type = str(shell.document_content.get("sessionType"))
    inputs, properties = read_inputs(shell)
    kms_key_id = _text(inputs, "kmsKeyId").strip()
    user = _run_as(inputs, shell.run_as_user)
    found = properties.get(_PLATFORM)
    values: Dict[str, Any] = found if isinstance(found, dict) else {}
    commands = _text(values, "commands")
    if session_type == SessionType.STANDARD_STREAM:
        words = ("sh", "-c", commands) if commands.strip() else ("sh",)
        return Program(
            session_type,
            words,
            terminal=True,
            user=user,
            first_input=_profile(inputs),
            kms_key_id=kms_key_id,
        )
    if not commands.strip():
        raise DocumentRefused(f"the session document has no commands for {_PLATFORM}")
    if session_type == SessionType.INTERACTIVE_COMMANDS:
        words = ("sh", "-c", commands)
        return Program(session_type, words, terminal=True, user=user, kms_key_id=kms_key_id)
    try:
        split = tuple(shlex.split(commands))
    except ValueError as error:
        raise DocumentRefused(f"the session's command cannot be split into words: {error}") from error
    return Program(
        session_type,
        split,
        terminal=False,
        user=user,
        separate=_flag(values.get("separateOutputStream")),
        output_prefix=_prefix(values, "stdOutSeparatorPrefix"),
        error_prefix=_prefix(values, "stdErrSeparatorPrefix"),
        kms_key_id=kms_key_id,
    )


def _run_as(inputs: Mapping[str, Any], run_as_user: str) -> str:
    if not _flag(inputs.get("runAsEnabled")):
        return ""
    user = run_as_user.strip() or _text(inputs, "runAsDefaultUser").strip()
    if not user:
        raise DocumentRefused("the session is to run as another user (runAsEnabled), but none is named")
    return user


def _profile(inputs: Mapping[str, Any]) -> bytes:
    profiles = inputs.get("shellProfile")
    text = _text(profiles, "linux") if isinstance(profiles, dict) else ""
    return text.encode("utf-8", "surrogateescape") + b"\n" if text.strip() else b""


def _prefix(values: Mapping[str, Any], name: str) -> bytes:
    text = _text(values, name)
    if not _PREFIX.fullmatch(text):
        raise DocumentRefused(
            f"{name} has more than 30 characters, or others than letters, digits, _:- and line ends"
        )
    return text.encode("ascii")


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DocumentRefused(f"the session document's {name} is no text")
    return value


def _flag(value: Any) -> bool:
    """Documents write true, "true" and "True"."""
    return value is True or (isinstance(value, str) and value.strip().lower() == "true")
