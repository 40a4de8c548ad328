"""
A session of any kind on the user's own terminal, without ssh: a shell or a command in the container, or one
of its ports.

On a terminal, what is typed goes to the container as it is, Ctrl-C too, and the size follows. Without one,
standard input is typed into the container's terminal and its end is Ctrl-D. However it ends, the terminal is
left as it was found, and the session is ended at the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import termios
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sagemaker_ssh_helper import plain_logs
from sagemaker_ssh_helper.aws import instances, sessions
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.client import port_forwarding, standard_streams
from sagemaker_ssh_helper.client.pipes import Output
from sagemaker_ssh_helper.client.proxy_command import (
    Interrupts,
    ProxyOptions,
    Started,
    Starting,
    max_payload_bytes,
)
from sagemaker_ssh_helper.client.settings import open_session
from sagemaker_ssh_helper.client.terminal_text import escaped_line
from sagemaker_ssh_helper.client.tunnel import FLUSH_TIMEOUT, HURRY_TIMEOUT, Tunnel, terminate, wait_started
from sagemaker_ssh_helper.errors import LocalSetup, SessionLost, SSHHelperError
from sagemaker_ssh_helper.names import Tag
from sagemaker_ssh_helper.protocol.data_channel import Event, FlagReceived, Ready, StreamData
from sagemaker_ssh_helper.protocol.message import PayloadType
from sagemaker_ssh_helper.protocol.payloads import SessionType
from sagemaker_ssh_helper.targets import Target

logger = logging.getLogger(__name__)

NO_TERMINAL_SIZE = (300, 100)
"""Columns and rows told to the container when there is no terminal here; same in the official client."""

TWICE_TIMEOUT = 1.0
"""Seconds between two interrupts that together mean: end this here and now."""

END_AGAIN_DELAY = 1.0
"""Seconds after which the end of input is told again, if there was output since."""

_EXIT_CODE = re.compile(rb"\s*EXIT_CODE: *(\d{1,3})\s*")
# What a terminal makes of the keys that send signals, here or there.
_KEYS = {signal.SIGINT: b"\x03", signal.SIGQUIT: b"\x1c", signal.SIGTSTP: b"\x1a"}
_END_OF_INPUT = b"\x04"
_BROKEN_PIPE = 141


@dataclass(frozen=True)
class SessionOptions:
    """What ``sm-ssh session`` was asked."""

    host: str
    document: str | None = None
    parameters: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    profile: str | None = None
    region: str | None = None
    via_plugin: bool = False
    """Let AWS's own client program carry the session."""


def run(options: SessionOptions, tell: Callable[[str], None]) -> int:
    """
    Work in a session until it ends; the exit status: the remote command's when it is told, else 0, or 128 and
    a signal's number.

    ``tell`` gets lines for the user. Raises SSHHelperError.
    """
    Target.parse(options.host)
    max_payload_bytes()
    session = open_session(options.profile, options.region)
    for line in session.warnings:
        tell(line)
    if options.via_plugin:
        return _run_plugin(Client(session), options, tell)
    return plain_logs.run(_run(Client(session), options, tell))


def _run_plugin(client: Client, options: SessionOptions, tell: Callable[[str], None]) -> int:
    from sagemaker_ssh_helper.client import plugin

    program = plugin.find()
    # What a terminal's keys mean is the program's affair, and it gets those signals as we do.
    keys = ("SIGINT", "SIGQUIT", "SIGTSTP")
    typing = standard_streams.input_is_terminal()
    interrupts = Interrupts(("SIGTERM", "SIGHUP"), overheard=keys) if typing else Interrupts()
    return plugin.run(program, client, _StartingDocument(client, options, tell), interrupts, tell)


class _StartingDocument(Starting):
    """The start of a session by its document. Host keys and logins are ssh's affair and play no part."""

    def __init__(self, client: Client, options: SessionOptions, tell: Callable[[str], None]) -> None:
        self._asked = options
        super().__init__(client, ProxyOptions(options.host), tell)

    def _start(self) -> Started | None:
        asked = self._asked
        instance = instances.resolve(self._client, Target.parse(asked.host))
        if self._called_off.is_set():
            return None
        owner = instance.tags.get(Tag.OWNER) if instance.tags is not None else None
        return self._session(
            instance,
            0,
            lambda: sessions.start_document(
                self._client, instance.id, asked.document, asked.parameters, owner
            ),
        )


async def _run(client: Client, options: SessionOptions, tell: Callable[[str], None]) -> int:
    stop = asyncio.Event()
    signals = _Signals(stop)
    outputs: list[Output] = []
    terminal = _LocalTerminal()
    with signals.handled():
        try:
            for descriptor in (standard_streams.output_descriptor(), 2):
                outputs.append(_output(descriptor, stop))
            started = await wait_started(_StartingDocument(client, options, tell), stop)
            if started is None:
                return signals.status
            if stop.is_set():
                await terminate(client, started.grant)
                return signals.status
            client.session.ask_no_more()
            session = TerminalSession(
                client,
                started,
                outputs[0],
                outputs[1],
                stop,
                terminal,
                lambda line: terminal.tell(tell, line),
            )
            signals.on_key, signals.on_resize = session.press, session.resize
            signals.on_continue = terminal.renew
            try:
                await session.run()
            finally:
                terminal.leave()
                if not session.closed_by_service:
                    await terminate(client, started.grant)
            await outputs[1].flush(FLUSH_TIMEOUT)
            if signals.received is not None:
                return signals.status
            if session.exit_code is not None:
                return session.exit_code
            return _BROKEN_PIPE if outputs[0].broken else 0
        finally:
            terminal.leave()
            for output in outputs:
                output.close()


