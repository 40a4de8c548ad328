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

from sagemaker_ssh_helper.emulator.channel_socket import ChannelSocket, Refused
from sagemaker_ssh_helper.emulator.control_link import ControlLink
from sagemaker_ssh_helper.emulator.link_faults import CLOSE_CODE, BadLink
from sagemaker_ssh_helper.emulator.session_relay import SessionRelay, channel_closed, closed_payload
from sagemaker_ssh_helper.emulator.sessions import Session, Sessions, Status
from sagemaker_ssh_helper.errors import MalformedMessage, ProtocolError
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
    client_resume: float = 1000.0
    """For a client that was cut off to come back: 15 minutes, and what it takes both sides to notice."""
    foreign_resume: float = 15.0
    """The same for a client that is not ours, from its last ResumeSession on. Official ones ask at once and
    stop trying after some six seconds, and when they end they say nothing: this is what ends the session.
    Ours try for 15 minutes, and tell the service when they end."""
    agent_open: float = 20.0
    """For an agent to open the data channel it asked for, the first time."""
    agent_resume: float = 1000.0
    """For an agent that was cut off to open the data channel again."""
    foreign_agent_resume: float = 20.0
    """The same for an agent that is not ours, while its control channel is open. Official ones try for some
    six seconds; ours report a session that they give up."""
    closing: float = 5.0
    """For an agent to report the end of a session that it was told to end."""
    last_output: float = 1.0
    """For the rest of an agent's output after it reported the end."""
    linger: float = 30.0
    """For the client to fetch the end of a session."""
    minute: float = 60.0
    """What a minute of a document's idleSessionTimeout and maxSessionDuration takes."""


class DataSocket(ChannelSocket):
    """
    One connection of a data channel; the opening frame says whose.

    Args:
        live: the session.
        authenticate: returns ``"client"`` or ``"agent"``, or raises Refused.
        is_ours: who opens it is of this product.
    """

    def __init__(
        self, live: "LiveSession", authenticate: Callable[[OpenDataChannelInput], str], *, is_ours: bool
    ) -> None:
        super().__init__(f"data channel of {live.session.id}", max_message_bytes=DEFAULT_MAX_MESSAGE_BYTES)
        self._live = live
        self._authenticate = authenticate
        self._is_ours = is_ours
        self.side = ""
        """``"client"`` or ``"agent"``, once it is open."""
        self._receive = live.relay.receive_from_client

    def opened(self, data: bytes) -> None:
        opening = OpenDataChannelInput.parse(data)
        self.side = self._authenticate(opening)
        if self.side == "client":
            self._live.client_is_ours = self._is_ours
        self.label += f", {self.side}"
        if self.side == "agent":
            self._receive = self._live.relay.receive_from_agent
        self._live.attach(self, self.side)

    def received(self, messages: Sequence[bytes]) -> None:
        bad_link = self._live.bad_link
        if bad_link is None:
            self._receive(messages)
        else:
            bad_link.pass_on(self, messages)

    def receive_now(self, messages: Sequence[bytes]) -> None:
        """What came through a bad link."""
        self._receive(messages)

    def ponged(self, data: bytes) -> None:
        if self is self._live.relay.to_client.socket:
            self._live.relay.client_ponged(data)

    def receive_late(self, messages: Sequence[bytes]) -> None:
        """The same, later. What was under way in a connection that is gone is lost."""
        if not self.is_attached:
            return
        try:
            self._receive(messages)
        except MalformedMessage as error:
            self.break_off(error)

    @property
    def is_attached(self) -> bool:
        """Whether this is the connection of its side."""
        return self in (self._live.relay.to_client.socket, self._live.relay.to_agent.socket)

    def drained(self) -> None:
        if self.side == "agent":
            self._live.relay.agent_drained()
        else:
            self._live.relay.client_drained()

    def violated(self, violation: ProtocolError) -> None:
        self._live.violated(self.side, violation)

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
        self._agent_asked = False
        self._agent_was_here = False
        self._is_forgotten = False
        self.bad_link: BadLink | None = None
        """What a switch does to this session's connections; nothing by default."""
        self._frozen_until = {"client": 0.0, "agent": 0.0}

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
        limits, minute = session.limits, self._timing.minute
        self._arm("idle", limits.idle * minute, self._check_idle)
        if limits.duration is not None:
            text = f"The session has lasted as long as it may: {_counted(limits.duration)}."
            self._arm("duration", limits.duration * minute, self._give_up, text)
        self._arm("client", self._timing.first_client, self._give_up, "The client did not come.")

    def agent_asked(self) -> None:
        """The agent asked for the data channel, which is how it takes the offer."""
        self._link.outbox.settle(self._offer_key)
        self._agent_asked = True
        if self.relay.to_agent.socket is None:
            self._await_agent()

    def agent_link_changed(self) -> None:
        """The agent's control channel was opened or closed."""
        if self._agent_asked and not self.is_over and self.relay.to_agent.socket is None:
            self._await_agent()

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
            self._agent_was_here = True
            self.relay.attach_agent(socket)
        if old is not None:
            old.finish()
        frozen = self._frozen_until[side] - asyncio.get_running_loop().time()
        if frozen > 0:
            socket.freeze(frozen)
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
            self._await_agent()

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

    def cut(self, side: str, how: str = "reset", code: int = CLOSE_CODE) -> None:
        """Break the connections of ``"client"``, ``"agent"`` or ``"both"``: by a reset, or a close frame."""
        for name, outlet in (("client", self.relay.to_client), ("agent", self.relay.to_agent)):
            if side in (name, "both") and outlet.socket is not None:
                if how == "close":
                    outlet.socket.close(code, "cut by a switch")
                else:
                    outlet.socket.cut()

    def freeze(self, side: str, seconds: float, *, new_too: bool = True) -> None:
        """
        Be silent to ``"client"``, ``"agent"`` or ``"both"`` for so long; 0 ends it.

        With ``new_too`` the connections that they open meanwhile are silent as well.
        """
        for name, outlet in (("client", self.relay.to_client), ("agent", self.relay.to_agent)):
            if side in (name, "both"):
                if new_too:
                    self._frozen_until[name] = asyncio.get_running_loop().time() + seconds
                if outlet.socket is not None:
                    outlet.socket.freeze(seconds)

    def close(self) -> None:
        """Let go of everything at once; the gateway ends."""
        self._end_linger()

    # -- within --

    def _await_agent(self) -> None:
        timing = self._timing
        if not self._agent_was_here:
            delay = timing.agent_open
        elif self._link.is_official and self._link.is_open:
            delay = timing.foreign_agent_resume
        else:
            delay = timing.agent_resume
        self._arm("agent", delay, self.fail, _AGENT_LOST)

    def _await_client(self) -> None:
        timing = self._timing
        delay = timing.client_resume if self.client_is_ours else timing.foreign_resume
        self._arm("client", delay, self._give_up, "The client did not come back.")

    def _check_idle(self) -> None:
        limit = self.session.limits.idle
        left = self.relay.active_at + limit * self._timing.minute - asyncio.get_running_loop().time()
        if left > 0:
            self._arm("idle", left, self._check_idle)
        else:
            self._give_up(f"The session was idle for {_counted(limit)}.")

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
        if self.bad_link is not None:
            self.bad_link.end()
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


def _counted(minutes: int) -> str:
    return "a minute" if minutes == 1 else f"{minutes} minutes"


_AGENT_LOST = "The connection to the agent was lost."
