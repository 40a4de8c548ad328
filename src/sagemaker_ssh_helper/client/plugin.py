"""
The escape hatch: a session that is ours to start and to end, carried by AWS's own client program.

``session-manager-plugin`` is found on PATH and given the session as AWS's command line gives it. It reads our
standard input and writes our standard output itself; we only wait for it, hand signals on, and end the
session at the service when it has ended.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import wait
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sagemaker_ssh_helper.aws import sessions
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.session import is_awss
from sagemaker_ssh_helper.client import standard_streams
from sagemaker_ssh_helper.errors import ConnectionFailed, LocalSetup, SSHHelperError

if TYPE_CHECKING:
    from sagemaker_ssh_helper.client.proxy_command import Interrupts, Started, Starting

logger = logging.getLogger(__name__)

PROGRAM = "session-manager-plugin"

RESPONSE_VARIABLE = "AWS_SSM_START_SESSION_RESPONSE"
"""Where the program finds StartSession's answer, so that the token is on no command line."""

_READS_VARIABLE = (1, 2, 536, 0)
"""The first version that does."""

_SUPPORTED = (1, 2, 764, 0)
"""AWS's minimum."""

_GOOD = (1, 2, 835, 0)
"""Port sessions survive a lost link from here on."""

_AWS_ONLY = (1, 2, 889, 0)
"""It takes a session's address only when it is one of AWS's endpoints, from here on."""

_BEST = (1, 2, 896, 0)

# Seconds.
_VERSION_TIMEOUT = 10.0
_LOOK_INTERVAL = 0.1  # of looking for a signal while the session is started
_START_TIMEOUT = 5.0  # that the end waits for a StartSession under way, so as to end what it starts
_KILL_AFTER = 2.0  # for the program to end after a signal
_TERMINATE_TIMEOUT = 2.0


def find() -> str:
    """The path of the program. Raises LocalSetup when there is none."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise LocalSetup(
            f"{PROGRAM} was not found on PATH",
            fix="Install AWS's Session Manager plugin, or go without it: leave out --via plugin",
        )
    return program


def run(
    program: str,
    client: Client,
    starting: Starting,
    interrupts: Interrupts,
    tell: Callable[[str], None],
    stdout: int | None = None,
) -> int:
    """
    Carry a session to its end; the exit status: 0, or 128 and a signal's number.

    Args:
        program: from ``find``.
        interrupts: a signal among them is handed on to the program.
        stdout: the descriptor that the program writes to, if it is not our standard output.

    Raises LocalSetup when the program cannot be run, ConnectionFailed when it says that it failed, and what
    ``starting`` raises.
    """
    started = _wait_started(starting, interrupts)
    if started is not None:
        try:
            if interrupts.received is None:
                _carry(program, client, started, interrupts, tell, stdout)
        finally:
            _terminate(client, started)
            interrupts.close()
    return 0 if interrupts.received is None else 128 + interrupts.received


def _wait_started(starting: Starting, interrupts: Interrupts) -> Started | None:
    """What was started. After a signal nothing new is, and None means that nothing had been."""
    while not starting.future.done() and interrupts.received is None:
        wait([starting.future], timeout=_LOOK_INTERVAL)
    if not starting.future.done():
        starting.call_off()
        wait([starting.future], timeout=_START_TIMEOUT)
        if not starting.future.done() or starting.future.exception() is not None:
            return None
    return starting.future.result()


def _carry(
    program: str,
    client: Client,
    started: Started,
    interrupts: Interrupts,
    tell: Callable[[str], None],
    stdout: int | None,
) -> None:
    grant, session = started.grant, client.session
    url = session.stream_url(grant.url)
    response = json.dumps({"SessionId": grant.id, "TokenValue": grant.token, "StreamUrl": url})
    environ = dict(os.environ)
    version = version_of(program)
    _refuse_local(version, url)
    if _numbers(version) >= _READS_VARIABLE:
        environ[RESPONSE_VARIABLE] = response
        response = RESPONSE_VARIABLE
    else:
        tell(
            f"{PROGRAM} {version} takes the session's token on its command line, where other users of this "
            "machine can see it; 1.2.536.0 and later do not"
        )
    asked = json.dumps({"Target": started.instance.id})
    words = [program, response, session.region, "StartSession", session.profile or "", asked]
    try:
        process = subprocess.Popen(
            [*words, session.endpoint_url("ssm")],
            env=environ,
            stdin=standard_streams.input_descriptor(),
            stdout=standard_streams.output_descriptor() if stdout is None else stdout,
        )
    except OSError as error:
        raise _cannot_run(program, error) from error

    def hand_on() -> None:
        process.send_signal(interrupts.received or signal.SIGTERM)
        killing = threading.Timer(_KILL_AFTER, process.kill)
        killing.daemon = True
        killing.start()

    interrupts.listen(hand_on)
    status = process.wait()
    interrupts.listen(lambda: None)
    if status and interrupts.received is None:
        raise ConnectionFailed(
            f"{PROGRAM} failed", evidence=f"status {status}", fix="Try without it: leave out --via plugin"
        )


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


INSTALL = f"Install version {_text(_BEST)} or later, or go without it: leave out --via plugin"


def why_not(version: str) -> str:
    """What is wrong with this version of the program; empty when nothing is."""
    if _numbers(version) < _SUPPORTED:
        return f"AWS supports {_text(_SUPPORTED)} and later only"
    if _numbers(version) < _GOOD:
        return f"before {_text(_GOOD)} a port session is dead after a lost link"
    return ""


def _refuse_local(version: str, url: str) -> None:
    """Raise LocalSetup for a version that only connects to AWS, and a session that is elsewhere."""
    host = urlsplit(url).hostname or ""
    if _numbers(version) < _AWS_ONLY or is_awss(host):
        return
    raise LocalSetup(
        f"{PROGRAM} {version} connects to AWS's own endpoints only, not to {host}",
        evidence=f"{_text(_AWS_ONLY)} and later check the session's address",
        fix="Leave out --via plugin, or use version 1.2.835.0",
    )


def version_of(program: str) -> str:
    """What the program says of itself. Raises LocalSetup when it cannot be run."""
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _cannot_run(program, error) from error
    return done.stdout.decode("ascii", "replace").strip() or "of an unknown version"


def _numbers(version: str) -> tuple[int, ...]:
    """To compare by; an unknown version is an old one."""
    return tuple(map(int, version.split("."))) if re.fullmatch(r"\d+(\.\d+)*", version) else ()


def _cannot_run(program: str, error: Exception) -> LocalSetup:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return LocalSetup(
        f"{program} cannot be run", evidence=why, fix="Install it anew, or leave out --via plugin"
    )


def _terminate(client: Client, started: Started) -> None:
    """End the session at the service, as well as that can be done now."""

    def work() -> None:
        try:
            sessions.terminate(client, started.grant.id)
        except SSHHelperError as error:
            logger.info("! the session was not ended at the service: %s", error)

    thread = threading.Thread(target=work, name="aws", daemon=True)
    thread.start()
    thread.join(_TERMINATE_TIMEOUT)
