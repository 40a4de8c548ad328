"""A training job that nobody prepared: remote debugging turned on while it runs, a shell in it, and ssh."""

import os
from collections.abc import Callable, Iterator

import pytest

from e2e.laptop import Job, Laptop, launch, until

HOLD = "import time; print('begun', flush=True); time.sleep(600)"


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    """One that was launched without ssh, with remote debugging turned on by now."""
    job = launch(alice, HOLD, ssh=False)
    done = alice.sm_ssh("connect", "--no-wait", job.host)
    assert done.returncode == 5
    assert f"sm-ssh enable {job.name}" in done.stderr.decode()
    done = alice.sm_ssh("enable", job.host)
    assert done.returncode == 0, done.stderr.decode()
    yield job
    job.stop()


def test_a_shell_by_the_job_s_name(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("session", job.name, stdin=b"echo $TRAINING_JOB_NAME $((6 * 7))\nexit\n")
    assert done.returncode == 0, done.stderr.decode()
    assert f"{job.name} 42\r\n".encode() in done.stdout


def test_a_shell_by_the_target_of_systems_manager(alice: Laptop, job: Job) -> None:
    target = f"sagemaker-training-job:{job.name}_algo-1"
    done = alice.sm_ssh("session", target, stdin=b"echo $((6 * 7))\nexit\n")
    assert done.returncode == 0, done.stderr.decode()
    assert b"42\r\n" in done.stdout


def test_ssh_by_a_relay_that_is_brought_once(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("exec", job.host, "--", "sh", "-c", "cat; echo err >&2; exit 7", stdin=b"in")
    assert (done.returncode, done.stdout) == (7, b"in"), done.stderr.decode()
    assert b"bringing a relay for ssh" in done.stderr
    assert done.stderr.endswith(b"err\n")

    again = alice.sm_ssh("exec", job.host, "--", "echo $TRAINING_JOB_NAME")
    assert (again.returncode, again.stdout) == (0, job.name.encode() + b"\n"), again.stderr.decode()
    assert again.stderr == b""


def test_plain_ssh_and_the_key_it_checks(alice: Laptop, job: Job) -> None:
    done = alice.ssh(job.host, "echo $((6 * 7))")
    assert (done.returncode, done.stdout) == (0, b"42\n"), done.stderr.decode()
    known = alice.sm_ssh("known-hosts", job.host).stdout.decode()
    assert known.startswith(f"{job.host} ssh-ed25519 ")
    assert known.endswith(f" sagemaker-training-job:{job.name}_algo-1\n")


def test_every_byte_is_carried_both_ways(alice: Laptop, job: Job) -> None:
    content = bytes(range(256)) * 40 + os.urandom(1 << 20)
    done = alice.sm_ssh("exec", job.host, "--", "cat", stdin=content)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == content


def test_plugin_cannot_carry_it(alice: Laptop, job: Job) -> None:
    plugin = alice.home / "bin" / "session-manager-plugin"
    plugin.parent.mkdir(exist_ok=True)
    plugin.write_text("#!/bin/sh\nexit 1\n")
    plugin.chmod(0o700)
    path = f"{plugin.parent}{os.pathsep}{alice.env['PATH']}"
    done = alice.sm_ssh("exec", "--via", "plugin", job.host, "--", "true", env={"PATH": path})
    assert done.returncode == 255
    assert b"--via plugin carries no ssh to a target of SageMaker's own" in done.stderr


def test_status_and_doctor_know_it(alice: Laptop, job: Job) -> None:
    status = alice.sm_ssh("status", job.host)
    assert status.returncode == 0
    assert b"reachable  yes" in status.stdout
    doctor = alice.sm_ssh("doctor", job.host)
    assert b"SageMaker's own agent serves it" in doctor.stdout
    assert b"a shell was granted, and ended" in doctor.stdout


def test_logs_are_the_job_s_own(alice: Laptop, job: Job) -> None:
    until(lambda: "begun" in job.log(), "the job's line")
    # The agent of the service writes some, too.
    until(lambda: "= online" in job.log(), "the agent's lines")
    done = alice.sm_ssh("logs", job.host)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [b"begun"]


def test_disable_ends_it(alice: Laptop) -> None:
    job = launch(alice, HOLD, ssh=False)
    assert alice.sm_ssh("enable", job.host).returncode == 0
    assert alice.sm_ssh("disable", job.host).returncode == 0
    done = alice.sm_ssh("session", job.host, stdin=b"exit\n")
    assert done.returncode == 255
    assert b"error[not-instrumented]" in done.stderr
    job.stop()
