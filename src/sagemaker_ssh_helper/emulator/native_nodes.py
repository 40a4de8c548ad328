"""
Nodes that belong to no job: those of HyperPod clusters, and Studio spaces.

Clusters, domains and spaces themselves do not exist here. A switch starts what one of their nodes has::

    {"kind": "native-node", "target": "sagemaker-cluster:abc123_workers-i-0123456789abcdef0"}
    {"kind": "native-node", "target": "arn:aws:sagemaker:us-east-1:123456789012:space/d-abc/my-space"}

That is a service's agent with the rights of the cloud's own role, in folders of its own. The nodes end when
all switches are turned off, and with the cloud.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from sagemaker_ssh_helper.emulator import mounts
from sagemaker_ssh_helper.emulator.container_environment import container_environment
from sagemaker_ssh_helper.emulator.job_credentials import JobCredentials
from sagemaker_ssh_helper.emulator.job_host import JobHost
from sagemaker_ssh_helper.emulator.native_agents import NativeAgent
from sagemaker_ssh_helper.emulator.node import Node
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Cloud, Operation
from sagemaker_ssh_helper.names import node_name
from sagemaker_ssh_helper.targets import is_native

if TYPE_CHECKING:
    from sagemaker_ssh_helper.emulator.ssm import SsmService

LOG_GROUP = "/aws/sagemaker/NativeNodes"
"""Of the local cloud alone."""

_ENDED = "The node has ended."


class NativeNodes:
    """Those that there are, and SageMaker's own way into a space."""

    def __init__(self, cloud: Cloud, host: JobHost) -> None:
        self._cloud = cloud
        self._host = host
        self._nodes: dict[str, tuple[Node, JobCredentials, NativeAgent]] = {}
        self.operations: Mapping[str, Operation] = {"StartSession": self._start_session}
        cloud.faults.register("native-node", self._start, self._end, self._describe)
        cloud.on_close(self._end)

    async def _start(self, body: Mapping[str, Any]) -> None:
        target = str(body.get("target", ""))
        space = f"arn:aws:sagemaker:{self._cloud.region}:{self._cloud.account_id}:space/"
        if not (is_native(target) and target.startswith(("sagemaker-cluster:", space))):
            raise ApiError(
                "ValidationException",
                "A switch of kind native-node needs a target: sagemaker-cluster:ID_GROUP-i-…, or the ARN of "
                "a space of this account and region.",
            )
        if target in self._cloud.native_targets:
            raise ApiError("ValidationException", f"{target} runs already.")
        node = Node(
            self._cloud.state_dir / "nodes" / secrets.token_hex(4),
            node_name(0),
            state_dir=self._cloud.state_dir,
            namespace=await asyncio.to_thread(mounts.available),
        )
        await asyncio.to_thread(partial(node.root.mkdir, parents=True, mode=0o700))
        await asyncio.to_thread(node.create)
        credentials = self._host.session_credentials(self._cloud.role_arn)
        environment = container_environment(node, self._cloud, credentials, {}, insisted={}, isolated=False)
        agent = await NativeAgent.start(
            self._cloud,
            target,
            credentials.role.user_id,
            node,
            environment,
            group=LOG_GROUP,
            stream=target.replace(":", "/"),
        )
        if agent is None:
            credentials.close()
            raise ApiError("InternalFailure", f"{target} could not be started; the cloud's log says why.")
        self._nodes[target] = (node, credentials, agent)

    async def _end(self) -> None:
        nodes = [self._nodes.pop(target) for target in list(self._nodes)]
        await asyncio.gather(*(agent.end(_ENDED) for _, _, agent in nodes))
        for node, credentials, _ in nodes:
            credentials.close()
            await asyncio.to_thread(node.remove)

    def _describe(self) -> list[dict[str, Any]]:
        return [{"kind": "native-node", "target": target} for target in self._nodes]

    async def _start_session(self, call: Call) -> Mapping[str, Any]:
        """A shell in a space; Systems Manager resumes and ends it."""
        arn = call.params["ResourceIdentifier"]
        self._cloud.iam.authorize(call.principal, "sagemaker:StartSession", arn, {})
        if arn not in self._nodes:
            raise ApiError("ResourceNotFound", f"There is no space {arn} that runs.")
        ssm = cast("SsmService", self._cloud.services["ssm"])
        return ssm.sessions.start_shell(call, arn)
