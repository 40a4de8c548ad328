"""
A user cannot reach another's container by any road. Policies alone decide that: without them each is open.
"""

import json
from typing import Any, Callable, Dict, Iterator, Tuple

import botocore.exceptions
import pytest

from e2e.laptop import Job, Laptop, running
from local_cloud import LocalCloud
from sagemaker_ssh_helper import iam_policies

GUARD = iam_policies.document(*iam_policies.guard())
"""For accounts whose users may do more than the documented policies allow."""

OF_SESSIONS = ("resuming the session", "ending the session")
"""What a policy that goes by the target cannot take away."""


@pytest.fixture(scope="module")
def job(laptop: Callable[[str], Laptop]) -> Iterator[Job]:
    with running(laptop("alice")) as job:
        yield job


@pytest.fixture
def held(e2e_cloud: LocalCloud, job: Job) -> Iterator[Tuple[str, str]]:
    """The node, and a session of its owner. No session of the node is left: the cloud is shared."""
    node = job.instances()[0]["InstanceId"]
    session = str(e2e_cloud.client("ssm", "alice").start_session(Target=node)["SessionId"])
    yield node, session
    ssm = e2e_cloud.client("ssm", "admin")
    left = ssm.describe_sessions(State="Active", Filters=[{"key": "Target", "value": node}])["Sessions"]
    for one in left:
        ssm.terminate_session(SessionId=one["SessionId"])


@pytest.fixture
def carol(e2e_cloud: LocalCloud) -> Iterator[Tuple[Any, Callable[[], None]]]:
    """Systems Manager for one who may do everything with it, but for one policy; and what detaches that."""
    iam = e2e_cloud.client("iam", "admin")
    iam.create_user(UserName="carol")
    allow = {"Effect": "Allow", "Action": "ssm:*", "Resource": "*"}
    iam.put_user_policy(
        UserName="carol",
        PolicyName="everything",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allow]}),
    )
    arn = iam.create_policy(PolicyName="OwnersOnly", PolicyDocument=json.dumps(GUARD))["Policy"]["Arn"]
    iam.attach_user_policy(UserName="carol", PolicyArn=arn)
    key = iam.create_access_key(UserName="carol")["AccessKey"]

    def detach() -> None:
        iam.detach_user_policy(UserName="carol", PolicyArn=arn)

    yield e2e_cloud.client_with("ssm", key["AccessKeyId"], key["SecretAccessKey"]), detach
    iam.delete_access_key(UserName="carol", AccessKeyId=key["AccessKeyId"])
    iam.delete_policy(PolicyArn=arn)
    iam.delete_user_policy(UserName="carol", PolicyName="everything")
    iam.delete_user(UserName="carol")


def roads(ssm: Any, node: str, session: str) -> Dict[str, Callable[[], Any]]:
    """Every call that would open another's container, run something in it, or disturb its owner."""
    run = {"DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["true"]}}
    forwarding = {"portNumber": ["22"], "localPortNumber": ["0"]}
    owner = {"ResourceType": "ManagedInstance", "ResourceId": node}

    def start(document: str, **parameters: Any) -> Callable[[], Any]:
        return lambda: ssm.start_session(Target=node, DocumentName=document, Parameters=parameters)

    return {
        "resuming the session": lambda: ssm.resume_session(SessionId=session),
        "a shell": lambda: ssm.start_session(Target=node),
        "ssh": start("AWS-StartSSHSession", portNumber=["22"]),
        "a port": start("AWS-StartPortForwardingSession", **forwarding),
        "another host": start("AWS-StartPortForwardingSessionToRemoteHost", host=["localhost"], **forwarding),
        "a program": start("AWS-StartInteractiveCommand", command=["true"]),
        "a command": lambda: ssm.send_command(InstanceIds=[node], **run),
        "a command by target": lambda: ssm.send_command(
            Targets=[{"Key": "InstanceIds", "Values": [node]}], **run
        ),
        "becoming its owner": lambda: ssm.add_tags_to_resource(
            Tags=[{"Key": "SSHNote", "Value": "x"}], **owner
        ),
        "removing its owner": lambda: ssm.remove_tags_from_resource(TagKeys=["SSHNote"], **owner),
        "ending the session": lambda: ssm.terminate_session(SessionId=session),
    }


def refusal(road: Callable[[], Any]) -> str:
    """AWS's code for it; empty when it is open."""
    try:
        answer = road()
    except botocore.exceptions.ClientError as error:
        return str(error.response["Error"]["Code"])
    return "" if answer else "no answer"


def test_the_documented_policies_close_every_road(e2e_cloud: LocalCloud, held: Tuple[str, str]) -> None:
    found = {name: refusal(road) for name, road in roads(e2e_cloud.client("ssm", "bob"), *held).items()}

    assert set(found.values()) == {"AccessDeniedException"}, found


def test_one_policy_closes_every_road_and_detached_opens_them(
    carol: Tuple[Any, Callable[[], None]], held: Tuple[str, str]
) -> None:
    ssm, detach = carol
    closed = {name: refusal(road) for name, road in roads(ssm, *held).items()}
    deregistering = refusal(lambda: ssm.deregister_managed_instance(InstanceId=held[0]))
    detach()
    opened = {name: refusal(road) for name, road in roads(ssm, *held).items()}

    assert {name for name, code in closed.items() if code != "AccessDeniedException"} == set(OF_SESSIONS), (
        closed
    )
    assert deregistering == "AccessDeniedException"
    assert set(opened.values()) == {""}, opened


def test_the_status_is_not_reachable_for_another(laptop: Callable[[str], Laptop], job: Job) -> None:
    told = json.loads(laptop("bob").sm_ssh("status", job.host, "--json").stdout)
    assert (told["reachable"], told["problem"]["id"]) == (False, "not-owner")
    told = json.loads(job.laptop.sm_ssh("status", job.host, "--json").stdout)
    assert (told["reachable"], told["problem"]) == (True, None)


def test_our_own_commands_say_whose_it_is(laptop: Callable[[str], Laptop], job: Job) -> None:
    done = laptop("bob").sm_ssh("exec", job.host, "--trust-first-use", "--", "true")

    assert done.returncode == 5
    assert b"error[not-owner]" in done.stderr
