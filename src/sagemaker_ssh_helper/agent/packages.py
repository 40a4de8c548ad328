"""
OpenSSH from the image's own package manager: what is missing, and how to install it.

Standard library only; Python 3.8.
"""

import os
import shutil
import subprocess
import time
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from sagemaker_ssh_helper.agent import sshd
from sagemaker_ssh_helper.errors import LocalSetup

START_TIMEOUT = 120.0
"""Seconds that an installation may take while a node starts."""

# Package manager -> its words for what is needed, and the packages.
_MANAGERS: Dict[str, List[Tuple[str, ...]]] = {
    "apt-get": [
        ("apt-get", "update", "-qq"),
        ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "openssh-server"),
    ],
    "dnf": [("dnf", "install", "-y", "openssh-server")],
    "microdnf": [("microdnf", "install", "-y", "openssh-server")],
    "yum": [("yum", "install", "-y", "openssh-server")],
    "apk": [("apk", "add", "--no-cache", "openssh-server", "openssh-keygen", "openssh-sftp-server")],
    "zypper": [("zypper", "--non-interactive", "install", "openssh-server")],
}


def missing() -> List[str]:
    """The programs of OpenSSH that a node needs and this image does not have."""
    return [name for name in ("sshd", "ssh-keygen") if not sshd.find_program(name)]


def install_openssh(
    names: Sequence[str], *, say: Callable[[str], object], timeout: Optional[float] = None
) -> None:
    """
    Install it; ``say`` is told each command before it runs. Blocks.

    Args:
        names: what is missing, for the messages.
        timeout: seconds for all commands; None: as long as they take.

    Raises LocalSetup when that cannot be done here, or did not help.
    """
    absent = " and no ".join(names)
    manager = next((name for name in _MANAGERS if shutil.which(name)), None)
    if manager is None:
        raise LocalSetup(
            f"there is no {absent} in this image, and no package manager we know",
            fix="Add OpenSSH's server and ssh-keygen to the image",
        )
    commands = _MANAGERS[manager]
    if os.geteuid() != 0:
        raise LocalSetup(
            f"there is no {absent} in this image, and installing needs root",
            fix="Run as root: " + " && ".join(" ".join(command) for command in commands),
        )
    deadline = None if timeout is None else time.monotonic() + timeout
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in commands:
        words = " ".join(command)
        say(f"there is no {absent}; running: {words}")
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, env=environment, timeout=left
            ).returncode
        except subprocess.TimeoutExpired:
            raise LocalSetup(f"{words} was given up after {timeout:.0f} s") from None
        if status != 0:
            raise LocalSetup(f"{words} ended with status {status}")
    still = missing()
    if still:
        raise LocalSetup(f"the package manager ran, and there still is no {' and no '.join(still)}")
