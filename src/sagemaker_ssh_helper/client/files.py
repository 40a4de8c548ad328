"""
Where the files of the user's machine are, and how they are changed: whole, private, one process at a time.

====================================  =========================================================
``$XDG_CONFIG_HOME/sm-ssh/``          ``config.toml``, ``key``, ``key.pub``, ``known_hosts``,
                                      ``hosts.conf``
``$XDG_STATE_HOME/sm-ssh/``           ``pins.json``, ``launches/``, ``last.json``,
                                      ``timings.json``, ``logs/``
``$XDG_CACHE_HOME/sm-ssh/``           ``names.json``
====================================  =========================================================

Unset, they are ``~/.config``, ``~/.local/state`` and ``~/.cache`` (on Windows ``%APPDATA%``, and twice
``%LOCALAPPDATA%``). A relative path in these variables is ignored, as the XDG specification asks.
"""

import contextlib
import errno
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from sagemaker_ssh_helper.errors import LocalSetup

_APP = "sm-ssh"

LOCK_TIMEOUT = 15.0
"""Seconds to wait for another process of ours; each holds a lock for milliseconds."""


def _folder(variable: str, windows: str, fallback: tuple[str, ...], environ: Mapping[str, str]) -> Path:
    configured = environ.get(variable, "")
    if configured and os.path.isabs(configured):
        return Path(configured) / _APP
    if sys.platform == "win32" and environ.get(windows):
        return Path(environ[windows]) / _APP
    folder = home(environ)
    if not os.path.isabs(folder):
        raise LocalSetup("there is no home folder to keep keys in", fix="Set HOME, or XDG_CONFIG_HOME")
    return Path(folder).joinpath(*fallback) / _APP


def home(environ: Mapping[str, str] = os.environ) -> str:
    """HOME, or the account's home where that is empty or unset; empty when there is none."""
    return environ.get("HOME") or home_of_account()


def home_of_account() -> str:
    """The home that ssh itself takes, whatever HOME says; empty when the account has none."""
    if sys.platform == "win32":
        return os.path.expanduser("~")
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def config_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of keys and known hosts. It may not exist yet."""
    return _folder("XDG_CONFIG_HOME", "APPDATA", (".config",), environ)


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of pins, launch records and logs. It may not exist yet."""
    return _folder("XDG_STATE_HOME", "LOCALAPPDATA", (".local", "state"), environ)


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of what can be asked for again. It may not exist yet."""
    return _folder("XDG_CACHE_HOME", "LOCALAPPDATA", (".cache",), environ)


def private_dir(path: Path) -> Path:
    """``path``, made with 0700 where it was missing. Raises LocalSetup when it cannot be."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LocalSetup(
            f"the folder {path} cannot be made",
            evidence=error.strerror or str(error),
            fix="Free the path, or set XDG_CONFIG_HOME and XDG_STATE_HOME to folders of yours",
        ) from error
    return path


def read_text(path: Path) -> str | None:
    """The file's text, or None when there is none. Raises LocalSetup when it is there but unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LocalSetup(f"{path} cannot be read", evidence=error.strerror or str(error)) from error


def write_atomic(
    path: Path, data: bytes | str, mode: int = 0o600, owner: tuple[int, int] | None = None
) -> None:
    """
    Replace the file: a reader sees the old bytes or the new ones, whole.

    The folder must exist. ``owner`` is a user and a group to give the file to, where that is allowed. Raises
    LocalSetup when the file cannot be written; the old one is then untouched.
    """
    content = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
            if owner is not None and hasattr(os, "fchown"):
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), *owner)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise LocalSetup(f"{path} cannot be written", evidence=error.strerror or str(error)) from error


@contextlib.contextmanager
def locked(path: Path, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """
    Hold ``<path>.lock`` against every other process of ours; it is released also when we are killed.

    Raises LocalSetup when it is still taken after ``timeout`` seconds.
    """
    private_dir(path.parent)
    lock_path = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise LocalSetup(f"{lock_path} cannot be opened", evidence=error.strerror or str(error)) from error
    try:
        deadline = time.monotonic() + timeout
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise LocalSetup(
                    f"{lock_path} has been held by another process for {timeout:.0f} s",
                    fix="End the sm-ssh process that hangs, then try again",
                )
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise LocalSetup("files cannot be locked here", evidence=error.strerror or str(error)) from error
        return True
