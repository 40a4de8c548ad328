import hashlib
from typing import Any

import pytest

from sagemaker_ssh_helper.emulator.instance_signature import InstanceSignature, string_to_sign
from sagemaker_ssh_helper.emulator.service import ApiError, Call

# A request of the official agent, with the digests of its body and of its canonical form.
BODY = b'{"Fingerprint":"8d65cea3-169b-4fe0-a7da-7dc1c3b72f6b"}'
BODY_SHA256 = "6c59e8b3a62bca1bf9cb816e1333535c64e4442e83f243cd5370fb1c9947812a"
CANONICAL_SHA256 = "aa6656a4c8d499dd9ef9449d391ab16c0b7b8b41a2aec859b1a50922f913b131"
AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=mi-0123456789abcdef0/20261122/us-east-1/ssm/aws4_request, "
    "SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature=ab+/cQ=="
)


def call(authorization: str = AUTHORIZATION) -> Call:
    return Call(
        service="ssm",
        operation="RequestManagedInstanceRoleToken",
        params={},
        caller=None,
        headers={
            "authorization": authorization,
            "content-type": "application/x-amz-json-1.1",
            "host": "127.0.0.1:8080",
            "x-amz-date": "20261122T063600Z",
            "x-amz-target": "AmazonSSM.RequestManagedInstanceRoleToken",
            "transfer-encoding": "chunked",
        },
        region="us-east-1",
        endpoint="http://127.0.0.1:8080",
        body=BODY,
    )


def test_recorded_request_gives_the_recorded_string_to_sign() -> None:
    signature = InstanceSignature.parse(call().headers)

    assert hashlib.sha256(BODY).hexdigest() == BODY_SHA256
    assert signature.instance_id == "mi-0123456789abcdef0"
    assert signature.signature == b"i\xbf\xbfq"
    assert string_to_sign(call(), signature).split("\n") == [
        "AWS4-HMAC-SHA256",
        "20261122T063600Z",
        "20261122/us-east-1/ssm/aws4_request",
        CANONICAL_SHA256,
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (AUTHORIZATION, ""),
        ("AWS4-HMAC-SHA256", "AWS4-X"),
        ("mi-0123456789abcdef0", "AKIAEXAMPLE"),
        ("/ssm/", "/s3/"),
        ("host;", ""),
        (";x-amz-target", ""),
        ("ab+/cQ==", "ab+/c"),
        ("Signature", "Sign"),
    ],
)
def test_incomplete_header_is_refused(old: str, new: str) -> None:
    headers: Any = call(AUTHORIZATION.replace(old, new)).headers
    with pytest.raises(ApiError, match="IncompleteSignatureException"):
        InstanceSignature.parse(headers)
