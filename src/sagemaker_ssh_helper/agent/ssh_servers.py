"""
Which program is the node's ssh server: the image's OpenSSH, else asyncssh, else an OpenSSH installed now.

``SSH_SSHD`` chooses: ``openssh`` or ``asyncssh`` is that one and no other; ``installed`` takes the first that
is here and works; ``auto`` or nothing may install one, too.

Standard library only; Python 3.8.
"""

import logging
import os
from typing import Dict, List, Mapping, Type

from sagemaker_ssh_helper.agent import asyncssh_server, environment, packages, resource, sshd
from sagemaker_ssh_helper.agent.sshd import Account, SshServer
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.errors import LocalSetup
from sagemaker_ssh_helper.names import Env

_AUTO = "auto"
_INSTALLED = "installed"

_SERVER = "sagemaker_ssh_helper.agent.asyncssh_server"

_logger = logging.getLogger(__name__)


class AsyncsshServer(SshServer):
    """The same with asyncssh: needs no account, no shell of its own, no root, no program of OpenSSH."""

    KIND = "asyncssh"

    @classmethod
    def prepare(cls, state: StateDir) -> "AsyncsshServer":
        """Raises LocalSetup when asyncssh is not here."""
        if asyncssh_server.find(state) is None:
            raise LocalSetup(
                "there is no asyncssh in this container",
                fix="Install the package asyncssh, or OpenSSH's server",
            )
        sshd.refuse_odd_path(state)
        if not os.path.exists(state.authorized_keys):
            state.write(state.authorized_keys, b"")
        return cls(state, environment.interpreter(), Account.unchecked(), 0)

    def _command(self) -> List[str]:
        state = self._state
        return environment.python_command(state, _SERVER, [state.path, state.sshd_config])

    def _environment(self) -> Dict[str, str]:
        found = sshd.clean_environment()
        if "LD_LIBRARY_PATH" in os.environ:
            found["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        # asyncssh does not start without one, and a uid without an account has none.
        found["HOME"] = os.environ.get("HOME") or self._state.path
        return found

    def _amend(self, complaint: str, *, port_is_fixed: bool) -> bool:
        return not port_is_fixed and "Cannot bind any address" in complaint


_SERVERS: Dict[str, Type[SshServer]] = {server.KIND: server for server in (SshServer, AsyncsshServer)}


def start(state: StateDir, environ: Mapping[str, str]) -> SshServer:
    """
    The running server. Raises LocalSetup when none works: with what the first one needs.

    An image without OpenSSH gets it from its package manager when this is root and nothing else is there.
    """
    wanted = environ.get(Env.SSHD, "").strip().lower() or _AUTO
    if wanted not in (_AUTO, _INSTALLED, *_SERVERS):
        known = ", ".join((_AUTO, _INSTALLED, *_SERVERS))
        _logger.warning("! %s is %r: not one of %s", Env.SSHD, wanted, known)
        wanted = _AUTO
    kinds = [wanted] if wanted in _SERVERS else list(_SERVERS)
    problems: List[LocalSetup] = []
    for kind in kinds:
        try:
            return _start(kind, state, environ)
        except LocalSetup as problem:
            _logger.info("! no ssh server by %s: %s", kind, problem)
            problems.append(problem)
    if wanted == _AUTO and os.geteuid() == 0 and not sshd.find_program("sshd"):
        try:
            packages.install_openssh(packages.missing(), timeout=packages.START_TIMEOUT, say=_logger.warning)
            return _start(SshServer.KIND, state, environ)
        except LocalSetup as problem:
            _logger.warning("! OpenSSH could not be installed: %s", problem)
    raise problems[0]


def attach(state: StateDir) -> SshServer:
    """The server that was started with these files. Raises LocalSetup when none was."""
    line = (state.read(state.sshd_config) or b"").split(b"\n", 1)[0].decode("ascii", "replace")
    return _SERVERS.get(line[2:], SshServer).attach(state)


def _start(kind: str, state: StateDir, environ: Mapping[str, str]) -> SshServer:
    server = _SERVERS[kind].prepare(state)
    # Even on the loopback address alone, ours would keep one on all addresses from listening.
    server.leaves_ssh_port = resource.has_other_hosts(environ)
    server.start()
    return server
