"""
Which IAM action on which resource a call of moto's services is.

The names follow AWS's service authorization reference. A call may need several: copying an object reads one
and writes another.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from sagemaker_ssh_helper.emulator.policies import Context
from sagemaker_ssh_helper.emulator.s3_operations import S3Call
from sagemaker_ssh_helper.emulator.service import Caller


@dataclass(frozen=True)
class Permission:
    """One thing a caller must be allowed to do."""

    action: str
    resource: str
    context: Context = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where ARNs are."""

    account_id: str
    region: str


def of_iam(operation: str, params: Mapping[str, Any], place: Place, caller: Caller) -> list[Permission]:
    """What a call of IAM needs. Calls without a name are about the caller."""
    prefix = f"arn:aws:iam::{place.account_id}"
    context: dict[str, str] = {}
    if "PolicyArn" in params:
        context["iam:PolicyARN"] = params["PolicyArn"]
    named = {
        "RoleName": "role",
        "UserName": "user",
        "GroupName": "group",
        "InstanceProfileName": "instance-profile",
    }
    for parameter, kind in named.items():
        if parameter in params:
            # Names may not hold a path; what a role's or user's path is does not matter for the usual
            # patterns.
            return [Permission(f"iam:{operation}", f"{prefix}:{kind}/{params[parameter]}", context)]
    if "PolicyArn" in params:
        return [Permission(f"iam:{operation}", params["PolicyArn"], context)]
    if "PolicyName" in params:
        path = params.get("Path", "/")
        return [Permission(f"iam:{operation}", f"{prefix}:policy{path}{params['PolicyName']}")]
    if operation in _ABOUT_THE_CALLER and caller.kind == "user":
        return [Permission(f"iam:{operation}", caller.arn)]
    return [Permission(f"iam:{operation}", "*")]


_ABOUT_THE_CALLER = frozenset(
    ("ChangePassword", "CreateAccessKey", "GetUser", "ListAccessKeys", "DeleteAccessKey", "UpdateAccessKey")
)


def of_logs(operation: str, params: Mapping[str, Any], place: Place, caller: Caller) -> list[Permission]:
    """What a call of CloudWatch Logs needs."""
    prefix = f"arn:aws:logs:{place.region}:{place.account_id}:log-group:"
    group = params.get("logGroupName") or params.get("logGroupIdentifier")
    if names := params.get("logGroupNames"):
        return [Permission(f"logs:{operation}", f"{prefix}{name}:log-stream:") for name in names]
    if not group:
        return [Permission(f"logs:{operation}", f"{prefix}:log-stream:")]
    name = group.split(":log-group:")[-1].removesuffix(":*")
    stream = params.get("logStreamName")
    if stream and operation in ("PutLogEvents", "GetLogEvents", "DeleteLogStream"):
        return [Permission(f"logs:{operation}", f"{prefix}{name}:log-stream:{stream}")]
    return [Permission(f"logs:{operation}", f"{prefix}{name}:log-stream:")]


def of_kms(operation: str, params: Mapping[str, Any], place: Place, caller: Caller) -> list[Permission]:
    """What a call of KMS needs. Aliases are resolved to their keys."""
    prefix = f"arn:aws:kms:{place.region}:{place.account_id}"
    context = {
        f"kms:EncryptionContext:{key}": value for key, value in params.get("EncryptionContext", {}).items()
    }
    key_id = params.get("KeyId") or params.get("TargetKeyId")
    if not key_id and operation in ("Decrypt", "ReEncrypt"):
        key_id = _kms_key_of(params.get("CiphertextBlob", b""))
    resources = []
    if key_id:
        resources.append(_kms_key_arn(key_id, prefix, place))
    if "AliasName" in params:
        resources.append(f"{prefix}:{params['AliasName']}")
    return [Permission(f"kms:{operation}", resource, context) for resource in resources or ["*"]]


def _kms_key_arn(key_id: str, prefix: str, place: Place) -> str:
    """The ARN of a key that is named by its id, its ARN, an alias or the ARN of an alias."""
    name = key_id.removeprefix(f"{prefix}:")
    if name.startswith("arn:"):
        return name
    if name.startswith("alias/"):
        from moto.kms.models import kms_backends

        name = str(kms_backends[place.account_id][place.region].get_key_id_from_alias(name) or name)
    return f"{prefix}:key/{name.removeprefix('key/')}"


