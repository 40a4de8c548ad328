"""
A TCP connection to a name, through a network that may be away, or come back at any moment.

A SYN that is swallowed is repeated by the system after one second, then after two, four and so on; a
question to a name server after five. So somebody who waits has to ask anew beside the first attempt, and take
whichever is answered.
"""

import asyncio
import socket
import threading
import time
from concurrent.futures import Future
from typing import Any, Callable, Dict, List, Optional, Set, Tuple, TypeVar

NEXT_ADDRESS_DELAY = 0.25  # seconds before the next address of a name is tried; RFC 8305 section 5
LOOKUP_AGAIN = 0.75  # seconds after which a name is asked for again, beside the first question
MAX_ROUNDS = 8  # attempts side by side; the oldest one ends

_T = TypeVar("_T")
_Info = Tuple[Any, ...]
# Shared by all who ask: an agent with a thousand sessions has one question under way, not a thousand.
_lookups: Dict[Tuple[str, int], Tuple[float, "Future[List[_Info]]"]] = {}


async def dial(host: str, port: int, again: Optional[float] = None) -> socket.socket:
    """
    A connected socket, which does not block. The caller has the deadline, and closes it.

    Args:
        again: seconds of silence after which all is tried once more, beside what is under way; None: never.

    Raises OSError as soon as one attempt has an answer, such as a refusal.
    """
    rounds: List[asyncio.Task[socket.socket]] = []
    try:
        while True:
            rounds.append(asyncio.ensure_future(_round(host, port)))
            await asyncio.wait(rounds, timeout=again, return_when=asyncio.FIRST_COMPLETED)
            ended = next((task for task in rounds if task.done()), None)
            if ended is not None:
                sock = ended.result()
                rounds.remove(ended)
                return sock
            if len(rounds) >= MAX_ROUNDS:
                await _end(rounds.pop(0))
    finally:
        for task in rounds:
            await _end(task)


def in_thread(call: Callable[[], _T]) -> "Future[_T]":
    """Call in a thread of its own, which never keeps the process, or an event loop, from ending."""
    future: Future[_T] = Future()
    # Whoever loses interest must not take the answer from others.
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="call", daemon=True).start()
    return future


async def _round(host: str, port: int) -> socket.socket:
    """One look-up, and one attempt for each address, the next when the one before is silent or failed."""
    left = await _look_up(host, port)
    attempts: Set[asyncio.Task[socket.socket]] = set()
    last: OSError = socket.gaierror(socket.EAI_NONAME, "it has no address")
    try:
        while left or attempts:
            if left:
                attempts.add(asyncio.ensure_future(_connect(left.pop(0))))
            delay = NEXT_ADDRESS_DELAY if left else None
            done, _ = await asyncio.wait(attempts, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    attempts.discard(task)
                    return task.result()
                if not isinstance(error, OSError):
                    raise error
                attempts.discard(task)
                last = error
        raise last
    finally:
        for task in attempts:
            await _end(task)


async def _connect(info: _Info) -> socket.socket:
    family, kind, protocol, _, address = info
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _end(task: "asyncio.Task[socket.socket]") -> None:
    """End an attempt that is not needed any more, and close what came of it."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _look_up(host: str, port: int) -> List[_Info]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    began_at, lookup = _lookups.get((host, port), (0.0, None))
    if lookup is None or lookup.done() or time.monotonic() - began_at >= LOOKUP_AGAIN:
        # Not in the loop's own threads: a loop that ends waits for those.
        lookup = in_thread(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        _lookups[host, port] = (time.monotonic(), lookup)
    found = await asyncio.wrap_future(lookup)
    # Shared, and its receiver takes it apart.
    return list(found)
