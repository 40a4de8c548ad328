"""
What the server and the services behind it share: calls, callers, errors, and the cloud itself.

The server (server.py) takes a request through these steps and stops at the first that refuses it:

1. safety: loopback ``Host``, no ``Origin``, sizes and times within limits;
2. who: the signature is verified, with the key found in ``cloud.identities`` (anonymous operations skip
   this);
3. what: the operation is known and its parameters fit botocore's model of the service;
4. faults: a switch may deny, throttle, delay or fail the call;
5. may: for operations that moto serves the server asks ``cloud.iam``; **our own services ask for
   themselves**, because only they know the resource and its tags;
6. the operation itself: ``service.operations[call.operation](call)``, on the event loop. It must not block;
   blocking work goes through ``asyncio.to_thread``.
"""

import asyncio
import os
import secrets
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Protocol,
)

from sagemaker_ssh_helper import names
from sagemaker_ssh_helper.emulator.native_targets import NativeTargets

if TYPE_CHECKING:
    from sagemaker_ssh_helper.emulator.faults import Faults
    from sagemaker_ssh_helper.emulator.hosting import Hosting
    from sagemaker_ssh_helper.emulator.iam import Iam
    from sagemaker_ssh_helper.emulator.identities import ContainerCredentials, Identities


class ApiError(Exception):
    """
    The call ends with an AWS error. The server writes it in the protocol of the service that was called.

    Args:
        code: AWS's error code, such as ``TargetNotConnected``, without a namespace.
        message: the text for the user, in AWS's words where we know them.
        status: the HTTP status. 400 is what most JSON services use; 500 and above make clients retry.
        fields: further members of the error, by their names in the service's model.
    """

    def __init__(
        self, code: str, message: str, status: int = 400, fields: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.fields = dict(fields or {})


@dataclass(frozen=True)
class Caller:
    """
    Whoever signed a request.

    ``user_id`` is the value of the policy variable ``aws:userid``: ``AIDA…`` for a user, ``AROA…:<session
    name>`` for a role session (an instance's session name is its ``mi-…`` id). ``kind`` is ``"user"``,
    ``"role"``, ``"instance"`` (a role session of a managed instance) or ``"root"`` (the cloud itself; every
    call is allowed). ``role_arn`` is the role behind a session, None for users. ``session_policy`` is the
    inline policy given to AssumeRole, as JSON text. ``tags`` are the principal's tags, for
    ``aws:PrincipalTag/…``.
    """

    account_id: str
    arn: str
    user_id: str
    name: str
    kind: str
    access_key_id: str = ""
    role_arn: str | None = None
    instance_id: str | None = None
    session_policy: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """
    One API call, authenticated and valid.

    ``params`` has the types boto3's caller would use: timestamps are aware datetimes, blobs are bytes;
    members that the model does not know are gone. Operations missing from botocore's model (the agent's
    own) get the JSON as it came. ``caller`` is None only for operations that the service lists as
    anonymous. Header names are lower case. ``endpoint`` is the scheme, host and port that the client used:
    ``http://localhost:4566``. ``method``, ``path`` (with the query, as sent) and ``body`` are there for
    services that verify signatures of their own.
    """

    service: str
    operation: str
    params: dict[str, Any]
    caller: Caller | None
    headers: Mapping[str, str]
    region: str
    endpoint: str
    body: bytes = field(default=b"", repr=False)
    method: str = "POST"
    path: str = "/"

    @property
    def principal(self) -> Caller:
        """The caller of an operation that is not anonymous."""
        assert self.caller is not None, f"{self.service}:{self.operation} is served without a signature"
        return self.caller


Operation = Callable[[Call], Awaitable[Mapping[str, Any]]]
"""
Returns the answer as boto3's caller would see it, without ResponseMetadata; datetimes and bytes are
allowed anywhere. Raises ApiError for every answer that is an error.
"""


class Service(Protocol):
    """
    One AWS service of ours. ``name`` is botocore's name for it: ``"ssm"``.

    Operations of the service's model that are not in ``operations`` go to moto if it has the service, else
    they are answered with ``NotImplementedException``.
    """

    name: str
    operations: Mapping[str, Operation]
    anonymous: frozenset[str]
    """Operations that arrive without SigV4, or with a signature that the service verifies itself."""


@dataclass(frozen=True)
class ChannelRequest:
    """
    A request for a channel of the message gateway, ``/v1/control-channel/<id>`` or ``/v1/data-channel/<id>``.

    ``kind`` is ``"control"`` or ``"data"``; ``channel_id`` the part of the path after it, percent-decoded;
    ``query`` its decoded query. ``caller`` is who signed it; None for an upgrade of a data channel without
    a signature (a client: agents sign). Header names are lower case.
    """

    kind: str
    channel_id: str
    query: Mapping[str, str]
    caller: Caller | None
    headers: Mapping[str, str]
    region: str
    endpoint: str
    body: bytes = field(default=b"", repr=False)

    @property
    def is_ours(self) -> bool:
        """It comes from an agent or a client of this product, whatever the version."""
        return self.headers.get("user-agent", "").startswith(f"{names.PRODUCT}/")


class Gateway(Protocol):
    """
    The message gateway, as the server sees it. Errors are ApiError; the server writes them with their
    status as ``<Code><message>text</message></Code>``, the form in which agents look for
    ``<AccessDeniedException>``.

    The server authenticates; the gateway authorises (``ssmmessages:CreateControlChannel`` and so on).
    """

    async def create_channel(self, request: ChannelRequest) -> str:
        """POST of a channel, always signed: the XML of the answer, which the server sends with status 201."""
        ...

    def upgrade(self, request: ChannelRequest) -> asyncio.Protocol:
        """
        GET with a WebSocket upgrade, already found to be a good one: method, version 13, key.

        Control channels are always signed. Data channels may be unsigned unless the cloud requires
        otherwise; the gateway reads in the first text frame whether the peer is an agent, and then wants
        ``request.caller``.

        Returns the protocol that takes the connection over; raising ApiError refuses it. Afterwards the
        server, in this order and without giving way to the loop: writes the 101 answer, calls
        ``transport.set_protocol``, then the new protocol's ``connection_made(transport)``, then its
        ``data_received`` with what the client had sent already, if anything. From then on the transport is
        the gateway's: it closes it, and limits what it reads. ``pause_writing`` and ``connection_lost``
        arrive as asyncio defines. The transport may be TLS.
        """
        ...


@dataclass(frozen=True)
class User:
    """A user made at start, with its key."""

    name: str
    user_id: str
    arn: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    administrator: bool = False


class Cloud:
    """
    What the services of one local cloud share. Made by the server; the addresses are set once it listens,
    which is before any service is made.
    """

    account_id: str
    region: str
    endpoint_url: str
    """``http://localhost:<port>``, or ``https://…`` when started with TLS."""
    http_endpoint_url: str
    """The plain one, in both cases."""
    message_gateway_url: str
    """Same address; WebSocket URLs are made from it (``http`` to ``ws``, ``https`` to ``wss``)."""
    ca_file: Path | None
    """The certificate authority to trust, PEM; None without TLS."""
    role_arn: str
    """The execution role for jobs, which is also the role of their managed instances."""
    users: list[User]
    state_dir: Path
    """A private folder (0700) for everything kept on disk. It is removed when the cloud ends."""
    require_signed_client: bool
    identities: "Identities"
    """``issue(caller, lifetime_seconds)``, ``add(…)``, ``lookup(access_key_id)``, ``revoke(predicate)``."""
    iam: "Iam"
    """``authorize(caller, action, resource, context)``, ``authorize_pass_role(…)``, ``role_caller(…)``."""
    faults: "Faults"
    """``register(kind, handler)`` for switches that a service adds; see faults.py."""
    container_credentials: "dict[str, ContainerCredentials]"
    """What ``GET /_local/credentials/<id>`` serves; jobs add and remove their own."""
    native_targets: NativeTargets
    """The targets that are no managed instances; whatever has a service's agent adds and removes its own."""

    def __init__(self, *, account_id: str, region: str, state_dir: Path) -> None:
        self.account_id = account_id
        self.region = region
        self.state_dir = state_dir
        self.ca_file = None
        self.users = []
        self.require_signed_client = False
        self.container_credentials = {}
        self.native_targets = NativeTargets()
        self.services: dict[str, Service] = {}
        self.gateway: Gateway | None = None
        self.hosting: Hosting | None = None
        self._close_hooks: list[Callable[[], Awaitable[None]]] = []
        self._clients: dict[str, Any] = {}
        self._clients_lock = threading.Lock()
        self._root_key = (f"AKIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30))

    def aws(self, service: str) -> Any:
        """
        A boto3 client of this cloud with the rights of its root user, made once and safe in threads.

        It calls back over HTTP: use it in ``asyncio.to_thread``, never on the event loop, which has to
        answer.
        """
        with self._clients_lock:
            client = self._clients.get(service)
            if client is None:
                client = self._clients[service] = self._make_client(service)
            return client

    def _make_client(self, service: str) -> Any:
        import boto3
        import botocore.session
        from botocore.config import Config

        session = botocore.session.Session()
        # The user's own files and environment must not reach the cloud's calls to itself.
        session.set_config_variable("config_file", os.devnull)
        session.set_config_variable("credentials_file", os.devnull)
        session.set_credentials(*self._root_key)
        return boto3.Session(botocore_session=session).client(
            service,
            region_name=self.region,
            endpoint_url=self.http_endpoint_url,
            config=Config(
                proxies={}, retries={"mode": "standard", "total_max_attempts": 2}, max_pool_connections=32
            ),
        )

    @property
    def root_key(self) -> "tuple[str, str]":
        """Access key id and secret of the root user; they never leave this process."""
        return self._root_key

    def on_close(self, hook: Callable[[], Awaitable[None]]) -> None:
        """Await this when the cloud ends, while it still answers calls; the last one added goes first."""
        self._close_hooks.append(hook)

    async def close(self) -> None:
        """Run the hooks, each whatever the ones before it did. Called once, by the server."""
        while self._close_hooks:
            hook = self._close_hooks.pop()
            try:
                await hook()
            except Exception as error:
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a service did not close cleanly", "exception": error}
                )
