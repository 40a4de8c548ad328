"""
Runs a command that sees other folders at some paths, without anybody else noticing: a mount namespace.

Run as a program, as root on Linux::

    mounts.py [--cwd FOLDER] [SOURCE TARGET]... -- COMMAND [ARGUMENT...]

COMMAND, and all it starts, finds each SOURCE at TARGET: a folder that exists or can be made, or a file that
exists. Nobody outside sees that. It runs in FOLDER, looked up in its own view. The program becomes COMMAND
(same process id). It exits with 126 and one line when the system refuses.

Two jobs at once thus have their own ``/opt/ml`` each, as they would have in their containers.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache

CLONE_NEWNS = 0x00020000  # linux/sched.h
MS_BIND = 0x1000  # linux/mount.h, as the three below
MS_REC = 0x4000
MS_PRIVATE = 0x40000

REFUSED = 126
"""Exit status when the namespace or a mount was refused."""


def command_with(mounts: Mapping[str, str], command: Sequence[str], cwd: str | None = None) -> list[str]:
    """
    The command line that runs ``command`` with each value of ``mounts`` (a folder or a file) seen at its key,
    in the folder ``cwd`` as it then is.
    """
    arguments = [] if cwd is None else ["--cwd", cwd]
    arguments += [word for target, source in mounts.items() for word in (source, target)]
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), *arguments, "--", *command]


@lru_cache(maxsize=None)
def available() -> bool:
    """
    Whether this process may run commands so: root on Linux, in a container that does not forbid it.

    Tried once, by running a program (20 ms); call it off the event loop.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    trial = subprocess.run(
        command_with({"/tmp": "/tmp"}, ["true"]), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if trial.returncode != 0:
        import logging  # this file is a program too, which every job waits for

        reason = trial.stderr.decode("utf-8", "replace").strip()
        logging.getLogger(__name__).warning(
            "! jobs have no /opt/ml of their own here, they find theirs by SAGEMAKER_BASE_DIR: %s", reason
        )
    return trial.returncode == 0


def _call(name: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def enter(mounts: Sequence[tuple[str, str]]) -> None:
    """Give this process its own mounts: each (source, target). Raises OSError where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    _call("unshare", libc.unshare(CLONE_NEWNS))
    # Most systems share mounts with new namespaces: without this, ours would appear everywhere.
    _call("mount / private", libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    for source, target in mounts:
        if os.path.isdir(source):
            os.makedirs(target, exist_ok=True)
        result = libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND | MS_REC, None)
        _call(f"mount {target}", result)


def main(arguments: list[str]) -> int:
    """The program. Returns only when it could not become the command."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    paths, command = arguments[:split], arguments[split + 1 :]
    # The caller's working directory may lie below a target, where it would still show what was there before.
    cwd = paths[1] if paths[:1] == ["--cwd"] and len(paths) > 1 else None
    paths = paths[2:] if cwd else paths
    if len(paths) % 2 or not command:
        sys.stderr.write("usage: mounts [--cwd FOLDER] [SOURCE TARGET]... -- COMMAND...\n")
        return 2
    try:
        enter(list(zip(paths[::2], paths[1::2])))
        if cwd:
            os.chdir(cwd)
    except OSError as error:
        sys.stderr.write(f"mounts: {error}\n")
        return REFUSED
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
