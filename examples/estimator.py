"""A training job in script mode."""

import sys
from pathlib import Path

from sagemaker.pytorch import PyTorch

from sagemaker_ssh_helper.wrapper import SSHEstimatorWrapper

role = sys.argv[1]

estimator = PyTorch(
    entry_point="train.py",
    source_dir=str(Path(__file__).parent / "source"),
    dependencies=[SSHEstimatorWrapper.dependency_dir()],
    base_job_name="ssh-training",
    framework_version="2.3",
    py_version="py311",
    role=role,
    instance_count=1,
    instance_type="ml.m5.xlarge",
    max_run=60 * 30,
)

ssh_wrapper = SSHEstimatorWrapper.create(estimator, connection_wait_time_seconds=600)
estimator.fit(wait=False)
ssh_wrapper.print_ssh_info()

# The job goes on ten minutes after the start, or when you type `sm-wait stop` in it.
print(ssh_wrapper.wait_training_job_with_status())
