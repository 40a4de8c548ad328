"""
Systems Manager operations: Run Command.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from sagemaker_ssh_helper.emulator.command_records import (
    CANCELLED,
    FAILED,
    IN_PROGRESS,
    SUCCESS,
    TIMED_OUT,
    Command,
    Invocation,
    PluginResult,
)
from sagemaker_ssh_helper.emulator.managed_instances import ManagedInstance
from sagemaker_ssh_helper.emulator.paging import position_page
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Operation
from sagemaker_ssh_helper.emulator.ssm_state import State, moment
from sagemaker_ssh_helper.emulator.tags import resource_context
from sagemaker_ssh_helper.protocol.payloads import AgentJobAck, AgentJobReply

# Numbers of the service.
MAX_INSTANCE_IDS = 50

_DEFAULT_PAGE = 50


class CommandOperations:
    """The operations, for one local cloud, and the timer of its commands."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._timer: asyncio.TimerHandle | None = None
        state.gateway.job_acked = self.acknowledged
        state.gateway.job_replied = self.replied
        self.operations: Mapping[str, Operation] = {
            "SendCommand": self.send_command,
            "GetCommandInvocation": self.get_command_invocation,
            "ListCommands": self.list_commands,
            "ListCommandInvocations": self.list_command_invocations,
            "CancelCommand": self.cancel_command,
        }

    async def send_command(self, call: Call) -> Mapping[str, Any]:
        """Needs the right for the document and for every instance, which all have to be online."""
        state, params = self._state, call.params
        document = state.documents.find(params["DocumentName"], "Command")
        state.cloud.iam.authorize(
            call.principal, "ssm:SendCommand", document.arn(state.cloud.region, state.cloud.account_id), {}
        )
        if bool(params.get("InstanceIds")) == bool(params.get("Targets")):
            raise ApiError("ValidationException", "Give either InstanceIds or Targets.")
        if params.get("InstanceIds"):
            instances = self._named(call, params["InstanceIds"])
        else:
            instances = self._targeted(call, params["Targets"])
        command = state.commands.send(
            document,
            [instance.id for instance in instances],
            params.get("Parameters", {}),
            params,
            time.time(),
        )
        self._arm()
        return {"Command": _describe(command)}

    async def get_command_invocation(self, call: Call) -> Mapping[str, Any]:
        params = call.params
        self._state.authorize(call.principal, call.operation, "*")
        invocation = self._state.commands.invocation(params["CommandId"], params["InstanceId"])
        name = params.get("PluginName")
        plugin = invocation.plugin(name)
        request = invocation.command.request
        return {
            "CommandId": invocation.command.id,
            "InstanceId": invocation.instance_id,
            "Comment": request.get("Comment", ""),
            "DocumentName": invocation.command.document.name,
            "DocumentVersion": "$DEFAULT",
            "PluginName": plugin.name,
            "ResponseCode": plugin.code,
            "ExecutionStartDateTime": plugin.started,
            "ExecutionElapsedTime": _elapsed(plugin),
            "ExecutionEndDateTime": plugin.ended,
            "Status": plugin.api_status if name else invocation.status,
            "StatusDetails": plugin.details if name else invocation.details,
            "StandardOutputContent": plugin.standard_output,
            "StandardOutputUrl": "",
            "StandardErrorContent": plugin.standard_error,
            "StandardErrorUrl": "",
            "CloudWatchOutputConfig": request.get("CloudWatchOutputConfig")
            or {"CloudWatchLogGroupName": "", "CloudWatchOutputEnabled": False},
        }

    async def list_commands(self, call: Call) -> Mapping[str, Any]:
        params = call.params
        self._state.authorize(call.principal, call.operation, "*")
        found = [
            command
            for command in self._selected_commands(params)
            if params.get("InstanceId", "") in ("", *command.invocations)
        ]
        selected, token = position_page(
            found, params.get("MaxResults", _DEFAULT_PAGE), params.get("NextToken")
        )
        return {"Commands": [_describe(command) for command in selected], "NextToken": token}

    async def list_command_invocations(self, call: Call) -> Mapping[str, Any]:
        params = call.params
        self._state.authorize(call.principal, call.operation, "*")
        found = [
            invocation
            for command in self._selected_commands(params)
            for invocation in command.invocations.values()
            if params.get("InstanceId") in (None, invocation.instance_id)
        ]
        selected, token = position_page(
            found, params.get("MaxResults", _DEFAULT_PAGE), params.get("NextToken")
        )
        return {
            "CommandInvocations": [
                self._describe_invocation(invocation, params.get("Details", False)) for invocation in selected
            ],
            "NextToken": token,
        }

    async def cancel_command(self, call: Call) -> Mapping[str, Any]:
        self._state.authorize(call.principal, call.operation, "*")
        command = self._state.commands.get(call.params["CommandId"])
        self._state.commands.cancel(command, call.params.get("InstanceIds") or list(command.invocations))
        self._arm()
        return {}

    # -- from agents --

    def acknowledged(self, instance_id: str, ack: AgentJobAck) -> None:
        self._state.commands.acknowledged(instance_id, ack, time.time())
        self._arm()

    def replied(self, instance_id: str, reply: AgentJobReply) -> None:
        self._state.commands.replied(instance_id, reply, time.time())

    # -- within --

    def _named(self, call: Call, instance_ids: Sequence[str]) -> list[ManagedInstance]:
        """The instances of these ids. Raises ApiError for what is refused, unknown or offline."""
        if len(set(instance_ids)) < len(instance_ids):
            raise ApiError("DuplicateInstanceId", "You can't specify a managed node ID more than once.")
        found = [self._state.authorize_instance(call, instance_id) for instance_id in instance_ids]
        online = [instance for instance in found if instance is not None and self._state.is_online(instance)]
        if len(online) < len(instance_ids):
            known = {instance.id for instance in online}
            bad = ", ".join(instance_id for instance_id in instance_ids if instance_id not in known)
            raise ApiError(
                "InvalidInstanceId",
                f"Instances [[{bad}]] not in a valid state for account {self._state.cloud.account_id}",
            )
        return online

    def _targeted(self, call: Call, targets: Sequence[Mapping[str, Any]]) -> list[ManagedInstance]:
        """The online instances that fit every target. Without the right for one, it is an error."""
        for target in targets:
            if target.get("Key") == "InstanceIds":
                return self._named(call, target.get("Values", ()))
            if not str(target.get("Key", "")).startswith("tag:") and target.get("Key") != "tag-key":
                raise ApiError("ValidationException", "A target's key is InstanceIds, tag-key or tag:NAME.")
        filters = [(target["Key"], target.get("Values", ())) for target in targets]
        found = [
            instance for instance in self._state.instances.by_tags(filters) if self._state.is_online(instance)
        ]
        for instance in found:
            self._state.authorize(
                call.principal,
                call.operation,
                f"managed-instance/{instance.id}",
                resource_context(instance.tags),
            )
        return found

    def _selected_commands(self, params: Mapping[str, Any]) -> list[Command]:
        """By id and filters, newest first."""
        if "CommandId" in params:
            commands = [self._state.commands.get(params["CommandId"])]
        else:
            commands = list(self._state.commands)[::-1]
        for item in params.get("Filters", ()):
            key, value = item["key"], item["value"]
            if key == "Status":
                commands = [command for command in commands if command.status == value]
            elif key == "DocumentName":
                commands = [command for command in commands if command.document.name == value]
            elif key in ("InvokedAfter", "InvokedBefore"):
                limit = _parse_date(value)
                commands = [
                    command
                    for command in commands
                    if (command.requested_at > limit) == (key == "InvokedAfter")
                ]
            else:
                raise ApiError("InvalidFilterKey", "The specified key isn't valid.")
        return commands

    def _describe_invocation(self, invocation: Invocation, with_plugins: bool) -> Mapping[str, Any]:
        command = invocation.command
        instance = self._state.instances.get(invocation.instance_id)
        return {
            "CommandId": command.id,
            "InstanceId": invocation.instance_id,
            "InstanceName": instance.computer_name if instance is not None else "",
            "Comment": command.request.get("Comment", ""),
            "DocumentName": command.document.name,
            "DocumentVersion": "$DEFAULT",
            "RequestedDateTime": moment(command.requested_at),
            "Status": invocation.status,
            "StatusDetails": invocation.details,
            "StandardOutputUrl": "",
            "StandardErrorUrl": "",
            "TraceOutput": invocation.trace,
            "CommandPlugins": [_describe_plugin(plugin, command) for plugin in invocation.shown_plugins]
            if with_plugins
            else [],
        }

    def _arm(self) -> None:
        """Wake up when something was not delivered, or not done, in time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._state.commands.next_deadline()
        if deadline is not None:
            delay = max(0.0, deadline - time.time())
            self._timer = asyncio.get_running_loop().call_later(delay, self._wake)

    def _wake(self) -> None:
        self._state.commands.handle_timer(time.time())
        self._arm()


def _describe(command: Command) -> Mapping[str, Any]:
    request = command.request
    return {
        "CommandId": command.id,
        "DocumentName": command.document.name,
        "DocumentVersion": "$DEFAULT",
        "Comment": request.get("Comment", ""),
        "ExpiresAfter": moment(command.requested_at + command.delivery_timeout + command.execution_timeout),
        "Parameters": {name: list(values) for name, values in command.parameters.items()},
        "InstanceIds": list(command.invocations) if request.get("InstanceIds") else [],
        "Targets": request.get("Targets", []),
        "RequestedDateTime": moment(command.requested_at),
        "Status": command.status,
        "StatusDetails": command.details,
        "OutputS3BucketName": request.get("OutputS3BucketName", ""),
        "OutputS3KeyPrefix": request.get("OutputS3KeyPrefix", ""),
        "MaxConcurrency": request.get("MaxConcurrency", "50"),
        "MaxErrors": request.get("MaxErrors", "0"),
        "TargetCount": len(command.invocations),
        "CompletedCount": command.count(SUCCESS, FAILED, TIMED_OUT, CANCELLED),
        "ErrorCount": command.count(FAILED, TIMED_OUT),
        "DeliveryTimedOutCount": sum(
            invocation.details == "DeliveryTimedOut" for invocation in command.invocations.values()
        ),
        "TimeoutSeconds": int(command.delivery_timeout),
    }


def _describe_plugin(plugin: PluginResult, command: Command) -> Mapping[str, Any]:
    described: dict[str, Any] = {
        "Name": plugin.name,
        # The plugin has fewer statuses than the invocation.
        "Status": plugin.api_status if plugin.api_status != "Cancelling" else IN_PROGRESS,
        "StatusDetails": plugin.details,
        "ResponseCode": plugin.code,
        "Output": plugin.output,
        "StandardOutputUrl": "",
        "StandardErrorUrl": "",
        "OutputS3BucketName": command.request.get("OutputS3BucketName", ""),
        "OutputS3KeyPrefix": command.request.get("OutputS3KeyPrefix", ""),
    }
    for key, text in (("ResponseStartDateTime", plugin.started), ("ResponseFinishDateTime", plugin.ended)):
        if _is_date(text):
            described[key] = moment(_parse_date(text))
    return described


def _elapsed(plugin: PluginResult) -> str:
    """As ISO 8601 writes durations; empty while it has not run."""
    if not (_is_date(plugin.started) and _is_date(plugin.ended)):
        return ""
    return f"PT{max(0.0, _parse_date(plugin.ended) - _parse_date(plugin.started)):.3f}S"


def _is_date(text: str) -> bool:
    try:
        _parse_date(text)
    except ApiError:
        return False
    return True


def _parse_date(text: str) -> float:
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ApiError("ValidationException", f"{text} is not a date of ISO 8601.") from None
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()
