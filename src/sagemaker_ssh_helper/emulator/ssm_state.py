"""
What the parts of the local Systems Manager share.
"""

import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone

from sagemaker_ssh_helper.emulator import native_targets
from sagemaker_ssh_helper.emulator.activations import Activations
from sagemaker_ssh_helper.emulator.documents import Documents
from sagemaker_ssh_helper.emulator.gateway import MessageGateway
from sagemaker_ssh_helper.emulator.managed_instances import (
    ONLINE,
    ManagedInstance,
    ManagedInstances,
    PingTiming,
)
from sagemaker_ssh_helper.emulator.policies import Context
from sagemaker_ssh_helper.emulator.run_command import Commands
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Caller, Cloud
from sagemaker_ssh_helper.emulator.sessions import Sessions
from sagemaker_ssh_helper.emulator.tags import resource_context

# Numbers of the service: how many managed instances an account may have, by tier.
REGISTRATION_LIMITS: Mapping[str, int] = {"standard": 1_000, "advanced": 20_000}
TOKEN_LIFETIME = 3600.0
"""Seconds for which the credentials of an instance are good; agents renew them after half of it."""


class State:
    """
    Systems Manager of one local cloud: its stores, and a few questions that many operations ask.

    Attributes:
        tier: ``advanced`` or ``standard``; the second has no sessions on managed instances.
        tier_changed_at, tier_changed_by: of the last UpdateServiceSetting; None and empty before.
        registration_limit: takes the place of the tier's own when it is set.
        token_lifetime: seconds for which the credentials of an instance are good.
    """

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.activations = Activations()
        self.documents = Documents()
        self.instances = ManagedInstances()
        self.sessions = Sessions()
        self.gateway = MessageGateway(cloud, self.instances, self.sessions)
        self.commands = Commands(cloud.region, self.gateway)
        self.ping_timing = PingTiming()
        self.tier = "advanced"
        self.tier_changed_at: float | None = None
        self.tier_changed_by = ""
        self.registration_limit: int | None = None
        self.token_lifetime = TOKEN_LIFETIME

    def arn(self, resource: str) -> str:
        """The ARN of a resource of this account, such as ``managed-instance/mi-…``."""
        return f"arn:aws:ssm:{self.cloud.region}:{self.cloud.account_id}:{resource}"

    def tagged(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """The ARNs and tags of the instances."""
        return ((self.arn(f"managed-instance/{each.id}"), each.tags) for each in self.instances)

    def authorize(self, caller: Caller, action: str, resource: str, context: Context | None = None) -> None:
        """Raise AccessDenied unless the caller may do ``ssm:action`` on this resource of the account."""
        self.cloud.iam.authorize(caller, f"ssm:{action}", self.arn(resource), context or {})

    def authorize_instance(
        self, call: Call, instance_id: str, context: Context | None = None
    ) -> ManagedInstance | None:
        """
        The instance, after asking whether the caller may do the call's operation on it; its tags count.

        None when it does not exist, and the caller may do this anyway: nobody else learns that.
        """
        instance = self.instances.get(instance_id)
        tags = resource_context(instance.tags) if instance is not None else {}
        self.authorize(
            call.principal, call.operation, f"managed-instance/{instance_id}", {**tags, **(context or {})}
        )
        return instance

    def authorize_native(self, call: Call, target: str) -> None:
        """Raise AccessDenied unless the caller may do the call's operation on a native target."""
        action = f"ssm:{call.operation}"
        self.cloud.iam.authorize(call.principal, action, "*", {native_targets.TARGET_ID_KEY: target})

    def is_online(self, instance: ManagedInstance) -> bool:
        """Whether its PingStatus is Online."""
        return instance.ping_status(time.time(), self.ping_timing) == ONLINE

    def agent(self, call: Call, instance_id: object) -> ManagedInstance:
        """The instance that makes a call about itself. Raises ApiError for anybody else."""
        caller = call.principal
        instance = self.instances.get(caller.instance_id or "")
        if instance is None or instance.id != instance_id:
            raise ApiError(
                "AccessDeniedException", f"User: {caller.arn} is not the managed instance {instance_id}."
            )
        return instance


def moment(seconds: float) -> datetime:
    """A time of our stores as answers have it."""
    return datetime.fromtimestamp(seconds, timezone.utc)
