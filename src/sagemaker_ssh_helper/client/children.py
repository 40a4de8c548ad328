"""
Programs that we start, and that end with us: no signal, at whatever moment it comes, leaves one behind.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sagemaker_ssh_helper.client.proxy_command import Interrupts


@contextmanager
def attended(command: Sequence[str], **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """
    A program that runs while inside. A signal for us is one for it.

    On leaving it is ended if it has not ended by itself; then a signal that came ends us: KeyboardInterrupt,
    or SystemExit with the status that tells which one it was.
    """
    interrupts = Interrupts()
    try:
        # A signal that comes in here is kept, and told as soon as there is somebody to tell.
        process = subprocess.Popen(command, **streams)
        interrupts.listen(process.terminate)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
    finally:
        interrupts.release()
    end_as_told(interrupts)


def end_as_told(interrupts: Interrupts) -> None:
    """End as the signal that came says; nothing when none did."""
    if interrupts.received == signal.SIGINT:
        raise KeyboardInterrupt
    if interrupts.received is not None:
        raise SystemExit(128 + interrupts.received)
