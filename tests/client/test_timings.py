"""The record of how long starts took."""

from __future__ import annotations

from pathlib import Path

import pytest

from sagemaker_ssh_helper.client import timings


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "sm-ssh"


def test_the_last_twenty_are_kept_by_what_was_started_and_stage() -> None:
    for seconds in range(25):
        timings.add("training ml.m5.large", "helper", seconds)
    timings.add("training ml.p3.2xlarge", "helper", 7)
    assert timings.load("training ml.m5.large") == {"helper": [float(second) for second in range(5, 25)]}
    assert timings.load("training ml.p3.2xlarge") == {"helper": [7.0]}


@pytest.mark.parametrize("text", ["", "[]", "{not json", '{"training x": 7}'])
def test_a_spoilt_record_is_none(state: Path, text: str) -> None:
    state.mkdir()
    (state / "timings.json").write_text(text)
    assert timings.load("training x") == {}


def test_the_usual_time_is_the_middle_one() -> None:
    assert timings.usual([]) is None
    assert timings.usual([1, 100, 3]) == 3
