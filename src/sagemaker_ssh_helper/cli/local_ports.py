"""
Ports of this machine that are to listen, and those that every login brings along.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.errors import UsageError
from sagemaker_ssh_helper.names import ResourceKind

LOOPBACK = "127.0.0.1"

DEBUGGER_PORT = 12345
"""A port of the container that reaches the same one here, where an IDE's debugger may listen."""

_SSH_PORTS = {
    ResourceKind.STUDIO: 10022,
    ResourceKind.TRAINING: 11022,
    ResourceKind.INFERENCE: 12022,
    ResourceKind.PROCESSING: 14022,
    ResourceKind.TRANSFORM: 16022,
    ResourceKind.NOTEBOOK: 17022,
}
# VNC, and Jupyter.
_STUDIO_PORTS = (5901, 8889)


@dataclass(frozen=True)
class Forward:
    """A port that listens, and where its connections go. ``near`` is 0 for any free port."""

    near: int
    host: str
    far: int


def defaults(kind: ResourceKind | None, ssh_port: int) -> list[Forward]:
    """
    The ports that a login to such a container brings here: its ssh server, for programs that know no
    ProxyCommand, and the desktop and Jupyter of Studio.
    """
    if kind is None:
        return []
    more = _STUDIO_PORTS if kind is ResourceKind.STUDIO else ()
    return [
        Forward(_SSH_PORTS[kind], "localhost", ssh_port),
        *(Forward(port, "localhost", port) for port in more),
    ]


def with_free_ports(address: str, forwards: Sequence[Forward]) -> list[Forward]:
    """The same with ports that nothing listens on now. Raises UsageError for an address that is not ours."""
    chosen: list[Forward] = []
    taken: set[int] = set()
    for forward in forwards:
        near = forward.near
        while near in taken or not (free := _free(address, near)):
            near = near + 1 if 0 < near < 65535 else 0
        if forward.near not in (0, free):
            say(f"local port {forward.near} is taken; using {free}")
        taken.add(free)
        chosen.append(Forward(free, forward.host, forward.far))
    return chosen


def _free(address: str, port: int) -> int:
    """The port, or for 0 a free one; 0 when it is taken."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
            return int(probe.getsockname()[1])
        except PermissionError as error:
            raise UsageError(
                f"port {port} may not be opened here", evidence=str(error), fix="Use one above 1023"
            ) from error
        except OSError as error:
            if port == 0 or isinstance(error, socket.gaierror):
                raise UsageError(f"{address!r} is no address of this machine", evidence=str(error)) from error
            import errno

            if error.errno == errno.EADDRINUSE:
                return 0
            raise UsageError(f"{address!r} is no address of this machine", evidence=str(error)) from error
