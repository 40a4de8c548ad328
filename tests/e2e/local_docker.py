"""
Stands for ``docker`` where there is none, for the local mode of the SageMaker Python SDK.

Runs the services of a compose file as processes, with their variables alone, each with its volumes linked
into a folder in the place of ``/opt/ml``. Their programs are those in ``PATH``.
"""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

import yaml

from sagemaker_ssh_helper.emulator import supervisor

LINKS: List[socket.socket] = []


def start(service: Dict[str, Any], folder: Path) -> "subprocess.Popen[bytes]":
    for volume in service["volumes"]:
        here, there = volume.split(":")[:2]
        Path(here).mkdir(parents=True, exist_ok=True)
        inside = folder / Path(there).relative_to("/opt/ml")
        # A volume in a volume is there by the outer one.
        if not inside.exists():
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.symlink_to(here)
    state = folder / "ssh"
    state.mkdir(mode=0o700)
    machine = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
    home = folder / "home"
    home.mkdir()
    own = dict(variable.split("=", 1) for variable in service["environment"])
    places = {"HOME": str(home), "SAGEMAKER_BASE_DIR": str(folder), "SSH_STATE_DIR": str(state)}
    # What a container's program leaves behind ends with it, and all of it when we are killed.
    ours, theirs = socket.socketpair()
    LINKS.append(ours)
    options = ["--control-fd", str(theirs.fileno()), "--", service["command"]]
    with theirs:
        return subprocess.Popen(
            [sys.executable, supervisor.__file__, *options],
            env={**machine, **places, **own},
            cwd=str(folder),
            pass_fds=[theirs.fileno()],
        )


def main() -> int:
    if sys.argv[1:3] == ["compose", "version"]:
        print("Docker Compose version v2.20.0")
        return 0
    services = yaml.safe_load(Path(sys.argv[sys.argv.index("-f") + 1]).read_text())["services"]
    with tempfile.TemporaryDirectory() as place:
        running = []
        for name, service in services.items():
            folder = Path(place) / name
            folder.mkdir()
            running.append(start(service, folder))
        return max(process.wait() for process in running)


if __name__ == "__main__":
    sys.exit(main())
