"""
SSMProxy: a tunnel to the ssh server of one container, and commands through it, for programs.
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from sagemaker_ssh_helper.aws import AWS
from sagemaker_ssh_helper.client import connect
from sagemaker_ssh_helper.errors import ConnectionFailed, PortBusy, UsageError
from sagemaker_ssh_helper.names import InstanceId
from sagemaker_ssh_helper.targets import Target

logger = logging.getLogger(__name__)

_READY = "listening"

_UNTIL_WE_END = "exec cat"
"""What ssh runs in the container: it reads from us, and when we are gone, however we ended, so is ssh."""

_LOST = 255
"""The status of ssh when its connection is lost."""

_LOST_TIMEOUT = 2.0
"""Seconds between the end of a command's connection and that of the tunnel which caused it."""

_END_TIMEOUT = 10.0
"""Seconds that ssh has to end when it was asked to."""


class SSMProxy:
    """
    A tunnel from a port of this machine to the ssh server of a container, kept by an ``ssh`` behind it.

    As a context manager it disconnects at the end::

        with SSMProxy(11022) as proxy:
            proxy.connect_to_ssm_instance("mi-0123456789abcdef0")
            proxy.run_command("nvidia-smi")
            proxy.terminate_waiting_loop()

    Args:
        ssh_listen_port: a port of 127.0.0.1 that is free, or 0 for any; the attribute of this name tells it.
        extra_args: further options of ssh for the tunnel, as one would type them.
        region_name: the AWS region; that of ``session`` if None.
        cloudwatch_url: where the log of what is connected to is shown, for whoever has to look there.
        session: the boto3 session to take credentials and region from; the user's own if None.

    These are attributes, and ``connected`` tells whether there is a tunnel.
    """

    def __init__(
        self,
        ssh_listen_port: int,
        extra_args: str = "",
        region_name: str | None = None,
        cloudwatch_url: str | None = None,
        *,
        session: Any | None = None,
    ) -> None:
        self.ssh_listen_port = ssh_listen_port
        self.extra_args = extra_args
        self.cloudwatch_url = cloudwatch_url
        self.logger = logger
        self._aws = AWS(region_name, session)
        self._tunnel: _Tunnel | None = None
        self._command: list[str] = []

    def __enter__(self) -> SSMProxy:
        return self

    def __exit__(self, *exception: object) -> None:
        self.disconnect()

    @property
    def region_name(self) -> str:
        """The region. Raises RegionMissing when none is known."""
        return self._aws.region_name

    @property
    def connected(self) -> bool:
        """Whether there is a tunnel now."""
        return self._tunnel is not None and self._tunnel.alive

    def connect_to_ssm_instance(self, instance_id: str) -> None:
        """
        Open the tunnel; returns when the port listens and the container has let us in.

        The container's host key is checked, and our key delivered, as ``sm-ssh connect`` does. An earlier
        tunnel is closed first. Raises PortBusy, SshMissing, UsageError for ``extra_args`` or an id that is
        none, what ``connect.prepare`` raises, and ConnectionFailed when ssh gives up.
        """
        target = Target.parse(instance_id)
        if target.instance_id is None:
            raise UsageError(f"{instance_id!r} is no managed instance", fix="Give an id: mi-…")
        self._connect(connect.prepare(self._aws.client, target, instance_id))

    def connect_to_node_of(self, target: Target, instance_id: str) -> None:
        """The same, for an instance that was found to be a node of ``target``."""
        prepared = connect.prepare(
            self._aws.client, target, instance_id, instance_id=InstanceId(instance_id), tell=logger.info
        )
        self._connect(prepared)

    def run_command_with_output(self, command: str) -> bytes:
        """
        What a command for the container's shell writes, to its standard output and its standard error.

        Raises subprocess.CalledProcessError when it fails, ConnectionFailed without a tunnel.
        """
        return self._run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout

    def run_command(self, command: str) -> int:
        """
        The exit status of a command for the container's shell, whose output goes where this program's goes.

        Raises ConnectionFailed without a tunnel.
        """
        try:
            return self._run(command).returncode
        except subprocess.CalledProcessError as error:
            return error.returncode

    def fetch_proxy_output(self) -> str:
        """The last lines that the tunnel's ssh and its proxy said, a line each; empty without a tunnel."""
        return "" if self._tunnel is None else "\n".join(self._tunnel.lines)

    def terminate_waiting_loop(self) -> None:
        """Let the job go on: ``sm-wait stop`` in the container. Raises as ``run_command``."""
        try:
            self.run_command_with_output("sm-wait stop")
        except ConnectionFailed as error:
            # The job that goes on may end at once, and our connection with it: then the answer is enough.
            if not getattr(error.__cause__, "output", None):
                raise

    def disconnect(self) -> None:
        """Close the tunnel, and end its session; again, and without one, it does nothing."""
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()

    def _connect(self, prepared: connect.Prepared) -> None:
        self.disconnect()
        host, session = str(prepared.instance.id), self._aws.client.session
        self.ssh_listen_port = _free_port(self.ssh_listen_port)
        address = f"127.0.0.1:{self.ssh_listen_port}:localhost:{prepared.pin.port}"
        options = [
            "-T",
            "-o",
            "BatchMode=yes",
            "-o",
            "ExitOnForwardFailure=yes",
            "-o",
            "ControlPath=none",
        ]
        # Tells, on ssh's own standard output, that the port listens.
        options += [
            "-o",
            "PermitLocalCommand=yes",
            "-o",
            f"LocalCommand=echo {_READY}",
            "-L",
            address,
        ]
        try:
            options += shlex.split(self.extra_args)
        except ValueError as error:
            raise UsageError(f"{self.extra_args!r} are no options of ssh", evidence=str(error)) from error
        learn = prepared.pin.host_key is None
        proxy = connect.proxy_words(
            host, prepared.instance.id, region=session.region, profile=None, wait=False
        )
        through = connect.ssh_settings(host, user=prepared.user, proxy=proxy, learn_host_key=learn)
        command = connect.ssh_command(host, through, options=options, command=[_UNTIL_WE_END])
        tunnel = _Tunnel(command, session.environment())
        self._tunnel = tunnel
        try:
            if not tunnel.listens():
                raise ConnectionFailed(f"there is no tunnel to {host}", evidence=tunnel.said())
        except BaseException:
            self.disconnect()
            raise
        here = connect.ssh_settings(host, user=prepared.user, proxy=None, learn_host_key=learn)
        port = ["-T", "-o", "BatchMode=yes", "-o", "ControlPath=none", "-p", str(self.ssh_listen_port)]
        self._command = connect.ssh_command("127.0.0.1", here, options=port)
        logger.info("127.0.0.1:%s is the ssh server of %s", self.ssh_listen_port, host)

    def _run(self, command: str, **streams: Any) -> subprocess.CompletedProcess[bytes]:
        tunnel = self._tunnel
        cause = None
        if tunnel is not None and tunnel.alive:
            try:
                return subprocess.run(
                    [*self._command, command], stdin=subprocess.DEVNULL, check=True, **streams
                )
            except subprocess.CalledProcessError as error:
                # 255 is the command's own, or ssh's because the tunnel has ended, or is about to.
                if error.returncode != _LOST or not tunnel.ends():
                    raise
                cause = error
        raise ConnectionFailed(
            "there is no tunnel",
            evidence=tunnel.said() if tunnel is not None else None,
            fix="Open one: connect_to_ssm_instance(…)",
        ) from cause


