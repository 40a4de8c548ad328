"""One port for everything: safety, validation, S3's bytes, the message gateway's door, TLS."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError, SSLError

from emulator.signer import Keys, Sender
from local_cloud import LocalCloud, clean_environment
from sagemaker_ssh_helper.emulator.identities import ContainerCredentials
from sagemaker_ssh_helper.emulator.server import LocalCloud as Server
from sagemaker_ssh_helper.emulator.service import ApiError, ChannelRequest

JSON = {"content-type": "application/x-amz-json-1.1"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def admin(cloud: LocalCloud) -> Callable[[str], Sender]:
    keys = Keys.of(cloud.user("admin"))
    return lambda service: Sender(cloud.endpoint_url, keys, service)


# Safety.


def test_the_info_has_what_clients_need(cloud: LocalCloud) -> None:
    info = cloud.info
    port = urlsplit(info["endpoint_url"]).port

    assert info["endpoint_url"] == info["message_gateway_url"] == f"http://localhost:{port}"
    assert set(info) == {
        "endpoint_url",
        "message_gateway_url",
        "region",
        "account_id",
        "role_arn",
        "users",
    }
    assert info["role_arn"] == f"arn:aws:iam::{info['account_id']}:role/SageMakerRole"
    assert [user["name"] for user in info["users"]] == ["alice", "bob", "admin"]
    for user in info["users"]:
        assert set(user) == {"name", "user_id", "access_key_id", "secret_access_key"}


def test_it_listens_on_loopback_only(cloud: LocalCloud) -> None:
    port = urlsplit(cloud.endpoint_url).port
    assert port is not None
    listening = set()
    for family, path in ((socket.AF_INET, "/proc/net/tcp"), (socket.AF_INET6, "/proc/net/tcp6")):
        lines = Path(path).read_text().splitlines()[1:] if Path(path).exists() else []
        for line in lines:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                listening.add(socket.inet_ntop(family, b"".join(words)))

    assert "127.0.0.1" in listening
    assert listening <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "example.com:80",
        "localhost.example.com",
        "127.0.0.1.example.com",
        "10.0.0.1",
        "169.254.169.254",
        "[::2]",
        "localhost:80:80",
        "user@localhost",
        "0.0.0.0",
    ],
)
def test_a_host_that_is_not_loopback_is_refused(admin: Callable[[str], Sender], host: str) -> None:
    sender = admin("s3")
    sender.host = host

    answer = sender.send("GET", "/")

    assert answer.status == 403
    assert b"loopback" in answer.body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "127.1.2.3", "[::1]:80"])
def test_any_loopback_host_will_do(admin: Callable[[str], Sender], host: str) -> None:
    sender = admin("s3")
    sender.host = host

    assert sender.send("GET", "/").status == 200


@pytest.mark.parametrize("origin", ["http://localhost", "https://example.com", "null", ""])
def test_a_page_in_a_browser_is_refused(
    cloud: LocalCloud, admin: Callable[[str], Sender], origin: str
) -> None:
    answer = admin("s3").send("GET", "/", headers={"Origin": origin})
    upgrade = Sender(cloud.endpoint_url, None, "ssmmessages").exchange(
        "GET", "/v1/data-channel/x", "", {**UPGRADE, "host": "localhost", "origin": origin}, b""
    )

    assert (answer.status, upgrade.status) == (403, 403)


@pytest.mark.parametrize("path", ["/moto-api", "/moto-api/", "/moto-api/reset", "/moto-api/data.json"])
def test_motos_own_interface_is_closed(admin: Callable[[str], Sender], path: str) -> None:
    assert admin("s3").send("POST", path).status == 404
    assert admin("s3").send("GET", path).status == 404


@pytest.mark.parametrize("header", ["x-moto-account-id", "X-Moto-Account-Id"])
def test_nobody_chooses_an_account(admin: Callable[[str], Sender], header: str) -> None:
    body = b"Action=GetRole&RoleName=SageMakerRole&Version=2010-05-08"

    answer = admin("iam").send("POST", "/", body, {**FORM, header: "999999999999"})

    assert b"arn:aws:iam::123456789012:role/SageMakerRole" in answer.body


def test_the_region_is_the_signed_one(admin: Callable[[str], Sender]) -> None:
    sender = admin("sns")
    sender.region = "eu-west-1"
    headers = {**FORM, "user-agent": "Boto3 region/ap-south-1"}

    answer = sender.send("POST", "/", b"Action=CreateTopic&Name=here&Version=2010-03-31", headers)

    assert b"arn:aws:sns:eu-west-1:123456789012:here" in answer.body


def test_a_region_that_is_none_is_refused(admin: Callable[[str], Sender]) -> None:
    sender = admin("ssm")
    sender.region = "nowhere"

    answer = sender.send("POST", "/", b"{}", {"x-amz-target": "AmazonSSM.DescribeInstanceInformation"})

    assert answer.message == "Credential should be scoped to a valid region. "


# What is asked.


@pytest.mark.parametrize(
    ("service", "target", "body", "code"),
    [
        ("ssm", "AmazonSSM.NoSuchOperation", b"{}", "UnknownOperationException"),
        ("ssm", "AmazonSSM.", b"{}", "UnknownOperationException"),
        ("sagemaker", "SageMaker.NoSuchOperation", b"{}", "UnknownOperationException"),
        ("logs", "Logs_20140328.NoSuchOperation", b"{}", "UnknownOperationException"),
        ("dynamodb", "DynamoDB_20120810.ListTables", b"{}", "UnknownOperationException"),
        ("ssm", "AmazonSSM.CreateMaintenanceWindow", None, "NotImplementedException"),
        ("sagemaker", "SageMaker.ListDomains", b"{}", "NotImplementedException"),
        ("logs", "Logs_20140328.ListAnomalies", b"{}", "NotImplementedException"),
        ("ssm", "AmazonSSM.DescribeInstanceInformation", b"[]", "SerializationException"),
        ("ssm", "AmazonSSM.DescribeInstanceInformation", b"{", "SerializationException"),
        ("ssm", "AmazonSSM.DescribeInstanceInformation", b"\xff", "SerializationException"),
        ("ssm", "AmazonSSM.DescribeInstanceInformation", b"[" * 100_000, "SerializationException"),
        ("ssm", "AmazonSSM.DescribeInstanceInformation", b'{"MaxResults":"5"}', "SerializationException"),
        ("ssm", "AmazonSSM.DescribeInstanceInformation", b'{"MaxResults":1}', "ValidationException"),
        ("ssm", "AmazonSSM.StartSession", b"{}", "ValidationException"),
        ("kms", "TrentService.DescribeKey", b"{}", "ValidationException"),
    ],
)
def test_what_no_service_does_is_a_clean_error(
    admin: Callable[[str], Sender], service: str, target: str, body: "bytes | None", code: str
) -> None:
    if body is None:
        body = json.dumps(
            {"Name": "abc", "Schedule": "rate(1 day)", "Duration": 2, "Cutoff": 1}
            | {"AllowUnassociatedTargets": True}
        ).encode()

    answer = admin(service).send("POST", "/", body, {**JSON, "x-amz-target": target})

    assert (answer.status, answer.code) == (400, code)
    assert answer.headers["Content-Type"] == "application/x-amz-json-1.1"


@pytest.mark.parametrize(
    ("service", "body", "status", "code"),
    [
        ("iam", b"Action=NoSuchAction&Version=2010-05-08", 400, "InvalidAction"),
        ("iam", b"", 400, "InvalidAction"),
        (
            "sts",
            b"Action=DecodeAuthorizationMessage&EncodedMessage=x&Version=2011-06-15",
            400,
            "NotImplemented",
        ),
        ("iam", b"Action=GenerateServiceLastAccessedDetails&Version=2010-05-08", 400, "ValidationError"),
        (
            "iam",
            b"Action=ResetServiceSpecificCredential&ServiceSpecificCredentialId=ABCDEFGHIJKLMNOPQRSTU",
            400,
            "NotImplemented",
        ),
        ("ec2", b"Action=DescribeInstances&Version=2016-11-15", 400, "InvalidAction"),
        ("sts", b"Action=AssumeRole&Version=2011-06-15&RoleArn=short", 400, "ValidationError"),
        ("iam", b"Action=ListRoles&MaxItems=many&Version=2010-05-08", 400, "MalformedInput"),
    ],
)
def test_what_no_query_service_does_is_a_clean_error(
    admin: Callable[[str], Sender], service: str, body: bytes, status: int, code: str
) -> None:
    answer = admin(service).send("POST", "/", body, FORM)

    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["Content-Type"] == "text/xml"


def test_s3_has_no_such_method(admin: Callable[[str], Sender]) -> None:
    answer = admin("s3").send("PATCH", "/bucket/key")

    assert (answer.status, answer.code) == (405, "MethodNotAllowed")


def test_what_is_not_implemented_is_not_tried_again(cloud: LocalCloud) -> None:
    ssm = cloud.client("ssm", user="admin", retries={"mode": "standard", "total_max_attempts": 4})
    before = cloud.count("ssm:DescribePatchBaselines")

    with pytest.raises(ClientError, match="does not implement ssm:DescribePatchBaselines"):
        ssm.describe_patch_baselines()

    assert cloud.count("ssm:DescribePatchBaselines") == before + 1


@pytest.mark.parametrize(
    ("params", "text"),
    [
        (
            {"Target": ""},
            "'' at 'target' failed to satisfy constraint: Member must have length greater than or ",
        ),
        ({}, "null at 'target' failed to satisfy constraint: Member must not be null"),
        ({"Target": "x" * 401}, f"'{'x' * 401}' at 'target' failed to satisfy constraint: Member must have "),
    ],
)
def test_validation_speaks_as_aws_does(
    admin: Callable[[str], Sender], params: Mapping[str, str], text: str
) -> None:
    headers = {**JSON, "x-amz-target": "AmazonSSM.StartSession"}

    answer = admin("ssm").send("POST", "/", json.dumps(params).encode(), headers)

    assert answer.message.startswith(f"1 validation error detected: Value {text}")


def test_validation_knows_patterns_and_enums(admin: Callable[[str], Sender]) -> None:
    params = {"ResourceType": "Nothing", "ResourceId": "x", "Tags": [{"Key": "a"}]}
    headers = {**JSON, "x-amz-target": "AmazonSSM.AddTagsToResource"}

    answer = admin("ssm").send("POST", "/", json.dumps(params).encode(), headers)

    assert answer.message.startswith(
        "2 validation errors detected: Value 'Nothing' at 'resourceType' failed "
    )
    assert "Member must satisfy enum value set: [Document, ManagedInstance, " in answer.message
    assert "Value null at 'tags.1.member.value' failed to satisfy constraint: Member must not be null" in (
        answer.message
    )


def test_members_that_the_model_does_not_know_are_ignored(admin: Callable[[str], Sender]) -> None:
    headers = {**JSON, "x-amz-target": "AmazonSSM.DescribeInstanceInformation"}

    assert (
        admin("ssm").send("POST", "/", b'{"Unheard": {"Of": 1}, "MaxResults": null}', headers).status == 200
    )


def test_a_body_in_chunks_is_as_good(admin: Callable[[str], Sender]) -> None:
    sender = admin("ssm")
    body = b'{"MaxResults": 5}'
    headers = {
        "host": sender.host,
        "x-amz-date": sender.timestamp,
        "x-amz-target": "AmazonSSM.DescribeInstanceInformation",
    }
    headers["authorization"] = sender._authorization(
        "POST", "/", "", headers, hashlib.sha256(body).hexdigest()
    )
    headers["transfer-encoding"] = "chunked"
    chunks = b"6\r\n" + body[:6] + b"\r\n" + b"%x\r\n" % (len(body) - 6) + body[6:] + b"\r\n0\r\n\r\n"
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    url = urlsplit(sender.endpoint_url)

    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\n{head}\r\n".encode() + chunks)
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_call_has_a_limit(admin: Callable[[str], Sender]) -> None:
    sender = admin("ssm")
    headers = {"x-amz-target": "AmazonSSM.DescribeInstanceInformation", "content-length": str(1 << 30)}

    answer = sender.send("POST", "/", b"", {}, sent={"headers": headers})

    assert answer.status == 413


def test_a_stranger_cannot_make_the_cloud_take_a_large_object(cloud: LocalCloud) -> None:
    sender = Sender(cloud.endpoint_url, Keys("AKIAIOSFODNN7EXAMPLE", "x" * 40), "s3")
    headers = {"content-length": str(1 << 30), "expect": "100-continue"}

    answer = sender.send("PUT", "/bucket/key", sent={"headers": headers})

    assert (answer.status, answer.code) == (403, "InvalidAccessKeyId")


# S3.


@pytest.mark.parametrize("size", [0, 1, 50_000_000])
@pytest.mark.parametrize("name", ["cloud", "tls_cloud"])
def test_files_come_back_as_they_went(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, size: int
) -> None:
    running: LocalCloud = request.getfixturevalue(name)
    s3 = running.client("s3")
    s3.create_bucket(Bucket="sagemaker-files")
    sent = tmp_path / "sent"
    sent.write_bytes(random.Random(size).randbytes(size))

    s3.upload_file(str(sent), "sagemaker-files", "file")
    s3.download_file("sagemaker-files", "file", str(tmp_path / "got"))
    whole = s3.get_object(Bucket="sagemaker-files", Key="file")["Body"].read()

    assert (tmp_path / "got").read_bytes() == whole == sent.read_bytes()


def test_a_large_object_can_be_put_at_once_and_read_in_parts(cloud: LocalCloud, bucket: str) -> None:
    s3 = cloud.client("s3")
    data = random.Random(1).randbytes(20_000_000)

    s3.put_object(Bucket=bucket, Key="large", Body=data)

    def part(wanted: str) -> "tuple[bytes, str]":
        got = s3.get_object(Bucket=bucket, Key="large", Range=wanted)
        return got["Body"].read(), got["ContentRange"]

    assert part("bytes=5-9") == (data[5:10], "bytes 5-9/20000000")
    assert part("bytes=19999990-") == (data[-10:], "bytes 19999990-19999999/20000000")
    assert part("bytes=-3") == (data[-3:], "bytes 19999997-19999999/20000000")
    assert part("bytes=1000000-15999999") == (data[1000000:16000000], "bytes 1000000-15999999/20000000")
    assert s3.head_object(Bucket=bucket, Key="large")["ContentLength"] == 20_000_000
    with pytest.raises(ClientError, match="InvalidRange"):
        part("bytes=20000000-")


def test_large_objects_are_not_held_in_memory(cloud: LocalCloud, bucket: str, tmp_path: Path) -> None:
    def measure() -> "tuple[int, int]":
        status = Path(f"/proc/{cloud.process.pid}/status").read_text()
        peak_kb = int(status.partition("VmHWM:")[2].split()[0])
        files = 0
        for path in Path(f"/proc/{cloud.process.pid}/fd").iterdir():
            # One that was closed meanwhile is no file either.
            with contextlib.suppress(OSError):
                files += not os.readlink(path).startswith("socket:")
        return peak_kb // 1024, files

    s3 = cloud.client("s3")
    sent = tmp_path / "sent"
    sent.write_bytes(random.Random(3).randbytes(160_000_000))
    s3.put_object(Bucket=bucket, Key="warm-up", Body=bytes(20_000_000))
    peak_before, files_before = measure()

    s3.upload_file(str(sent), bucket, "model")
    s3.download_file(bucket, "model", str(tmp_path / "got"))
    with sent.open("rb") as body:
        s3.put_object(Bucket=bucket, Key="model-2", Body=body)

    peak, files = measure()
    assert peak - peak_before < 80
    assert files - files_before <= 4
    assert (tmp_path / "got").stat().st_size == 160_000_000
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "model"}, {"Key": "model-2"}]})


def test_parts_make_an_object_when_they_fit(cloud: LocalCloud, bucket: str) -> None:
    s3 = cloud.client("s3")
    upload = {"Bucket": bucket, "Key": "parts"}
    upload["UploadId"] = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    large, small = b"a" * 5_300_000, b"b" * 100
    etags = {
        number: s3.upload_part(**upload, PartNumber=number, Body=body)["ETag"]
        for number, body in ((1, large), (2, small), (3, small))
    }

    def complete(*numbers: int, **wrong: str) -> Any:
        parts = [{"PartNumber": number, "ETag": wrong.get("etag", etags[number])} for number in numbers]
        return s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})

    with pytest.raises(ClientError, match="InvalidPart"):
        complete(1, 2, etag='"0123456789abcdef0123456789abcdef"')
    with pytest.raises(ClientError, match="EntityTooSmall"):
        complete(1, 2, 3)
    digests = b"".join(hashlib.md5(body).digest() for body in (large, small))
    assert complete(1, 3)["ETag"] == f'"{hashlib.md5(digests).hexdigest()}-2"'
    assert complete(1, 3)["ETag"] == f'"{hashlib.md5(digests).hexdigest()}-2"'
    assert s3.get_object(Bucket=bucket, Key="parts")["Body"].read() == large + small


@pytest.mark.parametrize("kind", ["FULL_OBJECT", "COMPOSITE"])
def test_an_upload_in_parts_has_a_checksum(cloud: LocalCloud, bucket: str, kind: str) -> None:
    s3 = cloud.client("s3")
    named = {"Bucket": bucket, "Key": f"summed-{kind}"}
    asked = {"ChecksumAlgorithm": "CRC32", "ChecksumType": kind}
    upload_id = s3.create_multipart_upload(**named, **asked)["UploadId"]
    bodies = [b"a" * 5_300_000, b"b" * 100]
    parts = [
        {
            "PartNumber": number,
            "ETag": s3.upload_part(**named, UploadId=upload_id, PartNumber=number, Body=body)["ETag"],
        }
        for number, body in enumerate(bodies, 1)
    ]

    s3.complete_multipart_upload(**named, UploadId=upload_id, MultipartUpload={"Parts": parts})

    def encoded(value: int) -> str:
        return base64.b64encode(value.to_bytes(4, "big")).decode()

    of_parts = b"".join(zlib.crc32(body).to_bytes(4, "big") for body in bodies)
    wanted = {
        "FULL_OBJECT": encoded(zlib.crc32(b"".join(bodies))),
        "COMPOSITE": f"{encoded(zlib.crc32(of_parts))}-2",
    }
    got = s3.get_object(**named, ChecksumMode="ENABLED")
    assert (got["ChecksumCRC32"], got["ChecksumType"]) == (wanted[kind], kind)
    assert got["Body"].read() == b"".join(bodies)


def test_an_object_can_be_replaced_while_it_is_read(cloud: LocalCloud, bucket: str) -> None:
    s3 = cloud.client("s3")
    data = random.Random(2).randbytes(30_000_000)
    s3.put_object(Bucket=bucket, Key="replaced", Body=data)

    stream = s3.get_object(Bucket=bucket, Key="replaced")["Body"]
    first = stream.read(1000)
    s3.put_object(Bucket=bucket, Key="replaced", Body=b"short")

    assert first + stream.read() == data


@pytest.mark.parametrize(
    "key", ["a//b", "/lead", "sp ace+plus%25", "ü/日本", "dots/../up", "q?x=y&z#f", "a" * 1000]
)
def test_keys_are_kept_as_they_are(cloud: LocalCloud, bucket: str, key: str) -> None:
    s3 = cloud.client("s3")

    s3.put_object(Bucket=bucket, Key=key, Body=key.encode(), Metadata={"my_key": "1"})

    got = s3.get_object(Bucket=bucket, Key=key)
    assert (got["Body"].read(), got["Metadata"]) == (key.encode(), {"my_key": "1"})
    assert key in {entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]}
    s3.delete_object(Bucket=bucket, Key=key)


def test_several_objects_are_deleted_at_once(cloud: LocalCloud, bucket: str) -> None:
    s3 = cloud.client("s3")
    for key in ("one", "two & three"):
        s3.put_object(Bucket=bucket, Key=f"gone/{key}", Body=b"")

    keys = [{"Key": "gone/one"}, {"Key": "gone/two & three"}]
    s3.delete_objects(Bucket=bucket, Delete={"Objects": keys})

    assert "Contents" not in s3.list_objects_v2(Bucket=bucket, Prefix="gone/")


def test_calls_at_the_same_time_do_not_mix(cloud: LocalCloud, bucket: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    s3 = cloud.client("s3", max_pool_connections=16)

    def there_and_back(number: int) -> bool:
        data = str(number).encode() * 1000
        s3.put_object(Bucket=bucket, Key=f"mixed/{number}", Body=data)
        found: bytes = s3.get_object(Bucket=bucket, Key=f"mixed/{number}")["Body"].read()
        return found == data

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(there_and_back, range(64)))


# Other services of moto.


def test_logs_are_stored_and_read(cloud: LocalCloud) -> None:
    logs = cloud.client("logs", user="admin")
    logs.create_log_group(logGroupName="/aws/sagemaker/TrainingJobs/test")
    names = {"logGroupName": "/aws/sagemaker/TrainingJobs/test", "logStreamName": "job/algo-1"}
    logs.create_log_stream(**names)
    logs.put_log_events(**names, logEvents=[{"timestamp": int(time.time() * 1000), "message": "hello"}])

    events = cloud.client("logs", user="alice").get_log_events(**names, startFromHead=True)["events"]

    assert [event["message"] for event in events] == ["hello"]


def test_kms_encrypts_and_decrypts(cloud: LocalCloud) -> None:
    kms = cloud.client("kms", user="admin")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    context = {"purpose": "test"}
    data_key = kms.generate_data_key(KeyId=key, NumberOfBytes=64, EncryptionContext=context)

    plain = kms.decrypt(CiphertextBlob=data_key["CiphertextBlob"], EncryptionContext=context)["Plaintext"]

    assert plain == data_key["Plaintext"]
    assert len(plain) == 64


# Credentials of jobs and the door of the message gateway, on a server in this process.


UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def in_process(
    scenario: Callable[[Server, Callable[[str], Sender]], Any], *, signed_clients: bool = False
) -> Any:
    """Run a scenario in a thread beside a server of this process."""

    async def main() -> Any:
        server = await Server.start(require_signed_client=signed_clients)
        cloud = server.cloud
        caller = cloud.iam.role_caller(cloud.role_arn, "mi-1", instance_id="mi-1")
        issued = cloud.identities.issue(caller, 60)
        keys = Keys(issued.access_key_id, issued.secret_access_key, issued.session_token)
        try:
            return await asyncio.to_thread(
                scenario, server, lambda service: Sender(cloud.endpoint_url, keys, service)
            )
        finally:
            await server.close()

    return asyncio.run(main())


def test_a_job_gets_its_credentials_with_its_token_only() -> None:
    def scenario(server: Server, agent: Callable[[str], Sender]) -> list[int]:
        document = {"AccessKeyId": "A", "SecretAccessKey": "S", "Token": "T", "Expiration": "E"}
        server.cloud.container_credentials["job"] = ContainerCredentials("secret token", lambda: document)

        def ask(path: str, **headers: str) -> Any:
            sender = agent("")
            return sender.exchange("GET", path, "", {"host": sender.host, **headers}, b"")

        good = ask("/_local/credentials/job", authorization="secret token")
        assert json.loads(good.body) == document
        return [
            good.status,
            ask("/_local/credentials/job").status,
            ask("/_local/credentials/job", authorization="secret").status,
            ask("/_local/credentials/job", authorization="sécret token").status,
            ask("/_local/credentials/other", authorization="secret token").status,
            ask("/_local/credentials/job", authorization="secret token", origin="http://x").status,
        ]

    assert in_process(scenario) == [200, 403, 403, 403, 403, 403]


class FakeGateway:
    """Notes what the server asks of it."""

    def __init__(self) -> None:
        self.asked: list[ChannelRequest] = []
        self.refuses = False

    async def create_channel(self, request: ChannelRequest) -> str:
        self.asked.append(request)
        if self.refuses:
            raise ApiError("AccessDeniedException", "not <you>")
        return "<R><TokenValue>t</TokenValue></R>"

    def upgrade(self, request: ChannelRequest) -> asyncio.Protocol:
        self.asked.append(request)
        if self.refuses:
            raise ApiError("AccessDeniedException", "not <you>")
        return Echo()


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def with_gateway(
    scenario: Callable[[FakeGateway, Callable[[str], Sender]], Any], *, signed_clients: bool = False
) -> Any:
    def around(server: Server, agent: Callable[[str], Sender]) -> Any:
        server.cloud.gateway = gateway = FakeGateway()
        return scenario(gateway, agent)

    return in_process(around, signed_clients=signed_clients)


def test_channels_are_created_by_signed_calls() -> None:
    def scenario(gateway: FakeGateway, agent: Callable[[str], Sender]) -> None:
        good = agent("ssmmessages").send("POST", "/v1/control-channel/mi-1", b'{"RequestId":"1"}')
        altered = agent("ssmmessages").send("POST", "/v1/control-channel/mi-1", b"1", sent={"body": b"2"})
        stranger = agent("ssmmessages")
        stranger.keys = None
        unsigned = stranger.send("POST", "/v1/data-channel/s", b"{}")
        gateway.refuses = True
        denied = agent("ssmmessages").send("POST", "/v1/data-channel/s%20x", b"{}")

        assert (good.status, good.body) == (201, b"<R><TokenValue>t</TokenValue></R>")
        assert (denied.status, denied.body) == (
            403,
            b"<AccessDeniedException><message>not &lt;you&gt;</message></AccessDeniedException>",
        )
        assert b"<InvalidSignatureException>" in altered.body
        assert b"<MissingAuthenticationTokenException>" in unsigned.body
        assert [(asked.kind, asked.channel_id, asked.body) for asked in gateway.asked] == [
            ("control", "mi-1", b'{"RequestId":"1"}'),
            ("data", "s x", b"{}"),
        ]
        caller = gateway.asked[0].caller
        assert caller is not None
        assert (caller.kind, caller.instance_id) == ("instance", "mi-1")

    with_gateway(scenario)


def upgrade(
    sender: Sender,
    path: str,
    headers: Mapping[str, str],
    surplus: bytes = b"",
    signed_query: str | None = None,
) -> bytes:
    """
    All that comes back on an upgrade, until the echo of what was sent ahead or the end.

    ``signed_query`` is signed as it stands, in the place of the one that is sent.
    """
    target, _, query = path.partition("?")
    query = query if signed_query is None else signed_query
    lines = {**headers, "host": sender.host, "x-amz-date": sender.timestamp}
    if sender.keys is not None:
        lines["x-amz-security-token"] = sender.keys.token or ""
        signed = {name: lines[name] for name in ("host", "x-amz-date", "x-amz-security-token")}
        lines["authorization"] = sender._authorization(
            "GET", target, query, signed, hashlib.sha256(b"").hexdigest()
        )
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    url = urlsplit(sender.endpoint_url)
    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode() + surplus)
        if not surplus:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while not (surplus and received.endswith(surplus)):
            data = connection.recv(65536)
            if not data:
                break
            received += data
        return received


def test_an_upgrade_is_answered_and_handed_over() -> None:
    def scenario(gateway: FakeGateway, agent: Callable[[str], Sender]) -> None:
        path = "/v1/control-channel/mi-1?role=subscribe&stream=input"

        answer = upgrade(agent("ssmmessages"), path, UPGRADE, b"frames sent ahead")

        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"\r\nConnection: Upgrade\r\n" in head + b"\r\n"
        assert b"\r\nUpgrade: websocket\r\n" in head + b"\r\n"
        assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        assert rest == b"frames sent ahead"
        (asked,) = gateway.asked
        assert asked.query == {"role": "subscribe", "stream": "input"}
        assert asked.caller is not None

    with_gateway(scenario)


def test_a_client_may_open_a_data_channel_unsigned() -> None:
    def scenario(gateway: FakeGateway, agent: Callable[[str], Sender]) -> None:
        client = agent("ssmmessages")
        client.keys = None

        data = upgrade(client, "/v1/data-channel/s?role=publish_subscribe", UPGRADE, b"x")
        control = upgrade(client, "/v1/control-channel/mi-1", UPGRADE)

        assert data.startswith(b"HTTP/1.1 101 ")
        assert b"<MissingAuthenticationTokenException>" in control
        assert [asked.caller for asked in gateway.asked] == [None]

    with_gateway(scenario)


CELL = "AA+b/c="


@pytest.mark.parametrize(
    ("signed", "taken", "told"),
    [
        ("AA%20b%2Fc%3D", True, "as Go encodes it"),
        ("AA%2Bb%2Fc%3D", False, "with + as %2B"),
        (CELL, False, "as it stands"),
        ("other", False, "in no way that is known"),
    ],
)
def test_the_query_of_an_upgrade_is_signed_as_the_official_client_signs_it(
    caplog: pytest.LogCaptureFixture, signed: str, taken: bool, told: str
) -> None:
    """A real URL ends in base64 as it is, which Go's signer decodes and encodes again."""

    def scenario(gateway: FakeGateway, agent: Callable[[str], Sender]) -> bytes:
        query = f"cell-number={CELL}&role=publish_subscribe"
        again = f"cell-number={signed}&role=publish_subscribe"
        path = "/v1/data-channel/me@x-1"
        return upgrade(agent("ssmmessages"), f"{path}?{query}", UPGRADE, b"x" if taken else b"", again)

    with caplog.at_level("INFO"):
        answer: bytes = with_gateway(scenario)

    assert answer.startswith(b"HTTP/1.1 101 ") is taken
    assert (b"<InvalidSignatureException>" in answer) is not taken
    assert f"/v1/data-channel/me@x-1 is signed {told}" in caplog.text


