"""A clock that is hours off: every signed call takes the time of the service's answer, and goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from aws_stub import AwsStub, Refusal
from sagemaker_ssh_helper.aws import permissions
from sagemaker_ssh_helper.aws.json_rpc import Caller, Client
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.client.s3_delivery import put_key
from sagemaker_ssh_helper.errors import KeyNotDelivered

ASSUMED = b"""<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAEXAMPLE</AccessKeyId>
<SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken>
<Expiration>%b</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"""
SIMULATED = b"""<SimulatePrincipalPolicyResponse><SimulatePrincipalPolicyResult><EvaluationResults>
</EvaluationResults></SimulatePrincipalPolicyResult></SimulatePrincipalPolicyResponse>"""
CALLER = b"<GetCallerIdentityResponse><UserId>AIDA</UserId></GetCallerIdentityResponse>"


@pytest.fixture(params=[-7200.0, 7200.0], autouse=True)
def other_clock(request: pytest.FixtureRequest, stub: AwsStub, monkeypatch: pytest.MonkeyPatch) -> float:
    for name, value in stub.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    stub.ahead = float(request.param)
    return stub.ahead


@pytest.mark.parametrize(
    ("service", "operation"),
    [
        ("ssm", "StartSession"),
        ("ssm", "ResumeSession"),
        ("ssm", "SendCommand"),
        ("sagemaker", "StartSession"),
        ("sagemaker", "DescribeTrainingJob"),
        ("logs", "FilterLogEvents"),
        ("kms", "GenerateDataKey"),
    ],
)
def test_a_call_of_ours_is_signed_anew(stub: AwsStub, client: Client, service: str, operation: str) -> None:
    stub.answers[operation] = {"a": "b"}
    assert client.call(service, operation) == {"a": "b"}
    assert client.call(service, operation) == {"a": "b"}
    assert len(stub.asked) == 3, "the time is known from the first answer on"


def test_who_we_are_is_known_by_the_service_s_time(stub: AwsStub, client: Client) -> None:
    stub.answers["GetCallerIdentity"] = lambda _: CALLER
    assert client.caller().user_id == "AIDA"


def test_a_key_is_put_into_s3(stub: AwsStub) -> None:
    stub.answers["PutObject"] = lambda _: b""
    assert put_key(Session.open(), "s3://the-bucket/keys", "ssh-ed25519 AAAA").startswith("s3://the-bucket/keys/")
    assert stub.operations == ["PutObject"] * 3


def test_iam_s_simulator_answers(stub: AwsStub) -> None:
    stub.answers["SimulatePrincipalPolicy"] = lambda _: SIMULATED
    caller = Caller("111122223333", "arn:aws:iam::111122223333:user/jane", "AIDA")
    assert permissions.missing(Session.open(), caller) == []


def test_a_role_s_keys_are_fetched_from_sts(
    stub: AwsStub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other_clock: float
) -> None:
    """They have expired by our clock, or seem to live for ever."""
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + other_clock + 3600)).encode()
    stub.answers["AssumeRole"] = lambda _: ASSUMED % ends
    stub.answers["GetCallerIdentity"] = lambda _: CALLER
    (tmp_path / "config").write_text(
        "[profile r]\nrole_arn = arn:aws:iam::111122223333:role/r\nsource_profile = base\n"
        "[profile base]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = secret\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    session = Session.open("r")
    assert session.credentials().access_key == "ASIAEXAMPLE"
    assert stub.operations == ["AssumeRole", "AssumeRole"]
    assert Client(session).caller().user_id == "AIDA"
    assert stub.operations[2:] == ["GetCallerIdentity"], "the skew was learned on the way"


def test_what_a_right_time_does_not_mend_is_the_error_it_was(stub: AwsStub) -> None:
    body = b"<Error><Code>SignatureDoesNotMatch</Code><Message>really</Message></Error>"
    stub.answers["PutObject"] = Refusal("", status=403, body=body)
    with pytest.raises(KeyNotDelivered, match="SignatureDoesNotMatch: really"):
        put_key(Session.open(), "s3://the-bucket/keys", "ssh-ed25519 AAAA")
    assert stub.operations == ["PutObject"] * 2
