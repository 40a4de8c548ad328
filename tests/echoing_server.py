"""
A server that answers with what it was sent: the head of the request, in the form of an error of AWS's, or
in none.

As proxies, debugging pages, and services that explain a signature do.
"""

import html
import json
import socket
import threading
from contextlib import contextmanager
from typing import Iterator, Tuple

FORMS = ("json", "denied", "xml", "s3", "page", "status-line", "header", "good", "proxy", "close", "redirect")


def answer(form: str, head: bytes) -> bytes:
    """What it sends; nothing: it hangs up."""
    text = head.decode("latin-1")
    line = " ".join(text.split())
    in_xml = f"<Code>SignatureDoesNotMatch</Code><Message>{html.escape(text)}</Message>"
    denied = {"__type": f"AccessDeniedException{line}", "Message": text}
    first, body = {
        "json": ("400 Bad", json.dumps({"__type": "InvalidSignatureException", "message": text})),
        "denied": ("403 Forbidden", json.dumps(denied)),
        "xml": ("400 Bad", f"<ErrorResponse><Error>{in_xml}</Error></ErrorResponse>"),
        "s3": ("403 Forbidden", f"<Error><Code>{html.escape(line[:90])}</Code>{in_xml}</Error>"),
        "page": ("500 Oops", line),
        "status-line": (f"4oo {line}", ""),
        "header": (f"400 Bad {line}\r\nx-amzn-ErrorType: {line}\r\nDate: {line}", ""),
        "good": ("200 OK", line),
        "proxy": (f"407 {line}", ""),
        "redirect": (f"301 Moved\r\nLocation: http://u:{line}", ""),
        "close": ("", ""),
    }[form]
    data = body.encode("latin-1")
    rest = f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    return f"HTTP/1.1 {first}\r\n{rest}".encode("latin-1") + data if first else b""


@contextmanager
def echoing(form: str) -> Iterator[Tuple[str, int]]:
    """Where it listens."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_one(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            head = b""
            try:
                while b"\r\n\r\n" not in head:
                    data = connection.recv(65536)
                    if not data:
                        return
                    head += data
                connection.sendall(answer(form, head))
                connection.shutdown(socket.SHUT_WR)
                # Until it has read it all: a reset would take the answer away.
                while connection.recv(65536):
                    pass
            except OSError:
                # It had enough.
                pass

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve_one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
