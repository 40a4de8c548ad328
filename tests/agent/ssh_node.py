"""
A node's sshd and everything to log in to it with the real ssh: own keys, pinned host key, own configuration.

The server can run as another user when the tests run as root: run as a program, this module sets a node up
in the folder it is given and prints what a client must know.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

SOURCE = Path(__file__).resolve().parents[2] / "src"
TIMEOUT = 60.0


@dataclass(frozen=True)
class User:
    """Whom a node runs as, and a Python program that this user can run."""

    name: str
    uid: int
    gid: int
    python: str

    def become(self) -> None:
        """For a child process, before it executes its program."""
        if os.geteuid() != self.uid:
            os.setgroups([])
            os.setgid(self.gid)
            os.setuid(self.uid)


def users() -> List[User]:
    """
    The users a node can run as in this test run: our own, and an ordinary one when we are root.

    That one is whatever account this machine has with a shell and a Python program that it may run.
    """
    own = pwd.getpwuid(os.geteuid())
    found = [User(own.pw_name, own.pw_uid, own.pw_gid, sys.executable)]
    if own.pw_uid == 0:
        found.extend(_ordinary_users()[:1])
    return found


def _ordinary_users() -> List[User]:
    programs = [
        sys.executable,
        *(path for path in map(shutil.which, ("python3",)) if path),
        "/usr/bin/python3",
    ]
    found = []
    for entry in pwd.getpwall():
        has_shell = os.path.basename(entry.pw_shell) in ("sh", "bash", "dash", "ash", "zsh")
        if entry.pw_uid < 1000 or entry.pw_uid == 65534 or not has_shell:
            continue
        for program in programs:
            user = User(entry.pw_name, entry.pw_uid, entry.pw_gid, program)
            if _can_run(user):
                found.append(user)
                break
    return found


def _can_run(user: User) -> bool:
    command = [user.python, "-c", "import sys; sys.exit(sys.version_info < (3, 8))"]
    try:
        return subprocess.run(command, preexec_fn=user.become, cwd="/", timeout=TIMEOUT).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


class SshNode:
    """
    A running sshd and a client for it. End it with :meth:`close`.

    Args:
        environment: what the job's variables are.
        kind: which ssh server, as ``SSH_SSHD`` names it.
        within: words before the program that sets the node up, such as those of another view of the system.
        settings: variables that the set-up reads, besides.
    """

    def __init__(
        self,
        user: User,
        environment: Dict[bytes, bytes],
        kind: str = "openssh",
        within: Sequence[str] = (),
        settings: Optional[Dict[str, str]] = None,
    ) -> None:
        self.user = user
        self.kind = kind
        self._within = within
        self._settings = {"SSH_SSHD": kind, **(settings or {})}
        # Not pytest's folder: only its owner may go below that one.
        self.root = Path(tempfile.mkdtemp(prefix="node-"))
        self.root.chmod(0o755)
        self.state = self._make("state")
        self.job = self._make("job")
        self.home = self._make("home")
        self.client = self.root / "client"
        self.client.mkdir()
        self.environment = {
            b"PATH": os.fsencode(os.environ["PATH"]),
            b"HOME": bytes(self.home),
            **environment,
        }
        self.key = self.client / "id"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(self.key)],
            check=True,
            timeout=TIMEOUT,
        )
        self.facts = self._set_up()
        known_hosts = self.client / "known_hosts"
        known_hosts.write_text(f"job {self.facts['host_key']}\n")
        self.config = self.client / "config"
        self.config.write_text(
            "Host job\n"
            "  HostName 127.0.0.1\n"
            f"  Port {self.facts['port']}\n"
            f"  User {self.facts['user']}\n"
            f"  IdentityFile {self.key}\n"
            "  IdentitiesOnly yes\n"
            "  HostKeyAlias job\n"
            "  StrictHostKeyChecking yes\n"
            "  UpdateHostKeys no\n"
            f"  UserKnownHostsFile {known_hosts}\n"
            "  GlobalKnownHostsFile /dev/null\n"
            "  LogLevel ERROR\n"
        )

    def ssh(
        self, *command: str, options: Sequence[str] = (), stdin: Optional[bytes] = b""
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run the real ssh to its end."""
        return self.run(["ssh", "-F", str(self.config), *options, "job", *command], stdin)

    def run(self, words: Sequence[str], stdin: Optional[bytes] = b"") -> "subprocess.CompletedProcess[bytes]":
        """Run any program, without the variables of a real user's ssh."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.client), "TERM": "vt100"}
        return subprocess.run(
            list(words), input=stdin, capture_output=True, timeout=TIMEOUT, env=environment, cwd=self.client
        )

    @property
    def sshd_pid(self) -> int:
        return int((self.state / "sshd.pid").read_text())

    def close(self) -> None:
        """End the listening process and remove the files."""
        try:
            os.kill(self.sshd_pid, signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError):
            pass
        shutil.rmtree(self.root)

    def _make(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(mode=0o700)
        os.chown(path, self.user.uid, self.user.gid)
        return path

    def _set_up(self) -> Dict[str, Any]:
        request = {
            "state": str(self.state),
            "job": str(self.job),
            "settings": self._settings,
            "key": self.key.with_suffix(".pub").read_text(),
            "environment": [[key.hex(), value.hex()] for key, value in self.environment.items()],
        }
        made = subprocess.run(
            [*self._within, self.user.python, __file__],
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"},
            preexec_fn=self.user.become,
            cwd="/",
            check=True,
            timeout=TIMEOUT,
        )
        facts: Dict[str, Any] = json.loads(made.stdout)
        return facts


def main() -> None:
    """Set a node up as this user, by the request on standard input, and print its facts."""
    from sagemaker_ssh_helper.agent import environment, peers, ssh_servers, sshd
    from sagemaker_ssh_helper.agent.state import StateDir
    from sagemaker_ssh_helper.public_keys import PublicKey

    request = json.load(sys.stdin)
    state = StateDir.open(request["state"])
    variables = {bytes.fromhex(key): bytes.fromhex(value) for key, value in request["environment"]}
    environment.save(state, variables, os.fsencode(request["job"]))
    environment.write_programs(state, sshd.find_sftp_server())
    sshd.authorize(state, PublicKey.parse(request["key"]))
    server = ssh_servers.start(state, request["settings"])
    peers.start(state, request["settings"])
    # Other nodes are let in beside this.
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        thread.join(TIMEOUT)
    facts = {"port": server.port, "user": server.user, "host_key": server.host_public_key.line}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
