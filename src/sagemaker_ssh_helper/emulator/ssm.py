"""
Systems Manager of the local cloud: its services, its message gateway, and their switches.

=====================  ==================================================================
module                 what it holds
=====================  ==================================================================
``ssm_registration``   activations, registration, credentials of instances
``ssm_instances``      instances, tags, health, settings
``ssm_sessions``       sessions
``ssm_documents``      documents
``ssm_commands``       Run Command
``ec2messages``        Run Command for agents without a control channel
``gateway``            control channels and data channels
``ssm_state``          what all of them share
=====================  ==================================================================
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sagemaker_ssh_helper.emulator.ec2messages import POLL_HOLD, MessageDelivery
from sagemaker_ssh_helper.emulator.live_session import SessionTiming
from sagemaker_ssh_helper.emulator.managed_instances import PingTiming
from sagemaker_ssh_helper.emulator.service import ApiError, Cloud, Operation
from sagemaker_ssh_helper.emulator.sessions import OwnedBy
from sagemaker_ssh_helper.emulator.ssm_commands import CommandOperations
from sagemaker_ssh_helper.emulator.ssm_documents import DocumentOperations
from sagemaker_ssh_helper.emulator.ssm_instances import Instances
from sagemaker_ssh_helper.emulator.ssm_registration import Registration
from sagemaker_ssh_helper.emulator.ssm_sessions import SessionOperations
from sagemaker_ssh_helper.emulator.ssm_state import TOKEN_LIFETIME, State


class SsmService:
    """
    ``ssm``, for one local cloud. Making it also puts ``ec2messages`` and its switches there; the message
    gateway is its ``gateway``.
    """

    name = "ssm"
    anonymous = Registration.ANONYMOUS

    def __init__(self, cloud: Cloud) -> None:
        self.state = State(cloud)
        self.gateway = self.state.gateway
        self.sessions = SessionOperations(self.state)
        commands = CommandOperations(self.state)
        self.message_delivery = MessageDelivery(self.state, commands)
        self.operations: Mapping[str, Operation] = {
            **Registration(self.state).operations,
            **Instances(self.state).operations,
            **self.sessions.operations,
            **DocumentOperations(self.state).operations,
            **commands.operations,
        }
        cloud.services[self.message_delivery.name] = self.message_delivery
        cloud.on_close(self.gateway.close)
        register = cloud.faults.register
        register("gateway", self.gateway.switch_gateway, self.gateway.start)
        register("cut", self.gateway.switch_cut)
        self.gateway.link_faults.register(cloud.faults)
        register("session-timing", self.switch_session_timing, self.reset_session_timing)
        register("tier", self.switch_tier, self.reset_tier)
        register("ping-status", self.switch_ping_status, self.reset_ping_status)
        register("registration-limit", self.switch_registration_limit, self.reset_registration_limit)
        register("session-names", self.switch_session_names, self.reset_session_names)
        register("token-lifetime", self.switch_token_lifetime, self.reset_token_lifetime)
        register("message-poll", self.switch_message_poll, self.reset_message_poll)

    # -- switches --

    async def switch_tier(self, body: Mapping[str, Any]) -> None:
        """``{"kind": "tier", "tier": "standard"}`` or ``"advanced"``."""
        if body.get("tier") not in ("standard", "advanced"):
            raise ApiError("ValidationException", "tier must be standard or advanced.")
        self.state.tier = body["tier"]

    async def reset_tier(self) -> None:
        self.state.tier = "advanced"

    async def switch_ping_status(self, body: Mapping[str, Any]) -> None:
        """``{"kind": "ping-status", "grace": 1, "window": 900}``, seconds; see PingTiming."""
        _set_numbers(self.state.ping_timing, body)

    async def reset_ping_status(self) -> None:
        self.state.ping_timing = PingTiming()

    async def switch_session_timing(self, body: Mapping[str, Any]) -> None:
        """``{"kind": "session-timing", "client_resume": 60}``, seconds; see SessionTiming."""
        # Sessions under way keep the times they began with.
        timing = dataclasses.replace(self.gateway.timing)
        _set_numbers(timing, body)
        self.gateway.timing = timing

    async def reset_session_timing(self) -> None:
        self.gateway.timing = SessionTiming()

    async def switch_session_names(self, body: Mapping[str, Any]) -> None:
        """``{"kind": "session-names", "by": "userid"}``: what policies see of a session; see OwnedBy."""
        try:
            self.state.sessions.owned_by = OwnedBy(body.get("by"))
        except ValueError:
            ways = ", ".join(way.value for way in OwnedBy)
            raise ApiError("ValidationException", f"by must be one of {ways}.") from None

    async def reset_session_names(self) -> None:
        self.state.sessions.owned_by = OwnedBy.NAME

    async def switch_registration_limit(self, body: Mapping[str, Any]) -> None:
        """``{"kind": "registration-limit", "limit": 3}``: instances that the account may have."""
        limit = body.get("limit")
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
            raise ApiError("ValidationException", "limit must be a whole number.")
        self.state.registration_limit = limit

    async def reset_registration_limit(self) -> None:
        self.state.registration_limit = None

    async def switch_token_lifetime(self, body: Mapping[str, Any]) -> None:
        """``{"kind": "token-lifetime", "seconds": 120}``: of the credentials that instances get."""
        self.state.token_lifetime = _seconds(body, 1)

    async def reset_token_lifetime(self) -> None:
        self.state.token_lifetime = TOKEN_LIFETIME

    async def switch_message_poll(self, body: Mapping[str, Any]) -> None:
        """``{"kind": "message-poll", "seconds": 1}``: how long GetMessages waits for a message."""
        self.message_delivery.hold = _seconds(body, 0)

    async def reset_message_poll(self) -> None:
        self.message_delivery.hold = POLL_HOLD


def _seconds(body: Mapping[str, Any], least: float) -> float:
    """The ``seconds`` of a switch. Raises ApiError."""
    seconds = body.get("seconds")
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not least <= seconds < 1_000_000:
        raise ApiError("ValidationException", f"seconds must be a number from {least}.")
    return float(seconds)


def _set_numbers(target: object, body: Mapping[str, Any]) -> None:
    """Set the attributes that a switch names, all of them or none. Raises ApiError."""
    values = {key: value for key, value in body.items() if key != "kind"}
    for key, value in values.items():
        if not isinstance(getattr(target, key, None), float):
            raise ApiError("ValidationException", f"{key} is not part of this switch.")
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1_000_000:
            raise ApiError("ValidationException", f"{key} must be a number of seconds.")
    for key, value in values.items():
        setattr(target, key, float(value))
