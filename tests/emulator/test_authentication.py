"""Every request is who it says it is, and says what was signed; else AWS's own error."""

import base64
import hashlib
import io
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from emulator.signer import Answer, Keys, Sender
from local_cloud import LocalCloud
from sagemaker_ssh_helper.emulator.authentication import Signed
from sagemaker_ssh_helper.emulator.identities import Identities
from sagemaker_ssh_helper.emulator.service import ApiError, Caller
from sagemaker_ssh_helper.emulator.wire import Family

JSON_CALLS = {
    "ssm": ("AmazonSSM.DescribeInstanceInformation", b"{}"),
    "sagemaker": ("SageMaker.ListTrainingJobs", b"{}"),
    "logs": ("Logs_20140328.DescribeLogGroups", b"{}"),
    "kms": ("TrentService.ListKeys", b"{}"),
}
QUERY_CALLS = {
    "sts": b"Action=GetCallerIdentity&Version=2011-06-15",
    "iam": b"Action=GetRole&RoleName=SageMakerRole&Version=2010-05-08",
    "sns": b"Action=ListTopics&Version=2010-03-31",
}
SERVICES = [*JSON_CALLS, *QUERY_CALLS, "s3"]

# What AWS answers, by protocol: JSON, query, S3.
NO_MATCH = {
    "json": "InvalidSignatureException",
    "query": "SignatureDoesNotMatch",
    "s3": "SignatureDoesNotMatch",
}
NO_KEY = {"json": "UnrecognizedClientException", "query": "InvalidClientTokenId", "s3": "InvalidAccessKeyId"}
SKEW = {"json": "InvalidSignatureException", "query": "SignatureDoesNotMatch", "s3": "RequestTimeTooSkewed"}
UNSIGNED = {
    "json": "MissingAuthenticationTokenException",
    "query": "MissingAuthenticationToken",
    "s3": "AccessDenied",
}
STATUS = {"json": 400, "query": 403, "s3": 403}


def protocol(service: str) -> str:
    return "json" if service in JSON_CALLS else "query" if service in QUERY_CALLS else "s3"


def call(sender: Sender, **changes: Any) -> Answer:
    """A call that succeeds for an administrator, or that call changed after signing."""
    service = sender.service
    if service in JSON_CALLS:
        target, body = JSON_CALLS[service]
        headers = {"x-amz-target": target, "content-type": "application/x-amz-json-1.1"}
        return sender.send("POST", "/", body, headers, sent=changes)
    if service in QUERY_CALLS:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        return sender.send("POST", "/", QUERY_CALLS[service], headers, sent=changes)
    return sender.send("GET", "/", sent=changes)


@pytest.fixture
def admin(cloud: LocalCloud) -> Callable[[str], Sender]:
    """A sender with an administrator's keys, for a service."""
    keys = Keys.of(cloud.user("admin"))
    return lambda service: Sender(cloud.endpoint_url, keys, service)


@pytest.mark.parametrize("service", SERVICES)
def test_a_good_signature_is_accepted(admin: Callable[[str], Sender], service: str) -> None:
    assert call(admin(service)).status == 200


@pytest.mark.parametrize("service", SERVICES)
def test_a_wrong_secret_does_not_match(admin: Callable[[str], Sender], service: str) -> None:
    sender = admin(service)
    assert sender.keys is not None
    sender.keys = replace(sender.keys, secret="x" * 40)

    answer = call(sender)

    assert (answer.status, answer.code) == (STATUS[protocol(service)], NO_MATCH[protocol(service)])
    assert answer.message.startswith("The request signature we calculated does not match the signature you")


@pytest.mark.parametrize("service", SERVICES)
def test_an_unknown_key_is_unknown(admin: Callable[[str], Sender], service: str) -> None:
    sender = admin(service)
    sender.keys = Keys("AKIAIOSFODNN7EXAMPLE", "x" * 40)

    answer = call(sender)

    assert (answer.status, answer.code) == (STATUS[protocol(service)], NO_KEY[protocol(service)])


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("minutes", [-20, 20])
def test_a_clock_that_is_20_minutes_off_is_refused(
    admin: Callable[[str], Sender], service: str, minutes: int
) -> None:
    sender = admin(service)
    sender.offset_seconds = 60 * minutes

    answer = call(sender)

    assert (answer.status, answer.code) == (STATUS[protocol(service)], SKEW[protocol(service)])
    if service != "s3":
        start = "Signature expired: " if minutes < 0 else "Signature not yet current: "
        assert answer.message.startswith(start)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("seconds", [-240, 240])
