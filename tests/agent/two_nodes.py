"""
Two nodes of a job of four, in a network of their own, whose image starts its own sshd on port 22 after ours.

Run as a program in a new network and mount namespace, it prints as JSON what ``test_port_22.py`` looks at.
"""

import contextlib
import fcntl
import json
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, Iterator

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "src")]

from agent.ssh_node import TIMEOUT, SshNode, users  # noqa: E402 (found by the line above)
from sagemaker_ssh_helper.agent import sshd  # noqa: E402
from sagemaker_ssh_helper.node_keys import NodeKey  # noqa: E402

HOSTS = ["algo-1", "algo-2", "algo-3", "algo-4"]
_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41


def bring_loopback_up() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP_RUNNING))


def name_hosts(folder: Path) -> None:
    """So that the names of the nodes are addresses of this machine."""
    lines = ["127.0.0.1 localhost", *(f"127.0.88.{number} {host}" for number, host in enumerate(HOSTS, 1))]
    (folder / "hosts").write_text("\n".join([*lines, ""]))
    subprocess.run(["mount", "--bind", str(folder / "hosts"), "/etc/hosts"], check=True)


def made_key(path: Path) -> NodeKey:
    """As the launch makes it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return NodeKey.from_openssh(path.read_text())


def node(folder: Path, here: str, key: NodeKey) -> SshNode:
    config = folder / here / "input" / "config"
    config.mkdir(parents=True)
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": here, "hosts": HOSTS}))
    settings = {"SAGEMAKER_BASE_DIR": str(folder / here), "SSH_NODE_KEY": key.text, "SSH_INSTANCE_COUNT": "2"}
    return SshNode(users()[0], {}, settings=settings)


@contextlib.contextmanager
def sshd_of_the_image(folder: Path) -> Iterator[str]:
    """As a program of MPI starts it, on all addresses. Gives the words by which a job logs in to it."""
    for name in ("host", "mpi"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    config = folder / "sshd_config"
    config.write_text(
        f"Port 22\nListenAddress 0.0.0.0\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/mpi.pub\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
    )
    server = subprocess.Popen(
        [sshd.find_program("sshd") or "sshd", "-D", "-e", "-f", str(config)], stderr=subprocess.PIPE
    )
    try:
        assert server.stderr is not None
        # It says so when it listens, and something else when the port is taken.
        said = server.stderr.readline().decode()
        assert "Server listening on 0.0.0.0 port 22" in said, said
        options = "BatchMode=yes StrictHostKeyChecking=no UserKnownHostsFile=/dev/null LogLevel=ERROR"
        yield f"ssh -i {folder}/mpi " + " ".join(f"-o {option}" for option in options.split())
    finally:
        server.kill()
        server.communicate()


def said(one: SshNode, command: str) -> str:
    """What a command in a login says."""
    done = one.ssh(command)
    return (done.stdout + done.stderr).decode()


def main() -> None:
    bring_loopback_up()
    found: Dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        name_hosts(folder)
        key = made_key(folder / "key")
        nodes = [node(folder, here, key) for here in HOSTS[:2]]
        for each in nodes:
            stack.callback(each.close)
        found["ports"] = [each.facts["port"] for each in nodes]
        with sshd_of_the_image(folder) as ssh:
            by_the_job = subprocess.run(
                f"{ssh} algo-2 echo from the job", shell=True, stdout=subprocess.PIPE, timeout=TIMEOUT
            )
            found["by the job"] = by_the_job.stdout.decode()
            found["by a login"] = said(nodes[0], "ssh -o BatchMode=yes algo-2 'echo $SSH_CONNECTION'")
            found["left out"] = said(nodes[0], f"{ssh} algo-4 echo left out")
        found["left out, without one"] = said(nodes[0], "ssh -o BatchMode=yes algo-4 true")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