def _output(descriptor: int, stop: asyncio.Event) -> Output:
    try:
        return Output(descriptor, on_broken=stop.set if descriptor != 2 else lambda: None)
    except OSError as error:
        raise LocalSetup("standard output or standard error is closed", evidence=str(error)) from error


class TerminalSession(Tunnel):
    """
    One session from its grant to its end.

    ``exit_code`` is what the agent told of the command; agents tell it of commands without a terminal whose
    outputs are kept apart.
    """

    # Shells have no handshake, and nobody knows when the first output comes.
    session_type = SessionType.STANDARD_STREAM

    def __init__(
        self,
        client: Client,
        started: Started,
        stdout: Output,
        stderr: Output,
        stop: asyncio.Event,
        terminal: _LocalTerminal,
        tell: Callable[[str], None],
    ) -> None:
        self.exit_code: int | None = None
        self._kind = ""
        self._forwarding: port_forwarding.PortForwarding | None = None
        self._tell = tell
        self._last_byte = b"\n"
        self._size: tuple[int, int] | None = None
        self._full: set[Output] = set()
        self._stderr = stderr
        self._terminal = terminal
        super().__init__(client, started, stdout, stop, tell)
        for output in (stdout, stderr):
            self._hold_for(output)

    def press(self, key: bytes) -> bool:
        """Send a key that somebody meant for the container. False: there is nothing there yet to take it."""
        if self._forwarding is not None:
            # The ordinary end: there is no other.
            self._stop.set()
            return True
        if not self._ready or self._kind == SessionType.PORT:
            return False
        self._runner.send_data(key)
        return True

    def resize(self) -> None:
        """Tell the container the size of the terminal, when it is another."""
        size = _terminal_size()
        if self._ready and self._on_terminal and size != self._size:
            self._size = size
            self._runner.send_size(*size)

    @property
    def _on_terminal(self) -> bool:
        return self._kind in (SessionType.STANDARD_STREAM, SessionType.INTERACTIVE_COMMANDS)

    def _hold_for(self, output: Output) -> None:
        def on_full() -> None:
            self._full.add(output)
            self._runner.pause_delivery()

        def on_room() -> None:
            self._full.discard(output)
            if not self._full:
                self._runner.resume_delivery()

        output.on_full, output.on_room = on_full, on_room

    def _judge(self, error: SSHHelperError | None) -> None:
        if self.exit_code is not None:
            return
        if error is not None:
            raise error
        cut_off = self._forwarding is not None and self.closed_by_service and not self._stop.is_set()
        if self._last_words or cut_off:
            raise SessionLost(
                f"the session to {self._started.instance.fqdn} was ended",
                evidence=self._last_words or "by the service",
            )

    def _on_event(self, event: Event) -> None:
        if isinstance(event, StreamData) and event.payload_type != PayloadType.OUTPUT:
            self._on_other_output(event)
            return
        if self._forwarding is not None:
            if isinstance(event, StreamData):
                self._forwarding.receive(event.data)
                return
            if isinstance(event, FlagReceived):
                self._forwarding.flag_received(event.flag)
        if isinstance(event, Ready):
            self._begin(event)
        super()._on_event(event)
        if isinstance(event, Ready):
            self.resize()

    def _on_other_output(self, event: StreamData) -> None:
        if self._forwarding is not None:
            return
        if event.payload_type in (PayloadType.STDERR, PayloadType.ERROR):
            self._stderr.write(event.data)
        elif event.payload_type == PayloadType.EXIT_CODE:
            told = _EXIT_CODE.fullmatch(event.data)
            if told is not None:
                self.exit_code = min(int(told.group(1)), 255)

    def _begin(self, ready: Ready) -> None:
        self._kind = ready.session_type
        if ready.customer_message.strip():
            self._stderr.write(escaped_line(ready.customer_message).encode() + b"\n")
        if self._kind == SessionType.PORT and port_forwarding.is_asked(ready):
            try:
                listener = port_forwarding.listen(ready)
            except SSHHelperError as error:
                self._fail(error)
                return
            self._forwarding = port_forwarding.PortForwarding(
                self._runner, ready, listener, self._started.instance.fqdn, self._tell, self._fail
            )
        elif self._on_terminal:
            self._terminal.enter()

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            if self._forwarding is not None:
                await self._forwarding.close(0)

    async def _finish(self, running: asyncio.Future[SSHHelperError | None]) -> None:
        if self._forwarding is not None:
            await self._forwarding.end(HURRY_TIMEOUT)
        await super()._finish(running)

    def _on_writable(self) -> None:
        if self._forwarding is not None:
            self._forwarding.writable()
        # A command without a terminal has no input either: only its keys, which come as signals.
        elif self._kind != SessionType.NON_INTERACTIVE_COMMANDS and self._failure is None:
            super()._on_writable()

    def _on_input(self, data: bytes) -> None:
        self._last_byte = data[-1:]
        if self._terminal.is_raw and data == b"\n":
            # As the official client: a line feed alone is the Enter key.
            data = b"\r"
        super()._on_input(data)

    def _on_input_end(self) -> None:
        if not self._on_terminal or self._terminal.is_raw:
            # The stream is over; or the terminal was hung up.
            super()._on_input_end()
            return
        # Within a line the first one only hands the line over.
        self._press_end(_END_OF_INPUT * (1 if self._last_byte == b"\n" else 2))

    def _press_end(self, keys: bytes) -> None:
        """
        Tell that there is no more input, and tell it again to whoever comes after the one that took it.

        A pipe stays at its end, but a terminal's program that saw it hands on to the next, a shell perhaps.
        """
        self._runner.send_data(keys)
        loop = asyncio.get_running_loop()
        sent_at = loop.time()

        def look() -> None:
            if self._output_at > sent_at:
                self._press_end(_END_OF_INPUT)
            else:
                loop.call_later(END_AGAIN_DELAY, look)

        loop.call_later(END_AGAIN_DELAY, look)


