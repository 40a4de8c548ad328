"""
The private log files of single runs: ``$XDG_STATE_HOME/sm-ssh/logs/``, 0600, the newest fifty.

They hold what was called, sent and answered, never a token, a key or a payload.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from pathlib import Path

from sagemaker_ssh_helper.client.files import private_dir, state_dir

_KEPT = 50


def start(command: str) -> Path:
    """Log everything of ours to a new file from now on; its path. Raises LocalSetup, OSError."""
    path = _new_path(command)
    handler = logging.StreamHandler(os.fdopen(_open(path), "w", encoding="utf-8"))
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(name)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("sagemaker_ssh_helper")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    return path


def keep(error: BaseException) -> Path:
    """Write an unexpected error's traceback to a new file; its path. Raises LocalSetup, OSError."""
    path = _new_path("error")
    with os.fdopen(_open(path), "w", encoding="utf-8") as file:
        file.writelines(traceback.format_exception(error))
    return path


def _new_path(what: str) -> Path:
    folder = private_dir(state_dir() / "logs")
    for old in sorted(folder.glob("*.log"))[: -_KEPT + 1]:
        old.unlink(missing_ok=True)
    return folder / f"{time.strftime('%Y-%m-%dT%H%M%S')}-{os.getpid()}-{what}.log"


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
