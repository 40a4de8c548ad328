"""A job that was launched with ssh, and the AWS that it finds."""

import os
import signal
import subprocess

import pytest

from agent.fake_aws import FakeAws
from agent.job_script import SECRET, SOURCE, Job, processes_of
from sagemaker_ssh_helper.agent import sshd


@pytest.fixture(autouse=True)
def _any_port(monkeypatch):
    """Servers in this process leave port 22 alone: others on this machine take it as soon as it is free."""
    monkeypatch.setattr(sshd, "SSH_PORT", 0)


@pytest.fixture
def aws():
    with FakeAws() as fake:
        yield fake


@pytest.fixture
def environment(tmp_path, aws):
    """The variables of a job that was launched with ssh."""
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(SOURCE),
        "SSH_STATE_DIR": str(tmp_path / "node"),
        "START_SSH": "true",
        "SSH_SSM_ROLE": "service-role/MyRole",
        "SSH_OWNER_TAG": "AIDAEXAMPLE:jane@example.com",
        "SSH_WAIT_TIME_SECONDS": "0",
        "SSH_INSTANCE_COUNT": "2",
        "SSH_PUBLIC_KEY": key.with_suffix(".pub").read_text().strip(),
        "SSH_LAUNCH_ID": "0123456789abcdef" * 2,
        "TRAINING_JOB_NAME": "my-job",
        "TRAINING_JOB_ARN": "arn:aws:sagemaker:eu-west-1:111122223333:training-job/my-job",
        "SAGEMAKER_BASE_DIR": str(tmp_path / "ml"),
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": aws.url,
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "NO_PROXY": "*",
        "PASSWORD": SECRET,
    }


@pytest.fixture
def start(tmp_path, environment):
    """Start a job; every process it leaves behind is ended."""
    jobs = []

    def start(*prefix, **changes):
        job = Job(tmp_path, {**environment, **changes}, prefix)
        jobs.append(job)
        return job

    yield start
    for job in jobs:
        job.process.kill()
        job.process.wait()
        for stream in (job.process.stdin, job.process.stdout, job.process.stderr):
            stream.close()
    for pid in processes_of(environment["SSH_STATE_DIR"]):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            # It ended by itself since it was listed.
            pass
