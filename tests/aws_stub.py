"""
A stand-in for AWS's JSON services on loopback: answers what a test says, and remembers what was asked.
"""

from __future__ import annotations

import calendar
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """An error answer."""

    code: str
    message: str = ""
    status: int = 400
    body: bytes | None = None
    """Instead of AWS's JSON."""


Answer = Mapping[str, Any] | Refusal | Callable[[dict[str, Any]], Any]


@dataclass
class Asked:
    """One request."""

    operation: str
    params: dict[str, Any]
    headers: dict[str, str]


@dataclass
class AwsStub:
    """The answers by operation (``StartSession``), and what was asked so far."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before each answer."""
    ahead: float = 0.0
    """Seconds that its clock is ahead of ours. Signatures are to be of its time."""
    asked: list[Asked] = field(default_factory=list)

    @property
    def operations(self) -> list[str]:
        return [asked.operation for asked in self.asked]

    def environment(self, **more: str) -> dict[str, str]:
        """Variables for a process that calls this stub, and knows nothing else of AWS."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "AWS_REGION": "eu-west-1",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            "AWS_EC2_METADATA_DISABLED": "true",
            **more,
        }


@contextmanager
def aws_stub() -> Iterator[AwsStub]:
    stub = AwsStub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        # Head and body at once: the client waits 40 ms for what comes alone.
        wbufsize = -1

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((timestamp or time.time()) + stub.ahead)

        def is_of_another_time(self) -> bool:
            signed = self.headers.get("X-Amz-Date")
            if signed is None:
                return False
            at = calendar.timegm(time.strptime(signed, "%Y%m%dT%H%M%SZ"))
            return abs(time.time() + stub.ahead - at) > 300

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            target = self.headers.get("X-Amz-Target")
            if self.command == "PUT":
                operation, params = "PutObject", {"key": self.path}
            elif target is None:
                operation, params = body.decode().split("Action=")[1].split("&")[0], {}
            else:
                operation, params = target.split(".")[1], json.loads(body)
            stub.asked.append(Asked(operation, params, dict(self.headers.items())))
            time.sleep(stub.delay)
            answer = stub.answers.get(operation, Refusal("UnknownOperationException"))
            if self.is_of_another_time():
                answer = Refusal("InvalidSignatureException", "no", 403)
                if target is None:
                    is_s3 = operation == "PutObject"
                    code = b"RequestTimeTooSkewed" if is_s3 else b"SignatureDoesNotMatch"
                    in_xml = b"<Error><Code>%b</Code><Message>no</Message></Error>" % code
                    answer = Refusal("", "", 403, in_xml if is_s3 else b"<R>%b</R>" % in_xml)
            if callable(answer):
                answer = answer(params)
            status, content = 200, b""
            if isinstance(answer, Refusal):
                status = answer.status
                content = (
                    answer.body
                    if answer.body is not None
                    else json.dumps(
                        {"__type": f"com.amazonaws.stub#{answer.code}", "message": answer.message}
                    ).encode()
                )
            else:
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PUT = do_POST

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
