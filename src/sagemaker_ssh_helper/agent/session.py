"""
Sessions: the service offers one, its data channel is joined to a TCP port or a program, and its result goes
back.

Here are all sessions together, and the byte streams of a port (AWS-StartSSHSession and documents like it).
Forwarded ports are in :mod:`sagemaker_ssh_helper.agent.forwarding_session`, programs in
:mod:`sagemaker_ssh_helper.agent.program_session`. What cannot be done as the document asks is refused
with a reason that reaches the user, and never done in part.
"""

import asyncio
import logging
import ssl
from typing import Any, Awaitable, Callable, Dict, List, Mapping, Optional, Set

from sagemaker_ssh_helper.agent.documents import DocumentRefused
from sagemaker_ssh_helper.agent.forwarding_session import ForwardingSession
from sagemaker_ssh_helper.agent.ports import CONNECT_FAILED, PortTarget, connect, find_addresses, port_target
from sagemaker_ssh_helper.agent.program_session import ProgramSession
from sagemaker_ssh_helper.agent.programs import PROGRAM_TYPES
from sagemaker_ssh_helper.agent.session_base import Node, Result, SessionBase, no_kms
from sagemaker_ssh_helper.channels import Grant
from sagemaker_ssh_helper.errors import reason_of, trace_of
from sagemaker_ssh_helper.protocol.data_channel import ChannelClosed, Event, FlagReceived, Ready, StreamData
from sagemaker_ssh_helper.protocol.message import Flag, PayloadType
from sagemaker_ssh_helper.protocol.payloads import InteractiveShell, SessionType, TaskStatus

MAX_SESSIONS = 1000
"""At a time; same in the official agent."""

DIED = "the agent in the container died and was started again; its sessions are gone"

_CLOSE_TIMEOUT = 2.0
_WRITE_BUFFER_BYTES = 512 << 10
_MAX_REMEMBERED = 1000
_ENDING_FLAGS = (Flag.TERMINATE_SESSION, Flag.DISCONNECT_TO_PORT)

_logger = logging.getLogger(__name__)


