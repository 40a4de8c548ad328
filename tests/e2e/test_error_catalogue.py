"""
Every error of the catalogue, provoked through the wire on the local cloud.

What goes wrong gets one line: what, why, the next command; and the documented exit code. No two causes get
the same line, and standard output stays empty.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Set, Tuple, TypeVar

import pytest

from aws_stub import Refusal, aws_stub
from e2e.laptop import SM_SSH, Job, Laptop, end, launch, running, until
from local_cloud import LocalCloud
from sagemaker_ssh_helper.agent.state import AgentConfig, StateDir
from sagemaker_ssh_helper.cli.catalogue import CATALOGUE

SLEEP = "import time; time.sleep(600)"

NOT_HERE = {
    "launch-refused": "enable_ssh raises it: tests/test_launch.py",
    "node-not-found": "SSHEnvironmentWrapper.get_instance_id raises it: tests/test_wrapper.py",
    "not-launched": "the wrappers raise it: tests/test_wrapper.py",
    "handshake-failed": "a peer of the protocol has to fail: tests/client and tests/channels",
    "malformed-message": "the same",
    "protocol": "the same",
    "aws": "the root of a family; its members are told",
    "user": "the same",
    "internal": "a mistake of ours: tests/cli/test_main.py",
}

_Test = TypeVar("_Test", bound=Callable[..., None])
_provoked: Set[str] = set()
_told: Dict[str, str] = {}


def provokes(*ids: str) -> Callable[[_Test], _Test]:
    """Marks the scenario of these ids."""
    _provoked.update(ids)
    return lambda test: test


def test_every_id_has_a_scenario() -> None:
    assert _provoked == set(CATALOGUE) - set(NOT_HERE)


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice) as job:
        yield job


def the_line(done: "subprocess.CompletedProcess[bytes]", error_id: str, status: int) -> str:
    """The one line of an error: with this id and status, nothing on stdout, and no other scenario had it."""
    told = done.stderr.decode()
    assert done.stdout == b""
    assert "Traceback" not in told
    lines = [line for line in told.splitlines() if line.startswith("sm-ssh: error[")]
    assert len(lines) == 1, told
    assert lines[0].startswith(f"sm-ssh: error[{error_id}]: "), lines[0]
    assert done.returncode == status, lines[0]
    scenario = os.environ["PYTEST_CURRENT_TEST"].partition(" ")[0]
    assert _told.setdefault(_without_names(lines[0]), scenario) == scenario, lines[0]
    return lines[0]


def _without_names(line: str) -> str:
    """The words alone: not whose, not which, not when."""
    line = re.sub(r"error\[[a-z-]+\]: ", "", line)
    return re.sub(r"\bmi-[0-9a-f]+|\bjob-[0-9a-f]+|\S*\d\S*", "*", line)


def refused(
    laptop: Laptop,
    host: str,
    error_id: str,
    status: int,
    *words: str,
    env: Optional[Mapping[str, str]] = None,
    connect: Tuple[str, ...] = ("--no-wait",),
) -> str:
    """
    The line that both roads print: plain ssh's proxy, and sm-ssh connect.

    The proxy ends with 255 whatever it was, and prints nothing on stdout.
    """
    the_line(laptop.sm_ssh("start-proxy", "--no-wait", *words, host, env=env), error_id, 255)
    return the_line(laptop.sm_ssh("connect", *words, *connect, host, env=env), error_id, status)


@provokes("target-not-found")
def test_a_misspelt_name_is_answered_with_the_right_one(alice: Laptop, job: Job) -> None:
    line = refused(alice, f"{job.name}x.training.sagemaker", "target-not-found", 3)
    assert job.host in line


@provokes("usage")
@pytest.mark.parametrize("name", ["a;touch x", "$(id)", "a b", "../../etc", "-oProxyCommand=id", "a'b", "ä"])
def test_a_name_that_is_none_reaches_no_shell_and_no_call(alice: Laptop, name: str) -> None:
    done = alice.sm_ssh("start-proxy", "--", f"{name}.training.sagemaker")
    assert done.returncode == 255
    assert b"error[usage]" in done.stderr
    assert not (alice.home / "x").exists()


@provokes("target-ended")
@pytest.mark.parametrize(
    ("script", "ending"), [("raise SystemExit(3)", "Failed"), ("print('trained')", "Completed")]
)
def test_a_job_that_ended_says_how(alice: Laptop, script: str, ending: str) -> None:
    job = launch(alice, script, wait=0)
    job.wait_ended()
    assert f"has ended: {ending}" in refused(alice, job.host, "target-ended", 7)


@provokes("wrong-region")
def test_a_job_of_another_region_is_found_there(alice: Laptop, job: Job) -> None:
    with aws_stub() as nothing, by_region({"eu-west-3": nothing.url}, alice.info["endpoint_url"]) as url:
        nothing.answers.update(
            DescribeInstanceInformation={"InstanceInformationList": []},
            DescribeTrainingJob=Refusal("ValidationException", "Requested resource not found."),
            ListTrainingJobs={"TrainingJobSummaries": []},
        )
        here = {"AWS_ENDPOINT_URL": url, "AWS_REGION": "eu-west-3"}
        line = refused(alice, job.host, "wrong-region", 3, env=here)
    assert f"--region {alice.info['region']} {job.host}" in line


@contextmanager
def by_region(apart: Mapping[str, str], other: str) -> Iterator[str]:
    """One address for several clouds, as AWS has: a connection goes where the first call's signature says."""

    def address(url: str) -> Tuple[str, int]:
        host, _, port = url.partition("//")[2].partition(":")
        return host, int(port)

    def carry(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve(near: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += near.recv(65536)
        found = re.search(rb"Credential=[^/]+/\d+/([a-z0-9-]+)/", head)
        region = found[1].decode() if found else ""
        with near, socket.create_connection(address(apart.get(region, other))) as far:
            far.sendall(head)
            back = threading.Thread(target=carry, args=(far, near))
            back.start()
            carry(near, far)
            back.join()

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(near,)))
            threads[-1].start()

    threads: List[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield f"http://localhost:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    accepting.join()
    for thread in threads:
        thread.join()


@provokes("not-instrumented")
def test_a_job_without_ssh_says_how_to_get_it(alice: Laptop) -> None:
    with launched(alice, ssh=False) as job:
        assert "enable_ssh" in refused(alice, job.host, "not-instrumented", 5)


@contextmanager
def launched(laptop: Laptop, script: str = SLEEP, **options: Any) -> Iterator[Job]:
    """A job that was started, whatever becomes of it."""
    job = launch(laptop, script, **options)
    try:
        until(lambda: job.describe()["SecondaryStatus"] == "Training", "the job to run")
        yield job
    finally:
        if job.describe()["TrainingJobStatus"] == "InProgress":
            job.stop()


@provokes("network-isolated")
def test_a_job_in_network_isolation_cannot_be_reached(alice: Laptop) -> None:
    with launched(alice, ssh=False, EnableNetworkIsolation=True) as job:
        assert "EnableNetworkIsolation" in refused(alice, job.host, "network-isolated", 5)


@provokes("target-starting")
def test_a_container_that_never_registered_is_told(alice: Laptop) -> None:
    # Launched with ssh by its environment; its program never starts it.
    with launched(alice, ssh=False, Environment={"START_SSH": "true"}) as job:
        assert "/aws/sagemaker/TrainingJobs" in refused(alice, job.host, "target-starting", 5)


def unregistered(laptop: Laptop, error_id: str, status: int, seconds: int = 60) -> str:
    """The line for a job whose helper gave up registering within ``seconds``, and wrote why."""
    lasting = f"import time; time.sleep({seconds + 600})"
    with launched(laptop, lasting, wait=0, StoppingCondition={"MaxRuntimeInSeconds": seconds + 600}) as job:
        until(lambda: "no ssh in this container" in job.log(), "the helper to give up", seconds)
        line = refused(laptop, job.host, error_id, status)
    assert job.name in line
    return line


@provokes("registration-limit")
def test_an_account_with_too_many_instances_is_told(alice: Laptop, e2e_cloud: LocalCloud) -> None:
    with e2e_cloud.fault(kind="registration-limit", limit=0):
        line = unregistered(alice, "registration-limit", 5)
    assert "RegistrationLimitExceeded" in line
    assert "Registration limit of 0 reached for SSM On-prem managed instances." in line
    assert "sm-ssh deregister" in line


@provokes("registration-throttled")
@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_container_that_was_throttled_is_told(alice: Laptop, e2e_cloud: LocalCloud) -> None:
    # It stands in line for some minutes.
    with e2e_cloud.fault(kind="throttle", action="ssm:CreateActivation"):
        assert "Rate exceeded" in unregistered(alice, "registration-throttled", 8, 1000)


@provokes("role-not-trusted")
def test_a_role_that_systems_manager_may_not_assume_is_named(alice: Laptop, e2e_cloud: LocalCloud) -> None:
    iam = e2e_cloud.client("iam", user="admin")
    role = alice.info["role_arn"].rpartition("/")[2]
    before = iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]
    jobs_only = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sagemaker.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ],
    }
    iam.update_assume_role_policy(RoleName=role, PolicyDocument=json.dumps(jobs_only))
    try:
        line = unregistered(alice, "role-not-trusted", 5)
    finally:
        iam.update_assume_role_policy(RoleName=role, PolicyDocument=json.dumps(before))
    assert "missing ssm service principal in trust policy" in line


