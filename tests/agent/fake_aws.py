"""
The few answers of AWS that a set-up needs, by operation; a test can look at each call and hold it up.

For the set-up alone: what happens after the registration is tested against the local cloud.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Tuple, Type

ACTIVATION = {"ActivationId": "11111111-2222-3333-4444-555555555555", "ActivationCode": "A" * 20}
IDENTITY = (
    "<GetCallerIdentityResponse><GetCallerIdentityResult>"
    "<Arn>arn:aws:sts::111122223333:assumed-role/JobRole/SageMaker</Arn>"
    "<UserId>AROAEXAMPLE:SageMaker</UserId><Account>111122223333</Account>"
    "</GetCallerIdentityResult></GetCallerIdentityResponse>"
)

Answer = Tuple[int, Any]


class FakeAws:
    """A loopback endpoint for every service. ``answers`` maps an operation to (status, JSON or text)."""

    def __init__(self) -> None:
        self.calls: List[Tuple[str, Any]] = []
        self.answers: Dict[str, Answer] = {
            "GetCallerIdentity": (200, IDENTITY),
            "CreateActivation": (200, ACTIVATION),
            # A node gets this far and no further.
            "RegisterManagedInstance": (400, {"__type": "InvalidActivation", "message": "enough"}),
        }
        self.before: Dict[str, Callable[[], object]] = {}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: the test looks at the calls."""

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                found = b""
                while True:
                    size = int(self.rfile.readline(), 16)
                    found += self.rfile.read(size)
                    self.rfile.readline()
                    if not size:
                        return found

            def do_POST(self) -> None:
                body = self._body().decode()
                operation = self.headers.get("X-Amz-Target", "").partition(".")[2]
                parameters: Any = body
                if operation:
                    parameters = json.loads(body)
                else:
                    operation = body.partition("Action=")[2].partition("&")[0]
                fake.calls.append((operation, parameters))
                fake.before.get(operation, lambda: None)()
                status, answer = fake.answers.get(operation, (400, {"__type": "UnknownOperationException"}))
                content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def parameters(self, operation: str) -> List[Any]:
        """What each call of the operation carried."""
        return [parameters for name, parameters in self.calls if name == operation]

    def __enter__(self) -> "FakeAws":
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
