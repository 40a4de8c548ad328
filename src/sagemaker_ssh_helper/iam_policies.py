"""
What IAM has to allow: statements for the role of the jobs, and for the people who reach them.

The only source of them: the users of the local cloud have exactly these, ``cdk.iam_ssm_app`` grants them, and
``docs/how-to/prepare-an-account.md`` shows them. ``document`` makes a policy of statements.
"""

from typing import Any, List, Mapping

from sagemaker_ssh_helper.names import Document, Tag

Statement = Mapping[str, Any]

SESSION_DOCUMENTS = (
    Document.START_SSH_SESSION,
    Document.START_PORT_FORWARDING,
    "AWS-StartPortForwardingSessionToRemoteHost",
    "AWS-StartInteractiveCommand",
    "AWS-StartNonInteractiveCommand",
)
"""Those of AWS that sessions of this product ask for, beside the account's own for a shell."""


def document(*statements: Statement) -> Mapping[str, Any]:
    """A policy document."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def trust() -> Statement:
    """Who may be the role of the jobs: SageMaker runs them, Systems Manager gives it to managed instances."""
    return {
        "Effect": "Allow",
        "Principal": {"Service": ["sagemaker.amazonaws.com", "ssm.amazonaws.com"]},
        "Action": "sts:AssumeRole",
    }


def of_containers(role_arn: str) -> List[Statement]:
    """What a job needs, whose role this is: register its container once, and speak with Systems Manager."""
    return [
        {"Sid": "RegisterContainer", "Effect": "Allow", "Action": "ssm:CreateActivation", "Resource": "*"},
        {
            # An activation's tags are asked for on the role that it hands out. On an instance, this would let
            # a job make itself the owner of another team's.
            "Sid": "TagContainer",
            "Effect": "Allow",
            "Action": "ssm:AddTagsToResource",
            "Resource": role_arn,
        },
        {
            "Sid": "HandTheRoleToSystemsManager",
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": role_arn,
            "Condition": {"StringEquals": {"iam:PassedToService": "ssm.amazonaws.com"}},
        },
        {
            # Calls of an instance about itself: AWS takes them of nobody else.
            "Sid": "BeAManagedInstance",
            "Effect": "Allow",
            "Action": [
                "ssm:ListAssociations",
                "ssm:ListInstanceAssociations",
                "ssm:UpdateInstanceInformation",
                "ssmmessages:CreateControlChannel",
                "ssmmessages:CreateDataChannel",
                "ssmmessages:OpenControlChannel",
                "ssmmessages:OpenDataChannel",
                "ec2messages:AcknowledgeMessage",
                "ec2messages:DeleteMessage",
                "ec2messages:FailMessage",
                "ec2messages:GetEndpoint",
                "ec2messages:GetMessages",
                "ec2messages:SendReply",
            ],
            "Resource": "*",
        },
    ]


def of_leaving_containers(partition: str = "aws") -> List[Statement]:
    """What lets a job take its own instances off the list when it ends, and no others."""
    return [
        {
            "Sid": "LeaveTheList",
            "Effect": "Allow",
            "Action": "ssm:DeregisterManagedInstance",
            "Resource": f"arn:{partition}:ssm:*:*:managed-instance/mi-*",
            "Condition": {"StringEquals": {f"ssm:resourceTag/{Tag.CREATOR}": "${aws:userid}"}},
        },
    ]


def of_owners(partition: str = "aws") -> List[Statement]:
    """What a user needs: find containers, and reach those whose owner tag is the user's id."""
    ssm = f"arn:{partition}:ssm:*:*"
    return [
        {
            "Sid": "SeeWhatRuns",
            "Effect": "Allow",
            "Action": [
                "sagemaker:DescribeApp",
                "sagemaker:DescribeEndpoint",
                "sagemaker:DescribeEndpointConfig",
                "sagemaker:DescribeModel",
                "sagemaker:DescribeNotebookInstance",
                "sagemaker:DescribeProcessingJob",
                "sagemaker:DescribeTrainingJob",
                "sagemaker:DescribeTransformJob",
                "sagemaker:ListApps",
                "sagemaker:ListEndpoints",
                "sagemaker:ListNotebookInstances",
                "sagemaker:ListProcessingJobs",
                "sagemaker:ListTrainingJobs",
                "sagemaker:ListTransformJobs",
            ],
            "Resource": "*",
        },
        {
            "Sid": "FindContainers",
            "Effect": "Allow",
            "Action": [
                "ssm:DescribeInstanceInformation",
                "ssm:GetCommandInvocation",
                "ssm:GetConnectionStatus",
                "ssm:GetServiceSetting",
                "ssm:ListTagsForResource",
            ],
            "Resource": "*",
        },
        {
            "Sid": "ReachMyContainers",
            "Effect": "Allow",
            "Action": ["ssm:SendCommand", "ssm:StartSession"],
            "Resource": f"{ssm}:managed-instance/mi-*",
            "Condition": {"StringEquals": {f"ssm:resourceTag/{Tag.OWNER}": "${aws:userid}"}},
        },
        {
            "Sid": "RunCommands",
            "Effect": "Allow",
            "Action": "ssm:SendCommand",
            "Resource": f"{ssm}:document/{Document.RUN_SHELL_SCRIPT}",
        },
        {
            "Sid": "OpenSessions",
            "Effect": "Allow",
            "Action": "ssm:StartSession",
            "Resource": [
                f"{ssm}:document/SSM-SessionManagerRunShell",
                *(f"{ssm}:document/{name}" for name in SESSION_DOCUMENTS),
            ],
        },
        *_of_own_sessions(ssm),
        {
            "Sid": "ReadLogs",
            "Effect": "Allow",
            "Action": ["logs:DescribeLogStreams", "logs:FilterLogEvents", "logs:StartQuery"],
            "Resource": f"arn:{partition}:logs:*:*:log-group:/aws/sagemaker/*",
        },
        {
            "Sid": "ReadAnswersOfLogs",
            "Effect": "Allow",
            "Action": "logs:GetQueryResults",
            "Resource": "*",
        },
        {
            "Sid": "StopWhatRuns",
            "Effect": "Allow",
            "Action": [
                "sagemaker:StopNotebookInstance",
                "sagemaker:StopProcessingJob",
                "sagemaker:StopTrainingJob",
                "sagemaker:StopTransformJob",
            ],
            "Resource": "*",
        },
        {
            "Sid": "TakeMyContainersOffTheList",
            "Effect": "Allow",
            "Action": "ssm:DeregisterManagedInstance",
            "Resource": f"{ssm}:managed-instance/mi-*",
            "Condition": {"StringEquals": {f"ssm:resourceTag/{Tag.OWNER}": "${aws:userid}"}},
        },
    ]


