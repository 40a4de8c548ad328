"""
The message delivery service: how jobs reach an agent that has no control channel. It asks, and waits.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

from sagemaker_ssh_helper.emulator.managed_instances import ManagedInstance
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Operation
from sagemaker_ssh_helper.emulator.ssm_commands import CommandOperations
from sagemaker_ssh_helper.emulator.ssm_state import State
from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.payloads import (
    AgentJob,
    AgentJobAck,
    AgentJobReply,
    JobTopic,
    format_created_date,
    parse_json,
    serialize_json,
)

# Numbers we chose. Agents wait 20 s for an answer, and pause after one that took less than 1 s.
POLL_HOLD = 16.0  # seconds
DEFAULT_VISIBILITY_TIMEOUT = 10.0  # seconds until a message that was not acknowledged comes again


class MessageDelivery:
    """``ec2messages``, for one local cloud."""

    name = "ec2messages"
    anonymous: frozenset[str] = frozenset()

    def __init__(self, state: State, commands: CommandOperations) -> None:
        self._state = state
        self._commands = commands
        self.hold = POLL_HOLD
        self.operations: Mapping[str, Operation] = {
            "GetMessages": self.get_messages,
            "AcknowledgeMessage": self.acknowledge_message,
            "SendReply": self.send_reply,
            "FailMessage": self.fail_message,
            "DeleteMessage": self.delete_message,
        }

    async def get_messages(self, call: Call) -> Mapping[str, Any]:
        """A long poll. An agent with a control channel gets its jobs there, and nothing here."""
        instance = self._agent(call, call.params.get("Destination"))
        visibility = call.params.get("VisibilityTimeoutInSeconds")
        if not isinstance(visibility, (int, float)) or not 0 < visibility <= 43200:
            visibility = DEFAULT_VISIBILITY_TIMEOUT
        until = asyncio.get_running_loop().time() + self.hold
        jobs: list[tuple[AgentJob, int]] = []
        while not jobs:
            jobs = self._state.gateway.take_jobs(instance.id, visibility)
            left = until - asyncio.get_running_loop().time()
            if jobs or left <= 0:
                break
            await self._state.gateway.wait_for_jobs(instance.id, left)
        return {
            "Destination": instance.id,
            "Messages": [self._message(instance, job, created_ms) for job, created_ms in jobs],
            "MessagesRequestId": call.params.get("MessagesRequestId", ""),
        }

    async def acknowledge_message(self, call: Call) -> Mapping[str, Any]:
        instance = self._agent(call)
        ack = AgentJobAck(job_id=_message_id(call), acknowledged_message_id="", created_date="")
        self._commands.acknowledged(instance.id, ack)
        return {}

    async def send_reply(self, call: Call) -> Mapping[str, Any]:
        instance = self._agent(call)
        payload = call.params.get("Payload")
        try:
            content = parse_json(str(payload).encode("utf-8", "replace"), "the payload of a reply")
        except MalformedMessage as error:
            raise ApiError("ValidationException", str(error)) from error
        reply = AgentJobReply(_message_id(call), content, JobTopic.SEND_COMMAND)
        self._commands.replied(instance.id, reply)
        return {
            "MessageId": reply.job_id,
            "ReplyId": call.params.get("ReplyId", ""),
            "ReplyStatus": "Created",
        }

    async def fail_message(self, call: Call) -> Mapping[str, Any]:
        instance = self._agent(call)
        why = f"The agent could not handle the command: {call.params.get('FailureType', 'no reason given')}"
        self._state.commands.failed(instance.id, _message_id(call), why)
        return {}

    async def delete_message(self, call: Call) -> Mapping[str, Any]:
        instance = self._agent(call)
        self._state.gateway.settle_job(instance.id, _message_id(call))
        return {}

    def _agent(self, call: Call, destination: Any = None) -> ManagedInstance:
        """The instance that calls, if it may."""
        self._state.cloud.iam.authorize(call.principal, f"ec2messages:{call.operation}", "*", {})
        return self._state.agent(call, destination or call.principal.instance_id)

    def _message(self, instance: ManagedInstance, job: AgentJob, created_ms: int) -> Mapping[str, Any]:
        payload = serialize_json(job.content or {}).decode("utf-8")
        return {
            "MessageId": job.job_id,
            "Destination": instance.id,
            "CreatedDate": format_created_date(created_ms),
            "Topic": job.topic,
            "Payload": payload,
            "PayloadDigest": hashlib.sha256(payload.encode()).hexdigest(),
        }


def _message_id(call: Call) -> str:
    message_id = call.params.get("MessageId")
    if not isinstance(message_id, str) or not message_id:
        raise ApiError("ValidationException", "MessageId is missing.")
    return message_id
