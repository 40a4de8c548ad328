"""
ssh between the nodes of one job: ``ssh algo-2`` in a login on another node.

A second sshd, on the node's own address in the job's network. The key that the launch made for the job is
its host key, and the only key that may log in, from the addresses of the job's nodes. A login finds ``ssh``,
``scp`` and ``sftp`` first on its PATH that know all this for the names of the nodes, and read the user's own
configuration for everything else. Nothing of an image's own ssh is read or changed.

Standard library only; Python 3.8.
"""

import logging
import os
import re
import shlex
import socket
import threading
import time
from dataclasses import dataclass
from typing import List, Mapping, Optional, Tuple

from sagemaker_ssh_helper.agent import environment, resource, sshd
from sagemaker_ssh_helper.agent.sshd import SshServer
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.errors import LocalSetup, UsageError
from sagemaker_ssh_helper.names import Env
from sagemaker_ssh_helper.node_keys import NodeKey

PORT = 22022
"""Where every node listens for the others: the same everywhere, and not the 22 of an image's own sshd."""

_FOLDER = "peers"

_NOBODY = "nobody-listens"
# Succeeds when no ssh server listens at a host.
_PROBE = """\
import socket, sys
try:
    socket.create_connection((sys.argv[1], 22), 5).close()
except OSError:
    sys.exit(0)
sys.exit(1)
"""
_ALIAS = "sagemaker-ssh-helper-node"
_PROGRAMS = ("ssh", "scp", "sftp")
# Names are there once all instances are; a node that is not by then cannot log in here.
_NAMES_TIMEOUT = 300.0
_NAMES_INTERVAL = 1.0
# Without an address of its own it cannot listen; the start goes on without it.
_OWN_NAME_TIMEOUT = 10.0
_CONNECT_TIMEOUT = 10

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peers:
    """The nodes of a job, and which of them this is."""

    here: str
    hosts: Tuple[str, ...]
    wanted: int
    """How many of them, by their numbers, have ssh."""

    @property
    def reachable(self) -> List[str]:
        return [host for host in self.hosts if resource.rank_of(host) < self.wanted]

    @property
    def left_out(self) -> List[str]:
        return [host for host in self.hosts if resource.rank_of(host) >= self.wanted]


def start(state: StateDir, environ: Mapping[str, str]) -> Optional[SshServer]:
    """
    The server for the other nodes, running; None when there are none, or the launch gave no key.

    Raises LocalSetup when it cannot run: the node is good for everything else.
    """
    text = environ.get(Env.NODE_KEY, "").strip()
    if not text:
        return None
    hosts, here = resource.hosts(environ)
    most = max(map(resource.rank_of, hosts), default=-1) + 1
    peers = Peers(here, hosts, resource.wanted_count(environ, most))
    if len(peers.reachable) < 2 or here not in peers.reachable:
        return None
    try:
        key = NodeKey.parse(text)
    except UsageError as error:
        raise LocalSetup(f"{Env.NODE_KEY} is not used: {error}") from None
    address = _own_address(here)
    if address is None:
        raise LocalSetup(f"this node's own name {here} has no address")
    folder = _folder(state, create=True)
    folder.write(folder.host_key, key.openssh().encode("ascii"))
    folder.write(f"{folder.host_key}.pub", f"{key.public.line}\n".encode("ascii"))
    folder.write(folder.authorized_keys, b"")
    server = SshServer.prepare(folder)
    server.address, server.port = address, PORT
    server.start()
    _write_programs(state, folder, peers, address, key, server.user)
    threading.Thread(target=_admit, args=(folder, peers, address, key), daemon=True).start()
    return server


def attach(state: StateDir) -> Optional[SshServer]:
    """The server that :func:`start` started; None when there is none. Raises LocalSetup."""
    try:
        folder = _folder(state, create=False)
        found = re.search(rb"^ListenAddress (\S+)$", folder.read(folder.sshd_config) or b"", re.MULTILINE)
    except OSError:
        return None
    if found is None:
        return None
    server = SshServer.attach(folder)
    server.address = found.group(1).decode("ascii")
    return server