def test_a_clock_that_is_4_minutes_off_will_do(
    admin: Callable[[str], Sender], service: str, seconds: int
) -> None:
    sender = admin(service)
    sender.offset_seconds = seconds

    assert call(sender).status == 200


@pytest.mark.parametrize("service", SERVICES)
def test_no_signature_is_no_access(cloud: LocalCloud, service: str) -> None:
    answer = call(Sender(cloud.endpoint_url, None, service))

    assert (answer.status, answer.code) == (STATUS[protocol(service)], UNSIGNED[protocol(service)])


@pytest.mark.parametrize("service", [*JSON_CALLS, *QUERY_CALLS])
def test_an_altered_body_does_not_match(admin: Callable[[str], Sender], service: str) -> None:
    altered = b'{"MaxResults": 5}' if service in JSON_CALLS else QUERY_CALLS[service] + b"&Tag=1"

    answer = call(admin(service), body=altered)

    assert (answer.status, answer.code) == (STATUS[protocol(service)], NO_MATCH[protocol(service)])


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("part", [{"query": "max-keys=1"}, {"path": "/elsewhere"}, {"method": "PUT"}])
def test_an_altered_request_line_does_not_match(
    admin: Callable[[str], Sender], service: str, part: dict[str, str]
) -> None:
    answer = call(admin(service), **part)

    assert (answer.status, answer.code) == (STATUS[protocol(service)], NO_MATCH[protocol(service)])


def test_an_altered_header_does_not_match(admin: Callable[[str], Sender]) -> None:
    answer = call(admin("ssm"), headers={"x-amz-target": "AmazonSSM.DescribeSessions"})

    assert answer.code == "InvalidSignatureException"


def test_a_removed_header_does_not_match(admin: Callable[[str], Sender]) -> None:
    sender = admin("ssm")
    sender.send("POST", "/", b"{}", {"x-amz-target": "AmazonSSM.DescribeInstanceInformation", "x-one": "1"})
    signature = sender._authorization(
        "POST", "/", "", {"host": sender.host, "x-amz-date": sender.timestamp, "x-one": "1"}, ""
    )

    answer = sender.exchange(
        "POST",
        "/",
        "",
        {
            "host": sender.host,
            "x-amz-date": sender.timestamp,
            "x-amz-target": "AmazonSSM.DescribeInstanceInformation",
            "authorization": signature,
        },
        b"{}",
    )

    assert answer.code == "InvalidSignatureException"


def test_a_signature_for_one_service_is_not_one_for_another(admin: Callable[[str], Sender]) -> None:
    sender = admin("sagemaker")

    answer = sender.send("POST", "/", b"{}", {"x-amz-target": "AmazonSSM.DescribeInstanceInformation"})

    assert answer.code == "InvalidSignatureException"
    assert "correct service: 'ssm'" in answer.message


@pytest.mark.parametrize(
    "authorization",
    [
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101/us-east-1/ssm/aws4_request",
        "AWS4-HMAC-SHA256 Credential=broken, SignedHeaders=host, Signature=00",
        "AWS AKIAIOSFODNN7EXAMPLE:c2lnbmF0dXJl",
        "Bearer token",
        "",
    ],
)
def test_a_malformed_authorization_is_incomplete(cloud: LocalCloud, authorization: str) -> None:
    sender = Sender(cloud.endpoint_url, None, "ssm")
    headers = {
        "host": sender.host,
        "x-amz-date": sender.timestamp,
        "x-amz-target": "AmazonSSM.DescribeInstanceInformation",
        "authorization": authorization,
    }

    answer = sender.exchange("POST", "/", "", headers, b"{}")

    assert (answer.status, answer.code) == (400, "IncompleteSignatureException")


def test_s3_names_the_signature_it_wants(cloud: LocalCloud, bucket: str) -> None:
    with pytest.raises(ClientError, match="Please use AWS4-HMAC-SHA256") as caught:
        cloud.client("s3", signature_version="s3").list_objects_v2(Bucket=bucket)

    assert caught.value.response["Error"]["Code"] == "InvalidRequest"


