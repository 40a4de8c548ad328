"""
What IAM has to allow: statements for the role of the jobs, and for the people who reach them.

The users of the local cloud have them, and administrators can grant them by ``cdk.iam_ssm_app``.
"""

from typing import Any, List, Mapping

Statement = Mapping[str, Any]


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
            # A job tags what it registers, and cannot take over a container that has an owner.
            "Sid": "TagContainer",
            "Effect": "Allow",
            "Action": "ssm:AddTagsToResource",
            "Resource": "*",
            "Condition": {
                "ForAllValues:StringLike": {"aws:TagKeys": "SSH*"},
                "Null": {"ssm:resourceTag/SSHOwner": "true"},
            },
        },
        {
            "Sid": "HandTheRoleToSystemsManager",
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": role_arn,
            "Condition": {"StringEquals": {"iam:PassedToService": "ssm.amazonaws.com"}},
        },
        {
            "Sid": "BeAManagedInstance",
            "Effect": "Allow",
            "Action": [
                "ssm:DescribeAssociation",
                "ssm:DescribeDocument",
                "ssm:GetDeployablePatchSnapshotForInstance",
                "ssm:GetDocument",
                "ssm:GetManifest",
                "ssm:ListAssociations",
                "ssm:ListInstanceAssociations",
                "ssm:PutComplianceItems",
                "ssm:PutConfigurePackageResult",
                "ssm:PutInventory",
                "ssm:UpdateAssociationStatus",
                "ssm:UpdateInstanceAssociationStatus",
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


def of_owners(partition: str = "aws") -> List[Statement]:
    """What a user needs: find containers, and reach those whose owner tag is the user's id."""
    return [
        {
            "Sid": "SeeWhatRuns",
            "Effect": "Allow",
            "Action": ["sagemaker:Describe*", "sagemaker:List*"],
            "Resource": "*",
        },
        {
            "Sid": "FindContainers",
            "Effect": "Allow",
            "Action": [
                "ssm:DescribeInstanceInformation",
                "ssm:DescribeSessions",
                "ssm:GetCommandInvocation",
                "ssm:GetConnectionStatus",
                "ssm:GetServiceSetting",
                "ssm:ListCommandInvocations",
                "ssm:ListTagsForResource",
            ],
            "Resource": "*",
        },
        {
            "Sid": "ReachMyContainers",
            "Effect": "Allow",
            "Action": ["ssm:SendCommand", "ssm:StartSession"],
            "Resource": f"arn:{partition}:ssm:*:*:managed-instance/*",
            "Condition": {"StringLike": {"ssm:resourceTag/SSHOwner": "${aws:userid}"}},
        },
        {
            "Sid": "ByTheseDocumentsOnly",
            "Effect": "Allow",
            "Action": ["ssm:SendCommand", "ssm:StartSession"],
            "Resource": [
                f"arn:{partition}:ssm:*:*:document/AWS-RunShellScript",
                f"arn:{partition}:ssm:*:*:document/AWS-StartInteractiveCommand",
                f"arn:{partition}:ssm:*:*:document/AWS-StartNonInteractiveCommand",
                f"arn:{partition}:ssm:*:*:document/AWS-StartPortForwardingSession",
                f"arn:{partition}:ssm:*:*:document/AWS-StartSSHSession",
            ],
        },
        {
            "Sid": "EndMySessions",
            "Effect": "Allow",
            "Action": ["ssm:ResumeSession", "ssm:TerminateSession"],
            "Resource": [
                f"arn:{partition}:ssm:*:*:session/${{aws:userid}}-*",
                f"arn:{partition}:ssm:*:*:session/${{aws:username}}-*",
            ],
        },
    ]


def of_debuggers() -> List[Statement]:
    """What a user needs for the native targets of jobs and endpoints, beside turning them on."""
    return [
        {
            # Such a target has no owner: whoever may debug jobs may debug everybody's.
            "Sid": "DebugJobs",
            "Effect": "Allow",
            "Action": "ssm:StartSession",
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