def _folder(state: StateDir, *, create: bool) -> StateDir:
    folder = StateDir.open(os.path.join(state.path, _FOLDER), create=create)
    # Logins are the same by either road.
    folder.login = state.login
    return folder


def _own_address(here: str) -> Optional[str]:
    """This node's address; waits for it a little, since names may come later than the container."""
    deadline = time.monotonic() + _OWN_NAME_TIMEOUT
    while True:
        address = _address(here)
        if address is not None or time.monotonic() >= deadline:
            return address
        time.sleep(_NAMES_INTERVAL)


def _address(host: str) -> Optional[str]:
    try:
        return str(socket.getaddrinfo(host, PORT, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return None


def _admit(folder: StateDir, peers: Peers, own: str, key: NodeKey) -> None:
    """Let the others in, each once its name has an address."""
    known = {peers.here: own}
    deadline = time.monotonic() + _NAMES_TIMEOUT
    while time.monotonic() < deadline:
        before = len(known)
        for host in peers.reachable:
            address = known.get(host) or _address(host)
            if address is not None:
                known[host] = address
        if len(known) > before:
            addresses = ",".join(sorted(set(known.values())))
            try:
                folder.write(
                    folder.authorized_keys, f'from="{addresses}" {key.public.line}\n'.encode("ascii")
                )
            except OSError as error:
                _logger.warning("! other nodes are not admitted: %s", error)
                return
        if len(known) == len(peers.reachable):
            _logger.info("= other nodes may log in: %s", " ".join(peers.reachable))
            return
        time.sleep(_NAMES_INTERVAL)
    missing = sorted(set(peers.reachable) - set(known))
    _logger.warning("! nodes without an address cannot log in here: %s", " ".join(missing))


def _write_programs(
    state: StateDir, folder: StateDir, peers: Peers, address: str, key: NodeKey, user: str
) -> None:
    """``ssh`` and the like for logins, where the image has them."""
    known_hosts = os.path.join(folder.path, "known_hosts")
    folder.write(known_hosts, f"{_ALIAS} {key.public.line}\n".encode("ascii"))
    probe = " ".join(map(shlex.quote, (environment.interpreter(), "-IS", "-c", _PROBE)))
    folder.write(os.path.join(folder.path, _NOBODY), os.fsencode(f'exec {probe} "$1"\n'))
    path = os.path.join(folder.path, "ssh_config")
    folder.write(path, _client_configuration(folder, peers, address, known_hosts, user).encode("utf-8"))
    for name in _PROGRAMS:
        program = sshd.find_program(name)
        if program:
            words = " ".join(shlex.quote(word) for word in (program, "-F", path))
            environment.write_script(state, name, [f'exec {words} "$@"'])


def _client_configuration(folder: StateDir, peers: Peers, address: str, known_hosts: str, user: str) -> str:
    nobody = os.path.join(folder.path, _NOBODY)
    lines = [
        f"Host {' '.join(peers.reachable)}",
        f"  Port {PORT}",
        f"  User {user}",
        f"  BindAddress {address}",
        f'  IdentityFile "{folder.host_key}"',
        "  IdentitiesOnly yes",
        f"  HostKeyAlias {_ALIAS}",
        f'  UserKnownHostsFile "{known_hosts}"',
        "  StrictHostKeyChecking yes",
        f"  ConnectTimeout {_CONNECT_TIMEOUT}",
    ]
    if peers.left_out:
        words = (
            f"%h has no ssh here: {Env.INSTANCE_COUNT} is {peers.wanted}. Launch with ssh_instance_count, or "
            "start an ssh server on its port 22"
        )
        lines += [
            # The image may have one, as those that run MPI do. Then only the user's configuration counts.
            f'Match originalhost {",".join(peers.left_out)} exec "/bin/sh {shlex.quote(nobody)} %h"',
            # ssh puts an exec before it, which leaves some shells no way to say anything.
            f"  ProxyCommand sh -c 'echo {words} >&2; exit 1'",
        ]
    return "\n".join([*lines, "Match all", "Include ~/.ssh/config", "Include /etc/ssh/ssh_config", ""])
