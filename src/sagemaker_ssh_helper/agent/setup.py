"""
The command ``sm-setup-ssh``: prepare an image, admit a public key, see how the node is.

Standard library only; Python 3.8.
"""

import base64
import binascii
import os
import sys
import time
from typing import List, Optional, Sequence

from sagemaker_ssh_helper.agent import packages, sshd, waiting
from sagemaker_ssh_helper.agent.job_output import let_every_character_be_written
from sagemaker_ssh_helper.agent.state import State, StateDir
from sagemaker_ssh_helper.errors import SSHHelperError, UsageError
from sagemaker_ssh_helper.names import Env
from sagemaker_ssh_helper.public_keys import PublicKey

USAGE = """\
usage: sm-setup-ssh [start-ssh]        start ssh in this container, as setup_and_start_ssh() does
       sm-setup-ssh configure          prepare an image: check OpenSSH, install it when missing (as root)
       sm-setup-ssh authorize TOKEN    admit a public key; TOKEN is the base64 of its line
       sm-setup-ssh authorize-from TOKEN   the same; TOKEN is the base64 of s3://BUCKET/KEY, where the key is
       sm-setup-ssh status             how this node is; exit status 0 when it is online
"""

# The longest line a key can have is that of RSA-16384, some 2,800 characters.
_MAX_TOKEN_CHARS = 8192


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command. Returns its exit status: 0, 1 (not online), 2 (wrong words), 9 (cannot be done)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    let_every_character_be_written()
    if words in (["-h"], ["--help"], ["help"]):
        sys.stdout.write(USAGE)
        return 0
    try:
        return _run(words)
    except SSHHelperError as error:
        sys.stderr.write(f"sm-setup-ssh: error[{error.id}]: {error}\n")
        return error.exit_code


def _run(words: List[str]) -> int:
    if words in ([], ["start-ssh"]):
        return _start()
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
    if words[:1] == ["authorize-from"] and len(words) == 2:
        for key in _fetch(words[1]):
            added = sshd.authorize(StateDir.choose(os.environ), key)
            sys.stdout.write(f"{'admitted' if added else 'known already'}: {key.sha256}\n")
        return 0
    if words[0] not in ("start-ssh", "configure", "status", "authorize", "authorize-from"):
        raise UsageError(f"sm-setup-ssh knows no {words[0]!r}", fix="See: sm-setup-ssh --help")
    sys.stderr.write(USAGE)
    return UsageError.exit_code


def _start() -> int:
    # Imported here: it takes a while, and `authorize` needs none of it.
    from sagemaker_ssh_helper.agent import bootstrap

    # Whoever types this wants it, whatever the launch said.
    os.environ[Env.START_SSH] = "true"
    bootstrap.setup_and_start_ssh()
    status = waiting.true_status(StateDir.choose(os.environ))
    return 1 if status is None or status.state is State.FAILED else 0


def parse_token(token: str) -> PublicKey:
    """
    The key in a token, the standard base64 of one public key line. Raises UsageError, without the text.
    """
    return PublicKey.parse(_decoded(token, "a public key line"))


def _decoded(token: str, what: str) -> str:
    try:
        if len(token) > _MAX_TOKEN_CHARS:
            raise UsageError("that token is too long for a public key")
        return base64.b64decode(token, validate=True).decode("ascii")
    except (binascii.Error, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError("that is no token", fix=f"It is the base64 of {what}") from None


def _fetch(token: str) -> List[PublicKey]:
    """The public keys at a place in S3, read as the job may. Raises SSHHelperError."""
    # Imported here: it takes a while, and `authorize` needs none of it.
    from sagemaker_ssh_helper.agent import resource, s3_keys
    from sagemaker_ssh_helper.agent.credentials import ContainerCredentials

    environ = os.environ
    region = resource.region(environ, resource.identify(environ, resource.base_dir(environ)))
    uri = _decoded(token, "s3://BUCKET/KEY")
    return s3_keys.KeyStore(uri, region, ContainerCredentials(environ).get(), environ, time.time()).fetch()


def _configure() -> None:
    missing = packages.missing()
    if missing:
        packages.install_openssh(missing, say=lambda text: sys.stderr.write(f"sm-setup-ssh: {text}\n"))
    sshd.make_folder()
    sys.stdout.write(f"sshd:        {sshd.find_program('sshd')}\n")
    sys.stdout.write(f"ssh-keygen:  {sshd.find_program('ssh-keygen')}\n")
    sys.stdout.write(f"sftp-server: {sshd.find_sftp_server() or 'none: sftp and plain scp will not work'}\n")


if __name__ == "__main__":
    sys.exit(main())
