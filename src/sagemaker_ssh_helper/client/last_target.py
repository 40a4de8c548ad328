"""
What ``@last`` means: the container that was reached last from this machine.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sagemaker_ssh_helper.client.files import private_dir, read_text, state_dir, write_atomic
from sagemaker_ssh_helper.errors import TargetNotFound


@dataclass(frozen=True)
class LastTarget:
    """A full host name, and where it was found."""

    host: str
    region: str
    profile: str | None


def save(last: LastTarget) -> None:
    """Remember it in place of the one before. Raises LocalSetup."""
    private_dir(state_dir())
    write_atomic(_path(), json.dumps(asdict(last)) + "\n")


def load() -> LastTarget:
    """The one that was saved last. Raises TargetNotFound when there is none, LocalSetup."""
    text = read_text(_path())
    try:
        entry = json.loads(text) if text else {}
        profile = entry["profile"]
        return LastTarget(str(entry["host"]), str(entry["region"]), str(profile) if profile else None)
    except (ValueError, KeyError, TypeError):
        raise TargetNotFound(
            "@last means nothing yet", evidence="no container was reached from this machine",
            fix="See: sm-ssh list",
        ) from None  # fmt: skip


def _path() -> Path:
    return state_dir() / "last.json"
