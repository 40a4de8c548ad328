"""
Run Command: scripts that the service sends over the control channel, and what is told about them.

What a command was, and what it printed, is never logged.
"""

import asyncio
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, List, Mapping, Optional, Set, Tuple

from sagemaker_ssh_helper.agent.documents import (
    RUN_SHELL_SCRIPT,
    DocumentRefused,
    Step,
    command_steps,
)
from sagemaker_ssh_helper.agent.scripts import (
    EXIT_SUCCESS,
    Outcome,
    Script,
    platform_name,
    script_environ,
)
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.errors import trace_of
from sagemaker_ssh_helper.names import AGENT_NAME, AGENT_VERSION
from sagemaker_ssh_helper.protocol.control_channel import JobOffered
from sagemaker_ssh_helper.protocol.payloads import (
    AgentJobReply,
    JobAckStatus,
    JobTopic,
    TaskStatus,
    format_created_date,
)

# What official agents do, and services may count on.
MAX_RUNNING = 5
MAX_QUEUED = 5
DUPLICATE_WINDOW = 1800.0

_IN_PROGRESS = "InProgress"
_SKIPPED = "Skipped"
# A script ends its command with this one as a failure; see also EXIT_SUCCESS.
_EXIT_FAILURE = 169
# A script asks for a reboot with this one.
_EXIT_REBOOT = 194
_NO_REBOOT = "\na container cannot be rebooted: exit code 194 counts as a failure"
_NO_UPLOAD = "the output stays here in full: this agent does not upload it to S3 or CloudWatch Logs"

_logger = logging.getLogger(__name__)

Ack = Callable[[JobOffered, Tuple[str, str]], None]
Reply = Callable[[AgentJobReply], None]


@dataclass
class _Job:
    """A command that waits or runs."""

    job_id: str
    command_id: str
    steps: Tuple[Step, ...]
    wants_upload: bool
    cancelled: bool = False
    script: Optional[Script] = None


@dataclass(frozen=True)
class _Result:
    """How one step ended. Times are milliseconds since the epoch."""

    step: Step
    outcome: Outcome
    started_ms: int
    ended_ms: int

    def to_json(self) -> Dict[str, Any]:
        return {
            "status": self.outcome.status,
            "code": self.outcome.code,
            "name": self.step.action,
            "output": self.outcome.combined,
            "startDateTime": format_created_date(self.started_ms),
            "endDateTime": format_created_date(self.ended_ms),
            "outputS3BucketName": "",
            "outputS3KeyPrefix": "",
            "stepName": self.step.step_name,
            "standardOutput": self.outcome.standard_output,
            "standardError": self.outcome.standard_error,
        }