class _LocalTerminal:
    """Standard input, if it is a terminal: taken over for the session, and given back."""

    def __init__(self) -> None:
        self.is_raw = False
        self._descriptor = standard_streams.input_descriptor()
        self._saved: list[Any] | None = None

    def enter(self) -> None:
        """Hand every key on as it is. Nothing when there is no terminal."""
        if self.is_raw or not standard_streams.input_is_terminal():
            return
        self._saved = termios.tcgetattr(self._descriptor)
        self.is_raw = True
        tty.setraw(self._descriptor, termios.TCSADRAIN)

    def renew(self) -> None:
        """Take it over again: a shell had it while this process was stopped."""
        if self.is_raw:
            tty.setraw(self._descriptor, termios.TCSADRAIN)

    def tell(self, tell: Callable[[str], None], line: str) -> None:
        """A line for the user, which begins at the margin."""
        if not self.is_raw:
            tell(line)
            return
        with contextlib.suppress(termios.error):  # it may be gone
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved or [])
        tell(line)
        with contextlib.suppress(termios.error):
            self.renew()

    def leave(self) -> None:
        """As it was found."""
        if self._saved is not None:
            saved, self._saved = self._saved, None
            self.is_raw = False
            with contextlib.suppress(termios.error):  # it may be gone
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, saved)


class _Signals:
    """
    What signals mean: some end us, some are keys for the container, some tell of the terminal.

    ``received`` is the first that ended us.
    """

    def __init__(self, stop: asyncio.Event) -> None:
        self.received: int | None = None
        self.on_key: Callable[[bytes], bool] = lambda key: False
        self.on_resize: Callable[[], None] = lambda: None
        self.on_continue: Callable[[], None] = lambda: None
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._interrupted_at = float("-inf")

    @property
    def status(self) -> int:
        return 0 if self.received is None else 128 + self.received

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """While inside, they are ours. One that was ignored when we started (nohup) stays so."""
        calls: dict[signal.Signals, Callable[[], None]] = {}
        for number in _KEYS:
            calls[number] = partial(self._press, number)
        for number in (signal.SIGTERM, signal.SIGHUP):
            calls[number] = partial(self._end, number)
        calls[signal.SIGWINCH] = lambda: self.on_resize()
        calls[signal.SIGCONT] = lambda: self._continued()
        taken = [number for number in calls if signal.getsignal(number) is not signal.SIG_IGN]
        for number in taken:
            self._loop.add_signal_handler(number, calls[number])
        try:
            yield
        finally:
            for number in taken:
                self._loop.remove_signal_handler(number)
                if self.received is not None:
                    # So that the exit status still tells which was the first.
                    signal.signal(number, signal.SIG_IGN)

    def _press(self, number: signal.Signals) -> None:
        now = self._loop.time()
        if number == signal.SIGINT:
            again = now - self._interrupted_at < TWICE_TIMEOUT
            self._interrupted_at = now
            if again:
                self._end(number)
                return
        if not self.on_key(_KEYS[number]) and number != signal.SIGTSTP:
            self._end(number)

    def _end(self, number: int) -> None:
        if self.received is None:
            self.received = number
        self._stop.set()

    def _continued(self) -> None:
        self.on_continue()
        self.on_resize()


def _terminal_size() -> tuple[int, int]:
    for descriptor in (standard_streams.output_descriptor(), standard_streams.input_descriptor(), 2):
        try:
            size = os.get_terminal_size(descriptor)
        except OSError:
            continue
        if size.columns and size.lines:
            return size.columns, size.lines
    return NO_TERMINAL_SIZE
