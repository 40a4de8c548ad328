"""
Remote debugging of training jobs: who may turn it on, when, and the native targets that come of it.
"""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from emulator.training_jobs import JobCloud, User, until

SLEEP = "import time; print('begun', flush=True); time.sleep(600)"
ON, OFF = {"EnableRemoteDebug": True}, {"EnableRemoteDebug": False}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobCloud]:
    environment = {"SM_SSH_JOB_STOP_SECONDS": "0.1"}
    with JobCloud(tmp_path_factory.mktemp("cloud"), environment=environment) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def alice(cloud: JobCloud) -> User:
    return cloud.user("alice")


def running(user: User, **members: Any) -> str:
    """A job that does nothing for long, in its main program."""
    name = user.start(SLEEP, **members)
    user.wait_for_line(name, "begun")
    return name


def target_of(name: str, node: str = "algo-1") -> str:
    return f"sagemaker-training-job:{name}_{node}"


def is_connected(user: User, target: str) -> bool:
    return bool(user.client("ssm").get_connection_status(Target=target)["Status"] == "connected")


def connected(user: User, target: str) -> None:
    until(lambda: is_connected(user, target), f"{target} to be connected")


def refused(call: Any, **params: Any) -> tuple[str, str]:
    """The code and message with which a call is refused."""
    with pytest.raises(ClientError) as caught:
        call(**params)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def test_every_node_is_a_target_while_the_job_runs(alice: User) -> None:
    resources = {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 1}
    name = running(alice, RemoteDebugConfig=ON, ResourceConfig=resources)

    for node in ("algo-1", "algo-2"):
        connected(alice, target_of(name, node))
    grant = alice.client("ssm").start_session(Target=target_of(name, "algo-2"))
    assert grant["StreamUrl"].startswith("ws")
    assert not is_connected(alice, target_of(name, "algo-3"))

    alice.sagemaker.stop_training_job(TrainingJobName=name)
    alice.wait(name)
    assert not is_connected(alice, target_of(name))
    code, message = refused(alice.client("ssm").start_session, Target=target_of(name))
    assert (code, message) == ("TargetNotConnected", f"{target_of(name)} is not connected.")


def test_running_job_is_switched_on_and_off(alice: User) -> None:
    name = running(alice)
    update = alice.sagemaker.update_training_job
    assert "RemoteDebugConfig" not in alice.describe(name)
    assert not is_connected(alice, target_of(name))

    assert update(TrainingJobName=name, RemoteDebugConfig=ON)["TrainingJobArn"].endswith(name)
    assert alice.describe(name)["RemoteDebugConfig"] == ON
    connected(alice, target_of(name))
    session = alice.client("ssm").start_session(Target=target_of(name))

    update(TrainingJobName=name, RemoteDebugConfig=OFF)
    assert alice.describe(name)["RemoteDebugConfig"] == OFF
    assert not is_connected(alice, target_of(name))
    by_id = [{"key": "SessionId", "value": session["SessionId"]}]
    history = partial(alice.client("ssm").describe_sessions, State="History", Filters=by_id)
    (ended,) = until(lambda: history()["Sessions"], "the session to end")
    assert ended["Target"] == target_of(name)
    assert ended["Details"] == "Remote debugging was turned off, or the container has ended."

    # And on again: the next agent takes the place of the one before.
    update(TrainingJobName=name, RemoteDebugConfig=ON)
    connected(alice, target_of(name))
    alice.sagemaker.stop_training_job(TrainingJobName=name)


def test_agent_has_a_log_stream_of_its_own(alice: User) -> None:
    name = running(alice, RemoteDebugConfig=ON)
    logs = alice.client("logs")

    def streams() -> list[str]:
        found = logs.describe_log_streams(
            logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=f"{name}/algo-1-"
        )
        return [stream["logStreamName"] for stream in found["logStreams"]]

    own, agents = until(lambda: len(streams()) == 2 and sorted(streams()), "both log streams")
    assert agents == f"{own}/ssm"
    alice.sagemaker.stop_training_job(TrainingJobName=name)


