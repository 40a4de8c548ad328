"""
A model's container at work: its files, its server process, and requests to it.

What the server must do is SageMaker's convention: the container is run as ``serve``, answers ``GET /ping``
with 200 when it is ready, and ``POST /invocations``; one for many models answers ``/models`` besides.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sagemaker_ssh_helper.emulator import inference_toolkit, job_storage, mounts, training_toolkit
from sagemaker_ssh_helper.emulator.container import Container
from sagemaker_ssh_helper.emulator.container_environment import container_environment
from sagemaker_ssh_helper.emulator.job_credentials import JobCredentials
from sagemaker_ssh_helper.emulator.job_storage import S3Uri, StorageError
from sagemaker_ssh_helper.emulator.jobs import JobSettings
from sagemaker_ssh_helper.emulator.native_agents import NativeAgent
from sagemaker_ssh_helper.emulator.node import BASE, Node
from sagemaker_ssh_helper.emulator.service import Cloud
from sagemaker_ssh_helper.names import node_name

T = TypeVar("T")

STARTUP_TIMEOUT = 480.0
"""Seconds until the first good answer to a ping, unless the request says otherwise."""

PING_INTERVAL = 0.1
PING_TIMEOUT = 2.0
INVOCATION_TIMEOUT = 60.0
"""Seconds a model may take to answer; the same on AWS."""

MULTI_MODEL = "MultiModel"

_ENDED = "The container has ended."

PROGRAM = "SAGEMAKER_PROGRAM"
SUBMIT_DIRECTORY = "SAGEMAKER_SUBMIT_DIRECTORY"


class ServerFailed(Exception):
    """The server did not come up, or is gone; ``str`` is the reason in SageMaker's words."""


@dataclass(frozen=True)
class Answer:
    """What a model server answered."""

    status: int
    content_type: str
    body: bytes


