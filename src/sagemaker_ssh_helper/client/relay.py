"""
ssh through a session's terminal, into a container without the helper: the user's end.

What goes over the terminal is told in :mod:`sagemaker_ssh_helper.agent.relay`, which the container runs. The
host key that the relay tells comes through the session, which the service vouches for.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import sagemaker_ssh_helper
from sagemaker_ssh_helper import archive, plain_logs
from sagemaker_ssh_helper.aws import sessions
from sagemaker_ssh_helper.aws.instances import Instance
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.client import keys, trust
from sagemaker_ssh_helper.client.pipes import Output
from sagemaker_ssh_helper.client.proxy_command import ProxyOptions, Started
from sagemaker_ssh_helper.client.ssh_words import LoginName
from sagemaker_ssh_helper.client.tunnel import Tunnel, terminate
from sagemaker_ssh_helper.errors import (
    HandshakeFailed,
    SessionLost,
    SSHHelperError,
    SshServerDown,
    WrongUser,
)
from sagemaker_ssh_helper.protocol.data_channel import Event, StreamData
from sagemaker_ssh_helper.protocol.message import PayloadType
from sagemaker_ssh_helper.protocol.payloads import SessionType
from sagemaker_ssh_helper.public_keys import PublicKey, parse_host_key

START_TIMEOUT = 100.0
"""Seconds until the relay must be there; ssh waits 120 for the server's first line."""

MARK = b"sm-ssh-relay:"
_END = b"."
_PIECE_BYTES = 24 << 10
_MAX_LINE_BYTES = 1 << 20
_LOADER = Path(sagemaker_ssh_helper.__file__).parent / "agent" / "relay_loader.py"
_PYTHONS = ("python3", "python", "/opt/conda/bin/python3", "/usr/local/bin/python3")


def typed_line(digest: str) -> bytes:
    """
    What is typed into a shell of any kind to start the relay; below the 4,095 bytes that a terminal takes.

    None of it looks like an answer: a terminal echoes it.
    """
    loader = base64.b64encode(zlib.compress(_LOADER.read_bytes(), 9)).decode()
    code = f'import base64,zlib;exec(zlib.decompress(base64.b64decode("{loader}")))'
    is_new = "import sys;sys.exit(sys.version_info<(3,8))"
    line = (
        f" for p in {' '.join(_PYTHONS)}; do command -v $p >/dev/null && $p -c '{is_new}' && "
        f"exec $p -I -c '{code}' {digest}; done; printf '\\nsm-ssh-%s:no-python \\n' relay; exit\n"
    )
    return line.encode()


