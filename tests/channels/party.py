"""
One side of a session in a test: a real runner, what it was told, and something to wait on.
"""

import asyncio
import functools
import itertools
import os
from typing import Any, Callable, Coroutine, Iterator, List, Optional, Tuple

from channels.relay import Relay
from sagemaker_ssh_helper.channels import DataChannelRunner, Grant, Link
from sagemaker_ssh_helper.errors import SSHHelperError
from sagemaker_ssh_helper.protocol.data_channel import DataChannel, Event, Ready, Side, StreamData

LIMIT = 90.0  # seconds a test may take, on a machine that has much else to do


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """
    Run an async test with a deadline, and fail it when it leaves a task behind.

    A relay among its arguments is started before, and closed after it.
    """

    @functools.wraps(test)
    def run(**kwargs: Any) -> None:
        async def main() -> None:
            relays = [value for value in kwargs.values() if isinstance(value, Relay)]
            for relay in relays:
                await relay.start()
            try:
                await asyncio.wait_for(test(**kwargs), LIMIT)
            finally:
                for relay in relays:
                    await relay.close()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"left behind: {left}"

        asyncio.run(main())

    return run


class Party:
    """
    A runner in a task. ``async with`` it; leaving ends it.

    Attributes:
        resumed: the argument of each call of ``grant``.
        failures: what ``grant`` raises, one for each call, before it gives anything.
    """

    def __init__(
        self, side: Side, url: str, *, headers: Tuple[Tuple[str, str], ...] = (), **options: Any
    ) -> None:
        names = ("window_bytes", "max_payload_bytes", "session_type")
        machine = {name: options.pop(name) for name in names if name in options}
        channel = DataChannel(
            side,
            "s-1",
            random_bytes=os.urandom,
            created_ms=lambda: 1700000000000,
            client_id="client" if side is Side.CLIENT else "",
            instance_id="mi-1" if side is Side.AGENT else "",
            version="3.3.1000.0",
            **machine,
        )
        self.url = url
        self.headers = dict(headers)
        self.resumed: List[bool] = []
        self.failures: List[BaseException] = []
        self.events: List[Event] = []
        self.links: List[Tuple[Link, str]] = []
        self.received = bytearray()
        self.most_received_while_paused = 0
        self.on_data: Callable[[bytes], None] = self.received.extend
        self.runner = DataChannelRunner(
            channel,
            self._grant,
            on_event=self._on_event,
            on_writable=self._pump,
            on_link=self._on_link,
            **options,
        )
        self.task: Optional[asyncio.Task[Optional[SSHHelperError]]] = None
        self.sent = 0
        self._source: Iterator[bytes] = iter(())
        self._changed = asyncio.Event()
        self._tokens = itertools.count(1)

    async def __aenter__(self) -> "Party":
        self.task = asyncio.get_running_loop().create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.runner.close()
        assert self.task is not None
        await asyncio.wait({self.task})

    async def _run(self) -> Optional[SSHHelperError]:
        try:
            return await self.runner.run()
        finally:
            self._changed.set()

    async def _grant(self, resume: bool) -> Grant:
        self.resumed.append(resume)
        if self.failures:
            raise self.failures.pop(0)
        return Grant(self.url, f"token-{next(self._tokens)}", self.headers)

    @property
    def ready(self) -> bool:
        return any(isinstance(event, Ready) for event in self.events)

    @property
    def done(self) -> bool:
        return self.task is not None and self.task.done()

    @property
    def result(self) -> Optional[SSHHelperError]:
        assert self.task is not None
        return self.task.result()

    async def wait_for(self, condition: Callable[[], object]) -> None:
        """Until it is true; looked at after every event and change of the link."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def ended(self) -> Optional[SSHHelperError]:
        assert self.task is not None
        await asyncio.wait({self.task})
        return self.task.result()

    def send(self, data: bytes, chunk: int = 16384) -> None:
        """Send it all, as fast as the window allows."""
        self._source = itertools.chain(
            self._source, (data[start : start + chunk] for start in range(0, len(data), chunk))
        )
        self._pump()

    def _pump(self) -> None:
        self._changed.set()
        while self.runner.writable:
            data = next(self._source, None)
            if data is None:
                return
            self.sent += len(data)
            self.runner.send_data(data)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, StreamData):
            self.on_data(event.data)
        else:
            self.events.append(event)
        self._changed.set()

    def _on_link(self, link: Link, reason: str) -> None:
        self.links.append((link, reason))
        self._changed.set()
