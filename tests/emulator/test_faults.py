"""Switches: calls that are denied, throttled, delayed, failed or never answered; and the counters."""

import time
import urllib.error
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from local_cloud import LocalCloud
from sagemaker_ssh_helper.emulator.faults import Fault


@pytest.fixture
def switches(cloud: LocalCloud) -> Iterator[LocalCloud]:
    """The cloud, whose switches are off before and after."""
    cloud.clear_faults()
    cloud.reset_requests()
    yield cloud
    cloud.clear_faults()


def code(caught: "pytest.ExceptionInfo[ClientError]") -> str:
    return str(caught.value.response["Error"]["Code"])


def refused(switches: LocalCloud, body: Any, user: str = "admin", method: str = "POST") -> "tuple[int, str]":
    with pytest.raises(urllib.error.HTTPError) as caught:
        switches.local(method, "faults", body, user=user)
    with caught.value:
        return caught.value.code, caught.value.read().decode()


@pytest.mark.parametrize(
    ("service", "operation", "action", "wanted"),
    [
        ("ssm", "describe_instance_information", "ssm:DescribeInstanceInformation", "AccessDeniedException"),
        ("sagemaker", "list_training_jobs", "sagemaker:ListTrainingJobs", "AccessDeniedException"),
        ("sts", "get_caller_identity", "sts:GetCallerIdentity", "AccessDenied"),
        ("s3", "list_buckets", "s3:ListBuckets", "AccessDenied"),
    ],
)
def test_an_action_is_denied_to_one_user(
    switches: LocalCloud, service: str, operation: str, action: str, wanted: str
) -> None:
    switches.faults(kind="deny", action=action, user="bob")

    with pytest.raises(ClientError, match=f":user/bob is not authorized to perform: {action} ") as caught:
        getattr(switches.client(service, user="bob"), operation)()

    assert code(caught) == wanted
    assert getattr(switches.client(service, user="alice"), operation)()


def test_an_action_is_denied_to_everyone_until_cleared(switches: LocalCloud) -> None:
    switches.faults(kind="deny", action="ssm:Describe*")
    ssm = switches.client("ssm")
    with pytest.raises(ClientError, match="AccessDenied"):
        ssm.describe_instance_information()
    with pytest.raises(ClientError, match="AccessDenied"):
        switches.client("ssm", user="admin").describe_instance_information()

    switches.clear_faults()

    assert "InstanceInformationList" in ssm.describe_instance_information()


def test_one_switch_is_turned_off_by_its_id(switches: LocalCloud) -> None:
    first = switches.faults(kind="deny", action="ssm:DescribeSessions")
    second = switches.faults(kind="deny", action="ssm:DescribeInstanceInformation")

    switches.local("DELETE", f"faults/{second}")

    shown = switches.local("GET", "faults")["faults"]
    assert shown == [{"id": first, "kind": "deny", "action": "ssm:DescribeSessions", "user": "*", "calls": 0}]
    assert switches.client("ssm").describe_instance_information()
    with pytest.raises(urllib.error.HTTPError) as caught:
        switches.local("DELETE", f"faults/{second}")
    with caught.value:
        assert caught.value.code == 404


@pytest.mark.parametrize(
    ("service", "operation", "wanted"),
    [
        ("ssm", "describe_instance_information", "ThrottlingException"),
        ("sts", "get_caller_identity", "Throttling"),
        ("s3", "list_buckets", "SlowDown"),
    ],
)
def test_throttling_has_each_protocols_code(
    switches: LocalCloud, service: str, operation: str, wanted: str
) -> None:
    switches.faults(kind="throttle", action=f"{service}:*", times=1)
    client = switches.client(service)

    with pytest.raises(ClientError, match="Rate exceeded") as caught:
        getattr(client, operation)()

    assert code(caught) == wanted
    assert getattr(client, operation)()


def test_a_client_that_tries_again_gets_through_a_throttle(switches: LocalCloud) -> None:
    switches.faults(kind="throttle", action="sts:*", times=1)

    sts = switches.client("sts", retries={"mode": "standard", "total_max_attempts": 3})

    assert sts.get_caller_identity()["Arn"].endswith(":user/alice")
    assert switches.count("sts:GetCallerIdentity", "alice") == 2


