"""The real SageMaker Python SDK 2, which needs an environment of its own: see the Makefile."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
from pathlib import Path
from typing import Callable

import pytest

from e2e import sdk_programs
from e2e.laptop import Job, Laptop, until

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(sdk_programs.TIMEOUT)]


def test_an_estimator_of_the_sdk_is_reached_by_ssh(laptop: Callable[[str], Laptop], tmp_path: Path) -> None:
    alice = laptop("alice")
    process = alice.popen(
        *sdk_programs.command(2, alice, "sdk_v2_job.py", alice.info["role_arn"], str(tmp_path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        said = []
        for line in process.stdout:
            said.append(line.decode())
            if line.startswith(b'{"name"'):
                break
        if not said[-1:] or not said[-1].startswith('{"name"'):
            raise AssertionError((said, process.communicate()[1].decode()))
        told = json.loads(said[-1])
        job = Job(alice, told["name"])
        assert f"ssh {job.host}" in "".join(said)
        assert told["ids"] == told["attached"] == [job.wait_online()]
        # Another process of the same user: only the key on disk and AWS are shared.
        assert alice.ssh(job.host, "printenv TRAINING_JOB_NAME").stdout.decode().strip() == job.name
        assert alice.ssh(job.host, "sm-wait stop").returncode == 0
        until(lambda: "training for 3 epochs with ['data.csv']" in job.log(), "the script to go on")
        process.stdin.write(b"stop\n")
        process.stdin.close()
        rest = process.stdout.read().decode().splitlines()
        errors = process.stderr.read().decode() if process.stderr is not None else ""
        assert process.wait(timeout=60) == 0, errors
        assert rest[0] == "Stopped"
        assert rest[1].startswith("LaunchRefused the estimator has already started")
    finally:
        process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        process.wait()


# The SDK and boto3 look every half a minute, or less often.
@pytest.mark.timeout(800)
@pytest.mark.matrix
@pytest.mark.parametrize("framework", ["pytorch", "sklearn", "tensorflow", "huggingface", "mxnet"])
def test_every_estimator_is_reached_by_ssh_and_shows_its_log(
    laptop: Callable[[str], Laptop], tmp_path: Path, framework: str
) -> None:
    alice = laptop("alice")
    job = Job(alice, f"{framework}-{secrets.token_hex(4)}")
    command = sdk_programs.command(
        2, alice, "sdk_v2_estimators.py", framework, job.name, alice.info["role_arn"], str(tmp_path)
    )
    with (tmp_path / "output").open("w+b") as output:
        process = alice.popen(*command, stdout=output, stderr=subprocess.STDOUT)
        try:
            until(lambda: process.poll() is not None or job.instances(), "the program to start the job", 240)
            assert process.poll() is None, (tmp_path / "output").read_text()
            job.wait_online()
            done = alice.ssh(job.host, "printenv TRAINING_JOB_NAME && sm-wait stop")
            assert done.stdout.decode().splitlines()[0] == job.name, done.stderr.decode()
            assert process.wait(timeout=240) == 0, (tmp_path / "output").read_text()
        finally:
            process.kill()
            process.wait()
    said = (tmp_path / "output").read_text()
    # The SDK colours what it streams, and prefixes lines by their node.
    assert "training for 3 epochs in /opt/ml/model" in said
    assert "Training - Training image download completed. Training in progress." in said
    assert said.splitlines()[-1] == "status Completed"


TRAIN = """
import os
import sagemaker_ssh_helper
sagemaker_ssh_helper.setup_and_start_ssh()
print("training as", os.environ["TRAINING_JOB_NAME"], flush=True)
"""


@pytest.mark.matrix
def test_a_job_in_local_mode_is_reached_by_ssh(laptop: Callable[[str], Laptop], tmp_path: Path) -> None:
    # In local mode a container has the keys of its user, who must be allowed to register it.
    admin = laptop("admin")
    job = Job(admin, f"local-{secrets.token_hex(4)}")
    programs = tmp_path / "bin"
    programs.mkdir()
    here = Path(__file__).parent
    python = sdk_programs.PYTHON[2]
    for name, text in (("docker", (here / "local_docker.py").read_text()), ("train", TRAIN)):
        (programs / name).write_text(f"#!{python}\n{text}")
        (programs / name).chmod(0o755)
    command = sdk_programs.command(
        2, admin, "sdk_v2_local.py", job.name, admin.info["role_arn"], str(tmp_path)
    )
    admin.env["PATH"] = f"{programs}:{admin.env['PATH']}"

    def online() -> bool:
        return any(found["PingStatus"] == "Online" for found in job.instances())

    with (tmp_path / "output").open("w+b") as output:
        process = admin.popen(*command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            until(lambda: process.poll() is not None or online(), "the container to register", 120)
            assert process.poll() is None, (tmp_path / "output").read_text()
            ask = "printenv TRAINING_JOB_NAME; sm-wait stop"
            # No description of AWS tells this job from an impostor.
            refused = admin.sm_ssh("connect", job.host, ask)
            assert b"error[host-not-trusted]" in refused.stderr
            done = admin.sm_ssh("connect", "--trust-first-use", job.host, ask)
            assert done.stdout.decode().splitlines()[0] == job.name, done.stderr.decode()
            assert process.wait(timeout=120) == 0, (tmp_path / "output").read_text()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = (tmp_path / "output").read_text()
    assert f"training as {job.name}" in said
    assert said.splitlines()[-1] == f"ended {job.name}"