class Sessions:
    """
    All sessions of this agent, each in a task of its own: what one does, or what goes wrong in it, is nothing
    to the others.

    Args:
        grant: gives the permission to open a session's data channel now.
        complete: told each session's result, once.
        sshd_port: where our sshd listens, for port 22 when nothing listens there; 0: nowhere.
        ssl_context: for the data channels; shared, because to make one takes longer than a connection.
        environ_path: the job's environment, for programs; empty: that of this process.
        decrypt: what KMS makes of a session's data key; left out, encrypted sessions fail.
        changed: told the ids of the open sessions, whenever one began or ended.
    """

    def __init__(
        self,
        instance_id: str,
        *,
        grant: Callable[[str], Awaitable[Grant]],
        complete: Callable[[str, Result], None],
        sshd_port: Callable[[], int] = lambda: 0,
        ssl_context: Optional[ssl.SSLContext] = None,
        environ_path: str = "",
        decrypt: Callable[[str, bytes, Mapping[str, str]], Awaitable[bytes]] = no_kms,
        changed: Callable[[List[str]], None] = lambda ids: None,
    ) -> None:
        self._node = Node(instance_id, grant, sshd_port, ssl_context, environ_path, decrypt)
        self._complete = complete
        self._changed = changed
        self._live: Dict[str, SessionBase] = {}
        self._tasks: Set[asyncio.Task[None]] = set()
        # The ids of sessions that ended, oldest first.
        self._ended: Dict[str, None] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._live)

    def offer(self, shell: InteractiveShell) -> None:
        """Begin a session, unless it is known."""
        session_id = shell.session_id
        if session_id in self._live or session_id in self._ended:
            _logger.info("! session %s was offered before", session_id)
            return
        if self._closed or len(self._live) >= MAX_SESSIONS:
            _logger.warning("! session %s is refused: %d are open", session_id, len(self._live))
            why = "the agent is about to end" if self._closed else f"{MAX_SESSIONS} sessions are open here"
            self._complete(session_id, Result(TaskStatus.FAILED, why))
            return
        try:
            session = self._new_session(shell)
        except Exception as error:
            self._remember(session_id)
            self._complete(session_id, _failure(session_id, error))
            return
        self._live[session_id] = session
        self._changed(list(self._live))
        task = asyncio.ensure_future(self._run(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _new_session(self, shell: InteractiveShell) -> SessionBase:
        """Raises DocumentRefused."""
        if shell.document_content.get("sessionType") in PROGRAM_TYPES:
            return ProgramSession(self._node, shell)
        port = port_target(shell)
        return (ForwardingSession if port.is_forwarded else _PortSession)(self._node, shell, port)

    def _remember(self, session_id: str) -> None:
        self._ended[session_id] = None
        if len(self._ended) > _MAX_REMEMBERED:
            del self._ended[next(iter(self._ended))]

    def end(self, session_id: str) -> None:
        """End a session because the service says so. Nothing when it is not known."""
        session = self._live.get(session_id)
        if session is not None:
            session.finish(Result(TaskStatus.SUCCESS))

    def give_up(self, session_id: str) -> None:
        """A session of an agent before this one, which died in the middle of it."""
        _logger.warning("! session %s went with the agent before this one", session_id)
        self._remember(session_id)
        self._complete(session_id, Result(TaskStatus.FAILED, DIED))

    async def close(self) -> None:
        """End all sessions, because the agent ends."""
        self._closed = True
        for session in list(self._live.values()):
            session.finish(Result(TaskStatus.CANCELLED, "the agent in the container was stopped"))
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    async def _run(self, session: SessionBase) -> None:
        session_id = session.session_id
        try:
            result = await session.run()
        except Exception as error:
            result = _failure(session_id, error)
        finally:
            del self._live[session_id]
            self._changed(list(self._live))
            self._remember(session_id)
        _logger.info("> session %s: %s %s", session_id, result.status, session.summary(result))
        self._complete(session_id, result)


def _failure(session_id: str, error: Exception) -> Result:
    """The result of a session that ended by an exception."""
    if isinstance(error, DocumentRefused):
        _logger.info("! session %s is refused: %s", session_id, error)
        return Result(TaskStatus.FAILED, str(error))
    _logger.error("! session %s failed within the agent:\n%s", session_id, trace_of(error))
    return Result(TaskStatus.FAILED, f"the agent failed: {type(error).__name__}; see its log")


class _PortSession(SessionBase):
    """One session to a port."""

    def __init__(self, node: Node, shell: InteractiveShell, port: PortTarget) -> None:
        super().__init__(node, shell)
        self._port = port
        self._target: Optional[asyncio.Transport] = None
        self._target_closed: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> Result:
        """The whole session. Raises DocumentRefused."""
        target = self._port
        _logger.info("< session %s to %s", self.session_id, target)
        runner = self._new_runner(SessionType.PORT, target.properties, self._on_event, self._pump)
        tasks = [asyncio.ensure_future(self._connect(target))]
        try:
            # A port where nothing listens is told before a client has to shake hands.
            await self._until_decided(tasks[0])
            if not self._result.done():
                tasks.append(asyncio.ensure_future(self._run_channel(runner)))
                await self._until_decided(tasks[1])
            if self._drain:
                await self._wait_for_acknowledges(runner)
            return self._result.result()
        finally:
            runner.close()
            tasks[0].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close_target()

    async def _until_decided(self, task: "asyncio.Task[None]") -> None:
        """Until there is a result, or the task is done; raises what it raised."""
        either: List[asyncio.Future[Any]] = [task, self._result]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()

    # --- the data channel ---

    def _on_event(self, event: Event) -> None:
        if isinstance(event, StreamData):
            # In a broken connection bytes get lost, and asyncio would warn of each.
            if event.payload_type == PayloadType.OUTPUT and self._target and not self._target.is_closing():
                self._received_bytes += len(event.data)
                self._target.write(event.data)
        elif isinstance(event, FlagReceived):
            if event.flag in _ENDING_FLAGS:
                self.finish(Result(TaskStatus.SUCCESS))
        elif isinstance(event, ChannelClosed):
            self.finish(Result(TaskStatus.SUCCESS))
        elif isinstance(event, Ready):
            _logger.debug("= session %s is ready, client version %s", self.session_id, event.peer_version)

    # --- the port ---

    async def _connect(self, target: PortTarget) -> None:
        try:
            addresses = await find_addresses(target, self._node.sshd_port)
            await connect(target, addresses, lambda: _Target(self))
        except DocumentRefused as refusal:
            self.finish(Result(TaskStatus.FAILED, str(refusal)))
        except ConnectionError as error:
            self.finish(Result(TaskStatus.FAILED, f"{CONNECT_FAILED}{error}"))

    def target_connected(self, transport: asyncio.Transport) -> None:
        self._target = transport
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        # Not now: Python 3.8 begins to read after this call, whatever was said in it.
        self._loop.call_soon(self._pump)

    def target_sent(self, data: bytes) -> None:
        if self._result.done():
            return
        assert self._runner is not None, "a target without a session"
        self._sent_bytes += len(data)
        self._runner.send_data(data)
        self._pump()

    def target_full(self, full: bool) -> None:
        assert self._runner is not None, "a target without a session"
        if full:
            self._runner.pause_delivery()
        elif not self._result.done():
            self._runner.resume_delivery()

    def target_lost(self, error: Optional[Exception]) -> None:
        self._target_closed.set_result(None)
        if error is None:
            self.finish(Result(TaskStatus.SUCCESS), drain=True)
        else:
            why = f"the connection to the port broke: {reason_of(error)}"
            self.finish(Result(TaskStatus.FAILED, why), drain=True)

    def _pump(self) -> None:
        """Read from the port while the channel takes it."""
        if self._target is None or self._runner is None or self._target.is_closing():
            return
        if self._runner.writable:
            self._target.resume_reading()
        else:
            self._target.pause_reading()

    async def _close_target(self) -> None:
        """Close the connection to the port. What the client sent still goes out, if that is soon done."""
        target = self._target
        if target is not None:
            target.close()
            await asyncio.wait([self._target_closed], timeout=_CLOSE_TIMEOUT)
            target.abort()
            await asyncio.wait([self._target_closed])


class _Target(asyncio.Protocol):
    """The connection to the port."""

    def __init__(self, session: _PortSession) -> None:
        self._session = session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a port is a stream"
        self._session.target_connected(transport)

    def data_received(self, data: bytes) -> None:
        self._session.target_sent(data)

    def pause_writing(self) -> None:
        self._session.target_full(True)

    def resume_writing(self) -> None:
        self._session.target_full(False)

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._session.target_lost(error)
