"""Requests that no SDK would send are refused in one line; the local cloud itself never fails on them."""

import contextlib
import io
import itertools
import json
import os
import tarfile
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.httpsession import URLLib3Session

from local_cloud import LocalCloud
from sagemaker_ssh_helper.emulator.job_storage import StorageError, extract

VALUES: list[Any] = [None, [], ["deny"], {}, {"a": 1}, True, -1, 1e400, 10**30, "", "\0", "x" * 10_000]
KINDS = [
    "deny", "throttle", "delay", "error", "unreachable", "gateway", "cut", "link", "freeze", "rotation",
    "refuse-resume", "session-timing", "tier", "ping-status", "registration-limit", "session-names",
    "token-lifetime", "message-poll", "stop-timeout", "rule-status", "native-node",
]  # fmt: skip
NAMES = [
    "action", "user", "seconds", "rate", "code", "message", "status", "times", "side", "session", "instance",
    "tier", "limit", "by", "grace", "offer", "cuts", "job", "rule", "target", "role", "rtt", "seed",
]  # fmt: skip


@pytest.fixture
def switches(cloud: LocalCloud) -> Iterator[LocalCloud]:
    yield cloud
    cloud.clear_faults()


def status_of(cloud: LocalCloud, body: Any) -> int:
    try:
        cloud.local("POST", "faults", body)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    return 200


@pytest.mark.parametrize("kind", [*VALUES, "no such kind"], ids=lambda value: repr(value)[:20])
def test_a_switch_of_an_odd_kind_is_refused(switches: LocalCloud, kind: Any) -> None:
    assert status_of(switches, {"kind": kind}) == 400


@pytest.mark.parametrize("kind", KINDS)
def test_a_switch_with_odd_values_is_refused_or_taken(switches: LocalCloud, kind: str) -> None:
    for name, value in itertools.product(NAMES, VALUES):
        # It would stop the calls of this test, too.
        body = {"kind": kind, "action": "x:Y", name: value}
        assert status_of(switches, body) in (200, 400, 404), body
    assert status_of(switches, {"kind": kind, "action": "x:Y", **{name: [] for name in NAMES[4:]}}) in (
        200,
        400,
        404,
    )


def send(cloud: LocalCloud, method: str, address: str, body: bytes) -> int:
    """A signed request to S3, as it is; the status."""
    keys = cloud.user("admin")
    request = AWSRequest(method, f"{cloud.endpoint_url}{address}", data=body)
    credentials = Credentials(keys["access_key_id"], keys["secret_access_key"])
    S3SigV4Auth(credentials, "s3", cloud.info["region"]).add_auth(request)
    return URLLib3Session().send(request.prepare()).status_code


BODIES = [
    b"", b"x", b"<", b"<a/>", b"<Delete/>", b"<Delete><Object/></Delete>", b"\xff\xfe", b"<a>" * 500, b"{}",
    b"<CompleteMultipartUpload><Part/></CompleteMultipartUpload>",
    b"<Tagging><TagSet><Tag/></TagSet></Tagging>",
]  # fmt: skip
SUBRESOURCES = [
    "delete", "uploads", "acl", "cors", "lifecycle", "policy", "tagging", "versioning", "website", "logging",
    "notification", "replication", "encryption", "publicAccessBlock", "accelerate", "object-lock",
    "requestPayment", "ownershipControls", "inventory&id=x", "analytics&id=x", "metrics&id=x", "location",
    "select&select-type=2", "restore", "uploadId=x", "uploadId=x&partNumber=a", "retention", "legal-hold",
    "torrent", "attributes", "list-type=2&max-keys=a", "max-keys=a", "versions&max-keys=a", "versionId=x",
]  # fmt: skip


@pytest.mark.parametrize("subresource", SUBRESOURCES)
def test_s3_is_sent_odd_bodies(cloud: LocalCloud, subresource: str) -> None:
    cloud.client("s3", user="admin").create_bucket(Bucket="sagemaker-odd")
    for method, place in itertools.product(
        ("GET", "PUT", "POST", "DELETE"), ("sagemaker-odd", "sagemaker-odd/key")
    ):
        for body in BODIES if method in ("PUT", "POST") else [b""]:
            status = send(cloud, method, f"/{place}?{subresource}", body)
            assert status < 500 or status == 501, (method, place, body)
    assert json.dumps(cloud.client("s3", user="admin").list_buckets()["Buckets"], default=str)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["missing", "itself", "./itself", "folder/../itself", "a/b/c", ""])
def test_links_that_lead_nowhere_are_no_fault_of_the_cloud(tmp_path: Path, kind: bytes, target: str) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in ("itself", "other"):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    file.seek(0)
    if kind == tarfile.SYMTYPE and target in ("missing", "a/b/c"):
        extract(file, tmp_path, "s3://bucket/key")
        assert os.readlink(tmp_path / "itself") == target
        return
    with contextlib.suppress(StorageError):
        extract(file, tmp_path, "s3://bucket/key")
    assert {path.name for path in tmp_path.iterdir()} <= {"itself", "other"}


@pytest.mark.parametrize("at", range(0, 100, 7))
def test_broken_archives_are_told(tmp_path: Path, at: int) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("file")
        member.size = 5000
        archive.addfile(member, io.BytesIO(bytes(range(250)) * 20))
    data = file.getvalue()
    with pytest.raises(StorageError, match="s3://bucket/key"):
        extract(io.BytesIO(data[:at]), tmp_path / "cut", "s3://bucket/key")
    with contextlib.suppress(StorageError):
        extract(io.BytesIO(data[:at] + b"\xff\x00\xff" + data[at + 3 :]), tmp_path / "bad", "s3://bucket/key")
