"""
The process of a session's program: started by the launcher, ended with all its foreground, waited for.

Standard library only; Python 3.8.
"""

import asyncio
import os
import signal
import subprocess
import threading
from typing import Callable, Dict, Iterable, Optional, Sequence

from sagemaker_ssh_helper.agent import launcher
from sagemaker_ssh_helper.agent.accounts import Account
from sagemaker_ssh_helper.agent.environment import interpreter

HANGUP_TIMEOUT = 1.0
"""Seconds that a program has to end by itself after a hang-up."""
_KILL_TIMEOUT = 2.0
_LIBRARIES = b"LD_LIBRARY_PATH"


class Process:
    """
    A program in a session and a process group of its own. ``exited`` gives its exit status: 128 + N for
    signal N.

    Args:
        words: the program, looked up on the PATH of ``environ``, and its arguments.
        terminal: standard input is a terminal, which becomes the program's.
        stdin, stdout, stderr: descriptors for it; the caller closes its own copies.

    Raises OSError or LocalSetup when it cannot be started.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        account: Account,
        environ: Dict[bytes, bytes],
        folder: bytes,
        terminal: bool,
        stdin: int,
        stdout: int,
        stderr: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        environ = dict(environ)
        if _LIBRARIES in os.environb:
            # An interpreter with libraries of its own in an odd place starts with this variable only.
            environ.setdefault(_LIBRARIES, os.environb[_LIBRARIES])
        launch = [interpreter(), "-I", "-S", os.path.abspath(launcher.__file__)]
        self._process = subprocess.Popen(
            [*launch, "1" if terminal else "0", account.ids, *words],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            env=environ,
            start_new_session=True,
        )
        # A thread and no child watcher: those of asyncio want the main thread, or are gone, by version.
        threading.Thread(target=self._wait, name="session", daemon=True).start()

    def signal(self, number: int) -> None:
        """Send a signal to its process group; nothing when it has ended."""
        if self._process.returncode is None:
            _signal_groups((self._process.pid,), number)

    async def stop(self, foreground: Callable[[], Optional[int]] = lambda: None) -> None:
        """
        End it: a hang-up first, then by force. Done at once when it has ended.

        Args:
            foreground: the group that its terminal belongs to now, which may be another.
        """
        if self._process.returncode is not None:
            return
        groups = {self._process.pid, foreground() or self._process.pid}
        for number in (signal.SIGHUP, signal.SIGCONT):
            _signal_groups(groups, number)
        await asyncio.wait([self.exited], timeout=HANGUP_TIMEOUT)
        _signal_groups(groups, signal.SIGKILL)
        await asyncio.wait([self.exited], timeout=_KILL_TIMEOUT)

    def _wait(self) -> None:
        code = self._process.wait()
        try:
            self._loop.call_soon_threadsafe(self._ended, code)
        except RuntimeError:
            pass  # the loop is closed, nobody waits

    def _ended(self, code: int) -> None:
        if not self.exited.done():
            self.exited.set_result(128 - code if code < 0 else code)


def _signal_groups(groups: Iterable[int], number: int) -> None:
    for group in groups:
        try:
            os.killpg(group, number)
        except (ProcessLookupError, PermissionError):
            pass  # it ended this moment; on macOS a group of zombies gives the second error
