"""
Run Command without a control channel: the message delivery service (``ec2messages``) is asked for commands.

Source: the official agent's descriptions of GetMessages, SendReply, AcknowledgeMessage and FailMessage.
"""

import asyncio
import logging
import random
from collections import deque
from typing import Any, Awaitable, Callable, Deque, Mapping, Optional, Set, Tuple

from sagemaker_ssh_helper.agent.aws_api import AwsApi, ServerFault
from sagemaker_ssh_helper.errors import AwsError, EndpointUnreachable, MalformedMessage, Throttled
from sagemaker_ssh_helper.protocol.control_channel import JobOffered
from sagemaker_ssh_helper.protocol.payloads import (
    AgentJob,
    AgentJobReply,
    JobAckStatus,
    JobTopic,
    TaskStatus,
    parse_json,
    serialize_json,
)

# Same in the official agent. Seconds.
_QUICK_ANSWER = 1.0
_QUICK_PAUSE = (2.0, 2.5)
_MAX_REPLY_AGE = 7200.0
_FAILURE = "InternalHandlerException"

# After a call that failed: a limit, and what it is doubled up to.
_DELAYS = (5.0, 300.0)

_logger = logging.getLogger(__name__)

_Call = Callable[..., Awaitable[Any]]


class MessageDelivery:
    """
    Takes commands from the service, and tells it what becomes of them.

    Args:
        call: runs a function of ``api`` beside the loop.
        offer: is given each command; its answers come to :meth:`ack` and :meth:`reply`.
        is_connected: whether the control channel is open, which replies tell the service.
    """

    def __init__(
        self,
        instance_id: str,
        api: AwsApi,
        call: _Call,
        offer: Callable[[JobOffered], None],
        *,
        is_connected: Callable[[], bool],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._instance_id = instance_id
        self._api = api
        self._call = call
        self._offer = offer
        self._is_connected = is_connected
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._ours: Set[str] = set()
        # Commands that are acknowledged when they have their first reply, as official agents do it.
        self._taken: Set[str] = set()
        self._outgoing: Deque[Tuple[float, Callable[..., None], Tuple[str, ...]]] = deque()
        self._sending: Optional[asyncio.Task[None]] = None

    def brought(self, job_id: str) -> bool:
        """Whether this job came from here."""
        return job_id in self._ours

    async def poll(self) -> None:
        """Ask for commands until this is cancelled. What the service does never ends it."""
        limit, longest = _DELAYS
        _logger.info("= commands are asked for at ec2messages")
        while True:
            asked_at = self._loop.time()
            pause = 0.0
            try:
                messages = await self._call(self._api.get_messages, self._instance_id)
                limit = _DELAYS[0]
                for message in messages:
                    self._take(message)
            except EndpointUnreachable as error:
                # Also when there was nothing to tell for too long.
                _logger.debug("ec2messages does not answer: %s", error)
            except AwsError as error:
                pause = limit * (0.5 + 0.5 * self._chance())
                limit = min(longest, limit * 2)
                _logger.info("! ec2messages refuses, again in %.1f s: %s", pause, error)
            if self._loop.time() - asked_at < _QUICK_ANSWER:
                shortest, most = _QUICK_PAUSE
                pause = max(pause, shortest + (most - shortest) * self._chance())
            await asyncio.sleep(pause)

    def ack(self, job_id: str, status: Tuple[str, str]) -> None:
        """The answer to an offer."""
        if status == JobAckStatus.DUPLICATE:
            self._send(self._api.acknowledge_message, job_id)
        elif status == JobAckStatus.UNEXPECTED:
            self._send(self._api.fail_message, job_id, _FAILURE)
        elif status not in (JobAckStatus.BUFFER_FULL, JobAckStatus.CLOSED):
            self._taken.add(job_id)
        # Else it comes again, here or to the next agent.

    def reply(self, reply: AgentJobReply) -> None:
        """How a command is getting on."""
        job_id = reply.job_id
        if (
            reply.topic == JobTopic.CANCEL_COMMAND
            and reply.content.get("documentStatus") == TaskStatus.FAILED
        ):
            self._taken.discard(job_id)
            self._send(self._api.fail_message, job_id, _FAILURE)
            return
        info = {**reply.content["additionalInfo"], "ableToOpenMGSConnection": self._is_connected()}
        content = {**reply.content, "additionalInfo": info}
        self._send(self._api.send_reply, job_id, serialize_json(content).decode("utf-8"))
        if job_id in self._taken:
            self._taken.discard(job_id)
            self._send(self._api.acknowledge_message, job_id)

    async def close(self, timeout: float) -> None:
        """Give what was not sent yet that long, seconds."""
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=timeout)
            self._sending.cancel()

    # --- commands ---

    def _take(self, message: Mapping[str, Any]) -> None:
        job_id, topic = message.get("MessageId"), message.get("Topic")
        if not isinstance(job_id, str) or not job_id or not isinstance(topic, str):
            _logger.warning("! a message of ec2messages is no command")
            return
        self._ours.add(job_id)
        if not topic.startswith((JobTopic.SEND_COMMAND, JobTopic.CANCEL_COMMAND)):
            _logger.warning("! a message of ec2messages has a topic that is not known")
            self._send(self._api.fail_message, job_id, _FAILURE)
            return
        content: Optional[Mapping[str, Any]] = None
        try:
            content = parse_json(str(message.get("Payload")).encode("utf-8", "replace"), "the payload")
        except MalformedMessage:
            pass  # it is answered as such
        self._offer(JobOffered(AgentJob(job_id, topic, content), b"", 0))

    # --- answers ---

    def _send(self, function: Callable[..., None], *arguments: str) -> None:
        self._outgoing.append((self._loop.time(), function, arguments))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.ensure_future(self._send_all())

    async def _send_all(self) -> None:
        """In their order, each until the service has it, refuses it, or it is too old."""
        limit, longest = _DELAYS
        while self._outgoing:
            made_at, function, arguments = self._outgoing[0]
            try:
                await self._call(function, *arguments)
            except (EndpointUnreachable, ServerFault, Throttled) as error:
                if self._loop.time() - made_at < _MAX_REPLY_AGE:
                    pause = limit * (0.5 + 0.5 * self._chance())
                    limit = min(longest, limit * 2)
                    _logger.info("! a reply was not taken, again in %.1f s: %s", pause, error)
                    await asyncio.sleep(pause)
                    continue
                _logger.warning("! a reply is given up: %s", error)
            except AwsError as error:
                _logger.warning("! a reply is refused: %s", error)
            self._outgoing.popleft()
            limit = _DELAYS[0]


def _has_failed(reply: AgentJobReply) -> bool:
    return reply.content.get("documentStatus") == TaskStatus.FAILED