def test_clients_must_sign_when_told_so() -> None:
    def scenario(gateway: FakeGateway, agent: Callable[[str], Sender]) -> None:
        client = agent("ssmmessages")
        client.keys = None

        assert b"<MissingAuthenticationTokenException>" in upgrade(client, "/v1/data-channel/s", UPGRADE)
        signed = upgrade(agent("ssmmessages"), "/v1/data-channel/s", UPGRADE, b"x")
        assert signed.startswith(b"HTTP/1.1 101 ")

    with_gateway(scenario, signed_clients=True)


def test_a_signature_on_an_upgrade_must_be_right() -> None:
    def scenario(gateway: FakeGateway, agent: Callable[[str], Sender]) -> None:
        wrong = agent("ssmmessages")
        assert wrong.keys is not None
        wrong.keys = Keys(wrong.keys.access_key_id, "x" * 40, wrong.keys.token)

        answer = upgrade(wrong, "/v1/data-channel/s", UPGRADE)

        assert b"<InvalidSignatureException>" in answer
        assert gateway.asked == []

    with_gateway(scenario)


@pytest.mark.parametrize(
    "change",
    [
        {"upgrade": "h2c"},
        {"connection": "keep-alive"},
        {"sec-websocket-version": "12"},
        {"sec-websocket-key": "short"},
    ],
)
def test_what_is_no_websocket_is_not_upgraded(cloud: LocalCloud, change: Mapping[str, str]) -> None:
    answer = upgrade(Sender(cloud.endpoint_url, None, ""), "/v1/data-channel/s", {**UPGRADE, **change})

    assert answer.startswith(b"HTTP/1.1 426 ")


