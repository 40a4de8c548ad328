"""
A message gateway small enough to read: it joins the agent and the client of one session, on loopback.

It forwards messages unchanged, keeps them for a side that is away, answers pings, and can be told to
misbehave. Built from our own WebSocket(Role.SERVER) and nothing else.
"""

import asyncio
import os
import ssl
from collections import deque
from typing import Callable, Deque, Dict, List, Optional, Tuple

from sagemaker_ssh_helper.errors import ConnectionFailed
from sagemaker_ssh_helper.protocol.message import AgentMessage, MessageType
from sagemaker_ssh_helper.protocol.payloads import OpenDataChannelInput
from sagemaker_ssh_helper.protocol.websocket import (
    Message,
    Opcode,
    Ping,
    Role,
    UpgradeRequest,
    WebSocket,
    parse_request,
    server_response,
)

CLIENT = "client"
AGENT = "agent"
OTHER = {CLIENT: AGENT, AGENT: CLIENT}

_AGENT_SESSION_STATE = MessageType.AGENT_SESSION_STATE.encode().ljust(32)


class Relay:
    """
    Start it, give ``url`` to both sides, end it with ``close``.

    Attributes:
        refusals: (status, body) for the next upgrades, instead of accepting them.
        requests: every upgrade that was asked for.
        openings: every opening frame that came.
        filter: looks at each message (from, bytes) and returns what to forward.
        states: session states the agent told.
        forwarded: stream messages that were sent to each side.
        changed: set whenever a connection comes, goes or says something.
    """

    def __init__(self) -> None:
        self.refusals: Deque[Tuple[int, bytes]] = deque()
        self.requests: List[UpgradeRequest] = []
        self.openings: List[OpenDataChannelInput] = []
        self.states: List[AgentMessage] = []
        self.filter: Callable[[str, bytes], List[bytes]] = lambda sender, data: [data]
        self.answers_pings = True
        self.pings = 0
        self.connections: Dict[str, _Connection] = {}
        self.waiting: Dict[str, List[bytes]] = {CLIENT: [], AGENT: []}
        self.forwarded = {CLIENT: 0, AGENT: 0}
        self._server: Optional[asyncio.AbstractServer] = None
        self._all: List[_Connection] = []
        self._tls = False

    @property
    def port(self) -> int:
        assert self._server is not None, "start() first"
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        scheme = "wss" if self._tls else "ws"
        return f"{scheme}://127.0.0.1:{self.port}/v1/data-channel/s-1?role=publish_subscribe"

    async def start(self, tls: Optional[ssl.SSLContext] = None) -> "Relay":
        self._tls = tls is not None
        self.changed = asyncio.Event()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), "127.0.0.1", 0, ssl=tls
        )
        return self

    async def close(self) -> None:
        assert self._server is not None, "start() first"
        self._server.close()
        for connection in list(self._all):
            connection.abort()
        await self._server.wait_closed()
        # Transports close in the loop's next turn.
        while self._all:
            self.changed.clear()
            await self.changed.wait()

    def cut(self, side: str) -> None:
        """Reset the TCP connection of one side."""
        self.connections[side].abort()

    async def cut_and_wait(self, side: str) -> None:
        """Reset it, and wait until the side is back."""
        old = self.connections[side]
        old.abort()
        await self.wait_for(lambda: self.connections.get(side) not in (None, old))

    def send(self, side: str, messages: List[bytes]) -> None:
        """Messages of our own to one side, or for its next connection."""
        connection = self.connections.get(side)
        if connection is None:
            self.waiting[side] += messages
        else:
            connection.send(messages)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until it is true; looked at whenever a connection comes, goes or says something."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()


class _Connection(asyncio.Protocol):
    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._buffer = b""
        self._upgraded = False
        self._side: Optional[str] = None
        self._transport: Optional[asyncio.Transport] = None
        self._websocket = WebSocket(Role.SERVER, random_bytes=os.urandom)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "TCP"
        self._transport = transport
        self._relay._all.append(self)

    def connection_lost(self, error: Optional[Exception]) -> None:
        self.abort()
        self._relay._all.remove(self)
        if self._side is not None and self._relay.connections.get(self._side) is self:
            del self._relay.connections[self._side]
        self._relay.changed.set()

    def data_received(self, data: bytes) -> None:
        relay = self._relay
        if not self._upgraded:
            self._buffer += data
            try:
                parsed = parse_request(self._buffer)
            except ConnectionFailed as error:
                self._refuse(error.status or 400, b"")
                return
            if parsed is None:
                return
            request, size = parsed
            relay.requests.append(request)
            if relay.refusals:
                self._refuse(*relay.refusals.popleft())
                return
            assert self._transport is not None
            self._transport.write(server_response(request.key))
            self._upgraded = True
            data = self._buffer[size:]
        forward: List[bytes] = []
        for event in self._websocket.receive_data(data):
            if isinstance(event, Ping):
                relay.pings += 1
            elif isinstance(event, Message) and event.opcode == Opcode.TEXT:
                opening = OpenDataChannelInput.parse(event.data)
                relay.openings.append(opening)
                self._side = AGENT if opening.is_agent else CLIENT
                relay.connections[self._side] = self
                self.send(relay.waiting[self._side])
                relay.waiting[self._side] = []
            elif isinstance(event, Message):
                assert self._side is not None, "a message before the opening frame"
                if event.data[4:36] == _AGENT_SESSION_STATE:
                    relay.states.append(AgentMessage.parse(event.data))
                else:
                    forward += relay.filter(self._side, event.data)
        if forward and self._side is not None:
            relay.forwarded[OTHER[self._side]] += sum(data[4:15] != b"acknowledge" for data in forward)
            relay.send(OTHER[self._side], forward)
        if relay.answers_pings:
            self._transmit()
        relay.changed.set()

    def _refuse(self, status: int, body: bytes) -> None:
        assert self._transport is not None
        head = f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self._transport.write(head.encode() + body)
        self._transport.close()

    def send(self, messages: List[bytes]) -> None:
        if messages:
            self._websocket.send_messages(messages)
            self._transmit()

    def close_frame(self, code: int) -> None:
        self._websocket.send_close(code, "")
        self._transmit()

    def write_raw(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def pause_reading(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        assert self._transport is not None
        self._transport.resume_reading()

    def abort(self) -> None:
        assert self._transport is not None
        self._transport.abort()

    def _transmit(self) -> None:
        assert self._transport is not None
        self._transport.write(self._websocket.data_to_send())
