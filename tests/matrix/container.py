"""
A container made of namespaces and a chroot: another file system, another user, no network but the cloud's.

Needs root on Linux. The root file system is a view of a folder; what is written there is gone afterwards.
"""

import os
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Dict

SOURCE = Path(__file__).resolve().parents[2] / "src"
TIMEOUT = 60.0

_JOB = """
import sys
sys.path.insert(0, "/opt/src")
from sagemaker_ssh_helper import setup_and_start_ssh
setup_and_start_ssh()
from sagemaker_ssh_helper.agent.state import StateDir
import os
sys.stdin.read()
state = StateDir.choose(os.environ)
print("STATE", state.read_status())
for path in (state.agent_log, state.sshd_log):
    if os.path.exists(path):
        print(open(path).read()[-1500:])
"""

# In namespaces of its own: $1 is an empty folder. Its last words are the command.
_SET_UP = r"""
set -e
base=$1
mount -t tmpfs -o mode=755 none "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$base/upper,workdir=$base/work" "$base/root"
root=$base/root
rm -rf "$root/var/lib/sagemaker-ssh-helper" "$root/opt/python" "$root/opt/src" "$root/opt/packages"
mkdir -p "$root/opt/python" "$root/opt/src" "$root/opt/packages" "$root/run/sshd" "$root/proc" "$root/dev"
for name in $REMOVED; do rm -rf "$root$name"; done
sed -i "/^[^:]*:[^:]*:\(1000\|4321\):/d" "$root/etc/passwd"
if [ "$UID_WANTED" = 1000 ]; then echo 'sagemaker-user:x:1000:1000::/none:/bin/sh' >> "$root/etc/passwd"; fi
# As container runtimes write it.
echo '127.0.0.1 localhost' > "$root/etc/hosts"
mount --bind "$PYTHON" "$root/opt/python"
mount --bind "$PACKAGE" "$root/opt/src"
if [ -n "$PACKAGES" ]; then mount --bind "$PACKAGES" "$root/opt/packages"; fi
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
if [ "$READ_ONLY" = 1 ]; then mount -o remount,ro "$root"; fi
mount -t tmpfs -o mode=1777 none "$root/tmp"
shift
exec chroot --userspec="$UID_WANTED:$UID_WANTED" --groups= "$root" /usr/bin/env -i "$@"
"""

_OPENSSH = (
    "/usr/sbin/sshd",
    "/usr/bin/ssh-keygen",
    "/usr/lib/openssh/sftp-server",
    "/usr/bin/scp",
    "/usr/bin/sftp",
)
_TOOLS = ("/usr/bin/sudo", "/usr/bin/apt-get", "/usr/bin/aws", "/usr/local/bin/aws")


@dataclass(frozen=True)
class Row:
    """One container. Without ``sshd`` it has asyncssh."""

    version: str
    uid: int
    read_only: bool
    sshd: bool

    def __str__(self) -> str:
        user = {0: "root", 1000: "uid 1000"}.get(self.uid, f"uid {self.uid} without an account")
        files = "read-only root" if self.read_only else "writable root"
        return f"Python {self.version}, {user}, {files}, {'OpenSSH' if self.sshd else 'asyncssh'}"


@dataclass(frozen=True)
class Image:
    """What a row is run with."""

    root: str
    """The folder of the root file system."""
    python: str
    """The folder of the Python installation."""
    packages: str = ""
    """A folder with asyncssh for that Python."""


class Container:
    """A job's process in such a container; end it with :meth:`end`."""

    def __init__(self, row: Row, image: Image, variables: Dict[str, str], folder: Path) -> None:
        self.name = f"matrix-{secrets.token_hex(4)}"
        self._folder = folder / self.name
        self._folder.mkdir()
        log = self._folder.with_suffix(".log")
        self.secret = secrets.token_hex(8)
        own = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "START_SSH": "true",
            "SSH_WAIT_TIME_SECONDS": "0",
            "TRAINING_JOB_NAME": self.name,
            "JOB_SECRET": f'it\'s "{self.secret}"\n$HOME',
            "PYTHONPATH": "/opt/packages",
            "LD_LIBRARY_PATH": "/opt/python/lib",
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        }
        settings = {
            "PATH": os.environ["PATH"],
            "LOWER": image.root,
            "PYTHON": image.python,
            "PACKAGE": str(SOURCE),
            "PACKAGES": image.packages,
            "UID_WANTED": str(row.uid),
            "READ_ONLY": str(int(row.read_only)),
            "REMOVED": " ".join((*_TOOLS, *(() if row.sshd else _OPENSSH))),
        }
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _SET_UP, "sh"),
                    str(self._folder),
                    *(f"{name}={value}" for name, value in own.items()),
                    *("/opt/python/bin/python3", "-c", _JOB),
                ],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env=settings,
            )

    def last_words(self) -> str:
        """What it printed, with its logs. Its script ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        return self.log.read_text()

    def end(self) -> None:
        """Everything in it ends with its first process."""
        assert self.process.stdin is not None
        self.process.kill()
        self.process.wait(TIMEOUT)
        self.process.stdin.close()
