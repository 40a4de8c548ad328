"""
One node of a job: its folders, its Python, its environment and its processes.

A node is a folder on this machine that stands for a container's private parts. As root on Linux its processes
see that folder's pieces where a container has them, ``/opt/ml`` first of all, in a mount namespace of their
own. Elsewhere they see the machine as it is, and find their ``/opt/ml`` by ``SAGEMAKER_BASE_DIR``.

It is not a sandbox: what runs in a node may do on this machine whatever the cloud's own user may do.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import shutil
import site
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sagemaker_ssh_helper.emulator import mounts
from sagemaker_ssh_helper.emulator.supervised import Supervised
from sagemaker_ssh_helper.names import Env

BASE = "/opt/ml"
"""Where a SageMaker container has everything that SageMaker puts there or takes from there."""

BASE_DIR_VARIABLE = "SAGEMAKER_BASE_DIR"
"""Says where ``/opt/ml`` is, for nodes that cannot have it there; the training toolkit's own name for it."""

PRIVATE_FOLDERS = (BASE, "/run/sshd", "/var/log/amazon", "/var/lib/amazon")
"""What a node has to itself where the system allows it: SageMaker's folder, those of sshd and SSM agents."""

HOSTS_FILE = Path("/etc/hosts")

LOOPBACK_NODES = ipaddress.IPv4Network("127.64.0.0/10")
"""Where nodes have their addresses: all of 127.0.0.0/8 is this machine, on Linux."""


class Node:
    """
    One node, from ``create`` to ``remove``.

    Args:
        root: a folder for everything of the node; made by ``create``.
        state_dir: the cloud's own folder, deleted by whatever outlives a cloud that was killed.
        name: the host name SageMaker gives it, ``algo-N``.
        namespace: whether its processes see the node's folders at their real places: ``mounts.available()``.
        hosts: addresses of the job's nodes by name, for its own ``/etc/hosts``; only with ``namespace``.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        state_dir: Path,
        namespace: bool,
        hosts: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root
        self._state_dir = state_dir
        self.name = name
        self.namespace = namespace
        self._hosts = hosts or {}
        self.base = self.path_of(BASE)
        """Its ``/opt/ml``, as the cloud finds it."""
        self.home = root / "home"
        self.temporary = root / "tmp"
        self.state = root / "ssh"
        self.python = root / "python"
        self.seen_base = BASE if namespace else str(self.base)
        """Its ``/opt/ml``, as its own processes find it."""

    def path_of(self, place: str) -> Path:
        """The folder on this machine for an absolute path in the container."""
        return self.root / "root" / place.lstrip("/")

    def seen(self, text: str) -> str:
        """A text from a request (an argument, a path) with ``/opt/ml`` where the node's processes find it."""
        if self.namespace or BASE not in text:
            return text
        return text.replace(BASE + "/", self.seen_base + "/") if text != BASE else self.seen_base

    def create(self) -> None:
        """Make its folders and its Python. Blocks for about a millisecond."""
        for folder in (*map(self.path_of, PRIVATE_FOLDERS), self.home, self.temporary, self.state):
            folder.mkdir(parents=True, mode=0o700)
        for place in PRIVATE_FOLDERS:  # whoever runs in a container can read these
            self.path_of(place).chmod(0o755)
        make_python(self.python)
        if self._hosts_file_is_ours:
            lines = [f"{address}\t{name}\n" for name, address in self._hosts.items()]
            known = HOSTS_FILE.read_bytes()
            (self.root / "hosts").write_bytes(known + "".join(["\n", *lines]).encode())

    @property
    def _hosts_file_is_ours(self) -> bool:
        return bool(self._hosts) and self.namespace and HOSTS_FILE.is_file()

    def remove(self) -> None:
        """Delete its folders, after its processes have ended. Blocks."""
        try:
            shutil.rmtree(self.root)
        except OSError:
            for folder, _, _ in os.walk(self.root):  # from the top, so that each can be entered
                os.chmod(folder, 0o700)
            shutil.rmtree(self.root, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """What every process of the node has, whatever its job. Only PATH and LANG are the cloud's own."""
        environment = {
            "PATH": os.pathsep.join([str(self.python / "bin"), os.environ.get("PATH", os.defpath)]),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            Env.STATE_DIR: str(self.state),
            # A node shares this machine's system: nothing is installed there for it.
            Env.SSHD: "installed",
            # What SageMaker's own images set: lines reach the log as they are printed.
            "PYTHONUNBUFFERED": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
        }
        if not self.namespace:
            environment[BASE_DIR_VARIABLE] = self.seen_base
        return environment

    def has_program(self, program: str, cwd: str, path: str) -> bool:
        """Whether a command that begins so, in ``cwd`` and with this PATH, has a program to run."""
        if os.sep in program:
            places = [os.path.join(cwd, program)]
        else:
            places = [os.path.join(cwd, folder, program) for folder in path.split(os.pathsep)]
        for place in places:
            found = self.path_of(place) if self.namespace and place.startswith(BASE + "/") else Path(place)
            # Not os.access: it asks for the real user and without capabilities, and running does not.
            try:
                status = found.stat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode) and status.st_mode & 0o111:
                return True
        return False

    async def start(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: str, output_fd: int
    ) -> Supervised:
        """
        Run the node's main process; when it ends, all its descendants end.

        Args:
            command: program and arguments.
            env: the whole environment.
            cwd: the working directory, as the node's processes see it.
            output_fd: where stdout and stderr go. The caller closes its own copy.

        Raises OSError when it cannot be started.
        """
        folder: str | None = cwd
        if self.namespace:
            places = {place: str(self.path_of(place)) for place in PRIVATE_FOLDERS}
            if self._hosts_file_is_ours:
                places[str(HOSTS_FILE)] = str(self.root / "hosts")
            command, folder = mounts.command_with(places, command, cwd), None
        return await Supervised.start(
            command,
            env=env,
            cwd=folder or self.root,
            stdout=output_fd,
            stderr=output_fd,
            remove=self._state_dir,
        )


def loopback_addresses(count: int) -> list[str]:
    """Addresses for the nodes of one job, one after the other, hardly ever those of another job."""
    first = LOOPBACK_NODES[1 + secrets.randbelow(LOOPBACK_NODES.num_addresses - count - 1)]
    return [str(first + number) for number in range(count)]


def make_python(folder: Path) -> None:
    """
    A Python environment (PEP 405) of its own for a job, with all packages of the cloud's own below it.

    Made in a millisecond: links and two files. What a job installs with ``pip`` lands here; packages of the
    cloud count as installed, may be hidden by other versions, and are never changed.
    """
    base_python = getattr(sys, "_base_executable", None) or sys.executable
    bin_folder = folder / "bin"
    bin_folder.mkdir(parents=True)
    for name in ("python", "python3", f"python{sys.version_info[0]}.{sys.version_info[1]}"):
        (bin_folder / name).symlink_to(base_python)
    lines = [
        f"home = {os.path.dirname(base_python)}\n",
        "include-system-site-packages = false\n",
        f"version = {sys.version.split()[0]}\n",
    ]
    (folder / "pyvenv.cfg").write_bytes(os.fsencode("".join(lines)))
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    inherited = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        inherited = [*inherited, site.getusersitepackages()]
    # A .pth file that names folders would not have their own .pth files read; addsitedir does.
    lines = [f"import site; site.addsitedir({path!r})\n" for path in inherited]
    (packages / "inherited.pth").write_bytes(os.fsencode("".join(lines)))
