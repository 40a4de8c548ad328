"""
Systems Manager operations: activations, registration, and the credentials of managed instances.
"""

import logging
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sagemaker_ssh_helper.emulator.activations import Activation
from sagemaker_ssh_helper.emulator.instance_signature import (
    InstanceSignature,
    parse_public_key,
    verify_instance_signature,
)
from sagemaker_ssh_helper.emulator.managed_instances import ManagedInstance
from sagemaker_ssh_helper.emulator.paging import position_page
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Operation
from sagemaker_ssh_helper.emulator.ssm_state import REGISTRATION_LIMITS, State, moment
from sagemaker_ssh_helper.emulator.tags import parse_tags, request_context, tag_list

logger = logging.getLogger(__name__)

_MAX_FINGERPRINT_CHARS = 256
_ACTIVATION_FILTERS = {
    "ActivationIds": lambda activation: activation.id,
    "DefaultInstanceName": lambda activation: activation.default_instance_name,
    "IamRole": lambda activation: activation.iam_role,
}


class Registration:
    """The operations, for one local cloud."""

    ANONYMOUS = frozenset(
        ("RegisterManagedInstance", "RequestManagedInstanceRoleToken", "UpdateManagedInstancePublicKey")
    )
    """Not signed at all, or signed with the instance's own key, which is checked here."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.operations: Mapping[str, Operation] = {
            "CreateActivation": self.create_activation,
            "DescribeActivations": self.describe_activations,
            "DeleteActivation": self.delete_activation,
            "RegisterManagedInstance": self.register_managed_instance,
            "RequestManagedInstanceRoleToken": self.request_role_token,
            "UpdateManagedInstancePublicKey": self.update_public_key,
        }

    async def create_activation(self, call: Call) -> Mapping[str, Any]:
        """Checks the role's trust, and the right to pass it and to tag with it."""
        state, params = self._state, call.params
        tags = parse_tags(params.get("Tags", ()))
        context = request_context(tags) if tags else {}
        state.authorize(call.principal, call.operation, "*", context)
        role_arn = state.cloud.iam.authorize_pass_role(call.principal, params["IamRole"], "ssm.amazonaws.com")
        if tags:
            # The tags end up on instances that do not exist yet, so the right to set them hangs on the role.
            state.cloud.iam.authorize(call.principal, "ssm:AddTagsToResource", role_arn, context)
        expires_at: datetime | None = params.get("ExpirationDate")
        activation = state.activations.add(
            iam_role=params["IamRole"],
            role_arn=role_arn,
            description=params.get("Description", ""),
            default_instance_name=params.get("DefaultInstanceName", ""),
            registration_limit=params.get("RegistrationLimit", 1),
            expires_at=expires_at.timestamp() if expires_at else None,
            tags=tags,
            now=time.time(),
        )
        logger.info("= activation %s for %s", activation.id, activation.default_instance_name or "any name")
        return {"ActivationId": activation.id, "ActivationCode": activation.code}

    async def describe_activations(self, call: Call) -> Mapping[str, Any]:
        self._state.authorize(call.principal, call.operation, "*")
        found = list(self._state.activations)
        for item in call.params.get("Filters", ()):
            read = _ACTIVATION_FILTERS.get(item.get("FilterKey"))
            if read is None:
                raise ApiError("InvalidFilter", "The filter name isn't valid.")
            values = item.get("FilterValues", ())
            found = [activation for activation in found if read(activation) in values]
        selected, token = position_page(
            found, call.params.get("MaxResults", 50), call.params.get("NextToken")
        )
        now = time.time()
        return {
            "ActivationList": [_describe(activation, now) for activation in selected],
            "NextToken": token,
        }

    async def delete_activation(self, call: Call) -> Mapping[str, Any]:
        self._state.authorize(call.principal, call.operation, "*")
        self._state.activations.delete(call.params["ActivationId"])
        return {}

    async def register_managed_instance(self, call: Call) -> Mapping[str, Any]:
        """Anonymous: the activation code is the right to do this."""
        state = self._state
        activation_id = _text(call, "ActivationId", 36)
        code = _text(call, "ActivationCode", 250)
        fingerprint = _text(call, "Fingerprint", _MAX_FINGERPRINT_CHARS)
        public_key = _public_key(call, "PublicKey")
        activation = state.activations.check(activation_id, code, time.time())
        limit = state.registration_limit
        if limit is None:
            limit = REGISTRATION_LIMITS[state.tier]
        if len(state.instances) >= limit:
            raise ApiError(
                "RegistrationLimitExceeded",
                f"Registration limit of {limit} reached for SSM On-prem managed instances.",
            )
        activation.registrations += 1
        instance = state.instances.register(
            activation_id=activation.id,
            name=activation.default_instance_name,
            iam_role=activation.iam_role,
            role_arn=activation.role_arn,
            fingerprint=fingerprint,
            public_key=public_key,
            tags=activation.tags,
            now=time.time(),
        )
        logger.info("= %s is registered as %s", instance.id, instance.name or "no name")
        return {"InstanceId": instance.id}

    async def request_role_token(self, call: Call) -> Mapping[str, Any]:
        """Signed with the instance's key; answers credentials that act as the activation's role."""
        state = self._state
        instance = self._authenticate(call)
        if _text(call, "Fingerprint", _MAX_FINGERPRINT_CHARS) != instance.fingerprint:
            raise ApiError("MachineFingerprintDoesNotMatch", "The fingerprint is not that of the machine.")
        if not state.cloud.iam.service_may_assume(instance.role_arn, "ssm.amazonaws.com"):
            raise ApiError(
                "AccessDeniedException", f"Systems Manager may not assume the role {instance.role_arn}."
            )
        caller = state.cloud.iam.role_caller(instance.role_arn, instance.id, instance_id=instance.id)
        credentials = state.cloud.identities.issue(caller, state.token_lifetime)
        return {
            "AccessKeyId": credentials.access_key_id,
            "SecretAccessKey": credentials.secret_access_key,
            "SessionToken": credentials.session_token,
            "TokenExpirationDate": round(credentials.expires_at or 0.0, 3),
            "UpdateKeyPair": False,
        }

    async def update_public_key(self, call: Call) -> Mapping[str, Any]:
        """Signed with the old key, which is no good any more when this returns."""
        instance = self._authenticate(call)
        instance.public_key = _public_key(call, "NewPublicKey")
        return {}

    def _authenticate(self, call: Call) -> ManagedInstance:
        """The instance whose key signed the request. Raises ApiError."""
        signature = InstanceSignature.parse(call.headers)
        instance = self._state.instances.get(signature.instance_id)
        if instance is None:
            raise ApiError("InvalidInstanceId", f"{signature.instance_id} is not registered.")
        verify_instance_signature(call, signature, instance.public_key, time.time())
        return instance


def _describe(activation: Activation, now: float) -> Mapping[str, Any]:
    return {
        "ActivationId": activation.id,
        "Description": activation.description,
        "DefaultInstanceName": activation.default_instance_name,
        "IamRole": activation.iam_role,
        "RegistrationLimit": activation.registration_limit,
        "RegistrationsCount": activation.registrations,
        "ExpirationDate": moment(activation.expires_at),
        "Expired": activation.is_expired(now),
        "CreatedDate": moment(activation.created_at),
        "Tags": tag_list(activation.tags),
    }


def _text(call: Call, name: str, limit: int) -> str:
    """A text that the model, which does not know the operation, could not check."""
    value = call.params.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= limit:
        raise ApiError("ValidationException", f"{name} must be a text of 1 to {limit} characters.")
    return value


def _public_key(call: Call, name: str) -> str:
    key_type = call.params.get(f"{name}Type", "Rsa")
    if key_type != "Rsa":
        raise ApiError("InvalidPublicKeyType", "The type of the public key must be Rsa.")
    text = _text(call, name, 4096)
    parse_public_key(text)
    return text
