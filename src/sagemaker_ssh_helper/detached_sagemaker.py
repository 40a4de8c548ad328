"""
DetachedEstimator and DetachedProcessor: jobs that another process started, where code expects an object of
the SageMaker SDK.

The SDK's own ``Estimator.attach`` follows the job's log until it ends, and its processors have no attach.
These answer at once, and do without the SDK.
"""

from __future__ import annotations

from typing import Any, NoReturn

from sagemaker_ssh_helper.client import naming
from sagemaker_ssh_helper.errors import LaunchRefused
from sagemaker_ssh_helper.launch import boto3_session
from sagemaker_ssh_helper.names import ResourceKind


class DetachedJob:
    """A job as the SDK's objects hold it: by name, and described when asked."""

    def __init__(self, kind: ResourceKind, name: str, session: Any) -> None:
        self.name = self.job_name = name
        self._kind, self._session = kind, session

    def describe(self) -> dict[str, Any]:
        """
        What SageMaker says of it, as boto3 gives it. Raises TargetNotFound when there is no such job:
        WrongRegion when another region has it that the environment or a profile names.
        """
        from botocore.exceptions import ClientError

        client = boto3_session(self._session).client("sagemaker")
        try:
            if self._kind is ResourceKind.PROCESSING:
                return dict(client.describe_processing_job(ProcessingJobName=self.name))
            return dict(client.describe_training_job(TrainingJobName=self.name))
        except ClientError:
            # Says what is not there, and where it is instead; whatever else was wrong stays so.
            naming.described(boto3_session(self._session), self._kind, self.name)
            raise


class DetachedEstimator:
    """
    A training job that was started elsewhere, as an estimator that has started it.

    ``sagemaker_session`` gives credentials and region: an SDK session, or a boto3 session; the default boto3
    session if None. Nothing is asked of AWS before a method needs it.
    """

    def __init__(self, training_job_name: str, sagemaker_session: Any = None) -> None:
        if sagemaker_session is None:
            sagemaker_session = boto3_session(None)
        self.sagemaker_session = sagemaker_session
        self.latest_training_job = DetachedJob(ResourceKind.TRAINING, training_job_name, sagemaker_session)

    @classmethod
    def attach(
        cls, training_job_name: str, sagemaker_session: Any = None, model_channel_name: str = "model"
    ) -> DetachedEstimator:
        """The same, as the SDK spells it; ``model_channel_name`` is of no use here."""
        return cls(training_job_name, sagemaker_session)

    def describe(self) -> dict[str, Any]:
        """What SageMaker says of the job. Raises TargetNotFound when there is none."""
        return self.latest_training_job.describe()

    @property
    def model_data(self) -> str:
        """Where the job's model is, or will be, in S3: ``s3://…/model.tar.gz``."""
        described = self.describe()
        stored = described.get("ModelArtifacts", {}).get("S3ModelArtifacts")
        if stored:
            return str(stored)
        folder = str(described["OutputDataConfig"]["S3OutputPath"]).rstrip("/")
        return f"{folder}/{self.latest_training_job.name}/output/model.tar.gz"

    def training_image_uri(self) -> str:
        """The image that the job runs."""
        return str(self.describe()["AlgorithmSpecification"]["TrainingImage"])

    def hyperparameters(self) -> dict[str, str]:
        """The job's hyperparameters, as SageMaker keeps them."""
        return dict(self.describe().get("HyperParameters", {}))

    def create_model(self, **kwargs: Any) -> Any:
        """
        The SDK's own ``Model`` of what the job has trained, by the job's image and role.

        ``kwargs`` are that class's, and win. Needs version 2 of the SageMaker SDK: ImportError without it.
        """
        from sagemaker.model import Model

        chosen = {
            "image_uri": self.training_image_uri(),
            "model_data": self.model_data,
            "role": self.describe()["RoleArn"],
            "sagemaker_session": self.sagemaker_session,
        }
        return Model(**{**chosen, **kwargs})

    def fit(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises LaunchRefused, a ValueError: the job was started already, and elsewhere."""
        raise LaunchRefused(
            f"the estimator stands for {self.latest_training_job.name}, which was started elsewhere",
            fix="Make an estimator of the SageMaker SDK to start a job",
        )


class DetachedProcessor:
    """As DetachedEstimator, for a processing job and the processor that has started it."""

    def __init__(self, processing_job_name: str, sagemaker_session: Any = None) -> None:
        if sagemaker_session is None:
            sagemaker_session = boto3_session(None)
        self.sagemaker_session = sagemaker_session
        self.latest_job = DetachedJob(ResourceKind.PROCESSING, processing_job_name, sagemaker_session)
        self.jobs = [self.latest_job]

    @classmethod
    def attach(cls, processing_job_name: str, sagemaker_session: Any = None) -> DetachedProcessor:
        """The same, as the SDK would spell it."""
        return cls(processing_job_name, sagemaker_session)

    def describe(self) -> dict[str, Any]:
        """What SageMaker says of the job. Raises TargetNotFound when there is none."""
        return self.latest_job.describe()

    def run(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises LaunchRefused, a ValueError: the job was started already, and elsewhere."""
        raise LaunchRefused(
            f"the processor stands for {self.latest_job.name}, which was started elsewhere",
            fix="Make a processor of the SageMaker SDK to start a job",
        )
