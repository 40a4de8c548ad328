"""The agent's calls as they go over the wire, and what becomes of AWS's answers."""

import base64
import hashlib
import re
from email.utils import formatdate
from pathlib import Path
from typing import Any, Callable, Dict, List
from urllib.parse import urlsplit

import pytest

from agent.http_server import Reply, ScriptedServer, aws_error, unused_port
from sagemaker_ssh_helper.agent import rsa
from sagemaker_ssh_helper.agent.aws_api import (
    SESSION_TERMINATED,
    SIGNATURES,
    Activation,
    AwsApi,
    Identity,
    Retry,
    dns_suffix,
    endpoint_url,
)
from sagemaker_ssh_helper.agent.sigv4 import Credentials, Scope, sign, string_to_sign
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    AdvancedTierOff,
    AwsError,
    CredentialsExpired,
    EndpointUnreachable,
    ServiceError,
    Throttled,
)
from sagemaker_ssh_helper.names import InstanceId

pytestmark = pytest.mark.container

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "agent.md"
NOW = 1700000000.0
MI = InstanceId("mi-0123456789abcdef0")
CREDENTIALS = Credentials("ASIAEXAMPLE", "secret", "session-token")
TOKEN_XML = b"<R xmlns='urn:x'><MessageSchemaVersion/><TokenValue>tok</TokenValue></R>"


class Recorder:
    """Sleeps at once, and remembers how long it was asked to."""

    def __init__(self) -> None:
        self.pauses: List[float] = []

    def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)


def api(url: str, sleep: Any = None, **options: Any) -> AwsApi:
    return AwsApi(
        "eu-west-1",
        lambda: CREDENTIALS,
        environ={"AWS_ENDPOINT_URL": url},
        now=lambda: NOW,
        sleep=sleep or Recorder(),
        chance=lambda: 1.0,
        **options,
    )


