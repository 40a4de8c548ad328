"""
The user a session's program runs as, and the environment that it finds.

An agent that is no root can be nobody else. One that is runs sessions as itself too, unless the session
document says otherwise. The agent's own user gets the job's environment and folder, as an ssh login does;
another user gets a plain one, since what the job's variables lead to is not theirs.

Standard library only; Python 3.8.
"""

import os
import pwd
from dataclasses import dataclass
from typing import Dict, Tuple

from sagemaker_ssh_helper.agent.documents import DocumentRefused
from sagemaker_ssh_helper.agent.login import LANG, TERM, login_environment

_PLAIN_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Account:
    """A user of this container. ``ids`` is empty for the agent's own, else what the launcher takes."""

    name: str
    home: str
    shell: str
    uid: int
    ids: str = ""


def find_account(name: str) -> Account:
    """
    The account of this name; the agent's own for an empty name.

    Raises DocumentRefused when there is none, or the agent may not become that user.
    """
    own = os.geteuid()
    if not name:
        return _own(own)
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError) as error:
        raise DocumentRefused(
            f"the session is to run as {name!r}, a user that does not exist here"
        ) from error
    if entry.pw_uid == own:
        return _own(own)
    if own != 0:
        raise DocumentRefused(
            f"the session is to run as {name!r}, but the agent runs as {_own(own).name!r} and is not root"
        )
    groups = ",".join(str(group) for group in os.getgrouplist(name, entry.pw_gid))
    ids = f"{entry.pw_uid}:{entry.pw_gid}:{groups}"
    return Account(name, entry.pw_dir, entry.pw_shell, entry.pw_uid, ids)


def session_environment(account: Account, environ_path: str) -> Tuple[Dict[bytes, bytes], bytes]:
    """
    The environment of a session's program, and the folder it starts in.

    Args:
        environ_path: the job's environment, see AgentConfig; empty or unreadable: that of this process.
    """
    session = {
        b"TERM": TERM,
        b"HOME": os.fsencode(account.home),
        b"USER": os.fsencode(account.name),
        b"LOGNAME": os.fsencode(account.name),
        b"SHELL": os.fsencode(account.shell or "/bin/sh"),
    }
    if account.ids:
        folder = session[b"HOME"] if os.path.isdir(session[b"HOME"]) else b"/"
        return {b"PATH": _PLAIN_PATH, b"LANG": LANG, b"PWD": folder, **session}, folder
    return login_environment(_saved(environ_path), session)


def _own(uid: int) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        # Images give their jobs any number.
        return Account(str(uid), os.environ.get("HOME", "/"), "/bin/sh", uid)
    return Account(entry.pw_name, entry.pw_dir, entry.pw_shell, uid)


def _saved(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b"".join(name + b"=" + value + b"\0" for name, value in os.environb.items())