@provokes("registration-failed")
def test_a_role_that_may_not_register_is_named(alice: Laptop, e2e_cloud: LocalCloud) -> None:
    with e2e_cloud.fault(kind="deny", action="ssm:CreateActivation"):
        assert "ssm:CreateActivation" in unregistered(alice, "registration-failed", 5)


@provokes("target-not-connected", "instance-not-valid", "target-offline")
def test_a_node_whose_agent_is_gone_is_told_by_each_call(
    alice: Laptop, laptop: Callable[[str], Laptop], e2e_cloud: LocalCloud
) -> None:
    ssm = alice.client("ssm")
    # Nobody can connect any more, so the job does not wait any longer: it needs work to be still there.
    with running(alice, SLEEP) as job:
        instance_id = job.instances()[0]["InstanceId"]
        with e2e_cloud.fault(kind="ping-status", grace=600):
            # Its own agent only: other jobs share this machine.
            killer = alice.popen(
                *alice.configure_ssh(), job.host, 'pkill -KILL -f "agent[.]keeper $SSH_STATE_DIR"'
            )
            try:
                until(
                    lambda: ssm.get_connection_status(Target=instance_id)["Status"] != "connected",
                    "the agent to be gone",
                )
            finally:
                end(killer)
            # Its last ping is fresh, and AWS still calls it Online.
            line = the_line(alice.sm_ssh("start-proxy", "--no-wait", job.host), "target-not-connected", 255)
            assert f"{instance_id} is not connected." in line
        until(lambda: job.instances()[0]["PingStatus"] != "Online", "the agent to be missed", 60)
        assert instance_id in refused(alice, job.host, "target-offline", 5)
        # Looked up a moment ago, and the key is to be delivered.
        again = laptop("alice")
        done = again.sm_ssh("start-proxy", "--instance-id", instance_id, job.host)
        line = the_line(done, "instance-not-valid", 255)
        assert f"Instances [[{instance_id}]] not in a valid state for account" in line


