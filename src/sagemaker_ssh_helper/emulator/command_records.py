"""
The records of Run Command: a command, what became of it on each instance, and what each of its steps did.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sagemaker_ssh_helper.emulator.documents import Document
from sagemaker_ssh_helper.emulator.service import ApiError

# Numbers of the service.
MAX_OUTPUT_CHARS = 24_000
MAX_ERROR_CHARS = 8_000
MAX_SUMMARY_CHARS = 2_500

PENDING = "Pending"
IN_PROGRESS = "InProgress"
CANCELLING = "Cancelling"
SUCCESS = "Success"
FAILED = "Failed"
TIMED_OUT = "TimedOut"
CANCELLED = "Cancelled"

TERMINAL = frozenset({SUCCESS, FAILED, TIMED_OUT, CANCELLED})

# What the statuses that agents report mean in the API: (status, details).
RESULTS: Mapping[str, tuple[str, str]] = {
    "Success": (SUCCESS, "Success"),
    "SuccessAndReboot": (SUCCESS, "Success"),
    "PassedAndReboot": (SUCCESS, "Success"),
    "Skipped": (SUCCESS, "Success"),
    "Failed": (FAILED, "Failed"),
    "Cancelled": (CANCELLED, "Cancelled"),
    "TimedOut": (TIMED_OUT, "ExecutionTimedOut"),
}


@dataclass
class PluginResult:
    """What one step of the document did."""

    name: str
    status: str = PENDING
    code: int = -1
    output: str = ""
    standard_output: str = ""
    standard_error: str = ""
    started: str = ""
    ended: str = ""

    @property
    def details(self) -> str:
        return RESULTS.get(self.status, (self.status, self.status))[1]

    @property
    def api_status(self) -> str:
        return RESULTS.get(self.status, (self.status, ""))[0]

    @classmethod
    def parse(cls, name: str, value: Mapping[str, Any]) -> "PluginResult":
        """From a reply's ``runtimeStatus``; what has the wrong type there is left out."""

        def text(key: str, limit: int) -> str:
            found = value.get(key)
            return found[:limit] if isinstance(found, str) else ""

        code = value.get("code")
        return cls(
            name=name,
            status=text("status", 64) or FAILED,
            code=code if isinstance(code, int) else -1,
            output=text("output", MAX_SUMMARY_CHARS),
            standard_output=text("standardOutput", MAX_OUTPUT_CHARS),
            standard_error=text("standardError", MAX_ERROR_CHARS),
            started=text("startDateTime", 64),
            ended=text("endDateTime", 64),
        )


@dataclass
class Invocation:
    """A command on one instance. A terminal ``status`` never changes."""

    command: "Command"
    instance_id: str
    status: str = PENDING
    details: str = "Pending"
    trace: str = ""
    """What the agent says about the document as a whole, when it could not run it."""
    expires_at: float = 0.0
    """Seconds since the Unix epoch: until then it must be delivered, and once delivered, done."""
    plugins: dict[str, PluginResult] = field(default_factory=dict)

    @property
    def job_id(self) -> str:
        return f"aws.ssm.{self.command.id}.{self.instance_id}"

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def shown_plugins(self) -> Sequence[PluginResult]:
        """The results, or one that waits for each step that has none yet."""
        if self.plugins:
            return list(self.plugins.values())
        return [
            PluginResult(name, status=self.status, output=self.trace, standard_error=self.trace)
            for name in plugin_names(self.command.document)
        ]

    def plugin(self, name: str | None) -> PluginResult:
        """The result of a plugin or step; without a name that of the only one. Raises ApiError."""
        shown = self.shown_plugins
        if name is None:
            return shown[0] if len(shown) == 1 else self._summary(shown)
        for plugin in shown:
            if plugin.name == name:
                return plugin
        raise ApiError("InvalidPluginName", "The plugin name isn't valid.")

    def _summary(self, shown: Sequence[PluginResult]) -> PluginResult:
        """Several steps seen as one, as when no plugin is named."""
        worst = next((plugin for plugin in shown if plugin.api_status != SUCCESS), shown[-1])
        return PluginResult(
            name="",
            status=worst.status,
            code=worst.code,
            standard_output="".join(plugin.standard_output for plugin in shown)[:MAX_OUTPUT_CHARS],
            standard_error="".join(plugin.standard_error for plugin in shown)[:MAX_ERROR_CHARS],
            started=shown[0].started,
            ended=shown[-1].ended,
        )

    def merge(self, reply: Mapping[str, Any]) -> None:
        """
        Take over an agent's reply document. Replies may overtake each other: a result of a step stands once
        it is terminal, and so does the status.
        """
        steps = reply.get("runtimeStatus")
        for name, value in steps.items() if isinstance(steps, Mapping) else ():
            if isinstance(value, Mapping):
                have = self.plugins.get(name)
                if have is None or have.api_status not in TERMINAL:
                    self.plugins[name] = PluginResult.parse(name, value)
        trace = reply.get("documentTraceOutput")
        if isinstance(trace, str) and trace:
            self.trace = trace[:MAX_SUMMARY_CHARS]
        result = RESULTS.get(str(reply.get("documentStatus")))
        if result is not None:
            self.finish(*result)
        elif self.status == PENDING:
            self.status, self.details = IN_PROGRESS, "InProgress"

    def finish(self, status: str, details: str) -> None:
        """Set the status, unless there is a terminal one already."""
        if not self.is_terminal:
            self.status, self.details = status, details


