"""Many nodes that start at once, where five activations a second are allowed; counted by the service."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from e2e.laptop import until
from e2e.many_instances import start_instances
from local_cloud import LocalCloud
from sagemaker_ssh_helper.agent import rsa
from sagemaker_ssh_helper.agent.state import State, StateDir

RATE = 5


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[LocalCloud]:
    with LocalCloud(tmp_path / "cloud") as running:
        yield running


def settings(cloud: LocalCloud) -> Dict[str, str]:
    keys = cloud.user("admin")
    return {
        "region": cloud.info["region"],
        "url": cloud.endpoint_url,
        "id": keys["access_key_id"],
        "secret": keys["secret_access_key"],
        "role": cloud.info["role_arn"].rpartition("/")[2],
    }


def registered(cloud: LocalCloud) -> int:
    pages = (
        cloud.client("ssm", "admin")
        .get_paginator("describe_instance_information")
        .paginate(PaginationConfig={"PageSize": 50})
    )
    return sum(len(page["InstanceInformationList"]) for page in pages)


@pytest.mark.parametrize(
    ("count", "processes"),
    [(25, 1), pytest.param(1000, 8, marks=[pytest.mark.soak, pytest.mark.timeout(600)])],
)
def test_all_instances_register_with_few_attempts(
    cloud: LocalCloud, tmp_path: Path, count: int, processes: int
) -> None:
    key = rsa.generate(["cryptography"]).serialize()
    given = settings(cloud)
    context = multiprocessing.get_context("spawn" if processes > 1 else "fork")
    with cloud.fault(kind="throttle", action="ssm:CreateActivation", rate=RATE):
        began_at = time.monotonic()
        if processes == 1:
            start_instances(given, list(range(count)), str(tmp_path), key)
        else:
            children = [
                context.Process(
                    target=start_instances,
                    args=(given, list(range(first, count, processes)), str(tmp_path), key),
                )
                for first in range(processes)
            ]
            for child in children:
                child.start()
            for child in children:
                child.join()
        took = time.monotonic() - began_at

    attempts = cloud.count("ssm:CreateActivation") / count
    print(
        f"\n{count} instances: {took:.1f} s, {took / (count / RATE):.2f} x N/5, {attempts:.2f} attempts each"
    )
    assert registered(cloud) == count
    assert attempts < 3


SCRIPT = "from sagemaker_ssh_helper import setup_and_start_ssh; setup_and_start_ssh(); input()"


def online(folder: Path) -> int:
    states = [StateDir.open(str(path)).read_status() for path in folder.glob("node-*")]
    return sum(found is not None and found.state is State.ONLINE for found in states)


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=[pytest.mark.soak])])
def test_real_nodes_register_with_few_attempts(cloud: LocalCloud, tmp_path: Path, count: int) -> None:
    given = settings(cloud)
    rate = RATE if count > RATE else 1
    jobs = []
    with cloud.fault(kind="throttle", action="ssm:CreateActivation", rate=rate):
        # 25 agents that start at once have been seen to be throttled here, too.
        cloud.faults(kind="throttle", action="ssm:UpdateInstanceInformation", rate=rate)
        began_at = time.monotonic()
        for rank in range(count):
            base = tmp_path / f"ml-{rank}"
            (base / "input" / "config").mkdir(parents=True)
            hosts = {"current_host": f"algo-{rank + 1}", "hosts": [f"algo-{n + 1}" for n in range(count)]}
            (base / "input" / "config" / "resourceconfig.json").write_text(json.dumps(hosts))
            environment = {
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "START_SSH": "true",
                "SSH_SSM_ROLE": given["role"],
                "SSH_INSTANCE_COUNT": "all",
                "SSH_STATE_DIR": str(tmp_path / f"node-{rank}"),
                "SAGEMAKER_BASE_DIR": str(base),
                "TRAINING_JOB_NAME": "many",
                "AWS_REGION": given["region"],
                "AWS_ENDPOINT_URL": given["url"],
                "AWS_ACCESS_KEY_ID": given["id"],
                "AWS_SECRET_ACCESS_KEY": given["secret"],
            }
            jobs.append(
                subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, stdin=subprocess.PIPE)
            )
        try:
            until(lambda: registered(cloud) == count, "all to be registered", 100)
            took = time.monotonic() - began_at
            until(lambda: online(tmp_path) == count, "all to be online", 100)
        finally:
            end(tmp_path, jobs)

    attempts = cloud.count("ssm:CreateActivation") / count
    print(
        f"\n{count} processes: {took:.1f} s, {took / (count / rate):.2f} x N/{rate}, {attempts:.2f} attempts"
    )
    nodes: Counter[Any] = Counter(
        found["Name"].partition(".")[0]
        for found in cloud.client("ssm", "admin").describe_instance_information(MaxResults=50)[
            "InstanceInformationList"
        ]
    )
    assert nodes == {f"algo-{rank + 1}": 1 for rank in range(count)}
    if rate == RATE:
        # The line is made for this rate.
        assert attempts < 3


def end(folder: Path, jobs: "List[subprocess.Popen[bytes]]") -> None:
    """The jobs, and the agents that they left."""
    for job in jobs:
        job.kill()
        job.wait()
        assert job.stdin is not None
        job.stdin.close()
    for name in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes()
            if name.isdigit() and os.fsencode(folder / "node-") in words:
                os.kill(int(name), 9)
        except (OSError, NotADirectoryError):
            continue
