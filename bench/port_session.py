"""
Standard input and output through one session to a TCP port of a node: start-proxy, with a port to choose.

    python -m bench.port_session INSTANCE_ID PORT
"""

import sys
from concurrent.futures import Future
from typing import Optional

from sagemaker_ssh_helper.aws import sessions
from sagemaker_ssh_helper.aws.instances import ONLINE, Instance
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.client import proxy_command, tunnel
from sagemaker_ssh_helper.client.proxy_command import Started
from sagemaker_ssh_helper.names import InstanceId


class Begun:
    """A session that has been started already, in the shape that the tunnel takes."""

    def __init__(self, started: Started) -> None:
        self.future: Future[Optional[Started]] = Future()
        self.future.set_result(started)

    def call_off(self) -> None:
        """Too late."""


def main() -> int:
    instance_id, port = InstanceId(sys.argv[1]), int(sys.argv[2])
    output = proxy_command.claim_stdout()
    client = Client(Session.open())
    started = Started(sessions.start(client, instance_id, port), Instance(instance_id, ONLINE), port)
    return tunnel.run(client, Begun(started), proxy_command.Interrupts(), output, tell)


def tell(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
