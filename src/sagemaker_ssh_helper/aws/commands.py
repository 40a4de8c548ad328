"""
Run Command: one shell command on one instance, and its result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.errors import ServiceError, WaitTimeout
from sagemaker_ssh_helper.names import Document, InstanceId

_POLL_INTERVALS = (0.1, 0.15, 0.25, 0.4, 0.6, 1.0)  # seconds; the last one repeats
_RUNNING = frozenset(["Pending", "InProgress", "Delayed", "Cancelling"])


@dataclass(frozen=True)
class CommandResult:
    """How a command ended. The service cuts its output at 24,000 characters."""

    status: str
    exit_code: int
    output: str
    error_output: str

    @property
    def ok(self) -> bool:
        """Whether it ran and returned 0."""
        return self.status == "Success"


def run(
    client: Client,
    instance_id: InstanceId,
    command: str,
    *,
    comment: str = "",
    timeout: float = 60.0,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> CommandResult:
    """
    The result of ``command`` in a shell on the instance, waited for up to ``timeout`` seconds.

    The text is kept in the account's command history: put no secret in it. Raises WaitTimeout, AwsError,
    TargetOffline.
    """
    sent = client.call(
        "ssm",
        "SendCommand",
        InstanceIds=[instance_id],
        DocumentName=Document.RUN_SHELL_SCRIPT,
        Parameters={"commands": [command]},
        Comment=comment[:100],
        # The service refuses less than 30 seconds.
        TimeoutSeconds=max(30, int(timeout)),
    )
    command_id = str(sent["Command"]["CommandId"])
    deadline = monotonic() + timeout
    poll = 0
    while True:
        sleep(_POLL_INTERVALS[min(poll, len(_POLL_INTERVALS) - 1)])
        poll += 1
        status = "Pending"
        try:
            answer = client.call("ssm", "GetCommandInvocation", CommandId=command_id, InstanceId=instance_id)
            status = str(answer.get("Status", ""))
        except ServiceError as error:
            # The invocation is visible a moment after the command was accepted.
            if error.code != "InvocationDoesNotExist":
                raise
        if status not in _RUNNING:
            return CommandResult(
                status=status,
                exit_code=int(answer.get("ResponseCode", -1)),
                output=str(answer.get("StandardOutputContent", "")),
                error_output=str(answer.get("StandardErrorContent", "")),
            )
        if monotonic() > deadline:
            raise WaitTimeout(
                f"the command on {instance_id} did not end in {timeout:.0f} s",
                evidence=f"its status is {status}",
            )
