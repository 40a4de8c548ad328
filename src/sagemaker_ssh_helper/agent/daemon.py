"""
The agent: registers this node, and keeps it online until it is told to end.

    python -m sagemaker_ssh_helper.agent.daemon --state FOLDER

The set-up (:mod:`sagemaker_ssh_helper.agent.node`) calls :func:`main` in its own process when it has written
``agent.json``; by itself the module serves a restart.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Awaitable, List, Optional, Sequence

from sagemaker_ssh_helper import plain_logs
from sagemaker_ssh_helper.agent import keeper, official, packages, peers, registration, ssh_servers
from sagemaker_ssh_helper.agent.aws_api import AwsApi, Retry
from sagemaker_ssh_helper.agent.control import Control
from sagemaker_ssh_helper.agent.credentials import ContainerCredentials
from sagemaker_ssh_helper.agent.registration import InstanceRole, Registration
from sagemaker_ssh_helper.agent.sshd import SshServer
from sagemaker_ssh_helper.agent.state import AgentConfig, AgentKind, State, StateDir
from sagemaker_ssh_helper.agent.transport import Transport
from sagemaker_ssh_helper.errors import LocalSetup, SSHHelperError, UsageError, reason_of, trace_of
from sagemaker_ssh_helper.names import Env, InstanceId
from sagemaker_ssh_helper.plain_logs import PlainFormatter

EXIT_RUNNING = 3
"""Another agent of this node runs."""

EXIT_OFFICIAL = 4
"""Our agent did not come online and has ended; the official one was installed, and needs an activation."""

WATCHDOG_TIMEOUT = 60.0
"""Seconds from its registration that our agent has to come online, where there may be another (``auto``)."""

FAREWELL_TIMEOUT = 1.0
"""Seconds that a node may take to remove itself from the managed instances when it ends."""

# Calls that may be under way at once. Each is short; sessions wait for one while they open.
_MAX_CALLS = 8

# Seconds; a user whose login failed because sshd had died tries again after about as long.
SSHD_LOOK_INTERVAL = 2.0

CREDENTIALS_LOOK_INTERVAL = 30.0
"""Seconds between looks at whether the role token is to be renewed."""

_logger = logging.getLogger(__name__)


class _Stopping(Exception):
    """The agent ends, so a pause between two attempts does not go on."""


class _OfficialWanted(Exception):
    """Ours does not come online, and the official one is there now."""


class Agent:
    """
    One run of the agent.

    :meth:`stop` may be called from a signal handler or another thread.
    """

    def __init__(self, state: StateDir, config: AgentConfig) -> None:
        self._state = state
        self._config = config
        self._transport = Transport()
        self._stopped = threading.Event()
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._task: Optional[asyncio.Task[None]] = None

    def stop(self) -> None:
        """End soon and orderly."""
        self._stopped.set()
        if self._loop is not None and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def run(self) -> None:
        """Until :meth:`stop`. Raises SSHHelperError when this node cannot come online as it is set up."""
        loop = self._loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(self._run())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        if self._stopped.is_set():
            self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            if not self._stopped.is_set():
                raise
            _logger.info("= the agent was told to end")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="aws")
        try:
            api = AwsApi(self._config.region, transport=self._transport, sleep=self._pause)
            if self._config.agent == AgentKind.OFFICIAL:
                await self._run_official(executor)
                return
            registered = await loop.run_in_executor(executor, self._register, api)
            self._state.update_status(State.REGISTERED, instance_id=registered.instance_id)
            try:
                await _side_by_side(
                    self._stay_online(registered, api, executor),
                    _keep_sshd(self._state, executor),
                    self._watch(executor),
                )
            finally:
                await self._deregister(registered.instance_id, executor)
        finally:
            # What is still under way in threads is of no use any more.
            self._stopped.set()
            self._transport.abort()
            executor.shutdown(wait=False)

    async def _stay_online(self, registered: Registration, api: AwsApi, executor: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        role = InstanceRole(self._state, registered, api)
        pause = await loop.run_in_executor(executor, role.refresh)
        while not role.is_valid:
            self._state.update_status(State.REGISTERED, why=role.problem)
            await asyncio.sleep(pause)
            pause = await loop.run_in_executor(executor, role.refresh)
        api = AwsApi(
            self._config.region,
            role.current,
            renew=role.renew,
            clock=api.clock,
            transport=self._transport,
            sleep=self._pause,
        )
        control = Control(registered.instance_id, self._config, self._state, api, self._transport, executor)
        role.on_renewed = lambda: loop.call_soon_threadsafe(control.hurry)
        await _side_by_side(control.run(), _keep_credentials(role, executor))

    async def _run_official(self, executor: ThreadPoolExecutor) -> None:
        agent = official.OfficialAgent(self._state, self._config)
        instance_id = agent.take_over() or await agent.register()
        self._state.update_status(State.REGISTERED, instance_id=instance_id)
        try:
            await _side_by_side(agent.run(), _keep_sshd(self._state, executor))
        finally:
            await self._deregister(instance_id, executor)

    async def _watch(self, executor: ThreadPoolExecutor) -> None:
        """With ``auto``: make room for the official agent when ours was given its time and is not online."""
        loop = asyncio.get_running_loop()
        if self._config.agent == AgentKind.AUTO:
            await asyncio.sleep(WATCHDOG_TIMEOUT)
            status = self._state.read_status()
            if status is not None and status.state is not State.ONLINE:
                _logger.warning("! not online after %.0f s: %s", WATCHDOG_TIMEOUT, status.why)
                try:
                    await loop.run_in_executor(executor, self._prepare_official)
                except LocalSetup as error:
                    _logger.warning("! our own agent goes on, since there is no other: %s", error)
                else:
                    raise _OfficialWanted
        await loop.create_future()

    def _prepare_official(self) -> None:
        packages.install_official_agent(_logger.warning)
        official.configure(self._config.region, os.environ)

    async def _deregister(self, instance_id: InstanceId, executor: ThreadPoolExecutor) -> None:
        """Nobody can reach the node any more. Where the job's role may not do this, its entry stays."""
        credentials = ContainerCredentials(os.environ, self._transport).get
        api = AwsApi(self._config.region, credentials, transport=self._transport, retry=Retry(1))
        call = asyncio.get_running_loop().run_in_executor(
            executor, api.deregister_managed_instance, instance_id
        )
        try:
            await asyncio.wait_for(call, FAREWELL_TIMEOUT)
        except (SSHHelperError, asyncio.TimeoutError) as error:
            _logger.debug("the managed instance stays: %s", error)
        else:
            # It cannot be used again.
            self._state.forget_registration()
            _logger.info("= %s is deregistered", instance_id)

    def _register(self, api: AwsApi) -> registration.Registration:
        return registration.register(self._state, self._config, api, sleep=self._pause)

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise _Stopping


