"""
A function of AWS Lambda: when a job of SageMaker's Profiler or Debugger ends, tell what its rules have found.

It is deployed alone: boto3, which Lambda has, and the standard library are all that is there.
"""

import logging
import os
from typing import Any, Dict, List, Mapping, Optional

import boto3

TOPIC_ARN = "SNS_NOTIFICATION_TOPIC_ARN"
"""The variable that names the topic to publish to."""

_ISSUES_FOUND = "IssuesFound"

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)


def handler(event: Mapping[str, Any], context: Any) -> Dict[str, Any]:
    """
    Publish one message when the profiler's rules have found issues with the training job of the ended job.

    ``event`` is EventBridge's "SageMaker Processing Job State Change". Returns ``training_job``, None for
    a job that watched none, and ``issues``, the names of the rules that found some. Raises botocore's
    ClientError when SageMaker or the topic refuses; Lambda tries again then.
    """
    name = str(event["detail"]["ProcessingJobName"])
    sagemaker = boto3.client("sagemaker")
    training_job = _training_job(sagemaker, name)
    if training_job is None:
        logger.info("%s: no job of the profiler", name)
        return {"training_job": None, "issues": []}
    described = sagemaker.describe_training_job(TrainingJobName=training_job)
    issues = _issues(described)
    if issues:
        boto3.client("sns").publish(
            TopicArn=os.environ[TOPIC_ARN],
            # Subjects hold 100 characters, names of jobs 63.
            Subject=f"SageMaker: issues with {training_job}",
            Message=_message(event, training_job, described, issues),
        )
    logger.info("%s: %s: %s", name, training_job, ", ".join(issues) or "no issues")
    return {"training_job": training_job, "issues": issues}


def _training_job(sagemaker: Any, processing_job: str) -> Optional[str]:
    described = sagemaker.describe_processing_job(ProcessingJobName=processing_job)
    arn = described.get("TrainingJobArn")
    return str(arn).rpartition("/")[2] if arn else None


def _issues(described: Mapping[str, Any]) -> List[str]:
    return [
        str(rule["RuleConfigurationName"])
        for rule in described.get("ProfilerRuleEvaluationStatuses") or ()
        if rule.get("RuleEvaluationStatus") == _ISSUES_FOUND
    ]


def _message(
    event: Mapping[str, Any], training_job: str, described: Mapping[str, Any], issues: List[str]
) -> str:
    lines = [
        f"The profiler has found issues with the training job {training_job}: {', '.join(issues)}.",
        f"Region {event.get('region', '')}, account {event.get('account', '')}, "
        f"status {described.get('TrainingJobStatus', '')}.",
        "",
        f"Look at it:  sm-ssh connect {training_job}.training.sagemaker",
        f"Stop it:     sm-ssh stop {training_job}.training.sagemaker",
    ]
    return "\n".join(lines)
