"""
Where a WebSocket goes, and the way through an HTTP proxy.
"""

import asyncio
import re
import socket
from typing import NamedTuple, Optional
from urllib.parse import urlsplit

from sagemaker_ssh_helper.aws_errors import hide_sent
from sagemaker_ssh_helper.channels.dialing import dial
from sagemaker_ssh_helper.errors import ConnectionFailed, reason_of
from sagemaker_ssh_helper.proxy_variables import Proxy

MAX_HEAD_BYTES = 16384  # of the proxy's answer


class Address(NamedTuple):
    """A ws: or wss: URL."""

    tls: bool
    host: str
    port: int
    host_header: str
    path: str

    def __str__(self) -> str:
        # Without the query, which may hold a signature.
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> "Address":
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("ws", "wss") or not parts.hostname:
                raise ValueError("no WebSocket URL")
            port = parts.port
        except ValueError:
            raise ConnectionFailed(
                "the address of the session is no WebSocket URL", evidence=url.partition("?")[0][:200]
            ) from None
        tls = parts.scheme == "wss"
        path = parts.path or "/"
        if parts.query:
            path += "?" + parts.query
        return cls(tls, parts.hostname, port or (443 if tls else 80), parts.netloc.rpartition("@")[2], path)


async def open_tunnel(proxy: Proxy, address: Address, again: Optional[float] = None) -> socket.socket:
    """
    A socket through the proxy to the address. The caller has the deadline, and closes the socket.

    Args:
        again: as for ``dial``.

    Raises:
        ConnectionFailed: the proxy is not there, or does not let us through; then with ``status``.
    """
    loop = asyncio.get_running_loop()
    try:
        sock = await dial(proxy.host, proxy.port, again)
    except OSError as error:
        raise ConnectionFailed(
            f"cannot reach {address} through the proxy {proxy}", evidence=reason_of(error)
        ) from error
    try:
        host = f"[{address.host}]" if ":" in address.host else address.host
        lines = [f"CONNECT {host}:{address.port} HTTP/1.1", f"Host: {host}:{address.port}"]
        if proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        await loop.sock_sendall(sock, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        head = b""
        # We speak first inside the tunnel, so nothing but the head can come.
        while b"\r\n\r\n" not in head:
            data = await loop.sock_recv(sock, 4096)
            head += data
            if not data or len(head) > MAX_HEAD_BYTES:
                raise ConnectionFailed(f"the proxy {proxy} did not answer CONNECT {address}")
        check_answer(head, proxy, address)
        return sock
    except BaseException:
        sock.close()
        raise


def check_answer(head: bytes, proxy: Proxy, address: Address) -> None:
    """Raise ConnectionFailed unless this head of the proxy's answer to CONNECT lets us through."""
    first = head.split(b"\r\n", 1)[0]
    if proxy.authorization is not None:
        first = hide_sent(first, {"Proxy-Authorization": proxy.authorization})
    words = first.decode("latin-1").split(None, 2)
    status = int(words[1]) if len(words) > 1 and re.fullmatch("[1-9][0-9]{2}", words[1]) else 0
    if not 200 <= status < 300:
        raise ConnectionFailed(
            f"the proxy {proxy} refused to connect to {address}",
            evidence=" ".join(words)[:200],
            fix=f"Check the name and password in {proxy.variable}" if status == 407 else None,
            status=status or None,
        )