def test_a_refused_upgrade_says_why() -> None:
    def scenario(gateway: FakeGateway, agent: Callable[[str], Sender]) -> None:
        gateway.refuses = True

        answer = upgrade(agent("ssmmessages"), "/v1/data-channel/s", UPGRADE)

        assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert answer.endswith(
            b"<AccessDeniedException><message>not &lt;you&gt;</message></AccessDeniedException>"
        )

    with_gateway(scenario)


# TLS.


def test_tls_has_its_own_authority_and_plain_http_beside_it(tls_cloud: LocalCloud) -> None:
    info = tls_cloud.info
    context = ssl.create_default_context(cafile=info["ca_file"])
    port = urlsplit(info["endpoint_url"]).port

    for name in ("localhost", "127.0.0.1"):
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        with context.wrap_socket(plain, server_hostname=name) as connection:
            assert connection.version() in ("TLSv1.2", "TLSv1.3")
    assert info["endpoint_url"] == info["message_gateway_url"] == f"https://localhost:{port}"
    assert info["http_endpoint_url"].startswith("http://localhost:")
    keys = Keys.of(tls_cloud.user("alice"))
    assert Sender(info["http_endpoint_url"], keys, "s3").send("GET", "/").status == 200


def test_the_certificate_is_for_loopback_only(tls_cloud: LocalCloud) -> None:
    context = ssl.create_default_context(cafile=tls_cloud.info["ca_file"])
    port = urlsplit(tls_cloud.endpoint_url).port

    plain = socket.create_connection(("127.0.0.1", port), timeout=10)

    with plain, pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        context.wrap_socket(plain, server_hostname="example.com")