@provokes("credentials-missing")
def test_missing_credentials_are_named(alice: Laptop, job: Job) -> None:
    none = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    assert "aws configure" in refused(alice, job.host, "credentials-missing", 4, env=none)


@provokes("credentials-invalid")
def test_wrong_credentials_are_named(alice: Laptop, job: Job) -> None:
    wrong = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE"}
    line = refused(alice, job.host, "credentials-invalid", 4, env=wrong)
    assert "AKIAIOSFODNN7EXAMPLE" not in line or "key" in line


@provokes("credentials-expired")
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


@provokes("endpoint-unreachable")
def test_an_unreachable_endpoint_is_named(alice: Laptop, job: Job) -> None:
    nowhere = {"AWS_ENDPOINT_URL": "http://localhost:9"}
    assert "localhost:9" in refused(alice, job.host, "endpoint-unreachable", 9, env=nowhere)


@provokes("not-owner")
def test_someone_else_s_job_is_denied(job: Job, laptop: Callable[[str], Laptop]) -> None:
    line = refused(laptop("bob"), job.host, "not-owner", 5)
    assert "SSHOwner" in line


@provokes("access-denied")
def test_a_denied_call_names_the_permission(alice: Laptop, job: Job, e2e_cloud: LocalCloud) -> None:
    with e2e_cloud.fault(action="ssm:DescribeInstanceInformation", user="alice", kind="deny"):
        assert "ssm:DescribeInstanceInformation" in refused(alice, job.host, "access-denied", 4)


