"""
The node's life at Systems Manager: heartbeats, the control channel, and what is offered through it.

Online means: the service took a heartbeat, and the control channel is open.
"""

import asyncio
import logging
import os
import random
import socket
import time
from concurrent.futures import Executor
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, TypeVar

from sagemaker_ssh_helper.agent.aws_api import SIGNATURES, AwsApi, ServerFault, Upgrade
from sagemaker_ssh_helper.agent.jobs import Jobs
from sagemaker_ssh_helper.agent.message_delivery import MessageDelivery
from sagemaker_ssh_helper.agent.session import Sessions
from sagemaker_ssh_helper.agent.session_base import Result
from sagemaker_ssh_helper.agent.state import AgentConfig, State, StateDir
from sagemaker_ssh_helper.agent.transport import Transport
from sagemaker_ssh_helper.aws_errors import of_refused_upgrade
from sagemaker_ssh_helper.channels import ControlChannelRunner, Grant, Link
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    AwsError,
    ConnectionFailed,
    CredentialsExpired,
    LocalSetup,
)
from sagemaker_ssh_helper.names import AGENT_VERSION, InstanceId
from sagemaker_ssh_helper.protocol.control_channel import (
    ControlChannel,
    ControlEvent,
    JobOffered,
    SessionClosed,
    SessionOffered,
)
from sagemaker_ssh_helper.protocol.payloads import AgentJobReply, AgentTaskComplete

HEARTBEAT_INTERVAL = 300.0
"""Seconds; same in the official agent."""

