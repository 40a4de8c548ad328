"""What the figures share: the machine they run on, and looks at its processes."""

import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests")]

from e2e.laptop import Job, Laptop  # noqa: E402  (the path is set above)
from local_cloud import LocalCloud  # noqa: E402


@dataclass(frozen=True)
class Effort:
    """How much is measured. A figure is the median of its runs."""

    runs: int
    large_bytes: int
    """Of a transfer in the size of payloads that is found out."""
    small_bytes: int
    """Of one in payloads of 1024 bytes."""
    echoes: int
    sessions: int


FULL = Effort(runs=5, large_bytes=300_000_000, small_bytes=50_000_000, echoes=2000, sessions=3000)
QUICK = Effort(runs=1, large_bytes=60_000_000, small_bytes=8_000_000, echoes=200, sessions=100)


@dataclass(frozen=True)
class Site:
    """A local cloud, a user of it, and a job of hers that is online."""

    cloud: LocalCloud
    alice: Laptop
    job: Job
    effort: Effort

    @property
    def pids(self) -> Dict[str, int]:
        """The processes between a client and a port, except the client."""
        # The one above it has the same words.
        _, agent = processes_with("sagemaker_ssh_helper.agent.keeper", self.job.name)
        return {"gateway": self.cloud.process.pid, "agent": agent}

    def instance_id(self) -> str:
        return str(self.job.instances()[0]["InstanceId"])

    @contextmanager
    def proxy(self, *command: str, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A Python program of alice's with pipes."""
        paths = [str(ROOT), self.alice.env.get("PYTHONPATH", "")]
        env = {**self.alice.env, "PYTHONPATH": os.pathsep.join(paths), **variables}
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            yield process
        finally:
            # Its input stays open so long: one that ends has the rest of the output waited for.
            process.terminate()
            process.wait(30)
            process.communicate()


def processes_with(*words: str) -> List[int]:
    """The processes whose command line or environment has these words, the oldest first."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if all(word.encode() in text for word in words):
            found.append(int(folder.name))
    return sorted(found, key=started_at)


def started_at(pid: int) -> int:
    """In the kernel's ticks since the machine's start."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def cpu_seconds(pid: int) -> float:
    """Of its own time and the system's for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def timing(runs: int, work: Callable[[], Any]) -> float:
    """Median seconds of some runs."""
    seconds: List[float] = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    # The first one fills caches.
    return statistics.median(seconds[1:])


def tell(name: str, value: float) -> float:
    """Report progress; the value as it goes to the figures."""
    print(f"{name:38} {value:10.3f}", file=sys.stderr, flush=True)
    return round(value, 4)
