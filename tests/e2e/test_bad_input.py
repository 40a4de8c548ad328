"""What goes wrong gets one line: what, why, the next command; and the documented exit code."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict, Iterator, Mapping, Optional

import pytest

from e2e.laptop import Job, Laptop, end, launch, running, until
from local_cloud import LocalCloud
from sagemaker_ssh_helper.agent.state import AgentConfig, StateDir


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
    # Nobody can connect any more, so the job does not wait any longer: it needs work to be still there.
    with running(alice, "import time; time.sleep(600)") as job:
        # Its own agent only: other jobs share this machine.
        killer = alice.popen(*alice.configure_ssh(), job.host, 'pkill -KILL -f "agent[.]node $SSH_STATE_DIR"')
        try:
            until(lambda: job.instances()[0]["PingStatus"] != "Online", "the agent to be missed", 60)
        finally:
            end(killer)
        assert job.instances()[0]["InstanceId"] in refused(alice, job.host, "target-offline", 5)


def test_missing_credentials_are_named(alice: Laptop, job: Job) -> None:
    none = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    assert "credentials" in refused(alice, job.host, "credentials-missing", 4, none)


def test_wrong_credentials_are_named(alice: Laptop, job: Job) -> None:
    wrong = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE"}
    line = refused(alice, job.host, "credentials-invalid", 4, wrong)
    assert "AKIAIOSFODNN7EXAMPLE" not in line or "key" in line


def test_expired_credentials_are_named(alice: Laptop, job: Job, e2e_cloud: LocalCloud) -> None:
    expired = {
        "action": "ssm:*",
        "user": "alice",
        "kind": "error",
        "code": "ExpiredTokenException",
        "message": "The security token included in the request is expired",
    }
    with e2e_cloud.fault(**expired):
        refused(alice, job.host, "credentials-expired", 4)


def test_an_unreachable_endpoint_is_named(alice: Laptop, job: Job) -> None:
    nowhere = {"AWS_ENDPOINT_URL": "http://localhost:9"}
    assert "localhost:9" in refused(alice, job.host, "endpoint-unreachable", 9, nowhere)


def test_someone_else_s_job_is_denied(job: Job, laptop: Callable[[str], Laptop]) -> None:
    line = refused(laptop("bob"), job.host, "not-owner", 5)
    assert "SSHOwner" in line


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
        # The node is found and trusted; ssh itself then tells that there is no session.
        refused(alice, job.host, "advanced-tier-off", 255)
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
    alice: Laptop, e2e_cloud: LocalCloud, tmp_path: Path
) -> None:
    with running(alice) as job:
        mine = job.instances()[0]
        other = second_node(e2e_cloud, job, tmp_path)
        try:
            until(lambda: len(job.instances()) == 2, "the other node to be registered")
            until(lambda: all(one["PingStatus"] == "Online" for one in job.instances()), "both to be online")
            ids = {one["InstanceId"] for one in job.instances()}
            line = refused(alice, job.host, "duplicate-node", 5)
            assert mine["InstanceId"] in ids
            assert all(instance_id in line for instance_id in ids)
        finally:
            end(other)


def second_node(cloud: LocalCloud, job: Job, folder: Path) -> "subprocess.Popen[bytes]":
    """Another agent that registers under the job's name, as an impostor with rights to do so could."""
    activation = cloud.client("ssm", user="admin").create_activation(
        IamRole=cloud.info["role_arn"].rpartition("/")[2],
        DefaultInstanceName=f"algo-1.{job.host}",
        Tags=[{"Key": "SSHResourceName", "Value": job.name}],
    )
    state = StateDir.open(str(folder / "impostor"), create=True)
    state.write_config(
        AgentConfig(
            region=cloud.info["region"],
            activation_id=activation["ActivationId"],
            activation_code=activation["ActivationCode"],
            instance_name=f"algo-1.{job.host}",
            sshd_port=9,
            log_path=str(folder / "impostor.log"),
            log_to_stdout=False,
            environ_path=state.environment,
            bin_path=state.bin,
        )
    )
    return subprocess.Popen(
        [sys.executable, "-m", "sagemaker_ssh_helper.agent.daemon", "--state", state.path],
        env={**os.environ, "AWS_ENDPOINT_URL": cloud.endpoint_url, "HOME": str(folder)},
    )


def test_a_changed_host_key_is_refused(alice: Laptop, e2e_cloud: LocalCloud) -> None:
    with running(alice) as job:
        assert alice.ssh(job.host, "true").returncode == 0
        instance_id = job.instances()[0]["InstanceId"]
        other_key = alice.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "other")
        assert other_key.returncode == 0
        tag = {"Key": "SSHHostKey", "Value": (alice.home / "other.pub").read_text().strip()}
        e2e_cloud.client("ssm", user="admin").add_tags_to_resource(
            ResourceType="ManagedInstance", ResourceId=instance_id, Tags=[tag]
        )
        forget_that_tags_were_read(alice, instance_id)
        assert instance_id in refused(alice, job.host, "host-key-changed", 5)


def test_a_container_with_another_key_than_it_told_is_refused_by_ssh(alice: Laptop) -> None:
    with running(alice) as job:
        # The tags were right; what answers on the port is somebody else's server.
        swap = (
            "cd $SSH_STATE_DIR && rm ssh_host_ed25519_key* && ssh-keygen -q -t ed25519 -N '' -f"
            " ssh_host_ed25519_key && kill $(cat sshd.pid)"
        )
        alice.ssh(job.host, swap)

        def told() -> str:
            done = alice.ssh(job.host, "true")
            return done.stderr.decode() if done.returncode == 255 else ""

        until(lambda: "Host key verification failed" in told(), "ssh to refuse the key")


def forget_that_tags_were_read(laptop: Laptop, instance_id: str) -> None:
    """Make the pin old enough for the tags to be compared again, as they are every few minutes."""
    pins = laptop.home / ".local" / "state" / "sm-ssh" / "pins.json"
    known = json.loads(pins.read_text())
    known[instance_id]["checked_at"] = 0
    pins.write_text(json.dumps(known))


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
    return [sys.executable, "-m", "sagemaker_ssh_helper", "start-proxy", job.host]


def test_no_proxy_of_these_tests_is_left(job: Job) -> None:
    found = subprocess.run(
        ["pgrep", "-u", str(os.getuid()), "-f", f"start-proxy.*{job.host}"], capture_output=True, check=False
    )
    assert found.stdout == b""
