"""
A public key on its way through S3, for accounts that want it so: ``SSH_AUTHORIZED_KEYS_PATH``.
"""

from __future__ import annotations

import hashlib
import re

from sagemaker_ssh_helper.aws import diagnosis
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    EndpointUnreachable,
    KeyNotDelivered,
    UsageError,
    reason_of,
)
from sagemaker_ssh_helper.names import Env

_OLDER_NAME = "sagemaker-ssh-gw.pub"

_PLACE = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")


def put_key(session: Session, place: str, public_line: str) -> str:
    """
    Put a public key below ``place`` (``s3://BUCKET/PREFIX/``) with the user's own rights; returns its URI.

    The same key has the same name each time; a second object of it has the name that containers with an older
    helper read, which all users of the place share. Raises UsageError, AccessDenied, KeyNotDelivered,
    EndpointUnreachable.
    """
    found = _PLACE.fullmatch(place.strip())
    if found is None:
        raise UsageError(
            f"{Env.AUTHORIZED_KEYS_PATH} is no place in S3", fix="It has the form s3://BUCKET/PREFIX/"
        )
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, prefix = found[1], (found[2] or "").strip("/")
    name = hashlib.sha256(public_line.encode()).hexdigest()[:16] + ".pub"
    key = f"{prefix}/{name}" if prefix else name
    s3 = session.client("s3")
    try:
        for each in (f"{prefix}/{_OLDER_NAME}" if prefix else _OLDER_NAME, key):
            s3.put_object(Bucket=bucket, Key=each, Body=public_line.encode() + b"\n")
    except ClientError as error:
        answer = error.response.get("Error", {})
        code, said = (session.without_token(str(answer.get(name, ""))) for name in ("Code", "Message"))
        code, said = code[:100], said[:300]
        if code in ("AccessDenied", "AllAccessDisabled"):
            raise AccessDenied(
                f"you may not write to s3://{bucket}/{prefix}",
                evidence=f"{code}: {said}",
                fix=f"Ask for s3:PutObject there, or set {Env.AUTHORIZED_KEYS_PATH} to another place",
            ) from error
        raise KeyNotDelivered(
            f"your public key cannot be put into s3://{bucket}/{prefix}",
            evidence=f"{code}: {said}",
            fix=f"Correct or unset {Env.AUTHORIZED_KEYS_PATH}",
        ) from error
    except BotoCoreError as error:
        raise EndpointUnreachable("S3 cannot be reached", evidence=diagnosis.network_reason(error)) from error
    except Exception as error:  # of botocore's parsers, whatever it met in the answer
        raise KeyNotDelivered(
            f"your public key cannot be put into s3://{bucket}/{prefix}",
            evidence=f"{reason_of(error)}: something else than AWS answers there",
        ) from error
    finally:
        s3.close()
    return f"s3://{bucket}/{key}"
