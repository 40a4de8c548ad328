"""
Processes of this machine, by /proc; containers of the local cloud share them.
"""

import contextlib
import os
from pathlib import Path
from typing import Dict, Iterator, List


def lives(pid: int) -> bool:
    """There is such a process, and it is no zombie that waits for somebody else's parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> List[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> List[int]:
    return [found for child in children(pid) for found in (child, *descendants(child))]


def ancestors(pid: int) -> List[int]:
    """The process and those above it."""
    found = []
    while pid > 1:
        found.append(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def agent_above(pid: int) -> int:
    """The agent that started this process of a session."""
    return next(
        above
        for above in ancestors(pid)
        if b"sagemaker_ssh_helper.agent" in Path(f"/proc/{above}/cmdline").read_bytes()
    )


def holder_of(port: int) -> int:
    """The process with the end of a TCP connection that has this port on 127.0.0.1."""
    address = f"0100007F:{port:04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()]
    (socket,) = [f"socket:[{row[9]}]" for row in rows if row[1] == address]
    return next(pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if socket in _opened(pid))


def _opened(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            # It may be closed, or the process gone, or another user's.
            with contextlib.suppress(OSError):
                yield os.readlink(f"{folder}/{name}")


def footprint(pid: int) -> Dict[str, int]:
    """What a process holds: ``memory`` in KiB, ``descriptors``, ``threads``, ``children``."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    return {
        "memory": int(status["VmRSS"].split()[0]),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(status["Threads"]),
        "children": len(children(pid)),
    }
