"""
The environment that every container of SageMaker has here, and where the cloud puts its own words into it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from sagemaker_ssh_helper.emulator.job_credentials import JobCredentials
from sagemaker_ssh_helper.emulator.node import Node
from sagemaker_ssh_helper.emulator.service import Cloud


def container_environment(
    node: Node,
    cloud: Cloud,
    credentials: JobCredentials,
    own: Mapping[str, str],
    *,
    insisted: Mapping[str, str],
    isolated: bool,
) -> dict[str, str]:
    """
    The node's variables, then the user's ``own``, then what SageMaker insists on.

    A container in network isolation gets neither the cloud's address nor the role's keys.
    """
    environment = {
        **node.environment(),
        "AWS_REGION": cloud.region,
        "AWS_DEFAULT_REGION": cloud.region,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    path = environment["PATH"]
    environment.update(own)
    if environment["PATH"] != path:
        # The user means an image's folders; the programs of this machine are elsewhere.
        environment["PATH"] += os.pathsep + path
    environment.update(insisted)
    if not isolated:
        environment["AWS_ENDPOINT_URL"] = cloud.endpoint_url
        environment.update(credentials.environment())
        if cloud.ca_file is not None:
            environment["AWS_CA_BUNDLE"] = environment["SSL_CERT_FILE"] = str(cloud.ca_file)
    return environment
