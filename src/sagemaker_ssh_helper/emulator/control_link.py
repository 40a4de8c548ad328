"""
The service's end of one agent's control channel, through any number of connections.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence

from sagemaker_ssh_helper.emulator.channel_socket import ChannelSocket
from sagemaker_ssh_helper.emulator.outbox import Outbox
from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.control_channel import ControlPayload, parse_control, serialize_control
from sagemaker_ssh_helper.protocol.message import AgentMessage, format_message_id, new_message_id
from sagemaker_ssh_helper.protocol.payloads import OpenControlChannelInput

logger = logging.getLogger(__name__)

# Numbers we chose.
OFFICIAL_READY_DELAY = 1.0
"""Seconds after its opening frame before an official agent is sent anything: it drops what comes earlier."""
MAX_MESSAGE_BYTES = 1 << 20
"""Of one control message. Official agents write up to 142,000 bytes, so that is accepted with room."""
MAX_MALFORMED = 16
"""Malformed messages in one connection before it is ended."""

Receive = Callable[[AgentMessage, ControlPayload], None]


class ControlSocket(ChannelSocket):
    """One connection of a control channel."""

    def __init__(
        self,
        link: "ControlLink",
        authenticate: Callable[[OpenControlChannelInput], None],
        *,
        is_ours: bool,
    ) -> None:
        super().__init__(f"control channel of {link.instance_id}", max_message_bytes=MAX_MESSAGE_BYTES)
        self._link = link
        self._authenticate = authenticate
        self._is_ours = is_ours
        self._malformed = 0

    def opened(self, data: bytes) -> None:
        opening = OpenControlChannelInput.parse(data)
        self._authenticate(opening)
        self._link.connected(self, opening.agent_version, is_official=not self._is_ours)

    def received(self, messages: Sequence[bytes]) -> None:
        for data in messages:
            try:
                message, payload = parse_control(data)
            except MalformedMessage as error:
                # Nothing depends on a message that never made sense, so the agent may go on.
                self._malformed += 1
                logger.warning("! %s: %s", self.label, error)
                if self._malformed >= MAX_MALFORMED:
                    raise
                continue
            logger.debug("< %s: %s", self.label, message)
            if payload is not None:
                self._link.receive(message, payload)

    def lost(self) -> None:
        self._link.disconnected(self)


class ControlLink:
    """
    One agent: its connection, if there is one, and what it has still to receive.

    Args:
        instance_id: the agent's.
        receive: called with every message of the agent that is known.
        changed: called when the link opened or closed.
    """

    def __init__(
        self, instance_id: str, *, receive: Receive, changed: Callable[["ControlLink"], None]
    ) -> None:
        self.instance_id = instance_id
        self.receive = receive
        self.is_official = False
        """The agent that is or was connected is not ours."""
        self.agent_version = ""
        self.outbox = Outbox()
        self._changed = changed
        self._socket: ControlSocket | None = None
        self._ready_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def connected(self, socket: ControlSocket, agent_version: str, *, is_official: bool) -> None:
        """A connection is open and its token was good. It takes the place of the one before."""
        old, self._socket = self._socket, socket
        if old is not None:
            logger.info("= %s: a new connection takes over", socket.label)
            old.finish()
        self.agent_version = agent_version
        self.is_official = is_official
        now = asyncio.get_running_loop().time()
        self._ready_at = now + (OFFICIAL_READY_DELAY if self.is_official else 0.0)
        self.outbox.make_due(now)
        logger.info("= %s is open, agent %s", socket.label, agent_version)
        self._changed(self)
        self._arm(now)

    def disconnected(self, socket: ControlSocket) -> None:
        """A connection is over."""
        if socket is self._socket:
            self._socket = None
            self._disarm()
            logger.info("= %s is closed", socket.label)
            self._changed(self)

    def put(self, key: str, payload: ControlPayload) -> str:
        """
        Deliver a payload, again and again until ``outbox.settle(key)``; at once if the agent is ready.

        Returns the text of its message id.
        """
        message_id = new_message_id(os.urandom(16))
        now = asyncio.get_running_loop().time()
        self.outbox.put(key, self._serialize(payload, message_id), now)
        self._deliver()
        return format_message_id(message_id)

    def send(self, payload: ControlPayload) -> bool:
        """Send a payload once, now. False: there is no connection."""
        if self._socket is None:
            return False
        data = self._serialize(payload, new_message_id(os.urandom(16)))
        logger.debug("> %s: %s", self._socket.label, AgentMessage.parse(data))
        self._socket.send([data])
        return True

    def send_when_open(self, key: str, payload: ControlPayload) -> bool:
        """Send a payload once: now, or when the agent is connected again. False: it is not now."""
        if self.send(payload):
            return True
        data = self._serialize(payload, new_message_id(os.urandom(16)))
        self.outbox.put_once(key, data, asyncio.get_running_loop().time())
        return False

    def postpone(self, key: str, delay: float) -> None:
        """The agent has no room for this one: deliver it after a while, in seconds."""
        now = asyncio.get_running_loop().time()
        self.outbox.postpone(key, now + delay)
        self._arm(now)

    def close(self) -> None:
        """End the connection, if there is one, with a Close frame."""
        if self._socket is not None:
            self._socket.close(1000, "this instance is not registered any more")
        self._disarm()

    def cut(self) -> None:
        """Break the connection, if there is one."""
        if self._socket is not None:
            self._socket.cut()

    @staticmethod
    def _serialize(payload: ControlPayload, message_id: bytes) -> bytes:
        return serialize_control(payload, message_id=message_id, created_ms=time.time_ns() // 1_000_000)

    def _deliver(self) -> None:
        self._timer = None
        if self._socket is None:
            return
        now = asyncio.get_running_loop().time()
        # A timer may fire a clock tick early.
        if now + 0.001 >= self._ready_at:
            due = self.outbox.take_due(now + 0.001)
            for delivery in due:
                mark = ">" if delivery.attempts == 1 else "! again"
                logger.debug("%s %s: %s", mark, self._socket.label, AgentMessage.parse(delivery.data))
            if due:
                self._socket.send([delivery.data for delivery in due])
        self._arm(now)

    def _arm(self, now: float) -> None:
        self._disarm()
        due_at = self.outbox.next_due_at()
        if due_at is not None and self._socket is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(due_at, self._ready_at, now), self._deliver)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
