"""
Sessions that forward ports: the client listens on a port of its own, and its connections end at ours.

With most clients a session carries many connections at a time, see
:mod:`sagemaker_ssh_helper.protocol.smux`. With old ones it carries one after another, and the stream does not
tell them apart: a flag says that the client's connection is over, and the next byte begins another. Nothing
tells such a client that the port has hung up.
"""

import asyncio
import logging
from typing import List, Optional, Set, cast

from sagemaker_ssh_helper.agent.ports import (
    CONNECT_FAILED,
    Address,
    PortTarget,
    connect,
    find_addresses,
)
from sagemaker_ssh_helper.agent.session_base import Node, Result, SessionBase
from sagemaker_ssh_helper.channels import DataChannelRunner
from sagemaker_ssh_helper.channels.multiplexer import Connection, Multiplexer
from sagemaker_ssh_helper.errors import ProtocolError
from sagemaker_ssh_helper.protocol.data_channel import ChannelClosed, Event, FlagReceived, Ready, StreamData
from sagemaker_ssh_helper.protocol.message import Flag, PayloadType
from sagemaker_ssh_helper.protocol.payloads import InteractiveShell, SessionType, TaskStatus
from sagemaker_ssh_helper.protocol.smux import Mux
from sagemaker_ssh_helper.protocol.versions import agent_keeps_alive, agent_multiplexes

_CLOSE_TIMEOUT = 2.0
_WRITE_BUFFER_BYTES = 512 << 10

_logger = logging.getLogger(__name__)


class ForwardingSession(SessionBase):
    """One session of the type LocalPortForwarding."""

    def __init__(self, node: Node, shell: InteractiveShell, target: PortTarget) -> None:
        super().__init__(node, shell)
        self.target = target
        # Once, so that a name cannot be moved to a denied address later.
        self.addresses: List[Address] = []
        self._many: Optional[Multiplexer] = None
        self._one: Optional[_OneByOne] = None
        self._dialing: Set[asyncio.Task[None]] = set()

    async def run(self) -> Result:
        """The whole session. Raises DocumentRefused."""
        self.addresses = await find_addresses(self.target, self._node.sshd_port)
        _logger.info("< session %s forwards to %s", self.session_id, self.target)
        runner = self._new_runner(SessionType.PORT, self.target.properties, self._on_event, self._on_writable)
        channel = asyncio.ensure_future(self._run_channel(runner))
        channel.add_done_callback(self._pass_on_exception)
        try:
            return await self._result
        finally:
            runner.close()
            for task in self._dialing:
                task.cancel()
            if self._many is not None:
                await self._many.close(_CLOSE_TIMEOUT)
                self._received_bytes = self._many.received_bytes
                self._sent_bytes = self._many.sent_bytes
            if self._one is not None:
                await self._one.close()
            await asyncio.wait([channel, *self._dialing])

    def count(self, *, received: int = 0, sent: int = 0) -> None:
        """Bytes for the summary."""
        self._received_bytes += received
        self._sent_bytes += sent

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Ready):
            self._begin(event.peer_version)
        elif isinstance(event, StreamData):
            if event.payload_type == PayloadType.OUTPUT:
                if self._many is not None:
                    self._many.receive(event.data)
                elif self._one is not None:
                    self._one.receive(event.data)
        elif isinstance(event, FlagReceived):
            if event.flag == Flag.TERMINATE_SESSION:
                self.finish(Result(TaskStatus.SUCCESS))
            elif event.flag == Flag.DISCONNECT_TO_PORT and self._one is not None:
                self._one.disconnect()
        elif isinstance(event, ChannelClosed):
            self.finish(Result(TaskStatus.SUCCESS))

    def _on_writable(self) -> None:
        if self._many is not None:
            self._many.pump()
        elif self._one is not None:
            self._one.read_or_not()

    def _begin(self, client_version: str) -> None:
        """The client is there, and its version says how it will speak."""
        assert self._runner is not None, "a client without a session"
        if not agent_multiplexes(client_version):
            self._one = _OneByOne(self, self._runner)
            self._one.dial()
            return
        mux = Mux(
            is_client=False,
            flow_control=self._runner.channel.peer_max_payload_bytes is not None,
            keepalive=agent_keeps_alive(client_version),
            now=self._loop.time(),
        )
        self._many = Multiplexer(self._runner, mux, on_opened=self._on_opened, on_failed=self._on_failed)

    def _on_opened(self, connection: Connection) -> None:
        task = asyncio.ensure_future(self._dial(connection))
        self._dialing.add(task)
        task.add_done_callback(self._dialing.discard)
        task.add_done_callback(self._pass_on_exception)

    async def _dial(self, connection: Connection) -> None:
        try:
            await connect(self.target, self.addresses, lambda: connection)
        except ConnectionError as error:
            _logger.info("! session %s: not connected: %s", self.session_id, error)
            if not self._result.done() and self._runner is not None:
                self._runner.send_flag(Flag.CONNECT_TO_PORT_ERROR)
            connection.abort()

    def _on_failed(self, error: ProtocolError) -> None:
        self.finish(Result(TaskStatus.FAILED, str(error)))