def test_host_must_be_signed(admin: Callable[[str], Sender]) -> None:
    sender = admin("ssm")
    headers = {"x-amz-date": sender.timestamp, "x-amz-target": "AmazonSSM.DescribeInstanceInformation"}
    headers["authorization"] = sender._authorization(
        "POST", "/", "", headers, hashlib.sha256(b"{}").hexdigest()
    )

    answer = sender.exchange("POST", "/", "", {**headers, "host": sender.host}, b"{}")

    assert answer.code == "IncompleteSignatureException"


def test_headers_of_s3_must_be_signed(admin: Callable[[str], Sender], bucket: str) -> None:
    sent = {"headers": {"x-amz-copy-source": f"{bucket}/another"}}

    answer = admin("s3").send("PUT", f"/{bucket}/key", sent=sent)

    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert b"<HeadersNotSigned>x-amz-copy-source</HeadersNotSigned>" in answer.body


def test_a_body_that_is_not_the_signed_one_is_refused_by_s3(
    cloud: LocalCloud, admin: Callable[[str], Sender], bucket: str
) -> None:
    answer = admin("s3").send("PUT", f"/{bucket}/altered", b"signed", sent={"body": b"sent"})

    assert (answer.status, answer.code) == (400, "XAmzContentSHA256Mismatch")
    with pytest.raises(ClientError, match="404"):
        cloud.client("s3").head_object(Bucket=bucket, Key="altered")


def test_s3_wants_the_hash_of_the_body(cloud: LocalCloud, admin: Callable[[str], Sender]) -> None:
    sender = admin("s3")
    headers = {"host": sender.host, "x-amz-date": sender.timestamp}
    headers["authorization"] = sender._authorization(
        "GET", "/", "", dict(headers), hashlib.sha256().hexdigest()
    )

    answer = sender.exchange("GET", "/", "", headers, b"")

    assert (answer.status, answer.code) == (400, "InvalidRequest")


def test_s3_takes_an_unsigned_body(cloud: LocalCloud, admin: Callable[[str], Sender], bucket: str) -> None:
    answer = admin("s3").send("PUT", f"/{bucket}/unsigned", b"body", payload="UNSIGNED-PAYLOAD")

    assert answer.status == 200
    stored = cloud.client("s3").get_object(Bucket=bucket, Key="unsigned")["Body"].read()
    assert stored == b"body"


@pytest.mark.parametrize("header", ["content-md5", "x-amz-checksum-sha256", "x-amz-checksum-sha1"])
def test_a_wrong_checksum_is_refused(admin: Callable[[str], Sender], bucket: str, header: str) -> None:
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()

    answer = admin("s3").send("PUT", f"/{bucket}/checked", b"body", {header: wrong})

    assert (answer.status, answer.code) == (400, "BadDigest")


def test_a_wrong_crc_is_refused_and_a_right_one_kept(
    cloud: LocalCloud, admin: Callable[[str], Sender], bucket: str
) -> None:
    right = base64.b64encode(zlib.crc32(b"body").to_bytes(4, "big")).decode()
    names = {"x-amz-sdk-checksum-algorithm": "CRC32", "x-amz-checksum-crc32": right}

    good = admin("s3").send("PUT", f"/{bucket}/crc", b"body", names)
    bad = admin("s3").send("PUT", f"/{bucket}/crc", b"b0dy", names)

    assert (good.status, bad.code) == (200, "BadDigest")
    stored = cloud.client("s3").get_object(Bucket=bucket, Key="crc", ChecksumMode="ENABLED")
    assert stored["ChecksumCRC32"] == right


# Presigned URLs of S3.


@pytest.fixture
def stored(cloud: LocalCloud, bucket: str) -> tuple[str, str]:
    """An object of alice's; its bucket and key."""
    cloud.client("s3").put_object(Bucket=bucket, Key="a key/with +%", Body=b"contents")
    return bucket, "a key/with +%"


