"""
Waiting for a container that is still starting: what it waits for, how long so far, how long it usually takes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable

from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.progress import Progress, Stage, Watch
from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.patience import Patience
from sagemaker_ssh_helper.client import timings
from sagemaker_ssh_helper.client.terminal_text import escaped
from sagemaker_ssh_helper.errors import LocalSetup, TargetStarting, WaitTimeout
from sagemaker_ssh_helper.targets import Target

INTERVAL = 2.0
"""Seconds between two looks, each of which is a call to AWS."""

_SOON = 60.0
"""Seconds for which a helper that starts is looked for twice as often: it takes a second or two."""

_HEARTBEAT = 10.0
"""Seconds after which somebody who sees no clock is told that it still waits."""


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def until_ready(
    client: Client,
    target: Target,
    timeout: float | None = None,
    *,
    pause: Callable[[float], bool] = _sleep,
    clock: bool = True,
) -> Progress | None:
    """
    The look that finds the container online.

    Each stage that is over is one line on standard error, and so is what the helper in the container writes;
    on a terminal the stage at hand is shown with its time.

    Args:
        timeout: seconds.
        pause: sleeps so many seconds, and says whether to leave, with None.
        clock: nobody else writes to the terminal meanwhile; else a line tells the time every ten seconds.

    Raises WaitTimeout, and at once what waiting cannot mend (TargetEnded, NotInstrumented, AccessDenied, …).
    """
    show = _Show(target, clock=clock)
    try:
        return _until_ready(Watch(client, target), show, timeout, pause)
    except BaseException:
        show.clear()
        raise


def _until_ready(
    watch: Watch, show: _Show, timeout: float | None, pause: Callable[[float], bool]
) -> Progress | None:
    started_at = time.time()
    stage, stage_since = None, started_at
    patience = Patience()
    seen = None
    while True:
        seen = patience.look(watch.look) or seen
        if seen is None:
            if pause(INTERVAL):
                return None
            continue
        now = time.time()
        show.update(seen, now)
        if seen.stage is Stage.READY:
            return seen
        if seen.stage is not stage:
            stage, stage_since = seen.stage, now
        if timeout is not None and now - started_at + INTERVAL > timeout:
            raise WaitTimeout(
                f"{watch.target.fqdn} was not ready in {timeout:.0f} s",
                evidence=f"its status is {seen.status}" if seen.status else None,
                fix=f"It goes on; wait again: sm-ssh wait {watch.target.fqdn}",
            )
        soon = stage is Stage.HELPER and now - stage_since < _SOON
        for _ in range(int(INTERVAL / 2 if soon else INTERVAL)):
            if pause(1):
                return None
            show.tick(time.time())


class _Show:
    """What the user sees of one wait."""

    def __init__(self, target: Target, *, clock: bool) -> None:
        self._target = target
        self._stage: Stage | None = None
        self._since = 0.0
        self._what = ""
        self._history: dict[str, list[float]] = {}
        self._terminal = clock and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._heartbeat = not clock
        self._told_at = 0.0

    def update(self, seen: Progress, now: float) -> None:
        """Show what one look found."""
        if seen.resource is not None:
            self._what = f"{seen.resource.kind.domain} {seen.resource.instance_type or '-'}"
            self._history = timings.load(self._what)
        for event in seen.lines:
            self._tell(f"{self._target.name}: {event.message}", now)
        if seen.stage is not self._stage:
            if self._stage is not None:
                self._done(seen, now)
            elif seen.absence is not None:
                self._tell(_beginning(self._target, seen, now), now)
            self._stage = seen.stage
            self._since = seen.since or now
        self.tick(now)

    def tick(self, now: float) -> None:
        """Show the time of the stage at hand, on a terminal."""
        if self._stage in (None, Stage.READY):
            return
        assert self._stage is not None
        elapsed = max(0.0, now - self._since)
        what = self._stage.value.split()[0]
        if self._terminal:
            line = f"  {what:<10} {clock(elapsed)}{self._hint(elapsed)}"
            # A line that is broken cannot be taken back.
            sys.stderr.write(f"\r{escaped(line)[: shutil.get_terminal_size().columns - 1]}\x1b[K")
            sys.stderr.flush()
        elif self._heartbeat and now - self._told_at >= _HEARTBEAT:
            self._tell(
                f"{self._target.fqdn}: still waiting, {what} {clock(elapsed)}{self._hint(elapsed)}", now
            )

    def clear(self) -> None:
        """Take the line of the stage at hand off the terminal."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _done(self, seen: Progress, now: float) -> None:
        assert self._stage is not None
        took = max(0.0, (seen.since or now) - self._since)
        if self._what:
            # That it cannot be remembered, on a full disk, is no reason to stop waiting.
            with contextlib.suppress(LocalSetup, OSError):
                timings.add(self._what, self._stage.name.lower(), took)
        self._tell(f"{self._target.name}: {self._stage.value} after {clock(took)}", now)

    def _tell(self, line: str, now: float) -> None:
        self.clear()
        say(line)
        self._told_at = now

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


def _beginning(target: Target, seen: Progress, now: float) -> str:
    what = f"{target.fqdn} is still starting"
    if seen.resource is not None and seen.resource.created_at is not None:
        what += f", submitted {clock(max(0.0, now - seen.resource.created_at))} ago"
    if not isinstance(seen.absence, TargetStarting):
        assert seen.absence is not None, "what is not ready has a reason"
        what = f"{seen.absence.what}, and may come: it is new"
    return f"{what}; Ctrl-C stops waiting, the job goes on"


def clock(seconds: float) -> str:
    """``2:48``, or ``1:02:48``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
