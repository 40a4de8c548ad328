"""
Remote debugging of a training job: the service's agents in its containers, on from the start or later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sagemaker_ssh_helper.emulator.jobs import Place
from sagemaker_ssh_helper.emulator.native_agents import NativeAgent
from sagemaker_ssh_helper.emulator.service import Cloud
from sagemaker_ssh_helper.names import ResourceKind, training_target

_WHY = "Remote debugging was turned off, or the container has ended."


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
        self._agents: dict[str, NativeAgent] = {}
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
            await asyncio.gather(*(self._agents.pop(target).end(_WHY) for target in gone))
            for target, place in wanted.items():
                if target not in self._agents:
                    await self._start(target, place)

    async def _start(self, target: str, place: Place) -> None:
        agent = await NativeAgent.start(
            self._cloud,
            target,
            self._user_id,
            place.node,
            place.entry.environment,
            group=str(ResourceKind.TRAINING.log_group),
            stream=place.stream,
        )
        if agent is not None:
            self._agents[target] = agent
