"""
The message gateway: who may open which channel, and what belongs together.

It gives out the tokens, takes over the connections that the server upgraded, and keeps one
:class:`ControlLink` for each instance and one :class:`LiveSession` for each session.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from sagemaker_ssh_helper.emulator import native_targets
from sagemaker_ssh_helper.emulator.channel_socket import Refused
from sagemaker_ssh_helper.emulator.control_link import ControlLink, ControlSocket
from sagemaker_ssh_helper.emulator.link_faults import LinkFaults
from sagemaker_ssh_helper.emulator.live_session import (
    ALREADY_TERMINATED,
    DataSocket,
    LiveSession,
    SessionTiming,
)
from sagemaker_ssh_helper.emulator.managed_instances import ManagedInstances
from sagemaker_ssh_helper.emulator.service import ApiError, Caller, ChannelRequest, Cloud
from sagemaker_ssh_helper.emulator.sessions import Session, Sessions
from sagemaker_ssh_helper.emulator.tokens import Tokens
from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.control_channel import ControlPayload, parse_control
from sagemaker_ssh_helper.protocol.message import AgentMessage, format_message_id
from sagemaker_ssh_helper.protocol.payloads import (
    AgentJob,
    AgentJobAck,
    AgentJobReply,
    AgentJobReplyAck,
    AgentTaskAcknowledge,
    AgentTaskComplete,
    CreateChannelInput,
    CreateChannelOutput,
    OpenControlChannelInput,
    OpenDataChannelInput,
)

logger = logging.getLogger(__name__)

# What the keys of jobs in an outbox begin with.
_JOB = "job "

JobAcked = Callable[[str, AgentJobAck], None]
JobReplied = Callable[[str, AgentJobReply], None]


class MessageGateway:
    """
    The gateway of one local cloud.

    Args:
        cloud: for authorisation.
        instances: who is registered; whether they are connected is noted there.
        sessions: the records of all sessions.

    Attributes:
        timing: what new sessions wait for; a switch changes it.
        job_acked: called with the instance id and the answer when an agent took or refused a job.
        job_replied: called with the instance id and the reply of an agent to a job.
    """

    def __init__(self, cloud: Cloud, instances: ManagedInstances, sessions: Sessions) -> None:
        self.timing = SessionTiming()
        self.job_acked: JobAcked = _nobody
        self.job_replied: JobReplied = _nobody
        self._cloud = cloud
        self._instances = instances
        self._sessions = sessions
        self._links: dict[str, ControlLink] = {}
        self._live: dict[str, LiveSession] = {}
        self.link_faults = LinkFaults(self._live)
        self._tokens = Tokens()
        self._jobs: dict[str, asyncio.Event] = {}
        self._is_stopped = False
        cloud.native_targets.removed = self.forget_instance

    # -- what the server calls --

    async def create_channel(self, request: ChannelRequest) -> str:
        """The answer to an agent's POST for a channel, with a token. Raises ApiError."""
        self._check_running()
        instance_id = self._agent_of(request)
        self._authorize(request, f"ssmmessages:Create{request.kind.capitalize()}Channel")
        try:
            CreateChannelInput.parse(request.body)
        except MalformedMessage as error:
            raise ApiError("ValidationException", str(error)) from error
        now = _now()
        if request.kind == "control":
            token = self._tokens.issue(instance_id, "control", now)
            return CreateChannelOutput(token, "CreateControlChannelResponse").serialize().decode()
        live = self._live.get(request.channel_id)
        if live is None or live.is_over:
            raise ApiError("InvalidRequestException", ALREADY_TERMINATED)
        live.agent_asked()
        token = self._tokens.issue(request.channel_id, "agent", now)
        return CreateChannelOutput(token, "CreateDataChannelResponse").serialize().decode()

    def upgrade(self, request: ChannelRequest) -> asyncio.Protocol:
        """The protocol for a connection to a channel. Raises ApiError to refuse it."""
        self._check_running()
        if request.kind == "control":
            instance_id = self._agent_of(request)
            self._authorize(request, "ssmmessages:OpenControlChannel")
            link = self._link(instance_id)

            def authenticate(opening: OpenControlChannelInput) -> None:
                if not self._tokens.redeem(opening.token, instance_id, "control", _now()):
                    raise Refused("the token is not valid for this control channel")

            return ControlSocket(link, authenticate, is_ours=request.is_ours)
        live = self._live.get(request.channel_id)
        if live is None or not live.awaits_client:
            raise ApiError("InvalidRequestException", ALREADY_TERMINATED)
        caller = request.caller
        if caller is not None and caller.instance_id is None and not self._is_native_agent(request, live):
            self._authorize_client(caller, live.session)
        return DataSocket(live, lambda opening: self._side_of(request, opening), is_ours=request.is_ours)

    # -- what the control plane calls --

    def is_connected(self, instance_id: str) -> bool:
        """Whether the control channel of an instance is open."""
        link = self._links.get(instance_id)
        return link is not None and link.is_open

    def start_session(self, session: Session) -> str:
        """Offer a session to its target, which is connected; returns the client's token."""
        live = LiveSession(session, self._sessions, self._links[session.target], self.timing, self._forget)
        self._live[session.id] = live
        self.link_faults.begin(live)
        live.offer()
        return self._tokens.issue(session.id, "client", _now())

    def resume_session(self, session: Session) -> str | None:
        """A new token for the client of a session; None when it is too late."""
        live = self._live.get(session.id)
        if live is None or not live.awaits_client or self.link_faults.refuses_resume(session.id):
            return None
        live.client_asked()
        return self._tokens.issue(session.id, "client", _now())

    def terminate_session(self, session: Session) -> None:
        """End a session, whatever state it is in."""
        live = self._live.get(session.id)
        if live is not None:
            live.terminate()

    def forget_instance(self, instance_id: str, why: str = "The managed instance was deregistered.") -> None:
        """An instance is gone: end its sessions, whose clients are told why, and its connections."""
        for live in [live for live in self._live.values() if live.session.target == instance_id]:
            live.fail(why)
            live.cut("agent")
        link = self._links.pop(instance_id, None)
        if link is not None:
            link.close()
        self._jobs.pop(instance_id, None)
        self._tokens.revoke(instance_id)

    def send_job(self, instance_id: str, job: AgentJob) -> str:
        """
        Deliver a job until the agent acknowledges it, now or when it connects. Returns the text of the
        message id.
        """
        message_id = self._link(instance_id).put(_JOB + job.job_id, job)
        self._job_is_there(instance_id).set()
        return message_id

    def settle_job(self, instance_id: str, job_id: str) -> None:
        """Do not deliver this job any more."""
        link = self._links.get(instance_id)
        if link is not None:
            link.outbox.settle(_JOB + job_id)

    def postpone_job(self, instance_id: str, job_id: str, delay: float) -> None:
        """Deliver this job again after so many seconds."""
        self._link(instance_id).postpone(_JOB + job_id, delay)

    def take_jobs(self, instance_id: str, visibility_timeout: float) -> list[tuple[AgentJob, int]]:
        """
        The jobs of an instance that asks for them because it has no control channel, and when they were
        made, in milliseconds since the Unix epoch. They come again after ``visibility_timeout`` seconds
        unless they are settled.
        """
        self._job_is_there(instance_id).clear()
        link = self._links.get(instance_id)
        if link is None or link.is_open:
            return []
        jobs = []
        for delivery in link.outbox.take_due(_now(), visibility_timeout, _JOB):
            message, payload = parse_control(delivery.data)
            assert isinstance(payload, AgentJob), "only jobs have such keys"
            jobs.append((payload, message.created_ms))
        return jobs

    async def wait_for_jobs(self, instance_id: str, timeout: float) -> None:
        """Until there may be a job for an instance; ``timeout`` seconds at most."""
        link = self._links.get(instance_id)
        if link is not None and not link.is_open:
            due_at = link.outbox.next_due_at()
            if due_at is not None:
                timeout = min(timeout, max(0.05, due_at - _now()))
        try:
            await asyncio.wait_for(self._job_is_there(instance_id).wait(), timeout)
        except asyncio.TimeoutError:
            return

    # -- switches --

    async def switch_gateway(self, body: Mapping[str, Any]) -> None:
        """``{"kind": "gateway", "action": "stop"}``, or ``"start"``. Stopping breaks all connections."""
        action = body.get("action")
        if action not in ("stop", "start"):
            raise ApiError("ValidationException", "action must be stop or start.")
        self._is_stopped = action == "stop"
        if self._is_stopped:
            for link in self._links.values():
                link.cut()
            for live in list(self._live.values()):
                live.cut("both")

    async def switch_cut(self, body: Mapping[str, Any]) -> None:
        """
        ``{"kind": "cut", "side": "control"}``: break the control channels of all agents, or that of
        ``instance``. For the other sides see ``link_faults``.
        """
        if body.get("side") == "control":
            for link in self._links.values():
                if body.get("instance", link.instance_id) == link.instance_id:
                    link.cut()
            return
        await self.link_faults.switch_cut(body)

    async def start(self) -> None:
        """It is not stopped any more."""
        self._is_stopped = False

    async def close(self) -> None:
        """The cloud ends: drop every connection."""
        self._is_stopped = True
        for live in list(self._live.values()):
            live.close()
        for link in list(self._links.values()):
            link.close()

    # -- within --

    def _check_running(self) -> None:
        if self._is_stopped:
            raise ApiError("ServiceUnavailableException", "The message gateway is stopped.", 503)

    def _agent_of(self, request: ChannelRequest) -> str:
        """The instance, or the native target, that signed a request, and may use this channel."""
        caller = request.caller
        session = self._sessions.get(request.channel_id) if request.kind == "data" else None
        owner = session.target if session is not None else request.channel_id
        if owner in self._cloud.native_targets:
            if self._cloud.native_targets.admits(owner, caller.user_id if caller is not None else None):
                return owner
            raise ApiError("AccessDeniedException", f"Only the agent of {owner} may do this.")
        instance_id = caller.instance_id if caller is not None else None
        if instance_id is None or self._instances.get(instance_id) is None:
            raise ApiError("AccessDeniedException", "Only a registered managed instance may do this.")
        if request.kind == "data" and session is None:
            # Perhaps of a cloud before this one: its agent is to give up, and not to ask again.
            raise ApiError("InvalidRequestException", ALREADY_TERMINATED)
        if instance_id != owner:
            raise ApiError("AccessDeniedException", f"{instance_id} may not use this channel.")
        return instance_id

    def _authorize(self, request: ChannelRequest, action: str) -> None:
        assert request.caller is not None, "agents sign their requests"
        self._cloud.iam.authorize(request.caller, action, "*", {})

    def _is_native_agent(self, request: ChannelRequest, live: LiveSession) -> bool:
        targets, target = self._cloud.native_targets, live.session.target
        user_id = request.caller.user_id if request.caller is not None else None
        return target in targets and targets.admits(target, user_id)

    def _authorize_client(self, caller: Caller, session: Session) -> None:
        """A client that signs is one who calls: what IAM lets it do with the session counts."""
        owned_by = self._sessions.owned_by
        arn = f"arn:aws:ssm:{self._cloud.region}:{self._cloud.account_id}:{owned_by.resource(session)}"
        context = {**owned_by.context(session), native_targets.TARGET_ID_KEY: session.target}
        self._cloud.iam.authorize(caller, "ssmmessages:OpenDataChannel", arn, context)

    def _side_of(self, request: ChannelRequest, opening: OpenDataChannelInput) -> str:
        """Which side opens a data channel with this frame. Raises Refused."""
        side = "client"
        if opening.is_agent:
            side = "agent"
            try:
                if self._agent_of(request) != opening.client_instance_id:
                    raise Refused("the instance in the opening frame is not the one that signed")
                self._authorize(request, "ssmmessages:OpenDataChannel")
            except ApiError as error:
                raise Refused(error.message) from error
        if not self._tokens.redeem(opening.token, request.channel_id, side, _now()):
            raise Refused(f"the token is not valid for the {side} of this data channel")
        return side

    def _job_is_there(self, instance_id: str) -> asyncio.Event:
        return self._jobs.setdefault(instance_id, asyncio.Event())

    def _link(self, instance_id: str) -> ControlLink:
        link = self._links.get(instance_id)
        if link is None:
            link = self._links[instance_id] = ControlLink(
                instance_id,
                receive=lambda message, payload: self._receive(instance_id, message, payload),
                changed=self._link_changed,
            )
        return link

    def _link_changed(self, link: ControlLink) -> None:
        for live in self._live.values():
            if live.session.target == link.instance_id:
                live.agent_link_changed()
        instance = self._instances.get(link.instance_id)
        if instance is None:
            return
        instance.connected = link.is_open
        if link.is_open:
            instance.agent_version = link.agent_version or instance.agent_version
        else:
            instance.channel_closed_at = time.time()

    def _receive(self, instance_id: str, message: AgentMessage, payload: ControlPayload) -> None:
        """A message of an agent on its control channel."""
        link = self._links.get(instance_id)
        if link is None:
            return
        message_id = format_message_id(message.message_id)
        if isinstance(payload, AgentTaskComplete):
            link.send(AgentTaskAcknowledge(message_id=message_id, task_id=payload.task_id))
            live = self._live.get(payload.task_id)
            if live is not None and live.session.target == instance_id:
                live.agent_completed(payload.final_status, payload.output)
        elif isinstance(payload, AgentJobAck):
            self.job_acked(instance_id, payload)
        elif isinstance(payload, AgentJobReply):
            link.send(AgentJobReplyAck(job_id=payload.job_id, acknowledged_message_id=message_id))
            self.job_replied(instance_id, payload)
        else:
            logger.info("! control channel of %s: %s is ignored", instance_id, message)

    def _forget(self, live: LiveSession) -> None:
        self._live.pop(live.session.id, None)
        self._tokens.revoke(live.session.id)


def Gateway(cloud: Cloud) -> MessageGateway:
    """The gateway of a cloud's Systems Manager, which has to be there already; the server asks for it."""
    gateway = getattr(cloud.services["ssm"], "gateway", None)
    assert isinstance(gateway, MessageGateway), "Systems Manager comes with its gateway"
    return gateway


def _nobody(*_: object) -> None:
    """Until somebody listens."""


def _now() -> float:
    return asyncio.get_running_loop().time()
