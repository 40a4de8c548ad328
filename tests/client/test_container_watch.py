"""What becomes of a session whose container has ended."""

import asyncio
from typing import Callable, List, Optional

from sagemaker_ssh_helper.aws.resources import Resource
from sagemaker_ssh_helper.client.container_watch import wait_for_end
from sagemaker_ssh_helper.errors import AccessDenied, SSHHelperError
from sagemaker_ssh_helper.names import ResourceKind

RUNNING = Resource(ResourceKind.TRAINING, "job", "InProgress")
FAILED = Resource(ResourceKind.TRAINING, "job", "Failed", failure_reason="exit code 1")


class Service:
    """Answers one thing after the other; the test is over after the last."""

    def __init__(self, *answers: "Optional[Resource] | SSHHelperError") -> None:
        self.answers = list(answers)
        self.over = asyncio.Event()

    async def describe(self) -> Optional[Resource]:
        if not self.answers:
            self.over.set()
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, SSHHelperError):
            raise answer
        return answer


async def watched(service: Service, acknowledged: Callable[[], Optional[int]]) -> Optional[SSHHelperError]:
    """What the watch comes to; None when it would go on asking after all answers."""
    watch = asyncio.ensure_future(wait_for_end(acknowledged, service.describe, "job.fqdn", 0.001))
    over = asyncio.ensure_future(service.over.wait())
    either: List[asyncio.Future[object]] = [watch, over]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    over.cancel()
    if watch.done():
        return watch.result()
    watch.cancel()
    return None


def test_the_end_is_told_with_its_reason() -> None:
    async def scenario() -> None:
        error = await watched(Service(RUNNING, FAILED), lambda: 7)
        assert error is not None
        assert error.what == "job.fqdn has ended"
        assert error.evidence == "SageMaker tells its status Failed: exit code 1"

    asyncio.run(scenario())


def test_a_container_whose_agent_is_missing_is_told_once_and_is_no_end() -> None:
    async def scenario() -> None:
        told: List[str] = []
        service = Service(RUNNING, RUNNING, RUNNING, FAILED)

        async def is_missing() -> bool:
            return len(service.answers) < 3

        error = await wait_for_end(
            lambda: 7, service.describe, "job.fqdn", 0.001, is_missing=is_missing, tell=told.append
        )
        (line,) = told
        assert line.startswith("job.fqdn does not answer: its agent is not connected")
        assert error.what == "job.fqdn has ended"

    asyncio.run(scenario())


def test_neither_silence_nor_a_refusal_is_an_end() -> None:
    async def scenario() -> None:
        assert await watched(Service(RUNNING, None, AccessDenied("no"), RUNNING), lambda: 7) is None

    asyncio.run(scenario())


def test_nobody_is_asked_while_the_container_acknowledges_or_nothing_is_sent() -> None:
    async def scenario() -> None:
        counts: List[Optional[int]] = [0, 1, 2, None, None, 3, 9, 9]
        left = counts.copy()
        service = Service(FAILED)

        def acknowledged() -> Optional[int]:
            if len(left) > 1:
                assert len(service.answers) == 1, "asked too early"
                return left.pop(0)
            return left[0]

        assert await watched(service, acknowledged) is not None
        assert left == [9]

    asyncio.run(scenario())
