"""
A user's program with the SageMaker Python SDK 2, run by test_sdk_v2.py in an environment that has it.

    sdk_v2_local.py JOB ROLE FOLDER

Runs JOB in the SDK's local mode with ssh: ``fit`` returns when it has ended.
"""

import os
import sys
from pathlib import Path

import boto3
from sagemaker.estimator import Estimator
from sagemaker.local import LocalSession

from sagemaker_ssh_helper.wrapper import SSHEstimatorWrapper


def main(job: str, role: str, folder: Path) -> None:
    estimator = Estimator(
        image_uri="own-image:latest",
        role=role,
        instance_count=1,
        instance_type="local",
        sagemaker_session=LocalSession(boto3.Session()),
        output_path=f"file://{folder}",
        # Docker gives a container nothing of this machine's environment.
        environment={"AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"]},
    )
    wrapper = SSHEstimatorWrapper.create(estimator, connection_wait_time_seconds=120)
    estimator.fit(job_name=job)
    print("ended", wrapper.training_job_name(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
