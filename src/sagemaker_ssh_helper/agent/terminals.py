"""
Terminals for logins where sshd is no root and the container gives terminals to another group.

sshd hands a new terminal to the group ``tty`` when /etc/group has one. Most containers mount /dev/pts so that
it belongs to that group already; where they do not, only root may hand it over, and sshd ends the session of
everybody who asks for a terminal. There, sshd runs with a view of its own in which /etc/group has no ``tty``:
a user namespace with our own id, and a mount namespace. It costs the logins sudo and su, and files of other
users look like nobody's; so it is done only where terminals would be impossible otherwise.

As a program: ``terminals.py GROUP_FILE PROGRAM ARGUMENTS…`` runs a program with that view, and without it
when the container does not allow it. Standard library only; Python 3.8.
"""

import grp
import os
import sys
from typing import List, NoReturn

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_BIND = 0x1000
_GROUPS = "/etc/group"


def are_denied() -> bool:
    """Whether sshd, as our user, could not hand a terminal to the group ``tty``."""
    if os.geteuid() == 0 or not sys.platform.startswith("linux"):
        return False
    try:
        group = grp.getgrnam("tty").gr_gid
        primary, replica = os.openpty()
    except (KeyError, OSError):
        return False
    try:
        return os.fstat(replica).st_gid != group and group not in (os.getegid(), *os.getgroups())
    finally:
        os.close(primary)
        os.close(replica)


def groups_without_tty() -> bytes:
    """What /etc/group holds, but for the group ``tty``."""
    with open(_GROUPS, "rb") as file:
        return b"".join(line for line in file if not line.startswith(b"tty:"))


def main(arguments: List[str]) -> NoReturn:
    """Run the program in place of this one. Raises OSError when it cannot be run."""
    group_file, program = arguments[0], arguments[1:]
    # A view that is half made cannot be left again: a child finds out whether it can be made.
    child = os.fork()
    if child == 0:
        try:
            _enter_view(group_file)
            os._exit(0)
        except BaseException:
            os._exit(1)
    if os.waitpid(child, 0)[1] == 0:
        _enter_view(group_file)
    # It was for Python; the job's libraries may break sshd.
    os.environ.pop("LD_LIBRARY_PATH", None)
    os.execv(program[0], program)


def _enter_view(group_file: str) -> None:
    """Raises OSError where the container does not allow it, ImportError where Python has no ctypes."""
    # Imported here: hardly any node needs it, and a Python that was built without libffi has none.
    import ctypes

    def check(result: int) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    check(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    check(libc.mount(os.fsencode(group_file), _GROUPS.encode(), None, _MS_BIND, None))


if __name__ == "__main__":
    main(sys.argv[1:])
