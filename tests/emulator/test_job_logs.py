"""The pump between a container's pipe and CloudWatch Logs, without either."""

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sagemaker_ssh_helper.emulator.job_logs import MEMORY_OVERHEAD_BYTES, LogPump


class Logs:
    """A log service in memory. ``refuse`` makes that many calls of PutLogEvents fail."""

    class exceptions:
        class ResourceAlreadyExistsException(Exception):
            pass

    def __init__(self, refuse: int = 0) -> None:
        self.refuse = refuse
        self.batches: list[list[dict[str, Any]]] = []
        self.streams: list[tuple[str, str]] = []
        self.arrived = threading.Event()

    def create_log_group(self, **_: str) -> None:
        raise self.exceptions.ResourceAlreadyExistsException

    def create_log_stream(self, *, logGroupName: str, logStreamName: str) -> None:
        self.streams.append((logGroupName, logStreamName))

    def put_log_events(
        self, *, logGroupName: str, logStreamName: str, logEvents: list[dict[str, Any]]
    ) -> None:
        assert (logGroupName, logStreamName) == self.streams[0]
        if self.refuse:
            self.refuse -= 1
            raise ConnectionError("nobody answers")
        self.batches.append(logEvents)
        self.arrived.set()

    @property
    def lines(self) -> list[str]:
        return [event["message"] for batch in self.batches for event in batch]


def pump(write: Callable[[int], object], logs: Logs, kept_bytes: int = 64 << 20) -> LogPump:
    """A pump that has seen all that ``write`` writes, and its end."""
    read_fd, write_fd = os.pipe()
    ended = threading.Event()
    thread = LogPump(read_fd, logs, "group", "stream", kept_bytes=kept_bytes, on_end=ended.set)
    thread.start()
    write(write_fd)
    os.close(write_fd)
    assert ended.wait(60)
    thread.join(60)
    return thread


def lines_of(data: bytes) -> list[str]:
    logs = Logs()
    pump(lambda fd: write_all(fd, data), logs)
    return logs.lines


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n\n\n", []),
        (b"one", ["one"]),
        (b"one\ntwo\r\nthree\n", ["one", "two", "three"]),
        (b"20 %\r40 %\r60 %\n", ["20 %\r40 %\r60 %"]),
        ("grüße".encode("latin-1") + b"\nnext", ["gr\ufffd\ufffde", "next"]),
        (b"cut \xf0\x9f\x99", ["cut \ufffd"]),
        (b"nul \0 stays\n", ["nul \0 stays"]),
    ],
)
def test_bytes_become_lines(data: bytes, lines: list[str]) -> None:
    assert lines_of(data) == lines


@pytest.mark.parametrize("character", ["x", "ü", "€", "🙂"])
def test_long_line_is_cut_between_characters(character: str) -> None:
    text = character * 400_000
    lines = lines_of(text.encode() + b"\nnext\n")

    assert "".join(lines[:-1]) == text
    assert lines[-1] == "next"
    assert max(len(line.encode()) for line in lines) <= 262_144 - 26


def test_character_may_arrive_in_pieces() -> None:
    logs = Logs()

    def write(fd: int) -> None:
        for byte in "🙂\n".encode():
            os.write(fd, bytes([byte]))

    pump(write, logs)
    assert logs.lines == ["🙂"]


def test_batches_stay_within_the_services_limits() -> None:
    logs = Logs()
    pump(lambda fd: write_all(fd, b"short\n" * 30_000 + (b"x" * 9_999 + b"\n") * 300), logs)

    assert len(logs.lines) == 30_300
    for batch in logs.batches:
        assert len(batch) <= 10_000
        assert sum(len(event["message"].encode()) + 26 for event in batch) <= 1_048_576
        stamps = [event["timestamp"] for event in batch]
        assert stamps == sorted(stamps)


def test_line_does_not_wait_for_the_next() -> None:
    logs = Logs()

    def write(fd: int) -> None:
        os.write(fd, b"alone\n")
        assert logs.arrived.wait(10)

    pump(write, logs)
    assert logs.lines == ["alone"]


def test_flood_keeps_its_beginning_and_its_end() -> None:
    logs = Logs()
    data = b"".join(b"line %07d\n" % number for number in range(200_000))
    tail = pump(lambda fd: write_all(fd, data), logs, kept_bytes=100 * (12 + MEMORY_OVERHEAD_BYTES)).tail()

    note = logs.lines[100]
    assert logs.lines[:100] == [f"line {number:07d}" for number in range(100)]
    assert note.startswith("[local cloud: ")
    shown = logs.lines[101:]
    assert shown[-1] == "line 0199999"
    assert shown == [f"line {number:07d}" for number in range(200_000 - len(shown), 200_000)]
    assert int(note.split()[2]) == 200_000 - 100 - len(shown)
    assert tail.splitlines() == shown


def test_little_too_much_is_all_there() -> None:
    logs = Logs()
    pump(lambda fd: write_all(fd, b"a\nb\nc\nd\ne\n"), logs, kept_bytes=2 * (1 + MEMORY_OVERHEAD_BYTES))

    assert logs.lines == ["a", "b", "c", "d", "e"]


def test_batch_is_tried_again() -> None:
    logs = Logs(refuse=2)
    pump(lambda fd: write_all(fd, b"in the end\n"), logs)

    assert logs.lines == ["in the end"]


def test_service_that_never_answers_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    logs = Logs(refuse=1_000_000)
    pump(lambda fd: write_all(fd, b"secret words\n"), logs)

    assert logs.lines == []
    assert "1 lines not in the log: nobody answers" in caplog.text
    assert "secret words" not in caplog.text
