"""
The ports that sessions go to: what a document asks for, where that is, and what is never connected to.
"""

import asyncio
import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from typing import Any, Callable, List, Mapping, Tuple

from sagemaker_ssh_helper.agent.documents import DocumentRefused
from sagemaker_ssh_helper.agent.programs import read_inputs
from sagemaker_ssh_helper.protocol.payloads import InteractiveShell, SessionType

CONNECT_FAILED = "Unable to connect to specified port: "
"""Begins the output of a session whose target does not answer, as users of official agents know it."""

# Metadata, DNS, time and licence services of the host, which official agents refuse to forward to, and the
# addresses that give containers their credentials.
DENIED_HOSTS = frozenset(
    (
        "169.254.169.254",
        "fd00:ec2::254",
        "169.254.169.253",
        "fd00:ec2::253",
        "169.254.169.123",
        "fd00:ec2::123",
        "169.254.169.250",
        "169.254.169.251",
        "fd00:ec2::240",
        "169.254.170.2",
        "169.254.170.23",
        "fd00:ec2::23",
    )
)

_DENIED = frozenset(ipaddress.ip_address(host).packed for host in DENIED_HOSTS)

_PORT = re.compile(r"[1-9][0-9]{0,4}")
_SSH_PORT = 22
_CONNECT_TIMEOUT = 30.0

Address = Tuple[str, int]


@dataclass(frozen=True)
class PortTarget:
    """Where a port session goes, and the properties to tell the client."""

    host: str
    """Nothing: this machine."""
    port: int
    properties: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.host else f"port {self.port}"

    @property
    def is_forwarded(self) -> bool:
        """The client forwards the connections to a port of its own; else one byte stream."""
        return self.properties.get("type") == "LocalPortForwarding"


def port_target(shell: InteractiveShell) -> PortTarget:
    """What the offer asks for. Raises DocumentRefused."""
    session_type = shell.document_content.get("sessionType")
    if session_type != SessionType.PORT:
        raise DocumentRefused(f"sessions of type {session_type!r} are not supported by this agent")
    _, found = read_inputs(shell)
    # Official clients read texts only.
    properties = {str(key): _property(str(key), value) for key, value in found.items()}
    text = properties.get("portNumber", "")
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise DocumentRefused(f"the port number {text[:20]!r} is none")
    return PortTarget(properties.get("host", ""), int(text), properties)


def _property(name: str, value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DocumentRefused(f"the session document's property {name} is no text")
    return value


def refuse_denied(host: str, addresses: List[str]) -> None:
    """Raise DocumentRefused when one of these, the addresses of ``host``, must not be forwarded to."""
    for address in addresses:
        plain = address.partition("%")[0].lower()
        try:
            denied = _is_denied(ipaddress.ip_address(plain).packed)
        except ValueError:
            raise DocumentRefused(f"forwarding to {host} is not allowed: it is not an address") from None
        if denied:
            raise DocumentRefused(f"forwarding to {host} ({plain}) is not allowed")


def _is_denied(packed: bytes) -> bool:
    """
    Whether these 4 or 16 bytes are a denied address, or have a denied IPv4 address in them.

    Networks translate and tunnel IPv6 that holds IPv4: mapped and compatible (``::ffff:a.b.c.d``,
    ``::a.b.c.d``), NAT64 below any prefix, around a byte of nothing (RFC 6052), 6to4, Teredo (which inverts
    it), ISATAP. So it is looked for at every place; of other addresses that hits next to none.
    """
    if packed in _DENIED:
        return True
    inverted = bytes(byte ^ 0xFF for byte in packed)
    texts = (packed, packed[:8] + packed[9:], inverted)
    return len(packed) == 16 and any(one in text for text in texts for one in _DENIED if len(one) == 4)


async def find_addresses(target: PortTarget, sshd_port: Callable[[], int]) -> List[Address]:
    """
    Where to connect, in order; nothing when the host has no address. Raises DocumentRefused.

    Args:
        sshd_port: where our sshd listens, for port 22 when nothing listens there; 0: nowhere.
    """
    if not target.host or target.host == "localhost":
        local = [("127.0.0.1", target.port), ("::1", target.port)]
        other = sshd_port() if target.port == _SSH_PORT else 0
        return [*local, ("127.0.0.1", other)] if other not in (0, _SSH_PORT) else local
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    hosts = [str(address[0]) for *_, address in found]
    refuse_denied(target.host, hosts)
    return [(host, target.port) for host in hosts]


async def connect(
    target: PortTarget, addresses: List[Address], protocol: Callable[[], asyncio.Protocol]
) -> None:
    """Connect to the first address that answers. Raises ConnectionError, which says why none did."""
    loop = asyncio.get_running_loop()
    problem = f"{target.host} has no address"
    for host, port in addresses:
        try:
            await asyncio.wait_for(loop.create_connection(protocol, host, port), _CONNECT_TIMEOUT)
            return
        except asyncio.TimeoutError:
            problem = f"{host}:{port} did not answer in {_CONNECT_TIMEOUT:g} s"
        except OSError as error:
            problem = f"{host}:{port}: {os.strerror(error.errno) if error.errno else error}"
    raise ConnectionError(problem)