class _OneByOne:
    """The port's connections one after another, for clients that do not multiplex."""

    def __init__(self, session: ForwardingSession, runner: DataChannelRunner) -> None:
        self._session = session
        self._runner = runner
        self._early = b""
        self._over = False
        self._dialing: Optional[asyncio.Task[None]] = None
        self._target: Optional[_Target] = None

    def dial(self) -> None:
        """Connect. What the client sends is held until that is done."""
        self._runner.pause_delivery()
        self._dialing = asyncio.ensure_future(self._dial())
        self._dialing.add_done_callback(self._session._pass_on_exception)

    async def _dial(self) -> None:
        session = self._session
        try:
            await connect(session.target, session.addresses, lambda: _Target(self, self._runner))
        except ConnectionError as error:
            session.finish(Result(TaskStatus.FAILED, f"{CONNECT_FAILED}{error}"))

    def connected(self, target: "_Target") -> None:
        self._target = target
        if self._early:
            target.transport.write(self._early)
            self._early = b""
        if self._over:
            self._over = False
            self.disconnect()
        elif not target.full:
            self._runner.resume_delivery()

    def receive(self, data: bytes) -> None:
        """Take the client's bytes: for the connection there is, or else for a new one."""
        self._session.count(received=len(data))
        if self._target is not None:
            self._target.transport.write(data)
            return
        self._early += data
        if self._dialing is None or self._dialing.done():
            self.dial()

    def disconnect(self) -> None:
        """The client's connection is over."""
        target = self._target
        if target is not None:
            target.transport.close()
            self.gone(target)
        else:
            # One that is being made still gets what was sent to it.
            self._over = self._dialing is not None and not self._dialing.done()

    def gone(self, target: "_Target") -> None:
        """The connection is over. The client is not told: there is no way to."""
        if self._target is target:
            self._target = None
            self._runner.resume_delivery()

    def room(self, target: "_Target") -> None:
        """The connection takes bytes again."""
        if self._target is target:
            self._runner.resume_delivery()

    def sent(self, target: "_Target", data: bytes) -> None:
        """Bytes of the port."""
        if self._target is target and not self._session._result.done():
            self._session.count(sent=len(data))
            self._runner.send_data(data)
            self.read_or_not()

    def read_or_not(self) -> None:
        if self._target is not None:
            self._target.read(self._runner.writable)

    async def close(self) -> None:
        """End the connection. What the client sent still goes out, if that is soon done."""
        if self._dialing is not None:
            self._dialing.cancel()
            await asyncio.wait([self._dialing])
        target, self._target = self._target, None
        if target is not None:
            target.transport.close()
            await asyncio.wait([target.closed], timeout=_CLOSE_TIMEOUT)
            target.transport.abort()
            await asyncio.wait([target.closed])


class _Target(asyncio.Protocol):
    """One connection to the port."""

    transport: asyncio.Transport

    def __init__(self, owner: _OneByOne, runner: DataChannelRunner) -> None:
        self.full = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owner = owner
        self._runner = runner
        self._reading = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        self._owner.connected(self)
        # Not now: Python 3.8 begins to read after this call, whatever was said in it.
        asyncio.get_running_loop().call_soon(self._owner.read_or_not)

    def read(self, wanted: bool) -> None:
        if wanted is not self._reading and not self.transport.is_closing():
            self._reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._owner.sent(self, data)

    def pause_writing(self) -> None:
        self.full = True
        self._runner.pause_delivery()

    def resume_writing(self) -> None:
        self.full = False
        self._owner.room(self)

    def connection_lost(self, error: Optional[Exception]) -> None:
        self.closed.set_result(None)
        self._owner.gone(self)
