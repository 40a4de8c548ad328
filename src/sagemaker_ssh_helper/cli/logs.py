"""
The private log files of single runs: ``$XDG_STATE_HOME/sm-ssh/logs/``, 0600, the newest fifty.

They hold what was called, sent and answered, never a token, a key or a payload.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import time
from pathlib import Path

from sagemaker_ssh_helper.client.files import private_dir, state_dir
from sagemaker_ssh_helper.errors import trace_of
from sagemaker_ssh_helper.plain_logs import PlainFormatter

OLDER_NAME = "sm-ssh-debug.log"

_KEPT = 50


def start(command: str) -> Path:
    """Log everything of ours to a new file from now on; its path. Raises LocalSetup, OSError."""
    path = _new_path(command)
    logger = logging.getLogger("sagemaker_ssh_helper")
    logger.setLevel(logging.DEBUG)
    # A log that cannot be written, on a full disk, is no reason to complain at each line.
    logging.raiseExceptions = False
    for descriptor in (_open(path), _open_older()):
        if descriptor is not None:
            handler = logging.StreamHandler(os.fdopen(descriptor, "w", encoding="utf-8"))
            handler.setFormatter(
                PlainFormatter("%(asctime)s.%(msecs)03d %(name)s %(message)s", "%H:%M:%S")
            )
            logger.addHandler(handler)
    return path


def keep(error: BaseException) -> Path:
    """Write where an unexpected error came about to a new file; its path. Raises LocalSetup, OSError."""
    path = _new_path("error")
    with os.fdopen(_open(path), "w", encoding="utf-8") as file:
        file.write(f"{trace_of(error)}\n")
    return path


def _new_path(what: str) -> Path:
    folder = private_dir(state_dir() / "logs")
    for old in sorted(folder.glob("*.log"))[: -_KEPT + 1]:
        old.unlink(missing_ok=True)
    return folder / f"{time.strftime('%Y-%m-%dT%H%M%S')}-{os.getpid()}-{what}.log"


def _open_older() -> int | None:
    """
    The log where the helper before this one had it, in the system's temporary folder; None when that name is
    taken by somebody else, who could read it.
    """
    if os.name != "posix":
        return None
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(os.path.join(tempfile.gettempdir(), OLDER_NAME), flags, 0o600)
    except OSError:
        return None
    found = os.fstat(descriptor)
    if found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        return None
    os.fchmod(descriptor, 0o600)
    return descriptor


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
