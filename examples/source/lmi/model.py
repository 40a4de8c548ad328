"""What the endpoint of a large-model container runs: DJL Serving calls handle for each request."""

import sagemaker_ssh_helper

sagemaker_ssh_helper.setup_and_start_ssh()

from djl_python import Input, Output  # noqa: E402 - ssh comes first, so that whatever fails later can be looked at


def handle(inputs: Input):
    if inputs.is_empty():
        # The call at the start, to load the model with.
        return None
    return Output().add_as_json([value * 2 for value in inputs.get_as_json()])
