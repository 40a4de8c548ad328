"""
The small parent of a job's processes: when it goes, or is told to, everything below it goes too.

Run as a program, not imported (``supervised.py`` is the other end)::

    supervisor.py [--control-fd N] [--grace SECONDS] [--foreground] [--remove FOLDER]
                  -- COMMAND [ARGUMENT...]

It starts COMMAND, the *main process*, and ends every descendant of it, whatever they did to get away (double
fork, ``setsid``, ignored signals), as soon as one of these happens:

* the main process ends, as a container ends with its entry point;
* the control socket closes: whoever held the other end has died, also by ``kill -9``;
* a line ``stop SECONDS`` arrives on the socket, or SIGTERM arrives here: SIGTERM to the main process, and the
  end of all when it has not ended after that time; or a line ``kill``.

On the socket it writes ``started PID``, or ``failed ERRNO`` when COMMAND could not be started, and at the
very end ``ended STATUS LEFT``: the main process' exit status as ``subprocess`` counts it (negative: a
signal), and how many descendants could not be ended. It exits with the same status (128 + N for signal N),
127 for ``failed``. When the holder of the socket has died, nobody else cleans up: then FOLDER is deleted.

On Linux it is a "child subreaper": a descendant whose parent has died becomes its child, so none can hide.
Elsewhere it ends the main process' process group, which a descendant can leave.

It starts quickly (nothing beyond the standard library, no site-packages) since every job waits for it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

KILL_TIMEOUT = 10.0
"""Seconds that descendants have to go after SIGKILL; one that is stuck in the kernel is then left."""

KILL_INTERVAL = 0.02
"""Seconds between two looks for descendants when no death woke us."""

DEFAULT_GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL when SIGTERM reached the supervisor itself."""

# A terminal sends these to its whole foreground group: the main process decides what they mean, not we.
_TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE)

try:
    import ctypes

    _prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None
except (ImportError, AttributeError, OSError):  # a Python without libffi: process groups it is
    _prctl = None


def become_subreaper() -> bool:
    """Make orphans among our descendants our children. False where the system has no such thing."""
    return _prctl is not None and _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


