"""The relay in a container: its first code on a real terminal, and the bytes it carries."""

import base64
import io
import json
import os
import pty
import select
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import BinaryIO, Iterator, List, Tuple, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sagemaker_ssh_helper
from sagemaker_ssh_helper.agent import relay, relay_loader

pytestmark = pytest.mark.container

PACKAGE = Path(sagemaker_ssh_helper.__file__).parent
LOADER = PACKAGE / "agent" / "relay_loader.py"
TIMEOUT = 60.0


def package() -> bytes:
    """What the client brings: the parts for containers."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for path in sorted(PACKAGE.rglob("*.py")):
            parts = path.relative_to(PACKAGE).parts
            if len(parts) == 1 or parts[0] in ("agent", "channels", "protocol"):
                made.writestr(f"sagemaker_ssh_helper/{'/'.join(parts)}", path.read_bytes())
        made.writestr("sagemaker_ssh_helper/VERSION", (PACKAGE / "VERSION").read_bytes())
    return buffer.getvalue()


class Relay:
    """The loader's program on a terminal, with a temporary folder of its own."""

    def __init__(self, temporary: Path, digest: str = "d1") -> None:
        self._terminal, end = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", LOADER.read_text(), digest],
            stdin=end,
            stdout=end,
            stderr=end,
            env={"PATH": os.environ["PATH"], "TMPDIR": str(temporary), "SSH_STATE_DIR": str(temporary / "s")},
            start_new_session=True,
        )
        os.close(end)
        self._said = b""

    def send(self, line: bytes) -> None:
        data = line + b"\n"
        while data:
            # A terminal takes 4 KB at a time; what it says meanwhile must be read, too.
            readable, writable, _ = select.select([self._terminal], [self._terminal], [], TIMEOUT)
            assert readable or writable, "the terminal is stuck"
            if readable:
                self._said += os.read(self._terminal, 4096)
            if writable:
                data = data[os.write(self._terminal, data[:1024]) :]

    def answer(self) -> Tuple[str, str]:
        """The next word and its text."""
        deadline = time.monotonic() + TIMEOUT
        mark = relay_loader.MARK.encode()
        while True:
            lines = self._said.split(b"\n")
            for number, line in enumerate(lines[:-1]):
                if mark in line:
                    self._said = b"\n".join(lines[number + 1 :])
                    word, _, text = line.rstrip(b"\r").partition(mark)[2].partition(b" ")
                    return word.decode(), base64.b64decode(text).decode()
            assert select.select([self._terminal], [], [], deadline - time.monotonic())[0], self._said
            self._said += os.read(self._terminal, 4096)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def setup_line(key: str) -> bytes:
    return base64.b64encode(json.dumps({"key": key}).encode())


def test_package_is_brought_once(temporary: Path) -> None:
    for expected in ("need", "have"):
        started = Relay(temporary)
        try:
            assert started.answer() == (expected, "")
            if expected == "need":
                started.send(base64.b64encode(package()))
            started.send(setup_line("no key"))
            word, why = started.answer()
            assert word == "failed"
            assert "key" in why
            assert started.process.wait(TIMEOUT) == 1
        finally:
            started.close()


def test_package_in_a_folder_of_somebody_else_is_not_run(temporary: Path) -> None:
    planted = temporary / f"sm-ssh-{os.geteuid()}" / "d1" / "sagemaker_ssh_helper"
    planted.mkdir(parents=True)
    planted.parents[1].chmod(0o777)
    started = Relay(temporary)
    try:
        assert started.answer() == ("need", "")
    finally:
        started.close()


@pytest.mark.parametrize("sent", [b"", b"AAAA", b"***"])
def test_package_that_is_none_is_told(temporary: Path, sent: bytes) -> None:
    started = Relay(temporary)
    try:
        assert started.answer() == ("need", "")
        started.send(sent)
        assert started.answer()[0] == "failed"
    finally:
        started.close()


@pytest.mark.parametrize("line", [b"", b"e30=", b"bm8=", b"***"])
def test_set_up_line_that_makes_no_sense_is_told(temporary: Path, line: bytes) -> None:
    started = Relay(temporary)
    try:
        assert started.answer() == ("need", "")
        started.send(base64.b64encode(package()))
        started.send(line)
        assert started.answer()[0] == "failed"
    finally:
        started.close()


class Joined:
    """``carry`` between two pipes and one end of a connection, whose other end is ``server``."""

    def __init__(self) -> None:
        self.server, ours = socket.socketpair()
        self.server.settimeout(TIMEOUT)
        read_in, write_in = os.pipe()
        read_out, write_out = os.pipe()
        self.to = cast(BinaryIO, os.fdopen(write_in, "wb"))
        self.out = cast(BinaryIO, os.fdopen(read_out, "rb"))
        self._source = cast(BinaryIO, os.fdopen(read_in, "rb"))
        self._target = cast(BinaryIO, os.fdopen(write_out, "wb"))
        self.thread = threading.Thread(target=relay.carry, args=(self._source, self._target, ours))
        self.thread.start()

    def close(self) -> None:
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive()
        for file in (self.to, self.out, self._source, self._target):
            file.close()
        self.server.close()


@pytest.fixture
def joined() -> Iterator[Joined]:
    joined = Joined()
    yield joined
    joined.close()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=2000), max_size=8))
def test_all_bytes_arrive_both_ways(pieces: List[bytes]) -> None:
    joined = Joined()
    try:
        for piece in pieces:
            joined.to.write(base64.b64encode(piece) + b"\n")
        joined.to.write(relay.END + b"\n")
        joined.to.flush()
        received = b""
        while True:
            data = joined.server.recv(1 << 16)
            if not data:
                break
            received += data
        assert received == b"".join(pieces)

        joined.server.sendall(received)
        joined.server.shutdown(socket.SHUT_WR)
        lines = joined.out.read1(1 << 20) if not pieces else b""
        while not lines.endswith(relay.END + b"\n"):
            lines += joined.out.readline()
        said = lines.splitlines()
        assert said[-1] == relay.END
        assert b"".join(map(base64.b64decode, said[:-1])) == received
    finally:
        joined.close()


def test_server_that_hangs_up_is_told(joined: Joined) -> None:
    joined.server.close()
    assert joined.out.readline() == relay.END + b"\n"
    joined.to.write(relay.END + b"\n")
    joined.to.flush()


def test_line_that_is_no_base64_ends_the_connection(joined: Joined) -> None:
    joined.to.write(b"wall: hello\n")
    joined.to.flush()
    assert joined.out.readline() == relay.END + b"\n"
    assert joined.server.recv(10) == b""
