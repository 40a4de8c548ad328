"""
What the rules of SageMaker's Profiler say of the training job that this container belongs to.

Standard library only; Python 3.8.
"""

import os
import threading
from typing import Mapping

from sagemaker_ssh_helper.agent import resource
from sagemaker_ssh_helper.agent.aws_api import AwsApi
from sagemaker_ssh_helper.agent.credentials import ContainerCredentials
from sagemaker_ssh_helper.agent.job_output import say
from sagemaker_ssh_helper.agent.resource import Resource
from sagemaker_ssh_helper.errors import LocalSetup, SSHHelperError
from sagemaker_ssh_helper.names import ResourceKind

_ISSUES_FOUND = "IssuesFound"

_lock = threading.Lock()
_said = ""


def is_profiler_issues_found() -> bool:
    """See :func:`sagemaker_ssh_helper.is_profiler_issues_found`."""
    global _said
    here = resource.identify(os.environ, resource.base_dir(os.environ))
    if here.kind is not ResourceKind.TRAINING:
        raise LocalSetup(
            "this is not a training job, and nothing else has a profiler",
            fix="Ask is_profiler_issues_found() in a training job, or is_idle() anywhere",
        )
    try:
        return issues_found(os.environ, here)
    except SSHHelperError as error:
        with _lock:
            if str(error) != _said:
                _said = str(error)
                say(f"cannot see what the profiler found: {error}")
        return False


def issues_found(environ: Mapping[str, str], here: Resource) -> bool:
    """
    Whether one of the rules has found issues. One call.

    Raises LocalSetup when the region is not known, and AwsError.
    """
    region = resource.region(environ, here)
    if not region:
        raise LocalSetup("the region is not known", fix="Set AWS_REGION")
    described = AwsApi(region, ContainerCredentials(environ).get, environ=environ).describe_training_job(
        here.name
    )
    statuses = described.get("ProfilerRuleEvaluationStatuses")
    return isinstance(statuses, list) and any(
        isinstance(status, dict) and status.get("RuleEvaluationStatus") == _ISSUES_FOUND
        for status in statuses
    )
