"""
Running one shell script for Run Command: its file, its processes, its limits, what is kept of its output.
"""

import asyncio
import os
import signal
import subprocess
import sys
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional

from sagemaker_ssh_helper.errors import reason_of
from sagemaker_ssh_helper.protocol.payloads import TRUNCATED, TaskStatus

MAX_OUTPUT_BYTES = 24000
"""Of standard output, and of standard error, in a reply; the mark of a cut included."""

MAX_COMBINED_BYTES = 2500
"""Of both together, as lists of commands show them."""

EXIT_SUCCESS = 168
"""A script that exits with this succeeded, and ends its command."""

KILLED = 137
"""The exit code of a script that was ended by us, as official agents tell it."""

# Not looked for on the job's PATH, which may have anything on it, or nothing.
_SHELL = "/bin/sh"
_RULER = "\n----------ERROR-------\n"
_READ_BYTES = 65536
# What a process that outlives its script may still write before nobody listens any more.
_MAX_LATE_BYTES = 1 << 20
# How long the last output may take after the script ended. Pipes that stay open belong to processes it left.
_FLUSH_TIMEOUT = 0.2
_SIGNAL_EXIT = 128
# The longest text the kernel takes as one argument is 128 KiB, its end included.
_MAX_ARGUMENT_BYTES = 131000


@dataclass(frozen=True)
class Outcome:
    """How a script ended. The outputs are as they go into a reply, cut and marked."""

    status: str
    """One of TaskStatus."""
    code: int
    standard_output: str = field(default="", repr=False)
    standard_error: str = field(default="", repr=False)

    @property
    def combined(self) -> str:
        """Both outputs in the short form."""
        if not self.standard_error:
            return cut(self.standard_output, MAX_COMBINED_BYTES)
        room = MAX_COMBINED_BYTES - len(_RULER)
        error_bytes = len(self.standard_error.encode("utf-8"))
        # The errors get what the output leaves, half of the room at least.
        output = cut(self.standard_output, max(room - error_bytes, room // 2))
        return output + _RULER + cut(self.standard_error, room - len(output.encode("utf-8")))


def cut(text: str, limit_bytes: int) -> str:
    """The text, or its beginning with a mark, in at most ``limit_bytes`` bytes of UTF-8."""
    data = text.encode("utf-8")
    if len(data) <= limit_bytes:
        return text
    return data[: max(0, limit_bytes - len(TRUNCATED))].decode("utf-8", "ignore") + TRUNCATED


class Script:
    """
    A script that runs once.

    Args:
        folder: ours, for the file; it need not allow execution.
        name: of the file.
        working_directory: of the process.
        environ: of the process.
        timeout: seconds, then all its processes are killed.
        waiter: a thread of it waits for the process.
    """

    def __init__(
        self,
        text: str,
        *,
        folder: str,
        name: str,
        working_directory: str,
        environ: Mapping[str, str],
        timeout: float,
        waiter: Executor,
    ) -> None:
        self._text = text
        self._folder = folder
        self._path = os.path.join(folder, name)
        self._working_directory = working_directory
        self._environ = dict(environ)
        self._timeout = timeout
        self._waiter = waiter
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._stopped = ""

    async def run(self) -> Outcome:
        """Run it to its end; what goes wrong is in the outcome. Cancelling kills its processes."""
        loop = asyncio.get_running_loop()
        captures: List[_Capture] = []
        timer: Optional[asyncio.TimerHandle] = None
        try:
            if self._stopped:
                return Outcome(self._stopped, KILLED)
            captures = [_Capture(loop), _Capture(loop)]
            try:
                self._process = self._start(captures)
            except (OSError, ValueError) as error:
                place = getattr(error, "filename", None)
                why = f"{reason_of(error)}: {place}" if place else reason_of(error)
                return Outcome(TaskStatus.FAILED, 1, "", f"failed to run commands: {why}")
            finally:
                for capture in captures:
                    capture.close_write_end()
            timer = loop.call_later(self._timeout, self.stop, TaskStatus.TIMED_OUT)
            code = await loop.run_in_executor(self._waiter, self._process.wait)
            await asyncio.wait([capture.ended for capture in captures], timeout=_FLUSH_TIMEOUT)
            return self._outcome(code, captures)
        finally:
            if timer is not None:
                timer.cancel()
            self.stop(TaskStatus.CANCELLED)
            for capture in captures:
                capture.abandon()
            _unlink(self._path)

    def stop(self, status: str) -> None:
        """Kill it, or keep it from starting; ``status`` becomes the outcome's. Nothing when it has ended."""
        process = self._process
        if process is not None and process.returncode is not None:
            return
        self._stopped = self._stopped or status
        if process is not None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                # It ended this moment; on macOS a group of zombies gives the second error.
                pass

    def _start(self, captures: "List[_Capture]") -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self._command(),
            stdin=subprocess.DEVNULL,
            stdout=captures[0].write_end,
            stderr=captures[1].write_end,
            cwd=self._working_directory,
            env=self._environ,
            # Its own group, so that all its processes can be killed, and no terminal.
            start_new_session=True,
        )

    def _command(self) -> List[str]:
        data = self._text.encode("utf-8", "surrogateescape")
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700)
            with open(descriptor, "wb") as file:
                file.write(data)
        except OSError:
            # A full disk, for one: the script can do without a file, and perhaps it is what makes room.
            if len(data) > _MAX_ARGUMENT_BYTES or b"\0" in data:
                raise
            return [_SHELL, "-c", self._text]
        if os.statvfs(self._folder).f_flag & os.ST_NOEXEC:
            return [*_interpreter(data), self._path]
        # The shell executes the file, so that its first line decides what interprets it.
        return [_SHELL, "-c", '"$0"', self._path]

    def _outcome(self, code: int, captures: "List[_Capture]") -> Outcome:
        output, error = (capture.text for capture in captures)
        if code < 0:
            code = _SIGNAL_EXIT - code
        status = TaskStatus.SUCCESS
        if self._stopped:
            status, code = self._stopped, KILLED
        elif code not in (0, EXIT_SUCCESS):
            status = TaskStatus.FAILED
            error = f"{error}failed to run commands: exit status {code}"
        return Outcome(status, code, cut(output, MAX_OUTPUT_BYTES), cut(error, MAX_OUTPUT_BYTES))


