"""
One HTTP/1.1 request and its answer, blocking: what the agent's calls and its credential look-ups share.

Connections to a host are kept open for some seconds, because the calls of a start follow each other at once.
Safe to use from several threads.
"""

import http.client
import os
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Callable, Dict, Mapping, Optional, Set, Tuple
from urllib.parse import SplitResult, urlsplit

from sagemaker_ssh_helper.aws_errors import hide_sent
from sagemaker_ssh_helper.channels.certificates import default_ssl_context
from sagemaker_ssh_helper.errors import EndpointUnreachable, reason_of
from sagemaker_ssh_helper.proxy_variables import Proxy, find_proxy

DEFAULT_TIMEOUT = 15.0
_CONNECT_TIMEOUT = 10.0
# Longer than the pauses between the calls of a start, shorter than servers wait.
_IDLE_TIMEOUT = 4.0
_MAX_ANSWER_BYTES = 4 << 20


@dataclass(frozen=True)
class Answer:
    """What the server said. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class _Request:
    url: SplitResult
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    chunked: bool
    timeout: float


class Transport:
    """
    Sends requests, through the environment's proxy where one is set.

    Args:
        ssl_context: called once, for the first https request; None: the package's default.
    """

    def __init__(
        self,
        environ: Optional[Mapping[str, str]] = None,
        ssl_context: Optional[Callable[[], ssl.SSLContext]] = None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._make_ssl_context = ssl_context or default_ssl_context
        self._ssl_context: Optional[ssl.SSLContext] = None
        self._idle: Dict[Tuple[str, str], Tuple[http.client.HTTPConnection, float]] = {}
        self._busy: Set[http.client.HTTPConnection] = set()
        self._aborted = False
        self._lock = threading.Lock()

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        timeout: float = DEFAULT_TIMEOUT,
        chunked: bool = False,
        direct: bool = False,
    ) -> Answer:
        """
        The answer, whatever its status. Redirects are not followed.

        Args:
            headers: to be sent beside Host, Accept-Encoding and the body's length.
            timeout: seconds without progress.
            chunked: send the body with ``Transfer-Encoding: chunked`` instead of a length.
            direct: use no proxy, and a connection of its own.

        Raises EndpointUnreachable when there is no answer, LocalSetup when the environment names a proxy or
        certificates that cannot be used.
        """
        parts, port = _split(url)
        tls = parts.scheme == "https"
        proxy = None if direct else find_proxy(tls, parts.hostname or "", port, self._environ)
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        headers = dict(headers)
        if proxy and parts.scheme == "http":
            path = f"http://{parts.netloc.rpartition('@')[2]}{path}"
            headers.update(_proxy_headers(proxy))
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        request = _Request(parts, method, path, headers, body, chunked, timeout)
        try:
            connection = None if direct else self._take_idle(parts)
            if connection is not None:
                try:
                    return self._exchange(connection, request, keep=True)
                except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
                    # The server had given the idle connection up; that says nothing about the request.
                    pass
            return self._exchange(self._connect(parts, proxy, timeout), request, keep=not direct)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _unreachable(parts, proxy, error) from error

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            connections = [connection for connection, _ in self._idle.values()]
            self._idle.clear()
        for connection in connections:
            connection.close()

    def abort(self) -> None:
        """Break off what is under way in other threads, and refuse what comes: the process ends."""
        self._aborted = True
        with self._lock:
            busy = list(self._busy)
        for connection in busy:
            sock = connection.sock
            try:
                if sock is not None:
                    sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                # It ended by itself.
                pass
        self.close()

    def ssl_context(self) -> ssl.SSLContext:
        """The context for https, made once: to read the system's certificates takes a while."""
        with self._lock:
            if self._ssl_context is None:
                self._ssl_context = self._make_ssl_context()
            return self._ssl_context

    def _take_idle(self, url: SplitResult) -> Optional[http.client.HTTPConnection]:
        with self._lock:
            connection, since = self._idle.pop((url.scheme, url.netloc), (None, 0.0))
        if connection is not None and time.monotonic() - since > _IDLE_TIMEOUT:
            connection.close()
            return None
        return connection

    def _put_idle(self, url: SplitResult, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            previous, _ = self._idle.get((url.scheme, url.netloc), (None, 0.0))
            self._idle[url.scheme, url.netloc] = (connection, time.monotonic())
        if previous is not None:
            previous.close()

    def _connect(
        self, url: SplitResult, proxy: Optional[Proxy], timeout: float
    ) -> http.client.HTTPConnection:
        """A connection, not open yet."""
        timeout = min(timeout, _CONNECT_TIMEOUT)
        host, port = url.hostname or "", url.port
        if url.scheme == "http":
            if proxy:
                host, port = proxy.host, proxy.port
            return http.client.HTTPConnection(host, port, timeout=timeout)
        context = self.ssl_context()
        if not proxy:
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
        connection = http.client.HTTPSConnection(proxy.host, proxy.port, timeout=timeout, context=context)
        connection.set_tunnel(host, port or 443, headers=_proxy_headers(proxy))
        return connection

    def _exchange(self, connection: http.client.HTTPConnection, request: _Request, keep: bool) -> Answer:
        with self._lock:
            self._busy.add(connection)
        try:
            if connection.sock is None:
                connection.connect()
            # Whoever aborts sees the socket now, or has said so before.
            if self._aborted:
                raise ConnectionAbortedError("the process ends")
            connection.sock.settimeout(request.timeout)
            # A list is sent as chunks, bytes with their length.
            body = [request.body] if request.chunked else request.body or None
            connection.request(
                request.method, request.path, body, request.headers, encode_chunked=request.chunked
            )
            response = connection.getresponse()
            content = response.read(_MAX_ANSWER_BYTES + 1)
            if len(content) > _MAX_ANSWER_BYTES:
                raise EndpointUnreachable(f"its answer is longer than {_MAX_ANSWER_BYTES} bytes")
            headers = {name.lower(): value for name, value in response.getheaders()}
        except BaseException:
            connection.close()
            raise
        finally:
            with self._lock:
                self._busy.discard(connection)
        if keep and not response.will_close:
            self._put_idle(request.url, connection)
        else:
            connection.close()
        if response.status >= 400:
            content = hide_sent(content, request.headers)
        return Answer(response.status, headers, content)


def _split(url: str) -> Tuple[SplitResult, int]:
    """Raises EndpointUnreachable for what is not a URL of ours; it may have a password in it."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError
    except ValueError:
        raise EndpointUnreachable("the address of a service is not a valid http or https URL") from None
    return parts, port


def _proxy_headers(proxy: Proxy) -> Dict[str, str]:
    return {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}


def _unreachable(url: SplitResult, proxy: Optional[Proxy], error: Exception) -> EndpointUnreachable:
    """The error to show; the proxy's password is not in it."""
    through = f" through the proxy {proxy}" if proxy else ""
    fix: Optional[str] = None
    if isinstance(error, ssl.SSLCertVerificationError):
        evidence = f"its certificate is not trusted: {error.verify_message}"
        fix = "Set AWS_CA_BUNDLE to a file with the certificate authority's certificate"
    elif isinstance(error, socket.gaierror):
        evidence = "its name cannot be resolved"
    elif proxy and "407" in str(error):
        evidence = "it answered 407: it wants a name and a password, or others"
        fix = f"Set {proxy.variable} to http://NAME:PASSWORD@HOST:PORT in the job's environment"
    elif isinstance(error, socket.timeout):
        evidence = "no answer in time"
    else:
        # Not its text: http.client quotes a header that it cannot send.
        evidence = reason_of(error)
    host = url.netloc.rpartition("@")[2]
    return EndpointUnreachable(f"{host} cannot be reached{through}", evidence=evidence, fix=fix)