_USE = ["ssm:ResumeSession", "ssm:TerminateSession", "ssmmessages:OpenDataChannel"]
_END_OF_ID = "?" * 26
"""As many characters as follow the name. ``NAME-*`` would match the sessions of ``NAME-2``, too."""

_MINE = {
    "ssm:resourceTag/aws:ssmmessages:session-id": ["${aws:userid}", f"${{aws:userid}}-{_END_OF_ID}"],
}


def _of_own_sessions(ssm: str) -> List[Statement]:
    """
    The user's own sessions, each way in which they have been told apart: by a tag, by the user's name and by
    the user's id in front of the session's.
    """
    return [
        {
            "Sid": "UseMySessions",
            "Effect": "Allow",
            "Action": _USE,
            "Resource": f"{ssm}:session/*",
            "Condition": {"StringLike": _MINE},
        },
        {
            # Where the tag is seen it decides: a role's session may have the user's name.
            "Sid": "UseSessionsOfMyName",
            "Effect": "Allow",
            "Action": _USE,
            "Resource": f"{ssm}:session/${{aws:username}}-{_END_OF_ID}",
            "Condition": {"StringLikeIfExists": _MINE},
        },
        {
            "Sid": "UseSessionsOfMyId",
            "Effect": "Allow",
            "Action": _USE,
            "Resource": f"{ssm}:session/${{aws:userid}}-{_END_OF_ID}",
        },
    ]


def of_debuggers(partition: str = "aws") -> List[Statement]:
    """What a user needs for the native targets of jobs and endpoints, and to turn those of jobs on."""
    return [
        {
            "Sid": "TurnRemoteDebuggingOn",
            "Effect": "Allow",
            "Action": "sagemaker:UpdateTrainingJob",
            "Resource": f"arn:{partition}:sagemaker:*:*:training-job/*",
        },
        {
            # Such a target has no owner: whoever may debug jobs may debug everybody's.
            "Sid": "DebugJobs",
            "Effect": "Allow",
            "Action": ["ssm:GetConnectionStatus", "ssm:StartSession"],
            "Resource": "*",
            "Condition": {
                "StringLike": {
                    "ssm:resourceTag/aws:ssmmessages:target-id": [
                        "sagemaker-training-job:*",
                        "sagemaker-endpoint:*",
                    ]
                }
            },
        },
    ]


def guard(partition: str = "aws") -> List[Statement]:
    """
    What takes from users with wider rights what they could do to containers of others.

    By the target alone: a session's owner is told apart in several ways (``of_owners``), and to deny by one
    of them would take people's own sessions from them.
    """
    return [
        {
            "Sid": "LeaveContainersOfOthers",
            "Effect": "Deny",
            "Action": [
                "ssm:AddTagsToResource",
                "ssm:DeregisterManagedInstance",
                "ssm:RemoveTagsFromResource",
                "ssm:SendCommand",
                "ssm:StartSession",
                "ssm:UpdateManagedInstanceRole",
            ],
            "Resource": f"arn:{partition}:ssm:*:*:managed-instance/mi-*",
            "Condition": {"StringNotEquals": {f"ssm:resourceTag/{Tag.OWNER}": "${aws:userid}"}},
        },
        {
            # These name their targets where no condition can see them, and run as Systems Manager.
            "Sid": "StartNothingThatRunsCommandsElsewhere",
            "Effect": "Deny",
            "Action": [
                "ssm:CreateAssociation",
                "ssm:CreateAssociationBatch",
                "ssm:RegisterTargetWithMaintenanceWindow",
                "ssm:RegisterTaskWithMaintenanceWindow",
                "ssm:StartAssociationsOnce",
                "ssm:StartAutomationExecution",
                "ssm:StartChangeRequestExecution",
                "ssm:UpdateAssociation",
                "ssm:UpdateMaintenanceWindowTarget",
                "ssm:UpdateMaintenanceWindowTask",
            ],
            "Resource": "*",
        },
    ]
