"""
Lines of ours in the job's own log, from a process that must not hold the job's output open.

The agent outlives the script that started it. If it kept the script's standard error, whoever reads that pipe
(a training toolkit, a test) would never see its end. So the pipe is opened for each line, through /proc, and
closed again; a line that cannot be written at once is dropped. Where there is no /proc nothing is written.

Standard library only; Python 3.8.
"""

import io
import logging
import os
import sys
from typing import Optional

from sagemaker_ssh_helper.names import Line

PREFIX = Line.OF_HELPER

# A shorter write to a pipe is never mixed with another's, by POSIX; Linux promises 4096.
_MAX_LINE_BYTES = 4000
_REGISTERED = Line.REGISTERED.partition("{")[0]


def say(text: str) -> None:
    """One line on this process's standard error, if it has one. Never raises."""
    try:
        sys.stderr.write(f"{PREFIX}{text}\n")
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        # A daemon's script may have closed it.
        pass


def let_every_character_be_written() -> None:
    """In a locale that lacks a character, standard output shows its number, and the command goes on."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class JobOutput:
    """
    The standard output and error of the process ``pid``, which started us.

    When that process ended, and even when its number was given to another, nothing is written.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._started = _start_time(pid)

    def write(self, descriptor: int, text: str) -> bool:
        """Write a line to descriptor 1 or 2; whether that went well. Never blocks, never raises."""
        if self._started is None or _start_time(self._pid) != self._started:
            return False
        data = text.encode("utf-8", "replace")[:_MAX_LINE_BYTES] + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
        try:
            opened = os.open(f"/proc/{self._pid}/fd/{descriptor}", flags)
        except OSError:
            return False
        try:
            return os.write(opened, data) == len(data)
        except OSError:
            return False
        finally:
            os.close(opened)

    def say(self, text: str) -> bool:
        """Like :func:`say`, in the job's process."""
        return self.write(2, PREFIX + text)


class JobLogHandler(logging.Handler):
    """
    Puts the agent's log into the job's.

    Args:
        everything: each line, on standard output (``SSH_LOG_TO_STDOUT``). Otherwise only the line that says
            which managed instance this is, on standard error: other programs search the job's log for it.
    """

    def __init__(self, output: JobOutput, *, everything: bool) -> None:
        super().__init__()
        self._output = output
        self._everything = everything

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if self._everything:
            self._output.write(1, self.format(record))
        elif text.startswith(_REGISTERED):
            self._output.say(text)


def _start_time(pid: int) -> Optional[bytes]:
    """When the process started, in the kernel's ticks; None when it is gone or there is no /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything; the 22nd field is the 20th after it.
            return file.read().rpartition(b")")[2].split()[19]
    except (OSError, IndexError):
        return None
