"""
Our ends of a program's pipes and of its terminal, in the event loop.

Neither closes its descriptor: a terminal's is read and written. Standard library only; Python 3.8.
"""

import asyncio
import os
from typing import Callable

from sagemaker_ssh_helper.protocol.payload_size import PROBE_SIZES

READ_BYTES = PROBE_SIZES[-1]
"""Of output at once: what fits into the largest payload. More would make two, one of them tiny."""
HIGH_BYTES = 64 << 10
"""Of input that the program has not taken: more, and ``on_full`` is called."""
LOW_BYTES = 16 << 10


class Reader:
    """
    Reads; paused until the first ``resume``. ``ended`` is done when there is nothing more.

    Args:
        on_data: told what came, never empty.
    """

    def __init__(self, descriptor: int, on_data: Callable[[bytes], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.reads = 0
        """How often something was read."""
        self.reading = False
        self._descriptor = descriptor
        self._on_data = on_data
        os.set_blocking(descriptor, False)

    def resume(self) -> None:
        """Read, from now on or again."""
        if not self.reading and not self.ended.done():
            self.reading = True
            self._loop.add_reader(self._descriptor, self._ready)

    def pause(self) -> None:
        """Stop reading."""
        if self.reading:
            self.reading = False
            self._loop.remove_reader(self._descriptor)

    def close(self) -> None:
        """Stop reading for good."""
        self.pause()
        if not self.ended.done():
            self.ended.set_result(None)

    def _ready(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # A terminal that nobody has open any more says EIO.
            data = b""
        if not data:
            self.close()
            return
        self.reads += 1
        self._on_data(data)


class Writer:
    """
    Writes without ever waiting. What nobody takes any more is dropped.

    Args:
        on_full: more than HIGH_BYTES wait.
        on_room: less than LOW_BYTES do again.
    """

    def __init__(self, descriptor: int, on_full: Callable[[], None], on_room: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._on_full = on_full
        self._on_room = on_room
        self._buffer = bytearray()
        self._waits = False
        self._full = False
        self._closed = False
        os.set_blocking(descriptor, False)

    def write(self, data: bytes) -> None:
        """Write, now or as soon as there is room."""
        if self._closed:
            return
        self._buffer += data
        if not self._waits:
            self._ready()
        if not self._full and len(self._buffer) > HIGH_BYTES:
            self._full = True
            self._on_full()

    def close(self) -> None:
        """Write nothing more."""
        self._closed = True
        self._buffer.clear()
        self._watch(False)

    def _ready(self) -> None:
        try:
            while self._buffer:
                written = os.write(self._descriptor, self._buffer)
                if not written:
                    break
                del self._buffer[:written]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.close()
        self._watch(bool(self._buffer))
        if self._full and len(self._buffer) < LOW_BYTES:
            self._full = False
            self._on_room()

    def _watch(self, wanted: bool) -> None:
        if wanted is self._waits:
            return
        self._waits = wanted
        if wanted:
            self._loop.add_writer(self._descriptor, self._ready)
        else:
            self._loop.remove_writer(self._descriptor)
