"""Our signatures are botocore's."""

import datetime
import random
from typing import Dict, Tuple
from unittest import mock

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials

from sagemaker_ssh_helper.agent.sigv4 import Credentials, Scope, host_of, sign

NOW = 1700000000.0


def botocore_authorization(
    credentials: Credentials, service: str, method: str, url: str, headers: Dict[str, str], body: bytes
) -> Tuple[str, str]:
    request = AWSRequest(method=method, url=url, headers=headers, data=body)
    theirs = BotocoreCredentials(
        credentials.access_key_id, credentials.secret_access_key, credentials.session_token
    )
    at = datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc)
    with mock.patch("botocore.auth.get_current_datetime", return_value=at):
        botocore.auth.SigV4Auth(theirs, service, "eu-central-1").add_auth(request)
    return request.headers["Authorization"], request.headers["X-Amz-Date"]


@pytest.mark.parametrize("token", [None, "IQoJb3JpZ2lu//////+=="])
@pytest.mark.parametrize(
    ("service", "method", "url", "headers", "body"),
    [
        (
            "ssm",
            "POST",
            "https://ssm.eu-central-1.amazonaws.com/",
            {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.CreateActivation"},
            b'{"IamRole":"r"}',
        ),
        (
            "ssmmessages",
            "POST",
            "https://localhost:8443/v1/data-channel/o.brien+x%40y.org-0a1b",
            {"Content-Type": "application/json"},
            b"{}",
        ),
        (
            "ssmmessages",
            "GET",
            "wss://localhost:8443/v1/control-channel/mi-0123456789abcdef0?role=subscribe&stream=input",
            {},
            b"",
        ),
        ("ssmmessages", "GET", "ws://localhost:8080/v1/data-channel/a%20b?role=publish_subscribe", {}, b""),
    ],
)
def test_same_as_botocore(
    token: str, service: str, method: str, url: str, headers: Dict[str, str], body: bytes
) -> None:
    credentials = Credentials("AKIDEXAMPLE", "secret/+key", token)

    expected, date = botocore_authorization(
        credentials, service, method, url, {"Host": host_of(url), **headers}, body
    )
    added = sign(credentials, Scope(NOW, "eu-central-1", service), method, url, headers, body)

    assert added["X-Amz-Date"] == date
    assert added["Authorization"] == expected


def test_same_as_botocore_for_random_session_ids() -> None:
    source = random.Random(4)
    credentials = Credentials("AKIDEXAMPLE", "secret", None)
    for _ in range(200):
        name = "".join(source.choice("abcXYZ019-_.~%24%2B%3D") for _ in range(12)).replace("%", "%25")
        url = f"https://localhost/v1/data-channel/{name}?role=publish_subscribe"

        expected, _ = botocore_authorization(
            credentials, "ssmmessages", "GET", url, {"Host": host_of(url)}, b""
        )
        added = sign(credentials, Scope(NOW, "eu-central-1", "ssmmessages"), "GET", url)

        assert added["Authorization"] == expected