def test_activation_carries_role_name_and_tags() -> None:
    with ScriptedServer(Reply(200, {"ActivationId": "a-id", "ActivationCode": "a-code"})) as server:
        activation = api(server.url).create_activation(
            "Role", "algo-1.j.training.sagemaker", {"SSHOwner": "me"}
        )

    request = server.requests[0]
    assert activation == Activation("a-id", "a-code")
    assert "a-code" not in repr(activation)
    assert request.json == {
        "IamRole": "Role",
        "DefaultInstanceName": "algo-1.j.training.sagemaker",
        "Description": "algo-1.j.training.sagemaker",
        "RegistrationLimit": 1,
        "Tags": [{"Key": "SSHOwner", "Value": "me"}],
    }
    assert request.headers["content-type"] == "application/x-amz-json-1.1"
    assert request.headers["x-amz-target"] == "AmazonSSM.CreateActivation"
    assert request.headers["x-amz-security-token"] == "session-token"
    expected = sign(
        CREDENTIALS,
        Scope(NOW, "eu-west-1", "ssm"),
        "POST",
        server.url + "/",
        {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.CreateActivation"},
        request.body,
    )
    assert request.headers["authorization"] == expected["Authorization"]


def test_registration_is_not_signed() -> None:
    with ScriptedServer(Reply(200, {"InstanceId": MI})) as server:
        client = AwsApi("eu-west-1", environ={"AWS_ENDPOINT_URL_SSM": server.url})
        instance_id = client.register_managed_instance(Activation("id", "code"), "finger", "public")

    assert instance_id == MI
    assert server.requests[0].json == {
        "ActivationCode": "code",
        "ActivationId": "id",
        "Fingerprint": "finger",
        "PublicKey": "public",
        "PublicKeyType": "Rsa",
    }
    assert {"authorization", "x-amz-date"} & set(server.requests[0].headers) == set()


@pytest.fixture(scope="module")
def key() -> rsa.PrivateKey:
    return rsa.generate(["python"])


def verify_rsa(key: rsa.PrivateKey, request: Any, url: str) -> None:
    """The signature of a managed instance's request is what the service would check."""
    scheme, _, rest = request.headers["authorization"].partition(" ")
    fields = dict(part.split("=", 1) for part in rest.split(", "))
    signed = {name: request.headers[name] for name in fields["SignedHeaders"].split(";")}
    text = string_to_sign(Scope(NOW, "eu-west-1", "ssm"), "POST", url + "/", signed, request.body)
    signature = int.from_bytes(base64.b64decode(fields["Signature"]), "big")
    encoded = pow(signature, key.e, key.n).to_bytes(256, "big")
    mask = rsa._mask(encoded[223:255], 223)
    salt = bytes(a ^ b for a, b in zip(encoded[:223], mask))[-32:]

    assert scheme == "AWS4-HMAC-SHA256"
    assert fields["Credential"] == f"{MI}/20231114/eu-west-1/ssm/aws4_request"
    assert fields["SignedHeaders"] == "content-type;host;x-amz-date;x-amz-target"
    assert request.headers["x-amz-content-sha256"] == hashlib.sha256(request.body).hexdigest()
    assert encoded == rsa._encode_pss(text.encode(), salt, 2047)


def test_role_token_request_is_signed_with_the_key_and_sent_in_chunks(key: rsa.PrivateKey) -> None:
    token = {
        "AccessKeyId": "ASIANODE",
        "SecretAccessKey": "s",
        "SessionToken": "t",
        "TokenExpirationDate": NOW + 3600.5,
        "UpdateKeyPair": True,
    }
    with ScriptedServer(Reply(200, token)) as server:
        found = api(server.url).request_role_token(MI, "finger", key)

    request = server.requests[0]
    assert found.credentials == Credentials("ASIANODE", "s", "t", NOW + 3600.5)
    assert found.update_key_pair
    assert request.json == {"Fingerprint": "finger"}
    assert request.headers["transfer-encoding"] == "chunked"
    assert "x-amz-security-token" not in request.headers
    verify_rsa(key, request, server.url)


def test_new_public_key_is_signed_with_the_old_one(key: rsa.PrivateKey) -> None:
    with ScriptedServer(Reply(200, {})) as server:
        api(server.url).update_public_key(MI, key, "new-public-key")

    assert server.requests[0].json == {"NewPublicKey": "new-public-key", "NewPublicKeyType": "Rsa"}
    verify_rsa(key, server.requests[0], server.url)


@pytest.mark.parametrize("missing", ["AccessKeyId", "SecretAccessKey", "SessionToken", "TokenExpirationDate"])
def test_incomplete_role_token_is_refused(key: rsa.PrivateKey, missing: str) -> None:
    token: Dict[str, Any] = {
        "AccessKeyId": "a",
        "SecretAccessKey": "s",
        "SessionToken": "t",
        "TokenExpirationDate": 1,
    }
    del token[missing]
    server = ScriptedServer(Reply(200, token))
    with server, pytest.raises(ServiceError, match=f"gave no {missing}"):
        api(server.url).request_role_token(MI, "finger", key)

    assert len(server.requests) == 1


def test_heartbeat_is_short_first_and_full_later() -> None:
    with ScriptedServer(Reply(200, b"")) as server:
        client = api(server.url)
        client.update_instance_information(MI)
        client.update_instance_information(MI, {"ComputerName": "box", "IPAddress": "10.0.0.1"})

    short = {
        "AgentName": "amazon-ssm-agent",
        "AgentVersion": "3.3.4515.0",
        "InstanceId": MI,
        "PlatformType": "Linux",
    }
    assert [request.json for request in server.requests] == [
        short,
        {**short, "ComputerName": "box", "IPAddress": "10.0.0.1"},
    ]


def test_deregistration_names_the_instance() -> None:
    with ScriptedServer(Reply(200, {})) as server:
        api(server.url).deregister_managed_instance(MI)

    assert server.requests[0].headers["x-amz-target"] == "AmazonSSM.DeregisterManagedInstance"
    assert server.requests[0].json == {"InstanceId": MI}


def test_channels_are_created_by_signed_posts() -> None:
    with ScriptedServer(Reply(201, TOKEN_XML)) as server:
        client = api(server.url)
        tokens = [client.create_control_channel(MI), client.create_data_channel("o brien-0a1b")]

    control, data = server.requests
    assert tokens == ["tok", "tok"]
    assert (control.method, control.path) == ("POST", f"/v1/control-channel/{MI}")
    assert (data.method, data.path) == ("POST", "/v1/data-channel/o%20brien-0a1b")
    assert list(control.json) == ["MessageSchemaVersion", "RequestId"]
    assert list(data.json) == ["MessageSchemaVersion", "RequestId", "ClientId"]
    for request in (control, data):
        expected = sign(
            CREDENTIALS,
            Scope(NOW, "eu-west-1", "ssmmessages"),
            "POST",
            server.url + request.path,
            {"Content-Type": "application/json"},
            request.body,
        )
        assert request.headers["authorization"] == expected["Authorization"]


def test_upgrades_are_signed_for_the_gateway() -> None:
    client = api("https://localhost:8443")

    control, data = client.control_channel_upgrade(MI), client.data_channel_upgrade("s-1")

    assert control.url == f"wss://localhost:8443/v1/control-channel/{MI}?role=subscribe&stream=input"
    assert data.url == "wss://localhost:8443/v1/data-channel/s-1?role=publish_subscribe"
    for upgrade in (control, data):
        expected = sign(CREDENTIALS, Scope(NOW, "eu-west-1", "ssmmessages"), "GET", upgrade.url)
        assert {name: upgrade.headers[name] for name in expected} == expected
        assert "session-token" not in repr(upgrade)
    assert api("http://localhost:80").control_channel_upgrade(MI).url.startswith("ws://localhost/v1/")


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        (Reply(200, TOKEN_XML), ServiceError, "refused a data-channel"),
        (Reply(201, b"<R><TokenValue/></R>"), ServiceError, "gave no token"),
        (Reply(201, b'{"TokenValue":"tok"}'), ServiceError, "gave no token"),
        (Reply(400, f"<E>{SESSION_TERMINATED}</E>".encode()), ServiceError, SESSION_TERMINATED),
        (Reply(403, b"<AccessDeniedException>no</AccessDeniedException>"), AccessDenied, "no"),
        (Reply(400, b'{"__type":"ThrottlingException"}'), Throttled, "ThrottlingException"),
        (Reply(429, b""), Throttled, "429"),
        (Reply(403, b"ExpiredTokenException"), CredentialsExpired, "ExpiredTokenException"),
    ],
)
def test_refusals_of_the_gateway_become_our_errors(reply: Reply, kind: type, text: str) -> None:
    with ScriptedServer(reply) as server, pytest.raises(kind, match=text):
        api(server.url).create_data_channel("s-1")

    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (aws_error("AccessDeniedException", "User: x is not authorized"), AccessDenied),
        (aws_error("com.amazon.ssm#AccessDeniedException", "User: x is not authorized"), AccessDenied),
        (aws_error("ExpiredTokenException", "not authorized: too late"), CredentialsExpired),
        (aws_error("ValidationException", "not authorized: Advanced-instances tier"), AdvancedTierOff),
        (Reply(400, b"", {"x-amzn-ErrorType": "AccessDeniedException:http://x"}), AccessDenied),
    ],
)
def test_refusals_become_our_errors_at_once(reply: Reply, kind: type) -> None:
    with ScriptedServer(reply) as server, pytest.raises(kind, match=r"^CreateActivation failed"):
        api(server.url).create_activation("r", "n", {})

    assert len(server.requests) == 1


