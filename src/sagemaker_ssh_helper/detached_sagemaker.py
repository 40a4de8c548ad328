"""
DetachedEstimator and DetachedProcessor: jobs that another process started, where code expects an object of
the SageMaker SDK.

The SDK's own ``Estimator.attach`` follows the job's log until it ends, and its processors have no attach.
These answer at once, and do without the SDK.
"""

from __future__ import annotations

from typing import Any

from sagemaker_ssh_helper.launch import boto3_session
from sagemaker_ssh_helper.wrapper import SSHEstimatorWrapper, SSHProcessorWrapper


class DetachedJob:
    """A job as the SDK's objects hold it."""

    def __init__(self, name: str) -> None:
        self.name = self.job_name = name


class DetachedEstimator:
    """
    A training job that was started elsewhere, as an estimator that has started it.

    ``sagemaker_session`` gives credentials and region: an SDK session, or a boto3 session; the default boto3
    session if None. Raises TargetNotFound when there is no such job: WrongRegion when another region has it
    that the environment or a profile names.
    """

    def __init__(self, training_job_name: str, sagemaker_session: Any = None) -> None:
        self.sagemaker_session = boto3_session(sagemaker_session)
        self.ssh_wrapper = SSHEstimatorWrapper.attach(training_job_name, self.sagemaker_session)
        self.latest_training_job = DetachedJob(self.ssh_wrapper.resource_name())

    @classmethod
    def attach(cls, training_job_name: str, sagemaker_session: Any = None) -> DetachedEstimator:
        """The same, as the SDK spells it."""
        return cls(training_job_name, sagemaker_session)


class DetachedProcessor:
    """As DetachedEstimator, for a processing job and the processor that has started it."""

    def __init__(self, processing_job_name: str, sagemaker_session: Any = None) -> None:
        self.sagemaker_session = boto3_session(sagemaker_session)
        self.ssh_wrapper = SSHProcessorWrapper.attach(processing_job_name, self.sagemaker_session)
        self.latest_job = DetachedJob(self.ssh_wrapper.resource_name())
        self.jobs = [self.latest_job]

    @classmethod
    def attach(cls, processing_job_name: str, sagemaker_session: Any = None) -> DetachedProcessor:
        """The same, as the SDK would spell it."""
        return cls(processing_job_name, sagemaker_session)
