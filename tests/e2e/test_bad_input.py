"""What goes wrong gets one line: what, why, the next command; and the documented exit code."""

import json
import os
import signal
import subprocess
from typing import Callable, Dict, Iterator, Mapping, Optional

import pytest
from local_cloud import LocalCloud

from e2e.laptop import Job, Laptop, launch, running, until


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice) as job:
        yield job


def refused(
    laptop: Laptop, host: str, error_id: str, status: int, env: Optional[Mapping[str, str]] = None
) -> str:
    """
    The one line that both roads print: plain ssh's proxy, and sm-ssh connect.

    The proxy ends with 255 whatever it was, and prints nothing on stdout.
    """
    lines: Dict[str, str] = {}
    for command in ("start-proxy", "connect"):
        done = laptop.sm_ssh(command, host, env=env)
        assert done.stdout == b""
        told = [line for line in done.stderr.decode().splitlines() if line.startswith("sm-ssh: error[")]
        assert len(told) == 1, done.stderr.decode()
        assert "Traceback" not in done.stderr.decode()
        lines[command] = told[0]
        assert told[0].startswith(f"sm-ssh: error[{error_id}]: "), told[0]
        assert done.returncode == (255 if command == "start-proxy" else status), told[0]
    return lines["connect"]


def test_a_misspelt_name_is_answered_with_the_right_one(alice: Laptop, job: Job) -> None:
    line = refused(alice, f"{job.name}x.training.sagemaker", "target-not-found", 3)
    assert job.host in line


@pytest.mark.parametrize("name", ["a;touch x", "$(id)", "a b", "../../etc", "-oProxyCommand=id", "a'b", "ä"])
def test_a_name_that_is_none_reaches_no_shell_and_no_call(alice: Laptop, name: str) -> None:
    done = alice.sm_ssh("start-proxy", "--", f"{name}.training.sagemaker")
    assert done.returncode == 255
    assert b"error[usage]" in done.stderr
    assert not (alice.home / "x").exists()


def test_a_job_that_ended_says_so(alice: Laptop) -> None:
    job = launch(alice, "raise SystemExit(3)", wait=0)
    job.wait_ended()
    line = refused(alice, job.host, "target-ended", 7)
    assert "Failed" in line


def test_a_job_without_ssh_says_how_to_get_it(alice: Laptop) -> None:
    job = launch(alice, "import time; time.sleep(600)", ssh=False)
    try:
        assert "enable_ssh" in refused(alice, job.host, "not-instrumented", 5)
    finally:
        job.stop()


def test_a_node_whose_agent_is_gone_is_offline(alice: Laptop) -> None:
    with running(alice) as job:
        # The container loses its agent; nothing restarts what was stopped from the inside for good.
        alice.ssh(job.host, "for pid in $(pgrep -f agent.daemon); do kill -STOP $pid; done")
        ssm = alice.client("ssm")
        instance_id = job.instances()[0]["InstanceId"]
        until(
            lambda: ssm.get_connection_status(Target=instance_id)["Status"] == "notconnected",
            "the agent to be missed",
            90,
        )
        refused(alice, job.host, "target-offline", 5)


def test_missing_credentials_are_named(alice: Laptop, job: Job) -> None:
    none = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    assert "credentials" in refused(alice, job.host, "credentials-missing", 4, none)


def test_wrong_credentials_are_named(alice: Laptop, job: Job) -> None:
    wrong = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE"}
    line = refused(alice, job.host, "credentials-invalid", 4, wrong)
    assert "AKIAIOSFODNN7EXAMPLE" not in line or "key" in line


def test_expired_credentials_are_named(alice: Laptop, job: Job) -> None:
    expired = {"AWS_SESSION_TOKEN": "expired"}
    refused(alice, job.host, "credentials-expired", 4, expired)


def test_an_unreachable_endpoint_is_named(alice: Laptop, job: Job) -> None:
    nowhere = {"AWS_ENDPOINT_URL": "http://localhost:9"}
    assert "localhost:9" in refused(alice, job.host, "endpoint-unreachable", 9, nowhere)


def test_someone_else_s_job_is_denied(job: Job, laptop: Callable[[str], Laptop]) -> None:
    line = refused(laptop("bob"), job.host, "access-denied", 4)
    assert "ssm:StartSession" in line


def test_a_denied_call_names_the_permission(alice: Laptop, job: Job, e2e_cloud: LocalCloud) -> None:
    with e2e_cloud.fault(action="ssm:DescribeInstanceInformation", user="alice", kind="deny"):
        assert "ssm:DescribeInstanceInformation" in refused(alice, job.host, "access-denied", 4)


