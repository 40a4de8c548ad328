"""Port 22 of a job with several nodes is the job's: its own sshd, and what is started through it, work."""

import json
import os
import subprocess
import sys

import pytest

from agent import two_nodes
from sagemaker_ssh_helper.agent import peers

pytestmark = pytest.mark.container


def test_an_sshd_of_the_job_that_starts_later_has_port_22_and_its_nodes_reach_each_other_by_it() -> None:
    own = [] if os.geteuid() == 0 else ["-Ur"]
    # All of its processes end with the first one.
    namespaces = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    done = subprocess.run(
        ["unshare", *own, *namespaces, sys.executable, two_nodes.__file__],
        capture_output=True,
        timeout=two_nodes.TIMEOUT,
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)

    assert 22 not in found["ports"]
    assert found["by the job"] == "from the job\n"
    # By our own server for nodes, which needs no key of the job.
    assert found["by a login"].split()[-2:] == ["127.0.88.2", str(peers.PORT)], found["by a login"]
    assert found["left out"] == "left out\n"
    assert "algo-4 has no ssh here: SSH_INSTANCE_COUNT is 2." in found["left out, without one"]
