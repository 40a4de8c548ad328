"""
What ssh runs as its ProxyCommand: finds the container, starts a session, and carries the bytes.

Only the session's bytes reach standard output. The calls to AWS are made in a thread while the event loop and
the protocol are still being loaded: each takes about as long as the other.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sagemaker_ssh_helper.aws import sessions
from sagemaker_ssh_helper.aws.instances import Instance
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.sessions import SessionGrant
from sagemaker_ssh_helper.client import connect, settling, standard_streams
from sagemaker_ssh_helper.client.settings import open_session
from sagemaker_ssh_helper.errors import LocalSetup, TargetOffline
from sagemaker_ssh_helper.names import Env, InstanceId
from sagemaker_ssh_helper.protocol.payload_size import MAX_PAYLOAD_BYTES, PAYLOAD_BYTES
from sagemaker_ssh_helper.targets import Target


@dataclass(frozen=True)
class ProxyOptions:
    """What start-proxy was asked."""

    host: str
    """As the user typed it, if ssh gave it with ``%n``."""
    profile: str | None = None
    region: str | None = None
    user: str | None = None
    """The login name that ssh will use, if it gave it with ``%r``."""
    instance_id: InstanceId | None = None
    trust_first_use: bool = False
    fresh: bool = False
    via_plugin: bool = False
    """Let AWS's own client program carry the session."""
    wait: bool = True
    """Wait for a container that is still starting."""


Pause = Callable[[float], bool]
"""Sleeps so many seconds, and says whether to leave."""

UntilReady = Callable[[Client, Target, Pause], object]
"""Waits until a target is online, or it has to leave."""


@dataclass(frozen=True)
class Started:
    """A session to a container that was found and is trusted."""

    grant: SessionGrant
    instance: Instance
    port: int = 0
    """The ssh server's; 0 for a session without one."""


