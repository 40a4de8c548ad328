"""
ssh through a session's terminal, into a container without the helper: the container's end.

A native target gives a shell on a terminal and nothing else. The client types one line into it, which starts
:mod:`sagemaker_ssh_helper.agent.relay_loader` with the image's Python; that makes the terminal a plain pipe
of bytes. From then on all is lines of ASCII, since an agent may cut what is no UTF-8:

::

    <- sm-ssh-relay:need            or "have", when the package is here since the last time
    -> base64 of the package, a zip archive, after "need" only
    -> base64 of {"key": the user's public key}
    <- sm-ssh-relay:ready BASE64    of {"host_key": …, "user": …}; or "failed" and why
    -> base64 of what ssh says, in pieces            <- of what the server says
    -> .                            nothing more follows; the same the other way

The ssh server is the one of the set-up (:mod:`~sagemaker_ssh_helper.agent.ssh_servers`), on loopback, with a
key of its own that the client gets through the session; one that runs already is used. Standard library only;
Python 3.8.
"""

import base64
import binascii
import contextlib
import json
import logging
import os
import socket
import sys
import threading
from typing import BinaryIO

from sagemaker_ssh_helper.agent import environment, ssh_servers, sshd
from sagemaker_ssh_helper.agent.relay_loader import say
from sagemaker_ssh_helper.agent.sshd import SshServer
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.errors import LocalSetup, SSHHelperError, reason_of
from sagemaker_ssh_helper.public_keys import PublicKey

END = b"."
"""The line after which nothing follows."""

_READ_BYTES = 32 << 10


def main() -> int:
    """The relay from its set-up line to the end of the connection; its exit status."""
    source = sys.stdin.buffer
    # A word of anybody's on the terminal would break the stream.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        given = json.loads(base64.b64decode(source.readline()))
        server = start_server(StateDir.choose(os.environ), PublicKey.parse(given["key"]))
        connection = socket.create_connection((sshd.ADDRESS, server.port))
    except (SSHHelperError, OSError, ValueError, KeyError) as error:
        say("failed", reason_of(error))
        return 1
    say("ready", json.dumps({"host_key": server.host_public_key.line, "user": server.user}))
    carry(source, sys.stdout.buffer, connection)
    return 0


def start_server(state: StateDir, key: PublicKey) -> SshServer:
    """
    The node's ssh server, running, which admits this key.

    Raises LocalSetup when none can be started, OSError.
    """
    with state.lock("relay", wait=True):
        if not state.has_agent():
            environment.save(state, os.environb, os.getcwdb())
            environment.write_programs(state, sshd.find_sftp_server())
        sshd.authorize(state, key)
        try:
            server = ssh_servers.attach(state)
        except LocalSetup:
            return ssh_servers.start(state, os.environ)
        if not server.alive():
            server.start()
        return server


def carry(source: BinaryIO, target: BinaryIO, connection: socket.socket) -> None:
    """Carry lines from ``source`` to the connection, and the reverse to ``target``, until both ended."""
    outward = threading.Thread(target=_carry_out, args=(connection, target), daemon=True)
    outward.start()
    try:
        for line in source:
            line = line.strip()
            if line == END:
                break
            connection.sendall(base64.b64decode(line))
        connection.shutdown(socket.SHUT_WR)
    except (OSError, binascii.Error):
        # The server hung up, which the other way tells; or the stream makes no sense any more. Not closed
        # here: that would not wake the other way.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    outward.join()


def _carry_out(connection: socket.socket, target: BinaryIO) -> None:
    try:
        while True:
            data = connection.recv(_READ_BYTES)
            if not data:
                break
            target.write(base64.b64encode(data) + b"\n")
            target.flush()
    except OSError:
        pass
    target.write(END + b"\n")
    target.flush()
    connection.close()