def test_job_that_has_ended_cannot_be_changed(alice: User) -> None:
    name = alice.run("print('done')")["TrainingJobName"]

    code, message = refused(alice.sagemaker.update_training_job, TrainingJobName=name, RemoteDebugConfig=ON)
    assert code == "ValidationException"
    assert message == (
        "RemoteDebugConfig can be updated only when the secondary status of the training job is Downloading "
        "or Training; it is Completed."
    )
    assert "RemoteDebugConfig" not in alice.describe(name)


def test_network_isolation_and_remote_debugging_exclude_each_other(alice: User) -> None:
    request = alice.request(SLEEP, RemoteDebugConfig=ON, EnableNetworkIsolation=True)
    code, message = refused(alice.sagemaker.create_training_job, **request)
    assert code == "ValidationException"
    assert "network isolation" in message


def test_other_documents_than_the_known_ones_are_refused(alice: User) -> None:
    name = running(alice, RemoteDebugConfig=ON)
    connected(alice, target_of(name))
    start = partial(alice.client("ssm").start_session, Target=target_of(name))
    port, command = {"portNumber": ["22"]}, {"command": ["true"]}

    for document, parameters in (
        ("AWS-StartSSHSession", port),
        ("AWS-StartInteractiveCommand", command),
        ("AWS-StartNonInteractiveCommand", command),
    ):
        code, _ = refused(start, DocumentName=document, Parameters=parameters)
        assert code == "InvalidDocument"
    assert start(DocumentName="AWS-StartPortForwardingSession", Parameters=port)["SessionId"]
    alice.sagemaker.stop_training_job(TrainingJobName=name)


@pytest.mark.parametrize(
    ("statement", "action"),
    [
        (
            {
                "Action": "ssm:StartSession",
                "Condition": {
                    "StringLike": {
                        "ssm:resourceTag/aws:ssmmessages:target-id": "sagemaker-training-job:*_algo-1"
                    }
                },
            },
            "ssm:StartSession",
        ),
        (
            {
                "Action": ["sagemaker:CreateTrainingJob", "sagemaker:UpdateTrainingJob"],
                "Condition": {"Bool": {"sagemaker:EnableRemoteDebug": "true"}},
            },
            "sagemaker:UpdateTrainingJob",
        ),
    ],
)
def test_policies_tell_targets_and_debugging_apart(
    cloud: JobCloud, alice: User, statement: dict[str, Any], action: str
) -> None:
    name = running(alice)
    iam = cloud.user("admin").client("iam")
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Resource": "*", **statement}]}
    iam.put_user_policy(UserName="alice", PolicyName="no", PolicyDocument=json.dumps(document))
    try:
        if action == "ssm:StartSession":
            refusal = refused(alice.client("ssm").start_session, Target=target_of(name))
            other = refused(alice.client("ssm").start_session, Target=target_of(name, "algo-2"))
            assert other[0] == "TargetNotConnected"
        else:
            refusal = refused(alice.sagemaker.update_training_job, TrainingJobName=name, RemoteDebugConfig=ON)
            alice.sagemaker.update_training_job(TrainingJobName=name, RemoteDebugConfig=OFF)
    finally:
        iam.delete_user_policy(UserName="alice", PolicyName="no")

    assert refusal[0] == "AccessDeniedException"
    assert f"is not authorized to perform: {action}" in refusal[1]
    alice.sagemaker.stop_training_job(TrainingJobName=name)


def test_agent_needs_the_role_to_allow_its_channels(cloud: JobCloud, alice: User) -> None:
    iam = cloud.user("admin").client("iam")
    role = cloud.info["role_arn"].rsplit("/", 1)[1]
    deny = {"Effect": "Deny", "Action": "ssmmessages:*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    iam.put_role_policy(RoleName=role, PolicyName="no", PolicyDocument=document)
    try:
        name = running(alice, RemoteDebugConfig=ON)
        lines = alice.wait_for_line(name, "ssmmessages:CreateControlChannel")
        assert not is_connected(alice, target_of(name))
    finally:
        iam.delete_role_policy(RoleName=role, PolicyName="no")

    assert any("not authorized" in line for line in lines)
    alice.sagemaker.stop_training_job(TrainingJobName=name)
