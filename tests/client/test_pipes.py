"""Standard input and output in an event loop: pipes, sockets, files, and nobody at the other end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sagemaker_ssh_helper.client.pipes import HIGH_BYTES, Input, Output


async def until(condition: Callable[[], Any]) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited 10 s"
        await asyncio.sleep(0.002)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            continue


class Sink:
    def __init__(self) -> None:
        self.data = b""
        self.ends = 0

    def on_data(self, data: bytes) -> None:
        self.data += data

    def on_end(self) -> None:
        self.ends += 1


async def _read_all(kind: str, tmp_path: Path) -> None:
    sink = Sink()
    expected = b"" if kind == "null" else os.urandom(300_000)
    ours: socket.socket | None = None
    if kind == "pipe":
        descriptor, writing = os.pipe()
        feeder = asyncio.get_running_loop().run_in_executor(None, _feed, writing, expected)
    elif kind == "socket":
        ours, theirs = socket.socketpair()
        descriptor = os.dup(theirs.fileno())
        theirs.close()
        feeder = asyncio.get_running_loop().run_in_executor(None, _send, ours, expected)
    else:
        path = Path(os.devnull)
        if kind == "file":
            path = tmp_path / "file"
            path.write_bytes(expected)
        descriptor = os.open(path, os.O_RDONLY)
        feeder = asyncio.get_running_loop().run_in_executor(None, lambda: None)
    source = Input(descriptor, sink.on_data, sink.on_end)
    source.resume()
    await until(lambda: sink.ends)
    await feeder
    source.close()
    os.close(descriptor)
    if ours is not None:
        ours.close()
    assert sink.data == expected
    assert sink.ends == 1


def _feed(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _send(ours: socket.socket, data: bytes) -> None:
    ours.sendall(data)
    ours.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("kind", ["pipe", "file", "null", "socket"])
def test_all_kinds_of_input_are_read_to_their_end(kind: str, tmp_path: Path) -> None:
    asyncio.run(_read_all(kind, tmp_path))


def test_nothing_is_read_before_it_is_asked_for_nor_while_paused() -> None:
    async def run() -> None:
        sink = Sink()
        with pipe() as (reading, writing):
            os.write(writing, b"one")
            source = Input(reading, sink.on_data, sink.on_end)
            await asyncio.sleep(0.02)
            assert sink.data == b""
            source.resume()
            await until(lambda: sink.data == b"one")
            source.pause()
            os.write(writing, b"two")
            await asyncio.sleep(0.02)
            assert sink.data == b"one"
            source.resume()
            await until(lambda: sink.data == b"onetwo")
            source.close()
            assert os.get_blocking(reading)

    asyncio.run(run())


def test_a_file_is_read_no_further_than_there_is_room(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "file"
        path.write_bytes(bytes(1_000_000))
        descriptor = os.open(path, os.O_RDONLY)
        sink = Sink()
        source: Input

        def on_data(data: bytes) -> None:
            sink.on_data(data)
            source.pause()

        source = Input(descriptor, on_data, sink.on_end)
        source.resume()
        await until(lambda: sink.data)
        await asyncio.sleep(0.02)
        assert len(sink.data) < 200_000
        while not sink.ends:
            source.resume()
            await asyncio.sleep(0.001)
        assert len(sink.data) == 1_000_000
        source.close()
        os.close(descriptor)

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["pipe", "file", "socket"])
def test_all_kinds_of_output_get_every_byte_in_order(kind: str, tmp_path: Path) -> None:
    async def run() -> None:
        data = os.urandom(3_000_000)
        got = bytearray()
        if kind == "file":
            descriptor = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
            reading = -1
        elif kind == "pipe":
            reading, descriptor = os.pipe()
        else:
            one, two = socket.socketpair()
            reading, descriptor = one.detach(), two.detach()
        sink = Output(descriptor, on_broken=lambda: None)
        full = []
        sink.on_full = lambda: full.append("full")
        sink.on_room = lambda: full.append("room")
        for start in range(0, len(data), 50_000):
            sink.write(data[start : start + 50_000])
        if kind == "file":
            assert os.pread(descriptor, len(data) + 1, 0) == data
        else:
            assert full == ["full"]
            reader = asyncio.get_running_loop().run_in_executor(None, _read_into, got, reading, len(data))
            assert await sink.flush(5.0)
            await reader
            assert bytes(got) == data
            assert full == ["full", "room"]
            os.close(reading)
        sink.close()
        os.close(descriptor)

    asyncio.run(run())


def _read_into(got: bytearray, descriptor: int, size: int) -> None:
    while len(got) < size:
        got.extend(os.read(descriptor, 65536))


def test_a_reader_that_goes_is_noticed_without_a_write() -> None:
    async def run() -> None:
        broken = asyncio.Event()
        with pipe() as (reading, writing):
            sink = Output(writing, on_broken=broken.set)
            os.close(reading)
            await asyncio.wait_for(broken.wait(), 5)
            sink.write(b"dropped")
            assert sink.broken
            assert not await sink.flush(1.0)
            sink.close()

    asyncio.run(run())


def test_a_reader_that_goes_in_the_middle_of_a_write_is_noticed_once() -> None:
    async def run() -> None:
        breaks = []
        with pipe() as (reading, writing):
            sink = Output(writing, on_broken=lambda: breaks.append(1))
            sink.write(bytes(HIGH_BYTES * 2))
            os.close(reading)
            await until(lambda: breaks)
            sink.write(b"x")
            await asyncio.sleep(0.01)
            sink.close()
        assert breaks == [1]

    asyncio.run(run())


def test_flushing_to_nobody_is_given_up() -> None:
    async def run() -> None:
        with pipe() as (_, writing):
            sink = Output(writing, on_broken=lambda: None)
            sink.write(bytes(1_000_000))
            assert not await sink.flush(0.05)
            sink.close()
            assert os.get_blocking(writing)

    asyncio.run(run())


def test_a_socket_that_is_both_input_and_output_is_not_taken_for_closed() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        sink = Sink()
        output = Output(theirs.fileno(), on_broken=sink.on_end)
        source = Input(theirs.fileno(), sink.on_data, sink.on_end)
        ours.sendall(b"hello")
        await asyncio.sleep(0.02)
        output.write(b"answer")
        assert ours.recv(6) == b"answer"
        source.resume()
        await until(lambda: sink.data == b"hello")
        assert sink.ends == 0
        source.close()
        output.close()
        ours.close()
        theirs.close()

    asyncio.run(run())
