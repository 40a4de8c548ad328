"""
A port of this machine whose connections a session carries into the container: our end of a port forwarding
session, multiplexed or, with old agents, for one connection after another.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any, cast

from sagemaker_ssh_helper.channels import DataChannelRunner
from sagemaker_ssh_helper.channels.multiplexer import Multiplexer
from sagemaker_ssh_helper.errors import (
    LocalSetup,
    PortBusy,
    ProtocolError,
    SSHHelperError,
    UserError,
)
from sagemaker_ssh_helper.protocol.data_channel import Ready
from sagemaker_ssh_helper.protocol.message import Flag
from sagemaker_ssh_helper.protocol.smux import Mux
from sagemaker_ssh_helper.protocol.versions import (
    client_keeps_alive,
    client_multiplexes,
    takes_terminate_flag,
)

LOOPBACK = "127.0.0.1"

_BACKLOG = 128
_WRITE_BUFFER_BYTES = 512 << 10
_ACCEPT_RETRY_DELAY = 1.0
_DISCONNECT_TIMEOUT = 2.0

logger = logging.getLogger(__name__)


def is_asked(ready: Ready) -> bool:
    """Whether a session that is Ready forwards a port."""
    return ready.properties is not None and ready.properties.get("type") == "LocalPortForwarding"


def listen(ready: Ready) -> socket.socket:
    """
    Listen on the port that the session's document names, or on any free one.

    Raises UserError, PortBusy, LocalSetup.
    """
    properties = ready.properties or {}
    text = str(properties.get("localPortNumber") or "0")
    if properties.get("localConnectionType") == "unix":
        raise UserError("the session document asks for a Unix socket here, and only ports are forwarded")
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise UserError(f"the local port {text!r} is none", fix="Say --parameter localPortNumber=8080")
    try:
        listener = socket.create_server((LOOPBACK, int(text)), backlog=_BACKLOG)
    except OSError as error:
        kind = PortBusy if error.errno == errno.EADDRINUSE else LocalSetup
        raise kind(
            f"port {text} of this machine cannot be listened on",
            evidence=error.strerror or str(error),
            fix="Leave localPortNumber out to get a free one",
        ) from error
    listener.setblocking(False)
    return listener


class PortForwarding:
    """
    Forwards connections from the moment on that it is made, in an event loop.

    Args:
        listener: as ``listen`` returns it; closed with this.
        name: of the container, for the user.
        tell: gets lines for the user.
        on_failed: the session cannot go on, and why.
    """

    def __init__(
        self,
        runner: DataChannelRunner,
        ready: Ready,
        listener: socket.socket,
        name: str,
        tell: Callable[[str], None],
        on_failed: Callable[[SSHHelperError], None],
    ) -> None:
        self._runner = runner
        self._agent_version = ready.peer_version
        self._listener = listener
        self._tell = tell
        self._on_failed = on_failed
        self._told_refusal = False
        self._many: Multiplexer | None = None
        self._one: _Local | None = None
        self._loop = asyncio.get_running_loop()
        if client_multiplexes(ready.peer_version):
            mux = Mux(
                is_client=True,
                flow_control=runner.channel.peer_max_payload_bytes is not None,
                keepalive=client_keeps_alive(ready.peer_version),
                now=self._loop.time(),
            )
            self._many = Multiplexer(runner, mux, on_failed=on_failed)
            accepting: Coroutine[Any, Any, None] = self._accept_many(self._many)
        else:
            # What comes before the first connection is for it, as a greeting.
            runner.pause_delivery()
            accepting = self._accept_one_by_one()
        self._accepting = asyncio.ensure_future(accepting)
        self._accepting.add_done_callback(self._accepting_ended)
        properties = ready.properties or {}
        where = f"{properties.get('host') or name}:{properties.get('portNumber')}"
        tell(f"{LOOPBACK}:{listener.getsockname()[1]} -> {where}; Ctrl-C stops")

    def receive(self, data: bytes) -> None:
        """Bytes of the session."""
        self._told_refusal = False
        if self._many is not None:
            self._many.receive(data)
        elif self._one is not None:
            self._one.transport.write(data)
        # Else they are for a connection that is over.

    def flag_received(self, flag: int) -> None:
        """A Flag of the session."""
        if flag == Flag.CONNECT_TO_PORT_ERROR and not self._told_refusal:
            self._told_refusal = True
            self._tell("the container could not connect to the port; what is meant to listen there?")

    def writable(self) -> None:
        """The session takes bytes again."""
        if self._many is not None:
            self._many.pump()
        elif self._one is not None:
            self._one.read(True)

    async def end(self, timeout: float) -> None:
        """End the session from here; connections get so many seconds to take what came."""
        await self.close(timeout)
        if self._many is not None or takes_terminate_flag(self._agent_version):
            self._runner.send_flag(Flag.TERMINATE_SESSION)

    async def close(self, timeout: float) -> None:
        """End all connections. May be called again."""
        self._accepting.cancel()
        await asyncio.wait([self._accepting])
        self._listener.close()
        if self._many is not None:
            await self._many.close(timeout)
        elif self._one is not None:
            self._one.transport.close()
            await asyncio.wait([self._one.closed], timeout=timeout)
            self._one.transport.abort()
            await asyncio.wait([self._one.closed])
            self._one = None

    def _accepting_ended(self, task: asyncio.Future[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, SSHHelperError):
            error = ProtocolError("connections are not accepted any more", evidence=repr(error))
        if error is not None:
            self._on_failed(error)

    async def _accept(self) -> socket.socket:
        while True:
            try:
                accepted, _ = await self._loop.sock_accept(self._listener)
                return accepted
            except OSError as error:
                # The other end is gone again, or there are too many open files.
                logger.warning("! a connection was not accepted: %s", error)
                await asyncio.sleep(_ACCEPT_RETRY_DELAY)

    async def _attach(self, protocol: asyncio.Protocol, accepted: socket.socket) -> None:
        await self._loop.connect_accepted_socket(lambda: protocol, accepted)

    async def _accept_many(self, many: Multiplexer) -> None:
        while True:
            await many.room.wait()
            accepted = await self._accept()
            await self._attach(many.open(), accepted)

    async def _accept_one_by_one(self) -> None:
        runner = self._runner
        while True:
            accepted = await self._accept()
            local = _Local(runner)
            await self._attach(local, accepted)
            self._one = local
            local.read(runner.writable)
            runner.resume_delivery()
            await asyncio.wait([local.ended])
            self._one = None
            # What still comes is for the connection that is over. Once the agent has taken the flag it sends
            # nothing more of it, so that the next connection gets none of that.
            runner.resume_delivery()
            runner.send_flag(Flag.DISCONNECT_TO_PORT)
            await runner.drain(_DISCONNECT_TIMEOUT)


class _Local(asyncio.Protocol):
    """One connection to our port."""

    transport: asyncio.Transport

    def __init__(self, runner: DataChannelRunner) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        """Nothing more comes from it."""
        self.closed: asyncio.Future[None] = loop.create_future()
        self._runner = runner
        self._reading = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)

    def read(self, wanted: bool) -> None:
        """Read, or not."""
        if wanted is not self._reading and not self.transport.is_closing():
            self._reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._runner.send_data(data)
        self.read(self._runner.writable)

    def eof_received(self) -> None:
        self._end()

    def pause_writing(self) -> None:
        if not self.ended.done():
            self._runner.pause_delivery()

    def resume_writing(self) -> None:
        if not self.ended.done():
            self._runner.resume_delivery()

    def connection_lost(self, error: Exception | None) -> None:
        self._end()
        self.closed.set_result(None)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
