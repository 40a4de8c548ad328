"""
Real starts in containers of every kind, each with a real ssh login, with no network but the cloud's.

    python -m matrix            every interpreter x user x read-only x ssh server, on a Debian of its own,
                                and the example images, built on it
    python -m matrix --images   the example images alone
    python -m matrix --quick    a few of them that hold each pair that matters, on this machine's own files

Prints each row, what it found and how long the login took to be possible, and ends with 1 when one failed. A
missing interpreter, program or root file system is a failure, too. Needs root on Linux.
"""

import argparse
import ctypes
import fcntl
import functools
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

from e2e.laptop import Laptop
from local_cloud import LocalCloud
from matrix.container import Container, Image, ImageRow, Row
from matrix.dockerfile import Refused
from matrix.images import build_all

VERSIONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".matrix"
UNPROVEN = (
    "musl (Alpine): no root file system of it can be had here; the container side has no native code",
    "Amazon Linux and RHEL: no root file system of theirs can be had here; their paths are in the unit tests",
    "arm64: there is no such machine here",
)

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_ONLINE_TIMEOUT = 60.0


@dataclass(frozen=True)
class Start:
    """One row of the list, and how its container is made."""

    row: Union[Row, ImageRow]
    kind: str
    """Of its host name."""
    make: Callable[[Dict[str, str], Path], Container]
    """Takes the job's variables and a folder for it."""


def rows() -> List[Row]:
    """All of them. OpenSSH needs an account, so a uid without one has asyncssh only."""
    return [
        Row(version, uid, read_only, sshd)
        for version in VERSIONS
        for uid in (0, 1000, 4321)
        for read_only in (False, True)
        for sshd in (True, False)
        if uid != 4321 or not sshd
    ]


def quick_rows(own: str, oldest: str) -> List[Row]:
    """Each user with and without a writable root and with each server that it can have, in a few rows."""
    return [
        Row(oldest, 0, False, True),
        Row(oldest, 1000, True, True),
        Row(own, 4321, True, False),
        Row(own, 1000, False, False),
    ]


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m matrix", description="Start containers of every kind.")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--quick", action="store_true", help="a few rows, with what this machine has")
    some.add_argument("--images", action="store_true", help="the example images alone")
    options = parser.parse_args(arguments)
    if sys.platform != "linux" or os.geteuid() != 0:
        print("matrix: namespaces and chroots need root on Linux", file=sys.stderr)
        return 1
    own = "{}.{}".format(*sys.version_info)
    wanted = quick_rows(own, _oldest()) if options.quick else [] if options.images else rows()
    with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
        try:
            starts = _starts(wanted, quick=options.quick)
            if not options.quick:
                starts += _image_starts(Path(folder))
        except (subprocess.CalledProcessError, FileNotFoundError, Refused) as error:
            print(f"matrix: {error}", file=sys.stderr)
            return 1
        _leave_network()
        failed = _run(starts, Path(folder))
    if not options.quick:
        for text in UNPROVEN:
            print(f"not run  {text}")
    print(f"{len(starts) - failed} passed, {failed} failed")
    return 1 if failed else 0


# --- what the containers are made of ---


