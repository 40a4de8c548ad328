"""
What all kinds of session share: a data channel with its permission, and an end with a result.
"""

import asyncio
import logging
import os
import ssl
import time
from dataclasses import dataclass
from typing import Any, Awaitable, Callable, List, Mapping, Optional

from sagemaker_ssh_helper.agent.aws_api import SESSION_TERMINATED
from sagemaker_ssh_helper.channels import DataChannelRunner, Grant
from sagemaker_ssh_helper.errors import (
    ConnectionFailed,
    HandshakeFailed,
    LocalSetup,
    ServiceError,
    SSHHelperError,
)
from sagemaker_ssh_helper.names import AGENT_VERSION, Env
from sagemaker_ssh_helper.protocol.data_channel import (
    AGENT_HANDSHAKE_TIMEOUT,
    DataChannel,
    DataKeyNeeded,
    Event,
    Side,
)
from sagemaker_ssh_helper.protocol.encryption import DataKey
from sagemaker_ssh_helper.protocol.payloads import InteractiveShell, TaskStatus

MAX_HANDSHAKE_TIMEOUT = 3600

_MAX_REFUSALS = 6

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """How a session ended; ``output`` is for the user."""

    status: str
    output: str = ""


@dataclass(frozen=True)
class Node:
    """
    What a session needs to know of its agent.

    Args:
        grant: gives the permission to open a session's data channel now.
        sshd_port: where our sshd listens, for port 22 when nothing listens there; 0: nowhere.
        ssl_context: for the data channels; shared, because to make one takes longer than a connection.
        environ_path: the job's environment, for programs; empty: that of the agent.
        decrypt: what KMS makes of a data key: of the key's id, the encrypted data key and its context.
    """

    instance_id: str
    grant: Callable[[str], Awaitable[Grant]]
    sshd_port: Callable[[], int]
    ssl_context: Optional[ssl.SSLContext]
    environ_path: str
    decrypt: Callable[[str, bytes, Mapping[str, str]], Awaitable[bytes]]


def handshake_timeout(environ: Mapping[str, str]) -> float:
    """Seconds for the client's side of a handshake: as the job's environment says, else the usual ones."""
    text = environ.get(Env.HANDSHAKE_TIMEOUT, "").strip()
    if not text:
        return AGENT_HANDSHAKE_TIMEOUT
    if text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= MAX_HANDSHAKE_TIMEOUT:
        return float(text)
    _logger.warning("! %s is no number of seconds from 1 to %d", Env.HANDSHAKE_TIMEOUT, MAX_HANDSHAKE_TIMEOUT)
    return AGENT_HANDSHAKE_TIMEOUT


async def no_kms(key_id: str, cipher_text: bytes, context: Mapping[str, str]) -> bytes:
    """For an agent without KMS."""
    raise LocalSetup("this agent has no way to KMS")


class SessionBase:
    """One session. It ends with the first result that anybody finds."""

    def __init__(self, node: Node, shell: InteractiveShell) -> None:
        self.session_id = shell.session_id
        self._node = node
        self._shell = shell
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()
        self._result: asyncio.Future[Result] = self._loop.create_future()
        self._drain = False
        self._abandoned: asyncio.Future[None] = self._loop.create_future()
        self._runner: Optional[DataChannelRunner] = None
        self._refusals = 0
        self._received_bytes = 0
        self._sent_bytes = 0

    async def run(self) -> Result:
        """The whole session. Raises DocumentRefused."""
        raise NotImplementedError

    def summary(self, result: Result) -> str:
        """For the log."""
        seconds = self._loop.time() - self._began_at
        text = f"after {seconds:.1f} s, {self._received_bytes} B in, {self._sent_bytes} B out"
        return f"{text}: {result.output}" if result.output else text

    def finish(self, result: Result, *, drain: bool = False) -> None:
        """
        End the session. When it has a result, that stays.

        Args:
            drain: the client is to get what was sent to it first, also one that is away and comes back. That
                ends with a later call without it: nobody wants the rest any more.
        """
        if not self._result.done():
            self._drain = drain
            self._result.set_result(result)
        elif not drain and not self._abandoned.done():
            self._abandoned.set_result(None)

    def _new_runner(
        self,
        session_type: str,
        properties: Optional[Mapping[str, Any]],
        on_event: Callable[[Event], None],
        on_writable: Callable[[], None],
        kms_key_id: str = "",
    ) -> DataChannelRunner:
        self._runner = DataChannelRunner(
            DataChannel(
                Side.AGENT,
                self.session_id,
                random_bytes=os.urandom,
                created_ms=lambda: int(time.time() * 1000),
                instance_id=self._node.instance_id,
                version=AGENT_VERSION,
                session_type=session_type,
                properties=properties,
                kms_key_id=kms_key_id,
                agent_handshake_timeout=handshake_timeout(os.environ),
            ),
            self._grant,
            on_event=on_event,
            on_writable=on_writable,
            ssl_context=self._node.ssl_context,
            get_data_key=self._get_data_key,
        )
        return self._runner

    async def _get_data_key(self, needed: DataKeyNeeded) -> DataKey:
        assert needed.cipher_text is not None, "an agent decrypts the client's data key"
        try:
            plain = await self._node.decrypt(needed.key_id, needed.cipher_text, needed.encryption_context)
        except SSHHelperError as error:
            what = "the container cannot decrypt the session's data key"
            fix = "Let the role of its managed instance call kms:Decrypt with the key of the session document"
            raise HandshakeFailed(what, evidence=str(error), fix=fix) from error
        return DataKey(plain, needed.cipher_text)

    def _pass_on_exception(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._result.done():
            self._result.set_exception(error)

    async def _grant(self, resume: bool) -> Grant:
        try:
            grant = await self._node.grant(self.session_id)
        except ServiceError as error:
            # A refusal may pass, as when the service is still making the session; but not for ever.
            self._refusals += 1
            if SESSION_TERMINATED in str(error) or self._refusals >= _MAX_REFUSALS:
                raise
            raise ConnectionFailed(error.what, evidence=error.evidence) from error
        self._refusals = 0
        return grant

    async def _run_channel(self, runner: DataChannelRunner) -> None:
        error = await runner.run()
        if error is None or SESSION_TERMINATED in str(error):
            self.finish(Result(TaskStatus.SUCCESS))
        else:
            self.finish(Result(TaskStatus.FAILED, str(error)))

    async def _wait_for_acknowledges(self, runner: DataChannelRunner) -> None:
        """
        Until the client has everything, or the service or the client ends the session.

        It may be away for as long as links are resumed, or take nothing for as long as its user likes.
        """
        drained = asyncio.ensure_future(runner.drain())
        either: List[asyncio.Future[Any]] = [drained, self._abandoned]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        await asyncio.wait([drained])
        if not runner.channel.drained:
            left = runner.channel.unacknowledged
            _logger.info("! session %s: %d messages were not acknowledged", self.session_id, left)
