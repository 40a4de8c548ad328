"""
What the caller may do, by IAM's own simulator.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from sagemaker_ssh_helper.aws import diagnosis
from sagemaker_ssh_helper.aws.json_rpc import Caller, error_of
from sagemaker_ssh_helper.aws.session import Session, partition_of
from sagemaker_ssh_helper.errors import EndpointUnreachable, ServiceError, reason_of
from sagemaker_ssh_helper.names import Document, InstanceId, Tag

_SOME_INSTANCE = InstanceId("mi-0123456789abcdef0")

_CONTROL = ("ssm:DescribeInstanceInformation", "ssm:GetCommandInvocation", "sagemaker:DescribeTrainingJob",
            "sagemaker:ListTrainingJobs")  # fmt: skip


def missing(session: Session, caller: Caller, instance_id: InstanceId | None = None) -> list[str]:
    """
    The actions of a connection that no policy allows, or that one denies, for containers of the caller's own.

    Service control policies and boundaries are seen as far as IAM's simulator sees them. Raises AccessDenied
    when the simulator may not be asked, AwsError.
    """
    partition = partition_of(session.region).name
    ssm = f"arn:{partition}:ssm:{session.region}"
    instance = f"{ssm}:{caller.account}:managed-instance/{instance_id or _SOME_INSTANCE}"
    # A session is named after the IAM user, or the name of the role's session.
    own = f"{ssm}:{caller.account}:session/{caller.arn.rpartition('/')[2]}-{'0' * 26}"
    wanted: list[tuple[tuple[str, ...], str]] = [
        (_CONTROL, "*"),
        (("ssm:StartSession", "ssm:SendCommand", "ssm:ListTagsForResource"), instance),
        (("ssm:StartSession",), f"{ssm}::document/{Document.START_SSH_SESSION}"),
        (("ssm:SendCommand",), f"{ssm}::document/{Document.RUN_SHELL_SCRIPT}"),
        (("ssm:ResumeSession", "ssm:TerminateSession", "ssmmessages:OpenDataChannel"), own),
    ]
    refused: dict[str, None] = {}
    with closing(session.client("iam")) as client:
        for actions, resource in wanted:
            refused.update(dict.fromkeys(_refused(session, client, caller, actions, resource)))
    return list(refused)


def policy_source(caller: Caller) -> str:
    """The ARN of the user or role whose policies apply. A role's path is not in what STS tells."""
    found = re.fullmatch(r"arn:([a-z-]+):sts::(\d+):assumed-role/([^/]+)/.+", caller.arn)
    return f"arn:{found[1]}:iam::{found[2]}:role/{found[3]}" if found else caller.arn


def _refused(
    session: Session, client: Any, caller: Caller, actions: Iterable[str], resource: str
) -> list[str]:
    from botocore.exceptions import BotoCoreError, ClientError

    known = {
        "aws:userid": caller.user_id,
        "aws:username": caller.arn.rpartition("/")[2],
        f"ssm:resourceTag/{Tag.OWNER}": caller.user_id,
        "ssm:resourceTag/aws:ssmmessages:session-id": caller.user_id,
    }
    try:
        answer = client.simulate_principal_policy(
            PolicySourceArn=policy_source(caller),
            ActionNames=list(actions),
            ResourceArns=[resource],
            ContextEntries=[
                {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
                for key, value in known.items()
            ],
        )
    except ClientError as error:
        said = error.response.get("Error", {})
        code, message = (session.without_token(str(said.get(name, ""))) for name in ("Code", "Message"))
        raise error_of(session, "iam", "SimulatePrincipalPolicy", code, message) from error
    except BotoCoreError as error:
        evidence = diagnosis.network_reason(error)
        raise EndpointUnreachable("iam does not answer", evidence=evidence) from error
    except Exception as error:  # of botocore's parsers, whatever it met in the answer
        raise ServiceError(
            "SimulatePrincipalPolicy was answered with something else than an answer",
            evidence=reason_of(error),
            fix="Something else than AWS answers there",
        ) from error
    return [
        str(result["EvalActionName"])
        for result in answer.get("EvaluationResults") or []
        if result["EvalDecision"] != "allowed"
    ]