def fetch(url: str, method: str = "GET", data: bytes = b"") -> tuple[int, bytes]:
    request = urllib.request.Request(url, data or None, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_a_presigned_url_needs_no_keys(cloud: LocalCloud, stored: tuple[str, str], version: str) -> None:
    s3 = cloud.client("s3", signature_version=version)
    params = {"Bucket": stored[0], "Key": stored[1]}

    url = s3.generate_presigned_url("get_object", params, ExpiresIn=60)

    assert fetch(url) == (200, b"contents")
    assert ("X-Amz-Signature" in url) == (version == "s3v4")


@pytest.mark.parametrize("version", ["s3", "s3v4"])
@pytest.mark.parametrize(
    ("old", "new"), [("with", "without"), ("Expires=60", "Expires=9999"), ("Signature=", "Signature=0")]
)
def test_a_changed_presigned_url_does_not_match(
    cloud: LocalCloud, stored: tuple[str, str], version: str, old: str, new: str
) -> None:
    s3 = cloud.client("s3", signature_version=version)
    url = s3.generate_presigned_url("get_object", {"Bucket": stored[0], "Key": stored[1]}, ExpiresIn=60)
    if version == "s3" and old.startswith("Expires"):
        before, _, expires = url.rpartition("Expires=")
        changed = f"{before}Expires={int(expires) + 600}"
    else:
        changed = url.replace(old, new)

    status, body = fetch(changed)

    assert changed != url
    assert (status, b"<Code>SignatureDoesNotMatch</Code>" in body) == (403, True)


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_a_presigned_url_is_for_one_method(cloud: LocalCloud, stored: tuple[str, str], version: str) -> None:
    s3 = cloud.client("s3", signature_version=version)
    url = s3.generate_presigned_url("get_object", {"Bucket": stored[0], "Key": stored[1]}, ExpiresIn=60)

    status, body = fetch(url, "DELETE")

    assert (status, b"<Code>SignatureDoesNotMatch</Code>" in body) == (403, True)


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_a_presigned_upload_stores_what_is_sent(cloud: LocalCloud, bucket: str, version: str) -> None:
    s3 = cloud.client("s3", signature_version=version)
    params = {"Bucket": bucket, "Key": "presigned", "ContentType": "text/plain"}
    url = s3.generate_presigned_url("put_object", params, ExpiresIn=60)
    request = urllib.request.Request(url, b"sent", {"Content-Type": "text/plain"}, method="PUT")

    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        assert answer.status == 200

    got = cloud.client("s3").get_object(Bucket=bucket, Key="presigned")
    assert (got["Body"].read(), got["ContentType"]) == (b"sent", "text/plain")


def test_an_old_presigned_url_of_the_old_kind_has_expired(cloud: LocalCloud, stored: tuple[str, str]) -> None:
    s3 = cloud.client("s3", signature_version="s3")

    url = s3.generate_presigned_url("get_object", {"Bucket": stored[0], "Key": stored[1]}, ExpiresIn=-1)

    status, body = fetch(url)
    assert (status, b"<Message>Request has expired</Message>" in body) == (403, True)


def test_an_old_presigned_url_has_expired(
    cloud: LocalCloud, admin: Callable[[str], Sender], stored: tuple[str, str]
) -> None:
    sender = admin("s3")
    sender.offset_seconds = -120
    path = f"/{stored[0]}/a%20key/with%20%2B%25"
    query = sender.presigned_query("GET", path, 60)

    answer = sender.exchange("GET", path, query, {"host": sender.host}, b"")

    assert (answer.status, answer.code, answer.message) == (403, "AccessDenied", "Request has expired")


@pytest.mark.parametrize("expires", [0, 7 * 24 * 3600 + 1])
def test_a_presigned_url_lives_at_most_a_week(
    admin: Callable[[str], Sender], stored: tuple[str, str], expires: int
) -> None:
    sender = admin("s3")
    path = f"/{stored[0]}/key"
    query = sender.presigned_query("GET", path, expires)

    answer = sender.exchange("GET", path, query, {"host": sender.host}, b"")

    assert (answer.status, answer.code) == (400, "AuthorizationQueryParametersError")


def test_a_presigned_url_takes_no_unsigned_headers(admin: Callable[[str], Sender], bucket: str) -> None:
    sender = admin("s3")
    path = f"/{bucket}/target"
    query = sender.presigned_query("PUT", path, 60)
    headers = {"host": sender.host, "x-amz-copy-source": f"/{bucket}/secret"}

    answer = sender.exchange("PUT", path, query, headers, b"")

    assert (answer.status, answer.code) == (403, "AccessDenied")


# Bodies in signed chunks.


def test_signed_chunks_are_put_together(
    cloud: LocalCloud, admin: Callable[[str], Sender], bucket: str
) -> None:
    answer = admin("s3").put_chunks(f"/{bucket}/chunks", [b"a" * 70000, b"b" * 10])

    assert answer.status == 200
    stored = cloud.client("s3").get_object(Bucket=bucket, Key="chunks")
    assert stored["Body"].read() == b"a" * 70000 + b"b" * 10
    assert stored.get("ContentEncoding") in (None, "")


def test_a_signed_trailer_carries_the_checksum(
    cloud: LocalCloud, admin: Callable[[str], Sender], bucket: str
) -> None:
    digest = base64.b64encode(hashlib.sha256(b"data").digest()).decode()

    answer = admin("s3").put_chunks(f"/{bucket}/trailer", [b"data"], {"x-amz-checksum-sha256": digest})

    assert answer.status == 200
    assert cloud.client("s3").get_object(Bucket=bucket, Key="trailer")["Body"].read() == b"data"


@pytest.mark.parametrize(
    ("tamper", "code"),
    [
        (lambda body: body.replace(b"data", b"DATA", 1), "SignatureDoesNotMatch"),
        (lambda body: body.replace(b"chunk-signature=", b"chunk-signature=0", 1), "SignatureDoesNotMatch"),
        (lambda body: body.replace(b";chunk-signature=", b";other=", 1), "InvalidRequest"),
        (lambda body: b"zz" + body, "InvalidRequest"),
        (lambda body: b"f" + body, "InvalidRequest"),
        (lambda body: body + b"more", "InvalidRequest"),
        (lambda body: body[:-30], "IncompleteBody"),
        (lambda body: b"", "IncompleteBody"),
    ],
    ids=["data", "signature", "unsigned", "no size", "size", "more", "cut", "empty"],
)
def test_tampered_chunks_are_refused_and_not_stored(
    cloud: LocalCloud,
    admin: Callable[[str], Sender],
    bucket: str,
    tamper: Callable[[bytes], bytes],
    code: str,
) -> None:
    answer = admin("s3").put_chunks(f"/{bucket}/tampered", [b"data" * 100, b"more"], tamper=tamper)

    assert answer.code == code
    with pytest.raises(ClientError, match="404"):
        cloud.client("s3").head_object(Bucket=bucket, Key="tampered")


@pytest.mark.parametrize(
    ("tamper", "code"),
    [
        (lambda body: body.replace(b"trailer-signature:", b"trailer-signature:0"), "SignatureDoesNotMatch"),
        (
            lambda body: body.replace(b"x-amz-checksum-sha1:", b"x-amz-checksum-sha1:A"),
            "SignatureDoesNotMatch",
        ),
        (lambda body: body.replace(b"x-amz-checksum-sha1:", b"x-amz-meta-more:"), "MalformedTrailerError"),
    ],
    ids=["signature", "value", "name"],
)
def test_a_tampered_trailer_is_refused(
    admin: Callable[[str], Sender], bucket: str, tamper: Callable[[bytes], bytes], code: str
) -> None:
    digest = base64.b64encode(hashlib.sha1(b"data").digest()).decode()

    answer = admin("s3").put_chunks(f"/{bucket}/tampered", [b"data"], {"x-amz-checksum-sha1": digest}, tamper)

    assert answer.code == code


def test_a_signed_trailer_with_a_wrong_checksum_is_refused(
    admin: Callable[[str], Sender], bucket: str
) -> None:
    digest = base64.b64encode(hashlib.sha256(b"other").digest()).decode()

    answer = admin("s3").put_chunks(f"/{bucket}/trailer", [b"data"], {"x-amz-checksum-sha256": digest})

    assert (answer.status, answer.code) == (400, "BadDigest")


def test_more_data_than_announced_is_refused(admin: Callable[[str], Sender], bucket: str) -> None:
    answer = admin("s3").put_chunks(f"/{bucket}/more", [b"data"], decoded_bytes=3)

    assert answer.code == "InvalidRequest"


def test_boto3_streams_with_an_unsigned_trailer_over_tls(
    tls_cloud: LocalCloud,
) -> None:
    s3 = tls_cloud.client("s3")
    s3.create_bucket(Bucket="sagemaker-stream")
    seen = []
    s3.meta.events.register(
        "before-send.s3.PutObject",
        lambda request, **_: seen.append(request.headers["X-Amz-Content-SHA256"].decode()),
    )

    s3.put_object(Bucket="sagemaker-stream", Key="key", Body=io.BytesIO(b"0123456789" * 200_000))

    assert seen == ["STREAMING-UNSIGNED-PAYLOAD-TRAILER"]
    got = s3.get_object(Bucket="sagemaker-stream", Key="key", ChecksumMode="ENABLED")
    assert got["Body"].read() == b"0123456789" * 200_000
    assert "ChecksumCRC32" in got


def test_an_unsigned_trailer_with_a_wrong_checksum_is_refused(
    admin: Callable[[str], Sender], bucket: str
) -> None:
    headers = {
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": "4",
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    body = b"4\r\ndata\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"

    answer = admin("s3").send(
        "PUT", f"/{bucket}/key", body, headers, payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    )

    assert (answer.status, answer.code) == (400, "BadDigest")


# Buckets in host names.


def test_a_bucket_may_be_in_the_host_name(
    cloud: LocalCloud, admin: Callable[[str], Sender], stored: tuple[str, str]
) -> None:
    sender = admin("s3")
    sender.host = f"{stored[0]}.{sender.host}"

    answer = sender.send("GET", "/a%20key/with%20%2B%25")
    listed = sender.send("GET", "/", query="list-type=2")

    assert (answer.status, answer.body) == (200, b"contents")
    assert b"<Key>a key/with +%</Key>" in listed.body


def test_boto3_may_put_the_bucket_into_the_presigned_host(cloud: LocalCloud, stored: tuple[str, str]) -> None:
    for version in ("s3", "s3v4"):
        s3 = cloud.client("s3", signature_version=version, s3={"addressing_style": "virtual"})
        url = s3.generate_presigned_url("get_object", {"Bucket": stored[0], "Key": stored[1]})
        host = url.split("/")[2]
        request = urllib.request.Request(
            url.replace(host, host[len(stored[0]) + 1 :]), headers={"Host": host}
        )

        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            assert host.startswith(f"{stored[0]}.localhost:")
            assert answer.read() == b"contents"


# Temporary credentials.


@pytest.fixture
def session_keys(cloud: LocalCloud) -> Keys:
    got = cloud.client("sts").get_session_token()["Credentials"]
    return Keys(got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"])


@pytest.mark.parametrize("service", ["ssm", "sts", "s3"])
def test_temporary_keys_need_their_token(cloud: LocalCloud, session_keys: Keys, service: str) -> None:
    good = call(Sender(cloud.endpoint_url, session_keys, service))
    none = call(Sender(cloud.endpoint_url, replace(session_keys, token=None), service))
    wrong = call(Sender(cloud.endpoint_url, replace(session_keys, token="x" * 128), service))

    assert good.status == 200
    assert none.code == NO_KEY[protocol(service)]
    assert wrong.code == ("InvalidToken" if service == "s3" else NO_KEY[protocol(service)])


def test_a_token_does_not_go_with_a_users_own_key(cloud: LocalCloud, session_keys: Keys) -> None:
    keys = replace(Keys.of(cloud.user("alice")), token=session_keys.token)

    assert call(Sender(cloud.endpoint_url, keys, "ssm")).code == "UnrecognizedClientException"


@pytest.mark.parametrize(
    ("family", "code"),
    [
        (Family.JSON, "ExpiredTokenException"),
        (Family.QUERY, "ExpiredToken"),
        (Family.S3, "ExpiredToken"),
    ],
)
def test_expired_keys_are_expired(family: Family, code: str) -> None:
    identities = Identities()
    caller = Caller("1", "arn:aws:sts::1:assumed-role/r/s", "AROA:s", "r", "role")
    issued = identities.issue(caller, lifetime_seconds=-1)
    signed = Signed(
        version=4,
        access_key_id=issued.access_key_id,
        scope_date="20260101",
        region="us-east-1",
        service="ssm",
        signed_headers=("host",),
        signature="",
        token=issued.session_token,
        timestamp="20260101T000000Z",
        signed_at=time.time(),
        presigned=False,
    )

    with pytest.raises(ApiError) as caught:
        signed.identify(identities, family)

    assert caught.value.code == code


def test_secrets_are_not_in_texts(session_keys: Keys) -> None:
    identities = Identities()
    caller = Caller("1", "arn:aws:sts::1:assumed-role/r/s", "AROA:s", "r", "role")
    issued = identities.issue(caller, 60)

    text = repr(identities.lookup(issued.access_key_id))

    assert issued.access_key_id in text
    assert issued.secret_access_key not in text
    assert str(issued.session_token) not in text


def test_an_assumed_role_is_known_everywhere(cloud: LocalCloud) -> None:
    iam = cloud.client("iam", user="admin")
    trust = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"%s"},"Action":"%s"}]}'
    account = f"arn:aws:iam::{cloud.info['account_id']}:root"
    role = iam.create_role(RoleName="visited", AssumeRolePolicyDocument=trust % (account, "sts:AssumeRole"))[
        "Role"
    ]
    got = cloud.client("sts", user="admin").assume_role(RoleArn=role["Arn"], RoleSessionName="me")
    keys = got["Credentials"]
    as_role = (keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])

    who = cloud.client_with("sts", *as_role).get_caller_identity()

    assert who["Arn"] == f"arn:aws:sts::{cloud.info['account_id']}:assumed-role/visited/me"
    assert who["UserId"] == f"{role['RoleId']}:me" == got["AssumedRoleUser"]["AssumedRoleId"]
    with pytest.raises(ClientError, match="is not authorized to perform: s3:ListAllMyBuckets"):
        cloud.client_with("s3", *as_role).list_buckets()


