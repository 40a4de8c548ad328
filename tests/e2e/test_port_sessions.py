"""Ports of a job on this machine without ssh: the real command, local cloud, agent and servers."""

import contextlib
import os
import re
import signal
import socket
import socketserver
import subprocess
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterator, List

import pytest

from e2e.laptop import SM_SSH, Job, Laptop, end, running, until

FORWARD = ("--document", "AWS-StartPortForwardingSession")
TO_HOST = ("--document", "AWS-StartPortForwardingSessionToRemoteHost")
PAGE = os.urandom(1 << 20)


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def admin(laptop: Callable[[str], Laptop]) -> Laptop:
    """Who may reach other hosts through a container, which users may not."""
    return laptop("admin")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice) as job:
        yield job


@pytest.fixture(scope="module")
def web() -> Iterator[int]:
    """The port of a web server, which has one page. Jobs of the local cloud share this machine's loopback."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PAGE))
            with contextlib.suppress(OSError):
                self.wfile.write(PAGE)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def forwarding(laptop: Laptop, job: Job, *arguments: str) -> "Iterator[tuple[subprocess.Popen[bytes], int]]":
    """The command, and the port on which it listens."""
    process = laptop.popen(
        *SM_SSH, "session", job.host, *arguments, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        with process.stderr:
            line = process.stderr.readline().decode()
            found = re.fullmatch(r"sm-ssh: 127\.0\.0\.1:(\d+) -> \S+:\d+; Ctrl-C stops\n", line)
            assert found, line
            yield process, int(found.group(1))
    finally:
        end(process)


def parameters(**values: object) -> List[str]:
    return [word for name, value in values.items() for word in ("--parameter", f"{name}={value}")]


def get(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
        page: bytes = answer.read()
        return page


def test_pages_of_a_port_and_a_clean_end_by_an_interrupt(alice: Laptop, job: Job, web: int) -> None:
    with forwarding(alice, job, *FORWARD, *parameters(portNumber=web)) as (process, port):
        assert get(port) == PAGE
        with ThreadPoolExecutor(6) as pool:
            assert all(page == PAGE for page in pool.map(get, [port] * 6))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    until(lambda: not alice.client("ssm").describe_sessions(State="Active")["Sessions"], "no session")


def test_one_stalled_reader_of_ten_holds_no_other(alice: Laptop, job: Job, web: int) -> None:
    with forwarding(alice, job, *FORWARD, *parameters(portNumber=web)) as (_, port):
        with socket.create_connection(("127.0.0.1", port), 60) as stalled:
            for _ in range(8):
                stalled.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with ThreadPoolExecutor(9) as pool:
                assert all(page == PAGE for page in pool.map(get, [port] * 9))
            came = b""
            while len(came) < len(PAGE):
                data = stalled.recv(1 << 20)
                assert data
                came += data
        assert came.endswith(PAGE)


def test_port_that_the_user_chose_and_a_host_that_the_container_reaches(
    admin: Laptop, job: Job, web: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        chosen = free.getsockname()[1]
    options = parameters(host="localhost", portNumber=web, localPortNumber=chosen)
    with forwarding(admin, job, *TO_HOST, *options) as (process, port):
        assert port == chosen
        assert get(port) == PAGE
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM


def test_a_port_where_nothing_listens_is_told_and_the_session_goes_on(alice: Laptop, job: Job) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = server.getsockname()[1]
    with forwarding(alice, job, *FORWARD, *parameters(portNumber=there)) as (process, port):
        with socket.create_connection(("127.0.0.1", port), 60) as refused:
            assert refused.recv(1) == b""
        assert process.stderr is not None
        assert b"could not connect to the port" in process.stderr.readline()
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(socket.create_server(("127.0.0.1", there)))
            local = stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            remote = stack.enter_context(server.accept()[0])
            local.sendall(b"now")
            assert remote.recv(3) == b"now"


def test_a_session_that_the_service_ends_is_told(alice: Laptop, job: Job, web: int) -> None:
    with forwarding(alice, job, *FORWARD, *parameters(portNumber=web)) as (process, port):
        assert get(port) == PAGE
        ssm = alice.client("ssm")
        ssm.terminate_session(SessionId=ssm.describe_sessions(State="Active")["Sessions"][0]["SessionId"])
        assert process.stderr is not None
        assert b"was ended" in process.stderr.readline()
        assert process.wait(30) == 255


def test_what_cannot_be_is_one_line(admin: Laptop, job: Job) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        for arguments, line in (
            ((*FORWARD, *parameters(localPortNumber=number)), f"port {number} of this machine cannot be"),
            ((*FORWARD, *parameters(portNumber=70000)), "InvalidParameters"),
            ((*TO_HOST, *parameters(host="169.254.170.2")), "forwarding to 169.254.170.2"),
        ):
            done = admin.sm_ssh("session", job.host, *arguments)
            assert (done.returncode, done.stdout) == (255, b"")
            assert done.stderr.count(b"\n") == 1
            assert line in done.stderr.decode()
