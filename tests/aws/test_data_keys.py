"""Data keys of KMS for the client of a session."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from aws_stub import AwsStub, Refusal
from sagemaker_ssh_helper.aws import data_keys
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.errors import AccessDenied, ServiceError
from sagemaker_ssh_helper.protocol.encryption import DataKey

CONTEXT = {"aws:ssm:SessionId": "s-1", "aws:ssm:TargetId": "mi-1"}


def test_kms_is_asked_for_a_key_of_64_bytes(stub: AwsStub, client: Client) -> None:
    plain, sealed = bytes(range(64)), b"encrypted"
    stub.answers["GenerateDataKey"] = {
        "Plaintext": base64.b64encode(plain).decode(),
        "CiphertextBlob": base64.b64encode(sealed).decode(),
        "KeyId": "arn:aws:kms:eu-west-1:1:key/k",
    }

    assert data_keys.generate(client, "alias/k", CONTEXT) == DataKey(plain, sealed)
    (asked,) = stub.asked
    assert asked.params == {"KeyId": "alias/k", "NumberOfBytes": 64, "EncryptionContext": CONTEXT}
    assert asked.headers["X-Amz-Target"] == "TrentService.GenerateDataKey"
    assert "/eu-west-1/kms/aws4_request" in asked.headers["Authorization"]


def test_a_refusal_names_the_key(stub: AwsStub, client: Client) -> None:
    stub.answers["GenerateDataKey"] = Refusal("AccessDeniedException", "not authorized")
    with pytest.raises(AccessDenied) as caught:
        data_keys.generate(client, "alias/k", CONTEXT)
    assert str(caught.value) == (
        "the session is to be encrypted, and AWS does not let you call kms:GenerateDataKey "
        "(AWS says: not authorized). Ask an administrator to allow kms:GenerateDataKey with the key alias/k"
    )


@pytest.mark.parametrize("answer", [{}, {"Plaintext": "eA=="}, {"Plaintext": 1, "CiphertextBlob": "eA=="}])
def test_an_answer_without_a_key_is_none(stub: AwsStub, client: Client, answer: dict[str, Any]) -> None:
    stub.answers["GenerateDataKey"] = answer
    with pytest.raises(ServiceError, match="kms:GenerateDataKey gave no data key of alias/k"):
        data_keys.generate(client, "alias/k", CONTEXT)
