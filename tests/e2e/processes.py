"""
Processes of this machine, by /proc; containers of the local cloud share them.
"""

import contextlib
import os
import socket
from pathlib import Path
from typing import Dict, Iterator, List


def lives(pid: int) -> bool:
    """There is such a process, and it is no zombie that waits for somebody else's parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def name_of(pid: int) -> str:
    """The name of its program; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def children(pid: int) -> List[int]:
    """None when it is gone."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


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


def other_end_of(connection: socket.socket) -> int:
    """The process with the other end of this TCP connection on 127.0.0.1."""
    # Connections to others may have the same port at that end.
    ends = [f"0100007F:{port:04X}" for port in (connection.getpeername()[1], connection.getsockname()[1])]
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()]
    (found,) = [f"socket:[{row[9]}]" for row in rows if row[1:3] == ends]
    return next(pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if found in _opened(pid))


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
