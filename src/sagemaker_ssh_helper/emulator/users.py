"""
Who is there when a local cloud starts: two ordinary users, an administrator, and the role of the jobs.

Their policies are ordinary IAM documents, stored in moto's IAM like any other: those of ``iam_policies``,
which the docs tell administrators to grant on AWS, and what it takes to launch jobs.
"""

import json
from collections.abc import Mapping
from typing import Any

from sagemaker_ssh_helper import iam_policies
from sagemaker_ssh_helper.emulator.identities import random_id, random_secret
from sagemaker_ssh_helper.emulator.service import User

ORDINARY_USERS = ("alice", "bob")
ADMINISTRATOR = "admin"
ROLE_NAME = "SageMakerRole"
BUCKETS = "sagemaker-*"
"""The buckets that users and jobs share; the SageMaker SDK's default bucket is one of them."""

Document = Mapping[str, Any]


def user_policy(account_id: str) -> Document:
    """What a user needs: run jobs with the role, and reach the containers whose owner tag is the user's
    id."""
    role = f"arn:aws:iam::{account_id}:role/{ROLE_NAME}"
    return iam_policies.document(
        {
            "Sid": "RunJobs",
            "Effect": "Allow",
            "Action": [
                "sagemaker:AddTags",
                "sagemaker:Describe*",
                "sagemaker:List*",
                "sagemaker:Create*Job",
                "sagemaker:CreateEndpoint",
                "sagemaker:CreateEndpointConfig",
                "sagemaker:CreateModel",
                "sagemaker:DeleteEndpoint",
                "sagemaker:DeleteEndpointConfig",
                "sagemaker:DeleteModel",
                "sagemaker:InvokeEndpoint",
                "sagemaker:Search",
                "sagemaker:Stop*Job",
                "sagemaker:UpdateEndpoint",
            ],
            "Resource": "*",
        },
        {
            "Sid": "HandTheRoleToJobs",
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": role,
            "Condition": {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
        },
        {
            "Sid": "SeeTheRole",
            "Effect": "Allow",
            "Action": ["iam:GetRole", "iam:SimulatePrincipalPolicy"],
            "Resource": role,
        },
        {
            "Sid": "CodeAndData",
            "Effect": "Allow",
            "Action": [
                "s3:AbortMultipartUpload",
                "s3:CreateBucket",
                "s3:DeleteObject",
                "s3:GetBucketLocation",
                "s3:GetObject",
                "s3:ListBucket",
                "s3:ListMultipartUploadParts",
                "s3:PutObject",
            ],
            "Resource": [f"arn:aws:s3:::{BUCKETS}", f"arn:aws:s3:::{BUCKETS}/*"],
        },
        {"Sid": "SeeSessions", "Effect": "Allow", "Action": "ssm:DescribeSessions", "Resource": "*"},
        {"Sid": "SeeBuckets", "Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"},
        {
            "Sid": "FollowLogs",
            "Effect": "Allow",
            "Action": "logs:GetLogEvents",
            "Resource": "arn:aws:logs:*:*:log-group:/aws/sagemaker/*",
        },
        {"Sid": "FindLogs", "Effect": "Allow", "Action": "logs:DescribeLogGroups", "Resource": "*"},
        *iam_policies.of_owners(),
        *iam_policies.of_debuggers(),
    )


def administrator_policy() -> Document:
    """Everything."""
    return iam_policies.document({"Effect": "Allow", "Action": "*", "Resource": "*"})


def role_policy(account_id: str) -> Document:
    """What a job needs: register its container once, speak with Systems Manager, its data and its logs."""
    role = f"arn:aws:iam::{account_id}:role/{ROLE_NAME}"
    return iam_policies.document(
        *iam_policies.of_containers(role),
        {
            # is_profiler_issues_found() in the job.
            "Sid": "SeeItsRules",
            "Effect": "Allow",
            "Action": "sagemaker:DescribeTrainingJob",
            "Resource": "*",
        },
        {
            "Sid": "CodeAndData",
            "Effect": "Allow",
            "Action": [
                "s3:AbortMultipartUpload",
                "s3:GetBucketLocation",
                "s3:GetObject",
                "s3:ListBucket",
                "s3:ListMultipartUploadParts",
                "s3:PutObject",
            ],
            "Resource": [f"arn:aws:s3:::{BUCKETS}", f"arn:aws:s3:::{BUCKETS}/*"],
        },
        {
            "Sid": "WriteLogs",
            "Effect": "Allow",
            "Action": [
                "logs:CreateLogGroup",
                "logs:CreateLogStream",
                "logs:DescribeLogStreams",
                "logs:PutLogEvents",
            ],
            "Resource": "arn:aws:logs:*:*:log-group:/aws/sagemaker/*",
        },
        {
            # Nothing here asks for these, but version 3 of the SDK refuses a role that lacks them.
            "Sid": "BeRunBySageMaker",
            "Effect": "Allow",
            "Action": [
                "cloudwatch:PutMetricData",
                "ec2:CreateNetworkInterface",
                "ec2:CreateNetworkInterfacePermission",
                "ec2:DeleteNetworkInterface",
                "ec2:DeleteNetworkInterfacePermission",
                "ec2:DescribeDhcpOptions",
                "ec2:DescribeNetworkInterfaces",
                "ec2:DescribeSecurityGroups",
                "ec2:DescribeSubnets",
                "ec2:DescribeVpcs",
                "ecr:GetAuthorizationToken",
            ],
            "Resource": "*",
        },
    )


def role_trust() -> Document:
    """SageMaker runs jobs as the role, Systems Manager gives it to their managed instances."""
    return iam_policies.document(iam_policies.trust())


def create_users(account_id: str) -> tuple[list[User], str]:
    """
    Make them in moto's IAM, with new random keys: the users, administrator last, and the role's ARN.

    The SageMaker SDK and users may change or delete any of this through IAM afterwards.
    """
    from moto.iam.models import iam_backends

    backend = iam_backends[account_id]["aws"]
    role = backend.create_role(
        role_name=ROLE_NAME,
        assume_role_policy_document=json.dumps(role_trust()),
        path="/",
        permissions_boundary=None,
        description="Runs the jobs of the local cloud and registers their containers",
        tags=[],
        max_session_duration="3600",
    )
    backend.put_role_policy(ROLE_NAME, "sagemaker-ssh-helper", json.dumps(role_policy(account_id)))
    users = []
    for name in (*ORDINARY_USERS, ADMINISTRATOR):
        administrator = name == ADMINISTRATOR
        document = administrator_policy() if administrator else user_policy(account_id)
        user = backend.create_user("us-east-1", name)
        backend.put_user_policy(name, "sagemaker-ssh-helper", json.dumps(document))
        # moto's own keys and ids come from a generator that is not meant for secrets.
        user.id = random_id("AIDA", 21)
        key = backend.create_access_key(name)
        del backend.access_keys[key.physical_resource_id]
        key.access_key_id, key.secret_access_key = random_id("AKIA"), random_secret()
        backend.access_keys[key.access_key_id] = key
        users.append(User(name, user.id, user.arn, key.access_key_id, key.secret_access_key, administrator))
    return users, role.arn
