"""
Sessions that run a program: a shell or a command on a terminal, or a command without one.

::

    client --OUTPUT--> terminal        terminal --OUTPUT--> client
           --SIZE----> its size
                                       pipes --OUTPUT, STDERR--> client, then EXIT_CODE
                                       or: a file --OUTPUT--> client, after the end

Each way holds its source when its sink is full: a window without room stops the reading of the program's
output, a program that takes no input holds the client.
"""

import asyncio
import logging
import os
import shutil
import signal
import tempfile
from typing import IO, Dict, List, Optional, Tuple

from sagemaker_ssh_helper.agent.accounts import Account, find_account, session_environment
from sagemaker_ssh_helper.agent.descriptors import READ_BYTES, Reader
from sagemaker_ssh_helper.agent.documents import DocumentRefused
from sagemaker_ssh_helper.agent.processes import Process
from sagemaker_ssh_helper.agent.programs import Program, read_program
from sagemaker_ssh_helper.agent.session_base import Node, Result, SessionBase
from sagemaker_ssh_helper.agent.terminal import Terminal
from sagemaker_ssh_helper.agent.utf8 import Cutter
from sagemaker_ssh_helper.channels import DataChannelRunner, aes_gcm
from sagemaker_ssh_helper.errors import LocalSetup, MalformedMessage, reason_of
from sagemaker_ssh_helper.protocol.data_channel import (
    ChannelClosed,
    Event,
    FlagReceived,
    Ready,
    StreamData,
)
from sagemaker_ssh_helper.protocol.message import Flag, PayloadType
from sagemaker_ssh_helper.protocol.payloads import InteractiveShell, Size, TaskStatus

SILENCE = 0.25
"""
Seconds without output after which a client is told that its session has begun.

Without a handshake a client learns that from the first output, and sends nothing before it: a program that
waits for input in silence would wait for ever. Official agents leave it at that.
"""

# How long the last output may take after the program ended. What stays open belongs to processes it left.
_FLUSH_TIMEOUT = 0.2
_INTERRUPT, _QUIT = 0x03, 0x1C

_logger = logging.getLogger(__name__)


