"""
The command ``sm-setup-ssh``: prepare an image, admit a public key, see how the node is.

Standard library only; Python 3.8.
"""

import base64
import binascii
import os
import shutil
import subprocess
import sys
from typing import Dict, List, Optional, Sequence, Tuple

from sagemaker_ssh_helper.agent import sshd, waiting
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.errors import LocalSetup, SSHHelperError, UsageError
from sagemaker_ssh_helper.public_keys import PublicKey

USAGE = """\
usage: sm-setup-ssh configure          prepare an image: check OpenSSH, install it when missing (as root)
       sm-setup-ssh authorize TOKEN    admit a public key; TOKEN is the base64 of its line
       sm-setup-ssh status             how this node is; exit status 0 when it is online
"""

# The longest line a key can have is that of RSA-16384, some 2,800 characters.
_MAX_TOKEN_CHARS = 8192

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


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command. Returns its exit status: 0, 1 (not online), 2 (wrong words), 9 (cannot be done)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["-h"], ["--help"], ["help"]):
        sys.stdout.write(USAGE)
        return 0
    try:
        return _run(words)
    except SSHHelperError as error:
        sys.stderr.write(f"sm-setup-ssh: error[{error.id}]: {error}\n")
        return error.exit_code


def _run(words: List[str]) -> int:
    if words == ["configure"]:
        _configure()
        return 0
    if words == ["status"]:
        lines, online = waiting.describe_status(StateDir.choose(os.environ))
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        return 0 if online else 1
    if words[:1] == ["authorize"] and len(words) == 2:
        key = parse_token(words[1])
        added = sshd.authorize(StateDir.choose(os.environ), key)
        sys.stdout.write(f"{'admitted' if added else 'known already'}: {key.sha256}\n")
        return 0
    if words and words[0] not in ("configure", "status", "authorize"):
        raise UsageError(f"sm-setup-ssh knows no {words[0]!r}", fix="See: sm-setup-ssh --help")
    sys.stderr.write(USAGE)
    return UsageError.exit_code


def parse_token(token: str) -> PublicKey:
    """
    The key in a token, the standard base64 of one public key line. Raises UsageError, without the text.
    """
    try:
        if len(token) > _MAX_TOKEN_CHARS:
            raise UsageError("that token is too long for a public key")
        line = base64.b64decode(token, validate=True).decode("ascii")
    except (binascii.Error, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError("that is no token", fix="It is the base64 of a public key line") from None
    return PublicKey.parse(line)


def _configure() -> None:
    missing = _missing()
    if missing:
        _install(missing)
        missing = _missing()
        if missing:
            raise LocalSetup(f"the package manager ran, and there still is no {' and no '.join(missing)}")
    sys.stdout.write(f"sshd:        {sshd.find_program('sshd')}\n")
    sys.stdout.write(f"ssh-keygen:  {sshd.find_program('ssh-keygen')}\n")
    sys.stdout.write(f"sftp-server: {sshd.find_sftp_server() or 'none: sftp and plain scp will not work'}\n")


def _missing() -> List[str]:
    return [name for name in ("sshd", "ssh-keygen") if not sshd.find_program(name)]


def _install(missing: Sequence[str]) -> None:
    names = " and no ".join(missing)
    manager = next((name for name in _MANAGERS if shutil.which(name)), None)
    if manager is None:
        raise LocalSetup(
            f"there is no {names} in this image, and no package manager we know",
            fix="Add OpenSSH's server and ssh-keygen to the image",
        )
    commands = _MANAGERS[manager]
    if os.geteuid() != 0:
        raise LocalSetup(
            f"there is no {names} in this image, and installing needs root",
            fix="Run as root: " + " && ".join(" ".join(command) for command in commands),
        )
    for command in commands:
        sys.stderr.write(f"sm-setup-ssh: there is no {names}; running: {' '.join(command)}\n")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        status = subprocess.run(command, stdin=subprocess.DEVNULL, env=environment).returncode
        if status != 0:
            raise LocalSetup(f"{' '.join(command)} ended with status {status}")


if __name__ == "__main__":
    sys.exit(main())
