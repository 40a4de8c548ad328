"""
Remote debugging of a training job: the service's agents in its containers, on from the start or later.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import sagemaker_ssh_helper
from sagemaker_ssh_helper.emulator.container import Container
from sagemaker_ssh_helper.emulator.jobs import Place
from sagemaker_ssh_helper.emulator.service import Cloud
from sagemaker_ssh_helper.names import ResourceKind, training_target

logger = logging.getLogger(__name__)

LOG_BYTES = 1 << 20
"""How much of an agent's log is kept."""

_START = "import sys; sys.path.insert(0, {root!r}); from {module} import main; sys.exit(main(sys.argv[1:]))"
_MODULE = "sagemaker_ssh_helper.emulator.service_agent"


class RemoteDebug:
    """
    The agents of one job, which run while its containers do and remote debugging is on.

    Args:
        user_id: ``aws:userid`` of the job's role session, by which its containers sign.
        on: whether it is on from the start.
    """

    def __init__(self, cloud: Cloud, job_name: str, user_id: str, *, on: bool) -> None:
        self._cloud = cloud
        self._job_name = job_name
        self._user_id = user_id
        self._on = on
        self._places: Sequence[Place] = ()
        self._agents: dict[str, Container] = {}
        self._changing = asyncio.Lock()

    async def containers_run(self, places: Sequence[Place]) -> None:
        """The containers were started, and their agents are now. Raises nothing."""
        self._places = places
        await self._apply()

    async def containers_ended(self) -> None:
        """They are gone, and their agents with them. May be called more than once."""
        self._places = ()
        await self._apply()

    async def switch(self, on: bool) -> None:
        """Turn it on or off; off ends the sessions, too."""
        self._on = on
        await self._apply()

    async def _apply(self) -> None:
        async with self._changing:
            wanted = {
                training_target(self._job_name, place.node.name): place for place in self._places if self._on
            }
            gone = [target for target in self._agents if target not in wanted]
            agents = [self._agents.pop(target) for target in gone]
            for target, agent in zip(gone, agents):
                self._cloud.native_targets.remove(target)
                agent.kill()
            await asyncio.gather(*(agent.wait() for agent in agents))
            for target, place in wanted.items():
                if target not in self._agents:
                    await self._start(target, place)

    async def _start(self, target: str, place: Place) -> None:
        root = str(Path(sagemaker_ssh_helper.__file__).parent.parent)
        node = place.node
        # Not the job's own Python, nor its packages: the service brings its agent along.
        command = [sys.executable, "-I", "-c", _START.format(root=root, module=_MODULE)]
        self._cloud.native_targets.add(target, self._user_id)
        try:
            self._agents[target] = await Container.start(
                node,
                [*command, target, self._cloud.region, str(node.root / "service-agent")],
                env=place.entry.environment,
                cwd="/",
                logs=await asyncio.to_thread(self._cloud.aws, "logs"),
                group=str(ResourceKind.TRAINING.log_group),
                stream=f"{place.stream}/ssm",
                log_bytes=LOG_BYTES,
            )
        except OSError:
            logger.exception("! %s has no agent", target)
            self._cloud.native_targets.remove(target)
