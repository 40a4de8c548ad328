"""A processing job of one script; the library is one of its inputs."""

import sys
from pathlib import Path

from sagemaker.processing import ScriptProcessor

from sagemaker_ssh_helper.wrapper import SSHProcessorWrapper

role = sys.argv[1]

processor = ScriptProcessor(
    image_uri="555555555555.dkr.ecr.eu-west-1.amazonaws.com/processing:latest",
    command=["python3"],
    base_job_name="ssh-script-processing",
    role=role,
    instance_count=1,
    instance_type="ml.m5.xlarge",
    max_runtime_in_seconds=60 * 30,
)

ssh_wrapper = SSHProcessorWrapper.create(processor, connection_wait_time_seconds=600)
processor.run(
    code=str(Path(__file__).parent / "source" / "process.py"),
    inputs=[ssh_wrapper.augmented_input()],
    wait=False,
)
ssh_wrapper.print_ssh_info()
ssh_wrapper.wait_processing_job()
