"""Where the container's credentials come from, when they are renewed, and what is refused."""

from pathlib import Path
from typing import Any, Dict, List

import pytest

from agent.http_server import Reply, ScriptedServer, unused_port
from sagemaker_ssh_helper.agent.credentials import ContainerCredentials, parse_time
from sagemaker_ssh_helper.agent.sigv4 import Credentials
from sagemaker_ssh_helper.errors import CredentialsExpired, CredentialsMissing

pytestmark = pytest.mark.container

NOW = 1700000000.0  # 2023-11-14T22:13:20Z
IN_AN_HOUR = "2023-11-14T23:13:20Z"


def answer(name: str = "ASIAEXAMPLE", expiration: str = IN_AN_HOUR) -> Reply:
    body = {"AccessKeyId": name, "SecretAccessKey": "s", "Token": "t", "Expiration": expiration}
    return Reply(200, body)


class Clock:
    """A clock that moves when told, or by sleeping."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def provider(environ: Dict[str, str], clock: Any = None) -> ContainerCredentials:
    clock = clock or Clock()
    return ContainerCredentials(environ, now=clock, sleep=clock.sleep)


def test_keys_of_the_environment_win() -> None:
    environ = {
        "AWS_ACCESS_KEY_ID": "AKIA1",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "token",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://never.example/",
    }

    assert provider(environ).get() == Credentials("AKIA1", "secret", "token")


def test_container_endpoint_is_asked_with_its_token() -> None:
    with ScriptedServer(answer()) as server:
        environ = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": server.url + "/creds?id=1",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "Bearer x",
            "http_proxy": "http://127.0.0.1:1",
        }
        found = provider(environ).get()

    assert found == Credentials("ASIAEXAMPLE", "s", "t", NOW + 3600)
    assert server.requests[0].path == "/creds?id=1"
    assert server.requests[0].headers["authorization"] == "Bearer x"


def test_token_file_wins_and_is_read_each_time(tmp_path: Path) -> None:
    token = tmp_path / "token"
    clock = Clock()
    with ScriptedServer(answer()) as server:
        found = provider(
            {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": server.url,
                "AWS_CONTAINER_AUTHORIZATION_TOKEN": "old",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
            },
            clock,
        )
        for text in ("first", "second"):
            token.write_text(text)
            found.get()
            clock.now += 3500

    assert [request.headers["authorization"] for request in server.requests] == ["first", "second"]


def test_credentials_are_kept_until_ten_minutes_before_their_end() -> None:
    clock = Clock()
    with ScriptedServer(answer("ASIA1"), answer("ASIA2", "2023-11-15T01:00:00Z")) as server:
        found = provider({"AWS_CONTAINER_CREDENTIALS_FULL_URI": server.url}, clock)
        names = []
        for at in (0, 2999, 3001, 3002):
            clock.now = NOW + at
            names.append(found.get().access_key_id)

    assert names == ["ASIA1", "ASIA1", "ASIA2", "ASIA2"]
    assert len(server.requests) == 2


def test_failed_renewal_is_borne_until_the_last_minute() -> None:
    clock = Clock()
    with ScriptedServer(answer(), Reply(404)) as server:
        found = provider({"AWS_CONTAINER_CREDENTIALS_FULL_URI": server.url}, clock)
        found.get()
        for at in (3001, 3002, 3032):
            clock.now = NOW + at
            assert found.get().access_key_id == "ASIAEXAMPLE"
        requests_before_the_end = len(server.requests)
        clock.now = NOW + 3541
        with pytest.raises(CredentialsExpired, match="ran out and cannot be renewed"):
            found.get()

    assert requests_before_the_end == 3


def test_server_errors_are_tried_again_and_refusals_are_not() -> None:
    with ScriptedServer(Reply(500), Reply(429), answer()) as server:
        provider({"AWS_CONTAINER_CREDENTIALS_FULL_URI": server.url}).get()
    refusing = ScriptedServer(Reply(403), answer())
    with refusing, pytest.raises(CredentialsMissing, match="it answered 403"):
        provider({"AWS_CONTAINER_CREDENTIALS_FULL_URI": refusing.url}).get()

    assert len(server.requests) == 3
    assert len(refusing.requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://credentials.example/",
        "http://10.0.0.1/",
        "http://127.0.0.1.example/",
        "ftp://localhost/",
        "//localhost/",
        "https://",
    ],
)
def test_exposed_endpoints_are_refused(url: str) -> None:
    with pytest.raises(CredentialsMissing, match="not trusted"):
        provider({"AWS_CONTAINER_CREDENTIALS_FULL_URI": url}).get()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"AccessKeyId":"a"}',
        b'{"AccessKeyId":"a","SecretAccessKey":"b","Expiration":"soon"}',
    ],
)
def test_other_answers_are_refused_without_quoting_them(body: bytes) -> None:
    server = ScriptedServer(Reply(200, body))
    with server, pytest.raises(CredentialsMissing, match="something else than credentials") as caught:
        provider({"AWS_CONTAINER_CREDENTIALS_FULL_URI": server.url}).get()

    assert "soon" not in str(caught.value)


def test_token_with_a_line_break_is_refused() -> None:
    environ = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://localhost:1/",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "a\r\nX-Injected: b",
    }

    with pytest.raises(CredentialsMissing, match="line end"):
        provider(environ).get()


def test_token_file_that_is_missing_is_named(tmp_path: Path) -> None:
    environ = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://localhost:1/",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "none"),
    }

    with pytest.raises(CredentialsMissing, match="none cannot be read"):
        provider(environ).get()


def test_instance_metadata_is_the_last_resort() -> None:
    replies: List[Reply] = [Reply(200, b"the-token"), Reply(200, b"the-role\n"), answer("ASIAMETA")]
    with ScriptedServer(*replies) as server:
        found = provider({"AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url + "/"}).get()

    roles = "/latest/meta-data/iam/security-credentials/"
    assert found.access_key_id == "ASIAMETA"
    assert [(request.method, request.path) for request in server.requests] == [
        ("PUT", "/latest/api/token"),
        ("GET", roles),
        ("GET", roles + "the-role"),
    ]
    assert server.requests[2].headers["x-aws-ec2-metadata-token"] == "the-token"


def test_no_metadata_service_means_no_credentials() -> None:
    environ = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{unused_port()}"}

    with pytest.raises(CredentialsMissing, match=r"neither keys nor a credentials endpoint .*refused"):
        provider(environ).get()


def test_metadata_is_not_asked_when_it_is_disabled() -> None:
    with ScriptedServer() as server:
        environ = {
            "AWS_EC2_METADATA_DISABLED": "TRUE",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url,
        }
        with pytest.raises(CredentialsMissing, match="AWS_EC2_METADATA_DISABLED is true"):
            provider(environ).get()

    assert server.requests == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("2023-11-14T22:13:20.25Z", NOW + 0.25),
        ("2023-11-14T22:13:20+00:00", NOW),
    ],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "2023-11-14", "2023-11-14T22:13:20", "2023-11-14T22:13:20+01:00", "x"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no time in UTC"):
        parse_time(text)
