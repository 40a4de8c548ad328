"""
Notices that a container has ended, or lost its agent, which nobody tells its clients.

A container that ends takes its agent with it, in the middle of whatever it did. For the service that carries
sessions that is a network that is away, and they wait for it a quarter of an hour. SageMaker knows better.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sagemaker_ssh_helper.aws.resources import Resource
from sagemaker_ssh_helper.errors import SessionLost, SSHHelperError

logger = logging.getLogger(__name__)

SILENCE = 4.0
"""Seconds without an acknowledge of what was sent, after which SageMaker is asked."""

LONGEST_PAUSE = 60.0
"""Seconds between two questions at most: a reader that is stalled in the container is silent, too."""


async def _nobody_knows() -> bool:
    return False


async def wait_for_end(
    acknowledged: Callable[[], int | None],
    describe: Callable[[], Awaitable[Resource | None]],
    fqdn: str,
    silence: float = SILENCE,
    *,
    is_missing: Callable[[], Awaitable[bool]] = _nobody_knows,
    tell: Callable[[str], None] = logger.info,
) -> SSHHelperError:
    """
    Wait until the container has ended; what to tell the user.

    Args:
        acknowledged: how many messages the container has acknowledged so far; None while nothing of ours
            waits for that.
        describe: asks what became of the resource the container belongs to. What it raises of ours, and None,
            are no answer.
        silence: seconds after which it is asked first; then after twice as many, and so on.
        is_missing: asks the service whether it misses the container's agent.
        tell: gets one line for the user when it does.
    """
    told = False
    pause = silence
    before = acknowledged()
    while True:
        await asyncio.sleep(pause)
        now = acknowledged()
        if now is None or now != before:
            before, pause = now, silence
            continue
        pause = min(2 * pause, LONGEST_PAUSE)
        try:
            resource = await describe()
        except SSHHelperError as error:
            logger.info("! nobody says what became of %s: %s", fqdn, error)
            continue
        if resource is not None and resource.ended:
            why = f": {resource.failure_reason}" if resource.failure_reason else ""
            return SessionLost(
                f"{fqdn} has ended",
                evidence=f"SageMaker tells its status {resource.status}{why}",
                fix=f"Its last words: sm-ssh logs {fqdn}",
            )
        if not told and await is_missing():
            told = True
            tell(
                f"{fqdn} does not answer: its agent is not connected; the session waits for it"
            )
