"""
Our own standard input and output in an event loop: pipes, sockets, terminals and plain files.

asyncio's pipe transports refuse plain files, and take input on a socket that is both stdin and stdout for its
end, so this is done with the loop's readers and writers, and with a thread where an event loop cannot wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
import threading
from collections.abc import Callable

from sagemaker_ssh_helper.protocol.payload_size import PROBE_SIZES

READ_BYTES = PROBE_SIZES[-1]
"""Of input at once: what fits into the largest payload. More would make two, one of them tiny."""
HIGH_BYTES = 256 << 10
"""Of output that waits for room: more, and ``on_full`` is called."""
LOW_BYTES = 64 << 10


class Input:
    """
    Reads a descriptor; paused until the first ``resume``.

    Args:
        on_data: told what came, never empty.
        on_end: told once that there is no more: the end of the file, or an error.
    """

    def __init__(self, descriptor: int, on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._on_data = on_data
        self._on_end = on_end
        self._ended = False
        self._running = False
        self._may_read = threading.Event()
        self._thread: threading.Thread | None = None

    def resume(self) -> None:
        """Read, from now on or again."""
        if self._ended or self._running:
            return
        self._running = True
        self._may_read.set()
        if self._thread is not None:
            return
        try:
            os.set_blocking(self._descriptor, False)
            self._loop.add_reader(self._descriptor, self._ready)
        except (OSError, NotImplementedError):
            # A plain file, /dev/null, or Windows: nothing there can wait, a thread can.
            self._thread = threading.Thread(target=self._read_in_thread, name="stdin", daemon=True)
            self._thread.start()

    def pause(self) -> None:
        """Stop reading; from a thread one more piece may come."""
        self._may_read.clear()
        if self._running and self._thread is None:
            self._loop.remove_reader(self._descriptor)
        self._running = False

    def close(self) -> None:
        """Stop reading for good, and leave the descriptor as it was found. It is not closed."""
        self.pause()
        self._ended = True
        if self._thread is None:
            with contextlib.suppress(OSError):
                os.set_blocking(self._descriptor, True)

    def _ready(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self._received(data)

    def _received(self, data: bytes) -> None:
        if self._ended:
            return
        if data:
            self._on_data(data)
            return
        self.pause()
        self._ended = True
        self._on_end()

    def _read_in_thread(self) -> None:
        data = b"-"
        while data:
            self._may_read.wait()
            try:
                data = os.read(self._descriptor, READ_BYTES)
            except OSError:
                data = b""
            done = threading.Event()
            try:
                self._loop.call_soon_threadsafe(self._hand_over, data, done)
            except RuntimeError:  # the loop is closed: nobody reads any more
                return
            done.wait()

    def _hand_over(self, data: bytes, done: threading.Event) -> None:
        try:
            self._received(data)
        finally:
            done.set()


class Output:
    """
    Writes a descriptor without ever waiting.

    Args:
        on_broken: told once that nobody reads any more.

    ``on_full`` is called when more than HIGH_BYTES wait, ``on_room`` when less than LOW_BYTES do again.
    """

    def __init__(self, descriptor: int, *, on_broken: Callable[[], None]) -> None:
        self.broken = False
        self.on_full: Callable[[], None] = lambda: None
        self.on_room: Callable[[], None] = lambda: None
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._on_broken = on_broken
        self._buffer = bytearray()
        self._full = False
        self._waits = False
        self._watches = False
        kind = os.fstat(descriptor).st_mode
        # Files and Windows' pipes: a write there is done when it returns.
        self._direct = stat.S_ISREG(kind) or sys.platform == "win32"
        if not self._direct:
            os.set_blocking(descriptor, False)
            if stat.S_ISFIFO(kind):
                # Nothing can be read from the writing end of a pipe but that the reading end is gone.
                self._loop.add_reader(descriptor, self._break)
                self._watches = True

    def write(self, data: bytes) -> None:
        """Write, now or as soon as there is room. Dropped when nobody reads any more."""
        if self.broken:
            return
        written = 0
        if not self._buffer:
            written = self._write(data)
            if self.broken or written == len(data):
                return
        self._buffer += memoryview(data)[written:]
        if not self._waits:
            self._waits = True
            self._loop.add_writer(self._descriptor, self._ready)
        if not self._full and len(self._buffer) > HIGH_BYTES:
            self._full = True
            self.on_full()

    async def flush(self, timeout: float) -> bool:
        """Wait until all is written. False when nobody reads, or nothing moved for that many seconds."""
        while self._buffer and not self.broken:
            left = len(self._buffer)
            deadline = self._loop.time() + timeout
            while len(self._buffer) == left and not self.broken:
                if self._loop.time() > deadline:
                    return False
                await asyncio.sleep(0.005)
        return not self.broken

    def close(self) -> None:
        """Leave the descriptor as it was found. It is not closed."""
        self._forget()
        if not self.broken and not self._direct:
            os.set_blocking(self._descriptor, True)

    def _write(self, data: bytes | bytearray) -> int:
        total = 0
        view = memoryview(data)
        try:
            while total < len(data):
                total += os.write(self._descriptor, view[total:])
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            view.release()
            self._break()
            return total
        view.release()
        return total

    def _ready(self) -> None:
        written = self._write(self._buffer)
        if self.broken:
            return
        del self._buffer[:written]
        if not self._buffer:
            self._waits = False
            self._loop.remove_writer(self._descriptor)
        if self._full and len(self._buffer) < LOW_BYTES:
            self._full = False
            self.on_room()

    def _break(self) -> None:
        if self.broken:
            return
        self._forget()
        self.broken = True
        self._buffer.clear()
        self._on_broken()

    def _forget(self) -> None:
        if self._waits:
            self._loop.remove_writer(self._descriptor)
        if self._watches:
            self._loop.remove_reader(self._descriptor)
        self._waits = self._watches = False