def test_other_errors_keep_code_and_text() -> None:
    server = ScriptedServer(aws_error("InvalidActivation", "The activation ID is not valid"))
    with server, pytest.raises(ServiceError) as caught:
        api(server.url).register_managed_instance(Activation("i", "c"), "f", "p")

    assert caught.value.code == "InvalidActivation"
    assert str(caught.value) == (
        "RegisterManagedInstance failed (InvalidActivation: The activation ID is not valid)"
    )


@pytest.mark.parametrize(
    ("reply", "kind", "pauses"),
    [
        (aws_error("ThrottlingException", "Rate exceeded"), Throttled, [1.0, 2.0, 4.0]),
        (Reply(503, b"<html>busy"), ServiceError, [0.25, 0.5, 1.0]),
        (aws_error("InternalServerError", "", 500), ServiceError, [0.25, 0.5, 1.0]),
        (Reply(hang_up=True), EndpointUnreachable, [0.25, 0.5, 1.0]),
    ],
)
def test_passing_troubles_are_tried_four_times(reply: Reply, kind: type, pauses: List[float]) -> None:
    sleep = Recorder()
    with ScriptedServer(reply) as server, pytest.raises(kind):
        api(server.url, sleep).update_instance_information(MI)

    assert len(server.requests) == 4
    assert sleep.pauses == pauses


EXPIRED = aws_error("ExpiredTokenException", "The security token included in the request is expired")
NEWER_KEYS_CALLS = [
    pytest.param(
        lambda found: found.create_data_channel("s-1"),
        Reply(201, b"<R><TokenValue>t</TokenValue></R>"),
        id="gateway",
    ),
    pytest.param(lambda found: found.update_instance_information(MI), Reply(200, {}), id="ssm"),
    pytest.param(lambda found: found.get_messages(MI), Reply(200, {"Messages": []}), id="ec2messages"),
    pytest.param(lambda found: found.decrypt("k", b"c", {}), Reply(200, {"Plaintext": "cA=="}), id="kms"),
]


