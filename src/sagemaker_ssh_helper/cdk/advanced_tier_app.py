"""
The stack ``Advanced-Tier-Stack``: Systems Manager's advanced-instances tier, once per region.

::

    APP="python -m sagemaker_ssh_helper.cdk.advanced_tier_app"
    AWS_REGION=eu-west-1 cdk -a "$APP" deploy Advanced-Tier-Stack

The tier stays when the stack is deleted: other nodes may need it.
"""

from __future__ import annotations

import sys
from typing import Any

from sagemaker_ssh_helper import cdk

SETTING = "ssm/managed-instance/activation-tier"


def main() -> int:
    """Write the stack's template where ``cdk`` wants it; the exit status."""
    return cdk.synthesize(_add_stack)


def _add_stack(app: Any, environment: Any) -> None:
    from aws_cdk import Stack, custom_resources

    stack = Stack(app, "Advanced-Tier-Stack", env=environment)
    setting = stack.format_arn(service="ssm", resource="servicesetting", resource_name=SETTING)
    turn_on = custom_resources.AwsSdkCall(
        service="SSM",
        action="updateServiceSetting",
        parameters={"SettingId": setting, "SettingValue": "advanced"},
        physical_resource_id=custom_resources.PhysicalResourceId.of(SETTING),
    )
    custom_resources.AwsCustomResource(
        stack,
        "AdvancedTier",
        on_update=turn_on,
        install_latest_aws_sdk=False,
        policy=custom_resources.AwsCustomResourcePolicy.from_sdk_calls(resources=[setting]),
    )


if __name__ == "__main__":
    sys.exit(main())
