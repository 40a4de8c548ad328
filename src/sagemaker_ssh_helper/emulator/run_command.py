"""
Run Command: jobs for agents, and their answers.

No sockets and no clock: whoever owns a :class:`Commands` delivers its jobs and hands in what agents answer.
Times are seconds since the Unix epoch.
"""

import itertools
import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from sagemaker_ssh_helper.emulator.command_records import (
    CANCELLED,
    CANCELLING,
    FAILED,
    IN_PROGRESS,
    PENDING,
    TIMED_OUT,
    Command,
    Invocation,
)
from sagemaker_ssh_helper.emulator.documents import Document
from sagemaker_ssh_helper.emulator.service import ApiError
from sagemaker_ssh_helper.protocol.payloads import (
    AgentJob,
    AgentJobAck,
    AgentJobReply,
    JobAckStatus,
    JobTopic,
)

logger = logging.getLogger(__name__)

# Numbers of the service.
DEFAULT_DELIVERY_TIMEOUT = 3600.0  # seconds
# Numbers we chose. The service keeps 30 days of history.
MAX_COMMANDS = 10_000
BUSY_DELAY = 5.0
"""Seconds until a job is delivered again to an agent that has no room for it."""

# The agent has the job: it takes it, or took it before.
_TAKEN = frozenset({JobAckStatus.SUCCESSFUL[0], JobAckStatus.DUPLICATE[0]})
_BUSY = frozenset({JobAckStatus.BUFFER_FULL[0], JobAckStatus.CLOSED[0]})


# What becomes of an invocation whose time is over, by what it is doing then: (status, details).
_TOO_LATE = {
    PENDING: (TIMED_OUT, "DeliveryTimedOut"),
    IN_PROGRESS: (TIMED_OUT, "ExecutionTimedOut"),
    CANCELLING: (CANCELLED, "Cancelled"),
}


class Delivery(Protocol):
    """How jobs reach agents; the message gateway."""

    def send_job(self, instance_id: str, job: AgentJob) -> object:
        """Deliver a job, now or when the agent connects, until it is settled."""
        ...

    def settle_job(self, instance_id: str, job_id: str) -> None:
        """Do not deliver this job any more."""
        ...

    def postpone_job(self, instance_id: str, job_id: str, delay: float) -> None:
        """Deliver this job again after so many seconds."""
        ...


