"""
A process that cannot outlive us, with everything it starts: the cloud's end of ``supervisor.py``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Union

SUPERVISOR = Path(__file__).with_name("supervisor.py")

Stream = Union[int, IO[bytes], None]

END_TIMEOUT = 30.0
"""Seconds after which a supervisor that was told to end all at once, and has not, is killed itself."""


class Supervised:
    """
    One running command under its own supervisor; made by ``start``.

    However this process ends, also by ``kill -9``, the command and all its descendants end.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._wait_task: asyncio.Task[int] | None = None
        self.pid = 0
        """Process id of the command itself."""
        self.complete = False
        """After the end: whether it is known that no descendant is left."""

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | os.PathLike[str] | None = None,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        foreground: bool = False,
        remove: str | os.PathLike[str] | None = None,
    ) -> Supervised:
        """
        The command, running.

        Args:
            command: program (looked up in ``env``'s PATH) and arguments.
            env: its whole environment.
            stdin, stdout, stderr: as ``subprocess.Popen`` takes them, except PIPE. The write end of a pipe
                given here is closed by all holders but the caller when the last descendant has ended.
            foreground: keep it in this session and process group, for a command that uses the terminal.
            remove: a folder to delete if this process dies before the command has ended.

        Raises OSError, with its errno, when the command cannot be started. If cancelled, all is ended.
        """
        ours, theirs = socket.socketpair()
        try:
            options = ["--foreground"] if foreground else []
            options += [] if remove is None else ["--remove", os.fspath(remove)]
            process = _spawn(command, options, theirs, dict(env), cwd, (stdin, stdout, stderr))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self = cls(process, ours)
        try:
            await self._read_start(command[0])
        except BaseException:
            await self._close()
            raise
        self._wait_task = asyncio.create_task(self._read_end())
        return self

    async def wait(self) -> int:
        """
        The command's exit status, as ``subprocess`` counts it, once it and all its descendants have ended.

        Safe to cancel, and to call more than once.
        """
        assert self._wait_task is not None, "start() makes it"
        return await asyncio.shield(self._wait_task)

    def stop(self, grace: float) -> None:
        """SIGTERM to the command now, SIGKILL to everything after ``grace`` seconds. Then ``wait``."""
        self._tell(f"stop {grace:.3f}")

    def kill(self) -> None:
        """SIGKILL to everything, now. Then ``wait``."""
        self._tell("kill")

    def _tell(self, line: str) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(line.encode() + b"\n")

    async def _read_start(self, program: str) -> None:
        self._reader, self._writer = await asyncio.open_connection(sock=self._control)
        word, _, value = (await self._reader.readline()).decode().strip().partition(" ")
        if word == "failed":
            raise OSError(int(value), os.strerror(int(value)), program)
        if word != "started":
            raise OSError(f"The supervisor of {program} ended before it had started it")
        self.pid = int(value)

    async def _read_end(self) -> int:
        assert self._reader is not None, "connected by start()"
        status = -9  # a supervisor that says nothing was killed, and its main process with it
        while line := await self._reader.readline():
            word, *values = line.decode().split()
            if word == "ended":
                status, self.complete = int(values[0]), int(values[1]) == 0
        await self._close()
        return status

    async def _close(self) -> None:
        """Close the socket, which ends everything, and collect the supervisor."""
        if self._writer is not None:
            self._writer.close()
        else:
            self._control.close()
        give_up_at = asyncio.get_running_loop().time() + END_TIMEOUT
        while self._process.poll() is None:  # it is on its way out: this takes a millisecond or two
            if asyncio.get_running_loop().time() > give_up_at:
                self._process.kill()
            await asyncio.sleep(0.002)


def _spawn(
    command: Sequence[str],
    options: Sequence[str],
    control: socket.socket,
    env: dict[str, str],
    cwd: str | os.PathLike[str] | None,
    streams: tuple[Stream, Stream, Stream],
) -> subprocess.Popen[bytes]:
    own = [sys.executable, "-I", "-S", str(SUPERVISOR), "--control-fd", str(control.fileno())]
    return subprocess.Popen(
        [*own, *options, "--", *command],
        env=env,
        cwd=cwd,
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        pass_fds=[control.fileno()],
        start_new_session="--foreground" not in options,
    )
