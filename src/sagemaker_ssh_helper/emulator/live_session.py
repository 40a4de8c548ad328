"""
A session while it is under way: offered to the agent, joined with the client, ended.

::

    Connecting --agent and client are here--> Connected <--resumed--> Disconnected
        |                                        |                        |
        `------------------------- TerminateSession, agent_task_complete, a timeout
                                                 v
                                    Terminating --agent is done--> Terminated, Failed

An ended session stays for a while if its client has not read the end of it, so that a client that comes late,
or comes back, still gets the last output and the reason.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sagemaker_ssh_helper import names
from sagemaker_ssh_helper.emulator.channel_socket import ChannelSocket, Refused
from sagemaker_ssh_helper.emulator.control_link import ControlLink
from sagemaker_ssh_helper.emulator.session_relay import SessionRelay, channel_closed, closed_payload
from sagemaker_ssh_helper.emulator.sessions import Session, Sessions, Status
from sagemaker_ssh_helper.errors import ProtocolError
from sagemaker_ssh_helper.protocol.payloads import (
    InteractiveShell,
    OpenDataChannelInput,
    SessionType,
    TaskStatus,
)
from sagemaker_ssh_helper.protocol.websocket import DEFAULT_MAX_MESSAGE_BYTES

logger = logging.getLogger(__name__)

ALREADY_TERMINATED = "Session is already terminated"
"""Agents look for this text in the answer to their request for a data channel, and then give up on it."""

_TOPIC = "aws.ssm.startSession"


@dataclass
class SessionTiming:
    """
    How long the gateway waits, in seconds. The service's own figures are not public; these are chosen, and
    are a switch (``session-timing``).
    """

    offer: float = 20.0
    """For the agent to ask for the data channel of a session it was offered."""
    first_client: float = 60.0
    """For the client to open its data channel; as long as its token is good."""
    client_resume: float = 900.0
    """For a client that was cut off to come back."""
    foreign_resume: float = 15.0
    """The same for a client that is not ours, from its last ResumeSession on. Official ones ask at once and
    stop trying after some six seconds, and when they end they say nothing: this is what ends the session."""
    agent_resume: float = 20.0
    """For an agent to open the data channel it asked for, or to open it again."""
    closing: float = 5.0
    """For an agent to report the end of a session that it was told to end."""
    last_output: float = 1.0
    """For the rest of an agent's output after it reported the end."""
    linger: float = 30.0
    """For the client to fetch the end of a session."""


class DataSocket(ChannelSocket):
    """
    One connection of a data channel; the opening frame says whose.

    Args:
        live: the session.
        authenticate: returns ``"client"`` or ``"agent"``, or raises Refused.
    """

    def __init__(self, live: "LiveSession", authenticate: Callable[[OpenDataChannelInput], str]) -> None:
        super().__init__(f"data channel of {live.session.id}", max_message_bytes=DEFAULT_MAX_MESSAGE_BYTES)
        self._live = live
        self._authenticate = authenticate
        self._side = ""
        self._receive = live.relay.receive_from_client

    def opened(self, data: bytes) -> None:
        opening = OpenDataChannelInput.parse(data)
        self._side = self._authenticate(opening)
        if self._side == "client":
            self._live.client_is_ours = opening.client_version == names.CLIENT_VERSION
        self.label += f", {self._side}"
        if self._side == "agent":
            self._receive = self._live.relay.receive_from_agent
        self._live.attach(self, self._side)

    def received(self, messages: Sequence[bytes]) -> None:
        self._receive(messages)

    def ponged(self, data: bytes) -> None:
        if self is self._live.relay.to_client.socket:
            self._live.relay.client_ponged(data)

    def drained(self) -> None:
        if self._side == "agent":
            self._live.relay.agent_drained()
        else:
            self._live.relay.client_drained()

    def violated(self, violation: ProtocolError) -> None:
        self._live.violated(self._side, violation)

    def lost(self) -> None:
        self._live.detach(self)