def test_the_tier_is_explained(alice: Laptop, job: Job, e2e_cloud: LocalCloud) -> None:
    admin = e2e_cloud.client("ssm", user="admin")
    setting = (
        f"arn:aws:ssm:{alice.info['region']}:{alice.info['account_id']}"
        ":servicesetting/ssm/managed-instance/activation-tier"
    )
    admin.update_service_setting(SettingId=setting, SettingValue="standard")
    try:
        refused(alice, job.host, "advanced-tier-off", 5)
    finally:
        admin.update_service_setting(SettingId=setting, SettingValue="advanced")


def test_a_dying_sshd_is_told_and_comes_back(alice: Laptop) -> None:
    with running(alice) as job:
        status = json.loads(alice.ssh(job.host, "cat $SSH_STATE_DIR/status.json").stdout)
        done = alice.ssh(job.host, "kill -9 $(cat $SSH_STATE_DIR/sshd.pid)")
        assert status["sshd_port"]
        assert done.returncode in (0, 255)
        until(lambda: alice.ssh(job.host, "true").returncode == 0, "sshd to be restarted", 30)


def test_two_live_nodes_that_claim_one_name_are_an_error(
    alice: Laptop, job: Job, e2e_cloud: LocalCloud
) -> None:
    admin = e2e_cloud.client("ssm", user="admin")
    with running(alice) as other:
        other_id = other.instances()[0]["InstanceId"]
        tags = [{"Key": "SSHResourceName", "Value": job.name}]
        admin.add_tags_to_resource(ResourceType="ManagedInstance", ResourceId=other_id, Tags=tags)
        # The impostor's own name still says what it is; one without a usable name does not.
        done = alice.sm_ssh("connect", job.host, "printenv TRAINING_JOB_NAME")
        assert done.stdout.decode().strip() in ("", job.name)
        if done.returncode != 0:
            assert b"error[duplicate-node]" in done.stderr


def test_a_changed_host_key_is_refused(alice: Laptop, e2e_cloud: LocalCloud) -> None:
    admin = e2e_cloud.client("ssm", user="admin")
    with running(alice) as job:
        assert alice.ssh(job.host, "true").returncode == 0
        instance_id = job.instances()[0]["InstanceId"]
        key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGluc2VjdXJlLWtleS1mb3ItdGVzdHMtMDAwMDAwMDAw"
        admin.add_tags_to_resource(
            ResourceType="ManagedInstance",
            ResourceId=instance_id,
            Tags=[{"Key": "SSHHostKey", "Value": key}],
        )
        pins = alice.home / ".local" / "state" / "sm-ssh" / "pins.json"
        known = json.loads(pins.read_text())
        assert instance_id in json.dumps(known)
        # Forget that the tags were seen a moment ago, so that they are read again.
        done = alice.sm_ssh("start-proxy", "--fresh", job.host)
        assert b"error[host-key-changed]" in done.stderr


def test_an_impostor_without_the_launch_id_is_not_trusted(
    alice: Laptop, laptop: Callable[[str], Laptop], e2e_cloud: LocalCloud
) -> None:
    admin = e2e_cloud.client("ssm", user="admin")
    with running(alice) as job:
        instance_id = job.instances()[0]["InstanceId"]
        admin.add_tags_to_resource(
            ResourceType="ManagedInstance",
            ResourceId=instance_id,
            Tags=[{"Key": "SSHLaunchId", "Value": "0" * 32}],
        )
        refused(alice, job.host, "host-not-trusted", 5)


def test_ctrl_c_ends_the_proxy_and_its_session(alice: Laptop, job: Job) -> None:
    process = alice.popen(*_proxy(job), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(4) == b"SSH-"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=5)
    assert b"Traceback" not in told
    ssm = alice.client("ssm")
    until(lambda: not ssm.describe_sessions(State="Active")["Sessions"], "the session to be over", 5)


def _proxy(job: Job) -> "list[str]":
    import sys

    return [sys.executable, "-m", "sagemaker_ssh_helper", "start-proxy", job.host]


def test_no_proxy_of_these_tests_is_left(job: Job) -> None:
    found = subprocess.run(
        ["pgrep", "-u", str(os.getuid()), "-f", f"start-proxy.*{job.host}"], capture_output=True, check=False
    )
    assert found.stdout == b""
