"""
SageMaker's own agent in a container: it makes the container a native target.

    python -m sagemaker_ssh_helper.emulator.service_agent TARGET REGION STATE_FOLDER

It is started beside the container's program, with the same environment and view of the files, and knows
nothing of what the image has. On AWS the service brings one of its own; this one is the local cloud's.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sagemaker_ssh_helper import plain_logs
from sagemaker_ssh_helper.agent.aws_api import AwsApi
from sagemaker_ssh_helper.agent.control import Control
from sagemaker_ssh_helper.agent.credentials import ContainerCredentials
from sagemaker_ssh_helper.agent.state import AgentConfig, StateDir
from sagemaker_ssh_helper.agent.transport import Transport
from sagemaker_ssh_helper.names import InstanceId
from sagemaker_ssh_helper.plain_logs import PlainFormatter

_MAX_CALLS = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """The agent, until a signal ends it; its exit status."""
    target, region, folder = sys.argv[1:] if arguments is None else arguments
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    plain_logs.run(_run(target, region, StateDir.open(folder, create=True)))
    return 0


async def _run(target: str, region: str, state: StateDir) -> None:
    loop = asyncio.get_running_loop()
    transport = Transport(os.environ)
    credentials = ContainerCredentials(os.environ, transport)
    api = AwsApi(region, credentials.get, environ=os.environ, transport=transport)
    config = AgentConfig(region, "", "", target, sshd_port=0, log_path="")
    executor = ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="aws")
    control = Control(InstanceId(target), config, state, api, transport, executor, is_managed_instance=False)
    work = asyncio.ensure_future(control.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        logging.getLogger(__name__).info("= the agent was told to end")
    finally:
        transport.abort()
        executor.shutdown(wait=False)


if __name__ == "__main__":
    sys.exit(main())
