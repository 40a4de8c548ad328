"""
Signals, whatever whoever started us does about its own: ignored and blocked ones are inherited by programs.

Standard library only; Python 3.8.
"""

import os
import select
import signal
from types import FrameType
from typing import Callable, Mapping, Optional


class Wakeup:
    """
    Handles signals, and waits for them and for the ends of children.

    Handlers run only between two steps of Python: a signal that comes at the last moment before a call that
    blocks, such as waitpid, would be handled when that call returns, perhaps never. Here none is missed.
    There can be one of these at a time, in the main thread.

    Args:
        handlers: as for signal.signal. What was held back for them arrives at once.
    """

    def __init__(self, handlers: Mapping[int, Callable[[int, Optional[FrameType]], None]]) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        # Where it is ignored the kernel forgets exit statuses, and every child seems to have succeeded.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def wait(self, timeout: Optional[float] = None) -> None:
        """Until a signal has come since the last call, or for so many seconds; look then what has changed."""
        if select.select([self._reader], [], [], timeout)[0]:
            os.read(self._reader, 4096)

    def close(self) -> None:
        """Wait no more; the handlers stay. In a child that was forked: leave the parent's alone."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._reader)
        os.close(self._writer)
