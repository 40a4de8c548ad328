"""
A job whose ssh cannot start: it goes on, its log has one line with what to do, and the state says the same.

The faults come from the cloud, over the wire, and from what is around the container: its proxy, its names,
its disk, its programs.
"""

import json
import os
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from e2e.inspecting_proxy import InspectingProxy
from e2e.laptop import Job, Laptop, launch, running, until
from local_cloud import LocalCloud
from sagemaker_ssh_helper.agent import sigv4
from sagemaker_ssh_helper.agent.aws_api import AwsApi, Retry

SCRIPT = """
import os
from sagemaker_ssh_helper import setup_and_start_ssh
setup_and_start_ssh()
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.agent.waiting import describe_status
print("STATE", *describe_status(StateDir.choose(os.environ))[0][:2])
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """One of their own: they take rights from the role."""
    with LocalCloud(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def administrator(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    return Laptop(cloud.info, "admin", tmp_path_factory.mktemp("laptop"))


@pytest.fixture
def role(cloud: LocalCloud) -> Iterator[Callable[..., str]]:
    """The ARN of a new role like that of the jobs, changed."""
    iam = cloud.client("iam", "admin")
    made: List[str] = []

    def role(without: str = "", trusts: str = "") -> str:
        original = iam.get_role(RoleName="SageMakerRole")["Role"]
        policy = iam.get_role_policy(RoleName="SageMakerRole", PolicyName="sagemaker-ssh-helper")
        document: Dict[str, Any] = policy["PolicyDocument"]
        name = f"Role-{time.monotonic_ns()}"
        text = json.dumps(
            {**document, "Statement": [s for s in document["Statement"] if s["Sid"] != without]}
        ).replace("role/SageMakerRole", f"role/{name}")
        trust = json.dumps(original["AssumeRolePolicyDocument"])
        if trusts:
            trust = trust.replace('["sagemaker.amazonaws.com", "ssm.amazonaws.com"]', json.dumps(trusts))
        arn = str(iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"])
        iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=text)
        made.append(name)
        return arn

    yield role
    for name in made:
        iam.delete_role_policy(RoleName=name, PolicyName="own")
        iam.delete_role(RoleName=name)


FAULTS: Dict[str, Dict[str, Any]] = {
    "activation denied": {"kind": "deny", "action": "ssm:CreateActivation", "user": "SageMakerRole"},
    "registration limit": {"kind": "registration-limit", "limit": 0},
    "registration refused": {
        "kind": "error",
        "action": "ssm:RegisterManagedInstance",
        "code": "ActivationExpired",
        "message": "It expired.",
        "status": 400,
    },
    "server trouble": {"kind": "error", "action": "ssm:CreateActivation", "code": "InternalServerError"},
}
ROLES = {
    "no right to pass the role": {"without": "HandTheRoleToSystemsManager"},
    "no right to tag": {"without": "TagContainer"},
    "a role that Systems Manager may not assume": {"trusts": "sagemaker.amazonaws.com"},
}
SAID = {
    "activation denied": ["AccessDeniedException", "ssm:CreateActivation", "iam:PassRole on the role"],
    "registration limit": ["Registration limit of 0 reached", "sm-ssh-deregister-instances", "tier"],
    "registration refused": ["ActivationExpired: It expired."],
    "server trouble": ["CreateActivation failed", "InternalServerError"],
    "no right to pass the role": ["Let the job's role call iam:PassRole on the role Role-"],
    "no right to tag": ["Let the job's role call ssm:AddTagsToResource on the role Role-"],
    "a role that Systems Manager may not assume": [
        "Nonexistent role or missing ssm service principal",
        "Let ssm.amazonaws.com assume the role Role-",
    ],
}


# The others differ in AWS's words only.
SOAKED = ("registration refused", "server trouble", "no right to tag")


@pytest.mark.parametrize(
    "failure", [pytest.param(name, marks=[pytest.mark.soak] if name in SOAKED else []) for name in SAID]
)
def test_the_job_goes_on_and_log_and_state_say_why(
    cloud: LocalCloud, administrator: Laptop, role: Callable[..., str], failure: str
) -> None:
    arn = role(**ROLES[failure]) if failure in ROLES else administrator.info["role_arn"]
    with ExitStack() as faults:
        if failure in FAULTS:
            faults.enter_context(cloud.fault(**FAULTS[failure]))
        job = launch(administrator, SCRIPT, keep_program=True, RoleArn=arn)
        job.wait_ended()
    check(job, SAID[failure])


def check(job: Job, said: List[str]) -> None:
    assert job.wait_ended()["TrainingJobStatus"] == "Completed", job.log()
    log = job.log()
    (line,) = [line for line in log.splitlines() if "no ssh in this container: " in line]
    (state,) = [line for line in log.splitlines() if line.startswith("STATE")]
    for text in said:
        assert text in line
        assert text in state
    assert state.startswith("STATE state:     failed why:")


@pytest.mark.parametrize("wrong_by", [-7200.0, 40 * 86400.0], ids=["two hours late", "forty days early"])
def test_a_container_with_a_wrong_clock_registers(cloud: LocalCloud, wrong_by: float) -> None:
    """With the shipped calls: no job here can have a clock of its own."""
    keys = cloud.user("admin")
    api = AwsApi(
        cloud.info["region"],
        lambda: sigv4.Credentials(keys["access_key_id"], keys["secret_access_key"]),
        environ={"AWS_ENDPOINT_URL": cloud.endpoint_url},
        retry=Retry(2),
        now=lambda: time.time() + wrong_by,
    )
    role = cloud.info["role_arn"].rpartition("/")[2]
    made = api.create_activation(role, "algo-1.job.training.sagemaker", {}, lifetime=3600.0)

    (activation,) = cloud.client("ssm", "admin").describe_activations(
        Filters=[{"FilterKey": "ActivationIds", "FilterValues": [made.activation_id]}]
    )["ActivationList"]
    assert 3000 < activation["ExpirationDate"].timestamp() - time.time() < 3700
    assert not activation["Expired"]
    assert api.caller_identity().user_id == keys["user_id"]


# --- what is around the container -------------------------------------------------------------------

# The script again, in a file system of its own: with little room, or with another program for sshd.
ELSEWHERE = """
import os, subprocess, sys
if "ELSEWHERE" not in os.environ:
    sys.exit(subprocess.call(
        ["unshare", "-Urm", "sh", "-c", {words!r}, {folder!r}, sys.executable, __file__],
        env={{**os.environ, "ELSEWHERE": "1", **{environment!r}}},
    ))
