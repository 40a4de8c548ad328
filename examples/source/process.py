"""What the processing jobs run; the library comes as an input, or beside this script."""

import sys

sys.path.append("/opt/ml/processing/input")

import sagemaker_ssh_helper

sagemaker_ssh_helper.setup_and_start_ssh()
print("processed", flush=True)
