"""A connection of the gateway whose peer writes and reads nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from sagemaker_ssh_helper.emulator.channel_socket import ChannelSocket
from sagemaker_ssh_helper.protocol.websocket import Pong, Role, WebSocket


class Sink(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is limited here."""

    def is_closing(self) -> bool:
        return False


class Silent(ChannelSocket):
    def opened(self, data: bytes) -> None:
        raise NotImplementedError

    def received(self, messages: Sequence[bytes]) -> None:
        raise NotImplementedError

    def lost(self) -> None:
        raise NotImplementedError


def test_pings_of_a_peer_that_reads_nothing_take_no_memory() -> None:
    async def main() -> bytes:
        peer = WebSocket(Role.CLIENT, random_bytes=os.urandom)
        sink = Sink()
        socket = Silent("a test", max_message_bytes=1000)
        socket.connection_made(sink)
        socket.pause_writing()
        for number in range(5000):
            peer.send_ping(b"%d" % number)
            socket.data_received(peer.data_to_send())
        assert sink.written == b""
        socket.resume_writing()
        socket.connection_lost(None)
        assert peer.receive_data(sink.written) == [Pong(b"4999")]
        return sink.written

    assert len(asyncio.run(main())) < 10
