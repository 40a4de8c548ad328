"""
What a session's program is started by: its signals, its terminal and its user first, then the program itself.

::

    python -I -S launcher.py TERMINAL IDS PROGRAM ARGUMENTS…

TERMINAL is ``1`` when standard input is to become the terminal of the process, which is the leader of a new
session. IDS is empty, or ``UID:GID:GROUP,GROUP…``. A step of its own, because the agent has threads: what has
threads must not run Python between fork and exec. It stands alone, and ends with 126 or 127 when the program
cannot be run. Python 3.8.
"""

from __future__ import annotations  # typing would cost its import

# The signal module costs 10 ms more.
import _signal  # type: ignore[import-not-found]  # every CPython has it; no stubs know it
import os
import sys


def main(arguments: list[str]) -> int:
    """Become the program. Returns only when that failed: the exit status."""
    terminal, ids, words = arguments[0], arguments[1], arguments[2:]
    # Whatever the agent ignores, or whoever started it, the program begins as from a login.
    for number in range(1, _signal.NSIG):
        try:
            _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):
            pass  # KILL, STOP, and what the C library keeps for itself
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
    try:
        if terminal == "1":
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if ids:
            uid, gid, groups = ids.split(":")
            os.setgroups([int(group) for group in groups.split(",") if group])
            os.setgid(int(gid))
            os.setuid(int(uid))
        raise _execute(words)
    except OSError as error:
        text = f"cannot run {words[0]}: {error.strerror}\n"
        os.write(2, os.fsencode(text))
        return 127 if isinstance(error, FileNotFoundError) else 126


def _execute(words: list[str]) -> OSError:
    """
    Become the program, or say why not.

    Like os.execvp, which imports a module first: another user may not read where the agent's Python is.
    """
    names = [words[0]]
    if "/" not in words[0]:
        path = os.environ.get("PATH") or os.defpath
        names = [os.path.join(folder, words[0]) for folder in path.split(":")]
    failure: OSError = FileNotFoundError(2, os.strerror(2))
    for name in names:
        try:
            os.execv(name, words)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            # One that may not be executed counts only when there is no other.
            failure = error
    return failure


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