"""
FULL_DISK = """
mount -t tmpfs -o size=256k none "$0" && mkdir -m 700 "$0/node" &&
dd if=/dev/zero of="$0/filler" bs=1024 count=252 2>/dev/null; exec "$@"
"""
OTHER_SSHD = """
mount --bind "$0/sshd" "$(PATH=$PATH:/usr/sbin:/sbin command -v sshd)" || exit 99; exec "$@"
"""


def setting(**variables: str) -> str:
    return f"import os\nos.environ.update({variables!r})\n"


def test_a_name_that_is_not_known(administrator: Laptop) -> None:
    script = setting(AWS_ENDPOINT_URL="http://ssm.invalid:1") + SCRIPT
    job = launch(administrator, script, keep_program=True)
    check(
        job,
        [
            "ssm.invalid:1 cannot be reached (its name cannot be resolved). ",
            "a NAT gateway, or endpoints for ssm and ssmmessages",
        ],
    )


def test_a_disk_without_room(administrator: Laptop, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    environment = {"SSH_STATE_DIR": str(disk / "node"), "BIG": "x" * 100_000}
    script = ELSEWHERE.format(words=FULL_DISK, folder=str(disk), environment=environment) + SCRIPT
    job = launch(administrator, script, keep_program=True)
    check(job, [f"cannot be written to {disk}/node (No space left on device). Make room there"])


def test_an_sshd_that_refuses(administrator: Laptop, tmp_path: Path) -> None:
    refusing = tmp_path / "sshd"
    refusing.write_text("#!/bin/sh\necho 'sshd: no hostkeys available -- exiting.' >&2\nexit 1\n")
    refusing.chmod(0o755)
    environment = {"SSH_SSHD": "openssh"}
    script = ELSEWHERE.format(words=OTHER_SSHD, folder=str(tmp_path), environment=environment) + SCRIPT
    job = launch(administrator, script, keep_program=True)
    check(job, ["sshd: no hostkeys available"])
    assert job.instances() == []


@pytest.fixture(scope="module")
def proxy(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InspectingProxy]:
    with InspectingProxy(cloud.endpoint_url, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy


def test_a_proxy_with_a_password_and_an_authority_of_its_own(
    administrator: Laptop, proxy: InspectingProxy
) -> None:
    script = setting(
        AWS_ENDPOINT_URL=proxy.endpoint_url, HTTPS_PROXY=proxy.url, AWS_CA_BUNDLE=str(proxy.ca_file)
    )
    with running(administrator, script + SCRIPT, keep_program=True) as job:
        done = administrator.ssh(job.host, "sm-wait stop")
        assert done.stdout == b"stopped 1 waiting\n", done.stderr.decode()
        assert job.wait_ended()["TrainingJobStatus"] == "Completed", job.log()
    # The calls, and the channels of the node and of its session.
    assert {"/", "/v1/control-channel", "/v1/data-channel"} <= proxy.asked
    assert proxy.password not in job.log()


def test_a_proxy_that_wants_another_password(administrator: Laptop, proxy: InspectingProxy) -> None:
    other = proxy.url.replace(proxy.password, "another")
    script = setting(AWS_ENDPOINT_URL=proxy.endpoint_url, HTTPS_PROXY=other, AWS_CA_BUNDLE=str(proxy.ca_file))
    job = launch(administrator, script + SCRIPT, keep_program=True)
    check(job, ["through the proxy", "it answered 407", "Set HTTPS_PROXY to http://NAME:PASSWORD@HOST:PORT"])
    assert "another" not in job.log()


def test_an_authority_that_is_not_known(administrator: Laptop, proxy: InspectingProxy) -> None:
    script = setting(AWS_ENDPOINT_URL=proxy.endpoint_url, HTTPS_PROXY=proxy.url)
    job = launch(administrator, script + SCRIPT, keep_program=True)
    check(job, ["its certificate is not trusted", "Set AWS_CA_BUNDLE to a file"])


# --- what lets ssh start, and what does not let it be used -------------------------------------------


def test_a_port_that_is_taken_is_not_needed(administrator: Laptop) -> None:
    with ExitStack() as stack:
        try:
            stack.enter_context(socket.create_server(("127.0.0.1", 22)))
        except OSError:
            # It is another's already, or nobody's who may not have it; then sshd of the job may not either.
            pass
        with running(administrator, "import time; time.sleep(600)", wait=0) as job:
            stack.close()
            done = administrator.ssh(job.host, "sm-wait status")
            assert b"state:     online" in done.stdout, done.stderr.decode()


def test_a_standard_tier_is_told_at_the_login_and_the_job_goes_on(
    cloud: LocalCloud, administrator: Laptop
) -> None:
    tier = {"SettingId": "/ssm/managed-instance/activation-tier"}
    ssm = cloud.client("ssm", "admin")
    ssm.update_service_setting(**tier, SettingValue="standard")
    try:
        script = (
            "from sagemaker_ssh_helper import setup_and_start_ssh; setup_and_start_ssh(); print('trained')"
        )
        job = launch(administrator, script, keep_program=True)
        job.wait_online()
        refused = administrator.sm_ssh("connect", job.host, "true")
        assert refused.stderr.startswith(b"sm-ssh: error[advanced-tier-off]: ")
    finally:
        ssm.update_service_setting(**tier, SettingValue="advanced")
    done = administrator.ssh(job.host, "sm-wait stop")
    assert done.returncode == 0, done.stderr.decode()
    assert job.wait_ended()["TrainingJobStatus"] == "Completed"
    assert "trained" in job.log()


def test_a_job_that_is_stopped_while_ssh_starts_leaves_nothing(
    cloud: LocalCloud, administrator: Laptop
) -> None:
    cloud.reset_requests()
    with cloud.fault(kind="delay", action="ssm:CreateActivation", seconds=60):
        job = launch(administrator, SCRIPT, keep_program=True)
        until(lambda: cloud.count("ssm:CreateActivation", "SageMakerRole"), "the start")
        job.stop()
        assert job.wait_ended()["TrainingJobStatus"] == "Stopped"
    assert job.instances() == []
    assert "Traceback" not in job.log()


@pytest.mark.soak
def test_an_agent_that_always_dies_is_given_up(administrator: Laptop, tmp_path: Path) -> None:
    node = tmp_path / "node"
    script = setting(SSH_STATE_DIR=str(node)) + SCRIPT.replace(
        "print(", "import time; time.sleep(40); print("
    )
    job = launch(administrator, script, keep_program=True, wait=0)

    def agent() -> int:
        """The process that answers; none while its keeper waits to start it again."""
        try:
            pid = int((node / "agent.pid").read_text())
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            return pid if b"agent.keeper" in Path(f"/proc/{parent}/cmdline").read_bytes() else 0
        except (OSError, ValueError):
            return 0

    for _ in range(5):
        os.kill(until(agent, "the agent"), signal.SIGKILL)
        until(lambda: not agent(), "the agent to be gone")
    check(job, ["the agent died 5 times soon after its start (signal 9)"])


def test_a_variable_that_no_program_can_be_given_is_left_out(laptop: Callable[[str], Laptop]) -> None:
    """Python sets what Linux passes to nobody."""
    script = """
    import os
    os.environ["BIG"] = "x" * 200_000
    from sagemaker_ssh_helper import setup_and_start_ssh
    setup_and_start_ssh()
    """
    with running(laptop("alice"), script, keep_program=True) as job:
        done = job.laptop.ssh(job.host, 'echo "${#BIG} in"')
        assert (done.returncode, done.stdout) == (0, b"0 in\n"), done.stderr
        assert "variables as large as BIG" in job.log()