@dataclass
class Command:
    """One SendCommand. ``arguments`` are in the document's types; times are seconds since the Unix epoch."""

    id: str
    document: Document
    parameters: Mapping[str, Sequence[str]] = field(repr=False)
    arguments: Mapping[str, Any] = field(repr=False)
    request: Mapping[str, Any] = field(repr=False)
    requested_at: float
    delivery_timeout: float
    invocations: dict[str, Invocation] = field(default_factory=dict)

    @property
    def execution_timeout(self) -> float:
        """Seconds that the script may take, as far as the document says."""
        try:
            return float(self.arguments.get("executionTimeout", 3600))
        except (TypeError, ValueError):
            return 3600.0

    @property
    def status(self) -> str:
        """The status of the whole: that of its invocations, the worst when all have ended."""
        statuses = {invocation.status for invocation in self.invocations.values()}
        if not statuses:
            return SUCCESS
        if statuses == {PENDING}:
            return PENDING
        if not statuses <= TERMINAL:
            return CANCELLING if CANCELLING in statuses else IN_PROGRESS
        return next(status for status in (FAILED, TIMED_OUT, CANCELLED, SUCCESS) if status in statuses)

    @property
    def details(self) -> str:
        """StatusDetails of the whole."""
        status = self.status
        for invocation in self.invocations.values():
            if invocation.status == status:
                return invocation.details
        return status

    def count(self, *statuses: str) -> int:
        """How many invocations have one of these statuses."""
        return sum(invocation.status in statuses for invocation in self.invocations.values())

    def content(self) -> dict[str, Any]:
        """What the agent gets: agent_job's Content, or the payload of a message of ec2messages."""
        watch = self.request.get("CloudWatchOutputConfig") or {}
        return {
            "Parameters": dict(self.arguments),
            "DocumentContent": self.document.content,
            "CommandId": self.id,
            "DocumentName": self.document.name,
            "OutputS3KeyPrefix": self.request.get("OutputS3KeyPrefix", ""),
            "OutputS3BucketName": self.request.get("OutputS3BucketName", ""),
            "CloudWatchLogGroupName": watch.get("CloudWatchLogGroupName", ""),
            "CloudWatchOutputEnabled": "true" if watch.get("CloudWatchOutputEnabled") else "false",
        }


def plugin_names(document: Document) -> list[str]:
    """The keys that agents report results under: plugin names in schema 1.x, step names in 2.x."""
    steps = document.content.get("mainSteps")
    if steps is not None:
        return [step["name"] for step in steps]
    return list(document.content["runtimeConfig"])