class ProgramSession(SessionBase):
    """One session whose far end is a program."""

    _program: Program
    _account: Account

    def __init__(self, node: Node, shell: InteractiveShell) -> None:
        super().__init__(node, shell)
        self._process: Optional[Process] = None
        self._terminal: Optional[Terminal] = None
        self._outputs: List[_Output] = []
        self._following: Optional[asyncio.Task[None]] = None
        self._silence: Optional[asyncio.TimerHandle] = None
        self._writable = asyncio.Event()

    async def run(self) -> Result:
        """The whole session. Raises DocumentRefused."""
        program = self._program = read_program(self._shell)
        self._account = find_account(program.user)
        if program.kms_key_id:
            await self._need_cipher()
        _logger.info("< session %s: %s", self.session_id, program.session_type)
        runner = self._new_runner(
            program.session_type, None, self._on_event, self._on_writable, program.kms_key_id
        )
        channel = asyncio.ensure_future(self._run_channel(runner))
        channel.add_done_callback(self._pass_on_exception)
        try:
            result = await self._result
            if self._drain:
                await self._wait_for_acknowledges(runner)
            return result
        finally:
            runner.close()
            await asyncio.wait([channel])
            await self._close()

    async def _need_cipher(self) -> None:
        """Refuse a session that this container cannot encrypt, before its client has asked KMS for a key."""
        try:
            await self._loop.run_in_executor(None, aes_gcm.load)
        except LocalSetup as error:
            what = "the session document wants the session encrypted (kmsKeyId), and the container cannot"
            raise DocumentRefused(f"{what}: {error}") from error

    # --- the data channel ---

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Ready):
            self._begin()
        elif isinstance(event, StreamData):
            self._on_input(event.payload_type, event.data)
        elif isinstance(event, FlagReceived):
            if event.flag == Flag.TERMINATE_SESSION:
                self.finish(Result(TaskStatus.SUCCESS))
        elif isinstance(event, ChannelClosed):
            self.finish(Result(TaskStatus.SUCCESS))

    def _on_input(self, payload_type: int, data: bytes) -> None:
        if payload_type == PayloadType.OUTPUT:
            self._received_bytes += len(data)
            if self._terminal is not None:
                self._terminal.write(data)
            elif self._process is not None:
                # There is no input; the keys that end programs are for the program all the same.
                for byte in data:
                    if byte in (_INTERRUPT, _QUIT):
                        self._process.signal(signal.SIGINT if byte == _INTERRUPT else signal.SIGQUIT)
                        break
        elif payload_type == PayloadType.SIZE and self._terminal is not None:
            try:
                size = Size.parse(data)
            except MalformedMessage as error:
                _logger.info("! session %s: %s", self.session_id, error)
            else:
                self._terminal.resize(size.cols, size.rows)

    def _on_writable(self) -> None:
        self._writable.set()
        for output in self._outputs:
            output.reader.resume()

    def _send(self, payload: bytes, payload_type: int = int(PayloadType.OUTPUT)) -> None:
        """Send one payload; hold the program when that filled the window."""
        if self._result.done():
            return
        runner = self._channel_runner
        self._sent_bytes += len(payload)
        runner.send_data(payload, payload_type)
        if not runner.writable:
            self._writable.clear()
            for output in self._outputs:
                output.reader.pause()

    @property
    def _channel_runner(self) -> DataChannelRunner:
        assert self._runner is not None, "a program without a session"
        return self._runner

    # --- the program ---

    def _begin(self) -> None:
        """The client is there: start the program."""
        try:
            folder, collected = self._start()
        except (OSError, LocalSetup) as error:
            self._fail(f"the session's program cannot be started: {reason_of(error)}")
            return
        if self._result.done():
            return
        self._following = asyncio.ensure_future(self._follow(collected))
        self._following.add_done_callback(self._pass_on_exception)
        if self._terminal is not None:
            self._silence = self._loop.call_later(SILENCE, self._break_silence)
            self._terminal.write(self._program.first_input)
        if self._channel_runner.writable:
            self._on_writable()
        _logger.debug("= session %s runs in %s", self.session_id, os.fsdecode(folder))

    def _start(self) -> Tuple[bytes, Optional[IO[bytes]]]:
        """The folder it runs in, and where its output is collected if that is so. Raises OSError."""
        program = self._program
        environ, folder = session_environment(self._account, self._node.environ_path)
        if program.terminal:
            self._start_on_terminal(environ, folder)
            return folder, None
        path = os.fsdecode(environ.get(b"PATH") or os.defpath.encode())
        if shutil.which(program.words[0], path=path) is None:
            self._fail("the session's program cannot be started: there is no such command here")
            return folder, None
        if program.separate:
            self._start_on_pipes(environ, folder)
            return folder, None
        # It outlives this function: _follow closes it.
        collected = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = self._spawn(environ, folder, None, collected.fileno(), collected.fileno())
        except BaseException:
            collected.close()
            raise
        return folder, collected

    def _start_on_terminal(self, environ: Dict[bytes, bytes], folder: bytes) -> None:
        runner = self._channel_runner
        output = _Output(self, PayloadType.OUTPUT, b"")
        terminal = self._terminal = Terminal(
            output.received,
            on_full=runner.pause_delivery,
            on_room=runner.resume_delivery,
            owner=self._account.uid if self._account.ids else None,
        )
        output.reader = terminal.reader
        self._outputs.append(output)
        end = terminal.replica
        self._process = self._spawn(environ, folder, end, end, end)
        terminal.close_replica()

    def _start_on_pipes(self, environ: Dict[bytes, bytes], folder: bytes) -> None:
        program = self._program
        ends: List[int] = []
        try:
            for payload_type, prefix in (
                (PayloadType.OUTPUT, program.output_prefix),
                (PayloadType.STDERR, program.error_prefix),
            ):
                read_end, write_end = os.pipe()
                ends.append(write_end)
                output = _Output(self, payload_type, prefix)
                output.descriptor = read_end
                output.reader = Reader(read_end, output.received)
                self._outputs.append(output)
            self._process = self._spawn(environ, folder, None, ends[0], ends[1])
        finally:
            for end in ends:
                os.close(end)

    def _spawn(
        self, environ: Dict[bytes, bytes], folder: bytes, stdin: Optional[int], stdout: int, stderr: int
    ) -> Process:
        nothing = os.open(os.devnull, os.O_RDONLY) if stdin is None else -1
        try:
            return Process(
                self._program.words,
                account=self._account,
                environ=environ,
                folder=folder,
                terminal=stdin is not None,
                stdin=nothing if stdin is None else stdin,
                stdout=stdout,
                stderr=stderr,
            )
        finally:
            if nothing >= 0:
                os.close(nothing)

    async def _follow(self, collected: Optional[IO[bytes]]) -> None:
        """Until the program has ended and all that it printed is sent."""
        assert self._process is not None, "no program to follow"
        try:
            code = await asyncio.shield(self._process.exited)
            for output in self._outputs:
                await _drain(output.reader)
            if collected is not None:
                await self._send_collected(collected)
        finally:
            if collected is not None:
                collected.close()
        for output in self._outputs:
            output.flush()
        self._break_silence()
        if self._program.separate:
            self._send(b"EXIT_CODE: %d" % code, int(PayloadType.EXIT_CODE))
        _logger.info("= session %s: its program ended with %d", self.session_id, code)
        self.finish(Result(TaskStatus.SUCCESS), drain=True)

    async def _send_collected(self, collected: IO[bytes]) -> None:
        output = _Output(self, PayloadType.OUTPUT, b"")
        collected.seek(0)
        # A process that the program left may go on writing: what is there now is the output.
        left = os.fstat(collected.fileno()).st_size
        while left > 0:
            await self._writable.wait()
            data = os.read(collected.fileno(), min(left, READ_BYTES))
            if not data:
                break
            left -= len(data)
            output.received(data)
        output.flush()

    def _break_silence(self) -> None:
        if self._terminal is not None and not self._sent_bytes and not self._result.done():
            self._channel_runner.send_nothing()

    def _fail(self, reason: str) -> None:
        self.finish(Result(TaskStatus.FAILED, reason), drain=True)

    async def _close(self) -> None:
        """End what is left of the program."""
        if self._silence is not None:
            self._silence.cancel()
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        for output in self._outputs:
            output.reader.pause()
        if self._process is not None:
            foreground = self._terminal.foreground if self._terminal is not None else lambda: None
            await self._process.stop(foreground)
        for output in self._outputs:
            output.close()
        if self._terminal is not None:
            self._terminal.close()