# After a heartbeat that was not taken: a limit, and what it is doubled up to. The official agent is silent
# for five minutes when its first one is refused.
_HEARTBEAT_DELAYS = (0.5, 60.0)
# The same between runs of the control channel that ended with a refusal.
_REFUSED_DELAYS = (5.0, 600.0)
# A control channel that is regained sooner was never missed.
_MISSED_AFTER = 5.0
# Commands are asked for elsewhere from that long without a control channel, or when it is denied; and, as the
# official agent does it, until that long after it is open.
_DELIVERY_AFTER = 10.0
_DELIVERY_UNTIL = 60.0
# The last results have that long to leave.
_FAREWELL_TIMEOUT = 1.0

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class Control:
    """
    Keeps the node online.

    Args:
        api: with the managed instance's credentials.
        executor: for the calls, which block.
        transport: whose certificates the WebSockets share.
        chance: gives a random number, 0 to 1.
        is_managed_instance: False for the agent of a native target, which has no heartbeats.
    """

    def __init__(
        self,
        instance_id: InstanceId,
        config: AgentConfig,
        state: StateDir,
        api: AwsApi,
        transport: Transport,
        executor: Executor,
        *,
        chance: Callable[[], float] = random.random,
        is_managed_instance: bool = True,
    ) -> None:
        self._is_managed_instance = is_managed_instance
        self._instance_id = instance_id
        self._state = state
        self._api = api
        self._executor = executor
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._ssl_context = transport.ssl_context() if api.gateway_url.startswith("https:") else None
        self._channel = ControlChannel(
            instance_id,
            random_bytes=os.urandom,
            created_ms=lambda: int(time.time() * 1000),
            version=AGENT_VERSION,
        )
        self._runner: Optional[ControlChannelRunner] = None
        self._is_up = False
        # Set when the last result or reply was acknowledged.
        self._acknowledged = asyncio.Event()
        self._missed: Optional[asyncio.TimerHandle] = None
        self._told: Tuple[State, str] = (State.REGISTERED, "")
        self.sessions = Sessions(
            instance_id,
            grant=self._grant_session,
            complete=self._complete_session,
            sshd_port=lambda: _sshd_port(state, config),
            ssl_context=self._ssl_context,
            environ_path=config.environ_path,
            decrypt=self._decrypt,
            changed=self._tell_sessions,
        )
        self._end_sessions_of_before()
        self.jobs = Jobs(
            instance_id,
            config.region,
            state,
            environ_path=config.environ_path,
            bin_path=config.bin_path,
            ack=self._ack_job,
            reply=self._reply_job,
        )
        self._delivery = MessageDelivery(
            instance_id,
            api,
            self._call,
            self.jobs.offer,
            is_connected=lambda: self._is_up,
            chance=chance,
        )
        # Set while commands have to be asked for.
        self._wants_delivery = asyncio.Event()
        self._changes_delivery = self._loop.call_later(_DELIVERY_AFTER, self._wants_delivery.set)

    async def run(self) -> None:
        """
        Until it is cancelled. Then all sessions and commands end, and the service is told.

        Raises what is wrong with us; what the service does never ends it.
        """
        tasks: List[asyncio.Task[None]] = []
        try:
            if self._is_managed_instance:
                await self._first_heartbeat()
                tasks.append(asyncio.ensure_future(self._beat()))
                tasks.append(asyncio.ensure_future(self._poll()))
            tasks.append(asyncio.ensure_future(self._stay_connected()))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self._close()
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def hurry(self) -> None:
        """What kept the control channel from being opened is gone."""
        if self._runner is not None:
            self._runner.hurry()

    async def _close(self) -> None:
        if self._missed is not None:
            self._missed.cancel()
        self._changes_delivery.cancel()
        await asyncio.gather(self.sessions.close(), self.jobs.close())
        await self._delivery.close(_FAREWELL_TIMEOUT)
        if self._is_up and self._channel.pending:
            self._acknowledged.clear()
            try:
                await asyncio.wait_for(self._acknowledged.wait(), _FAREWELL_TIMEOUT)
            except asyncio.TimeoutError:
                _logger.info("! %d results were not acknowledged", self._channel.pending)

    # --- heartbeats ------------------------------------------------------------------------------

    async def _first_heartbeat(self) -> None:
        limit, longest = _HEARTBEAT_DELAYS
        while True:
            try:
                await self._call(self._api.update_instance_information, self._instance_id)
                return
            except AwsError as error:
                pause = limit * self._chance()
                _logger.warning("! not online yet, again in %.1f s: %s", pause, error)
                self._tell(State.REGISTERED, str(error))
            await asyncio.sleep(pause)
            limit = min(longest, limit * 2)

    async def _beat(self) -> None:
        details = platform_details()
        pause = HEARTBEAT_INTERVAL * self._chance()
        limit, longest = _HEARTBEAT_DELAYS
        while True:
            channel = "ec2messages" if self._wants_delivery.is_set() else ""
            details["SSMConnectionChannel"] = "ssmmessages" if self._is_up else channel
            try:
                await self._call(self._api.update_instance_information, self._instance_id, details)
                await asyncio.sleep(pause)
                pause = HEARTBEAT_INTERVAL
                limit = _HEARTBEAT_DELAYS[0]
            except AwsError as error:
                _logger.warning("! the heartbeat was not taken: %s", error)
                await asyncio.sleep(limit * (0.5 + 0.5 * self._chance()))
                limit = min(longest, limit * 2)

    # --- the control channel ---------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        limit, longest = _REFUSED_DELAYS
        while True:
            began_at = self._loop.time()
            runner = self._runner = ControlChannelRunner(
                self._channel,
                self._grant,
                on_event=self._on_event,
                on_link=self._on_link,
                ssl_context=self._ssl_context,
            )
            try:
                error = await runner.run()
            finally:
                self._runner = None
                self._is_up = False
            if self._loop.time() - began_at > longest:
                limit = _REFUSED_DELAYS[0]
            if isinstance(error, AccessDenied):
                self._deliver(True, 0.0)
            pause = limit * (0.5 + 0.5 * self._chance())
            _logger.warning("! the control channel is refused, again in %.1f s: %s", pause, error)
            self._tell(State.REGISTERED, str(error))
            await asyncio.sleep(pause)
            limit = min(longest, limit * 2)

    async def _poll(self) -> None:
        """Ask for commands whenever there is no control channel to bring them."""
        while True:
            await self._wants_delivery.wait()
            polling = asyncio.ensure_future(self._delivery.poll())
            try:
                while self._wants_delivery.is_set():
                    await asyncio.wait([polling], timeout=_MISSED_AFTER)
                    if polling.done():
                        polling.result()
            finally:
                polling.cancel()
                await asyncio.wait([polling])

    def _deliver(self, wanted: bool, delay: float) -> None:
        self._changes_delivery.cancel()
        change = self._wants_delivery.set if wanted else self._wants_delivery.clear
        self._changes_delivery = self._loop.call_later(delay, change)

    def _on_event(self, event: ControlEvent) -> None:
        if isinstance(event, SessionOffered):
            self.sessions.offer(event.shell)
        elif isinstance(event, SessionClosed):
            self.sessions.end(event.session_id)
        elif isinstance(event, JobOffered):
            self.jobs.offer(event)
        elif not self._channel.pending:
            self._acknowledged.set()

    def _on_link(self, link: Link, reason: str) -> None:
        was_up, self._is_up = self._is_up, link is Link.UP
        if self._is_up:
            self._deliver(False, _DELIVERY_UNTIL)
        elif was_up:
            self._deliver(True, _DELIVERY_AFTER)
        if self._missed is not None:
            self._missed.cancel()
            self._missed = None
        if self._is_up:
            self._tell(State.ONLINE)
        else:
            why = f"the control channel was lost and is being opened again: {reason}"
            self._missed = self._loop.call_later(_MISSED_AFTER, self._tell, State.REGISTERED, why)

    def _tell(self, state: State, why: str = "") -> None:
        if (state, why) == self._told:
            return
        self._told = (state, why)
        _logger.info("= %s%s", state.value, f": {why}" if why else "")
        try:
            self._state.update_status(state, why=why)
        except OSError as error:
            # The disk is full: the node is online all the same.
            _logger.warning("! the state cannot be written: %s", error)

    def _tell_sessions(self, ids: List[str]) -> None:
        try:
            self._state.write_sessions(ids)
        except OSError as error:
            _logger.warning("! the open sessions cannot be written: %s", error)

    def _end_sessions_of_before(self) -> None:
        """Tell the service what went with an agent that died: it would wait for that one, and clients too."""
        try:
            before = self._state.read_sessions()
        except LocalSetup as error:
            _logger.warning("! nobody knows which sessions were open before: %s", error)
            before = None
        for session_id in before.ids if before is not None else ():
            self.sessions.give_up(session_id)
        self._tell_sessions([])

    # --- the service is told ---------------------------------------------------------------------

    def _complete_session(self, session_id: str, result: Result) -> None:
        complete = AgentTaskComplete(session_id, result.status, self._instance_id, result.output)
        runner = self._runner
        if runner is not None:
            runner.task_complete(complete)
        else:
            # It is sent when the channel is open again.
            self._channel.task_complete(complete, self._loop.time())

    def _reply_job(self, reply: AgentJobReply) -> None:
        if self._delivery.brought(reply.job_id):
            self._delivery.reply(reply)
            return
        runner = self._runner
        if runner is not None:
            runner.job_reply(reply)
        else:
            self._channel.job_reply(reply, self._loop.time())

    def _ack_job(self, offered: JobOffered, status: Tuple[str, str]) -> None:
        if not offered.message_id:
            self._delivery.ack(offered.job.job_id, status)
            return
        runner = self._runner
        if runner is not None:
            runner.job_ack(offered, status)

    # --- permissions to connect ------------------------------------------------------------------

    async def _grant(self, resume: bool) -> Grant:
        token = await self._token(self._api.create_control_channel, self._instance_id)
        return await self._as_grant(token, lambda: self._api.control_channel_upgrade(self._instance_id))

    async def _grant_session(self, session_id: str) -> Grant:
        token = await self._token(self._api.create_data_channel, session_id)
        if self._runner is not None:
            # Sessions ask eagerly for a network that was away, since somebody waits.
            self._runner.hurry()
        return await self._as_grant(token, lambda: self._api.data_channel_upgrade(session_id))

    async def _as_grant(self, token: str, sign: Callable[[], Upgrade], signatures: int = 1) -> Grant:
        upgrade = await self._call(sign)

        async def refused(error: ConnectionFailed) -> Optional[Grant]:
            answer = of_refused_upgrade(error)
            if answer is None or signatures == SIGNATURES:
                return None
            if not await self._call(self._api.sign_differently, answer):
                return None
            return await self._as_grant(token, sign, signatures + 1)

        return Grant(upgrade.url, token, upgrade.headers, refused)

    async def _token(self, create: Callable[..., str], name: str) -> str:
        try:
            return await self._call(create, name)
        except (ServerFault, CredentialsExpired) as error:
            # Passing troubles are tried again at once, refusals after a while and not for ever. Credentials
            # that have expired are such a trouble: they are being renewed.
            raise ConnectionFailed(error.what, evidence=error.evidence) from error

    async def _decrypt(self, key_id: str, cipher_text: bytes, context: Mapping[str, str]) -> bytes:
        return await self._call(self._api.decrypt, key_id, cipher_text, context)

    async def _call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        return await self._loop.run_in_executor(self._executor, function, *arguments)


def _sshd_port(state: StateDir, config: AgentConfig) -> int:
    """As the set-up last said: sshd may have been started anew, at another port."""
    try:
        latest = state.read_config()
    except (LocalSetup, OSError):
        latest = None
    return (latest or config).sshd_port


def platform_details() -> Dict[str, str]:
    """What the full heartbeat says about this container."""
    release = _os_release()
    return {
        "AgentStatus": "Active",
        "AvailabilityZone": "",
        "AvailabilityZoneId": "",
        # Not the full name: to ask for it can take as long as a name server wants.
        "ComputerName": socket.gethostname(),
        "IPAddress": _ip_address(),
        "PlatformName": release.get("NAME", os.uname().sysname),
        "PlatformVersion": release.get("VERSION_ID", os.uname().release),
    }


def _os_release() -> Dict[str, str]:
    found: Dict[str, str] = {}
    try:
        with open("/etc/os-release", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, equals, value = line.strip().partition("=")
                if equals:
                    found[name] = value.strip("\"'")
    except OSError:
        # Images made from nothing have none.
        pass
    return found


def _ip_address() -> str:
    """The address of the interface with the default route; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
