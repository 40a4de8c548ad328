"""
Waiting for a container that is still starting: what it waits for, how long so far, how long it usually takes.
"""

from __future__ import annotations

import sys
import time

from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.progress import Progress, Stage, look
from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.client import timings
from sagemaker_ssh_helper.errors import WaitTimeout
from sagemaker_ssh_helper.targets import Target

INTERVAL = 2.0
"""Seconds between two looks."""


def until_ready(client: Client, target: Target, timeout: float | None = None) -> Progress:
    """
    The first look that finds the container online.

    Each stage that is over is one line on standard error; on a terminal the one at hand is shown with its
    time. Raises WaitTimeout after ``timeout`` seconds, and at once what waiting cannot mend (TargetEnded,
    NotInstrumented, AccessDenied, …).
    """
    started_at = time.time()
    show = _Show(target)
    while True:
        seen = look(client, target)
        show.update(seen, time.time())
        if seen.stage is Stage.READY:
            return seen
        waited = time.time() - started_at
        if timeout is not None and waited + INTERVAL > timeout:
            show.clear()
            raise WaitTimeout(
                f"{target.fqdn} was not ready in {timeout:.0f} s",
                evidence=f"its status is {seen.status}",
                fix=f"It goes on; wait again: sm-ssh wait {target.fqdn}",
            )
        for _ in range(int(INTERVAL)):
            time.sleep(1)
            show.tick(time.time())


class _Show:
    """What the user sees of one wait."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stage: Stage | None = None
        self._since = 0.0
        self._what = ""
        self._history: dict[str, list[float]] = {}
        self._terminal = sys.stderr.isatty()

    def update(self, seen: Progress, now: float) -> None:
        """Show what one look found."""
        if seen.resource is not None:
            self._what = f"{seen.resource.kind.domain} {seen.resource.instance_type or '-'}"
            self._history = timings.load(self._what)
        if seen.stage is not self._stage:
            if self._stage is not None:
                self._done(seen, now)
            elif seen.stage is not Stage.READY:
                say(f"{self._target.fqdn} is still starting; Ctrl-C stops waiting, the job goes on")
            self._stage = seen.stage
            self._since = seen.since or now
        self.tick(now)

    def tick(self, now: float) -> None:
        """Show the time of the stage at hand, on a terminal."""
        if not self._terminal or self._stage in (None, Stage.READY):
            return
        assert self._stage is not None
        elapsed = max(0.0, now - self._since)
        line = f"  {self._stage.value.split()[0]:<10} {clock(elapsed)}{self._hint(elapsed)}"
        sys.stderr.write(f"\r{line}\x1b[K")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line of the stage at hand off the terminal."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _done(self, seen: Progress, now: float) -> None:
        assert self._stage is not None
        took = max(0.0, (seen.since or now) - self._since)
        if self._what:
            timings.add(self._what, self._stage.name.lower(), took)
        self.clear()
        say(f"{self._target.name}: {self._stage.value} after {clock(took)}")

    def _hint(self, elapsed: float) -> str:
        assert self._stage is not None
        stages = list(Stage)
        ahead = stages[stages.index(self._stage) : -1]
        usual = [timings.usual(self._history.get(stage.name.lower(), [])) for stage in ahead]
        if usual[0] is None:
            return ""
        known = self._history[self._stage.name.lower()]
        hint = f"   (usually {clock(min(known))}-{clock(max(known))})"
        left = max(0.0, usual[0] - elapsed) + sum(seconds or 0.0 for seconds in usual[1:])
        return f"{hint}   about {clock(left)} left" if None not in usual and left >= 1 else hint


def clock(seconds: float) -> str:
    """``2:48``, or ``1:02:48``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