def _kms_key_of(ciphertext: bytes) -> str:
    # moto's ciphertext begins with the id of its key.
    text = ciphertext[:36].decode("latin-1")
    return text if re.fullmatch(r"[0-9a-f-]{36}", text) else ""


def of_sns(operation: str, params: Mapping[str, Any], place: Place, caller: Caller) -> list[Permission]:
    """What a call of SNS needs."""
    resource = params.get("TopicArn") or params.get("TargetArn") or params.get("ResourceArn")
    if resource is None and "SubscriptionArn" in params:
        resource = params["SubscriptionArn"].rpartition(":")[0]
    if resource is None and "Name" in params:
        resource = f"arn:aws:sns:{place.region}:{place.account_id}:{params['Name']}"
    return [Permission(f"SNS:{operation}", resource or "*")]


def of_s3(call: S3Call, headers: Mapping[str, str], deleted: list[str]) -> list[Permission]:
    """
    What a call of S3 needs.

    Args:
        headers: names in lower case.
        deleted: the keys in the body of DeleteObjects.
    """
    bucket_arn = f"arn:aws:s3:::{call.bucket}"
    object_arn = f"{bucket_arn}/{call.key}"
    operation = call.operation
    if operation == "ListBuckets":
        return [Permission("s3:ListAllMyBuckets", "*")]
    if operation == "DeleteObjects":
        return [Permission("s3:DeleteObject", f"{bucket_arn}/{key}") for key in deleted]
    if operation in ("CopyObject", "UploadPartCopy"):
        source = unquote(headers.get("x-amz-copy-source", "").partition("?")[0]).removeprefix("/")
        return [Permission("s3:GetObject", f"arn:aws:s3:::{source}"), *_writes(object_arn, headers)]
    if operation in ("PutObject", "CreateMultipartUpload"):
        return _writes(object_arn, headers)
    action = _S3_ACTIONS.get(operation, operation)
    if "versionId" in call.query and action in ("GetObject", "DeleteObject"):
        action += "Version"
    if call.key:
        return [Permission(f"s3:{action}", object_arn)]
    context = {
        f"s3:{name}": call.query[name] for name in ("prefix", "delimiter", "max-keys") if name in call.query
    }
    return [Permission(f"s3:{action}", bucket_arn, context)]


def _writes(object_arn: str, headers: Mapping[str, str]) -> list[Permission]:
    permissions = [Permission("s3:PutObject", object_arn)]
    if "x-amz-tagging" in headers:
        permissions.append(Permission("s3:PutObjectTagging", object_arn))
    if "x-amz-acl" in headers:
        permissions.append(Permission("s3:PutObjectAcl", object_arn))
    return permissions


# Operations whose action has another name.
_S3_ACTIONS = {
    "CompleteMultipartUpload": "PutObject",
    "DeleteBucketCors": "PutBucketCORS",
    "DeleteBucketEncryption": "PutEncryptionConfiguration",
    "DeleteBucketLifecycle": "PutLifecycleConfiguration",
    "DeleteBucketReplication": "PutReplicationConfiguration",
    "DeleteBucketTagging": "PutBucketTagging",
    "DeletePublicAccessBlock": "PutBucketPublicAccessBlock",
    "GetBucketCors": "GetBucketCORS",
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "GetBucketLifecycle": "GetLifecycleConfiguration",
    "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration",
    "GetBucketNotificationConfiguration": "GetBucketNotification",
    "GetBucketReplication": "GetReplicationConfiguration",
    "GetObjectAttributes": "GetObject",
    "GetObjectLockConfiguration": "GetBucketObjectLockConfiguration",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "ListObjectVersions": "ListBucketVersions",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "ListParts": "ListMultipartUploadParts",
    "PutBucketCors": "PutBucketCORS",
    "PutBucketEncryption": "PutEncryptionConfiguration",
    "PutBucketLifecycle": "PutLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    "PutBucketNotificationConfiguration": "PutBucketNotification",
    "PutBucketReplication": "PutReplicationConfiguration",
    "PutObjectLockConfiguration": "PutBucketObjectLockConfiguration",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
    "UploadPart": "PutObject",
}

of_service = {"iam": of_iam, "logs": of_logs, "kms": of_kms, "sns": of_sns}
"""For the services whose parameters botocore's model describes; S3 goes by ``of_s3``."""