def test_without_the_authority_nobody_trusts_it(tls_cloud: LocalCloud) -> None:
    import botocore.session

    session = botocore.session.Session()
    session.set_credentials("AKIA", "x")
    sts = session.create_client("sts", region_name="us-east-1", endpoint_url=tls_cloud.endpoint_url)

    with pytest.raises(SSLError):
        sts.get_caller_identity()
    sts.close()


def test_one_cloud_does_not_take_anothers_keys(cloud: LocalCloud, tls_cloud: LocalCloud) -> None:
    own = tls_cloud.user("admin")

    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        cloud.client_with("sts", own["access_key_id"], own["secret_access_key"]).get_caller_identity()


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with LocalCloud(tmp_path, "--tls", environment={"TMPDIR": str(temporary)}) as cloud:
        s3 = cloud.client("s3")
        s3.create_bucket(Bucket="sagemaker-x")
        s3.put_object(Bucket="sagemaker-x", Key="k", Body=bytes(20_000_000))
        folders = [path for path in temporary.iterdir() if path.is_dir()]
        modes = [path.stat().st_mode & 0o777 for path in folders if path.name.startswith("sm-ssh-cloud-")]
        secrets = [path for folder in folders for path in folder.rglob("*") if "key" in path.name.lower()]

    assert modes == [0o700]
    assert secrets == []
    assert list(temporary.iterdir()) == []
    assert list((tmp_path / "home").iterdir()) == []


