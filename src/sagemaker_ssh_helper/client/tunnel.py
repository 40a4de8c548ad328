"""
Standard input and output on one side, a session's data channel on the other.

However it ends, the session is ended at the service, once: ssh is done or dead (its pipes close), a signal,
an error. Input that ends first has its last bytes acknowledged; output that ends first ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from sagemaker_ssh_helper import plain_logs
from sagemaker_ssh_helper.aws import data_keys, resources, sessions
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.sessions import SessionGrant
from sagemaker_ssh_helper.aws_errors import Kind, kind_of
from sagemaker_ssh_helper.channels import DataChannelRunner, Grant, Link, certificates
from sagemaker_ssh_helper.channels.dialing import in_thread
from sagemaker_ssh_helper.client import standard_streams
from sagemaker_ssh_helper.client.container_watch import wait_for_end
from sagemaker_ssh_helper.client.pipes import Input, Output
from sagemaker_ssh_helper.client.proxy_command import Interrupts, Started, Starting, max_payload_bytes
from sagemaker_ssh_helper.client.upgrades import Upgrades
from sagemaker_ssh_helper.errors import (
    ConnectionFailed,
    CredentialsExpired,
    CredentialsInvalid,
    CredentialsMissing,
    HandshakeFailed,
    ServiceError,
    SessionLost,
    SSHHelperError,
    SshServerDown,
)
from sagemaker_ssh_helper.names import CLIENT_VERSION
from sagemaker_ssh_helper.protocol.data_channel import (
    ChannelClosed,
    DataChannel,
    DataKeyNeeded,
    Event,
    Ready,
    Side,
    StreamData,
)
from sagemaker_ssh_helper.protocol.encryption import DataKey
from sagemaker_ssh_helper.protocol.payloads import SessionType

logger = logging.getLogger(__name__)

DRAIN_TIMEOUT = 2.0
"""Seconds for ssh's last bytes to be acknowledged."""

HURRY_TIMEOUT = 0.3
"""Seconds for each of these when a signal, or an output that nobody reads, says that nobody waits for it."""

LINGER_TIMEOUT = 1.0
"""Seconds without output after which a session whose input has ended is over, if its output is still read."""

FLUSH_TIMEOUT = 5.0
"""Seconds without progress after which output that ssh does not take is given up."""

TERMINATE_TIMEOUT = 2.0
"""Seconds to wait for the service to end the session."""

HANG_UP_TIMEOUT = 0.5
"""Seconds for ssh to hang up after the session has ended; when it does, that was an ordinary end."""

TELL_AFTER = 2.0
"""Seconds without a link after which the user is told."""

START_TIMEOUT = 5.0
"""Seconds that the end waits for a StartSession under way, so as to end what it starts."""

# How the agent's last words begin when nothing answers on the port.
_UNREACHED = "unable to connect to specified port"

T = TypeVar("T")


def run(
    client: Client, starting: Starting, interrupts: Interrupts, output: int, tell: Callable[[str], None]
) -> int:
    """
    The exit status of a tunnel from standard input to the descriptor ``output``. Raises SSHHelperError.

    ``tell`` gets lines for the user.
    """
    return plain_logs.run(_run(client, starting, interrupts, output, tell))


