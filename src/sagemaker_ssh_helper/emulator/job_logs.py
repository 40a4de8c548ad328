"""
A container's output, line by line, into CloudWatch Logs.
"""

from __future__ import annotations

import codecs
import fcntl
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

F_SETPIPE_SZ = 1031  # linux/fcntl.h; Python 3.10 has it by name

BATCH_BYTES = 262_144
"""Size of one PutLogEvents, counted as the service counts; its own limit is four times as much."""

BATCH_EVENTS = 2_000
"""Lines in one PutLogEvents; its own limit is five times as much."""

EVENT_OVERHEAD_BYTES = 26  # PutLogEvents counts this much for each event, besides its text

LINE_BYTES = 200_000
"""A longer line becomes several events; an event may have 262,144 bytes."""

BATCH_DELAY = 0.1
"""Seconds that a line waits for others to travel with."""

MEMORY_OVERHEAD_BYTES = 600
"""About what the log service's storage needs for an event besides its text (measured: 550 to 650 bytes)."""

TAIL_BYTES = 65_536
"""How much of the last output is kept besides: the end of the story is in the log, whatever came before."""

READ_BYTES = 1 << 20
"""Of the pipe, at once; the pipe is made that large where the system can."""

DISCARD_DELAY = 0.005
"""Seconds between two reads of output that nobody will see, so that a flood costs the cloud little."""

ATTEMPTS = 4
"""Times that a batch is tried before it is given up."""