def told(text: bytes) -> tuple[PublicKey, LoginName]:
    """
    The host key and the login name in what a relay says of its ssh server, which anybody in the container can
    say. Raises HandshakeFailed for anything else.
    """
    try:
        entries = json.loads(text)
        return parse_host_key(entries["host_key"]), LoginName(entries["user"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HandshakeFailed(
            "the relay in the container told no host key and login name that can be used",
            fix="Do not log in: our relay never says such a thing",
        ) from error


class Lines:
    """Cuts a stream into lines, wherever it was cut before."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that end in ``data``, without their ends. Raises SessionLost for an endless one."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE_BYTES:
            raise SessionLost("the session's terminal says something else than the relay")
        return [line.rstrip(b"\r") for line in lines]


class RelayTunnel(Tunnel):
    """
    A Tunnel whose far end is a shell, in which a relay to an ssh server is started first.

    With ``only_learns`` it ends when the relay has told the host key and the login name, and carries nothing.
    """

    # Shells have no handshake.
    session_type = SessionType.STANDARD_STREAM

    def __init__(
        self,
        client: Client,
        started: Started,
        stdout: Output,
        stop: asyncio.Event,
        tell: Callable[[str], None],
        options: ProxyOptions,
        *,
        only_learns: bool = False,
    ) -> None:
        self._options = options
        self._only_learns = only_learns
        self._tell = tell
        self._lines = Lines()
        self._relays = False
        self._is_over = False
        self._package = archive.starter()
        self._outgoing = bytearray(typed_line(hashlib.sha256(self._package).hexdigest()[:32]))
        super().__init__(client, started, stdout, stop, tell)

    async def run(self) -> None:
        deadline = asyncio.get_running_loop().call_later(START_TIMEOUT, self._give_up)
        try:
            await super().run()
        finally:
            deadline.cancel()

    def _give_up(self) -> None:
        if not self._relays:
            self._fail(
                HandshakeFailed(
                    f"no relay for ssh started in {self._started.instance.fqdn}",
                    evidence=f"its shell gave no answer in {START_TIMEOUT:.0f} s",
                    fix=f"See what it says: sm-ssh session {self._options.host}",
                )
            )

    def _judge(self, error: SSHHelperError | None) -> None:
        if error is None and self._is_over:
            return
        super()._judge(error)

    # --- what comes ---

    def _on_event(self, event: Event) -> None:
        if not isinstance(event, StreamData):
            super()._on_event(event)
        elif event.payload_type == PayloadType.OUTPUT and self._failure is None:
            try:
                for line in self._lines.feed(event.data):
                    self._on_line(line)
            except SSHHelperError as error:
                self._fail(error)

    def _on_line(self, line: bytes) -> None:
        if not self._relays:
            at = line.rfind(MARK)
            if at >= 0:
                word, _, text = line[at + len(MARK) :].partition(b" ")
                self._on_word(word.decode("ascii", "replace"), _decoded(text))
        elif line == _END:
            self._is_over = True
            self._stop.set()
        else:
            self._output_at = asyncio.get_running_loop().time()
            self._stdout.write(_decoded(line))

    def _on_word(self, word: str, text: bytes) -> None:
        """What the relay says before it relays. Raises SSHHelperError for what ends the session."""
        host = self._started.instance.fqdn
        if word == "need":
            self._tell(f"bringing a relay for ssh into {host}")
            self._outgoing += base64.b64encode(self._package) + b"\n"
        if word in ("need", "have"):
            key = json.dumps({"key": keys.ensure_key().public.line}).encode()
            self._outgoing += base64.b64encode(key) + b"\n"
            self._on_writable()
        elif word == "ready":
            self._begin(text)
        elif word == "no-python":
            raise SshServerDown(
                f"no ssh server can be started in {host}: its image has no Python 3.8 or later",
                evidence=f"its shell found none as {', '.join(_PYTHONS[:-1])} or {_PYTHONS[-1]}",
                fix="Install Python 3.8 or later in the image, or take a plain shell: "
                f"sm-ssh session {self._options.host}",
            )
        elif word == "failed":
            raise SshServerDown(
                f"no ssh server can be started in {host}",
                evidence=" ".join(text.decode("utf-8", "replace").split())[:500],
                fix=f"It has a shell: sm-ssh session {self._options.host}",
            )

    def _begin(self, text: bytes) -> None:
        host_key, user = told(text)
        host, asked = self._options.host, self._options.user
        trust.announce_relayed(host, host_key, user, self._started.instance.id)
        if asked not in (None, user):
            raise WrongUser(
                f"{host} admits {user!r} only, not {asked!r}",
                evidence="its ssh server runs as that user",
                fix=f"Use {user}@{host}, or the same command again without a name: it is known from now on",
            )
        self._relays = True
        if self._only_learns:
            self._is_over = True
            self._stop.set()
        else:
            self._on_writable()

    # --- what goes ---

    def _on_writable(self) -> None:
        while self._outgoing and self._ready and self._runner.writable:
            piece = bytes(self._outgoing[:_PIECE_BYTES])
            del self._outgoing[:_PIECE_BYTES]
            self._runner.send_data(piece)
        if self._relays and not self._only_learns:
            super()._on_writable()

    def _on_input(self, data: bytes) -> None:
        super()._on_input(base64.b64encode(data) + b"\n")

    def _on_input_end(self) -> None:
        self._runner.send_data(_END + b"\n")
        super()._on_input_end()


def learn(client: Client, instance: Instance, host: str, tell: Callable[[str], None]) -> None:
    """
    Keep the host key and the login name that a native target tells, by a session for nothing else.

    Seconds long. Raises what ``sessions.start_document`` and ``RelayTunnel.run`` raise.
    """
    grant = sessions.start_document(client, instance.id, None, {})
    plain_logs.run(_learn(client, Started(grant, instance), host, tell))


async def _learn(client: Client, started: Started, host: str, tell: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    nowhere = Output(os.open(os.devnull, os.O_WRONLY), on_broken=stop.set)
    tunnel = RelayTunnel(client, started, nowhere, stop, tell, ProxyOptions(host), only_learns=True)
    try:
        await tunnel.run()
    finally:
        if not tunnel.closed_by_service:
            await terminate(client, started.grant)
        nowhere.close()


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise SessionLost(
            "something else than the relay wrote to the session's terminal",
            fix="Connect again; a program in the container may write to every terminal",
        ) from error