@pytest.mark.parametrize(("call", "good"), NEWER_KEYS_CALLS)
@pytest.mark.parametrize("refusal", [EXPIRED, aws_error("UnrecognizedClientException", "", 403)])
def test_credentials_that_are_not_taken_any_more_are_renewed_once_in_a_call(
    call: Callable[[AwsApi], object], good: Reply, refusal: Reply
) -> None:
    keys = ["OLD"]

    def renew() -> bool:
        keys[0] = "NEW"
        return True

    with ScriptedServer(refusal, good) as server:
        call(
            AwsApi(
                "eu-west-1",
                lambda: Credentials(keys[0], "secret"),
                renew=renew,
                environ={"AWS_ENDPOINT_URL": server.url},
            )
        )

    used = [asked.headers["authorization"].partition("Credential=")[2][:3] for asked in server.requests]
    assert used == ["OLD", "NEW"]


@pytest.mark.parametrize("is_renewed", [True, False])
def test_credentials_that_are_never_taken_are_not_renewed_for_ever(is_renewed: bool) -> None:
    with ScriptedServer(EXPIRED) as server, pytest.raises(CredentialsExpired):
        AwsApi(
            "eu-west-1",
            lambda: Credentials("AKID", "secret"),
            renew=lambda: is_renewed,
            environ={"AWS_ENDPOINT_URL": server.url},
        ).update_instance_information(MI)

    assert len(server.requests) == (SIGNATURES if is_renewed else 1)


def test_throttling_is_named_in_the_error() -> None:
    server = ScriptedServer(aws_error("ThrottlingException", "Rate exceeded"))
    with server, pytest.raises(Throttled, match=r"\(ThrottlingException: Rate exceeded\)"):
        api(server.url, retry=Retry(attempts=1)).deregister_managed_instance(MI)

    assert len(server.requests) == 1


def test_call_succeeds_after_passing_troubles() -> None:
    replies = [Reply(500), aws_error("ThrottlingException"), Reply(200, {"InstanceId": MI})]
    with ScriptedServer(*replies) as server:
        found = api(server.url).register_managed_instance(Activation("i", "c"), "f", "p")

    assert found == MI
    assert len(server.requests) == 3


def test_refused_connections_are_tried_again_too() -> None:
    sleep = Recorder()

    with pytest.raises(EndpointUnreachable, match="refused"):
        api(f"http://127.0.0.1:{unused_port()}", sleep).deregister_managed_instance(MI)

    assert len(sleep.pauses) == 3


def test_pauses_are_random_parts_of_a_limit_with_a_cap() -> None:
    retry = Retry(delay=0.25, throttled_delay=1.0, max_delay=8.0)

    assert retry.pause(0, AwsError("x"), 0.5) == 0.125
    assert retry.pause(1, Throttled("x"), 0.25) == 0.5
    assert retry.pause(20, Throttled("x"), 1.0) == 8.0


def test_the_first_pause_after_throttling_is_the_callers_place_in_the_line() -> None:
    line = [Retry(place=place) for place in (0.23, 0.46)]

    assert [retry.pause(0, Throttled("x"), 0.0) for retry in line] == [0.23, 0.46]
    assert [retry.pause(0, Throttled("x"), 1.0) for retry in line] == pytest.approx([0.46, 0.69])
    # A second time the line is in disorder; other troubles know no line.
    assert line[1].pause(1, Throttled("x"), 0.5) == 1.0
    assert line[1].pause(0, AwsError("x"), 0.5) == 0.125


def test_wrong_clock_is_corrected_by_the_service(caplog: pytest.LogCaptureFixture) -> None:
    late = Reply(400, {"__type": "InvalidSignatureException"}, {"Date": formatdate(NOW + 1200, usegmt=True)})
    with ScriptedServer(late, Reply(200, {})) as server:
        client = api(server.url)
        client.deregister_managed_instance(MI)
        client.deregister_managed_instance(MI)

    dates = [request.headers["x-amz-date"] for request in server.requests]
    assert dates == ["20231114T221320Z", "20231114T223320Z", "20231114T223320Z"]
    assert "the clock of this container is -1200 s off" in caplog.text


def test_an_activation_ends_by_the_services_clock() -> None:
    late = Reply(400, {"__type": "InvalidSignatureException"}, {"Date": formatdate(NOW + 7200, usegmt=True)})
    with ScriptedServer(late, Reply(200, {"ActivationId": "a", "ActivationCode": "c"})) as server:
        api(server.url).create_activation("r", "n", {}, lifetime=3600.0)

    assert [request.json["ExpirationDate"] for request in server.requests] == [NOW + 3600, NOW + 10800]


