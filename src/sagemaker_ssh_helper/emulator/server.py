"""
One local cloud: its sockets, its services, its life.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from sagemaker_ssh_helper.emulator.faults import Faults
from sagemaker_ssh_helper.emulator.http import HttpConnection
from sagemaker_ssh_helper.emulator.iam import Iam
from sagemaker_ssh_helper.emulator.identities import Identities
from sagemaker_ssh_helper.emulator.models import FAMILIES, Models
from sagemaker_ssh_helper.emulator.moto_backend import Moto
from sagemaker_ssh_helper.emulator.pipeline import Pipeline
from sagemaker_ssh_helper.emulator.sagemaker import SageMakerService
from sagemaker_ssh_helper.emulator.security_tokens import StsService
from sagemaker_ssh_helper.emulator.service import Caller, Cloud
from sagemaker_ssh_helper.emulator.simulation import IamService
from sagemaker_ssh_helper.emulator.ssm import SsmService
from sagemaker_ssh_helper.emulator.state_folder import StateFolder
from sagemaker_ssh_helper.emulator.tagging import TaggingService
from sagemaker_ssh_helper.emulator.tls import make_certificates
from sagemaker_ssh_helper.emulator.users import create_users
from sagemaker_ssh_helper.errors import LocalSetup, PortBusy

logger = logging.getLogger(__name__)

ACCOUNT_ID = "123456789012"
"""moto's account; its backends keep everything below it."""
REGION = "us-east-1"


class LocalCloud:
    """
    A running cloud; made by ``start``, ended by ``close``. One at a time in a process, because of moto.
    """

    def __init__(self, cloud: Cloud, folder: StateFolder, moto: Moto, models: Models) -> None:
        self.cloud = cloud
        self._folder = folder
        self._moto = moto
        self._models = models
        self._servers: list[asyncio.Server] = []
        self._connections: set[HttpConnection] = set()
        self._loading: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls, *, port: int = 0, tls: bool = False, require_signed_client: bool = False
    ) -> "LocalCloud":
        """
        A cloud that answers calls.

        Args:
            port: where the given addresses are served; 0 for a free one.
            tls: serve TLS there, with certificates of our own; plain HTTP then has a free port beside it.
            require_signed_client: refuse data channels that clients open without a signature.

        Raises PortBusy when the port is taken.
        """
        sockets = _bind(port)
        plain_sockets = sockets
        folder = StateFolder()
        try:
            if tls:
                plain_sockets = _bind(0)
            cloud = Cloud(account_id=ACCOUNT_ID, region=REGION, state_dir=folder.path)
            cloud.require_signed_client = require_signed_client
            cloud.http_endpoint_url = f"http://localhost:{_port(plain_sockets)}"
            cloud.endpoint_url = f"https://localhost:{_port(sockets)}" if tls else cloud.http_endpoint_url
            cloud.message_gateway_url = cloud.endpoint_url
            context = None
            if tls:
                cloud.ca_file, context = make_certificates(folder.path)
            moto = Moto(ACCOUNT_ID, FAMILIES)
            models = Models()
            self = cls(cloud, folder, moto, models)
            self._fill(cloud)
            await self._listen(Pipeline(cloud, moto, models), plain_sockets, None)
            if context is not None:
                await self._listen(Pipeline(cloud, moto, models), sockets, context)
        except BaseException:
            for one in {*sockets, *plain_sockets}:
                one.close()
            folder.close()
            raise
        # The first calls need not wait for this, and the start does not.
        self._loading = asyncio.create_task(asyncio.to_thread(self._load))
        return self

    def _fill(self, cloud: Cloud) -> None:
        self._moto.reset()
        cloud.faults = Faults()
        cloud.iam = Iam(ACCOUNT_ID, self._moto.locks["iam"])
        cloud.identities = Identities(cloud.iam.identity_of)
        root = f"arn:aws:iam::{ACCOUNT_ID}:root"
        cloud.identities.add(
            *cloud.root_key,
            None,
            Caller(account_id=ACCOUNT_ID, arn=root, user_id=ACCOUNT_ID, name="root", kind="root"),
        )
        cloud.users, cloud.role_arn = create_users(ACCOUNT_ID)
        for service in (StsService(cloud), IamService(cloud)):
            cloud.services[service.name] = service
        systems_manager = SsmService(cloud)
        cloud.services[systems_manager.name] = systems_manager
        cloud.gateway = systems_manager.gateway
        # Closed first, as the last one made: jobs end while their containers can still say goodbye.
        sagemaker = SageMakerService(cloud)
        cloud.services[sagemaker.name] = sagemaker
        tagging = TaggingService(cloud, systems_manager.state.tagged, sagemaker.tagged)
        cloud.services[tagging.name] = tagging

    async def _listen(
        self, pipeline: Pipeline, sockets: list[socket.socket], context: ssl.SSLContext | None
    ) -> None:
        loop = asyncio.get_running_loop()
        scheme = "http" if context is None else "https"
        folder = str(self.cloud.state_dir)

        def connection() -> HttpConnection:
            return HttpConnection(pipeline.handle, scheme, self._connections, folder)

        for one in sockets:
            server = await loop.create_server(
                connection,
                sock=one,
                ssl=context,
                ssl_handshake_timeout=10 if context else None,
                backlog=256,
            )
            self._servers.append(server)

    def _load(self) -> None:
        self._moto.load()
        self._models.load()

    def describe(self) -> dict[str, Any]:
        """What clients need to know, as ``--json`` prints it. It has secrets in it."""
        cloud = self.cloud
        described: dict[str, Any] = {
            "endpoint_url": cloud.endpoint_url,
            "message_gateway_url": cloud.message_gateway_url,
            "region": cloud.region,
            "account_id": cloud.account_id,
            "role_arn": cloud.role_arn,
        }
        if cloud.ca_file is not None:
            described["ca_file"] = str(cloud.ca_file)
            described["http_endpoint_url"] = cloud.http_endpoint_url
        described["users"] = [
            {
                "name": user.name,
                "user_id": user.user_id,
                "access_key_id": user.access_key_id,
                "secret_access_key": user.secret_access_key,
            }
            for user in cloud.users
        ]
        return described

    async def close(self) -> None:
        """
        End everything: the services first, while calls are still answered, then the connections.

        Safe to await once; not to be cancelled.
        """
        await self.cloud.close()
        for server in self._servers:
            server.close()
        await asyncio.gather(*(connection.close() for connection in list(self._connections)))
        if self._loading is not None:
            await self._loading
        await asyncio.to_thread(self._moto.close)
        self._folder.close()


