"""
Data keys of KMS, for sessions that the account wants encrypted.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.errors import AccessDenied, ServiceError
from sagemaker_ssh_helper.protocol.encryption import DATA_KEY_BYTES, DataKey


def generate(client: Client, key_id: str, encryption_context: Mapping[str, str]) -> DataKey:
    """
    A new data key of a KMS key, for this encryption context. ``key_id`` is an id, an alias or an ARN.

    Raises AccessDenied, ServiceError and the other AwsErrors.
    """
    try:
        answer = client.call(
            "kms",
            "GenerateDataKey",
            KeyId=key_id,
            NumberOfBytes=DATA_KEY_BYTES,
            EncryptionContext=dict(encryption_context),
        )
    except AccessDenied as error:
        error.what = f"the session is to be encrypted, and {error.what}"
        error.fix = f"Ask an administrator to allow kms:GenerateDataKey with the key {key_id}"
        raise
    try:
        return DataKey(base64.b64decode(answer["Plaintext"]), base64.b64decode(answer["CiphertextBlob"]))
    except (KeyError, TypeError, ValueError):
        raise ServiceError(f"kms:GenerateDataKey gave no data key of {key_id}", code="EmptyAnswer") from None