class Interrupts:
    """
    The signals that end us, kept from the first moment on until somebody listens.

    ``received`` is the first one. One that was ignored when we started (nohup) stays so. ``overheard`` names
    further signals, which end nobody.
    """

    def __init__(
        self, names: Sequence[str] = ("SIGINT", "SIGTERM", "SIGHUP"), overheard: Sequence[str] = ()
    ) -> None:
        self.received: int | None = None
        self._listener: Callable[[], None] = lambda: None
        for name in overheard:
            # Not SIG_IGN, which a program that we start would inherit.
            signal.signal(getattr(signal, name), lambda number, frame: None)
        self._before: dict[int, Any] = {}
        for name in names:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` at the first signal, also when that came before."""
        self._listener = listener
        if self.received is not None:
            listener()

    def close(self) -> None:
        """After the first one: ignore what comes, so that the exit status still tells which that was."""
        self._listener = lambda: None
        if self.received is not None:
            for number in self._before:
                signal.signal(number, signal.SIG_IGN)

    def release(self) -> None:
        """Leave what comes from now on to whoever had it before."""
        self._listener = lambda: None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.received is None:
            self.received = number
            self._listener()


class Starting:
    """
    The start of a session in a thread, which may be called off.

    ``future`` gives what was started, or None when it was called off in time; else what ``connect.prepare``
    and ``sessions.start`` raise. The thread never keeps the process from ending.
    """

    def __init__(
        self,
        client: Client,
        options: ProxyOptions,
        tell: Callable[[str], None],
        until_ready: UntilReady | None = None,
    ) -> None:
        self.future: Future[Started | None] = Future()
        self.options = options
        self._client = client
        self._tell = tell
        self._until_ready = until_ready
        self._parent = os.getppid()
        self._called_off = threading.Event()
        threading.Thread(target=self._work, name="start", daemon=True).start()

    def call_off(self) -> None:
        """Start no session if none was asked for yet."""
        self._called_off.set()

    def _work(self) -> None:
        try:
            self.future.set_result(self._start())
        except BaseException as error:
            self.future.set_exception(error)

    def _start(self) -> Started | None:
        prepared = self._prepared()
        if prepared is None or self._called_off.is_set():
            return None
        pin, instance = prepared.pin, prepared.instance
        if instance.is_native:
            if self.options.via_plugin:
                raise LocalSetup(
                    "--via plugin carries no ssh to a target of SageMaker's own",
                    evidence=f"{instance.id} gives a shell, in which this program starts a relay",
                    fix="Leave it out, or take the shell: sm-ssh session --via plugin",
                )
            return self._session(
                instance, 0, lambda: sessions.start_document(self._client, instance.id, None, {})
            )
        return self._session(
            instance, pin.port, lambda: sessions.start(self._client, instance.id, pin.port, pin.owner)
        )

    def _prepared(self) -> connect.Prepared | None:
        options = self.options
        target = Target.parse(options.host)
        while True:
            try:
                return connect.prepare(
                    self._client,
                    target,
                    options.host,
                    user=options.user,
                    instance_id=options.instance_id,
                    trust_first_use=options.trust_first_use,
                    fresh=options.fresh,
                    tell=self._tell,
                )
            except TargetOffline as error:
                if not (error.may_come and options.wait and self._until_ready):
                    raise
            self._until_ready(self._client, target, self._pause)
            if self._called_off.is_set():
                return None

    def _session(self, instance: Instance, port: int, attempt: Callable[[], SessionGrant]) -> Started | None:
        grant = settling.start(
            self._client,
            instance,
            attempt,
            wait=self.options.wait,
            pause=self._pause,
            tell=self._tell,
        )
        return Started(grant, instance, port) if grant else None

    def _pause(self, seconds: float) -> bool:
        """Sleep; whether nobody waits for this session any more: it was called off, or our caller is gone."""
        if os.getppid() != self._parent:
            self.call_off()
        return self._called_off.wait(seconds)


def run(options: ProxyOptions, tell: Callable[[str], None], until_ready: UntilReady) -> int:
    """
    Carry ssh's bytes until either side ends; the exit status: 0, or 128 and a signal's number.

    ``tell`` gets lines for the user; ``until_ready`` is called for a container that may come.
    Raises SSHHelperError when there is no session, or it is lost for good.
    """
    # What is loaded from here on stays: looking through it for garbage costs a quarter of the loading.
    gc.disable()
    output = claim_stdout()
    interrupts = Interrupts()
    # What makes no sense is refused before anything else is looked at.
    Target.parse(options.host)
    max_payload_bytes()
    session = open_session(options.profile, options.region)
    for line in session.warnings:
        tell(line)
    client = Client(session)
    if options.via_plugin:
        from sagemaker_ssh_helper.client import plugin

        program = plugin.find()
        return plugin.run(
            program, client, Starting(client, options, tell, until_ready), interrupts, tell, output
        )
    starting = Starting(client, options, tell, until_ready)
    from sagemaker_ssh_helper.client import tunnel

    gc.enable()
    return tunnel.run(client, starting, interrupts, output, tell)


def max_payload_bytes() -> int:
    """The largest payload the user allows; see docs/reference/environment.md. Raises LocalSetup."""
    text = os.environ.get(Env.MAX_PAYLOAD) or str(MAX_PAYLOAD_BYTES)
    size = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if not PAYLOAD_BYTES <= size <= MAX_PAYLOAD_BYTES:
        raise LocalSetup(
            f"{Env.MAX_PAYLOAD} is not a number of bytes from {PAYLOAD_BYTES} to {MAX_PAYLOAD_BYTES}",
            evidence=repr(text[:40]),
            fix=f"Unset {Env.MAX_PAYLOAD}",
        )
    return size


def claim_stdout() -> int:
    """
    The descriptor for the session's bytes, which nothing else can write.

    What is printed goes to standard error from now on.
    """
    if sys.stdout is None:
        raise LocalSetup("standard output is closed", fix="It carries the session's bytes: give it to ssh")
    standard_streams.set_apart()
    sys.stdout.flush()
    sys.stdout = sys.stderr
    return standard_streams.output_descriptor()
