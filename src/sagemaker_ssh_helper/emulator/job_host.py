"""
What runs jobs and servers for all kinds of resources: worker threads, the roles' keys, settings, the end.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from sagemaker_ssh_helper.emulator import mounts
from sagemaker_ssh_helper.emulator.job_credentials import SESSION_NAME, JobCredentials, RoleSession
from sagemaker_ssh_helper.emulator.jobs import JobSettings
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Cloud
from sagemaker_ssh_helper.errors import LocalSetup, trace_of
from sagemaker_ssh_helper.names import Env

logger = logging.getLogger(__name__)

SERVICE_PRINCIPAL = "sagemaker.amazonaws.com"

WORKERS = 8
"""Threads for moving data; a job uses one of them at a time."""

WARM_UP_DELAY = 0.3
"""Seconds after the start when what the first job needs is made: it then starts half a second earlier."""


class Run(Protocol):
    """One job from its request to its end."""

    async def run(self) -> None:
        """Everything. Raises nothing; cancelled, it leaves nothing behind."""

    def stop(self) -> None:
        """End it as its Stop… call does."""


class JobHost:
    """One for a cloud. Needs a running event loop."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._runs: dict[str, Run] = {}  # by ARN; those that have not ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._role_sessions: dict[str, RoleSession] = {}
        self.settings = _settings(os.environ)
        self._stop_timeout = self.settings.stop_timeout
        self.executor = ThreadPoolExecutor(WORKERS, "sagemaker")
        cloud.faults.register("stop-timeout", self._set_stop_timeout, self._reset_stop_timeout)
        cloud.on_close(self._close)
        self._warm_up = asyncio.get_running_loop().call_later(
            WARM_UP_DELAY, self.executor.submit, self._prepare
        )

    def credentials(self, call: Call, role_arn: str) -> JobCredentials:
        """Keys of a role for one job, when the caller may pass it. Raises ApiError."""
        role = self._cloud.iam.authorize_pass_role(call.principal, role_arn, SERVICE_PRINCIPAL)
        return self.session_credentials(role)

    def session_credentials(self, role: str) -> JobCredentials:
        """Keys of a role that was passed before."""
        return JobCredentials(self._cloud, self._role_session(role))

    def start(self, arn: str, run: Run) -> asyncio.Task[None]:
        """Run a job, on its own from here; the task is done when the job has ended."""
        self._runs[arn] = run
        task = self.run(run.run(), arn)
        task.add_done_callback(lambda _: self._runs.pop(arn, None))
        return task

    def running(self, arn: str) -> Run | None:
        """The run of this job; None once it has ended."""
        return self._runs.get(arn)

    def run(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task that is cancelled, and waited for, when the cloud ends."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _role_session(self, role: str) -> RoleSession:
        caller = self._cloud.iam.role_caller(role, SESSION_NAME)
        # By id, not by name: a role that was deleted and made again is another one.
        if caller.user_id not in self._role_sessions:
            self._role_sessions[caller.user_id] = RoleSession(self._cloud, caller)
        return self._role_sessions[caller.user_id]

    async def _set_stop_timeout(self, body: Mapping[str, Any]) -> None:
        seconds = body.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= 3600:
            raise ApiError("ValidationException", "A switch of kind stop-timeout needs seconds, 0 to 3600.")
        self.settings.stop_timeout = float(seconds)

    async def _reset_stop_timeout(self) -> None:
        self.settings.stop_timeout = self._stop_timeout

    def _prepare(self) -> None:
        try:
            mounts.available()
            self._cloud.aws("logs")
            self._role_session(self._cloud.role_arn).client("s3")
        except Exception as error:
            logger.debug("! warming up failed; the first job will say why:\n%s", trace_of(error))

    async def _close(self) -> None:
        """End every job's processes and remove their files."""
        self._warm_up.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.executor.shutdown(wait=False)


def _settings(environment: Mapping[str, str]) -> JobSettings:
    """What the cloud's environment says about jobs. Raises LocalSetup for what is no number."""
    settings = JobSettings()
    try:
        settings.stop_timeout = float(environment.get(Env.JOB_STOP_SECONDS, settings.stop_timeout))
        settings.log_bytes = int(environment.get(Env.JOB_LOG_BYTES, settings.log_bytes))
        if settings.stop_timeout < 0 or settings.log_bytes < 0:
            raise ValueError("a number below 0")
    except ValueError as error:
        raise LocalSetup(
            f"{Env.JOB_STOP_SECONDS} and {Env.JOB_LOG_BYTES} must be numbers from 0",
            evidence=str(error),
            fix="Correct or unset the variable",
        ) from error
    return settings