class Jobs:
    """
    Runs commands: five at a time, five more wait.

    Args:
        instance_id: this managed instance.
        region: for the scripts' environment.
        state: a file per script is in it; it is their working directory, too.
        environ_path: the job's environment, NUL separated, see AgentConfig; nothing: our own.
        bin_path: first on the PATH of scripts; nothing: none.
        ack: answers an offer, at once.
        reply: tells how a command is getting on.
    """

    def __init__(
        self,
        instance_id: str,
        region: str,
        state: StateDir,
        *,
        environ_path: str = "",
        bin_path: str = "",
        ack: Ack,
        reply: Reply,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._instance_id = instance_id
        self._region = region
        self._state = state
        self._environ_path = environ_path
        self._bin_path = bin_path
        self._ack = ack
        self._reply = reply
        self._monotonic = monotonic
        self._now = now
        self._jobs: Dict[str, _Job] = {}
        self._seen: Dict[str, float] = {}
        self._tasks: Set[asyncio.Task[None]] = set()
        self._running = asyncio.Semaphore(MAX_RUNNING)
        # A thread waits for each script's process; none exists before the first command.
        self._waiter = ThreadPoolExecutor(MAX_RUNNING, thread_name_prefix="command")
        self._closed = False

    def offer(self, offered: JobOffered) -> None:
        """Answer an offer, and do what it asks for. Never raises."""
        topic = offered.job.topic
        try:
            if self._closed:
                self._ack(offered, JobAckStatus.CLOSED)
            elif topic.startswith(JobTopic.SEND_COMMAND):
                self._offer_command(offered)
            elif topic.startswith(JobTopic.CANCEL_COMMAND):
                self._offer_cancel(offered)
            else:
                self._refuse(offered, JobAckStatus.PARSE_ERROR, "the topic of the job is not known")
        except Exception as error:
            # One command's trouble must not end the agent; the service will offer the command again.
            _logger.error("! command %s could not be taken:\n%s", offered.job.command_id, trace_of(error))
            self._ack(offered, JobAckStatus.UNEXPECTED)

    async def close(self) -> None:
        """End all commands, and tell so."""
        self._closed = True
        for job in list(self._jobs.values()):
            _cancel(job)
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        self._waiter.shutdown(wait=False)

    # --- offers ---

    def _offer_command(self, offered: JobOffered) -> None:
        job_id, command_id = offered.job.job_id, offered.job.command_id
        if not command_id:
            self._refuse(offered, JobAckStatus.INVALID_DOCUMENT, "the id of the job is not a command's")
            return
        if self._is_duplicate(command_id):
            _logger.info("! command %s was offered before", command_id)
            self._ack(offered, JobAckStatus.DUPLICATE)
            return
        content = offered.job.content
        try:
            if content is None:
                raise DocumentRefused("the content of the job is no JSON object")
            steps = command_steps(content)
        except DocumentRefused as refusal:
            self._refuse(offered, JobAckStatus.PARSE_ERROR, str(refusal))
            return
        if len(self._jobs) >= MAX_RUNNING + MAX_QUEUED:
            _logger.warning("! command %s is refused: %d run or wait", command_id, len(self._jobs))
            self._ack(offered, JobAckStatus.BUFFER_FULL)
            return
        self._seen[command_id] = self._monotonic()
        job = _Job(job_id, command_id, steps, _wants_upload(content))
        self._jobs[command_id] = job
        _logger.info("< command %s with %d step(s)", command_id, len(steps))
        self._ack(offered, JobAckStatus.SUCCESSFUL)
        self._tell(job_id, _IN_PROGRESS, None)
        task = asyncio.ensure_future(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _offer_cancel(self, offered: JobOffered) -> None:
        content = offered.job.content or {}
        target = content.get("CancelMessageId")
        parts = target.split(".") if isinstance(target, str) else []
        if len(parts) < 4:
            self._refuse(offered, JobAckStatus.PARSE_ERROR, "the job names no command to cancel")
            return
        self._ack(offered, JobAckStatus.SUCCESSFUL)
        self._tell(offered.job.job_id, _IN_PROGRESS, None, topic=JobTopic.CANCEL_COMMAND)
        job = self._jobs.get(parts[2])
        _logger.info("< cancel command %s%s", parts[2], "" if job else ", which does not run here")
        if job is not None:
            _cancel(job)

    def _refuse(self, offered: JobOffered, status: Tuple[str, str], why: str) -> None:
        _logger.warning("! command %s is refused: %s", offered.job.command_id or "without an id", why)
        self._ack(offered, status)
        topic = JobTopic.SEND_COMMAND
        if offered.job.topic.startswith(JobTopic.CANCEL_COMMAND):
            topic = JobTopic.CANCEL_COMMAND
        self._tell(offered.job.job_id, TaskStatus.FAILED, None, trace=why, topic=topic)

    def _is_duplicate(self, command_id: str) -> bool:
        now = self._monotonic()
        # In the order of their times: what is old stands first.
        for seen, at in list(self._seen.items()):
            if now - at < DUPLICATE_WINDOW:
                break
            del self._seen[seen]
        return command_id in self._seen or command_id in self._jobs

    # --- running ---

    async def _run(self, job: _Job) -> None:
        results: List[_Result] = []
        try:
            async with self._running:
                leave = ""
                for number, step in enumerate(job.steps):
                    result = await self._run_step(job, number, step, leave)
                    results.append(result)
                    leave = leave or _leaves(result)
                    self._tell(job.job_id, _IN_PROGRESS, [result])
        except Exception as error:
            _logger.error("! command %s failed within the agent:\n%s", job.command_id, trace_of(error))
            trace = "the agent failed while it ran the command; see its log"
            self._tell(job.job_id, TaskStatus.FAILED, results, trace=trace)
            return
        finally:
            del self._jobs[job.command_id]
        status = _document_status(results)
        _logger.info("> command %s: %s", job.command_id, status)
        trace = _NO_UPLOAD if job.wants_upload else ""
        self._tell(job.job_id, status, results, trace=trace, final=True)

    async def _run_step(self, job: _Job, number: int, step: Step, leave: str) -> _Result:
        started_ms = self._now_ms()
        outcome = await self._outcome(job, number, step, leave)
        if outcome.status == TaskStatus.FAILED and step.on_failure == "successAndExit":
            outcome = replace(outcome, status=TaskStatus.SUCCESS)
        return _Result(step, outcome, started_ms, self._now_ms())

    async def _outcome(self, job: _Job, number: int, step: Step, leave: str) -> Outcome:
        if job.cancelled:
            return Outcome(TaskStatus.CANCELLED, 0)
        if leave:
            return Outcome(_SKIPPED, 0)
        try:
            if not step.applies_to(platform_name()):
                return Outcome(_SKIPPED, 0)
            if step.action != RUN_SHELL_SCRIPT:
                raise DocumentRefused(f"the plugin {step.action} is not supported by this agent")
            text = step.script
        except DocumentRefused as refusal:
            return Outcome(TaskStatus.FAILED, 1, "", str(refusal))
        job.script = Script(
            text,
            folder=self._state.path,
            name=f"command-{os.getpid()}-{number}-{_file_name(job.command_id)}",
            working_directory=step.working_directory or self._state.path,
            environ=self._environ(job.command_id),
            timeout=step.timeout,
            waiter=self._waiter,
        )
        outcome = await job.script.run()
        job.script = None
        if outcome.code == _EXIT_REBOOT:
            return replace(outcome, standard_error=outcome.standard_error + _NO_REBOOT)
        return outcome

    def _environ(self, command_id: str) -> Dict[str, str]:
        job = self._state.read(self._environ_path) if self._environ_path else None
        return script_environ(
            job,
            bin_path=self._bin_path,
            state_path=self._state.path,
            extra={
                "SSM_COMMAND_ID": command_id,
                "AWS_SSM_INSTANCE_ID": self._instance_id,
                "AWS_SSM_REGION_NAME": self._region,
                "AWS_SSM_PLATFORM_NAME": platform_name(),
                "AWS_SSM_PLATFORM_VERSION": os.uname().release,
            },
        )

    # --- telling ---

    def _now_ms(self) -> int:
        return int(self._now() * 1000)

    def _tell(
        self,
        job_id: str,
        status: str,
        results: Optional[List[_Result]],
        *,
        trace: str = "",
        topic: str = JobTopic.SEND_COMMAND,
        final: bool = False,
    ) -> None:
        """
        One reply. The last of a command with several steps does not repeat their results, which services add
        up from the replies before.
        """
        statuses: Optional[Dict[str, Any]] = None
        counts: Optional[Dict[str, int]] = None
        if results is not None:
            repeated = results if not final or len(results) == 1 else []
            statuses = {result.step.key: result.to_json() for result in repeated}
            counts = {}
            for result in results:
                counts[result.outcome.status] = counts.get(result.outcome.status, 0) + 1
        content = {
            "additionalInfo": {
                "agent": {
                    "lang": "en-US",
                    "name": AGENT_NAME,
                    "os": platform_name().lower(),
                    "osver": "1",
                    "ver": AGENT_VERSION,
                },
                "dateTime": format_created_date(self._now_ms()),
                "runId": "",
                "runtimeStatusCounts": counts,
            },
            "documentStatus": status,
            "documentTraceOutput": trace,
            "runtimeStatus": statuses,
        }
        self._reply(AgentJobReply(job_id, content, topic))


def _cancel(job: _Job) -> None:
    job.cancelled = True
    if job.script is not None:
        job.script.stop(TaskStatus.CANCELLED)


def _leaves(result: _Result) -> str:
    """Why the steps after this one are skipped; nothing when they are not."""
    code = result.outcome.code
    if code in (EXIT_SUCCESS, _EXIT_FAILURE):
        return f"exit code {code}"
    return result.step.on_failure if code != 0 else ""


def _document_status(results: List[_Result]) -> str:
    statuses = {result.outcome.status for result in results}
    for status in (TaskStatus.CANCELLED, TaskStatus.TIMED_OUT, TaskStatus.FAILED):
        if status in statuses:
            return status
    return TaskStatus.SUCCESS


def _wants_upload(content: Mapping[str, Any]) -> bool:
    return bool(content.get("OutputS3BucketName")) or content.get("CloudWatchOutputEnabled") in ("true", True)


def _file_name(command_id: str) -> str:
    return "".join(char for char in command_id if char.isalnum() or char == "-")[:64]
