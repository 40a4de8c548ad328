"""
What one message costs the protocol core: microseconds, median of five runs.

    python -m bench.protocol_core

A user's 1024 bytes are one message of 1144 bytes one way and one acknowledge of 295 bytes the other way. The
columns are what each end pays: the client masks what it sends, the gateway (the server) takes the mask off.
"""

import os
import statistics
import sys
import time
from typing import Callable, Dict, List, Tuple

from sagemaker_ssh_helper.protocol.message import SYN_FIN, AgentMessage, serialize_message
from sagemaker_ssh_helper.protocol.payloads import Acknowledge
from sagemaker_ssh_helper.protocol.websocket import Message, Role, WebSocket

BATCH = 64
RUNS = 5
RUN_SECONDS = 0.3
PAYLOAD_BYTES = (1024, 16384, 65536)
# What the design allows for one message of 1024 bytes.
LIMIT_US = 8.0


def measure(work: Callable[[], object]) -> float:
    """Microseconds a message: ``work`` does BATCH of them."""
    work()
    medians = []
    for _ in range(RUNS):
        rounds = 0
        # Of the processor, not of the clock on the wall: the machine may have other work.
        begun = time.process_time()
        while time.process_time() - begun < RUN_SECONDS / RUNS:
            work()
            rounds += 1
        medians.append((time.process_time() - begun) / rounds / BATCH * 1e6)
    return statistics.median(medians)


class Bench:
    """A batch of messages with payloads of one size, at both ends of a connection."""

    def __init__(self, payload_bytes: int) -> None:
        self.client = WebSocket(Role.CLIENT, random_bytes=os.urandom)
        self.server = WebSocket(Role.SERVER, random_bytes=os.urandom)
        self.payloads = [os.urandom(payload_bytes) for _ in range(BATCH)]
        self.ids = [os.urandom(16) for _ in range(BATCH)]

    def serialize(self) -> List[bytes]:
        return [
            serialize_message("input_stream_data", payload, number, 0, 1, message_id, 1700000000000)
            for number, (payload, message_id) in enumerate(zip(self.payloads, self.ids))
        ]

    def acknowledge(self) -> List[bytes]:
        return [
            serialize_message(
                "acknowledge",
                Acknowledge.body("output_stream_data", message_id, number),
                0,
                SYN_FIN,
                0,
                message_id,
                1700000000000,
            )
            for number, message_id in enumerate(self.ids)
        ]

    def send(self, sender: WebSocket, messages: List[bytes]) -> bytes:
        sender.send_messages(messages)
        return sender.data_to_send()

    def receive(self, receiver: WebSocket, data: bytes) -> List[AgentMessage]:
        return [
            AgentMessage.parse(event.data)
            for event in receiver.receive_data(data)
            if isinstance(event, Message)
        ]

    def figures(self) -> Dict[str, float]:
        messages, acknowledges = self.serialize(), self.acknowledge()
        from_client, from_server = self.send(self.client, messages), self.send(self.server, messages)
        acks_from_client = self.send(self.client, acknowledges)
        assert len(self.receive(self.server, from_client)) == BATCH
        rows: Tuple[Tuple[str, Callable[[], object]], ...] = (
            ("serialize", self.serialize),
            ("frame and mask", lambda: self.send(self.client, messages)),
            ("unmask", lambda: self.server.receive_data(from_client)),
            ("parse", lambda: [AgentMessage.parse(message) for message in messages]),
            ("client sends: serialize, frame, mask", lambda: self.send(self.client, self.serialize())),
            ("client receives: unframe, parse, digest", lambda: self.receive(self.client, from_server)),
            ("gateway sends: serialize, frame", lambda: self.send(self.server, self.serialize())),
            ("gateway receives: unmask, parse, digest", lambda: self.receive(self.server, from_client)),
            ("client acknowledges", lambda: self.send(self.client, self.acknowledge())),
            (
                "gateway reads an acknowledge",
                lambda: [
                    Acknowledge.parse_sequence_number(message.payload)
                    for message in self.receive(self.server, acks_from_client)
                ],
            ),
        )
        return {name: measure(work) for name, work in rows}


def main() -> int:
    """Print the table."""
    columns = {size: Bench(size).figures() for size in PAYLOAD_BYTES}
    print(f"processor time, us a message, payload of {' / '.join(map(str, PAYLOAD_BYTES))} bytes")
    for name in columns[PAYLOAD_BYTES[0]]:
        print(f"{name:44}" + "".join(f"{columns[size][name]:9.2f}" for size in PAYLOAD_BYTES))
    print(f"the design allows an end {LIMIT_US:.0f} us for a message of 1024 bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
