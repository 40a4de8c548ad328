"""
A container made of namespaces and a chroot: another file system, another user, no network but the cloud's.

Needs root on Linux. The root file system is a view of a folder; what is written there is gone afterwards.
A row's is made of a plain system and a Python beside it; an example image's is what its Dockerfile made.
"""

import json
import os
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Sequence, Tuple

from matrix.images import BuiltImage

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
mkdir -p "$root/proc" "$root/dev"
eval "$PREPARE"
# As container runtimes write it.
echo '127.0.0.1 localhost' > "$root/etc/hosts"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
if [ "$READ_ONLY" = 1 ]; then mount -o remount,ro "$root"; fi
mount -t tmpfs -o mode=1777 none "$root/tmp"
shift
exec chroot --userspec="$OWNER" --groups= "$root" /usr/bin/env -i "$@"
"""

_PREPARE_ROW = r"""
rm -rf "$root/var/lib/sagemaker-ssh-helper" "$root/opt/python" "$root/opt/src" "$root/opt/packages"
mkdir -p "$root/opt/python" "$root/opt/src" "$root/opt/packages" "$root/run/sshd"
for name in $REMOVED; do rm -rf "$root$name"; done
sed -i "/^[^:]*:[^:]*:\(1000\|4321\):/d" "$root/etc/passwd"
if [ "$OWNER" = 1000:1000 ]; then echo 'sagemaker-user:x:1000:1000::/none:/bin/sh' >> "$root/etc/passwd"; fi
mount --bind "$PYTHON" "$root/opt/python"
mount --bind "$PACKAGE" "$root/opt/src"
if [ -n "$PACKAGES" ]; then mount --bind "$PACKAGES" "$root/opt/packages"; fi
"""

# What SageMaker puts into a container.
_PREPARE_IMAGE = r"""
mkdir -p "$root/opt/ml/metadata"
if [ -n "$METADATA" ]; then printf %s "$METADATA" > "$root/opt/ml/metadata/resource-metadata.json"; fi
"""

# The program waits for people; standard input's end is that of a log's reader.
_IMAGE_JOB = "{} & read -r end; sm-wait status"
_STUDIO_PROGRAM = "python3 -c 'from sagemaker_ssh_helper import setup_and_start_ssh as start; start()'"
_TRAINING_PROGRAM = "train"
_WAIT_SECONDS = 600

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


@dataclass(frozen=True)
class ImageRow:
    """A container of an example image."""

    built: BuiltImage
    read_only: bool

    @property
    def uid(self) -> int:
        return self.built.files.account().pw_uid

    def __str__(self) -> str:
        user = "root" if self.uid == 0 else f"uid {self.uid}"
        files = "read-only root" if self.read_only else "writable root"
        return f"image {self.built.name}, {user}, {files}"


class Container:
    """
    A job's process in such a container; end it with :meth:`end`.

    Args:
        lower: the folder of the root file system.
        owner: the user and group of its process, as numbers.
        prepare: a shell's commands that make ``$root`` ready, with ``settings`` as their variables.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        command: Sequence[str],
        *,
        lower: str,
        owner: Tuple[int, int],
        read_only: bool,
        variables: Dict[str, str],
        prepare: str,
        settings: Dict[str, str],
    ) -> None:
        self.name = name
        self._folder = folder / name
        self._folder.mkdir()
        self.log = self._folder.with_suffix(".log")
        self.secret = secrets.token_hex(8)
        own = {
            "START_SSH": "true",
            "JOB_SECRET": f'it\'s "{self.secret}"\n$HOME',
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        }
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _SET_UP, "sh"),
                    str(self._folder),
                    *(f"{name}={value}" for name, value in own.items()),
                    *command,
                ],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env={
                    "PATH": os.environ["PATH"],
                    "LOWER": lower,
                    "OWNER": "{}:{}".format(*owner),
                    "READ_ONLY": str(int(read_only)),
                    "PREPARE": prepare,
                    **settings,
                },
            )

    @classmethod
    def of_row(cls, row: Row, image: Image, variables: Dict[str, str], folder: Path) -> "Container":
        """This tree's package, started by a Python beside a plain system."""
        name = _unique_name()
        own = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "SSH_WAIT_TIME_SECONDS": "0",
            "TRAINING_JOB_NAME": name,
            "PYTHONPATH": "/opt/packages",
            "LD_LIBRARY_PATH": "/opt/python/lib",
        }
        settings = {
            "PYTHON": image.python,
            "PACKAGE": str(SOURCE),
            "PACKAGES": image.packages,
            "REMOVED": " ".join((*_TOOLS, *(() if row.sshd else _OPENSSH))),
        }
        return cls(
            folder,
            name,
            ["/opt/python/bin/python3", "-c", _JOB],
            lower=image.root,
            owner=(row.uid, row.uid),
            read_only=row.read_only,
            variables={**own, **variables},
            prepare=_PREPARE_ROW,
            settings=settings,
        )

    @classmethod
    def of_image(cls, row: ImageRow, variables: Dict[str, str], folder: Path) -> "Container":
        """What a Dockerfile made, started as SageMaker starts it."""
        name = _unique_name()
        account = row.built.files.account()
        own = {**row.built.files.environ, "SSH_WAIT_TIME_SECONDS": str(_WAIT_SECONDS)}
        metadata = ""
        if row.built.is_studio:
            app = f"arn:aws:sagemaker:{variables['AWS_REGION']}:000000000000:app/d-1/s/JupyterLab/{name}"
            metadata = json.dumps({"AppType": "JupyterLab", "ResourceArn": app, "ResourceName": "default"})
        else:
            own["TRAINING_JOB_NAME"] = name
        program = _STUDIO_PROGRAM if row.built.is_studio else _TRAINING_PROGRAM
        return cls(
            folder,
            name,
            ["/bin/sh", "-c", _IMAGE_JOB.format(program)],
            lower=str(row.built.files.root),
            owner=(account.pw_uid, account.pw_gid),
            read_only=row.read_only,
            variables={**own, **variables},
            prepare=_PREPARE_IMAGE,
            settings={"METADATA": metadata},
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


def _unique_name() -> str:
    return f"matrix-{secrets.token_hex(4)}"
