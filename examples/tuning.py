"""A tuning job; then attaches to one of its training jobs, as to one that is stuck."""

import sys
import time
from pathlib import Path

from sagemaker.mxnet import MXNet
from sagemaker.tuner import ContinuousParameter, HyperparameterTuner

from sagemaker_ssh_helper.wrapper import SSHEstimatorWrapper

role = sys.argv[1]

estimator = MXNet(
    entry_point="train.py",
    source_dir=str(Path(__file__).parent / "source"),
    dependencies=[SSHEstimatorWrapper.dependency_dir()],
    base_job_name="ssh-tuning",
    framework_version="1.9",
    py_version="py38",
    role=role,
    instance_count=1,
    instance_type="ml.m5.xlarge",
    max_run=60 * 30,
)
_ = SSHEstimatorWrapper.create(estimator, connection_wait_time_seconds=600)

tuner = HyperparameterTuner(
    estimator,
    "validation:accuracy",
    {"learning-rate": ContinuousParameter(0.01, 0.2)},
    [{"Name": "validation:accuracy", "Regex": "validation:accuracy=([0-9.]+);"}],
    max_jobs=1,
    max_parallel_jobs=1,
)
tuner.fit(wait=False)

training_jobs = tuner.analytics().training_job_summaries()
while not training_jobs:
    time.sleep(5)
    training_jobs = tuner.analytics().training_job_summaries()
training_job_name = training_jobs[0]["TrainingJobName"]

ssh_wrapper = SSHEstimatorWrapper.attach(training_job_name)
ssh_wrapper.print_ssh_info()

tuner.wait()
print(tuner.best_training_job())
