"""
Programs from the image's own package manager: what is missing, and how to install it.

Standard library only; Python 3.8.
"""

import os
import shutil
import subprocess
import time
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from sagemaker_ssh_helper.agent import official, sshd
from sagemaker_ssh_helper.errors import LocalSetup
from sagemaker_ssh_helper.names import AGENT_NAME

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

# Others do not have it.
_OFFICIAL_MANAGERS: Dict[str, Tuple[str, ...]] = {
    "dnf": ("install", "-y"),
    "microdnf": ("install", "-y"),
    "yum": ("install", "-y"),
    # In Alpine's community repository.
    "apk": ("add", "--no-cache"),
}
_OFFICIAL_TIMEOUT = 120.0


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
    _run(commands, because=f"there is no {absent}", say=say, timeout=timeout)
    still = missing()
    if still:
        raise LocalSetup(f"the package manager ran, and there still is no {' and no '.join(still)}")


def install_official_agent(say: Callable[[str], object]) -> None:
    """
    Install it from the distribution's packages; ``say`` is told the command before it runs. Blocks.

    Raises LocalSetup when that cannot be done here, or did not help.
    """
    absent = "there is no official agent"
    manager = next((name for name in _OFFICIAL_MANAGERS if shutil.which(name)), None)
    if manager is None:
        raise LocalSetup(f"{absent}, and no package manager that has it")
    if os.geteuid() != 0:
        raise LocalSetup(f"{absent}, and installing needs root")
    command = (manager, *_OFFICIAL_MANAGERS[manager], AGENT_NAME)
    _run([command], because=absent, say=say, timeout=_OFFICIAL_TIMEOUT)
    official.find()


def _run(
    commands: Sequence[Tuple[str, ...]],
    *,
    because: str,
    say: Callable[[str], object],
    timeout: Optional[float],
) -> None:
    deadline = None if timeout is None else time.monotonic() + timeout
    environment = _environment()
    for command in commands:
        words = " ".join(command)
        say(f"{because}; running: {words}")
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, env=environment, timeout=left
            ).returncode
        except subprocess.TimeoutExpired:
            raise LocalSetup(f"{words} was given up after {timeout:.0f} s") from None
        if status != 0:
            raise LocalSetup(f"{words} ended with status {status}")


def _environment() -> Dict[str, str]:
    """The job's, with its proxies, but without its libraries and modules, which may break system programs."""
    kept = {name: os.environ[name] for name in os.environ if not name.startswith(("LD_", "PYTHON"))}
    # dpkg refuses to work without the programs of the administrator, which a job's path may leave out.
    path = os.pathsep.join([kept.get("PATH") or os.defpath, sshd.clean_environment()["PATH"]])
    return {**kept, "PATH": path, "DEBIAN_FRONTEND": "noninteractive"}
