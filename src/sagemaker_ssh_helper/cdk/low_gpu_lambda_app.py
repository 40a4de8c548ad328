"""
The stack ``Low-GPU-Lambda-Stack``: messages about training jobs whose accelerators have little to do.

::

    APP="python -m sagemaker_ssh_helper.cdk.low_gpu_lambda_app"
    AWS_REGION=eu-west-1 cdk -a "$APP" deploy Low-GPU-Lambda-Stack -c sns_notification_topic_arn=arn:aws:sns:…
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sagemaker_ssh_helper import cdk
from sagemaker_ssh_helper.cdk import low_gpu

TOPIC = "sns_notification_topic_arn"


def main() -> int:
    """Write the stack's template where ``cdk`` wants it; the exit status."""
    return cdk.synthesize(_add_stack)


def _add_stack(app: Any, environment: Any) -> None:
    from aws_cdk import Duration, Stack, aws_events, aws_events_targets, aws_iam, aws_lambda

    topic_arn = cdk.context(app, TOPIC, "arn:aws:sns:REGION:ACCOUNT:TOPIC")
    stack = Stack(app, "Low-GPU-Lambda-Stack", env=environment)
    function = aws_lambda.Function(
        stack,
        "LowGPU",
        description="Tells what SageMaker's Profiler has found",
        runtime=aws_lambda.Runtime.PYTHON_3_12,
        handler="low_gpu_lambda.handler",
        code=aws_lambda.Code.from_asset(str(Path(low_gpu.__file__).parent), exclude=["__pycache__"]),
        environment={"SNS_NOTIFICATION_TOPIC_ARN": topic_arn},
        timeout=Duration.seconds(30),
    )
    jobs = {"processing-job": "DescribeProcessingJob", "training-job": "DescribeTrainingJob"}
    for resource, action in jobs.items():
        arn = stack.format_arn(service="sagemaker", resource=resource, resource_name="*")
        statement = aws_iam.PolicyStatement(actions=[f"sagemaker:{action}"], resources=[arn])
        function.add_to_role_policy(statement)
    function.add_to_role_policy(aws_iam.PolicyStatement(actions=["sns:Publish"], resources=[topic_arn]))
    aws_events.Rule(
        stack,
        "ProfilerEnds",
        description="A job of SageMaker's Profiler or Debugger ended",
        event_pattern=aws_events.EventPattern(
            source=["aws.sagemaker"],
            detail_type=["SageMaker Processing Job State Change"],
            detail={"ProcessingJobStatus": ["Completed", "Stopped"]},
        ),
        targets=[aws_events_targets.LambdaFunction(function)],
    )


if __name__ == "__main__":
    sys.exit(main())