class _Capture:
    """A pipe whose beginning is kept. ``ended`` is done when every process has closed it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._read_end, self.write_end = os.pipe()
        self._kept = bytearray()
        self._late_bytes: Optional[int] = None
        self.ended: asyncio.Future[None] = loop.create_future()
        os.set_blocking(self._read_end, False)
        loop.add_reader(self._read_end, self._read)

    @property
    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")

    def close_write_end(self) -> None:
        os.close(self.write_end)

    def abandon(self) -> None:
        """Keep nothing more. A process that outlives its script may still write a while without harm."""
        self._late_bytes = 0

    def _read(self) -> None:
        try:
            data = os.read(self._read_end, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if self._late_bytes is not None:
            self._late_bytes += len(data)
        elif len(self._kept) <= MAX_OUTPUT_BYTES:
            # One byte above the limit shows that there was more.
            self._kept += data[: MAX_OUTPUT_BYTES + 1 - len(self._kept)]
        if not data or (self._late_bytes or 0) > _MAX_LATE_BYTES:
            self._loop.remove_reader(self._read_end)
            os.close(self._read_end)
            if not self.ended.done():
                self.ended.set_result(None)


def script_environ(
    job: Optional[bytes], *, bin_path: str, state_path: str, extra: Mapping[str, str]
) -> Dict[str, str]:
    """
    The environment of a script: the job's, our commands first on its PATH, and what agents add.

    Args:
        job: ``NAME=VALUE`` with a NUL after each; None: that of this process.
    """
    environ = dict(os.environ)
    if job is not None:
        environ = {}
        for item in job.split(b"\0"):
            name, equals, value = item.partition(b"=")
            if name and equals:
                environ[os.fsdecode(name)] = os.fsdecode(value)
    path = environ.get("PATH") or os.defpath
    if bin_path and path.split(os.pathsep, 1)[0] != bin_path:
        path = bin_path + os.pathsep + path
    environ["PATH"] = path
    environ["SSH_STATE_DIR"] = state_path
    environ.update(extra)
    return environ


def platform_name() -> str:
    """What documents call this platform in a precondition."""
    return "MacOS" if sys.platform == "darwin" else "Linux"


def _interpreter(script: bytes) -> List[str]:
    """What would run this script, were it executed."""
    first = script.split(b"\n", 1)[0]
    if first.startswith(b"#!"):
        words = os.fsdecode(first[2:].strip()).split(None, 1)
        if words:
            return words
    return [_SHELL]


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