async def serve(
    started: Callable[[LocalCloud], Awaitable[int]],
    *,
    port: int = 0,
    tls: bool = False,
    require_signed_client: bool = False,
) -> int:
    """Run a cloud for as long as ``started`` takes; returns what it returns."""
    local = await LocalCloud.start(port=port, tls=tls, require_signed_client=require_signed_client)
    try:
        return await started(local)
    finally:
        await local.close()


def _port(sockets: list[socket.socket]) -> int:
    port: int = sockets[0].getsockname()[1]
    return port


def _bind(port: int) -> list[socket.socket]:
    """Sockets on the same port of 127.0.0.1 and, where there is one, of ::1. Raises PortBusy, LocalSetup."""
    attempts = 1 if port else 20
    for attempt in range(attempts):
        first = _bound(socket.AF_INET, "127.0.0.1", port)
        try:
            second = _bound(socket.AF_INET6, "::1", _port([first]))
        except LocalSetup:
            # Taken there: clients that say "localhost" would reach whoever has it.
            first.close()
            if attempt + 1 == attempts:
                raise
            continue
        except OSError:
            # A machine without IPv6.
            return [first]
        return [first, second]
    raise AssertionError("the last attempt returns or raises")


def _bound(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    # With the protocol named, accepted sockets carry it, and asyncio turns Nagle off on them.
    one = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((address, port))
        # Only a listening socket keeps others with SO_REUSEADDR off the port.
        one.listen(256)
    except OSError as error:
        one.close()
        if error.errno == errno.EADDRINUSE:
            raise PortBusy(
                f"port {port} of {address} is taken by another program",
                fix=f"Choose another one: sm-ssh emulator start --port {port + 1}",
            ) from None
        if error.errno == errno.EACCES:
            raise LocalSetup(
                f"port {port} of {address} is not ours to use", fix="Choose one above 1023"
            ) from None
        raise
    return one