class _Tunnel:
    """An ssh in the background; it ends, with its session, when it is closed or this program is gone."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            # What interrupts this program is this program's business: it may still need its tunnel.
            start_new_session=True,
        )
        self._said: deque[str] = deque(maxlen=5)
        self._ready = False
        self._settled = threading.Event()
        self._reader = threading.Thread(target=self._read, name="ssh tunnel", daemon=True)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def listens(self) -> bool:
        """Wait until its port listens; whether it does. Called once."""
        self._reader.start()
        self._settled.wait()
        return self._ready

    def ends(self) -> bool:
        """Whether it is over, or is in a moment."""
        try:
            self._process.wait(_LOST_TIMEOUT)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def lines(self) -> list[str]:
        """The last lines of it and its proxy."""
        return [*self._said]

    def said(self) -> str:
        """The same as one line."""
        return "; ".join(self._said)

    def close(self) -> None:
        if self.alive:
            self._process.terminate()
        # The proxy outlives ssh by what it takes to end the session, and has the same standard error.
        if self._reader.is_alive():
            self._reader.join(_END_TIMEOUT)
        if self.alive:
            self._process.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                text = line.decode(errors="replace").strip()
                if text == _READY and not self._ready:
                    self._ready = True
                    self._settled.set()
                    continue
                self._said.append(text)
                logger.info("ssh: %s", text)
        self._settled.set()


def _free_port(port: int) -> int:
    """The port, or for 0 any that is free. Raises PortBusy, UsageError."""
    if not 0 <= port <= 65535:
        raise UsageError(f"{port} is no port", fix="Ports are 0 to 65535, and 0 is any free one")
    try:
        with socket.create_server(("127.0.0.1", port)) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        raise PortBusy(
            f"port {port} of this machine cannot be listened on",
            evidence=os.strerror(error.errno) if error.errno else str(error),
            fix="Choose another one, or 0 for any that is free",
        ) from error
