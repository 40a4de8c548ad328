"""
How long each stage of a start took before, on this machine's own record.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from sagemaker_ssh_helper.client.files import locked, private_dir, read_text, state_dir, write_atomic

_KEPT = 20


def load(what: str) -> dict[str, list[float]]:
    """The seconds of the last starts of ``what``, by stage. Raises LocalSetup."""
    entry = _read().get(what)
    return entry if isinstance(entry, dict) else {}


def add(what: str, stage: str, seconds: float) -> None:
    """Remember that this stage took so long. Raises LocalSetup."""
    private_dir(state_dir())
    with locked(_path()):
        known = _read()
        entry = known.setdefault(what, {})
        entry[stage] = [*entry.get(stage, []), round(seconds, 1)][-_KEPT:]
        write_atomic(_path(), json.dumps(known, sort_keys=True) + "\n")


def usual(seconds: list[float]) -> float | None:
    """What it takes in the middle of all cases; None without any."""
    return median(seconds) if seconds else None


def _path() -> Path:
    return state_dir() / "timings.json"


def _read() -> dict[str, dict[str, list[float]]]:
    try:
        known = json.loads(read_text(_path()) or "{}")
    except ValueError:
        known = {}
    return known if isinstance(known, dict) else {}
