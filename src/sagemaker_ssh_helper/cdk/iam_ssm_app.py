"""
The stack ``SSH-IAM-SSM-Stack``: what the role of the jobs and the role of the people who connect may do.

::

    APP="python -m sagemaker_ssh_helper.cdk.iam_ssm_app"
    AWS_REGION=eu-west-1 cdk -a "$APP" deploy SSH-IAM-SSM-Stack \\
      -c sagemaker_role_arn=arn:aws:iam::…:role/… -c user_role_arn=arn:aws:iam::…:role/…
"""

from __future__ import annotations

import json
import sys
from typing import Any, List

from sagemaker_ssh_helper import cdk, iam_policies

EXAMPLE = "arn:aws:iam::ACCOUNT:role/NAME"


def main() -> int:
    """Write the stack's template where ``cdk`` wants it; the exit status."""
    return cdk.synthesize(_add_stack)


def _add_stack(app: Any, environment: Any) -> None:
    from aws_cdk import CfnOutput, Stack, aws_iam

    sagemaker_role_arn = cdk.context(app, "sagemaker_role_arn", EXAMPLE)
    user_role_arn = cdk.context(app, "user_role_arn", EXAMPLE)
    stack = Stack(app, "SSH-IAM-SSM-Stack", env=environment)

    def attach(name: str, role_arn: str, statements: List[iam_policies.Statement]) -> None:
        aws_iam.ManagedPolicy(
            stack,
            name,
            roles=[aws_iam.Role.from_role_arn(stack, f"{name}Role", role_arn)],
            statements=[aws_iam.PolicyStatement.from_json(statement) for statement in statements],
        )

    attach("Containers", sagemaker_role_arn, iam_policies.of_containers(sagemaker_role_arn))
    attach("Owners", user_role_arn, iam_policies.of_owners(stack.partition))
    # A stack cannot change the trust of a role that it did not make.
    CfnOutput(
        stack,
        "TrustForTheRoleOfTheJobs",
        value=json.dumps({"Version": "2012-10-17", "Statement": [iam_policies.trust()]}),
    )


if __name__ == "__main__":
    sys.exit(main())
