"""
Waiting for people: a process waits here, and any other process of the node can see it or let it go on.

Each waiter is a small file in the node's folder. Removing the file ends the wait; the waiter removes it when
its time is over. No signals, so nothing in the user's process is disturbed.

Standard library only; Python 3.8.
"""

import dataclasses
import json
import os
import time
import uuid
from dataclasses import dataclass
from typing import Callable, List, Optional, Set, Tuple

from sagemaker_ssh_helper.agent.state import State, StateDir, Status
from sagemaker_ssh_helper.errors import LocalSetup

_POLL_INTERVAL = 0.1
_LEAVE_TIMEOUT = 1.0
"""Seconds; somebody at a terminal stays."""
_LEAVE_INTERVAL = 0.02
_ENTRY_BYTES = 256


@dataclass(frozen=True)
class Waiting:
    """One that waits. ``until`` is seconds since the epoch; 0 while it is not known."""

    pid: int
    what: str
    since: float
    until: float


class Waiter:
    """
    This process, waiting. It can be seen and ended from the moment it is made; use it as a context.

    Args:
        what: what waits, for `sm-wait list`.
        seconds: how long it will wait, when that is known already.
    """

    def __init__(self, state: StateDir, what: str, seconds: Optional[float] = None) -> None:
        self._state = state
        os.makedirs(state.waiting, mode=0o700, exist_ok=True)
        self._path = os.path.join(state.waiting, f"{os.getpid()}-{uuid.uuid4().hex[:8]}.json")
        now = time.time()
        self._entry = Waiting(os.getpid(), what, now, 0.0 if seconds is None else now + seconds)
        state.write(self._path, self._text())

    def wait(self, seconds: float, *, unless: Callable[[], bool] = lambda: False) -> bool:
        """
        Wait; True when the time ran out, False when it was ended before: by :func:`stop_all`, or because
        ``unless`` (asked ten times a second) became true.
        """
        self._entry = dataclasses.replace(self._entry, until=time.time() + seconds)
        try:
            # Into the file that is there: one made anew would undo a stop that comes at this moment.
            descriptor = os.open(self._path, os.O_WRONLY)
        except FileNotFoundError:
            self._let_them_leave()
            return False
        try:
            os.write(descriptor, self._text())
        finally:
            os.close(descriptor)
        deadline = time.monotonic() + seconds
        while not self.ended and not unless():
            left = deadline - time.monotonic()
            if left <= 0:
                return True
            time.sleep(min(left, _POLL_INTERVAL))
        if self.ended:
            self._let_them_leave()
        return False

    def _let_them_leave(self) -> None:
        """
        Until a session has ended of those there are, for a moment.

        It may be that in which `sm-wait stop` ran. What waited may have nothing left to do, and its end takes
        the container away: before ssh has told that the command ended well.
        """
        deadline = time.monotonic() + _LEAVE_TIMEOUT
        there = self._sessions()
        while there and there <= self._sessions() and time.monotonic() < deadline:
            time.sleep(_LEAVE_INTERVAL)

    def _sessions(self) -> Set[str]:
        try:
            found = self._state.read_sessions()
        except (LocalSetup, OSError):
            found = None
        return set(found.ids) if found is not None else set()

    @property
    def ended(self) -> bool:
        """Whether somebody let this process go on."""
        return not os.path.exists(self._path)

    def __enter__(self) -> "Waiter":
        return self

    def __exit__(self, *exc_info: object) -> None:
        _remove(self._path)

    def _text(self) -> bytes:
        """Always of the same length, so that one write replaces it."""
        return json.dumps(dataclasses.asdict(self._entry)).ljust(_ENTRY_BYTES).encode("utf-8")


def list_all(state: StateDir) -> List[Waiting]:
    """Who waits now, longest first. Files of processes that died are removed."""
    found = []
    for path, entry in _entries(state):
        if _is_alive(entry.pid):
            found.append(entry)
        else:
            _remove(path)
    return sorted(found, key=lambda entry: entry.since)


def stop_all(state: StateDir) -> int:
    """
    End every wait; how many there were. They go on within a fifth of a second, and once one of the sessions
    there are has ended, or a second is over.
    """
    stopped = 0
    for path, entry in _entries(state):
        stopped += _is_alive(entry.pid)
        _remove(path)
    return stopped


def true_status(state: StateDir) -> Optional[Status]:
    """
    What the node says about itself, and ``failed`` when nobody is left to say it.

    None when nothing was set up here. Raises LocalSetup when its file is damaged.
    """
    status = state.read_status()
    if status is None or status.state is State.FAILED:
        return status
    if state.has_agent():
        return status
    # It may have failed, and said so, while we looked.
    status = state.read_status() or status
    if status.state is State.FAILED:
        return status
    why = "the agent is not running any more: see its log"
    return dataclasses.replace(status, state=State.FAILED, why=why)


def describe_status(state: StateDir) -> Tuple[List[str], bool]:
    """The lines of `sm-wait status`, and whether the node is online."""
    try:
        status = true_status(state)
    except LocalSetup as error:
        return [f"state:     unknown ({error})", f"folder:    {state.path}"], False
    if status is None:
        text = "not set up: setup_and_start_ssh() was not called here"
        return [f"state:     {text}", f"folder:    {state.path}"], False
    rows = [
        ("state", status.state.value),
        ("why", status.why),
        ("instance", status.instance_id),
        ("user", status.user),
        ("sshd port", str(status.sshd_port or "")),
        ("agent log", status.log),
        ("sshd log", state.sshd_log if os.path.exists(state.sshd_log) else ""),
        ("folder", state.path),
    ]
    lines = [f"{name + ':':<11}{value}" for name, value in rows if value]
    return lines, status.state is State.ONLINE


def _entries(state: StateDir) -> List[Tuple[str, Waiting]]:
    try:
        names = sorted(os.listdir(state.waiting))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        path = os.path.join(state.waiting, name)
        if not name.endswith(".json"):
            continue
        try:
            data = json.loads(state.read(path) or b"")
            entry = Waiting(int(data["pid"]), str(data["what"]), float(data["since"]), float(data["until"]))
        except (ValueError, TypeError, KeyError):
            # Ended since we listed it, or no file of ours.
            continue
        found.append((path, entry))
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