class Supervisor:
    """
    One main process and its descendants, from start to end.

    Args:
        command: program and arguments of the main process; the program is looked up in PATH.
        control_fd: a connected socket, or None to be steered by signals alone.
        grace: seconds from a SIGTERM sent to us to the end of all.
        foreground: leave the main process in our session, so that it can use the terminal.
        remove: a folder to delete at the end when the socket was closed by its holder's death, or None.
    """

    def __init__(
        self, command: list[str], control_fd: int | None, grace: float, foreground: bool, remove: str | None
    ) -> None:
        self.command = command
        self.control_fd = control_fd
        self.grace = grace
        self.foreground = foreground
        self.remove = remove
        self.orphaned = False
        self.subreaper = become_subreaper()
        self.main_pid = 0
        self.main_status: int | None = None
        self.end_at: float | None = None  # monotonic; when everything left gets SIGKILL
        self._pending = b""
        self._wake_fd, wake_write_fd = os.pipe()
        os.set_blocking(self._wake_fd, False)
        os.set_blocking(wake_write_fd, False)
        signal.set_wakeup_fd(wake_write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.stop(self.grace))
        for number in _TERMINAL_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def run(self) -> int:
        """Start the main process and stay until nothing of it is left. Returns our exit status."""
        exec_errno = self._start()
        if exec_errno:
            self._report(f"failed {exec_errno}")
            return 127
        self._report(f"started {self.main_pid}")
        try:
            while self.main_status is None and not self._overdue():
                self._wait()
                self._reap()
        finally:
            left = self._end_all()
            self._remove()
        status = -signal.SIGKILL if self.main_status is None else self.main_status
        self._report(f"ended {status} {left}")
        return status if status >= 0 else 128 - status

    def stop(self, grace: float) -> None:
        """SIGTERM to the main process; everything ends in ``grace`` seconds, or sooner if that was agreed."""
        end_at = time.monotonic() + grace
        self.end_at = end_at if self.end_at is None else min(self.end_at, end_at)
        if self.main_pid and self.main_status is None:
            os.kill(self.main_pid, signal.SIGTERM)  # not reaped yet, so the id is still its own

    # -- the main process ----------------------------------------------------------------

    def _start(self) -> int:
        """Start the main process. Returns 0, or the errno that ``exec`` met."""
        read_fd, write_fd = os.pipe()  # closed by a successful exec
        ours = os.getpid()
        self.main_pid = os.fork()
        if self.main_pid == 0:
            try:
                self._become_main(ours)
            except OSError as error:
                os.write(write_fd, str(error.errno).encode())
            finally:
                os._exit(127)
        os.close(write_fd)
        exec_errno = int(os.read(read_fd, 16) or 0)
        os.close(read_fd)
        if exec_errno:
            os.waitpid(self.main_pid, 0)
        return exec_errno

    def _become_main(self, supervisor_pid: int) -> None:
        if not self.foreground:
            os.setsid()
        for number in (signal.SIGCHLD, signal.SIGTERM, *_TERMINAL_SIGNALS):
            signal.signal(number, signal.SIG_DFL)
        if _prctl is not None:
            # Should somebody kill the supervisor itself, at least the main process goes with it.
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != supervisor_pid:
                os._exit(127)
        os.execvp(self.command[0], self.command)

    # -- waiting -------------------------------------------------------------------------

    def _overdue(self) -> bool:
        return self.end_at is not None and time.monotonic() >= self.end_at

    def _wait(self, timeout: float | None = None) -> None:
        """Until a signal came, the socket has something, ``timeout`` seconds passed or the end is due."""
        if self.end_at is not None and timeout is None:
            timeout = max(0.0, self.end_at - time.monotonic())
        fds = [self._wake_fd] if self.control_fd is None else [self._wake_fd, self.control_fd]
        readable, _, _ = select.select(fds, [], [], timeout)
        if self._wake_fd in readable:
            os.read(self._wake_fd, 4096)
        if self.control_fd in readable:
            self._read_control()

    def _read_control(self) -> None:
        assert self.control_fd is not None, "only asked when there is a socket"
        try:
            data = os.read(self.control_fd, 4096)
        except ConnectionError:
            data = b""
        if not data:
            self.control_fd = None
            self.orphaned = True
            self.end_at = time.monotonic()
            return
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            word, _, value = line.decode("ascii", "replace").partition(" ")
            if word == "stop":
                self.stop(float(value))
            elif word == "kill":
                self.end_at = time.monotonic()

    def _report(self, line: str) -> None:
        if self.control_fd is not None:
            try:
                os.write(self.control_fd, line.encode() + b"\n")
            except OSError:
                pass  # nobody reads any more; the loop sees the closed socket

    # -- ending --------------------------------------------------------------------------

    def _reap(self) -> bool:
        """Collect every child that has ended. Returns whether there are others."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.main_pid:
                self.main_status = os.waitstatus_to_exitcode(status)

    def _end_all(self) -> int:
        """
        SIGKILL to every descendant, generation after generation. Returns how many are left.

        Only our own children are signalled: nobody else can reap them, so the id cannot mean another process.
        Their children become ours in the moment they die.
        """
        end_at = time.monotonic() + KILL_TIMEOUT
        self.end_at = None
        self._kill_group()
        while self._reap():
            self._kill_group()
            children = self._children()
            for pid in children:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass  # ended meanwhile, or runs as another user: the time limit decides
            if time.monotonic() > end_at:
                return len(children)
            self._wait(KILL_INTERVAL)
        return 0

    def _remove(self) -> None:
        if self.orphaned and self.remove is not None:
            import shutil  # seldom needed, and slow to import

            shutil.rmtree(self.remove, ignore_errors=True)

    def _kill_group(self) -> None:
        if self.subreaper or self.foreground:
            return
        try:
            os.killpg(self.main_pid, signal.SIGKILL)
        except OSError:
            pass  # nobody is left in it

    def _children(self) -> list[int]:
        pid = os.getpid()
        try:
            with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
                found = [int(word) for word in file.read().split()]
        except OSError:
            found = []
        # The kernel may have been built without that file, and it may miss some while others end.
        return found or _children_by_stat(pid) or ([self.main_pid] if self.main_status is None else [])


def _children_by_stat(parent: int) -> list[int]:
    """The processes whose parent is ``parent``, from /proc; none where there is no /proc."""
    found = []
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    for name in names:
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The command, in parentheses, may hold any byte; after it come state and parent.
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if len(fields) > 1 and int(fields[1]) == parent:
            found.append(int(name))
    return found


def main(arguments: list[str]) -> int:
    """The program. Returns its exit status; 2 for wrong arguments."""
    control_fd: int | None = None
    grace = DEFAULT_GRACE
    foreground = False
    remove: str | None = None
    rest = list(arguments)
    while rest and rest[0] != "--":
        option = rest.pop(0)
        if option == "--foreground":
            foreground = True
        elif option == "--control-fd" and rest:
            control_fd = int(rest.pop(0))
            os.set_inheritable(control_fd, False)
        elif option == "--remove" and rest:
            remove = rest.pop(0)
        elif option == "--grace" and rest:
            grace = float(rest.pop(0))
        else:
            rest = []
    command = rest[1:]
    if not command:
        options = "[--control-fd N] [--grace SECONDS] [--foreground] [--remove FOLDER]"
        sys.stderr.write(f"usage: supervisor {options} -- COMMAND...\n")
        return 2
    return Supervisor(command, control_fd, grace, foreground, remove).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
