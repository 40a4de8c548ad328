"""
Starts the service's agent (``service_agent.py``) in a container, which makes that a native target.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import sagemaker_ssh_helper
from sagemaker_ssh_helper.emulator.container import Container
from sagemaker_ssh_helper.emulator.node import Node
from sagemaker_ssh_helper.emulator.service import Cloud
from sagemaker_ssh_helper.errors import trace_of

logger = logging.getLogger(__name__)

LOG_BYTES = 1 << 20
"""How much of an agent's log is kept."""

_START = "import sys; sys.path.insert(0, {root!r}); from {module} import main; sys.exit(main(sys.argv[1:]))"
_MODULE = "sagemaker_ssh_helper.emulator.service_agent"


class NativeAgent:
    """One agent that runs, and its target; made by ``start``."""

    def __init__(self, cloud: Cloud, target: str, container: Container) -> None:
        self._cloud = cloud
        self._target = target
        self._container = container

    @classmethod
    async def start(
        cls,
        cloud: Cloud,
        target: str,
        user_id: str,
        node: Node,
        environment: Mapping[str, str],
        *,
        group: str,
        stream: str,
    ) -> NativeAgent | None:
        """
        The agent of a container that runs; None when it cannot be started.

        Args:
            user_id: ``aws:userid`` of the role session by which the container signs.
            node: the container's.
            environment: the container's.
            group, stream: the container's log; the agent has a stream of its own beside it.
        """
        root = str(Path(sagemaker_ssh_helper.__file__).parent.parent)
        # Not the job's own Python, nor its packages: the service brings its agent along.
        command = [sys.executable, "-I", "-c", _START.format(root=root, module=_MODULE)]
        cloud.native_targets.add(target, user_id)
        try:
            container = await Container.start(
                node,
                [*command, target, cloud.region, str(node.root / "service-agent")],
                env=environment,
                cwd="/",
                logs=await asyncio.to_thread(cloud.aws, "logs"),
                group=group,
                stream=f"{stream}/ssm",
                log_bytes=LOG_BYTES,
            )
        except BaseException as error:
            cloud.native_targets.remove(target, "It has no agent.")
            if not isinstance(error, OSError):
                raise
            logger.error("! %s has no agent:\n%s", target, trace_of(error))
            return None
        return cls(cloud, target, container)

    async def end(self, why: str) -> None:
        """End it and all its sessions, whose clients are told why. May be called more than once."""
        self.kill(why)
        await self._container.wait()

    def kill(self, why: str) -> None:
        """The same, without waiting until its processes have ended."""
        self._cloud.native_targets.remove(self._target, why)
        self._container.kill()
