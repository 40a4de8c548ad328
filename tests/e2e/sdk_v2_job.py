"""
A user's program with the SageMaker Python SDK 2, run by test_sdk_v2.py in an environment that has it.

Launches an estimator as the documentation shows, tells what its wrapper knows, and stops the job when told.
"""

import json
import sys
from pathlib import Path

import boto3
import sagemaker
from sagemaker.pytorch import PyTorch

from sagemaker_ssh_helper.wrapper import SSHEstimatorWrapper

TRAIN = """
import sagemaker_ssh_helper
sagemaker_ssh_helper.setup_and_start_ssh()

import argparse, os, time
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
arguments = parser.parse_args()
files = os.listdir(os.environ["SM_CHANNEL_TRAINING"])
print("training for", arguments.epochs, "epochs with", files, flush=True)
time.sleep(600)
"""


def main() -> None:
    role, folder = sys.argv[1], Path(sys.argv[2])
    source = folder / "source"
    source.mkdir()
    (source / "train.py").write_text(TRAIN)
    (folder / "data.csv").write_text("1,2,3")
    boto3_session = boto3.session.Session()
    account = boto3_session.client("sts").get_caller_identity()["Account"]
    bucket = f"sagemaker-{boto3_session.region_name}-{account}"
    # The SDK asks AWS's own address for the account when no bucket is named, whatever endpoint is set.
    session = sagemaker.Session(boto_session=boto3_session, default_bucket=bucket)
    training_input = session.upload_data(str(folder / "data.csv"), key_prefix="input")
    estimator = PyTorch(
        entry_point="train.py",
        source_dir=str(source),
        dependencies=[SSHEstimatorWrapper.dependency_dir()],
        base_job_name="ssh-training",
        framework_version="2.3",
        py_version="py311",
        role=role,
        instance_count=1,
        instance_type="ml.m5.xlarge",
        hyperparameters={"epochs": 3},
        max_run=600,
        sagemaker_session=session,
    )
    wrapper = SSHEstimatorWrapper.create(estimator, connection_wait_time_seconds=600)
    estimator.fit({"training": training_input}, wait=False)
    ids = wrapper.get_instance_ids(timeout_in_sec=60)
    wrapper.print_ssh_info()
    attached = SSHEstimatorWrapper.attach(wrapper.training_job_name())
    print(
        json.dumps(
            {
                "name": wrapper.training_job_name(),
                "ids": ids,
                "attached": attached.get_instance_ids(timeout_in_sec=5),
            }
        ),
        flush=True,
    )
    sys.stdin.readline()
    wrapper.stop_training_job()
    print(wrapper.wait_training_job_with_status(), flush=True)
    try:
        SSHEstimatorWrapper.create(estimator)
    except ValueError as error:
        print(type(error).__name__, error, flush=True)


if __name__ == "__main__":
    main()