class _Output:
    """One output of the program, on its way to the client."""

    reader: Reader

    def __init__(self, session: ProgramSession, payload_type: int, prefix: bytes) -> None:
        self.descriptor = -1
        """Of a pipe, which is closed with this."""
        self._session = session
        self._payload_type = int(payload_type)
        self._prefix = prefix
        self._cutter = Cutter()
        self._begins_line = True

    def received(self, data: bytes) -> None:
        limit = self._session._channel_runner.channel.payload_bytes - len(self._prefix)
        for piece in self._cutter.feed(data, limit):
            self._send(piece)

    def flush(self) -> None:
        rest = self._cutter.flush()
        if rest:
            self._send(rest)

    def close(self) -> None:
        if self.descriptor >= 0:
            self.reader.close()
            os.close(self.descriptor)
            self.descriptor = -1

    def _send(self, piece: bytes) -> None:
        prefix = self._prefix if self._begins_line else b""
        self._begins_line = piece.endswith(b"\n")
        self._session._send(prefix + piece, self._payload_type)


async def _drain(reader: Reader) -> None:
    """Until everything is read, or nothing more comes: a process that the program left has it open still."""
    while not reader.ended.done():
        reads = reader.reads
        await asyncio.wait([reader.ended], timeout=_FLUSH_TIMEOUT)
        if reader.reading and reader.reads == reads:
            return
