"""The control part of an agent in a thread of the test, against a fake service."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Optional, Type

from agent.fake_service import MI, TIMEOUT, FakeService
from sagemaker_ssh_helper.agent.aws_api import AwsApi, Retry
from sagemaker_ssh_helper.agent.control import Control
from sagemaker_ssh_helper.agent.sigv4 import Credentials
from sagemaker_ssh_helper.agent.state import AgentConfig, StateDir
from sagemaker_ssh_helper.agent.transport import Transport
from sagemaker_ssh_helper.names import InstanceId


def make_config(**changes: Any) -> AgentConfig:
    values = {
        "region": "eu-west-1",
        "activation_id": "11111111-2222-3333-4444-555555555555",
        "activation_code": "the-activation-code",
        "instance_name": "algo-1.job.training.sagemaker",
        "sshd_port": 0,
        "log_path": "",
    }
    values.update(changes)
    return AgentConfig(**values)


class AgentThread:
    """Use it as a context manager: the node is online inside, and told to end at the end."""

    def __init__(self, service: FakeService, folder: Path, **config: Any) -> None:
        self.state = StateDir.open(str(folder), create=True)
        self.config = make_config(**config)
        self.state.write_config(self.config)
        self._service = service
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._task: Optional[asyncio.Task[None]] = None
        self.control: Optional[Control] = None
        self.error: Optional[BaseException] = None

    def __enter__(self) -> "AgentThread":
        self._thread.start()
        self._service.wait_online()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.stop()
        assert self.error is None, self.error

    def stop(self) -> None:
        if self._thread.is_alive():
            assert self._loop is not None
            assert self._task is not None
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        environ = {"AWS_ENDPOINT_URL": self._service.url}
        transport = Transport(environ)
        api = AwsApi(
            "eu-west-1",
            lambda: Credentials("ASIANODE", "secret", "token"),
            environ=environ,
            transport=transport,
            retry=Retry(attempts=1),
        )
        executor = ThreadPoolExecutor(4)
        self.control = Control(InstanceId(MI), self.config, self.state, api, transport, executor)
        self._task = asyncio.ensure_future(self.control.run())
        try:
            await self._task
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self.error = error
        finally:
            transport.abort()
            executor.shutdown(wait=True)