@provokes("advanced-tier-off")
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
        until(lambda: alice.ssh(job.host, "true").returncode == 0, "sshd to be restarted", 90)


@provokes("duplicate-node")
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


@provokes("host-key-changed")
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


@provokes("host-not-trusted")
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
    _, told = process.communicate(timeout=30)
    assert b"Traceback" not in told
    ssm = alice.client("ssm")
    until(lambda: not ssm.describe_sessions(State="Active")["Sessions"], "the session to be over")


def _proxy(job: Job) -> "list[str]":
    return [*SM_SSH, "start-proxy", job.host]


def test_no_proxy_of_these_tests_is_left(job: Job) -> None:
    found = subprocess.run(
        ["pgrep", "-u", str(os.getuid()), "-f", f"start-proxy.*{job.host}"], capture_output=True, check=False
    )
    assert found.stdout == b""


@provokes("throttled")
def test_throttling_is_told_after_several_tries(alice: Laptop, job: Job, e2e_cloud: LocalCloud) -> None:
    with e2e_cloud.fault(kind="throttle", action="ssm:DescribeInstanceInformation", user="alice"):
        done = alice.sm_ssh("connect", job.host)
    assert "Rate exceeded" in the_line(done, "throttled", 8)


@provokes("aws-error")
def test_an_error_that_only_aws_knows_is_quoted(alice: Laptop, job: Job, e2e_cloud: LocalCloud) -> None:
    new = {"code": "SomethingNewException", "message": "This is new.", "status": 400}
    with e2e_cloud.fault(kind="error", action="ssm:DescribeInstanceInformation", user="alice", **new):
        line = refused(alice, job.host, "aws-error", 1)
    assert "SomethingNewException" in line
    assert "This is new." in line


@provokes("clock-skewed")
def test_a_wrong_clock_is_told(alice: Laptop, job: Job, e2e_cloud: LocalCloud) -> None:
    skewed = {
        "code": "InvalidSignatureException",
        "message": "Signature expired: 20261123T010000Z is now earlier than 20261123T013000Z",
        "status": 400,
    }
    with e2e_cloud.fault(kind="error", action="ssm:*", user="alice", **skewed):
        assert "Set the clock" in refused(alice, job.host, "clock-skewed", 9)


@provokes("region-missing")
def test_a_missing_region_is_told(alice: Laptop, job: Job) -> None:
    nowhere = {"AWS_REGION": "", "AWS_DEFAULT_REGION": ""}
    assert "--region" in refused(alice, job.host, "region-missing", 9, env=nowhere)


@provokes("ambiguous-target")
def test_a_beginning_of_two_names_chooses_none(alice: Laptop, job: Job) -> None:
    with launched(alice, ssh=False, name=f"{job.name}-too") as other:
        done = alice.sm_ssh("connect", job.name[:-1])
    line = the_line(done, "ambiguous-target", 2)
    assert job.host in line
    assert other.host in line


@provokes("wrong-user")
def test_a_login_name_that_is_not_admitted_is_told(alice: Laptop, job: Job, e2e_cloud: LocalCloud) -> None:
    with tagged(e2e_cloud, alice, job, SSHUser="ubuntu"):
        done = alice.sm_ssh("start-proxy", "--fresh", "--user", "root", job.host)
        assert "'ubuntu' only" in the_line(done, "wrong-user", 255)
        done = alice.sm_ssh("connect", "--fresh", "-l", "root", job.host)
        assert "Use ubuntu@" in the_line(done, "wrong-user", 5)


@contextmanager
def tagged(cloud: LocalCloud, laptop: Laptop, job: Job, **tags: str) -> Iterator[None]:
    """Other values of tags that the job's instance has; what was learnt of them is forgotten afterwards."""
    ssm = cloud.client("ssm", user="admin")
    about = {"ResourceType": "ManagedInstance", "ResourceId": job.instances()[0]["InstanceId"]}
    before = ssm.list_tags_for_resource(**about)["TagList"]
    ssm.add_tags_to_resource(**about, Tags=[{"Key": name, "Value": value} for name, value in tags.items()])
    try:
        yield
    finally:
        ssm.add_tags_to_resource(**about, Tags=before)
        (laptop.home / ".local" / "state" / "sm-ssh" / "pins.json").unlink(missing_ok=True)


