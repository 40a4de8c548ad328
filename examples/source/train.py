"""What the training jobs run."""

import sagemaker_ssh_helper

sagemaker_ssh_helper.setup_and_start_ssh()

import argparse  # noqa: E402 - ssh comes first, so that whatever fails later can be looked at

parser = argparse.ArgumentParser()
parser.add_argument("--learning-rate", type=float, default=0.1)
arguments, _ = parser.parse_known_args()
print(f"validation:accuracy={1 - arguments.learning_rate:.4f};", flush=True)
