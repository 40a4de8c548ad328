"""
The official agent, where the image has one: configured, registered, started, and started again when it ends.

Run against agent 3.3.0.0 built from its public source; ``docs/reference/assumptions.md`` says what is open.
It runs as root only, with this node's environment, and keeps its credentials in the node's folder: in
``~/.aws/credentials`` they would become the job's. What it starts gets the job's own back: it looks for a
shell on its PATH, and finds ours first.

Standard library only; Python 3.8.
"""

import asyncio
import json
import logging
import os
import random
import shlex
import signal
import subprocess
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from sagemaker_ssh_helper.agent.aws_api import endpoint_url
from sagemaker_ssh_helper.agent.registration import LIMIT_CODE, LIMIT_FIX
from sagemaker_ssh_helper.agent.scripts import script_environ
from sagemaker_ssh_helper.agent.state import AgentConfig, State, StateDir
from sagemaker_ssh_helper.aws_errors import Kind, kind_of, known_code
from sagemaker_ssh_helper.channels import certificates
from sagemaker_ssh_helper.errors import LocalSetup, reason_of
from sagemaker_ssh_helper.names import AGENT_LOG_PATH, AGENT_NAME, Env, InstanceId, Line

# Facts of the program.
PROGRAM = "/usr/bin/amazon-ssm-agent"
CONFIG = "/etc/amazon/ssm/amazon-ssm-agent.json"
SHELL_FOLDER = "/etc/amazon/ssm/sagemaker-ssh-helper"
"""Ours, for the shell that it finds; others than root run it, too."""
REGISTRATION = "/var/lib/amazon/ssm/registration"
_VERSION_BEGINS = "SSM Agent version: "
# As the kernel cuts it: it is started when the first credentials are there.
_WORKER = "ssm-agent-worker"[:15]
_REGISTER_TIMEOUT = 60.0  # seconds; the program's own set-up helper waits as long
_STOP_TIMEOUT = 9.0  # seconds; it ends its worker first, which takes about seven
# Its own word, beside AWS's, for a call that may succeed later.
_UNANSWERED = "RequestError"
_ENDPOINTS = (("Ssm", "ssm"), ("Mds", "ec2messages"), ("Mgs", "ssmmessages"), ("Kms", "kms"))

# Numbers we chose.
_VERSION_TIMEOUT = 10.0
_REGISTER_ATTEMPTS = 8
_LOOK_INTERVAL = 0.25
# Between attempts and restarts: a limit, and what it is doubled up to.
_DELAYS = (0.5, 60.0)
# It ended that often, each time sooner than that many seconds after its start: it will not stay.
_QUICK_ENDS = 5
_QUICK = 10.0
_TAIL_BYTES = 2048

_EMBEDDED_INSTEAD = f"set {Env.AGENT}=embedded"

_logger = logging.getLogger(__name__)