async def _run(
    client: Client, starting: Starting, interrupts: Interrupts, output: int, tell: Callable[[str], None]
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def interrupted() -> None:
        loop.call_soon_threadsafe(stop.set)

    interrupts.listen(interrupted)
    stdout = Output(output, on_broken=stop.set)
    try:
        started = await wait_started(starting, stop)
        if started is None:
            pass
        elif stop.is_set():
            await terminate(client, started.grant)
        else:
            tunnel = _new_tunnel(client, starting, started, stdout, stop, tell)
            try:
                await tunnel.run()
            finally:
                if not tunnel.closed_by_service:
                    await terminate(client, started.grant)
    finally:
        stdout.close()
        interrupts.close()
    return 0 if interrupts.received is None else 128 + interrupts.received


def _new_tunnel(
    client: Client,
    starting: Starting,
    started: Started,
    stdout: Output,
    stop: asyncio.Event,
    tell: Callable[[str], None],
) -> Tunnel:
    client.session.ask_no_more()
    if not started.instance.is_native:
        return Tunnel(client, started, stdout, stop, tell)
    from sagemaker_ssh_helper.client.relay import RelayTunnel  # few sessions need it

    return RelayTunnel(client, started, stdout, stop, tell, starting.options)


async def wait_started(starting: Starting, stop: asyncio.Event) -> Started | None:
    """What was started. After ``stop`` nothing new is, and None means that nothing had been."""
    future: asyncio.Future[Started | None] = asyncio.wrap_future(starting.future)
    stopped = asyncio.ensure_future(stop.wait())
    either: list[asyncio.Future[Any]] = [future, stopped]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            starting.call_off()
            await asyncio.wait([future], timeout=START_TIMEOUT)
            if not future.done() or future.exception() is not None:
                return None
        return future.result()
    finally:
        stopped.cancel()


async def terminate(client: Client, grant: SessionGrant) -> None:
    """End the session at the service, as well as that can be done now."""
    ending = _in_thread(lambda: sessions.terminate(client, grant.id))
    await asyncio.wait([ending], timeout=TERMINATE_TIMEOUT)
    if not ending.done():
        logger.info("! the service did not say in time that the session has ended")
    elif (error := ending.exception()) is not None:
        logger.info("! the session was not ended at the service: %s", error)


def _in_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    return asyncio.wrap_future(in_thread(call))


class Tunnel:
    """
    One session from its grant to its end.

    ``closed_by_service`` says whether the service itself ended it. Set ``stop`` to end it from here.
    """

    session_type = SessionType.PORT
    """What is expected: only then a handshake that does not come is an error."""

    def __init__(
        self,
        client: Client,
        started: Started,
        stdout: Output,
        stop: asyncio.Event,
        tell: Callable[[str], None],
    ) -> None:
        self.closed_by_service = False
        self._tell = tell
        self._outage = Outage(tell)
        self._client = client
        self._started = started
        self._grant = started.grant
        self._upgrades = Upgrades(client.session)
        self._stdout = stdout
        self._stop = stop
        self._ready = False
        self._failure: SSHHelperError | None = None
        self._last_words = ""
        self._output_at = 0.0
        self._input_ended = False
        self._stdin = Input(standard_streams.input_descriptor(), self._on_input, self._on_input_end)
        self._runner = self._new_runner()
        stdout.on_full = lambda: self._runner.pause_delivery()
        stdout.on_room = lambda: self._runner.resume_delivery()

    async def run(self) -> None:
        """Until the end. Raises SSHHelperError when it is not an ordinary one."""
        if line := self._client.session.cannot_outlive:
            self._tell(line)
        watch = asyncio.ensure_future(self._watch())
        try:
            error = await self._run_once()
            hurry = self._stop.is_set() and not self._input_ended
            await self._stdout.flush(HURRY_TIMEOUT if hurry else FLUSH_TIMEOUT)
            if error is None and self.closed_by_service and self._output_at and not self._last_words:
                await self._wait_for_hang_up()
        finally:
            watch.cancel()
            await asyncio.wait([watch])
            self._outage.close()
            self._stdin.close()
        self._judge(self._failure or error)

    async def _watch(self) -> None:
        """End the session when its container has ended."""
        instance = self._started.instance
        kind = instance.kind
        if kind is None or not instance.name:
            return

        def acknowledged() -> int | None:
            runner = self._runner
            return runner.channel.acknowledged if runner.connected and not runner.channel.drained else None

        self._fail(
            await wait_for_end(
                acknowledged,
                lambda: _in_thread(lambda: resources.describe(self._client, kind, instance.name)),
                instance.fqdn,
                is_missing=self._agent_is_missing,
                tell=self._outage.tell,
            )
        )

    async def _agent_is_missing(self) -> bool:
        """The service says so; what it may not be asked, or does not answer, is no such word."""
        target = self._started.instance.id
        try:
            answer = await _in_thread(lambda: self._client.call("ssm", "GetConnectionStatus", Target=target))
        except SSHHelperError as error:
            logger.info("! nobody says whether the agent of %s is connected: %s", target, error)
            return False
        return str(answer.get("Status")).lower() == "notconnected"

    def _fail(self, error: SSHHelperError) -> None:
        """End the session because of that."""
        if self._failure is None:
            self._failure = error
        self._stop.set()

    def _judge(self, error: SSHHelperError | None) -> None:
        """Raise what the end means, if it was not an ordinary one."""
        said = self._last_words
        if isinstance(error, HandshakeFailed) and not said:
            # The agent gives up before the handshake, too.
            said = error.evidence or ""
        if said.lower().startswith(_UNREACHED):
            raise SshServerDown(
                f"no ssh server answers in {self._started.instance.fqdn}",
                evidence=f"port {self._started.port}: {said}",
                fix="Its log tells why; in the container: sm-wait status",
            )
        if error is not None:
            raise error
        if said or (self.closed_by_service and not self._stop.is_set()):
            silent = "by an administrator, or the ssh server hung up"
            if not self._output_at:
                silent = "before the ssh server said anything"
            raise SessionLost(
                f"the session to {self._started.instance.fqdn} was ended by the service",
                evidence=said or silent,
                fix="See whether the container still runs: sm-ssh list",
            )

    async def _wait_for_hang_up(self) -> None:
        """
        The service says without a word that the session is over. An ssh that knows why, because the server
        told it, hangs up now; one that does not was cut off.
        """
        self._stdin.resume()
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([stopped], timeout=HANG_UP_TIMEOUT)
        finally:
            stopped.cancel()

    async def _run_once(self) -> SSHHelperError | None:
        runner = self._runner
        running = asyncio.ensure_future(runner.run())
        stopped = asyncio.ensure_future(self._stop.wait())
        either: list[asyncio.Future[Any]] = [running, stopped]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await self._finish(running)
            return await running
        finally:
            stopped.cancel()
            self._stdin.pause()
            runner.close()
            await asyncio.wait([running])

    async def _finish(self, running: asyncio.Future[SSHHelperError | None]) -> None:
        """Let the last bytes go both ways, as far as somebody is there to take them."""
        runner = self._runner
        if self._ready and not runner.channel.drained:
            await runner.drain(DRAIN_TIMEOUT if self._input_ended else HURRY_TIMEOUT)
        loop = asyncio.get_running_loop()
        ended_at = loop.time()
        while self._input_ended and not self._stdout.broken and not running.done():
            left = max(ended_at, self._output_at) + LINGER_TIMEOUT - loop.time()
            if left <= 0:
                break
            await asyncio.wait([running], timeout=min(left, 0.05))
        runner.close()

    def _new_runner(self) -> DataChannelRunner:
        channel = DataChannel(
            Side.CLIENT,
            self._grant.id,
            random_bytes=os.urandom,
            created_ms=lambda: int(time.time() * 1000),
            client_id=str(uuid.uuid4()),
            instance_id=self._started.instance.id,
            version=CLIENT_VERSION,
            session_type=self.session_type,
            max_payload_bytes=max_payload_bytes(),
        )
        return DataChannelRunner(
            channel,
            self._get_grant,
            on_event=self._on_event,
            on_writable=self._on_writable,
            on_link=self._on_link,
            get_data_key=self._get_data_key,
            ssl_context=self._ssl_context(),
        )

    def _ssl_context(self) -> ssl.SSLContext | None:
        """Certificates that AWS's config file names; the environment's are the channel's own affair."""
        bundle = self._client.session.ca_bundle()
        if not isinstance(bundle, str) or os.environ.get("AWS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE"):
            return None
        return certificates.context_of(bundle, "ca_bundle, or REQUESTS_CA_BUNDLE,")

    async def _get_grant(self, resume: bool) -> Grant:
        if resume:
            try:
                renewed = await _in_thread(lambda: sessions.resume(self._client, self._grant))
            except ServiceError as error:
                if kind_of(error.code) is not Kind.TRANSIENT:
                    raise
                # The service has trouble of its own, which may pass; the session waits for us there.
                raise ConnectionFailed(error.what, status=503, evidence=error.evidence) from error
            except (CredentialsExpired, CredentialsInvalid, CredentialsMissing) as error:
                if not self._client.session.may_be_renewed:
                    raise
                # It waits for a user who signs in again, too.
                self._outage.explain(error)
                raise ConnectionFailed(error.what, status=503, evidence=error.evidence) from error
            if renewed is None:
                raise SessionLost(
                    "the link was lost and the session cannot be resumed",
                    evidence="the service has ended it",
                    fix="Connect again",
                )
            self._grant = renewed
        return await self._upgrades.grant(self._grant)

    async def _get_data_key(self, needed: DataKeyNeeded) -> DataKey:
        return await _in_thread(
            lambda: data_keys.generate(self._client, needed.key_id, needed.encryption_context)
        )

    def _on_event(self, event: Event) -> None:
        if isinstance(event, StreamData):
            self._output_at = asyncio.get_running_loop().time()
            self._stdout.write(event.data)
        elif isinstance(event, Ready):
            self._ready = True
            logger.info("= the session is open, agent %s", event.peer_version)
            if self._runner.writable:
                self._on_writable()
        elif isinstance(event, ChannelClosed):
            self.closed_by_service = True
            self._last_words = event.output.strip()

    def _on_writable(self) -> None:
        if self._ready and not self._stop.is_set():
            self._stdin.resume()

    def _on_input(self, data: bytes) -> None:
        self._runner.send_data(data)
        if not self._runner.writable:
            self._stdin.pause()

    def _on_input_end(self) -> None:
        self._input_ended = True
        self._stop.set()

    def _on_link(self, link: Link, why: str) -> None:
        logger.info("= link %s %s", link.value, why)
        if link is Link.DOWN:
            self._client.forget_connections()
            self._outage.begin()
        else:
            self._upgrades.accepted()
            self._outage.end()


class Outage:
    """Tells the user about a lost link, unless it is back soon. ``tell`` gets one line at a time."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self._began_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._told = False
        self._explained = False

    def begin(self) -> None:
        """The link is lost. Nothing when it was already, or had come back for a moment only."""
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._began_at = loop.time()
            self._timer = loop.call_later(TELL_AFTER, self._tell_lost)

    def end(self) -> None:
        """The link is back, or was there all along."""
        if self._told:
            seconds = asyncio.get_running_loop().time() - self._began_at
            self.tell(f"link resumed after {seconds:.0f} s")
        self.close()

    def explain(self, error: SSHHelperError) -> None:
        """What keeps the link from coming back, and what the user can do about it; once."""
        if not self._explained:
            self._explained = True
            self.tell(str(error))

    def close(self) -> None:
        """Tell nothing more."""
        self._explained = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._told = False

    def _tell_lost(self) -> None:
        self._told = True
        self.tell("link lost, resuming…")
