"""
A job at work, of any kind: data in, containers up, wait, stop, data out.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sagemaker_ssh_helper.emulator import mounts
from sagemaker_ssh_helper.emulator.container import Container, Ended
from sagemaker_ssh_helper.emulator.job_credentials import JobCredentials
from sagemaker_ssh_helper.emulator.job_record import JobRecord, Status, utc_now
from sagemaker_ssh_helper.emulator.job_storage import StorageError
from sagemaker_ssh_helper.emulator.node import Node, loopback_addresses
from sagemaker_ssh_helper.emulator.service import Cloud
from sagemaker_ssh_helper.errors import trace_of
from sagemaker_ssh_helper.names import node_name

logger = logging.getLogger(__name__)

T = TypeVar("T")

ERROR_MESSAGE_CHARACTERS = 700


@dataclass
class JobSettings:
    """What holds for all jobs of a cloud; a switch may change it while they run."""

    stop_timeout: float = 120.0
    """Seconds between SIGTERM and SIGKILL; AWS gives a container 120."""
    log_bytes: int = 64 << 20
    """How much of a container's output is kept, and at most about how much memory that takes."""


class JobFailed(Exception):
    """The job cannot go on; ``str`` is its FailureReason."""


@dataclass(frozen=True)
class Entry:
    """How a node's container is started."""

    command: list[str]
    cwd: str
    environment: Mapping[str, str]
    script_command: list[str] | None = None
    """In script mode: the user's part of the command."""


@dataclass(frozen=True)
class Place:
    """A container that runs: its node, how it was started, its log stream."""

    node: Node
    entry: Entry
    stream: str


class Watcher(Protocol):
    """What accompanies the containers of a job. Raises nothing: a job does not fail because of it."""

    async def containers_run(self, places: Sequence[Place]) -> None:
        """The containers were started."""

    async def containers_ended(self) -> None:
        """They are gone. May be told more than once."""


class JobSetup(Protocol):
    """What tells the kinds of jobs apart: the files, environment and command of their nodes. Blocking."""

    log_group: str
    program: str
    """What an image of this kind is run with when nothing else is asked for."""
    node_count: int
    image: str

    def stage(self, nodes: Sequence[Node]) -> list[Entry]:
        """Put all that the job finds when it starts into every node; how each starts. Raises StorageError."""

    def upload(self, nodes: Sequence[Node]) -> None:
        """Take out what the job leaves behind. Raises StorageError."""


