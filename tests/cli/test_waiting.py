"""How often a container that is starting is looked for."""

from typing import List

import pytest

from sagemaker_ssh_helper.aws.progress import Progress, Stage
from sagemaker_ssh_helper.cli import waiting
from sagemaker_ssh_helper.errors import TargetStarting
from sagemaker_ssh_helper.targets import Target

TARGET = Target.parse("job.training.sagemaker")
ABSENCE = TargetStarting("it is starting")


class Clock:
    """Time that passes by pauses alone."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        return False


class Watch:
    """A container whose instances take ten seconds, and whose helper comes after the given time."""

    def __init__(self, clock: Clock, ready_after: float) -> None:
        self.target = TARGET
        self.looks: List[float] = []
        self._clock = clock
        self._began = clock.now
        self._ready_after = ready_after

    def look(self) -> Progress:
        seconds = self._clock.now - self._began
        self.looks.append(seconds)
        if seconds >= self._ready_after:
            return Progress(Stage.READY)
        return Progress(Stage.INSTANCES if seconds < 10 else Stage.HELPER, absence=ABSENCE)


def looks(ready_after: float, monkeypatch: pytest.MonkeyPatch) -> List[float]:
    clock = Clock()
    watch = Watch(clock, ready_after)
    monkeypatch.setattr(waiting.time, "time", clock.time)
    monkeypatch.setattr(waiting, "Watch", lambda client, target: watch)
    seen = waiting.until_ready(None, TARGET, pause=clock.pause)  # type: ignore[arg-type]  # no calls
    assert seen is not None
    assert seen.stage is Stage.READY
    return watch.looks


def test_a_helper_that_starts_is_looked_for_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looks(13, monkeypatch) == [0, 2, 4, 6, 8, 10, 11, 12, 13]


def test_one_that_takes_long_is_looked_for_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looks(75, monkeypatch)[-5:] == [69, 70, 72, 74, 76]
