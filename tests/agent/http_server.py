"""A loopback HTTP server whose answers a test scripts."""

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Callable, Dict, List, Mapping, Optional, Type, Union


@dataclass(frozen=True)
class Received:
    """One request as it arrived. Header names are in lower case; a chunked body is joined."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    """Which connection of the server it came on, counted from 0."""

    @property
    def json(self) -> Any:
        return json.loads(self.body.decode("utf-8"))


@dataclass(frozen=True)
class Reply:
    """An answer. ``body`` is sent as it is, or as JSON when it is a dict; ``hang_up`` closes without one."""

    status: int = 200
    body: Union[bytes, Dict[str, Any]] = b""
    headers: Optional[Mapping[str, str]] = None
    hang_up: bool = False


def aws_error(code: str, message: str = "", status: int = 400) -> Reply:
    return Reply(status, {"__type": code, "message": message})


class ScriptedServer:
    """
    Answers with the next of the replies; the last one stays. Use it as a context manager.

    ``before_reply`` is called with each request before it is answered.
    """

    def __init__(self, *replies: Reply, before_reply: Callable[[Received], None] = lambda _: None) -> None:
        self.requests: List[Received] = []
        self.replies = list(replies) or [Reply(200, {})]
        self.before_reply = before_reply
        self._lock = threading.Lock()
        self._connections = 0
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with scripted._lock:
                    self.connection_number = scripted._connections
                    scripted._connections += 1

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: the test looks at the requests."""

            def _read_body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""
                while True:
                    size = int(self.rfile.readline(), 16)
                    body += self.rfile.read(size)
                    self.rfile.readline()
                    if size == 0:
                        return body

            def _answer(self) -> None:
                body = self._read_body()
                headers = {name.lower(): value for name, value in self.headers.items()}
                received = Received(self.command, self.path, headers, body, self.connection_number)
                with scripted._lock:
                    scripted.requests.append(received)
                    reply = scripted.replies[0]
                    if len(scripted.replies) > 1:
                        scripted.replies.pop(0)
                scripted.before_reply(received)
                if reply.hang_up:
                    self.close_connection = True
                    return
                content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in (reply.headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_CONNECT = _answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "ScriptedServer":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def unused_port() -> int:
    """A port of 127.0.0.1 where nothing listens."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
