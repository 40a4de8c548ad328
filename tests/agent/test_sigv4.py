"""Signatures against the example of AWS's documentation and a captured request; see also the oracle."""

import hashlib

import pytest

from sagemaker_ssh_helper.agent.sigv4 import Credentials, Scope, host_of, sign, string_to_sign

pytestmark = pytest.mark.container

CREDENTIALS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
NOW = 1440938160.0  # 2015-08-30T12:36:00Z


def test_public_example_gives_the_published_signature() -> None:
    """The ListUsers request that AWS's guide to Signature Version 4 works through."""
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    url = "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08"

    added = sign(CREDENTIALS, Scope(NOW, "us-east-1", "iam"), "GET", url, headers)

    assert added == {
        "X-Amz-Date": "20150830T123600Z",
        "Authorization": (
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
            "SignedHeaders=content-type;host;x-amz-date, "
            "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        ),
    }


def test_string_to_sign_of_a_role_token_request() -> None:
    """The inputs of a request recorded from a managed instance."""
    body = b'{"Fingerprint":"8d65cea3-169b-4fe0-a7da-7dc1c3b72f6b"}'
    headers = {
        "Host": "127.0.0.1:8080",
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Date": "20261122T063600Z",
        "X-Amz-Target": "AmazonSSM.RequestManagedInstanceRoleToken",
    }
    scope = Scope(1795329360.0, "us-east-1", "ssm")

    text = string_to_sign(scope, "POST", "http://127.0.0.1:8080/", headers, body)

    body_hash = "6c59e8b3a62bca1bf9cb816e1333535c64e4442e83f243cd5370fb1c9947812a"
    assert hashlib.sha256(body).hexdigest() == body_hash
    assert text.split("\n") == [
        "AWS4-HMAC-SHA256",
        "20261122T063600Z",
        "20261122/us-east-1/ssm/aws4_request",
        "aa6656a4c8d499dd9ef9449d391ab16c0b7b8b41a2aec859b1a50922f913b131",
    ]


def test_session_token_is_sent_and_signed() -> None:
    temporary = Credentials("ASIAEXAMPLE", "secret", "token")

    added = sign(temporary, Scope(NOW, "us-east-1", "ssm"), "POST", "https://ssm.us-east-1.amazonaws.com/")

    assert added["X-Amz-Security-Token"] == "token"
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token," in added["Authorization"]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://ssm.eu-west-1.amazonaws.com/", "ssm.eu-west-1.amazonaws.com"),
        ("https://localhost:443/", "localhost"),
        ("wss://localhost:443/v1", "localhost"),
        ("http://localhost:80", "localhost"),
        ("http://localhost:443/", "localhost:443"),
        ("ws://[::1]:8080/x", "[::1]:8080"),
    ],
)
def test_host_names_the_port_only_when_it_is_unusual(url: str, host: str) -> None:
    assert host_of(url) == host


def test_credentials_do_not_print_their_secrets() -> None:
    text = repr(Credentials("AKIDEXAMPLE", "the-secret", "the-token", 1.0))

    assert "AKIDEXAMPLE" in text
    assert "the-secret" not in text
    assert "the-token" not in text