class LogPump(threading.Thread):
    """
    Reads one pipe to its end and puts what it reads into a log stream, which it makes.

    It holds back a writer that is quicker than the log service, up to what is kept of one output; after that
    it reads and forgets, and only the tail still reaches the log. So memory is bounded, and a flood stops
    neither the cloud nor, for long, the writer.

    Args:
        read_fd: read end of the pipe; closed at the end.
        logs: a boto3 client of CloudWatch Logs.
        group, stream: where the lines go.
        kept_bytes: what is kept of the output, from its beginning, counting ``MEMORY_OVERHEAD_BYTES`` a line.
        on_end: called in this thread when all is in the log, or given up.
    """

    def __init__(
        self,
        read_fd: int,
        logs: Any,
        group: str,
        stream: str,
        *,
        kept_bytes: int,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(name=f"log {stream}", daemon=True)
        self._read_fd = read_fd
        self._logs = logs
        self._group = group
        self._stream = stream
        self._on_end = on_end
        self._lines = _Lines()
        self._batch: list[dict[str, Any]] = []
        self._batch_bytes = 0
        self._put_at = 0.0  # monotonic; when the batch has to go
        self._room_bytes = kept_bytes
        self._left_out = 0
        self._tail = b""

    def tail(self) -> str:
        """The last output, at most ``TAIL_BYTES`` of it, whole lines. To be read after the end."""
        return "\n".join(self._tail_lines())

    def run(self) -> None:
        try:
            _enlarge_pipe(self._read_fd)
            self._create_stream()
            while True:
                timeout = max(0.0, self._put_at - time.monotonic()) if self._batch else None
                readable, _, _ = select.select([self._read_fd], [], [], timeout)
                if readable:
                    data = os.read(self._read_fd, READ_BYTES)
                    if not data:
                        break
                    self._receive(data)
                if self._batch and time.monotonic() >= self._put_at:
                    self._put()
            if self._left_out:
                self._finish_with_tail()
            else:
                self._take(self._lines.end())
            self._put()
        finally:
            os.close(self._read_fd)
            self._on_end()

    def _receive(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        if self._left_out:
            self._left_out += data.count(b"\n")
            time.sleep(DISCARD_DELAY)
        else:
            self._take(self._lines.feed(data))

    def _take(self, lines: list[str]) -> None:
        for index, line in enumerate(lines):
            size = len(line.encode())
            self._room_bytes -= size + MEMORY_OVERHEAD_BYTES
            if self._room_bytes < 0:
                self._left_out = len(lines) - index
                return
            if line:  # the log service refuses empty events
                self._add(line, size)

    def _tail_lines(self) -> list[str]:
        whole = self._tail.rstrip(b"\n")
        if len(self._tail) == TAIL_BYTES:
            whole = whole.partition(b"\n")[2] or whole  # the first one has lost its beginning
        return whole.decode("utf-8", "replace").splitlines()

    def _finish_with_tail(self) -> None:
        shown = [line for line in self._tail_lines() if line][-self._left_out :]
        count = self._left_out - len(shown)
        if count > 0:
            note = f"[local cloud: {count} lines left out here, the output is larger than what is kept of it]"
            self._add(note, len(note))
        for line in shown:
            self._add(line, len(line.encode()))

    def _add(self, line: str, size: int) -> None:
        if len(self._batch) >= BATCH_EVENTS or self._batch_bytes + size + EVENT_OVERHEAD_BYTES > BATCH_BYTES:
            self._put()
        if not self._batch:
            self._put_at = time.monotonic() + BATCH_DELAY
        self._batch.append({"timestamp": int(time.time() * 1000), "message": line})
        self._batch_bytes += size + EVENT_OVERHEAD_BYTES

    def _put(self) -> None:
        if not self._batch:
            return
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._logs.put_log_events(
                    logGroupName=self._group, logStreamName=self._stream, logEvents=batch
                )
                return
            except Exception as error:  # botocore raises a class per error and per way to fail
                logger.warning("! %s: %d lines not in the log: %s", self._stream, len(batch), error)
                if attempt < ATTEMPTS:
                    time.sleep(0.1 * 2**attempt)

    def _create_stream(self) -> None:
        try:
            try:
                self._logs.create_log_group(logGroupName=self._group)
            except self._logs.exceptions.ResourceAlreadyExistsException:
                pass
            self._logs.create_log_stream(logGroupName=self._group, logStreamName=self._stream)
        except Exception as error:
            # The job goes on without its log; each batch says so again.
            logger.warning("! %s: no log stream: %s", self._stream, error)


class _Lines:
    """Bytes in, lines of text out. What is not UTF-8 becomes U+FFFD; long lines are cut at a character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> list[str]:
        return self._split(self._decoder.decode(data))

    def end(self) -> list[str]:
        """The last line, when it had no end."""
        lines = self._split(self._decoder.decode(b"", final=True))
        return [*lines, self._rest] if self._rest else lines

    def _split(self, text: str) -> list[str]:
        *lines, self._rest = (self._rest + text).split("\n")
        if len(self._rest) > LINE_BYTES // 4:
            lines.append(self._rest)
            self._rest = ""
        cut: list[str] = []
        for line in lines:
            line = line.removesuffix("\r")
            # A character has at most four bytes.
            cut += [line[at : at + LINE_BYTES // 4] for at in range(0, len(line), LINE_BYTES // 4)] or [""]
        return cut


def _enlarge_pipe(fd: int) -> None:
    """Let more than the usual 64 KiB wait in the pipe, so that its writer seldom has to."""
    if sys.platform == "linux":
        try:
            fcntl.fcntl(fd, F_SETPIPE_SZ, READ_BYTES)
        except OSError:
            pass  # the user's share of pipe memory is used up; the usual size does


def read(logs: Any, group: str, stream_prefix: str) -> list[str]:
    """
    All lines of the streams whose names begin so, one stream after the other. Blocking.

    Args:
        logs: a boto3 client of CloudWatch Logs.
    """
    lines: list[str] = []
    for page in logs.get_paginator("describe_log_streams").paginate(
        logGroupName=group, logStreamNamePrefix=stream_prefix
    ):
        for stream in page["logStreams"]:
            token: dict[str, str] = {}
            while True:
                answer = logs.get_log_events(
                    logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True, **token
                )
                lines += [event["message"] for event in answer["events"]]
                # The last page's token is the one it was asked with.
                if token.get("nextToken") == answer["nextForwardToken"]:
                    break
                token = {"nextToken": answer["nextForwardToken"]}
    return lines
