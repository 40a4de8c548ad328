"""
The private folder of a running cloud, and the end of those that killed ones left behind.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "sm-ssh-cloud-"
_LOCK = "lock"


class StateFolder:
    """
    A new folder (0700), locked for as long as this process lives. ``close`` removes it.

    Making one also removes those of this user whose process was killed: nobody holds their lock.
    """

    def __init__(self) -> None:
        _remove_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        # Locked before it has its name, so that nobody ever sees it unlocked.
        nameless = self.path / "locking"
        self._lock = os.open(nameless, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        nameless.rename(self.path / _LOCK)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # A folder without the file is one that is just being made.
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.getuid() and _is_unlocked(folder / _LOCK):
                shutil.rmtree(folder, ignore_errors=True)


def _is_unlocked(path: Path) -> bool:
    lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