@provokes("ssh-server-down")
def test_an_ssh_server_that_does_not_answer_is_told(alice: Laptop, job: Job, e2e_cloud: LocalCloud) -> None:
    with tagged(e2e_cloud, alice, job, SSHPort="1"):
        done = alice.sm_ssh("start-proxy", "--fresh", job.host)
        assert "port 1" in the_line(done, "ssh-server-down", 255)
        # What ssh itself says would fit every failure.
        said = alice.ssh(job.host, "true")
        assert said.returncode == 255
        assert b"error[ssh-server-down]" in said.stderr


@provokes("key-not-delivered")
def test_a_container_that_takes_no_key_is_told(alice: Laptop, laptop: Callable[[str], Laptop]) -> None:
    with running(alice, SLEEP) as job:
        broken = "printf '#!/bin/sh\\necho no room >&2; exit 3\\n' > $SSH_STATE_DIR/bin/sm-setup-ssh"
        assert alice.ssh(job.host, broken).returncode == 0
        other = laptop("alice")
        line = refused(other, job.host, "key-not-delivered", 5)
    assert "no room" in line


@provokes("session-lost")
def test_a_session_that_an_administrator_ends_is_told(alice: Laptop, job: Job, e2e_cloud: LocalCloud) -> None:
    admin = e2e_cloud.client("ssm", user="admin")
    process = alice.popen(*_proxy(job), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(4) == b"SSH-"
    for session in admin.describe_sessions(State="Active")["Sessions"]:
        admin.terminate_session(SessionId=session["SessionId"])
    assert process.stderr is not None
    told = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 255
    the_line(subprocess.CompletedProcess([], 255, b"", told), "session-lost", 255)


@provokes("connection-failed")
def test_a_gateway_that_takes_no_session_is_told(alice: Laptop, job: Job, e2e_cloud: LocalCloud) -> None:
    refuse = {"code": "AccessDeniedException", "message": "no", "status": 403}
    with e2e_cloud.fault(kind="error", action="ssmmessages:OpenDataChannel", **refuse):
        done = alice.sm_ssh("start-proxy", job.host)
    the_line(done, "connection-failed", 255)


@provokes("wait-timeout")
def test_a_wait_that_takes_too_long_is_told(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("wait", job.host, "--for", "ended", "--timeout", "1s")
    the_line(done, "wait-timeout", 6)


@provokes("ssh-missing")
def test_a_machine_without_ssh_is_told(alice: Laptop, job: Job, tmp_path: Path) -> None:
    done = alice.sm_ssh("connect", job.host, env={"PATH": str(tmp_path)})
    assert "OpenSSH" in the_line(done, "ssh-missing", 9)


@provokes("local-setup")
def test_a_home_that_cannot_be_written_is_told(alice: Laptop, job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = {name: str(tmp_path / "file") for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME")}
    assert str(tmp_path) in refused(alice, job.host, "local-setup", 9, env=env)


@provokes("config-broken")
def test_a_broken_block_is_told_and_nothing_is_written(alice: Laptop, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("# >>> sm-ssh >>>\nHost mine\n")
    done = alice.sm_ssh("config-ssh", "--ssh-config-file", str(config))
    assert str(config) in the_line(done, "config-broken", 9)
    assert config.read_text() == "# >>> sm-ssh >>>\nHost mine\n"


@provokes("port-busy")
def test_a_port_that_is_taken_is_told(alice: Laptop, job: Job) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["--document", "AWS-StartPortForwardingSession", "--parameter", "portNumber=80"]
        done = alice.sm_ssh("session", job.host, *words, "--parameter", f"localPortNumber={port}")
    assert str(port) in the_line(done, "port-busy", 255)


@provokes("copy-failed")
def test_a_file_that_cannot_be_copied_is_told(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("cp", f"{job.host}:/tmp/no-such-file", "x")
    assert the_line(done, "copy-failed", 1).endswith(f"sm-ssh cp --resume {job.host}:/tmp/no-such-file x")


@pytest.mark.parametrize("id", sorted(CATALOGUE))
def test_every_id_has_a_page(id: str, capsys: pytest.CaptureFixture[str]) -> None:
    from sagemaker_ssh_helper.cli.main import main

    assert main(["explain", f"error[{id}]:"]) == 0
    assert capsys.readouterr().out.startswith(f"{id}  (exit code ")
