"""Public keys from S3: what is asked for, how it is signed, and what is said when it does not work."""

import base64

import pytest

from agent.http_server import Reply, ScriptedServer
from sagemaker_ssh_helper.agent import setup
from sagemaker_ssh_helper.agent.s3_keys import KeyStore
from sagemaker_ssh_helper.agent.sigv4 import Credentials
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    EndpointUnreachable,
    LocalSetup,
    ServiceError,
    SSHHelperError,
    UsageError,
)

pytestmark = pytest.mark.container

KEYS = [
    "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes([number]) * 32).decode()
    for number in (1, 2)
]
LISTING = (
    b"<ListBucketResult><Contents><Key>keys/</Key></Contents><Contents><Key>keys/a&amp;b.pub</Key></Contents>"
    b"<Contents><Key>keys/notes.txt</Key></Contents><Contents><Key>keys/c.pub</Key></Contents></ListBucketResult>"
)


def store(uri, endpoint=""):
    environ = {"AWS_ENDPOINT_URL_S3": endpoint, "NO_PROXY": "*"}
    return KeyStore(uri, "eu-west-1", Credentials("AKIA", "secret", "token"), environ, 1700000000.0)


def test_one_object_is_read_by_one_signed_request():
    with ScriptedServer(Reply(200, KEYS[0].encode() + b" jane@laptop\n")) as server:
        found = store("s3://my-bucket/keys/jane doe.pub", server.url).fetch()

    (request,) = server.requests
    assert [key.line for key in found] == [KEYS[0]]
    assert (request.method, request.path) == ("GET", "/my-bucket/keys/jane%20doe.pub")
    assert "/eu-west-1/s3/aws4_request" in request.headers["authorization"]
    assert request.headers["x-amz-security-token"] == "token"
    assert len(request.headers["x-amz-content-sha256"]) == 64


def test_every_key_below_a_prefix_is_read_and_the_rest_passed_over():
    replies = [Reply(200, body) for body in (LISTING, KEYS[0].encode(), b"not a key", KEYS[1].encode())]
    with ScriptedServer(*replies) as server:
        found = store("s3://my-bucket/keys/", server.url).fetch()

    assert [key.line for key in found] == KEYS
    assert [request.path for request in server.requests] == [
        "/my-bucket/?list-type=2&max-keys=100&prefix=keys%2F",
        "/my-bucket/keys/a%26b.pub",
        "/my-bucket/keys/notes.txt",
        "/my-bucket/keys/c.pub",
    ]


def test_only_the_regions_own_endpoint_is_contacted():
    assert store("s3://my-bucket/k")._url == "https://my-bucket.s3.eu-west-1.amazonaws.com/"
    # A certificate for *.s3 does not cover a name with dots.
    assert store("s3://my.bucket/k")._url == "https://s3.eu-west-1.amazonaws.com/my.bucket/"


def error(code, **more):
    rest = "".join(f"<{name}>{value}</{name}>" for name, value in more.items())
    return f"<Error><Code>{code}</Code>{rest}</Error>".encode()


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (Reply(404, error("NoSuchBucket")), LocalSetup, "there is no bucket my-bucket (NoSuchBucket). Set"),
        (Reply(404, error("NoSuchKey")), LocalSetup, "there is no s3://my-bucket/k (NoSuchKey)"),
        (
            Reply(403, error("AccessDenied")),
            AccessDenied,
            "may not read s3://my-bucket/k (AccessDenied). "
            "Let the job's role call s3:GetObject on arn:aws:s3:::my-bucket/k",
        ),
        (
            Reply(403, error("InvalidAccessKeyId")),
            ServiceError,
            "s3://my-bucket/k cannot be read (InvalidAccessKeyId)",
        ),
        (
            Reply(301, error("PermanentRedirect"), {"x-amz-bucket-region": "us-east-2"}),
            LocalSetup,
            "my-bucket is in us-east-2, this container in eu-west-1 (PermanentRedirect). Use a bucket of",
        ),
        (
            Reply(400, error("AuthorizationHeaderMalformed", Region="us-west-2")),
            LocalSetup,
            "is in us-west-2, this container in eu-west-1 (AuthorizationHeaderMalformed)",
        ),
        (Reply(500, b""), SSHHelperError, "s3://my-bucket/k cannot be read (HTTP 500)"),
        (Reply(200, b"hello"), UsageError, "no public key"),
    ],
)
def test_each_failure_is_explained(reply, kind, said):
    with ScriptedServer(reply) as server, pytest.raises(kind) as caught:
        store("s3://my-bucket/k", server.url).fetch()

    assert said in str(caught.value)
    assert "hello" not in str(caught.value)


def test_a_wrong_clock_is_put_right_by_the_time_of_s3():
    # 23 minutes after what this container takes for now.
    refused = Reply(403, error("RequestTimeTooSkewed"), {"Date": "Tue, 14 Nov 2023 22:36:20 GMT"})
    with ScriptedServer(refused, Reply(200, KEYS[0].encode())) as server:
        found = store("s3://my-bucket/k", server.url).fetch()

    assert [key.line for key in found] == [KEYS[0]]
    assert [request.headers["x-amz-date"] for request in server.requests] == [
        "20231114T221320Z",
        "20231114T223620Z",
    ]


def test_a_container_with_no_way_to_s3_is_told_what_it_needs():
    with ScriptedServer(Reply(hang_up=True)) as server, pytest.raises(EndpointUnreachable) as caught:
        store("s3://my-bucket/k", server.url).fetch()

    assert "A container in a VPC needs an endpoint for S3, or a NAT gateway" in str(caught.value)


def test_without_a_region_nothing_is_asked():
    with pytest.raises(LocalSetup, match=r"the AWS region is not known\. Set AWS_REGION"):
        KeyStore("s3://my-bucket/k", "", Credentials("AKIA", "secret"), {}, 1700000000.0)


def test_a_clock_that_is_right_is_not_blamed_again_and_again():
    refused = Reply(403, error("SignatureDoesNotMatch"), {"Date": "Tue, 14 Nov 2023 22:13:21 GMT"})
    with ScriptedServer(refused) as server, pytest.raises(ServiceError, match="SignatureDoesNotMatch"):
        store("s3://my-bucket/k", server.url).fetch()

    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "uri", ["", "https://x/y", "s3://", "s3://UPPER/x", "s3://a/x", "s3://my-bucket/a\nb"]
)
def test_what_is_no_place_in_s3_is_refused(uri):
    with pytest.raises(UsageError, match="no place in S3"):
        store(uri)


def test_the_command_admits_the_key_that_it_finds(tmp_path, monkeypatch, capsys):
    state = StateDir.open(str(tmp_path / "node"), create=True)
    with ScriptedServer(Reply(200, KEYS[0].encode()), Reply(403, error("AccessDenied"))) as server:
        for name, value in {
            "SSH_STATE_DIR": state.path,
            "AWS_REGION": "eu-west-1",
            "AWS_ENDPOINT_URL_S3": server.url,
            "AWS_ACCESS_KEY_ID": "AKIA",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }.items():
            monkeypatch.setenv(name, value)
        token = base64.b64encode(b"s3://my-bucket/k.pub").decode()
        first = setup.main(["authorize-from", token])
        second = setup.main(["authorize-from", token])

    assert (first, second) == (0, 4)
    told = capsys.readouterr()
    assert told.out.startswith("admitted: SHA256:")
    assert "error[access-denied]: the container may not read s3://my-bucket/k.pub" in told.err
    assert (tmp_path / "node" / "authorized_keys").read_text() == f"{KEYS[0]}\n"
    assert setup.main(["authorize-from", "!"]) == 2