def test_a_rate_lets_so_many_through_a_second() -> None:
    fault = Fault(id="1", kind="throttle", rate=5)

    at_once = [fault.take(now=100.0) for _ in range(8)]
    later = [fault.take(now=100.41) for _ in range(4)]
    much_later = [fault.take(now=200.0) for _ in range(7)]

    assert at_once == [False] * 5 + [True] * 3
    assert later == [False] * 2 + [True] * 2
    assert much_later == [False] * 5 + [True] * 2
    assert fault.calls == 7


def test_every_call_can_be_made_to_take_time(switches: LocalCloud) -> None:
    sts = switches.client("sts")
    sts.get_caller_identity()
    switches.faults(kind="delay", seconds=0.2)

    started_at = time.monotonic()
    sts.get_caller_identity()

    assert time.monotonic() - started_at >= 0.2


def test_a_call_fails_as_told_and_as_often(switches: LocalCloud) -> None:
    told = {"code": "TargetNotConnected", "message": "is not connected.", "status": 400}
    switches.faults(kind="error", action="ssm:StartSession", times=2, **told)
    ssm = switches.client("ssm")

    texts = []
    for _ in range(3):
        with pytest.raises(ClientError) as caught:
            ssm.start_session(Target="mi-0123456789abcdef0", DocumentName="AWS-StartSSHSession")
        texts.append((code(caught), caught.value.response["ResponseMetadata"]["HTTPStatusCode"]))

    assert texts[:2] == [("TargetNotConnected", 400)] * 2
    assert texts[2] == ("AccessDeniedException", 400)


def test_a_service_can_be_unreachable(switches: LocalCloud) -> None:
    switches.faults(kind="unreachable", action="sts:*", times=1)

    with pytest.raises(ConnectionClosedError):
        switches.client("sts").get_caller_identity()

    assert switches.client("sts").get_caller_identity()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (None, "not a JSON object"),
        ([], "not a JSON object"),
        ({}, "kind must be one of deny, throttle, delay, error, unreachable"),
        ({"kind": "explode"}, "kind must be one of"),
        ({"kind": "deny", "whom": "bob"}, "whom is not part of a switch"),
        ({"kind": "deny", "action": 5}, "action is not part of a switch, or has the wrong type"),
        ({"kind": "delay", "seconds": True}, "seconds is not part of a switch"),
        ({"kind": "delay", "seconds": -1}, "seconds is out of range"),
        ({"kind": "error"}, "needs a code"),
        ({"kind": "error", "code": "X", "status": 200}, "between 400 and 599"),
        ({"kind": "deny", "id": "mine"}, "id is not part"),
    ],
)
def test_a_switch_that_makes_no_sense_is_refused(
    switches: LocalCloud, body: "Mapping[str, Any] | None", text: str
) -> None:
    status, answer = refused(switches, body)

    assert status == 400
    assert text in answer
    assert switches.local("GET", "faults") == {"faults": []}


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_switches_are_for_administrators(switches: LocalCloud, method: str) -> None:
    status, answer = refused(switches, {"kind": "deny"} if method == "POST" else None, "alice", method)

    assert status == 400
    assert "AccessDeniedException" in answer
    assert "local:" in answer


@pytest.mark.parametrize("path", ["nothing", "faults/x/y", "requests/x"])
def test_there_is_nothing_else(switches: LocalCloud, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        switches.local("PATCH", path, {})
    with caught.value:
        assert caught.value.code == 404


def test_calls_are_counted_by_action_user_and_end(switches: LocalCloud) -> None:
    for _ in range(2):
        switches.client("sts", user="alice").get_caller_identity()
    switches.client("sts", user="bob").get_caller_identity()
    with pytest.raises(ClientError):
        switches.client("iam", user="bob").list_users()
    with pytest.raises(ClientError):
        switches.client("s3", user="bob").head_object(Bucket="other", Key="x")

    assert switches.requests() == [
        {"action": "iam:ListUsers", "user": "bob", "count": 1, "errors": {"AccessDenied": 1}},
        {"action": "s3:HeadObject", "user": "bob", "count": 1, "errors": {"AccessDenied": 1}},
        {"action": "sts:GetCallerIdentity", "user": "alice", "count": 2, "errors": {}},
        {"action": "sts:GetCallerIdentity", "user": "bob", "count": 1, "errors": {}},
    ]
    assert switches.local("GET", "requests")["total"] == 5
    switches.reset_requests()
    assert switches.local("GET", "requests") == {"total": 0, "requests": []}
