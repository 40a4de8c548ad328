"""
The far end of a session, in a process of its own so that it takes no time from what is measured.

    python -m bench.peer echo | take BYTES | give BYTES

Prints a port, and serves the one connection to it: says ``r``, then echoes, or takes so many bytes and
answers with ``k``, or gives so many after one came. At last prints when a quarter and when all had arrived.
"""

import json
import socket
import sys
import time
from typing import Callable, List

PIECE = 1 << 20


def main() -> int:
    what, amount = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"r")
        marks: List[float] = []
        if what == "echo":
            while data := connection.recv(PIECE):
                connection.sendall(data)
        elif what == "take":
            marks = count_off(lambda: len(connection.recv(PIECE)), amount)
            connection.sendall(b"k")
            connection.recv(1)
        else:
            connection.recv(1)
            write_all(connection.sendall, amount)
            connection.recv(1)
    print(json.dumps(marks))
    return 0


def write_all(write: Callable[[bytes], object], amount: int) -> None:
    """So many bytes, in pieces."""
    piece = bytes(PIECE)
    for _ in range(amount // PIECE):
        write(piece)
    write(piece[: amount % PIECE])


def count_off(read: Callable[[], int], amount: int) -> List[float]:
    """When a quarter had been read, and when all had; by a clock that all processes share."""
    marks: List[float] = []
    got = 0
    while got < amount:
        size = read()
        if not size:
            raise EOFError(f"the session ended after {got} bytes of {amount}")
        got += size
        if not marks and got >= amount / 4:
            marks.append(time.perf_counter())
    return [*marks, time.perf_counter()]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ConnectionError, EOFError):
        # The session was ended in the midst of it.
        sys.exit(1)
