"""
How busy this container is: processors, network, GPUs; and whether that is little enough to call it idle.

Standard library only; Python 3.8.
"""

import glob
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import Callable, List, Optional, Tuple

MAX_CPU_PERCENT = 10.0
MAX_GPU_PERCENT = 5.0
MAX_NETWORK_BYTES_PER_SECOND = 10_000.0
"""Received and sent together. Below all three a container is idle."""

_GPU_TIMEOUT = 10.0  # seconds for nvidia-smi
_GPU_QUERY = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")
_JIFFIES = {"user", "nice", "system", "irq", "softirq", "steal"}
_STAT_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


class NoProbe(Exception):
    """Something here cannot be measured; ``str`` says what."""


@dataclass(frozen=True)
class _Sample:
    at: float
    cpu_seconds: float
    network_bytes: int


class Usage:
    """
    What is used, between one look and the next.

    Args:
        root: where ``/proc``, ``/sys`` and ``/dev`` are.
        clock: monotonic seconds.
    """

    def __init__(self, root: str = "/", clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._last: Optional[_Sample] = None

    def look(self) -> str:
        """
        Why the container was busy since the last look, or cannot be said to be idle; empty when it was idle.

        The first look has nothing to compare with.
        """
        try:
            return self._look()
        except NoProbe as problem:
            self._last = None
            return str(problem)

    def _look(self) -> str:
        sample = _Sample(self._clock(), self._cpu_seconds(), self._network_bytes())
        last, self._last = self._last, sample
        gpu = self._gpu_percent()
        if last is None:
            return "nothing is known yet"
        seconds = sample.at - last.at
        if seconds <= 0:
            return "no time has passed"
        cpu = 100.0 * (sample.cpu_seconds - last.cpu_seconds) / seconds / self._processors()
        network = (sample.network_bytes - last.network_bytes) / seconds
        for what, value, most, unit in (
            ("GPU", gpu, MAX_GPU_PERCENT, "%"),
            ("CPU", cpu, MAX_CPU_PERCENT, "%"),
            ("network", network, MAX_NETWORK_BYTES_PER_SECOND, "bytes/s"),
        ):
            if value >= most:
                return f"{what} {value:.0f} {unit}"
            if value < 0:
                return f"the counters of {what} began anew"
        return ""

    # --- processors ---

    def _cpu_seconds(self) -> float:
        """Of all processes of the container, by its control group; of the machine where there is none."""
        stat = self._read("sys/fs/cgroup/cpu.stat")
        if stat is not None:
            for line in stat.splitlines():
                name, _, value = line.partition(" ")
                if name == "usage_usec":
                    return _number("cpu.stat", value) / 1e6
        for folder in ("cpuacct", "cpu,cpuacct"):
            nanoseconds = self._read(f"sys/fs/cgroup/{folder}/cpuacct.usage")
            if nanoseconds is not None:
                return _number("cpuacct.usage", nanoseconds) / 1e9
        words = (self._read("proc/stat") or "").partition("\n")[0].split()
        if words[:1] != ["cpu"]:
            raise NoProbe("there is no count of processor time")
        spent = zip(_STAT_FIELDS, words[1:])
        ticks = sum(_number("/proc/stat", value) for name, value in spent if name in _JIFFIES)
        return ticks / os.sysconf("SC_CLK_TCK")

    def _processors(self) -> float:
        """How many the container may use."""
        count = float(len(os.sched_getaffinity(0)))
        quota, period = self._quota()
        if quota.strip().isdigit() and period.strip().isdigit() and int(period):
            count = min(count, int(quota) / int(period))
        return max(count, 0.01)

    def _quota(self) -> Tuple[str, str]:
        words = (self._read("sys/fs/cgroup/cpu.max") or "").split()
        if len(words) == 2:
            return words[0], words[1]
        for folder in ("cpu", "cpu,cpuacct"):
            quota = self._read(f"sys/fs/cgroup/{folder}/cpu.cfs_quota_us")
            period = self._read(f"sys/fs/cgroup/{folder}/cpu.cfs_period_us")
            if quota is not None and period is not None:
                return quota, period
        return "", ""

    # --- network ---

    def _network_bytes(self) -> int:
        """Received and sent by every interface but the loopback one."""
        text = self._read("proc/net/dev")
        if text is None:
            raise NoProbe("there is no count of network traffic")
        total = 0
        for line in text.splitlines()[2:]:
            name, _, counts = line.partition(":")
            values = counts.split()
            if name.strip() != "lo" and len(values) > 8:
                total += int(_number("/proc/net/dev", values[0]) + _number("/proc/net/dev", values[8]))
        return total

    # --- GPUs ---

    def _gpu_percent(self) -> float:
        """Of the busiest one; 0 where there is none."""
        if glob.glob(os.path.join(self._root, "dev", "neuron[0-9]*")):
            raise NoProbe("there are Neuron devices, and no way to see how busy they are")
        if not glob.glob(os.path.join(self._root, "dev", "nvidia[0-9]*")):
            return 0.0
        if shutil.which(_GPU_QUERY[0]) is None:
            raise NoProbe("there are GPUs, and no nvidia-smi")
        try:
            done = subprocess.run(
                _GPU_QUERY,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_GPU_TIMEOUT,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise NoProbe(f"nvidia-smi failed: {type(error).__name__}") from error
        found: List[float] = [
            _number("nvidia-smi", line) for line in done.stdout.decode("ascii", "replace").splitlines()
        ]
        if not found:
            raise NoProbe("nvidia-smi shows no GPU")
        return max(found)

    def _read(self, path: str) -> Optional[str]:
        try:
            with open(os.path.join(self._root, path), encoding="ascii", errors="replace") as file:
                return file.read()
        except OSError:
            return None


def _number(what: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise NoProbe(f"{what} says {text.strip()[:20]!r}, which is no number") from None
