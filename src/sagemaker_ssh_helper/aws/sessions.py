"""
Session Manager sessions: start one to a port of an instance, resume it, end it.
"""

from __future__ import annotations

import dataclasses
import getpass
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sagemaker_ssh_helper import __version__
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.errors import AccessDenied, NotOwner, ServiceError
from sagemaker_ssh_helper.names import Document, InstanceId, SessionId

SSH_PORT = 22


@dataclass(frozen=True)
class SessionGrant:
    """One session, and how to open its data channel: connect to ``url``, say ``token`` first."""

    id: SessionId
    url: str
    token: str = field(repr=False)


def start(
    client: Client, instance_id: InstanceId, port: int = SSH_PORT, owner: str | None = None
) -> SessionGrant:
    """
    A new session to a TCP port of the instance's own loopback. End it with ``terminate``.

    ``owner`` is the instance's tag SSHOwner when known: a refusal then says whether it is somebody else's.
    Raises NotOwner, AccessDenied, TargetOffline, AdvancedTierOff and the other AwsErrors.
    """
    parameters = {"portNumber": [str(port)]}
    return start_document(client, instance_id, Document.START_SSH_SESSION, parameters, owner)


def start_document(
    client: Client,
    instance_id: InstanceId,
    document: str | None,
    parameters: Mapping[str, Sequence[str]],
    owner: str | None = None,
) -> SessionGrant:
    """
    A new session as a session document says; without one, a shell with the account's preferences.

    Otherwise like ``start``.
    """
    if instance_id.startswith("arn:"):
        # A space: SageMaker starts its sessions, and knows one kind only.
        return _granted(client.call("sagemaker", "StartSession", ResourceIdentifier=instance_id), instance_id)
    named = {"DocumentName": document} if document else {}
    given = {"Parameters": {name: list(values) for name, values in parameters.items()}} if parameters else {}
    try:
        answer = client.call("ssm", "StartSession", Target=instance_id, **named, **given, Reason=_reason())
    except AccessDenied as error:
        raise refused(client, "ssm:StartSession", instance_id, owner, error) from error
    return _granted(answer, instance_id)


def _granted(answer: dict[str, object], instance_id: InstanceId) -> SessionGrant:
    grant = _grant(answer)
    if not (grant.id and grant.url and grant.token):
        raise ServiceError(f"StartSession on {instance_id} gave no session", code="EmptyAnswer")
    return grant


def resume(client: Client, grant: SessionGrant) -> SessionGrant | None:
    """A new token for the same session, or None when the session is over. Raises AwsError."""
    answer = _grant(client.call("ssm", "ResumeSession", SessionId=grant.id))
    if not answer.token:
        return None
    # The official client dials the first URL again whatever ResumeSession says; so do we.
    return dataclasses.replace(grant, token=answer.token)


def terminate(client: Client, session_id: SessionId) -> None:
    """End the session at the service; ending one that is over is no error. Raises AwsError."""
    client.call("ssm", "TerminateSession", SessionId=session_id)


def _grant(answer: dict[str, object]) -> SessionGrant:
    return SessionGrant(
        id=SessionId(str(answer.get("SessionId") or "")),
        url=str(answer.get("StreamUrl") or ""),
        token=str(answer.get("TokenValue") or ""),
    )


def _reason() -> str:
    """What the account's session history shows: who, where, with what; at most 256 characters."""
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # a uid without a name, Windows without its variables
        user = "?"
    return f"sm-ssh {__version__}, {user}@{socket.gethostname()}"[:256]


def refused(
    client: Client, action: str, instance_id: InstanceId, owner: str | None, error: AccessDenied
) -> AccessDenied:
    """
    What to say when ``action`` on an instance was denied: NotOwner when its SSHOwner is somebody else.

    Takes a call to learn who we are, when ``owner`` is known.
    """
    me = client.caller_id() if owner else None
    if owner and me and owner != me:
        return NotOwner(
            f"AWS refused {action} on {instance_id}: the node belongs to another user",
            evidence=f"its SSHOwner is {owner}, you are {me}",
            fix="ssm:StartSession is for a node's owner: launch your own job, or have this one made yours",
        )
    return AccessDenied(
        f"AWS refused {action} on {instance_id}",
        evidence=error.evidence,
        fix="Access is usually limited to nodes whose tag SSHOwner is your user id"
        + (f"; here it is {owner}" if owner else "")
        + f". Ask an administrator to allow {action} on it",
    )
