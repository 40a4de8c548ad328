"""
The demo with something broken under its feet, for test_demo.py: python sabotaged_demo.py WHAT.

The saboteur is told of each step before it begins, as any reporter of the demo is.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, Tuple

from sagemaker_ssh_helper.cli import demo


def processes() -> Iterator[Tuple[int, str, Dict[str, str]]]:
    """Number, command line and environment of every process that we may look at."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            lines = (folder / "environ").read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        yield int(folder.name), words, dict(line.partition("=")[::2] for line in lines)


class Saboteur(demo.Console):
    def __init__(self, what: str) -> None:
        self.what = what
        self.job = ""

    def end(self, step: str, seconds: float, evidence: str) -> None:
        super().end(step, seconds, evidence)
        if step.startswith("launch"):
            self.job = evidence

    def begin(self, step: str) -> None:
        if step.startswith("ssh "):
            getattr(self, self.what)()

    def host_key(self) -> None:
        """Another key answers than the one the container told."""
        folder = next(
            Path(env["SSH_STATE_DIR"])
            for _, _, env in processes()
            if env.get("TRAINING_JOB_NAME") == self.job and "SSH_STATE_DIR" in env
        )
        key = folder / "ssh_host_ed25519_key"
        for path in (key, key.with_name(f"{key.name}.pub")):
            path.unlink()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        # sshd reads its key again when it is told to start over.
        os.kill(int((folder / "sshd.pid").read_text()), signal.SIGHUP)

    def gateway(self) -> None:
        """The cloud is gone, at once."""
        for pid, words, env in processes():
            if "emulator start" in words and env.get("HOME") == os.environ["HOME"]:
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(demo.run(demo.Job(), Saboteur(sys.argv[1])))
