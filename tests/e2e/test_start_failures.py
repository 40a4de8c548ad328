"""
A job whose ssh cannot start: it goes on, its log has one line with what to do, and the state says the same.

The faults come from the cloud, over the wire.
"""

import json
import time
from contextlib import ExitStack
from typing import Any, Callable, Dict, Iterator, List

import pytest

from e2e.laptop import Job, Laptop, launch
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
        described = job.wait_ended()

    assert described["TrainingJobStatus"] == "Completed", job.log()
    check(job, SAID[failure])


def check(job: Job, said: List[str]) -> None:
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
