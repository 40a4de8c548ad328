"""What Systems Manager is told: tags that it takes, and the role."""

import base64
import re

import pytest

from agent.fake_aws import FakeAws
from sagemaker_ssh_helper import __version__
from sagemaker_ssh_helper.agent.activation import clean, iam_role, tags
from sagemaker_ssh_helper.agent.aws_api import AwsApi, Identity
from sagemaker_ssh_helper.agent.resource import Resource
from sagemaker_ssh_helper.agent.sigv4 import Credentials
from sagemaker_ssh_helper.errors import LocalSetup, ServiceError
from sagemaker_ssh_helper.names import ResourceKind
from sagemaker_ssh_helper.public_keys import PublicKey

pytestmark = pytest.mark.container

# What the service's documentation allows in a tag's value.
ALLOWED = re.compile(r"[\w\s.:/=+\-@]{0,256}")


def key_number(number):
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes([number]) * 32
    return PublicKey.parse(f"ssh-ed25519 {base64.b64encode(blob).decode()}")


def made_tags(environ, resource=None, **changes):
    given = {"identity": None, "host_key": key_number(0), "port": 22, "user": "root", "keys": [], "now": 1.9}
    resource = resource or Resource(ResourceKind.TRAINING, "job", "arn:aws:sagemaker:r:1:training-job/job", 1)
    return tags(resource, environ, **{**given, **changes})


# --- tags ---


def test_a_node_has_a_tag_for_everything_that_is_known():
    environ = {"SSH_OWNER_TAG": "AROA:jane@example.com", "SSH_LAUNCH_ID": "0f" * 16}

    found = made_tags(
        environ, identity=Identity("AROA:SageMaker", "arn"), keys=[key_number(1), key_number(2)]
    )

    assert found == {
        "SSHOwner": "AROA:jane@example.com",
        "SSHCreator": "AROA:SageMaker",
        "SSHTimestamp": "1",
        "SSHResourceName": "job",
        "SSHResourceArn": "arn:aws:sagemaker:r:1:training-job/job",
        "SSHHostKey": key_number(0).line,
        "SSHPort": "22",
        "SSHUser": "root",
        "SSHNode": "algo-2",
        "SSHLaunchId": "0f" * 16,
        "SSHKeys": f"{key_number(1).fingerprint} {key_number(2).fingerprint}",
        "SSHVersion": __version__,
    }


def test_what_is_not_known_has_no_tag():
    found = made_tags({}, Resource(ResourceKind.INFERENCE, "n", "", 0))

    assert set(found) == {
        "SSHTimestamp",
        "SSHResourceName",
        "SSHHostKey",
        "SSHPort",
        "SSHUser",
        "SSHNode",
        "SSHVersion",
    }


@pytest.mark.parametrize("owner", ["a,b;c", 'x"y', "tab\tnewline\n", "Jörg Müller", "🐍", "a" * 300, "$(id)"])
def test_every_value_is_one_that_a_tag_may_have(owner):
    found = made_tags({"SSH_OWNER_TAG": owner}, keys=[key_number(number) for number in range(40)])

    assert all(ALLOWED.fullmatch(value) for value in found.values())
    assert len(found["SSHOwner"]) == min(len(owner), 256)


def test_more_keys_than_a_tag_holds_are_cut_between_two():
    keys = [key_number(number) for number in range(40)]

    words = made_tags({}, keys=keys)["SSHKeys"].split(" ")

    assert words == [key.fingerprint for key in keys][: len(words)]
    assert len(words) == 15


def test_good_text_is_kept_as_it_is():
    text = "AIDA:me@example.com a_b.c:d/e=f+g-h Ünï"

    assert clean(text) == text


# --- the role ---


IDENTITY = Identity("AROA:x", "arn:aws:sts::1:assumed-role/JobRole/SageMaker")


@pytest.mark.parametrize(
    ("given", "role"),
    [
        ("MyRole", "MyRole"),
        ("service-role/MyRole", "service-role/MyRole"),
        ("arn:aws:iam::1:role/service-role/MyRole", "service-role/MyRole"),
        ("arn:aws-cn:iam::1:role/MyRole", "MyRole"),
        ("", "JobRole"),
        ("  ", "JobRole"),
    ],
)
def test_the_role_is_the_launchs_else_the_containers_own(given, role):
    assert iam_role({"SSH_SSM_ROLE": given}, IDENTITY) == role


@pytest.mark.parametrize("identity", [None, Identity("AIDA", "arn:aws:iam::1:user/jane"), Identity("", "")])
def test_without_any_role_the_launch_must_name_one(identity):
    with pytest.raises(LocalSetup, match="no IAM role for the managed instance") as caught:
        iam_role({}, identity)

    assert "SSH_SSM_ROLE" in str(caught.value)


def test_a_role_name_that_the_service_would_refuse_is_refused_here():
    assert iam_role({"SSH_SSM_ROLE": "r" * 64}, None) == "r" * 64
    with pytest.raises(LocalSetup, match="longer than the 64"):
        iam_role({"SSH_SSM_ROLE": "r" * 65}, None)


# --- who the container is ---


def identity_from(aws):
    environ = {"AWS_ENDPOINT_URL": aws.url, "NO_PROXY": "*"}
    return AwsApi("eu-west-1", lambda: Credentials("AKIA", "secret"), environ=environ).caller_identity()


def test_sts_tells_who_the_container_is():
    with FakeAws() as aws:
        found = identity_from(aws)

    assert found == Identity(
        "AROAEXAMPLE:SageMaker", "arn:aws:sts::111122223333:assumed-role/JobRole/SageMaker"
    )


@pytest.mark.parametrize(
    "answer",
    [
        (403, "<ErrorResponse><Error><Code>InvalidClientTokenId</Code></Error></ErrorResponse>"),
        (200, "?"),
        (500, ""),
    ],
)
def test_an_answer_without_an_identity_is_an_error(answer):
    with FakeAws() as aws:
        aws.answers["GetCallerIdentity"] = answer
        with pytest.raises(ServiceError, match="GetCallerIdentity failed") as caught:
            identity_from(aws)

    assert caught.value.code in ("InvalidClientTokenId", "HTTP 200", "HTTP 500")