def _find_python(version: str) -> str:
    """An installation's folder. Raises CalledProcessError when there is none of this version."""
    program = subprocess.run(
        [str(ROOT / "scripts" / "find-python"), version], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    command = [program, "-c", "import sys; print(sys.base_prefix)"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def _oldest() -> str:
    for version in VERSIONS:
        found = subprocess.run([str(ROOT / "scripts" / "find-python"), version], capture_output=True)
        if found.returncode == 0:
            return version
    return "{}.{}".format(*sys.version_info)


def _starts(wanted: Sequence[Row], *, quick: bool) -> List[Start]:
    own = "{}.{}".format(*sys.version_info)
    if not wanted:
        return []
    root = "/" if quick else _debian()
    pythons = {version: _find_python(version) for version in sorted({row.version for row in wanted})}
    packages: Dict[str, str] = {}
    for row in wanted:
        if not row.sshd and row.version not in packages:
            packages[row.version] = _own_packages() if quick else _packages(row.version, pythons[row.version])
    assert not quick or set(packages) <= {own}, "a quick run installs nothing"
    images = {
        row: Image(root, pythons[row.version], packages.get(row.version, "") if not row.sshd else "")
        for row in wanted
    }
    return [
        Start(row, "training", functools.partial(Container.of_row, row, image))
        for row, image in images.items()
    ]


def _image_starts(folder: Path) -> List[Start]:
    """Builds the example images first, while there is a network."""
    return [
        Start(row, "studio" if built.is_studio else "training", functools.partial(Container.of_image, row))
        for built in build_all(Path(_debian()), _find_python, folder)
        for row in (ImageRow(built, False), ImageRow(built, True))
    ]


def _own_packages() -> str:
    import asyncssh

    return str(Path(asyncssh.__file__).parents[1])


def _packages(version: str, python: str) -> str:
    """asyncssh for this Python, installed once."""
    folder = CACHE / f"asyncssh-{version}"
    if not folder.exists():
        unfinished = folder.with_suffix(f"{folder.suffix}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        words = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(unfinished)]
        subprocess.run([f"{python}/bin/python3", *words, "asyncssh"], check=True, stdout=sys.stderr)
        unfinished.rename(folder)
    return str(folder)


def _debian() -> str:
    """A Debian of its own, made once. Raises when it cannot be had."""
    folder = CACHE / "debian"
    if not folder.exists():
        unfinished = CACHE / "debian.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        CACHE.mkdir(exist_ok=True)
        if shutil.which("debootstrap") is None:
            subprocess.run(["apt-get", "install", "-y", "-qq", "debootstrap"], check=True, stdout=sys.stderr)
        more = "openssh-server,openssh-client,openssh-sftp-server,libssl3,libffi8,zlib1g,ca-certificates"
        words = ["debootstrap", "--variant=minbase", f"--include={more}", "bookworm", str(unfinished)]
        subprocess.run(words, check=True, stdout=sys.stderr)
        subprocess.run(["chroot", str(unfinished), "apt-get", "clean"], check=True)
        unfinished.rename(folder)
    return str(folder)


# --- running them ---


def _leave_network() -> None:
    """From here on this process, and all it starts, has a loopback interface and nothing else."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _run(starts: Sequence[Start], folder: Path) -> int:
    """How many failed."""
    failed = 0
    with LocalCloud(folder / "cloud") as cloud:
        laptop = Laptop(cloud.info, "admin", folder)
        for start in starts:
            seconds, problem = _try(start, cloud, laptop, folder)
            failed += bool(problem)
            print(
                f"{'FAILED' if problem else 'ok':8} {start.row}: {problem or f'{seconds:.1f} s to a login'}",
                flush=True,
            )
    return failed


def _try(start: Start, cloud: LocalCloud, laptop: Laptop, folder: Path) -> Tuple[float, str]:
    """Seconds from the start of the container to its first login, and what is wrong."""
    key = laptop.python("from sagemaker_ssh_helper.client import keys; print(keys.ensure_key().public.line)")
    variables = {
        "AWS_ENDPOINT_URL": cloud.endpoint_url,
        "AWS_REGION": cloud.info["region"],
        "AWS_ACCESS_KEY_ID": laptop.env["AWS_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": laptop.env["AWS_SECRET_ACCESS_KEY"],
        "SSH_SSM_ROLE": cloud.info["role_arn"].rpartition("/")[2],
        "SSH_PUBLIC_KEY": key.strip(),
    }
    began_at = time.monotonic()
    container = start.make(variables, folder)
    try:
        host = f"{container.name}.{start.kind}.sagemaker"
        while not _is_online(cloud, container.name):
            if time.monotonic() - began_at > _ONLINE_TIMEOUT or container.process.poll() is not None:
                return 0.0, f"never online: {container.last_words()[-4000:]}"
            time.sleep(0.05)
        command = 'id -u; printf %s "$JOB_SECRET"; echo; sm-wait status'
        done = laptop.sm_ssh("exec", host, "--trust-first-use", "--", command)
        seconds = time.monotonic() - began_at
        expected = f'{start.row.uid}\nit\'s "{container.secret}"\n$HOME'.encode()
        if done.returncode != 0 or not done.stdout.startswith(expected):
            return (
                seconds,
                f"{done.returncode} {done.stdout!r} {done.stderr!r} {container.last_words()[-4000:]}",
            )
        if container.secret in container.log.read_text():
            return seconds, "a variable's value is in the job's log"
        return seconds, ""
    finally:
        container.end()


def _is_online(cloud: LocalCloud, name: str) -> bool:
    found = cloud.client("ssm", "admin").describe_instance_information(
        Filters=[{"Key": "tag:SSHResourceName", "Values": [name]}]
    )["InstanceInformationList"]
    return any(instance["PingStatus"] == "Online" for instance in found)


if __name__ == "__main__":
    sys.exit(main())
