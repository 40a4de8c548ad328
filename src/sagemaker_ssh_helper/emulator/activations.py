"""
Hybrid activations: what lets a machine register itself as a managed instance.
"""

import hmac
import secrets
import string
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

from sagemaker_ssh_helper.emulator.service import ApiError

# Numbers of the service.
DEFAULT_LIFETIME = 24 * 3600.0  # seconds
MAX_LIFETIME = 30 * 24 * 3600.0  # seconds

_CODE_LETTERS = string.ascii_letters + string.digits
_CODE_CHARS = 20


@dataclass
class Activation:
    """
    One activation. Times are seconds since the Unix epoch.

    ``role_arn`` is the ARN of ``iam_role``, which may have a path before its name.
    """

    id: str
    code: str = field(repr=False)
    iam_role: str
    role_arn: str
    description: str
    default_instance_name: str
    registration_limit: int
    created_at: float
    expires_at: float
    tags: dict[str, str]
    registrations: int = 0

    def is_expired(self, now: float) -> bool:
        """Whether it is too late to register with it."""
        return now >= self.expires_at


class Activations:
    """Every activation there is, oldest first."""

    def __init__(self) -> None:
        self._activations: dict[str, Activation] = {}

    def __iter__(self) -> Iterator[Activation]:
        return iter(self._activations.values())

    def add(
        self,
        *,
        iam_role: str,
        role_arn: str,
        description: str,
        default_instance_name: str,
        registration_limit: int,
        expires_at: float | None,
        tags: dict[str, str],
        now: float,
    ) -> Activation:
        """
        Make an activation with a new id and code.

        Raises:
            ApiError: ``ValidationException`` for an expiry in the past or more than 30 days ahead.
        """
        if expires_at is None:
            expires_at = now + DEFAULT_LIFETIME
        if not now < expires_at <= now + MAX_LIFETIME:
            raise ApiError(
                "ValidationException", "Expiration date must be in the future, and at most 30 days from now."
            )
        activation = Activation(
            id=str(uuid.uuid4()),
            code="".join(secrets.choice(_CODE_LETTERS) for _ in range(_CODE_CHARS)),
            iam_role=iam_role,
            role_arn=role_arn,
            description=description,
            default_instance_name=default_instance_name,
            registration_limit=registration_limit,
            created_at=now,
            expires_at=expires_at,
            tags=tags,
        )
        self._activations[activation.id] = activation
        return activation

    def delete(self, activation_id: str) -> None:
        """Forget one. Raises ApiError ``InvalidActivationId`` when there is none."""
        if self._activations.pop(activation_id, None) is None:
            raise ApiError("InvalidActivationId", f"Activation {activation_id} does not exist.")

    def check(self, activation_id: str, code: str, now: float) -> Activation:
        """
        The activation that admits a machine with this id and code, still to be counted by the caller.

        Raises:
            ApiError: ``InvalidActivation`` for a pair that does not exist, ``ActivationExpired``,
            ``RegistrationLimitExceeded``.
        """
        activation = self._activations.get(activation_id)
        if activation is None or not hmac.compare_digest(activation.code.encode(), code.encode()):
            raise ApiError("InvalidActivation", "The activation ID and the activation code do not match.")
        if activation.is_expired(now):
            raise ApiError("ActivationExpired", f"The activation {activation_id} has expired.")
        if activation.registrations >= activation.registration_limit:
            raise ApiError(
                "RegistrationLimitExceeded",
                f"Registration limit of {activation.registration_limit} reached for the activation.",
            )
        return activation