class LiveSession:
    """
    One session in the gateway.

    Args:
        session: its record, whose status is kept up to date.
        sessions: where the record goes when it ends.
        link: the agent's control channel.
        timing: how long to wait for what.
        forget: called when nothing is left of the session.
    """

    def __init__(
        self,
        session: Session,
        sessions: Sessions,
        link: ControlLink,
        timing: SessionTiming,
        forget: Callable[["LiveSession"], None],
    ) -> None:
        self.session = session
        self.client_is_ours = False
        """The client that is or was connected is ours, and says when it ends."""
        is_command = session.document.content.get("sessionType") == SessionType.NON_INTERACTIVE_COMMANDS
        self.relay = SessionRelay(
            session.id,
            session.target,
            is_official=link.is_official,
            may_pause=not (link.is_official and is_command),
        )
        self._sessions = sessions
        self._link = link
        self._timing = timing
        self._forget = forget
        self._offer_key = f"session {session.id}"
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed: bytes | None = None
        # Why we are ending it, and what the agent reported: status and output.
        self._reason: tuple[str, str] | None = None
        self._result: tuple[str, str] | None = None
        self._client_was_here = False
        self._is_forgotten = False

    @property
    def is_over(self) -> bool:
        """The session has ended or is being ended; no agent is wanted for it."""
        return self._closed is not None or self.session.is_ended

    @property
    def awaits_client(self) -> bool:
        """Whether a client that opens the data channel now gets something."""
        return not self.is_over or bool(self.relay.to_client)

    def offer(self) -> None:
        """Offer the session to the agent, and wait for both sides."""
        session = self.session
        self._link.put(
            self._offer_key,
            InteractiveShell(
                session_id=session.id,
                document_name=session.document.name,
                document_content=session.document.content,
                parameters=session.arguments,
                task_id=session.id,
                topic=_TOPIC,
                session_owner=session.owner_arn,
            ),
        )
        self._arm("agent", self._timing.offer, self.fail, "The agent did not take the session.")
        self._arm("client", self._timing.first_client, self._give_up, "The client did not come.")

    def agent_asked(self) -> None:
        """The agent asked for the data channel, which is how it takes the offer."""
        self._link.outbox.settle(self._offer_key)
        if self.relay.to_agent.socket is None:
            self._arm("agent", self._timing.agent_resume, self.fail, _AGENT_LOST)

    def client_asked(self) -> None:
        """A client asked for a way to come back."""
        if self._client_was_here and not self.is_over and self.relay.to_client.socket is None:
            self._await_client()

    def attach(self, socket: DataSocket, side: str) -> None:
        """One side opened the data channel. Raises Refused when it is too late."""
        outlet = self.relay.to_client if side == "client" else self.relay.to_agent
        old = outlet.socket
        if side == "agent" and self.is_over:
            raise Refused(ALREADY_TERMINATED)
        logger.info("= %s is open", socket.label)
        self._disarm(side)
        if side == "client":
            self._client_was_here = True
            self.relay.attach_client(socket)
            if self._closed is not None and not outlet:
                # It had the end of the session already, in a connection that broke.
                socket.send([self._closed])
        else:
            self.relay.attach_agent(socket)
        if old is not None:
            old.finish()
        if not self.is_over and self.relay.to_client.socket and self.relay.to_agent.socket:
            self.session.status = Status.CONNECTED

    def detach(self, socket: DataSocket) -> None:
        """A connection of the data channel is over."""
        side = self.relay.detach(socket)
        if side is None:
            return
        logger.info("= %s is closed", socket.label)
        if self.is_over:
            if side == "client" and self.session.is_ended and not self.relay.to_client:
                self._end_linger()
        elif side == "client":
            self.session.status = Status.DISCONNECTED
            self._await_client()
        elif self._result is not None:
            self._complete()
        else:
            self.session.status = Status.DISCONNECTED
            self._arm("agent", self._timing.agent_resume, self.fail, _AGENT_LOST)

    def agent_completed(self, final_status: str, output: str) -> None:
        """The agent reported how the session ended. It may do so more than once."""
        if self.session.is_ended or self._result is not None:
            return
        self._result = (final_status, output)
        if self._closed is None and self.relay.to_agent.socket is not None:
            # The report came on another connection; the last output may still be on its way.
            self._arm("last output", self._timing.last_output, self._complete)
        else:
            self._complete()

    def terminate(self) -> None:
        """Somebody with the right to do so ended the session."""
        self._stop(Status.TERMINATED, "")

    def fail(self, output: str) -> None:
        """End the session for a reason that its user should read."""
        self._stop(Status.FAILED, output)

    def violated(self, side: str, violation: ProtocolError) -> None:
        """One side sent what it must not."""
        self._stop(Status.FAILED, f"The {side} broke the protocol: {violation.what}")

    def cut(self, side: str) -> None:
        """Break the connections of ``"client"``, ``"agent"`` or ``"both"``."""
        for name, outlet in (("client", self.relay.to_client), ("agent", self.relay.to_agent)):
            if side in (name, "both") and outlet.socket is not None:
                outlet.socket.cut()

    def close(self) -> None:
        """Let go of everything at once; the gateway ends."""
        self._end_linger()

    # -- within --

    def _await_client(self) -> None:
        timing = self._timing
        delay = timing.client_resume if self.client_is_ours else timing.foreign_resume
        self._arm("client", delay, self._give_up, "The client did not come back.")

    def _give_up(self, output: str) -> None:
        self._stop(Status.TERMINATED, output)

    def _stop(self, status: str, output: str) -> None:
        if self.is_over:
            return
        self.session.status = Status.TERMINATING
        was_offered = self._offer_key not in self._link.outbox
        self._link.outbox.settle(self._offer_key)
        self._disarm_all()
        payload = closed_payload(self.session.id, self.session.target, output)
        self._closed = channel_closed(payload)
        self._reason = (status, output)
        is_told = self.relay.tell_agent(self._closed)
        if was_offered and not is_told:
            # An agent whose channels are both gone has the session still, and asks no more after a while.
            is_told = self._link.send_when_open(f"end of {self.session.id}", payload)
        self.relay.close(self._closed)
        if is_told:
            self._arm("agent", self._timing.closing, self._end, status, output)
        else:
            self._end(status, output)

    def _complete(self) -> None:
        if self._reason is not None:
            self._end(*self._reason)
            return
        assert self._result is not None, "the agent has not reported"
        final_status, output = self._result
        if self._closed is None:
            self._closed = channel_closed(closed_payload(self.session.id, self.session.target, output))
            self.relay.close(self._closed)
        ended_well = final_status in (TaskStatus.SUCCESS, TaskStatus.CANCELLED)
        self._end(Status.TERMINATED if ended_well else Status.FAILED, output)

    def _end(self, status: str, output: str) -> None:
        self._disarm_all()
        self._link.outbox.settle(self._offer_key)
        logger.info("= session %s is %s", self.session.id, status)
        self._sessions.end(self.session, status, time.time(), output[:256])
        if self.relay.to_agent.socket is not None:
            self.relay.to_agent.socket.finish()
        if self.relay.to_client.socket is None and not self.relay.to_client:
            self._end_linger()
        else:
            self._arm("linger", self._timing.linger, self._end_linger)

    def _end_linger(self) -> None:
        if self._is_forgotten:
            return
        self._is_forgotten = True
        self._disarm_all()
        for outlet in (self.relay.to_client, self.relay.to_agent):
            outlet.clear()
            if outlet.socket is not None:
                outlet.socket.finish()
        self._forget(self)

    def _arm(self, name: str, delay: float, call: Callable[..., None], *arguments: str) -> None:
        self._disarm(name)
        self._timers[name] = asyncio.get_running_loop().call_later(delay, call, *arguments)

    def _disarm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _disarm_all(self) -> None:
        for name in list(self._timers):
            self._disarm(name)


_AGENT_LOST = "The connection to the agent was lost."