async def _side_by_side(*parts: Awaitable[None]) -> None:
    """Until one of them ends or fails; then the others end, too."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _keep_credentials(role: InstanceRole, executor: ThreadPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    while True:
        pause = role.due_in()
        if pause <= 0:
            pause = await loop.run_in_executor(executor, role.refresh)
        # They may be renewed in between, by those who need them, and are then due at another time.
        await asyncio.sleep(min(pause, CREDENTIALS_LOOK_INTERVAL))


async def _keep_sshd(state: StateDir, executor: ThreadPoolExecutor) -> None:
    """Start the node's ssh server again whenever it died, as long as the agent runs."""
    loop = asyncio.get_running_loop()
    servers: List[SshServer] = []
    try:
        servers.append(ssh_servers.attach(state))
        for_peers = peers.attach(state)
        if for_peers is not None:
            servers.append(for_peers)
    except LocalSetup as error:
        # An agent without an ssh server of its own still serves sessions to other ports.
        _logger.info("= no ssh server to look after: %s", error)
        await loop.create_future()
        return
    while True:
        await asyncio.sleep(SSHD_LOOK_INTERVAL)
        for server in servers:
            happened = await loop.run_in_executor(executor, server.keep_alive, loop.time())
            if happened:
                _logger.warning("! %s", happened)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """
    The agent until it ends; returns its exit status.

    Logs to the file that ``agent.json`` names, unless the caller has set logging up. What keeps the node from
    coming online is told in ``status.json``.
    """
    words: List[str] = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) != 2 or words[0] != "--state":
        raise UsageError("usage: python -m sagemaker_ssh_helper.agent.daemon --state FOLDER")
    state = StateDir.open(words[1])
    try:
        lock = state.lock("daemon", wait=False)
    except BlockingIOError:
        print("another agent of this node is running", file=sys.stderr)
        return EXIT_RUNNING
    with lock:
        config = state.read_config()
        if config is None:
            raise LocalSetup(f"{state.agent_json} is not there", fix="Call setup_and_start_ssh() first")
        _set_logging_up(config)
        return _run(state, config)


def _run(state: StateDir, config: AgentConfig) -> int:
    _logger.info("= %s agent of %s starts, process %d", config.agent, config.instance_name, os.getpid())
    try:
        plain_logs.run(Agent(state, config).run())
        why, status = "the agent was told to end", 0
    except _OfficialWanted:
        state.update_status(State.STARTING, why="the official agent takes over")
        return EXIT_OFFICIAL
    except SSHHelperError as error:
        why, status = str(error), 1
        _logger.error("the agent ends: %s", why)
    except Exception as error:
        why, status = f"the agent failed: {reason_of(error)}", keeper.EXIT_DIED
        _logger.error("the agent failed:\n%s", trace_of(error))
    try:
        state.update_status(State.FAILED, why=why)
    except OSError as error:
        _logger.error("the state cannot be written: %s", error)
    return status


def _set_logging_up(config: AgentConfig) -> None:
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.FileHandler(config.log_path)
        handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(handler)
        root.setLevel(logging.INFO)
    if os.environ.get(Env.DEBUG):
        root.setLevel(logging.DEBUG)


if __name__ == "__main__":
    sys.exit(main())
