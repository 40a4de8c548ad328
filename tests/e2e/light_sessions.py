"""
Sessions by the hundred, without ssh: our own client's channel to a server of the test's own, in one loop.
"""

import asyncio
import os
import time
import uuid
from typing import Awaitable, Callable, TypeVar

from e2e.laptop import Laptop
from sagemaker_ssh_helper.aws import sessions
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.aws.sessions import SessionGrant
from sagemaker_ssh_helper.channels import DataChannelRunner, Grant
from sagemaker_ssh_helper.names import CLIENT_VERSION, InstanceId
from sagemaker_ssh_helper.protocol.data_channel import DataChannel, Event, Ready, Side, StreamData
from sagemaker_ssh_helper.protocol.payloads import SessionType
from stream_server import StreamServer

Result = TypeVar("Result")


class LightSession:
    """One session to a port, from its grant on; ``received`` is what came, in order."""

    def __init__(self, client: Client, grant: SessionGrant) -> None:
        self.grant = grant
        self._client = client
        self.received = bytearray()
        self._changed = asyncio.Event()
        self._ready = False
        self.runner = DataChannelRunner(
            DataChannel(
                Side.CLIENT,
                grant.id,
                random_bytes=os.urandom,
                created_ms=lambda: int(time.time() * 1000),
                client_id=str(uuid.uuid4()),
                version=CLIENT_VERSION,
                session_type=SessionType.PORT,
            ),
            self._grant,
            on_event=self._on_event,
            on_writable=lambda: self._changed.set(),
        )
        self.running = asyncio.ensure_future(self.runner.run())

    async def _grant(self, resume: bool) -> Grant:
        if resume:
            loop = asyncio.get_running_loop()
            renewed = await loop.run_in_executor(None, sessions.resume, self._client, self.grant)
            assert renewed is not None, "the session is over"
            self.grant = renewed
        return Grant(self.grant.url, self.grant.token)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, StreamData):
            self.received += event.data
        elif isinstance(event, Ready):
            self._ready = True
        self._changed.set()

    async def wait_ready(self) -> None:
        while not self._ready:
            await self._wait()

    async def wait_received(self, size: int) -> None:
        while len(self.received) < size:
            await self._wait()

    async def wait_writable(self) -> None:
        while not self.runner.writable:
            await self._wait()

    async def _wait(self) -> None:
        self._changed.clear()
        await asyncio.wait_for(self._changed.wait(), 60)


class LightSessions:
    """Opens sessions of one user to one instance."""

    def __init__(self, laptop: Laptop, instance_id: str) -> None:
        self._client = Client(Session.open(None, laptop.info["region"], laptop.env))
        self._instance_id = InstanceId(instance_id)

    async def open(self, port: int) -> LightSession:
        """A session to this port of the container's loopback, ready."""
        loop = asyncio.get_running_loop()
        grant = await loop.run_in_executor(None, sessions.start, self._client, self._instance_id, port)
        session = LightSession(self._client, grant)
        await session.wait_ready()
        return session

    async def end(self, session: LightSession) -> None:
        """Over, at the service and here."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, sessions.terminate, self._client, session.grant.id)
        assert await asyncio.wait_for(session.running, 60) is None

    async def open_and_close(self, port: int, count: int, at_once: int) -> None:
        """So many sessions to a server that echoes, some at a time, each with bytes of its own."""
        left = iter(range(count))

        async def work() -> None:
            for number in left:
                session = await self.open(port)
                data = b"session %d." % number
                session.runner.send_data(data)
                await session.wait_received(len(data))
                assert bytes(session.received) == data
                await self.end(session)

        await asyncio.gather(*(work() for _ in range(at_once)))


async def beside_echo(main: Callable[[int], Awaitable[Result]]) -> Result:
    """What ``main`` returns, which is given the port of a server that echoes."""
    async with StreamServer(_echo) as server:
        return await main(server.port)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
