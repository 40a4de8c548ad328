"""
What many nodes do until they are registered, by the shipped code: for test_throttling.py, whose processes
import it by its name.
"""

import base64
import threading
from pathlib import Path
from typing import Dict, List

from sagemaker_ssh_helper.agent import activation, registration, sigv4
from sagemaker_ssh_helper.agent.aws_api import AwsApi
from sagemaker_ssh_helper.agent.resource import Resource
from sagemaker_ssh_helper.agent.state import AgentConfig, StateDir
from sagemaker_ssh_helper.names import ResourceKind


def start_instance(given: Dict[str, str], rank: int, folder: Path, key: bytes) -> None:
    """What a node does until it is registered, by the same code, but with a key made before."""
    environ = {"AWS_ENDPOINT_URL": given["url"], "NO_PROXY": "*"}
    resource = Resource(ResourceKind.TRAINING, "many", "", rank)
    credentials = sigv4.Credentials(given["id"], given["secret"])
    api = AwsApi(given["region"], lambda: credentials, environ=environ)
    made = api.create_activation(
        given["role"], f"algo-{rank + 1}.many.training.sagemaker", {}, retry=activation.retry(resource)
    )
    state = StateDir.open(str(folder / str(rank)), create=True)
    state.write(state.agent_key, base64.b64encode(key))
    config = AgentConfig(given["region"], made.activation_id, made.activation_code, "many", 0, state.path)
    registration.register(state, config, AwsApi(given["region"], environ=environ))


def start_instances(given: Dict[str, str], ranks: List[int], folder: str, key: bytes) -> None:
    threads = [
        threading.Thread(target=start_instance, args=(given, rank, Path(folder), key)) for rank in ranks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