def test_the_users_own_aws_does_not_matter(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("[default]\nregion = eu-central-1\nendpoint_url = http://127.0.0.1:1\n")
    environment = {
        "AWS_PROFILE": "does-not-exist",
        "AWS_CONFIG_FILE": str(config),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_REGION": "mars-east-1",
        "HTTP_PROXY": "http://127.0.0.1:1",
    }

    with LocalCloud(tmp_path, environment=environment) as cloud:
        role = cloud.client("iam").get_role(RoleName="SageMakerRole")["Role"]["Arn"]

    assert role == cloud.info["role_arn"]


def test_a_stdlib_program_reads_an_object_by_a_presigned_url(cloud: LocalCloud, bucket: str) -> None:
    s3 = cloud.client("s3", signature_version="s3v4")
    s3.put_object(Bucket=bucket, Key="page", Body=b"hello")
    url = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "page"})

    code = "import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1]).read())"
    output = subprocess.run(
        [sys.executable, "-S", "-c", code, url],
        env=clean_environment(Path(os.devnull)),
        stdout=subprocess.PIPE,
        timeout=30,
        check=True,
    ).stdout

    assert output == b"hello"
    assert urllib.request is not None


def test_log_lines_are_found_by_the_beginning_of_their_stream(cloud: LocalCloud) -> None:
    logs = cloud.client("logs", user="admin")
    group = "/aws/sagemaker/Prefixes"
    logs.create_log_group(logGroupName=group)
    for stream in ("one/algo-1-1", "one/algo-2-1", "other/algo-1-1"):
        logs.create_log_stream(logGroupName=group, logStreamName=stream)
        event = {"timestamp": int(time.time() * 1000), "message": f"of {stream}"}
        logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=[event])

    def found(prefix: str) -> set[str]:
        answer = logs.filter_log_events(logGroupName=group, logStreamNamePrefix=prefix)
        return {event["message"] for event in answer["events"]}

    assert found("one/") == {"of one/algo-1-1", "of one/algo-2-1"}
    assert found("one/algo-2") == {"of one/algo-2-1"}
    assert found("none/") == set()
