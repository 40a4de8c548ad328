"""
Whether anybody still needs this container: for scripts that keep one as long as somebody does.

Sessions of our agent are in a file that it keeps; those of an installed official agent are seen by its worker
processes, one for each. What is used is looked at in a thread from the first question on, so that the answer
is about the whole time between two questions.

Standard library only; Python 3.8.
"""

import glob
import os
import threading
import time
from datetime import timedelta
from typing import Callable, Optional, Set

from sagemaker_ssh_helper.agent.job_output import say
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.agent.usage import Usage
from sagemaker_ssh_helper.errors import SSHHelperError, reason_of

LOOK_INTERVAL = 5.0
"""Seconds between two looks at what is used."""

# A look that is older than this tells nothing of now: the process was stopped, or could not run.
_STALE = 60.0

# The kernel keeps 15 characters of a process's name.
_OFFICIAL_WORKER = "ssm-session-worker"[:15]


class Watch:
    """
    What one process has seen of its container.

    Args:
        state: the node's folder; None: there is none, and so no agent of ours.
        clock, wall: monotonic seconds, and seconds since the epoch.
        proc: where the processes are listed.
    """

    def __init__(
        self,
        state: Optional[StateDir],
        usage: Usage,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        proc: str = "/proc",
    ) -> None:
        self.pid = os.getpid()
        self._state = state
        self._usage = usage
        self._clock = clock
        self._wall = wall
        self._proc = proc
        self._began_at = wall()
        self._seen_at = 0.0
        """When a session was last seen by us; seconds since the epoch."""
        self._busy_at = clock()
        self._looked_at = clock()

    def seconds_without_session(self) -> Optional[float]:
        """
        Since the last session ended; None while there is one.

        As long as there was none: since the agent started, or without one since this object was made.
        """
        now = self._wall()
        sessions = None if self._state is None else self._state.read_sessions()
        ours = (
            sessions is not None and sessions.open > 0 and self._state is not None and self._state.has_agent()
        )
        if ours or self._has_official_session():
            self._seen_at = now
            return None
        since = self._began_at if sessions is None else sessions.changed_at
        return max(0.0, now - max(since, self._seen_at))

    def begin(self) -> None:
        """Count from now on: nobody has looked before."""
        self._busy_at = self._looked_at = self._clock()

    def look(self) -> None:
        """See whether the container is busy now, or was since the last look."""
        busy = self._usage.look() or self.seconds_without_session() is None
        now = self._clock()
        if busy or now - self._looked_at > _STALE:
            self._busy_at = now
        self._looked_at = now

    def seconds_idle(self) -> float:
        """Since it was last seen busy; 0 when nobody has looked for long."""
        now = self._clock()
        return 0.0 if now - self._looked_at > _STALE else now - self._busy_at

    def keep_looking(self) -> None:
        """Look every now and then, for as long as this process lives. Call it in a thread."""
        while True:
            try:
                self.look()
            except Exception as error:  # whatever it is: what cannot be seen counts as busy
                self._busy_at = self._looked_at = self._clock()
                _say_once(f"cannot see whether this container is idle: {reason_of(error)}")
            time.sleep(LOOK_INTERVAL)

    def _has_official_session(self) -> bool:
        for path in glob.iglob(os.path.join(self._proc, "[0-9]*", "comm")):
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    if file.read().strip() == _OFFICIAL_WORKER:
                        return True
            except OSError:
                # It has ended.
                continue
        return False


def is_last_session_timeout(timeout: timedelta) -> bool:
    """See :func:`sagemaker_ssh_helper.is_last_session_timeout`."""
    try:
        seconds = _sessions_watch().seconds_without_session()
    except (SSHHelperError, OSError) as error:
        _say_once(f"cannot see whether there are sessions: {reason_of(error)}")
        return False
    return seconds is not None and seconds >= timeout.total_seconds()


def is_idle(duration: timedelta) -> bool:
    """See :func:`sagemaker_ssh_helper.is_idle`."""
    return _looking_watch().seconds_idle() >= duration.total_seconds()


_lock = threading.Lock()
_watch: Optional[Watch] = None
_looking: Optional[Watch] = None
_said: Set[str] = set()


def _sessions_watch() -> Watch:
    """This process's; made by its first question."""
    global _watch
    with _lock:
        # What a forked process inherits belongs to its parent, whose thread it does not have.
        if _watch is None or _watch.pid != os.getpid():
            _watch = Watch(_state(), Usage())
        return _watch


def _looking_watch() -> Watch:
    """The same, with a thread that looks."""
    global _looking
    watch = _sessions_watch()
    with _lock:
        if _looking is not watch:
            _looking = watch
            watch.begin()
            threading.Thread(target=watch.keep_looking, name="sagemaker-ssh-helper idle", daemon=True).start()
    return watch


def _state() -> Optional[StateDir]:
    try:
        return StateDir.choose(os.environ)
    except SSHHelperError as error:
        _say_once(f"cannot see our own sessions: {reason_of(error)}")
        return None


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        say(text)