def test_users_are_who_the_info_says(cloud: LocalCloud) -> None:
    for user in cloud.info["users"]:
        who = cloud.client("sts", user=user["name"]).get_caller_identity()

        assert who["UserId"] == user["user_id"]
        assert who["Arn"] == f"arn:aws:iam::{cloud.info['account_id']}:user/{user['name']}"
        assert who["Account"] == cloud.info["account_id"]


def test_keys_made_through_iam_work_until_they_are_switched_off(cloud: LocalCloud) -> None:
    iam = cloud.client("iam", user="admin")
    iam.create_user(UserName="carol")
    key = iam.create_access_key(UserName="carol")["AccessKey"]
    sts = cloud.client_with("sts", key["AccessKeyId"], key["SecretAccessKey"])

    before = sts.get_caller_identity()["Arn"]
    iam.update_access_key(UserName="carol", AccessKeyId=key["AccessKeyId"], Status="Inactive")

    assert before.endswith(":user/carol")
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        sts.get_caller_identity()


def test_keys_are_new_at_each_start(cloud: LocalCloud, tls_cloud: LocalCloud) -> None:
    keys = {
        user[name]
        for one in (cloud, tls_cloud)
        for user in one.info["users"]
        for name in ("access_key_id", "secret_access_key", "user_id")
    }

    assert len(keys) == 18


def test_default_boto3_finds_its_way(
    cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in cloud.environment("bob", tmp_path).items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)

    session = boto3.Session()

    assert session.client("sts").get_caller_identity()["Arn"].endswith(":user/bob")
    assert session.client("s3", config=Config(retries={"total_max_attempts": 1})).list_buckets()


@pytest.mark.parametrize("others", range(4))
def test_keys_that_expired_long_ago_are_forgotten_however_many_there_are(others: int) -> None:
    """Keys that come and go must not keep the number from ever being the one at which they are looked at."""
    identities = Identities()
    caller = Caller("1", "arn", "AIDAEXAMPLE", "alice", "user")
    for number in range(254 + others):
        identities.add(f"AKIA{number}", "secret", None, caller)
    identities.add("left", "secret", "token", caller, time.time() - 7200)
    for number in range(256):
        identities.issue(caller, 60)
        identities.issue(caller, 60)
        if number % 2 == 0:
            identities.revoke(lambda held: held.access_key_id.startswith("ASIA"))
    assert identities.lookup("left") is None
