"""
The terminal of a session: a pty, whose far end is the program's.

Standard library only; Python 3.8.
"""

import fcntl
import os
import struct
import sys
import termios
from typing import Callable, Optional

from sagemaker_ssh_helper.agent.descriptors import Reader, Writer

COLS, ROWS = 80, 24
"""Until the client tells its own."""

# Not in Python's termios: erasing a character takes all its bytes.
_IUTF8 = 0x4000
_MAX_SIZE = 65535


class Terminal:
    """
    A pty. ``replica`` is for the program; close it with ``close_replica`` once the program has it.

    Args:
        on_data: told what the program prints.
        on_full, on_room: the program does not take its input; it does again.

    Raises OSError when the system has none left.
    """

    def __init__(
        self,
        on_data: Callable[[bytes], None],
        *,
        on_full: Callable[[], None],
        on_room: Callable[[], None],
        owner: Optional[int] = None,
    ) -> None:
        self._primary, self.replica = os.openpty()
        self._closed = False
        try:
            self.resize(COLS, ROWS)
            if sys.platform.startswith("linux"):
                attributes = termios.tcgetattr(self.replica)
                attributes[0] |= _IUTF8
                termios.tcsetattr(self.replica, termios.TCSANOW, attributes)
            if owner is not None:
                os.fchown(self.replica, owner, -1)
        except BaseException:
            self.close_replica()
            os.close(self._primary)
            raise
        self.reader = Reader(self._primary, on_data)
        self._writer = Writer(self._primary, on_full, on_room)

    def write(self, data: bytes) -> None:
        """Type."""
        self._writer.write(data)

    def resize(self, cols: int, rows: int) -> None:
        """Tell the program the size; sizes that no terminal has are ignored."""
        if not self._closed and 0 < cols <= _MAX_SIZE and 0 < rows <= _MAX_SIZE:
            fcntl.ioctl(self._primary, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def foreground(self) -> Optional[int]:
        """The process group in the foreground; None when there is none."""
        try:
            return os.tcgetpgrp(self._primary) or None
        except OSError:
            return None

    def close_replica(self) -> None:
        """Our copy of the program's end."""
        if self.replica >= 0:
            os.close(self.replica)
            self.replica = -1

    def close(self) -> None:
        """Hang up. Programs that are still there get SIGHUP from the system."""
        if self._closed:
            return
        self._closed = True
        self.reader.close()
        self._writer.close()
        self.close_replica()
        os.close(self._primary)
