"""Nodes of HyperPod clusters and Studio spaces, which a switch starts."""

import json
import urllib.error
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from emulator.training_jobs import until
from local_cloud import LocalCloud

CLUSTER = "sagemaker-cluster:abc123_workers-i-0123456789abcdef0"


@pytest.fixture
def nodes(cloud: LocalCloud) -> Iterator[LocalCloud]:
    """The cloud, which has none before and afterwards."""
    yield cloud
    cloud.clear_faults()


def space_of(cloud: LocalCloud, name: str) -> str:
    return f"arn:aws:sagemaker:{cloud.info['region']}:{cloud.info['account_id']}:space/d-abcdef123456/{name}"


def refused(call: Any, **params: Any) -> str:
    """The code with which a call is refused."""
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["Error"]["Code"])


def test_a_node_of_a_cluster_is_a_target_while_the_switch_is_on(nodes: LocalCloud) -> None:
    admin = nodes.client("ssm", "admin")

    def status() -> str:
        return str(admin.get_connection_status(Target=CLUSTER)["Status"])

    assert status() == "notconnected"
    nodes.faults(kind="native-node", target=CLUSTER)
    until(lambda: status() == "connected", "the node's agent")
    shown = {"kind": "native-node", "target": CLUSTER}
    assert shown in nodes.local("GET", "faults")["faults"]
    session = admin.start_session(Target=CLUSTER)
    assert session["StreamUrl"].startswith("ws")
    # Nobody else has the right: it is a target like any other.
    assert refused(nodes.client("ssm", "alice").start_session, Target=CLUSTER) == "AccessDeniedException"

    nodes.clear_faults()
    assert shown not in nodes.local("GET", "faults")["faults"]
    assert refused(admin.start_session, Target=CLUSTER) == "TargetNotConnected"
    by_id = [{"key": "SessionId", "value": session["SessionId"]}]
    history = partial(admin.describe_sessions, State="History", Filters=by_id)
    (ended,) = until(lambda: history()["Sessions"], "the session to end")
    assert ended["Details"] == "The node has ended."


def test_a_space_is_entered_by_sagemaker_alone(nodes: LocalCloud) -> None:
    arn = space_of(nodes, "my-space")
    start = nodes.client("sagemaker", "admin").start_session
    assert refused(start, ResourceIdentifier=arn) == "ResourceNotFound"
    nodes.faults(kind="native-node", target=arn)

    def granted() -> Any:
        try:
            return start(ResourceIdentifier=arn)
        except ClientError as error:
            if error.response["Error"]["Code"] != "TargetNotConnected":
                raise
            return None

    grant = until(granted, "the space's agent")
    assert grant["SessionId"]
    assert grant["StreamUrl"].startswith("ws")
    assert len(grant["TokenValue"]) <= 1024
    alice = nodes.client("sagemaker", "alice").start_session
    assert refused(alice, ResourceIdentifier=arn) == "AccessDeniedException"
    assert refused(nodes.client("ssm", "admin").start_session, Target=arn) == "TargetNotConnected"


@pytest.mark.parametrize(
    "target",
    [
        "sagemaker-training-job:job_algo-1",
        "sagemaker-cluster:abc123",
        "mi-00000000000000001",
        "arn:aws:sagemaker:us-east-1:000000000000:space/d-abcdef123456/other-account",
        None,
    ],
)
def test_other_targets_are_refused(nodes: LocalCloud, target: Any) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        nodes.faults(kind="native-node", target=target)
    with caught.value as answer:
        assert answer.code == 400
        assert "needs a target" in json.dumps(answer.read().decode())


def test_one_target_has_one_node(nodes: LocalCloud) -> None:
    nodes.faults(kind="native-node", target=CLUSTER)
    with pytest.raises(urllib.error.HTTPError) as caught:
        nodes.faults(kind="native-node", target=CLUSTER)
    with caught.value as answer:
        assert b"runs already" in answer.read()
