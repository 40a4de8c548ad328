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

from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.client import connect
from sagemaker_ssh_helper.errors import ConnectionFailed, PortBusy, UsageError
from sagemaker_ssh_helper.names import InstanceId
from sagemaker_ssh_helper.targets import Target

logger = logging.getLogger(__name__)

_READY = b"listening"

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
        session: the boto3 session to take credentials and region from; the user's own if None.
    """

    def __init__(
        self,
        ssh_listen_port: int,
        extra_args: str = "",
        region_name: str | None = None,
        *,
        session: Any | None = None,
    ) -> None:
        self.ssh_listen_port = ssh_listen_port
        self.extra_args = extra_args
        if session is None:
            caller = Session.open(region=region_name)
        else:
            caller = Session.from_boto3(session, region_name)
        self._client = Client(caller)
        self._tunnel: _Tunnel | None = None
        self._command: list[str] = []

    def __enter__(self) -> SSMProxy:
        return self

    def __exit__(self, *exception: object) -> None:
        self.disconnect()

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
        self._connect(connect.prepare(self._client, target, instance_id))

    def connect_to_node_of(self, target: Target, instance_id: str) -> None:
        """The same, for an instance that was found to be a node of ``target``."""
        prepared = connect.prepare(
            self._client, target, instance_id, instance_id=InstanceId(instance_id), tell=logger.info
        )
        self._connect(prepared)

    def run_command_with_output(self, command: str) -> bytes:
        """
        What a command for the container's shell writes to its standard output.

        Raises subprocess.CalledProcessError when it fails, ConnectionFailed without a tunnel.
        """
        return self._run(command, stdout=subprocess.PIPE).stdout

    def run_command(self, command: str) -> None:
        """The same with its output going where this program's goes."""
        self._run(command)

    def terminate_waiting_loop(self) -> None:
        """Let the job go on: ``sm-wait stop`` in the container. Raises as ``run_command``."""
        self.run_command_with_output("sm-wait stop")

    def disconnect(self) -> None:
        """Close the tunnel, and end its session; again, and without one, it does nothing."""
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()

    def _connect(self, prepared: connect.Prepared) -> None:
        self.disconnect()
        host, session = str(prepared.instance.id), self._client.session
        self.ssh_listen_port = _free_port(self.ssh_listen_port)
        address = f"127.0.0.1:{self.ssh_listen_port}:localhost:{prepared.pin.port}"
        options = [
            "-N",
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
            f"LocalCommand=echo {_READY.decode()}",
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
        self._tunnel = _Tunnel(connect.ssh_command(host, through, options=options), session.environment())
        if not self._tunnel.listens():
            tunnel = self._tunnel
            self.disconnect()
            raise ConnectionFailed(f"there is no tunnel to {host}", evidence=tunnel.said())
        here = connect.ssh_settings(host, user=prepared.user, proxy=None, learn_host_key=learn)
        port = ["-T", "-o", "BatchMode=yes", "-o", "ControlPath=none", "-p", str(self.ssh_listen_port)]
        self._command = connect.ssh_command("127.0.0.1", here, options=port)
        logger.info("127.0.0.1:%s is the ssh server of %s", self.ssh_listen_port, host)

    def _run(self, command: str, **streams: Any) -> subprocess.CompletedProcess[bytes]:
        tunnel = self._tunnel
        if tunnel is not None and tunnel.alive:
            try:
                return subprocess.run(
                    [*self._command, command], stdin=subprocess.DEVNULL, check=True, **streams
                )
            except subprocess.CalledProcessError:
                # Else the status is the command's own, or ssh's 255 because the tunnel ended meanwhile.
                if tunnel.alive:
                    raise
        raise ConnectionFailed(
            "there is no tunnel",
            evidence=tunnel.said() if tunnel is not None else None,
            fix="Open one: connect_to_ssm_instance(…)",
        )


class _Tunnel:
    """An ssh in the background; it ends, with its session, when it is closed."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
        )
        self._said: deque[str] = deque(maxlen=5)
        self._reader = threading.Thread(target=self._read, name="ssh tunnel", daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def listens(self) -> bool:
        """Wait until its port listens; whether it does."""
        assert self._process.stdout is not None
        with self._process.stdout as told:
            return told.readline().strip() == _READY

    def said(self) -> str:
        """The last lines of it and its proxy."""
        return "; ".join(self._said)

    def close(self) -> None:
        if self.alive:
            self._process.terminate()
        # The proxy outlives ssh by what it takes to end the session, and has the same standard error.
        self._reader.join(_END_TIMEOUT)
        if self.alive:
            self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                text = line.decode(errors="replace").strip()
                self._said.append(text)
                logger.info("ssh: %s", text)


def _free_port(port: int) -> int:
    """The port, or for 0 any that is free. Raises PortBusy, UsageError."""
    try:
        with socket.create_server(("127.0.0.1", port)) as listener:
            return int(listener.getsockname()[1])
    except OverflowError as error:
        raise UsageError(f"{port} is no port", fix="Ports are 0 to 65535, and 0 is any free one") from error
    except OSError as error:
        raise PortBusy(
            f"port {port} of this machine cannot be listened on",
            evidence=os.strerror(error.errno) if error.errno else str(error),
            fix="Choose another one, or 0 for any that is free",
        ) from error
