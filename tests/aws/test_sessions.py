"""Sessions and commands: what is asked of the service, and who is told that a node is somebody else's."""

from __future__ import annotations

import pytest

from aws_stub import AwsStub, Refusal
from sagemaker_ssh_helper import errors
from sagemaker_ssh_helper.aws import commands, sessions
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.sessions import SessionGrant
from sagemaker_ssh_helper.names import InstanceId, SessionId

NODE = InstanceId("mi-00000000000000001")
GRANT = {"SessionId": "me-1", "StreamUrl": "ws://localhost:1/v1/data-channel/me-1", "TokenValue": "tok3n"}
DENIED = Refusal("AccessDeniedException", "User: arn:aws:iam::1:user/bob is not authorized to perform: x")


def test_a_session_goes_to_a_port_and_says_who_asks(stub: AwsStub, client: Client) -> None:
    stub.answers["StartSession"] = GRANT
    grant = sessions.start(client, NODE, 2222)

    assert (grant.id, grant.url, grant.token) == tuple(GRANT.values())
    assert "tok3n" not in repr(grant)
    params = stub.asked[0].params
    assert params["Target"] == NODE
    assert params["DocumentName"] == "AWS-StartSSHSession"
    assert params["Parameters"] == {"portNumber": ["2222"]}
    assert params["Reason"].startswith("sm-ssh ")
    assert len(params["Reason"]) <= 256


@pytest.mark.parametrize(
    ("document", "parameters", "asked"),
    [
        (None, {}, {}),
        ("My-Shell", {}, {"DocumentName": "My-Shell"}),
        ("My-Run", {"command": ("ls",)}, {"DocumentName": "My-Run", "Parameters": {"command": ["ls"]}}),
    ],
)
def test_a_session_is_what_its_document_says(
    stub: AwsStub, client: Client, document: str | None, parameters: dict[str, tuple[str]], asked: object
) -> None:
    stub.answers["StartSession"] = GRANT
    grant = sessions.start_document(client, NODE, document, parameters)

    params = dict(stub.asked[0].params)
    assert grant.id == GRANT["SessionId"]
    assert (params.pop("Target"), params.pop("Reason")[:7]) == (NODE, "sm-ssh ")
    assert params == asked


def test_an_answer_without_a_session_is_an_error(stub: AwsStub, client: Client) -> None:
    stub.answers["StartSession"] = {"SessionId": "me-1"}
    with pytest.raises(errors.ServiceError, match="gave no session"):
        sessions.start(client, NODE)


def test_a_node_of_somebody_else_is_told_with_both_names(stub: AwsStub, client: Client) -> None:
    stub.answers["StartSession"] = DENIED
    stub.answers["GetCallerIdentity"] = lambda params: b"<UserId>AIDABOB</UserId>"
    with pytest.raises(errors.NotOwner, match="its SSHOwner is AIDAALICE, you are AIDABOB"):
        sessions.start(client, NODE, owner="AIDAALICE")


@pytest.mark.parametrize("owner", [None, "AIDABOB"])
def test_a_refusal_for_another_reason_keeps_awss_words(
    stub: AwsStub, client: Client, owner: str | None
) -> None:
    stub.answers["StartSession"] = DENIED
    stub.answers["GetCallerIdentity"] = lambda params: b"<UserId>AIDABOB</UserId>"
    with pytest.raises(errors.AccessDenied, match="user/bob is not authorized") as caught:
        sessions.start(client, NODE, owner=owner)
    assert type(caught.value) is errors.AccessDenied
    assert ("GetCallerIdentity" in stub.operations) == (owner is not None)


def test_resuming_keeps_the_first_url(stub: AwsStub, client: Client) -> None:
    grant = SessionGrant(SessionId("me-1"), "ws://first", "old")
    stub.answers["ResumeSession"] = {"SessionId": "me-1", "StreamUrl": "ws://second", "TokenValue": "new"}
    assert sessions.resume(client, grant) == SessionGrant(SessionId("me-1"), "ws://first", "new")
    stub.answers["ResumeSession"] = {"SessionId": "me-1", "TokenValue": None}
    assert sessions.resume(client, grant) is None


def test_a_command_is_waited_for(stub: AwsStub, client: Client) -> None:
    replies = iter(
        [
            Refusal("InvocationDoesNotExist"),
            {"Status": "Pending"},
            {"Status": "InProgress"},
            {"Status": "Success", "ResponseCode": 0, "StandardOutputContent": "done\n"},
        ]
    )
    stub.answers["SendCommand"] = {"Command": {"CommandId": "c-1"}}
    stub.answers["GetCommandInvocation"] = lambda params: next(replies)
    slept: list[float] = []
    result = commands.run(client, NODE, "echo done", sleep=slept.append)

    assert (result.ok, result.output) == (True, "done\n")
    assert stub.asked[0].params["Parameters"] == {"commands": ["echo done"]}
    assert slept == [0.1, 0.15, 0.25, 0.4]


def test_a_command_that_failed_is_a_result(stub: AwsStub, client: Client) -> None:
    stub.answers["SendCommand"] = {"Command": {"CommandId": "c-1"}}
    stub.answers["GetCommandInvocation"] = {
        "Status": "Failed",
        "ResponseCode": 127,
        "StandardErrorContent": "not found",
    }
    result = commands.run(client, NODE, "nothing", sleep=lambda seconds: None)
    assert (result.ok, result.exit_code, result.error_output) == (False, 127, "not found")


def test_a_command_that_does_not_end(stub: AwsStub, client: Client) -> None:
    stub.answers["SendCommand"] = {"Command": {"CommandId": "c-1"}}
    stub.answers["GetCommandInvocation"] = {"Status": "InProgress"}
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    with pytest.raises(errors.WaitTimeout, match="did not end in 60 s"):
        commands.run(client, NODE, "sleep 99", monotonic=lambda: now, sleep=sleep)
