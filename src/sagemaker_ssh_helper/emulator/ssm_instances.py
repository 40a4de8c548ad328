"""
Systems Manager operations: managed instances, their tags and their health, and the account's settings.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sagemaker_ssh_helper.emulator import native_targets
from sagemaker_ssh_helper.emulator.managed_instances import ManagedInstance, page
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Operation
from sagemaker_ssh_helper.emulator.ssm_state import State, moment
from sagemaker_ssh_helper.emulator.tags import (
    merge_tags,
    parse_tags,
    request_context,
    resource_context,
    tag_list,
)

logger = logging.getLogger(__name__)

TIER_SETTING = "/ssm/managed-instance/activation-tier"

_DEFAULT_PAGE = 10


class Instances:
    """The operations, for one local cloud."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.operations: Mapping[str, Operation] = {
            "UpdateInstanceInformation": self.update_instance_information,
            "DescribeInstanceInformation": self.describe_instance_information,
            "GetConnectionStatus": self.get_connection_status,
            "DeregisterManagedInstance": self.deregister_managed_instance,
            "UpdateManagedInstanceRole": self.update_managed_instance_role,
            "AddTagsToResource": self.add_tags,
            "RemoveTagsFromResource": self.remove_tags,
            "ListTagsForResource": self.list_tags,
            "ListInstanceAssociations": self.list_instance_associations,
            "ListAssociations": self.list_associations,
            "GetServiceSetting": self.get_service_setting,
            "UpdateServiceSetting": self.update_service_setting,
            "ResetServiceSetting": self.reset_service_setting,
        }

    # -- the agent's own --

    async def update_instance_information(self, call: Call) -> Mapping[str, Any]:
        """A ping. The first one has few fields, the later ones all."""
        instance = self._state.agent(call, call.params.get("InstanceId"))
        resource = f"managed-instance/{instance.id}"
        self._state.authorize(call.principal, call.operation, resource, resource_context(instance.tags))
        instance.update(call.params, time.time())
        return {}

    async def list_instance_associations(self, call: Call) -> Mapping[str, Any]:
        self._state.authorize(call.principal, call.operation, "*")
        return {"Associations": []}

    async def list_associations(self, call: Call) -> Mapping[str, Any]:
        self._state.authorize(call.principal, call.operation, "*")
        return {"Associations": []}

    # -- looking --

    async def describe_instance_information(self, call: Call) -> Mapping[str, Any]:
        state, params = self._state, call.params
        state.authorize(call.principal, call.operation, "*")
        old, new = params.get("InstanceInformationFilterList"), params.get("Filters")
        if old and new:
            raise ApiError(
                "ValidationException", "Filters and InstanceInformationFilterList can't be used together."
            )
        filters = [(item["Key"], item["Values"]) for item in new or ()]
        filters += [(item["key"], item["valueSet"]) for item in old or ()]
        now = time.time()
        found = state.instances.select(filters, now, state.ping_timing)
        selected, token = page(found, params.get("MaxResults", _DEFAULT_PAGE), params.get("NextToken"))
        return {
            "InstanceInformationList": [self._describe(instance, now) for instance in selected],
            "NextToken": token,
        }

    async def get_connection_status(self, call: Call) -> Mapping[str, Any]:
        target = call.params["Target"]
        if native_targets.is_native(target):
            self._state.authorize_native(call, target)
        else:
            self._state.authorize_instance(call, target)
        connected = self._state.gateway.is_connected(target)
        return {"Target": target, "Status": "connected" if connected else "notconnected"}

    # -- changing --

    async def deregister_managed_instance(self, call: Call) -> Mapping[str, Any]:
        """Ends the instance's sessions, channels and credentials too."""
        state = self._state
        instance = state.authorize_instance(call, call.params["InstanceId"])
        if instance is None:
            raise _no_instance(call.params["InstanceId"])
        state.commands.forget_instance(instance.id)
        state.gateway.forget_instance(instance.id)
        state.instances.remove(instance)
        state.cloud.identities.revoke(lambda caller: caller.instance_id == instance.id)
        logger.info("= %s is deregistered", instance.id)
        return {}

    async def update_managed_instance_role(self, call: Call) -> Mapping[str, Any]:
        role = call.params["IamRole"]
        instance = self._state.authorize_instance(call, call.params["InstanceId"])
        role_arn = self._state.cloud.iam.authorize_pass_role(call.principal, role, "ssm.amazonaws.com")
        if instance is None:
            raise _no_instance(call.params["InstanceId"])
        instance.iam_role, instance.role_arn = role, role_arn
        return {}

    async def add_tags(self, call: Call) -> Mapping[str, Any]:
        added = parse_tags(call.params["Tags"])
        instance = self._taggable(call, request_context(added))
        self._state.instances.set_tags(instance, merge_tags(instance.tags, added))
        return {}

    async def remove_tags(self, call: Call) -> Mapping[str, Any]:
        keys = call.params["TagKeys"]
        instance = self._taggable(call, {"aws:TagKeys": keys})
        kept = {key: value for key, value in instance.tags.items() if key not in keys}
        self._state.instances.set_tags(instance, kept)
        return {}

    async def list_tags(self, call: Call) -> Mapping[str, Any]:
        return {"TagList": tag_list(self._taggable(call, {}).tags)}

    # -- settings --

    async def get_service_setting(self, call: Call) -> Mapping[str, Any]:
        self._authorize_setting(call)
        return {"ServiceSetting": self._setting()}

    async def update_service_setting(self, call: Call) -> Mapping[str, Any]:
        self._authorize_setting(call)
        value = call.params["SettingValue"]
        if value not in ("standard", "advanced"):
            raise ApiError("ValidationException", "The tier must be standard or advanced.")
        state = self._state
        state.tier, state.tier_changed_at, state.tier_changed_by = value, time.time(), call.principal.arn
        return {}

    async def reset_service_setting(self, call: Call) -> Mapping[str, Any]:
        """AWS's own default is standard, whatever the local cloud started with."""
        self._authorize_setting(call)
        state = self._state
        state.tier, state.tier_changed_at, state.tier_changed_by = "standard", None, ""
        return {"ServiceSetting": self._setting()}

    # -- within --

    def _authorize_setting(self, call: Call) -> None:
        setting = call.params["SettingId"]
        setting = setting.rsplit(":servicesetting", 1)[-1]
        self._state.authorize(call.principal, call.operation, f"servicesetting{setting}")
        if setting != TIER_SETTING:
            raise ApiError("ServiceSettingNotFound", f"Setting {setting} not found.")

    def _setting(self) -> Mapping[str, Any]:
        state = self._state
        setting: dict[str, Any] = {
            "SettingId": TIER_SETTING,
            "SettingValue": state.tier,
            "ARN": state.arn(f"servicesetting{TIER_SETTING}"),
            "Status": "Default" if state.tier_changed_at is None else "Customized",
        }
        if state.tier_changed_at is not None:
            setting["LastModifiedDate"] = moment(state.tier_changed_at)
            setting["LastModifiedUser"] = state.tier_changed_by
        return setting

    def _taggable(self, call: Call, context: Mapping[str, str | Sequence[str]]) -> ManagedInstance:
        """The instance of a call about tags. Raises ApiError."""
        if call.params["ResourceType"] != "ManagedInstance":
            raise ApiError("InvalidResourceType", "The local cloud has tags for ManagedInstance only.")
        instance = self._state.authorize_instance(call, call.params["ResourceId"], context)
        if instance is None:
            raise ApiError("InvalidResourceId", "The resource ID isn't valid.")
        return instance

    def _describe(self, instance: ManagedInstance, now: float) -> Mapping[str, Any]:
        described: dict[str, Any] = {
            "InstanceId": instance.id,
            "PingStatus": instance.ping_status(now, self._state.ping_timing),
            "LastPingDateTime": moment(instance.pinged_at or instance.registered_at),
            "AgentVersion": instance.agent_version or None,
            "IsLatestVersion": False,
            "PlatformType": instance.platform_type or None,
            "PlatformName": instance.platform_name or None,
            "PlatformVersion": instance.platform_version or None,
            "ActivationId": instance.activation_id,
            "IamRole": instance.iam_role,
            "RegistrationDate": moment(instance.registered_at),
            "ResourceType": "ManagedInstance",
            "Name": instance.name or None,
            "IPAddress": instance.ip_address or None,
            "ComputerName": instance.computer_name or None,
            "SourceId": instance.id,
            "SourceType": "AWS::SSM::ManagedInstance",
        }
        return {key: value for key, value in described.items() if value is not None}


def _no_instance(instance_id: str) -> ApiError:
    return ApiError("InvalidInstanceId", f"Managed instance {instance_id} does not exist.")