def test_who_the_container_is_can_be_asked_with_a_wrong_clock() -> None:
    late = Reply(
        403,
        b"<Error><Code>SignatureDoesNotMatch</Code></Error>",
        {"Date": formatdate(NOW + 1200, usegmt=True)},
    )
    who = b"<Arn>arn:aws:sts::1:assumed-role/R/S</Arn><UserId>AROA:S</UserId>"
    with ScriptedServer(late, Reply(200, who)) as server:
        found = api(server.url).caller_identity()

    assert found == Identity("AROA:S", "arn:aws:sts::1:assumed-role/R/S")
    dates = [request.headers["x-amz-date"] for request in server.requests]
    assert dates == ["20231114T221320Z", "20231114T223320Z"]


def test_wrong_signature_with_a_right_clock_is_final() -> None:
    wrong = Reply(400, {"__type": "InvalidSignatureException"}, {"Date": formatdate(NOW + 2, usegmt=True)})
    with ScriptedServer(wrong) as server, pytest.raises(ServiceError, match="InvalidSignatureException"):
        api(server.url).deregister_managed_instance(MI)

    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"[]", b"hello", b"\xff"])
def test_answers_that_are_no_object_are_refused_without_quoting_them(body: bytes) -> None:
    server = ScriptedServer(Reply(200, body))
    with server, pytest.raises(ServiceError, match="something else than a JSON object") as caught:
        api(server.url).deregister_managed_instance(MI)

    assert "hello" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "https://ssm.eu-west-1.amazonaws.com"),
        ({"AWS_ENDPOINT_URL": "http://localhost:4566/"}, "http://localhost:4566"),
        ({"AWS_ENDPOINT_URL": "https://localhost:443/"}, "https://localhost"),
        ({"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_SSM": "http://b"}, "http://b"),
        ({"AWS_ENDPOINT_URL_SSMMESSAGES": "http://b"}, "https://ssm.eu-west-1.amazonaws.com"),
    ],
)
def test_endpoint_follows_the_environment(environ: Dict[str, str], url: str) -> None:
    assert endpoint_url("ssm", "eu-west-1", environ) == url


def test_only_endpoints_of_the_region_that_the_reference_lists_are_contacted() -> None:
    urls = [value for name, value in vars(AwsApi("eu-west-1", environ={})).items() if name.endswith("_url")]
    listed = re.findall(r"([a-z0-9.]+)\.REGION\.amazonaws\.com", REFERENCE.read_text(encoding="utf-8"))

    hosts = {urlsplit(url).netloc for url in urls}
    # Those of S3 are in test_s3_keys.
    assert hosts == {f"{name}.eu-west-1.amazonaws.com" for name in listed if name not in ("s3", ".s3")}


def test_endpoint_follows_the_partition() -> None:
    assert dns_suffix("cn-north-1") == "amazonaws.com.cn"
    assert dns_suffix("us-gov-west-1") == "amazonaws.com"
    assert dns_suffix("us-isob-east-1") == "sc2s.sgov.gov"


def test_a_data_key_is_decrypted_for_its_context() -> None:
    context = {"aws:ssm:SessionId": "s-1", "aws:ssm:TargetId": MI}
    with ScriptedServer(Reply(200, {"Plaintext": base64.b64encode(b"key").decode()})) as server:
        assert api(server.url).decrypt("alias/k", b"sealed", context) == b"key"

    request = server.requests[0]
    assert request.json == {
        "CiphertextBlob": base64.b64encode(b"sealed").decode(),
        "EncryptionContext": context,
        "KeyId": "alias/k",
    }
    expected = sign(
        CREDENTIALS,
        Scope(NOW, "eu-west-1", "kms"),
        "POST",
        server.url + "/",
        {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "TrentService.Decrypt"},
        request.body,
    )
    assert request.headers["authorization"] == expected["Authorization"]


def test_kms_has_an_endpoint_of_its_own() -> None:
    with ScriptedServer(Reply(200, {"Plaintext": "!"})) as server:
        environ = {"AWS_ENDPOINT_URL_KMS": server.url}
        client = AwsApi("eu-west-1", lambda: CREDENTIALS, environ=environ)
        with pytest.raises(ServiceError, match="Decrypt gave no base64"):
            client.decrypt("k", b"sealed", {})

    assert len(server.requests) == 1
