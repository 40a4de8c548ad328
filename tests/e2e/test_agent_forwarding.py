"""An ssh agent that is forwarded to root serves the container's ordinary user, too, and nobody else."""

import os
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from e2e.laptop import Laptop, end, running, until
from local_cloud import LocalCloud

# It needs root, and accounts of its own.
pytestmark = pytest.mark.soak

USERS = {"root": 0, "sshd": 101, "sagemaker-user": 4321, "other": 4322}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """One where these users have accounts."""
    folder = tmp_path_factory.mktemp("accounts")
    lines = [f"{name}:x:{number}:{number}::/:/bin/sh\n" for name, number in USERS.items()]
    (folder / "passwd").write_text("".join(lines))
    (folder / "shadow").write_text("".join(f"{name}:*:19000:0:99999:7:::\n" for name in USERS))
    mounts = [f"mount --bind {folder}/{name} /etc/{name}" for name in ("passwd", "shadow")]
    within = ["unshare", "-m", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]
    with LocalCloud(tmp_path_factory.mktemp("cloud"), within=within) as cloud:
        yield cloud


@pytest.fixture
def alice(cloud: LocalCloud, tmp_path: Path) -> Iterator[Laptop]:
    """With an agent that has one key."""
    alice = Laptop(cloud.info, "alice", tmp_path)
    key, agent = tmp_path / "key", tmp_path / "agent"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "mine", "-f", str(key)], check=True)
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL)
    try:
        until(agent.exists, "the agent")
        alice.env["SSH_AUTH_SOCK"] = str(agent)
        subprocess.run(["ssh-add", "-q", str(key)], check=True, env={**os.environ, **alice.env})
        yield alice
    finally:
        end(process)


@pytest.mark.parametrize("server", ["openssh", "asyncssh"])
def test_it_is_there_after_su(alice: Laptop, server: str) -> None:
    # The temporary folder of a local cloud's job is below one that is the cloud's alone.
    environment = {"SSH_SSHD": server, "TMPDIR": "/tmp"}
    with running(alice, "import time; time.sleep(600)", wait=0, Environment=environment) as job:
        root = alice.ssh(job.host, "-A", "ssh-add -l")
        assert root.stdout.endswith(b" mine (ED25519)\n"), root.stderr.decode()
        ordinary = alice.ssh(job.host, "-A", "su sagemaker-user -c 'id -un; ssh-add -l'")
        assert ordinary.stdout == b"sagemaker-user\n" + root.stdout, ordinary.stderr.decode()
        other = alice.ssh(job.host, "-A", "su other -c 'id -un; ssh-add -l'")
        assert other.stdout == b"other\n"
        assert b"Permission denied" in other.stderr
