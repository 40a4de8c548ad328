"""
What runs in a node: a main process with everything it starts, and its output on the way to the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sagemaker_ssh_helper.emulator.job_logs import LogPump
from sagemaker_ssh_helper.emulator.node import Node
from sagemaker_ssh_helper.emulator.supervised import Supervised

logger = logging.getLogger(__name__)

DRAIN_TIMEOUT = 2.0
"""Seconds that the output of a container is waited for when some of its processes may still run."""


@dataclass(frozen=True)
class Ended:
    """How a container ended: its exit code as container engines count it (128 + N for signal N), and the
    end of its output."""

    exit_code: int
    tail: str


class Container:
    """One running container; made by ``start``. It ends with its main process."""

    def __init__(self, node: Node, process: Supervised, pump: LogPump, drained: asyncio.Event) -> None:
        self.node = node
        self._process = process
        self._pump = pump
        self._drained = drained

    @classmethod
    async def start(
        cls,
        node: Node,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        logs: Any,
        group: str,
        stream: str,
        log_bytes: int,
    ) -> Container:
        """
        Run a command in a node.

        Args:
            command: program and arguments, as the node's processes find them.
            env: its whole environment.
            cwd: its working directory, as the node's processes find it.
            logs: a boto3 client of CloudWatch Logs.
            group, stream: where its output goes.
            log_bytes: how much of it is kept.

        Raises OSError when it cannot be started.
        """
        read_fd, write_fd = os.pipe()
        try:
            process = await node.start(command, env=env, cwd=cwd, output_fd=write_fd)
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        loop = asyncio.get_running_loop()
        drained = asyncio.Event()
        pump = LogPump(
            read_fd,
            logs,
            group,
            stream,
            kept_bytes=log_bytes,
            on_end=lambda: loop.call_soon_threadsafe(drained.set),
        )
        pump.start()
        return cls(node, process, pump, drained)

    async def wait(self) -> Ended:
        """Until all its processes have ended and all output is in the log. Safe to cancel and to repeat."""
        status = await self._process.wait()
        try:
            # Somebody who could not be ended may hold the pipe for ever.
            await asyncio.wait_for(self._drained.wait(), None if self._process.complete else DRAIN_TIMEOUT)
        except asyncio.TimeoutError:
            logger.warning("! processes of %s could not be ended", self.node.root)
        return Ended(status if status >= 0 else 128 - status, self._pump.tail())

    def stop(self, grace: float) -> None:
        """SIGTERM to its main process; the end of all after ``grace`` seconds. Then ``wait``."""
        self._process.stop(grace)

    def kill(self) -> None:
        """The end of all, now. Then ``wait``."""
        self._process.kill()
