"""A training job with boto3 alone, in script mode; then attaches to it by name."""

import io
import sys
import tarfile
import time
from pathlib import Path

import boto3

from sagemaker_ssh_helper.launch import enable_ssh
from sagemaker_ssh_helper.wrapper import SSHEstimatorWrapper

role = sys.argv[1]
bucket = sys.argv[2]

session = boto3.Session()
s3 = session.client("s3")
training_job_name = f"ssh-boto3-{int(time.time())}"

code = io.BytesIO()
with tarfile.open(fileobj=code, mode="w:gz") as tar:
    tar.add(Path(__file__).parent / "source" / "train.py", "train.py")
s3.put_object(Bucket=bucket, Key=f"{training_job_name}/sourcedir.tar.gz", Body=code.getvalue())

request = {
    "TrainingJobName": training_job_name,
    "RoleArn": role,
    "AlgorithmSpecification": {
        "TrainingImage": "763104351884.dkr.ecr.eu-west-1.amazonaws.com/pytorch-training:2.3-cpu-py311",
        "TrainingInputMode": "File",
    },
    "HyperParameters": {
        "sagemaker_program": "train.py",
        "sagemaker_submit_directory": f"s3://{bucket}/{training_job_name}/sourcedir.tar.gz",
    },
    "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/{training_job_name}"},
    "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
    "StoppingCondition": {"MaxRuntimeInSeconds": 60 * 30},
}
# The script needs no line for ssh, and no library: both come with the request.
session.client("sagemaker").create_training_job(
    **enable_ssh(request, session, connection_wait_time_seconds=600)
)

ssh_wrapper = SSHEstimatorWrapper.attach(training_job_name)
ssh_wrapper.print_ssh_info()
print(ssh_wrapper.wait_training_job_with_status())
