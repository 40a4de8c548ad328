"""A server on loopback that leaves nothing behind: no task, and no connection that nobody closed."""

import asyncio
import ssl
from typing import Any, Awaitable, Callable, List, Optional, Tuple

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class StreamServer:
    """
    Serve each connection by a handler, while the context is open; a connection ends with its handler.

    At the end of the context those that go on are aborted, and gone: a loop that ends before its connections
    leaves them to the garbage collector, whose warning then fails some other test.
    """

    def __init__(self, handler: Handler, tls: Optional[ssl.SSLContext] = None) -> None:
        self._handler = handler
        self._tls = tls
        self._server: Optional[asyncio.AbstractServer] = None
        self._accepted: List[Tuple[asyncio.Future[None], asyncio.StreamWriter]] = []
        self.port = 0

    async def __aenter__(self) -> "StreamServer":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: Any) -> None:
        assert self._server is not None, "entered"
        self._server.close()
        # What was accepted in this very moment appears within two turns of the loop.
        for _ in range(3):
            await asyncio.sleep(0)
        for serving, writer in self._accepted:
            serving.cancel()
            writer.transport.abort()
        await asyncio.gather(*(serving for serving, _ in self._accepted), return_exceptions=True)
        await asyncio.gather(*(writer.wait_closed() for _, writer in self._accepted), return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.ensure_future(self._handler(reader, writer))
        serving.add_done_callback(lambda _: writer.close())
        self._accepted.append((serving, writer))