class JobRun:
    """
    One job from its request to its end, in ``run``.

    Args:
        record: what the API shows; changed as the job goes on.
        setup: what its nodes are made of.
        credentials: of the job's role; closed at the end.
        executor: for blocking work; not the event loop's own, whose threads serve the calls this work makes.
        watcher: told when its containers run and when they have ended.
    """

    def __init__(
        self,
        record: JobRecord,
        setup: JobSetup,
        cloud: Cloud,
        credentials: JobCredentials,
        settings: JobSettings,
        executor: Executor,
        watcher: Watcher | None = None,
    ) -> None:
        self._watcher = watcher
        self._record = record
        self._cloud = cloud
        self._credentials = credentials
        self._settings = settings
        self._executor = executor
        self._setup = setup
        self._root = cloud.state_dir / "jobs" / secrets.token_hex(4)
        self._nodes: list[Node] = []
        self._containers: list[Container] = []
        self._stopping = asyncio.Event()
        self._overdue = False
        self._thread_work: asyncio.Future[Any] | None = None

    async def run(self) -> None:
        """
        Everything, to the job's final status. Raises nothing.

        Cancelled, it ends the job's processes, removes its files and lets the cancellation through.
        """
        reason: str | None = None
        try:
            reason = await self._work()
        except (JobFailed, StorageError) as error:
            reason = str(error)
        except Exception as error:
            logger.error("! %s: the local cloud failed:\n%s", self._record.name, trace_of(error))
            reason = "InternalServerError: We encountered an internal error. Please try again."
        finally:
            await self._clean_up()
        if self._record.stop_requested and not self._containers:
            reason = None  # nobody waits for it any more: what broke on the way is no news
        if reason is not None:
            logger.info("= %s is Failed: %s", self._record.name, reason)
            self._record.fail(reason, utc_now())
        elif self._overdue:
            self._enter(Status.MAX_RUNTIME_EXCEEDED)
        else:
            self._enter(Status.STOPPED if self._record.stop_requested else Status.COMPLETED)

    def stop(self) -> None:
        """End the job as StopTrainingJob does; ``run`` then ends it as Stopped."""
        self._record.stop_requested = True
        self._stopping.set()
        if self._record.primary_status != Status.STOPPING.primary:
            self._enter(Status.STOPPING)

    async def _work(self) -> str | None:
        """From data in to data out. Returns why the job failed, None when it did not."""
        self._enter(Status.DOWNLOADING)
        self._nodes = await self._in_thread(self._make_nodes)
        entries = await self._in_thread(partial(self._setup.stage, self._nodes))
        if self._stopping.is_set():
            return None
        await self._start(entries)
        if not self._stopping.is_set():
            self._enter(Status.TRAINING)
        ended = await self._wait()
        # A container that was told to stop may end as it likes.
        stopped = self._overdue or self._record.stop_requested
        if self._watcher is not None:
            await self._watcher.containers_ended()
        reason = None if stopped else self._failure_reason(ended, entries)
        self._enter(Status.UPLOADING)
        await self._in_thread(partial(self._setup.upload, self._nodes))
        return reason

    async def _start(self, entries: list[Entry]) -> None:
        places: list[Place] = []
        for node, entry in zip(self._nodes, entries):
            stream = f"{self._record.name}/{node.name}-{int(time.time())}"
            if not node.has_program(entry.command[0], entry.cwd, entry.environment["PATH"]):
                raise self._cannot_start(f'exec: "{entry.command[0]}": executable file not found in $PATH')
            try:
                container = await Container.start(
                    node,
                    entry.command,
                    env=entry.environment,
                    cwd=entry.cwd,
                    logs=await self._in_thread(partial(self._cloud.aws, "logs")),
                    group=self._setup.log_group,
                    stream=stream,
                    log_bytes=self._settings.log_bytes,
                )
            except (OSError, ValueError) as error:
                # ValueError: a NUL, which an API call can carry and an operating system's call cannot.
                raise self._cannot_start(f'exec: "{entry.command[0]}": {error}') from error
            self._containers.append(container)
            places.append(Place(node, entry, stream))
        if self._watcher is not None:
            await self._watcher.containers_run(places)

    async def _wait(self) -> dict[int, Ended]:
        """
        Until all containers have ended, by themselves or stopped: by a failure, the user, or the time.

        Returns how those ended, by rank, that were not told to.
        """
        waits = [asyncio.create_task(container.wait()) for container in self._containers]
        stop = asyncio.create_task(self._stopping.wait())
        end_at = time.monotonic() + self._record.max_runtime_seconds
        try:
            while pending := [wait for wait in waits if not wait.done()]:
                left = end_at - time.monotonic()
                failed = any(wait.done() and wait.result().exit_code for wait in waits)
                if stop.done() or failed or left <= 0:
                    self._overdue = left <= 0 and not stop.done() and not failed
                    break
                await asyncio.wait([*pending, stop], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            alone = [rank for rank, wait in enumerate(waits) if wait.done()]
            if self._overdue:
                self._enter(Status.STOPPING)
            for container in self._containers:
                container.stop(self._settings.stop_timeout)
            ended = await asyncio.gather(*waits)
            return {rank: ended[rank] for rank in alone}
        finally:
            stop.cancel()

    async def _clean_up(self) -> None:
        for container in self._containers:
            container.kill()
        if self._watcher is not None:
            await self._watcher.containers_ended()
        await asyncio.gather(*(container.wait() for container in self._containers))
        if self._thread_work is not None and not self._thread_work.done():
            await asyncio.wait([self._thread_work])  # cancelled: the thread still writes where we delete
        self._credentials.close()
        await self._in_thread(self._remove_nodes)

    def _enter(self, status: Status) -> None:
        logger.info("= %s is %s", self._record.name, status.text)
        self._record.change(status, utc_now())

    async def _in_thread(self, work: Callable[[], T]) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        self._thread_work = future
        return await asyncio.shield(future)

    def _make_nodes(self) -> list[Node]:
        namespace = mounts.available()
        self._root.mkdir(parents=True, mode=0o700)
        names = [node_name(rank) for rank in range(self._setup.node_count)]
        hosts = dict(zip(names, loopback_addresses(len(names))))
        state_dir = self._cloud.state_dir
        nodes = [
            Node(self._root / name, name, state_dir=state_dir, namespace=namespace, hosts=hosts)
            for name in names
        ]
        for node in nodes:
            node.create()
        return nodes

    def _remove_nodes(self) -> None:
        for node in self._nodes:
            node.remove()
        shutil.rmtree(self._root, ignore_errors=True)

    def _failure_reason(self, ended: Mapping[int, Ended], entries: Sequence[Entry]) -> str | None:
        """FailureReason in SageMaker's words; None when every container ended well."""
        for rank, end in ended.items():
            if end.exit_code:
                message = _read_failure(self._nodes[rank].base / "output" / "failure")
                entry = entries[rank]
                if message is None and entry.script_command is not None:
                    command = shlex.join(entry.script_command)
                    message = (
                        f"ExecuteUserScriptError:\nExitCode {end.exit_code}\n"
                        f'ErrorMessage "{_error_message(end.tail)}"\nCommand "{command}"'
                    )
                suffix = f", exit code: {end.exit_code}"
                return f"AlgorithmError: {message or ''}"[: 1024 - len(suffix)] + suffix
        return None

    def _cannot_start(self, why: str) -> JobFailed:
        return JobFailed(
            "AlgorithmError: CannotStartContainerError. Please make sure the container can be run with "
            f"'docker run {self._setup.image} {self._setup.program}'. The local cloud runs every image with "
            "this machine's programs: "
            f"give ContainerEntrypoint, or the hyperparameters of script mode. {why}"
        )


def _read_failure(path: Path) -> str | None:
    """The beginning of ``/opt/ml/output/failure``; None when the job wrote none."""
    try:
        with path.open("rb") as file:
            text = file.read(4096).decode("utf-8", "replace").strip()
    except OSError:
        return None
    return text or None


def _error_message(tail: str) -> str:
    """What went wrong, from the end of a script's output: the last traceback, else the last lines."""
    start = tail.rfind("Traceback (most recent call last):")
    text = tail[start:] if start >= 0 else "\n".join(tail.splitlines()[-10:])
    return text.strip()[-ERROR_MESSAGE_CHARACTERS:]
