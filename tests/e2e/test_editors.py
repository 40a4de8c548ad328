"""Editors in a container: the command that opens one, and what their remote modes do, with plain ssh."""

import json
import os
import socket
import stat
import subprocess
import textwrap
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from e2e.laptop import Job, Laptop, end, running


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice, name=f"Edited-{os.getpid()}") as job:
        yield job


@pytest.fixture(scope="module")
def ssh(alice: Laptop, job: Job) -> List[str]:
    """The beginning of every ssh of this machine: the block of config-ssh, and nothing else of ours."""
    return alice.configure_ssh()


def named_host(link: str) -> Any:
    """The host that a link of VS Code's family names; one with capitals is written in hexadecimal."""
    return json.loads(bytes.fromhex(link.partition("ssh-remote+")[2].partition("/")[0]))


def test_without_the_block_it_says_how_to_get_it(laptop: Callable[[str], Laptop], job: Job) -> None:
    done = laptop("alice").sm_ssh("ide", job.host)
    assert (done.returncode, done.stdout) == (9, b"")
    assert b"Run: sm-ssh config-ssh" in done.stderr


@pytest.mark.usefixtures("ssh")
def test_without_an_editor_the_link_is_printed(alice: Laptop, job: Job, tmp_path: Path) -> None:
    # A PATH that has OpenSSH and nothing else.
    for program in ("ssh", "ssh-keygen"):
        (tmp_path / program).symlink_to(f"/usr/bin/{program}")
    done = alice.sm_ssh("ide", job.host, str(tmp_path), env={"PATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr.decode()
    link = done.stdout.decode().strip()
    assert link.startswith("vscode://vscode-remote/ssh-remote+")
    assert link.endswith(str(tmp_path))
    assert named_host(link) == {"hostName": job.host}
    assert b"no editor was found" in done.stderr


@pytest.mark.usefixtures("ssh")
@pytest.mark.parametrize(
    ("app", "beginning"),
    [
        ("zed", "zed://ssh/{user}@{host}/"),
        ("pycharm", "jetbrains-gateway://connect#type=ssh&deploy=true&host={host}&port=22&user={user}&"),
    ],
)
def test_other_editors_have_links_of_their_own(alice: Laptop, job: Job, app: str, beginning: str) -> None:
    done = alice.sm_ssh("ide", "--app", app, "--print", job.host)
    assert done.returncode == 0, done.stderr.decode()
    user = alice.ssh(job.host, "id -un").stdout.decode().strip()
    assert done.stdout.decode().startswith(beginning.format(host=job.host, user=user))


@pytest.mark.usefixtures("ssh")
def test_an_editor_on_path_is_started(alice: Laptop, job: Job, tmp_path: Path) -> None:
    program = tmp_path / "code"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/given\nexit 3\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    path = f"{tmp_path}{os.pathsep}{alice.env['PATH']}"
    done = alice.sm_ssh("ide", job.host, str(tmp_path), env={"PATH": path})
    assert (done.returncode, done.stdout) == (3, b"")
    option, uri = (tmp_path / "given").read_text().splitlines()
    assert option == "--folder-uri"
    assert uri.startswith("vscode-remote://ssh-remote+")
    assert uri.endswith(str(tmp_path))
    assert named_host(uri) == {"hostName": job.host}


@pytest.mark.usefixtures("ssh")
def test_a_folder_that_is_not_there_is_told(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("ide", "--print", job.host, "/no/such folder")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"there is no folder '/no/such folder'" in done.stderr


# A server as editors bring one: the script on ssh's standard input puts it there and starts it so that it
# outlives the connection. It listens on a port and on a socket; the script tells the port between two marks.
SERVER = """
    import http.server, os, socketserver, sys, threading
    folder = sys.argv[1]
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"editor server %d" % os.getpid())
        def address_string(self):
            return "-"
        def log_message(self, *words):
            pass
    class Local(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True
    port = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    local = Local(os.path.join(folder, "s"), Page)
    threading.Thread(target=local.serve_forever, daemon=True).start()
    with open(os.path.join(folder, "listening.part"), "w") as file:
        file.write("%d %d" % (port.server_address[1], os.getpid()))
    os.rename(os.path.join(folder, "listening.part"), os.path.join(folder, "listening"))
    port.serve_forever()
"""

INSTALL = """
folder='{folder}'
uname -rsv
if ! [ -f "$folder/listening" ]; then
    cat > "$folder/server.py" << 'END_OF_SERVER'
{server}
END_OF_SERVER
    nohup python3 "$folder/server.py" "$folder" > "$folder/log" 2>&1 < /dev/null &
    while ! [ -f "$folder/listening" ]; do kill -0 $! || exit 1; sleep 0.1; done
fi
echo "begun: start"
echo "listeningOn==$(cut -d' ' -f1 "$folder/listening")=="
echo "begun: end"
# The editor keeps this connection for as long as its window is open.
while read -r line; do echo "said $line"; done
"""


class Remote:
    """One connection of an editor: ``ssh -T -D PORT HOST bash``, its script on standard input."""

    def __init__(self, alice: Laptop, ssh: List[str], host: str, folder: Path, *options: str) -> None:
        self.socks = free_port()
        self.process = alice.popen(
            *ssh,
            "-T",
            "-D",
            f"127.0.0.1:{self.socks}",
            "-o",
            "ConnectTimeout=60",
            *options,
            host,
            "bash",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        script = INSTALL.format(folder=folder, server=textwrap.dedent(SERVER))
        assert self.process.stdin is not None
        self.process.stdin.write(script.encode())
        self.process.stdin.flush()
        line = b""
        while not line.startswith(b"listeningOn=="):
            line = self.read_line()
        self.port = int(line.split(b"==")[1])
        assert self.read_line() == b"begun: end"

    def read_line(self) -> bytes:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "ssh ended"
        return line.rstrip(b"\n")

    def say(self, word: bytes) -> bytes:
        """What the script answers to a line on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + b"\n")
        self.process.stdin.flush()
        return self.read_line()

    def page(self) -> bytes:
        """The server's page through the dynamic forwarding."""
        return asked(through_socks(self.socks, "127.0.0.1", self.port))

    def close(self) -> None:
        end(self.process)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def through_socks(port: int, host: str, far: int) -> socket.socket:
    """A connection through a SOCKS 5 server without authentication (RFC 1928)."""
    near = socket.create_connection(("127.0.0.1", port), 30)
    near.sendall(b"\x05\x01\x00")
    assert near.recv(2) == b"\x05\x00"
    name = host.encode()
    near.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + far.to_bytes(2, "big"))
    assert near.recv(10)[1] == 0, "the far end refused"
    return near


def asked(connection: socket.socket) -> bytes:
    with connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while part := connection.recv(4096):
            answer += part
    return answer.partition(b"\r\n\r\n")[2]


def test_the_remote_mode_of_vs_code(
    alice: Laptop, job: Job, ssh: List[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # The name of a socket has a hundred characters at most.
    folder = tmp_path_factory.mktemp("v")
    first = Remote(alice, ssh, job.host, folder)
    try:
        page = first.page()
        assert page.startswith(b"editor server ")
        # Long-lived: both ways are still open after work went through beside it.
        assert first.say(b"one") == b"said one"
        # The window is closed without a word, as by a laptop's lid.
        first.process.kill()
        first.process.wait(30)
    finally:
        first.close()
    near = folder / "n"
    again = Remote(alice, ssh, job.host, folder, "-L", f"{near}:{folder}/s")
    try:
        # The same server: it outlived the connection that brought it.
        assert again.port == first.port
        assert again.page() == page
        local = socket.socket(socket.AF_UNIX)
        local.connect(str(near))
        assert asked(local) == page
        assert again.say(b"two") == b"said two"
    finally:
        again.close()
        alice.ssh(job.host, f"kill {(folder / 'listening').read_text().split()[1]}")


def test_a_debugger_here_is_reached_by_a_program_there(alice: Laptop, job: Job) -> None:
    # PyCharm's debug server listens here; the program in the container calls it.
    with socket.create_server(("127.0.0.1", 0)) as debugger:
        debugger.settimeout(60)
        here, there = debugger.getsockname()[1], free_port()
        heard: List[bytes] = []

        def debug() -> None:
            connection, _ = debugger.accept()
            with connection:
                heard.append(connection.recv(100))
                connection.sendall(b"resume\n")

        thread = threading.Thread(target=debug)
        thread.start()
        program = (
            f"import socket; trace = socket.create_connection(('localhost', {there}), 30);"
            " trace.sendall(b'version 1\\n'); print(trace.recv(100))"
        )
        forward = ["-R", f"{there}:localhost:{here}", "-o", "ExitOnForwardFailure=yes"]
        done = alice.sm_ssh("connect", *forward, job.host, "--", "python3", "-c", program)
        thread.join(60)
    assert done.stdout == b"b'resume\\n'\n", done.stderr.decode()
    assert heard == [b"version 1\n"]


def test_sftp_through_the_block(alice: Laptop, job: Job, ssh: List[str], tmp_path: Path) -> None:
    content = os.urandom(200_000)
    (alice.home / "up.bin").write_bytes(content)
    batch = f"put up.bin {tmp_path}/there.bin\nget {tmp_path}/there.bin down.bin\n"
    done = alice.run("sftp", *ssh[1:], "-b", "-", job.host, stdin=batch.encode())
    assert done.returncode == 0, done.stderr.decode()
    assert (alice.home / "down.bin").read_bytes() == content
