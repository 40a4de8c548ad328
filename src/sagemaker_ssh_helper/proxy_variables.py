"""
The HTTP proxy that the environment names, as both ends and all their connections read it.

``https_proxy`` for https: and wss:, ``http_proxy`` for http: and ws:, else ``all_proxy``; in small letters or
capitals, where the small ones count first. ``no_proxy`` lists what is reached directly. Only proxies that
speak HTTP themselves are of use: no SOCKS, no TLS before CONNECT.

Imports the standard library only; Python 3.8.
"""

import base64
import ipaddress
from typing import Mapping, NamedTuple, Optional, Tuple, Union
from urllib.parse import quote, unquote, urlsplit

from sagemaker_ssh_helper.errors import LocalSetup

_DEFAULT_PORT = 80
_Host = Union[str, ipaddress.IPv4Address, ipaddress.IPv6Address]


class Proxy(NamedTuple):
    """An HTTP proxy that understands CONNECT. Its name and password are in no ``str``."""

    host: str
    port: int
    username: Optional[str] = None
    password: str = ""
    variable: str = "HTTPS_PROXY"
    """What named it."""

    def __str__(self) -> str:
        return f"{_in_url(self.host)}:{self.port}"

    def __repr__(self) -> str:
        return str(self)

    @property
    def authorization(self) -> Optional[str]:
        """The value of Proxy-Authorization."""
        if self.username is None:
            return None
        credentials = f"{self.username}:{self.password}"
        return "Basic " + base64.b64encode(credentials.encode("utf-8")).decode("ascii")

    @property
    def url(self) -> str:
        """With name and password."""
        user = "" if self.username is None else f"{quote(self.username, '')}:{quote(self.password, '')}@"
        return f"http://{user}{self}"


def find_proxy(tls: bool, host: str, port: int, environ: Mapping[str, str]) -> Optional[Proxy]:
    """
    The proxy for a connection; None for loopback, and for what NO_PROXY lists.

    That is names (with all names below them, a leading dot or ``*.`` changes nothing), addresses, networks
    like ``10.0.0.0/8``, each but the networks perhaps with a port, or ``*``.

    Raises LocalSetup, which names the variable and not its value, for a proxy that cannot be used.
    """
    variable, url = _named("https_proxy" if tls else "http_proxy", environ)
    if not url:
        variable, url = _named("all_proxy", environ)
    if not url or _is_direct(_host(host), port, _named("no_proxy", environ)[1]):
        return None
    fix = f"Set {variable} to http://HOST:PORT, or list {host} in NO_PROXY"
    try:
        parts = urlsplit(url if "://" in url else "http://" + url)
        name, number = parts.hostname or "", _DEFAULT_PORT if parts.port is None else parts.port
        if not name or not number or not name.isprintable() or " " in name:
            raise ValueError
    except ValueError:
        # Without its text, which may hold a password.
        raise LocalSetup(f"{variable} is not a valid URL of a proxy", fix=fix) from None
    if parts.scheme != "http":
        raise LocalSetup(
            f"{variable} names a proxy that cannot be used",
            evidence=f"{parts.scheme}://{_in_url(name)}:{number} does not speak plain HTTP",
            fix=fix,
        )
    username = None if parts.username is None else unquote(parts.username)
    return Proxy(name, number, username, unquote(parts.password or ""), variable)


def names_proxy(environ: Mapping[str, str]) -> bool:
    """Whether any variable names one."""
    return any(_named(name, environ)[1] for name in ("https_proxy", "http_proxy", "all_proxy"))


def _named(name: str, environ: Mapping[str, str]) -> Tuple[str, str]:
    """The variable that counts, and its value. One in small letters counts although it is empty."""
    capitals = name.upper()
    # A server sets it for a CGI program from what a client sends.
    is_of_a_client = capitals == "HTTP_PROXY" and "REQUEST_METHOD" in environ
    variable = name if name in environ or is_of_a_client else capitals
    return variable, environ.get(variable, "").strip()


def _is_direct(host: _Host, port: int, no_proxy: str) -> bool:
    if isinstance(host, str):
        if host == "localhost":
            return True
    elif host.is_loopback:
        return True
    return any(_is_listed(host, port, entry) for entry in no_proxy.lower().replace(",", " ").split())


def _is_listed(host: _Host, port: int, entry: str) -> bool:
    if entry == "*":
        return True
    if not isinstance(host, str) and "/" in entry:
        try:
            return host in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, colon, number = entry.rpartition(":")
    if colon and number.isdigit() and (name.startswith("[") or ":" not in name):
        if number.lstrip("0") != str(port):
            return False
        entry = name
    listed = _host(entry.strip("[]").lstrip("*").lstrip("."))
    if isinstance(host, str) and isinstance(listed, str):
        return bool(listed) and (host == listed or host.endswith("." + listed))
    return host == listed


def _host(text: str) -> _Host:
    text = text.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
