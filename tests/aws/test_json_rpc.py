"""Calls to AWS: what is sent, what is sent again, and how every refusal is told."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from aws_stub import AwsStub, Refusal
from sagemaker_ssh_helper import errors
from sagemaker_ssh_helper.aws.json_rpc import ATTEMPTS, CONNECT_ATTEMPTS, Client
from sagemaker_ssh_helper.aws.session import Session


def test_an_answer_is_awss_json(stub: AwsStub, client: Client) -> None:
    stub.answers["ListTagsForResource"] = {"TagList": []}

    assert client.call("ssm", "ListTagsForResource", ResourceType="ManagedInstance") == {"TagList": []}
    (asked,) = stub.asked
    assert asked.params == {"ResourceType": "ManagedInstance"}
    assert asked.headers["X-Amz-Target"] == "AmazonSSM.ListTagsForResource"
    assert asked.headers["Content-Type"] == "application/x-amz-json-1.1"
    assert "/eu-west-1/ssm/aws4_request" in asked.headers["Authorization"]


def test_an_empty_answer_is_an_empty_one(stub: AwsStub, client: Client) -> None:
    stub.answers["StopTrainingJob"] = lambda params: b""
    assert client.call("sagemaker", "StopTrainingJob") == {}


def test_pages_are_followed(stub: AwsStub, client: Client) -> None:
    pages = {None: {"Items": [{"n": 1}], "NextToken": "2"}, "2": {"Items": [{"n": 2}, {"n": 3}]}}
    stub.answers["ListTrainingJobs"] = lambda params: pages[params.get("NextToken")]

    assert [item["n"] for item in client.pages("sagemaker", "ListTrainingJobs", "Items", MaxResults=1)] == [
        1,
        2,
        3,
    ]
    assert [asked.params for asked in stub.asked] == [{"MaxResults": 1}, {"MaxResults": 1, "NextToken": "2"}]


def test_throttling_is_waited_out_with_growing_delays(
    stub: AwsStub, client: Client, sleeps: list[float]
) -> None:
    refusals = iter([Refusal("ThrottlingException", "Rate exceeded")] * 3)
    stub.answers["StartSession"] = lambda params: next(refusals, {"SessionId": "s"})

    assert client.call("ssm", "StartSession") == {"SessionId": "s"}
    assert sleeps == [0.4, 0.8, 1.6]


def test_throttling_without_end_is_told(stub: AwsStub, client: Client) -> None:
    stub.answers["StartSession"] = Refusal("ThrottlingException", "Rate exceeded")
    with pytest.raises(errors.Throttled, match=r"AWS throttles ssm:StartSession .*Rate exceeded"):
        client.call("ssm", "StartSession")
    assert len(stub.asked) == client.calls == ATTEMPTS


@pytest.mark.parametrize(("operation", "times"), [("DescribeTrainingJob", ATTEMPTS), ("StartSession", 1)])
def test_a_fault_of_awss_is_tried_again_only_where_that_does_no_harm(
    stub: AwsStub, client: Client, operation: str, times: int
) -> None:
    stub.answers[operation] = Refusal("InternalFailure", "oops", status=500)
    with pytest.raises(errors.ServiceError, match="InternalFailure"):
        client.call("ssm", operation)
    assert len(stub.asked) == times


# What AWS says, and the error that it becomes: its type, and words of its line.
REFUSALS: list[tuple[str, str, type[errors.SSHHelperError], str]] = [
    ("AccessDeniedException", "User: arn:x is not authorized", errors.AccessDenied, "allow ssm:StartSession"),
    ("ExpiredTokenException", "expired", errors.CredentialsExpired, "have expired"),
    (
        "ExpiredToken",
        "The security token included in the request is expired",
        errors.CredentialsExpired,
        "expired",
    ),
    ("UnrecognizedClientException", "The security token is invalid", errors.CredentialsInvalid, "not accept"),
    ("InvalidSignatureException", "does not match", errors.CredentialsInvalid, "not accept"),
    ("InvalidSignatureException", "Signature expired: 2026 is now earlier", errors.ClockSkewed, "clock"),
    ("TargetNotConnected", "mi-1 is not connected.", errors.NotConnected, "mi-1 is not connected."),
    ("InvalidInstanceId", "Instances not in a valid state", errors.InstanceNotValid, "not in a valid state"),
    (
        "BadRequest",
        "Enable advanced-instances tier to use Session Manager with your on-premises instances",
        errors.AdvancedTierOff,
        "update-service-setting",
    ),
    ("BadRequest", "Something else", errors.ServiceError, "BadRequest"),
    ("InvalidDocument", "no", errors.ServiceError, "InvalidDocument"),
]


@pytest.mark.parametrize(("code", "message", "kind", "words"), REFUSALS, ids=lambda value: str(value)[:30])
def test_a_refusal_becomes_the_error_that_says_what_to_do(
    stub: AwsStub, client: Client, code: str, message: str, kind: type[errors.SSHHelperError], words: str
) -> None:
    stub.answers["StartSession"] = Refusal(code, message)
    with pytest.raises(kind) as caught:
        client.call("ssm", "StartSession")

    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_expired_profile_is_named_with_its_command(stub: AwsStub) -> None:
    session = Session(region="eu-west-1", profile="dev", environ=stub.environment(), static=_keys())
    stub.answers["StartSession"] = Refusal("ExpiredTokenException")
    with pytest.raises(errors.CredentialsExpired, match=r"of profile dev .*aws sso login --profile dev"):
        Client(session).call("ssm", "StartSession")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (502, b"<html>Bad Gateway</html>", "HTTP 502"),
        (403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>", "AWS says: no"),
        (200, b"<html>a login page</html>", "was answered with no JSON"),
    ],
)
def test_an_answer_that_is_not_awss_is_told_as_it_is(
    stub: AwsStub, client: Client, status: int, body: bytes, words: str
) -> None:
    stub.answers["StartSession"] = Refusal("", status=status, body=body)
    with pytest.raises(errors.AwsError, match=words):
        client.call("ssm", "StartSession")


def test_nobody_at_the_endpoint(stub: AwsStub, sleeps: list[float]) -> None:
    with socket.socket() as taken:  # bound, not listening: nobody else gets the port, nobody answers there
        taken.bind(("127.0.0.1", 0))
        environment = stub.environment(AWS_ENDPOINT_URL=f"http://127.0.0.1:{taken.getsockname()[1]}")
        client = Client(Session.open(environ=environment), sleep=sleeps.append)
        with pytest.raises(
            errors.EndpointUnreachable, match=r"ssm does not answer at http://127.*refused.*eu-west-1"
        ):
            client.call("ssm", "StartSession")
    assert len(sleeps) == CONNECT_ATTEMPTS - 1


def test_a_name_that_does_not_resolve(sleeps: list[float], stub: AwsStub) -> None:
    environment = stub.environment(AWS_ENDPOINT_URL="http://nowhere.invalid")
    with pytest.raises(errors.EndpointUnreachable, match=r"nowhere\.invalid"):
        Client(Session.open(environ=environment), sleep=sleeps.append).call(
            "ssm", "DescribeInstanceInformation"
        )


def test_a_hung_up_connection_is_not_tried_again_where_a_session_may_have_begun(
    stub: AwsStub, sleeps: list[float]
) -> None:
    accepted = 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        import threading

        def hang_up() -> None:
            nonlocal accepted
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                accepted += 1
                connection.recv(1 << 16)
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        environment = stub.environment(AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.getsockname()[1]}")
        client = Client(Session.open(environ=environment), sleep=sleeps.append)
        with pytest.raises(errors.EndpointUnreachable):
            client.call("ssm", "StartSession")
        assert accepted == 1
        with pytest.raises(errors.EndpointUnreachable):
            client.call("ssm", "TerminateSession")
        assert accepted == 1 + CONNECT_ATTEMPTS
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_a_slow_answer_is_given_up(stub: AwsStub, sleeps: list[float]) -> None:
    stub.delay = 5.0
    client = Client(Session.open(environ=stub.environment()), read_timeout=0.2, sleep=sleeps.append)
    with pytest.raises(errors.EndpointUnreachable, match="no answer in time"):
        client.call("ssm", "StartSession")


def test_who_we_are_is_asked_of_sts(stub: AwsStub, client: Client) -> None:
    answer = b"<GetCallerIdentityResult><UserId>AROAX:me</UserId></GetCallerIdentityResult>"
    stub.answers["GetCallerIdentity"] = lambda params: answer
    assert client.caller_id() == "AROAX:me"
    stub.answers["GetCallerIdentity"] = Refusal("AccessDenied")
    assert client.caller_id() is None


def test_connections_are_kept(stub: AwsStub, client: Client) -> None:
    stub.answers["ListTagsForResource"] = {}
    for _ in range(3):
        client.call("ssm", "ListTagsForResource")
    (http,) = client._http.values()
    pools = http._manager.pools
    assert sum(pools[key].num_connections for key in pools.keys()) == 1  # noqa: SIM118  # no mapping


def test_connections_that_may_be_dead_are_not_used_again(stub: AwsStub, client: Client) -> None:
    stub.answers["ListTagsForResource"] = {"TagList": []}
    connections = set()
    for _ in range(2):
        client.call("ssm", "ListTagsForResource", ResourceId="mi-1")
        connections |= set(client._http.values())
        client.forget_connections()
    assert len(connections) == 2


def test_neither_key_nor_token_is_logged(
    stub: AwsStub, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    stub.answers["StartSession"] = {"SessionId": "s", "TokenValue": "tok3n"}
    with caplog.at_level("DEBUG", "sagemaker_ssh_helper"):
        client.call("ssm", "StartSession", Target="mi-1")

    assert "StartSession" in caplog.text
    assert "tok3n" not in caplog.text
    assert "Signature" not in caplog.text


def _keys() -> Any:
    from sagemaker_ssh_helper.aws.session import Credentials

    return Credentials("a", "b")


def test_the_body_is_what_was_signed(stub: AwsStub, client: Client) -> None:
    stub.answers["StartSession"] = {}
    client.call("ssm", "StartSession", Target="mi-ü", Parameters={"portNumber": ["22"]})
    (asked,) = stub.asked
    assert json.loads(json.dumps(asked.params)) == {"Target": "mi-ü", "Parameters": {"portNumber": ["22"]}}


def test_a_call_is_repeated_once_with_credentials_that_are_new(stub: AwsStub, tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    text = "[default]\naws_access_key_id=AKIDOLD\naws_secret_access_key=s\n"
    path.write_text(text)
    environ = {**stub.environment(), "AWS_SHARED_CREDENTIALS_FILE": str(path)}
    del environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"]
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        client = Client(Session.open())
        refusals = iter([Refusal("ExpiredTokenException", "expired")] * 2)
        stub.answers["TerminateSession"] = lambda params: next(refusals, {"SessionId": "s"})

        with pytest.raises(errors.CredentialsExpired):
            client.call("ssm", "TerminateSession")
        assert len(stub.asked) == 1
        path.write_text(text.replace("AKIDOLD", "AKIDNEW"))
        assert client.call("ssm", "TerminateSession") == {"SessionId": "s"}

    used = [asked.headers["Authorization"].partition("=")[2].partition("/")[0] for asked in stub.asked]
    assert used == ["AKIDOLD", "AKIDOLD", "AKIDNEW"]
