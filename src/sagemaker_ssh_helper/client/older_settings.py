"""
What the commands of the helper before this one were told to remember, and the key files that it made.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from sagemaker_ssh_helper.client.files import home, locked, private_dir, read_text, state_dir, write_atomic

LICENSE_SERVER = "jb_license_server"
DOMAIN_ID = "domain_id"
USER_PROFILE = "user_profile_name"

_GATEWAY_LINK = "sagemaker-ssh-gw"
_KEPT_TIMEOUT = 60 * 86400.0  # seconds after which a link to a container is old; containers live for days


def load() -> dict[str, str]:
    """By name. Raises LocalSetup."""
    text = read_text(_path())
    try:
        entries = json.loads(text) if text else {}
    except ValueError:
        entries = {}
    return {str(name): str(value) for name, value in entries.items()} if isinstance(entries, dict) else {}


def save(name: str, value: str) -> None:
    """Remember it. Raises LocalSetup."""
    private_dir(state_dir())
    with locked(_path()):
        write_atomic(_path(), json.dumps({**load(), name: value}, indent=1) + "\n")


def link_key(host: str, key: Path) -> None:
    """
    Make ``~/.ssh/HOST`` and ``~/.ssh/sagemaker-ssh-gw`` links to ``key``, and ``~/.ssh/sagemaker-ssh-gw.pub``
    one to its public half, where programs set up for the older helper look for them.

    What is there and is no link of ours stays. No error where links cannot be made.
    """
    folder = Path(home()) / ".ssh"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        public = key.with_name(f"{key.name}.pub")
        for name, file in ((host, key), (_GATEWAY_LINK, key), (f"{_GATEWAY_LINK}.pub", public)):
            link = folder / name
            if link.is_symlink() and os.readlink(link) == str(file):
                os.utime(link, follow_symlinks=False)
            elif not link.is_symlink() and not link.exists():
                link.symlink_to(file)
        oldest = time.time() - _KEPT_TIMEOUT
        for link in folder.glob("*.sagemaker"):
            is_ours = link.is_symlink() and os.readlink(link) == str(key)
            if is_ours and link.lstat().st_mtime < oldest:
                link.unlink(missing_ok=True)
    except (OSError, NotImplementedError):
        # Windows lets few users make links. Nothing of ours needs them.
        return


def _path() -> Path:
    return state_dir() / "older_settings.json"
