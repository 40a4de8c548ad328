"""
Sessions to a TCP port of a node, opened and ended one after another.

    python -m bench.many_sessions INSTANCE_ID PORT COUNT

Each lasts until the port's first bytes came. Prints how many there were.
"""

import asyncio
import os
import sys
import time

from sagemaker_ssh_helper.aws import sessions
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.channels import DataChannelRunner, Grant
from sagemaker_ssh_helper.names import CLIENT_VERSION, InstanceId
from sagemaker_ssh_helper.protocol.data_channel import DataChannel, Event, Side, StreamData


async def come_and_go(client: Client, instance_id: InstanceId, port: int) -> None:
    """One session."""
    started = sessions.start(client, instance_id, port)
    answered = asyncio.Event()

    async def grant(resume: bool) -> Grant:
        headers = client.session.upgrade_headers(started.url)
        return Grant(started.url, started.token, headers)

    def on_event(event: Event) -> None:
        if isinstance(event, StreamData):
            answered.set()

    channel = DataChannel(
        Side.CLIENT,
        started.id,
        random_bytes=os.urandom,
        created_ms=lambda: int(time.time() * 1000),
        client_id="00000000-0000-4000-8000-000000000001",
        version=CLIENT_VERSION,
    )
    runner = DataChannelRunner(channel, grant, on_event=on_event)
    running = asyncio.ensure_future(runner.run())
    try:
        await asyncio.wait_for(answered.wait(), 30)
    finally:
        runner.close()
        await running
        sessions.terminate(client, started.id)


async def main() -> int:
    instance_id, port, count = InstanceId(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    client = Client(Session.open())
    for _ in range(count):
        await come_and_go(client, instance_id, port)
    print(count)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