def find() -> str:
    """The version of the installed program. Blocks. Raises LocalSetup when it cannot be used here."""
    if not os.access(PROGRAM, os.X_OK):
        raise LocalSetup(
            f"there is no official agent in this image ({PROGRAM})",
            fix=f"Install {AGENT_NAME} in the image, or {_EMBEDDED_INSTEAD}",
        )
    if os.geteuid() != 0:
        raise LocalSetup(
            f"the official agent runs as root only, and this is uid {os.geteuid()}",
            fix=f"Run the container as root, or {_EMBEDDED_INSTEAD}",
        )
    running = _running()
    if running:
        # Each ends the worker of the other, as an orphan of its own.
        raise LocalSetup(
            f"an official agent runs here already, as process {running[0]}",
            fix=f"Leave it to setup_and_start_ssh() to start it, or {_EMBEDDED_INSTEAD}",
        )
    try:
        done = subprocess.run(
            [PROGRAM, "-version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_VERSION_TIMEOUT,
        )
        said, status = done.stdout.decode("utf-8", "replace").strip(), f"exit status {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        said, status = "", reason_of(error)
    if status != "exit status 0" or not said.startswith(_VERSION_BEGINS):
        raise LocalSetup(
            f"{PROGRAM} is no official agent that works: it does not tell its version",
            evidence=f"{status}{': ' if said else ''}{_last_line(said)}",
            fix=f"Install {AGENT_NAME} for this kind of machine, or {_EMBEDDED_INSTEAD}",
        )
    return said[len(_VERSION_BEGINS) :]


def configure(region: str, environ: Mapping[str, str]) -> None:
    """
    Write what the program reads at its start; other settings of the image are kept.

    Raises LocalSetup when there is a file that it could not read, or none can be written.
    """
    settings = _read_config()
    _section(settings, "Agent").update(Region=region, ContainerMode=False)
    _section(settings, "Identity").update(ConsumptionOrder=["OnPrem"])
    for name, service in _ENDPOINTS:
        if environ.get(f"AWS_ENDPOINT_URL_{service.upper()}") or environ.get("AWS_ENDPOINT_URL"):
            url = endpoint_url(service, region, environ)
            _section(settings, name).update(Endpoint=_gateway(url) if name == "Mgs" else url)
    temporary = f"{CONFIG}.{os.getpid()}.tmp"
    try:
        os.makedirs(os.path.dirname(CONFIG), mode=0o755, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(settings, file, indent=1)
        os.replace(temporary, CONFIG)
    except OSError as error:
        raise LocalSetup(
            f"the official agent's configuration cannot be written to {CONFIG}",
            evidence=error.strerror,
            fix=f"Make {os.path.dirname(CONFIG)} writable, or {_EMBEDDED_INSTEAD}",
        ) from error


def write_shell(environ: Mapping[str, str]) -> bool:
    """
    Put a shell into SHELL_FOLDER that runs scripts and sessions with the job's own credentials.

    Whether it can be run from there. Without it they act as the managed instance's role.
    """
    path = os.path.join(SHELL_FOLDER, "sh")
    lines = ["#!/bin/sh", "# Written by sagemaker-ssh-helper.", f'PATH="${{PATH#{SHELL_FOLDER}:}}"']
    for name in _OF_THE_AGENT:
        own = environ.get(name)
        lines.append(f"unset {name}" if own is None else f"export {name}={shlex.quote(own)}")
    lines.append('exec /bin/sh "$@"\n')
    try:
        os.makedirs(SHELL_FOLDER, mode=0o755, exist_ok=True)
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            os.fchmod(file.fileno(), 0o755)
            file.write(os.fsencode("\n".join(lines)))
        os.replace(temporary, path)
        return not os.statvfs(SHELL_FOLDER).f_flag & os.ST_NOEXEC
    except OSError as error:
        _logger.warning("! what the official agent starts acts as the instance's role: %s", error)
        return False


def _read_config() -> Dict[str, Any]:
    try:
        with open(CONFIG, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise LocalSetup(
            f"the official agent does not start with {CONFIG}",
            evidence=reason_of(error),
            fix=f"Mend or remove that file in the image, or {_EMBEDDED_INSTEAD}",
        ) from error
    return found


def _section(settings: Dict[str, Any], name: str) -> Dict[str, Any]:
    """That part of the settings, made when it is missing or unusable."""
    found = settings.get(name)
    if not isinstance(found, dict):
        found = settings[name] = {}
    return found


def _gateway(url: str) -> str:
    """As the program takes it. With less than scheme, host and port it would go to AWS, or nowhere."""
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise LocalSetup(
            "the official agent opens its channels by TLS only",
            evidence=f"the endpoint is {parts.scheme}://{parts.netloc}",
            fix=f"Start the local cloud with --tls, or {_EMBEDDED_INSTEAD}",
        )
    return f"https://{parts.netloc}" if parts.port else f"https://{parts.netloc}:443"


class OfficialAgent:
    """
    The installed program, as this node's agent.

    Args:
        chance: gives a random number, 0 to 1.
    """

    def __init__(
        self, state: StateDir, config: AgentConfig, *, chance: Callable[[], float] = random.random
    ) -> None:
        self._state = state
        self._config = config
        self._chance = chance
        self._environ: Dict[str, str] = {}
        self._told: Tuple[State, str] = (State.REGISTERED, "")

    def take_over(self) -> Optional[InstanceId]:
        """
        What this node is registered as when an agent before us did that and died; None when none did.

        The program that it left is ended: two of them would end each other's workers.
        """
        status = self._state.read_status()
        if status is None or not status.instance_id:
            return None
        try:
            if self._registered() != status.instance_id:
                return None
        except LocalSetup:
            return None
        for pid in _running():
            _logger.info("= the official agent before this, process %d, is ended", pid)
            _kill(pid)
        return InstanceId(status.instance_id)

    async def register(self) -> InstanceId:
        """
        Use the activation up, with some patience for a service that has too much to do.

        Raises LocalSetup when it is refused, or still not answered.
        """
        config = self._config
        words = ["-register", "-y", "-region", config.region]
        words += ["-code", config.activation_code, "-id", config.activation_id]
        limit, longest = _DELAYS
        for attempt in range(1, _REGISTER_ATTEMPTS + 1):
            status, said = await self._run_to_its_end(words)
            if status == 0:
                instance_id = self._registered()
                _logger.info(Line.REGISTERED.format(instance_id=instance_id))
                return instance_id
            said = said.replace(config.activation_code, "…")
            if attempt == _REGISTER_ATTEMPTS or not _may_pass(said):
                raise LocalSetup(
                    "the official agent could not register this node",
                    evidence=f"exit status {status}: {_last_line(said)}",
                    fix=LIMIT_FIX if LIMIT_CODE in said else f"See {AGENT_LOG_PATH}, or {_EMBEDDED_INSTEAD}",
                )
            pause = limit * self._chance()
            _logger.warning("! not registered yet, again in %.1f s: %s", pause, _last_line(said))
            await asyncio.sleep(pause)
            limit = min(longest, limit * 2)
        raise AssertionError("the last attempt returns or raises")

    def _registered(self) -> InstanceId:
        try:
            with open(REGISTRATION, encoding="utf-8") as file:
                found = json.load(file)
            return InstanceId(str(found["ManagedInstanceID"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LocalSetup(
                f"the official agent says that it registered, but {REGISTRATION} does not tell as what",
                evidence=reason_of(error),
                fix=f"Use a newer {AGENT_NAME}, or {_EMBEDDED_INSTEAD}",
            ) from error

    async def run(self) -> None:
        """
        Keep it running until this is cancelled; then it is ended, and waited for.

        Raises LocalSetup when it does not stay.
        """
        loop = asyncio.get_running_loop()
        limit, longest = _DELAYS
        quick_ends = 0
        while True:
            began_at = loop.time()
            how = await self._run_once()
            if loop.time() - began_at < _QUICK:
                quick_ends += 1
            else:
                quick_ends, limit = 0, _DELAYS[0]
            if quick_ends == _QUICK_ENDS:
                raise LocalSetup(
                    f"the official agent ended {quick_ends} times soon after its start",
                    evidence=how,
                    fix=f"See {AGENT_LOG_PATH}, or {_EMBEDDED_INSTEAD}",
                )
            pause = limit * (0.5 + 0.5 * self._chance())
            self._tell(State.REGISTERED, f"the official agent ended ({how}) and is started again")
            await asyncio.sleep(pause)
            limit = min(longest, limit * 2)

    async def _run_once(self) -> str:
        """Start it and stay until it ends; how it did."""
        process = await self._start([])
        tail = bytearray()
        reading = asyncio.ensure_future(_keep_tail(process, tail))
        ended = asyncio.ensure_future(process.wait())
        try:
            while not ended.done():
                if _workers_of(process.pid):
                    self._tell(State.ONLINE)
                elif self._told[0] is State.ONLINE:
                    self._tell(State.REGISTERED, "the official agent starts its worker again")
                await asyncio.wait([ended], timeout=_LOOK_INTERVAL)
            # Others may have its output open still.
            await asyncio.wait([reading], timeout=_LOOK_INTERVAL)
            last = _last_line(tail.decode("utf-8", "replace"))
            return f"exit status {ended.result()}{': ' if last else ''}{last}"
        finally:
            try:
                await _end(process)
            finally:
                for task in (reading, ended):
                    task.cancel()

    async def _run_to_its_end(self, words: List[str]) -> Tuple[int, str]:
        process = await self._start(words)
        try:
            said, _ = await asyncio.wait_for(process.communicate(), _REGISTER_TIMEOUT)
        except asyncio.TimeoutError:
            return 1, f"RequestError: no answer in {_REGISTER_TIMEOUT:.0f} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None, "it has ended"
        return process.returncode, said.decode("utf-8", "replace")

    async def _start(self, words: List[str]) -> "asyncio.subprocess.Process":
        self._environ = self._environ or _environment(self._state, self._config)
        try:
            return await asyncio.create_subprocess_exec(
                PROGRAM,
                *words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environ,
                cwd="/",
            )
        except OSError as error:
            raise LocalSetup(
                f"{PROGRAM} cannot be started", evidence=error.strerror, fix=_EMBEDDED_INSTEAD.capitalize()
            ) from error

    def _tell(self, state: State, why: str = "") -> None:
        if (state, why) == self._told:
            return
        self._told = (state, why)
        _logger.info("= %s%s", state.value, f": {why}" if why else "")
        try:
            self._state.update_status(state, why=why)
        except OSError as error:
            # The disk is full: the node is online all the same.
            _logger.warning("! the state cannot be written: %s", error)


_OF_THE_AGENT = (
    "AWS_EC2_METADATA_DISABLED",
    # It may set this one for what it starts.
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "SSL_CERT_FILE",
)
"""Variables that are the agent's own business, and not of what it starts."""


def _environment(state: StateDir, config: AgentConfig) -> Dict[str, str]:
    extra = {
        "AWS_SHARED_CREDENTIALS_FILE": os.path.join(state.path, "official_credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": os.environ.get("HOME") or state.path,
    }
    if os.environ.get("AWS_CA_BUNDLE"):
        # The program knows the other name only.
        extra["SSL_CERT_FILE"] = os.environ["AWS_CA_BUNDLE"]
    elif certificates.chosen_by() is None and not certificates.system_has_certificates():
        extra["SSL_CERT_FILE"] = certificates.BUNDLED_CA
    environ = script_environ(None, bin_path=config.bin_path, state_path=state.path, extra=extra)
    environ.pop("AWS_PROFILE", None)
    if write_shell(os.environ):
        environ["PATH"] = f"{SHELL_FOLDER}:{environ['PATH']}"
    return environ


async def _keep_tail(process: "asyncio.subprocess.Process", tail: bytearray) -> None:
    assert process.stdout is not None, "it was started with a pipe"
    while True:
        data = await process.stdout.read(_TAIL_BYTES)
        if not data:
            return
        tail.extend(data)
        del tail[:-_TAIL_BYTES]


async def _end(process: "asyncio.subprocess.Process") -> None:
    """It ends its worker itself, given the time; else both are ended by force."""
    if process.returncode is not None:
        return
    workers = _workers_of(process.pid)
    try:
        process.terminate()
        await asyncio.wait_for(process.wait(), _STOP_TIMEOUT)
    except asyncio.TimeoutError:
        _logger.warning("! the official agent did not end in %.0f s", _STOP_TIMEOUT)
    except ProcessLookupError:
        pass  # it ended this moment
    finally:
        if process.returncode is None:
            for pid in (process.pid, *workers):
                _kill(pid)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _running() -> List[int]:
    """Its processes that stay; such as tell the version or register end by themselves."""

    def stays(pid: int) -> bool:
        if os.readlink(f"/proc/{pid}/exe") != PROGRAM:
            return False
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        # One about to end has no words.
        return words[0] != b"" and not b"".join(words[1:2]).startswith(b"-")

    return _processes(stays)


def _workers_of(parent: int) -> List[int]:
    def is_worker(pid: int) -> bool:
        with open(f"/proc/{pid}/stat", "rb") as file:
            name, _, rest = file.read().partition(b"(")[2].rpartition(b")")
        state, parent_pid = rest.split()[:2]
        return int(parent_pid) == parent and name == _WORKER.encode() and state != b"Z"

    return _processes(is_worker)


def _processes(condition: Callable[[int], bool]) -> List[int]:
    """The processes that this is true of; those that are gone or may not be looked at are left out."""
    found = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        try:
            if name.isdigit() and condition(int(name)):
                found.append(int(name))
        except OSError:
            continue
    return found


def _may_pass(said: str) -> bool:
    """Whether the same call may succeed later, after an error that is in this output."""
    kind = kind_of(known_code(said))
    return _UNANSWERED in said or kind in (Kind.THROTTLED, Kind.TRANSIENT)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
