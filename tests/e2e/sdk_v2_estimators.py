"""
A user's program with the SageMaker Python SDK 2, run by test_sdk_v2.py in an environment that has it.

    sdk_v2_estimators.py FRAMEWORK JOB ROLE FOLDER

Runs JOB by FRAMEWORK's estimator with ssh, shows its log as the SDK does, and waits for its end as the SDK
and as boto3 do. The script says nothing of ssh.
"""

import sys
from pathlib import Path
from typing import Any, Dict

import boto3
import sagemaker
from sagemaker.huggingface import HuggingFace
from sagemaker.mxnet import MXNet
from sagemaker.pytorch import PyTorch
from sagemaker.sklearn import SKLearn
from sagemaker.tensorflow import TensorFlow

from sagemaker_ssh_helper.launch import enable_for_session

ESTIMATORS: Dict[str, Any] = {
    "pytorch": (PyTorch, {"framework_version": "2.3", "py_version": "py311"}),
    "sklearn": (SKLearn, {"framework_version": "1.2-1", "py_version": "py3"}),
    "tensorflow": (TensorFlow, {"framework_version": "2.16", "py_version": "py310"}),
    "huggingface": (
        HuggingFace,
        {"transformers_version": "4.36", "pytorch_version": "2.1", "py_version": "py310"},
    ),
    "mxnet": (MXNet, {"framework_version": "1.9", "py_version": "py38"}),
}

TRAIN = """
import argparse, os
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
arguments, _ = parser.parse_known_args()
print("training for", arguments.epochs, "epochs in", os.environ["SM_MODEL_DIR"], flush=True)
"""


def main(framework: str, job: str, role: str, folder: Path) -> None:
    source = folder / "source"
    source.mkdir()
    (source / "train.py").write_text(TRAIN)
    boto3_session = boto3.Session()
    account = boto3_session.client("sts").get_caller_identity()["Account"]
    bucket = f"sagemaker-{boto3_session.region_name}-{account}"
    session = sagemaker.Session(boto_session=boto3_session, default_bucket=bucket)
    estimator_class, versions = ESTIMATORS[framework]
    estimator = estimator_class(
        entry_point="train.py",
        source_dir=str(source),
        role=role,
        instance_count=1,
        # Its images are for GPUs only.
        instance_type="ml.g4dn.xlarge" if framework == "huggingface" else "ml.m5.xlarge",
        hyperparameters={"epochs": 3},
        sagemaker_session=session,
        **versions,
    )
    enable_for_session(session)
    estimator.fit(wait=True, logs=True, job_name=job)
    waiter = session.sagemaker_client.get_waiter("training_job_completed_or_stopped")
    waiter.wait(TrainingJobName=job)
    print("status", session.wait_for_job(job)["TrainingJobStatus"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
