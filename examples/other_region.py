"""A framework's processing job, in a region that is not the default one."""

import sys
from pathlib import Path

import boto3
import sagemaker
from sagemaker.pytorch import PyTorchProcessor

from sagemaker_ssh_helper.wrapper import SSHProcessorWrapper

role = sys.argv[1]
region = sys.argv[2]

boto3_session = boto3.session.Session(region_name=region)  # <-- AWS Region override
account = boto3_session.client("sts").get_caller_identity()["Account"]
sagemaker_session = sagemaker.Session(
    boto_session=boto3_session, default_bucket=f"sagemaker-{region}-{account}"
)

torch_processor = PyTorchProcessor(
    sagemaker_session=sagemaker_session,
    base_job_name="ssh-pytorch-processing",
    framework_version="2.3",
    py_version="py311",
    role=role,
    instance_count=1,
    instance_type="ml.m5.xlarge",
    max_runtime_in_seconds=60 * 30,
)

ssh_wrapper = SSHProcessorWrapper.create(torch_processor, connection_wait_time_seconds=600)
torch_processor.run(
    code="process.py",
    source_dir=str(Path(__file__).parent / "source"),
    dependencies=[SSHProcessorWrapper.dependency_dir()],
    wait=False,
)

# The region is the processor's own: nothing else has to be told it but ssh itself.
print(ssh_wrapper.get_instance_ids())
ssh_wrapper.print_ssh_info()
print(f"Set AWS_REGION={region} and AWS_DEFAULT_REGION={region} for sm-ssh.")
ssh_wrapper.wait_processing_job()