class Commands:
    """
    Every command, oldest first; the oldest are forgotten.

    Args:
        region: part of the topic of a job.
        delivery: how jobs reach agents.
    """

    def __init__(self, region: str, delivery: Delivery, max_commands: int = MAX_COMMANDS) -> None:
        self._region = region
        self._delivery = delivery
        self._max_commands = max_commands
        self._commands: dict[str, Command] = {}
        # By job id, those that have not ended.
        self._running: dict[str, Invocation] = {}

    def __iter__(self) -> Iterator[Command]:
        return iter(self._commands.values())

    def send(
        self,
        document: Document,
        instance_ids: Iterable[str],
        parameters: Mapping[str, Sequence[str]],
        request: Mapping[str, Any],
        now: float,
    ) -> Command:
        """
        Make a command and send it on its way.

        Args:
            document: a Command document.
            parameters: the values of the request; ``request`` is the whole of it.

        Raises:
            ApiError: ``InvalidParameters``.
        """
        command = Command(
            id=str(uuid.uuid4()),
            document=document,
            parameters=parameters,
            arguments=document.arguments(parameters),
            request=request,
            requested_at=now,
            delivery_timeout=float(request.get("TimeoutSeconds", DEFAULT_DELIVERY_TIMEOUT)),
        )
        self._commands[command.id] = command
        for old in list(itertools.islice(self._commands, max(0, len(self._commands) - self._max_commands))):
            for invocation in self._commands.pop(old).invocations.values():
                self._end(invocation, FAILED, "Undeliverable")
        for instance_id in instance_ids:
            invocation = Invocation(command, instance_id, expires_at=now + command.delivery_timeout)
            command.invocations[instance_id] = invocation
            self._running[invocation.job_id] = invocation
            self._delivery.send_job(
                instance_id,
                AgentJob(
                    job_id=invocation.job_id,
                    topic=f"{JobTopic.SEND_COMMAND}.{self._region}.{instance_id}",
                    content=command.content(),
                ),
            )
        return command

    def get(self, command_id: str) -> Command:
        """The command of this id. Raises ApiError ``InvalidCommandId``."""
        command = self._commands.get(command_id)
        if command is None:
            raise ApiError("InvalidCommandId", "The specified command ID isn't valid.")
        return command

    def invocation(self, command_id: str, instance_id: str) -> Invocation:
        """A command on one instance. Raises ApiError ``InvocationDoesNotExist``."""
        command = self._commands.get(command_id)
        invocation = command.invocations.get(instance_id) if command is not None else None
        if invocation is None:
            raise ApiError("InvocationDoesNotExist", "")
        return invocation

    def cancel(self, command: Command, instance_ids: Iterable[str]) -> None:
        """
        Cancel a command on these instances: at once where it has not arrived, else by asking the agent,
        which reports the end of it.
        """
        for instance_id in instance_ids:
            invocation = command.invocations.get(instance_id)
            if invocation is None or invocation.is_terminal:
                continue
            if invocation.status == PENDING:
                self._end(invocation, CANCELLED, "Cancelled")
                continue
            invocation.status, invocation.details = CANCELLING, "Cancelling"
            self._delivery.send_job(
                instance_id,
                AgentJob(
                    job_id=f"aws.ssm.{uuid.uuid4()}.{instance_id}",
                    topic=f"{JobTopic.CANCEL_COMMAND}.{self._region}.{instance_id}",
                    content={"CancelMessageId": invocation.job_id},
                ),
            )

    def acknowledged(self, instance_id: str, ack: AgentJobAck, now: float) -> None:
        """An agent took or refused a job."""
        if ack.status_code in _BUSY:
            self._delivery.postpone_job(instance_id, ack.job_id, BUSY_DELAY)
            return
        self._delivery.settle_job(instance_id, ack.job_id)
        invocation = self._find(instance_id, ack.job_id)
        if invocation is None:
            return
        if ack.status_code in _TAKEN:
            self._begin(invocation, now)
        else:
            logger.info("! %s refused %s: %s", instance_id, ack.job_id, ack.error_message)
            invocation.trace = invocation.trace or f"The agent refused the command: {ack.error_message}"
            self._end(invocation, FAILED, "Failed")

    def replied(self, instance_id: str, reply: AgentJobReply, now: float) -> None:
        """An agent said how a job is getting on."""
        # Whoever answers has the job, even if its acknowledge was lost.
        self._delivery.settle_job(instance_id, reply.job_id)
        if reply.topic == JobTopic.CANCEL_COMMAND:
            return
        invocation = self._find(instance_id, reply.job_id)
        if invocation is None:
            return
        self._begin(invocation, now)
        invocation.merge(reply.content)
        if invocation.is_terminal:
            self._running.pop(invocation.job_id, None)

    def failed(self, instance_id: str, job_id: str, why: str) -> None:
        """An agent could do nothing with a job."""
        self._delivery.settle_job(instance_id, job_id)
        invocation = self._find(instance_id, job_id)
        if invocation is not None:
            invocation.trace = why
            self._end(invocation, FAILED, "Failed")

    def forget_instance(self, instance_id: str) -> None:
        """An instance was deregistered: what it has not finished, it never will."""
        for invocation in list(self._running.values()):
            if invocation.instance_id == instance_id:
                self._end(invocation, FAILED, "Undeliverable")

    def next_deadline(self) -> float | None:
        """When ``handle_timer`` has something to do; None while nothing is under way."""
        return min((invocation.expires_at for invocation in self._running.values()), default=None)

    def handle_timer(self, now: float) -> None:
        """End what was not delivered, or not done, in time."""
        for invocation in list(self._running.values()):
            if now >= invocation.expires_at:
                self._end(invocation, *_TOO_LATE[invocation.status])

    def _find(self, instance_id: str, job_id: str) -> Invocation | None:
        parts = job_id.split(".")
        command = self._commands.get(parts[2]) if len(parts) == 4 else None
        # Nobody speaks for another instance.
        return (
            command.invocations.get(instance_id) if command is not None and parts[3] == instance_id else None
        )

    def _begin(self, invocation: Invocation, now: float) -> None:
        if invocation.status == PENDING:
            invocation.status, invocation.details = IN_PROGRESS, "InProgress"
            # The agent ends the script in time; this is for an agent that is no more.
            command = invocation.command
            invocation.expires_at = now + command.execution_timeout + command.delivery_timeout

    def _end(self, invocation: Invocation, status: str, details: str) -> None:
        invocation.finish(status, details)
        self._running.pop(invocation.job_id, None)
        self._delivery.settle_job(invocation.instance_id, invocation.job_id)