class ModelServer:
    """
    One container of a model, from ``start`` to ``stop``.

    Args:
        definition: the container definition of CreateModel.
        credentials: of the model's role; closed at the end.
        variables: what SageMaker adds to the environment.
        group, stream: where its output goes.
        startup_timeout: seconds until it must answer a ping.
        native_target: what the service's agent makes of the container, if it is to have one.
    """

    def __init__(
        self,
        definition: Mapping[str, Any],
        credentials: JobCredentials,
        cloud: Cloud,
        settings: JobSettings,
        executor: Executor,
        *,
        group: str,
        stream: str,
        isolated: bool = False,
        variables: Mapping[str, str] | None = None,
        startup_timeout: float = STARTUP_TIMEOUT,
        native_target: str | None = None,
    ) -> None:
        self._definition = definition
        self._cloud = cloud
        self._credentials = credentials
        self._settings = settings
        self._executor = executor
        self._group = group
        self._stream = stream
        self._isolated = isolated
        self._variables = dict(variables or {})
        self._startup_timeout = startup_timeout
        self._native_target = native_target
        self._agent: NativeAgent | None = None
        self._root = cloud.state_dir / "jobs" / secrets.token_hex(4)
        self._node: Node | None = None
        self._container: Container | None = None
        self._port = 0
        self._loaded: dict[str, asyncio.Task[None]] = {}
        self.multi_model = definition.get("Mode") == MULTI_MODEL

    async def start(self) -> None:
        """
        Until it answers pings.

        Raises ServerFailed and StorageError; ``stop`` is to be called then too.
        """
        node = self._node = await self._in_thread(self._make_node)
        command, environment = await self._in_thread(partial(self._stage, node))
        if not node.has_program(command[0], str(node.home), environment["PATH"]):
            raise ServerFailed(
                "CannotStartContainerError. Please ensure the model container for variant can be run with "
                f"'docker run {self._definition.get('Image', '')} serve'. The local cloud runs every image "
                "with this machine's programs: put a program 'serve' on PATH, give SAGEMAKER_PROGRAM, or "
                "have serving.properties in the model."
            )
        logs = await self._in_thread(partial(self._cloud.aws, "logs"))
        try:
            self._container = await Container.start(
                node,
                command,
                env=environment,
                cwd=str(node.home),
                logs=logs,
                group=self._group,
                stream=self._stream,
                log_bytes=self._settings.log_bytes,
            )
        except (OSError, ValueError) as error:
            raise ServerFailed(f"CannotStartContainerError. {error}") from error
        if self._native_target is not None:
            self._agent = await NativeAgent.start(
                self._cloud,
                self._native_target,
                self._credentials.role.user_id,
                node,
                environment,
                group=self._group,
                stream=self._stream,
            )
        await self._until_ready(self._container)

    async def invoke(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """A model's answer. Raises ServerFailed when there is none."""
        return await self._request("POST", "/invocations", body, headers)

    async def invoke_model(self, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """
        The answer of one of many models, ``target`` below the definition's prefix; loaded when first asked.

        Raises StorageError when there is no such archive, ServerFailed when it cannot be loaded.
        """
        name = hashlib.sha256(target.encode()).hexdigest()[:32]
        if name not in self._loaded:
            self._loaded[name] = asyncio.create_task(self._load(name, target))
        try:
            await asyncio.shield(self._loaded[name])
        except (ServerFailed, StorageError):
            self._loaded.pop(name, None)
            raise
        return await self._request("POST", f"/models/{quote(name)}/invoke", body, headers)

    async def stop(self) -> None:
        """End its processes, SIGTERM first, and remove its files."""
        for task in self._loaded.values():
            task.cancel()
        await asyncio.gather(*self._loaded.values(), return_exceptions=True)
        if self._container is not None:
            self._container.stop(self._settings.stop_timeout)
            try:
                await self._container.wait()
            except asyncio.CancelledError:
                self.kill()
                await self._container.wait()
                await self._clean_up()
                raise
        await self._clean_up()

    def kill(self) -> None:
        """The end of its processes, now. Then ``stop``."""
        if self._container is not None:
            self._container.kill()
        if self._agent is not None:
            self._agent.kill(_ENDED)

    async def _clean_up(self) -> None:
        if self._agent is not None:
            await self._agent.end(_ENDED)
        self._credentials.close()
        if self._node is not None:
            await self._in_thread(self._node.remove)
        await self._in_thread(partial(shutil.rmtree, self._root, ignore_errors=True))

    async def _until_ready(self, container: Container) -> None:
        ended = asyncio.create_task(container.wait())
        end_at = time.monotonic() + self._startup_timeout
        try:
            while not ended.done():
                if time.monotonic() > end_at:
                    raise ServerFailed(
                        "The model container did not pass the ping health check. Please check CloudWatch "
                        f"logs for this endpoint. ({self._group}/{self._stream})"
                    )
                try:
                    ping = partial(self._http, "GET", "/ping", b"", {}, PING_TIMEOUT)
                    if (await asyncio.to_thread(ping)).status == 200:
                        return
                except (OSError, http.client.HTTPException):
                    pass
                await asyncio.wait([ended], timeout=PING_INTERVAL)
            raise ServerFailed(
                "The model container did not pass the ping health check: it ended with exit code "
                f"{ended.result().exit_code}. Please check CloudWatch logs. ({self._group}/{self._stream})"
            )
        finally:
            ended.cancel()

    async def _load(self, name: str, target: str) -> None:
        assert self._node is not None, "a server that runs has its node"
        node = self._node
        folder = node.path_of(f"{BASE}/models/{name}/model")
        await self._in_thread(partial(self._fetch_model, target, folder))
        body = json.dumps({"model_name": name, "url": f"{node.seen_base}/models/{name}/model"}).encode()
        answer = await self._request("POST", "/models", body, {"Content-Type": "application/json"})
        if answer.status >= 300:
            raise ServerFailed(
                f"Failed to load model {target}: {answer.body[:500].decode('utf-8', 'replace')}"
            )

    def _fetch_model(self, target: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        prefix = S3Uri.parse(self._definition["ModelDataUrl"])
        s3 = self._credentials.role.client("s3")
        job_storage.download_archive(s3, prefix / target.lstrip("/"), folder)

    def _make_node(self) -> Node:
        self._root.mkdir(parents=True, mode=0o700)
        name = node_name(0)
        node = Node(self._root / name, name, state_dir=self._cloud.state_dir, namespace=mounts.available())
        node.create()
        return node

    def _stage(self, node: Node) -> tuple[list[str], dict[str, str]]:
        """The model's files in place; the command and the environment. Raises StorageError."""
        s3 = self._credentials.role.client("s3")
        model = node.base / "model"
        model.mkdir(parents=True)
        data = self._definition.get("ModelDataUrl")
        if data and not self.multi_model:
            job_storage.download_archive(s3, S3Uri.parse(data), model)
        self._port = _free_port()
        own = self._definition.get("Environment", {})
        insisted = {**self._variables, "SAGEMAKER_BIND_TO_PORT": str(self._port)}
        if self.multi_model:
            insisted["SAGEMAKER_MULTI_MODEL"] = "true"
        environment = container_environment(
            node, self._cloud, self._credentials, own, insisted=insisted, isolated=self._isolated
        )
        if PROGRAM not in own and inference_toolkit.serving_properties(model) is None:
            return ["serve"], environment
        code = model / "code"
        submitted = own.get(SUBMIT_DIRECTORY, "")
        if submitted.startswith("s3://"):
            code = node.base / "code"
            code.mkdir(parents=True, exist_ok=True)
            job_storage.download_archive(s3, S3Uri.parse(submitted), code)
        environment["SAGEMAKER_CODE_DIR"] = f"{node.seen_base}/{code.relative_to(node.base)}"
        python = str(node.python / "bin" / "python")
        # A copy elsewhere: what lies beside a program is what Python imports first.
        toolkit = shutil.copy(inference_toolkit.__file__, node.root / "inference_toolkit.py")
        command = [python, str(toolkit)]
        if (code / "requirements.txt").is_file():
            requirements = f"{environment['SAGEMAKER_CODE_DIR']}/requirements.txt"
            failure = f"{node.seen_base}/failure"
            program = os.path.abspath(training_toolkit.__file__)
            options = ["--requirements", requirements, "--failure", failure, "--"]
            command = [python, "-I", "-S", program, *options, *command]
        return command, environment

    async def _request(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        work = partial(self._http, method, path, body, headers, INVOCATION_TIMEOUT)
        try:
            # Not the jobs' threads: a model may call the cloud while it works, and wait for one of them.
            return await asyncio.to_thread(work)
        except (OSError, http.client.HTTPException) as error:
            raise ServerFailed(f"{type(error).__name__}: {error}") from error

    def _http(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            content_type = answer.getheader("Content-Type") or "application/octet-stream"
            return Answer(answer.status, content_type, answer.read())
        finally:
            connection.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
