"""
The managed instance: from an activation to an id, a key, and credentials that are renewed for ever.

What this module's functions do blocks; the agent calls them in threads.
"""

import base64
import json
import logging
import os
import random
import threading
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import Callable, Optional

from sagemaker_ssh_helper.agent import rsa
from sagemaker_ssh_helper.agent.aws_api import Activation, AwsApi, RoleToken, ServerFault
from sagemaker_ssh_helper.agent.rsa import PrivateKey
from sagemaker_ssh_helper.agent.sigv4 import Credentials
from sagemaker_ssh_helper.agent.state import AgentConfig, StateDir
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    AwsError,
    CredentialsExpired,
    EndpointUnreachable,
    LocalSetup,
    ServiceError,
    Throttled,
    reason_of,
)
from sagemaker_ssh_helper.names import InstanceId, Line

# Between attempts to register while AWS throttles or does not answer: a limit, and what it is doubled up to.
_REGISTER_DELAYS = (1.0, 60.0)

# The official agent's pauses after a token was refused. Seconds.
_DENIED_PAUSE = 1500.0
_DENIED_JITTER = 300.0
_FAILED_PAUSE = 10.0
_FAILED_JITTER = 9.0
_MAX_PAUSE = 1800.0
# Without credentials nobody gets in, and nobody can tell us that somebody wants to.
_MAX_PAUSE_WITHOUT = 30.0
# Between renewals that somebody asks for: the first after one that gave nothing, doubled up to the second.
_DEMAND_DELAYS = (2.0, 30.0)
# So old are credentials at least that are renewed because the service does not take them.
_FRESH = 5.0
_MAX_EXPONENT = 16
LIMIT_CODE = "RegistrationLimitExceeded"
LIMIT_FIX = (
    "Remove those whose containers are gone: sm-ssh-deregister-instances, as an administrator; "
    "or turn the advanced-instances tier on, which allows 20,000 instead of 1,000"
)
_FINAL_CODE = "MachineFingerprintDoesNotMatch"

# Credentials with less left than this are not used for a new signature.
_LAST_MARGIN = 5.0
_MIN_REFRESH_PAUSE = 1.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registration:
    """The content of ``registration.json``: who this node is to Systems Manager."""

    instance_id: InstanceId
    region: str
    fingerprint: str
    activation_id: str
    """The activation that was used up for it."""
    key: PrivateKey = field(repr=False)
    registered_at: float
    """Seconds since the epoch."""

    def serialize(self) -> bytes:
        fields = {
            "instance_id": self.instance_id,
            "region": self.region,
            "fingerprint": self.fingerprint,
            "activation_id": self.activation_id,
            "private_key": base64.b64encode(self.key.serialize()).decode("ascii"),
            "registered_at": self.registered_at,
        }
        return json.dumps(fields, indent=1).encode("utf-8") + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> "Registration":
        """Raises ValueError for anything that is no registration."""
        try:
            fields = json.loads(data.decode("utf-8"))
            return cls(
                InstanceId(str(fields["instance_id"])),
                str(fields["region"]),
                str(fields["fingerprint"]),
                str(fields["activation_id"]),
                PrivateKey.parse(base64.b64decode(fields["private_key"], validate=True)),
                float(fields["registered_at"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError("not a registration") from error


def load(state: StateDir) -> Optional[Registration]:
    """The registration kept in this folder; None when there is none, or none that can be read."""
    data = state.read(state.registration_json)
    if data is None:
        return None
    try:
        return Registration.parse(data)
    except ValueError:
        _logger.warning("! %s is damaged; it is not used", state.registration_json)
        return None


def register(
    state: StateDir,
    config: AgentConfig,
    api: AwsApi,
    *,
    sleep: Callable[[float], object] = time.sleep,
    chance: Callable[[], float] = random.random,
) -> Registration:
    """
    This node's registration: the one kept in ``state`` when it came from the same activation, else a new one.

    Tries again for ever while AWS throttles or does not answer. Blocks. Raises AwsError when the activation
    is refused, LocalSetup when the registration cannot be kept.
    """
    kept = load(state)
    if kept is not None and (kept.activation_id, kept.region) == (config.activation_id, config.region):
        _logger.info("= this node is registered already, as %s", kept.instance_id)
        return kept
    key = rsa.ensure_key_file(state.agent_key, roads=("openssl", "ssh-keygen", "python"))
    fingerprint = str(uuid.uuid4())
    activation = Activation(config.activation_id, config.activation_code)
    try:
        instance_id = _until_answered(
            lambda: api.register_managed_instance(activation, fingerprint, key.public_key), sleep, chance
        )
    except ServiceError as error:
        if error.code == LIMIT_CODE:
            error.fix = LIMIT_FIX
        raise
    registration = Registration(
        instance_id, config.region, fingerprint, config.activation_id, key, time.time()
    )
    save(state, registration)
    _unlink(state.agent_key)
    _logger.info(Line.REGISTERED.format(instance_id=instance_id))
    return registration


def save(state: StateDir, registration: Registration) -> None:
    """Keep it, atomically and for us only. Raises LocalSetup."""
    try:
        state.write(state.registration_json, registration.serialize())
    except OSError as error:
        raise LocalSetup(
            "the registration of this node cannot be kept",
            evidence=reason_of(error),
            fix=f"Make room in {state.path}",
        ) from error


def _until_answered(
    call: Callable[[], InstanceId], sleep: Callable[[float], object], chance: Callable[[], float]
) -> InstanceId:
    limit, longest = _REGISTER_DELAYS
    while True:
        try:
            return call()
        except (Throttled, EndpointUnreachable, ServerFault) as error:
            pause = limit * chance()
            _logger.warning("! not registered yet, again in %.1f s: %s", pause, error)
            sleep(pause)
            limit = min(longest, limit * 2)


class InstanceRole:
    """
    The credentials of the managed instance, and its key.

    Args:
        registration: may be replaced by one with a newer key, which is then kept in ``state``.
        now: seconds since the epoch; None: by the clock of ``api``, which knows AWS's.
        elapsed: seconds from any point on. The life of credentials is counted by it: a clock that is set
            does not end them.
    """

    def __init__(
        self,
        state: StateDir,
        registration: Registration,
        api: AwsApi,
        *,
        now: Optional[Callable[[], float]] = None,
        elapsed: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._state = state
        self._api = api
        self._elapsed = elapsed
        self._now = now or api.now
        self._chance = chance
        self._registration = registration
        self._credentials: Optional[Credentials] = None
        self._retrieved_at = float("-inf")
        self._life = 0.0
        self._due_at = elapsed()
        self._demand_delay, self._longest_delay = _DEMAND_DELAYS
        self._next_demand_at = float("-inf")
        self._failures = 0
        self.on_renewed: Callable[[], object] = lambda: None
        """Called, in whichever thread, when there are credentials after a time without."""
        self._lock = threading.Lock()
        self.problem = ""
        """Why the last refresh gave nothing, if it did not."""

    def get(self) -> Credentials:
        """Credentials that still hold. Does not block. Raises CredentialsExpired when there are none."""
        found = self._credentials
        if found is None or self._retrieved_at + self._life - self._elapsed() < _LAST_MARGIN:
            raise CredentialsExpired(
                "the managed instance has no credentials at the moment",
                evidence="its role token expired and was not renewed",
            )
        return found

    @property
    def is_valid(self) -> bool:
        """Whether there are credentials that still hold."""
        try:
            self.get()
        except CredentialsExpired:
            return False
        return True

    def current(self) -> Credentials:
        """Credentials that hold, renewed now if they do not. Blocks. Raises CredentialsExpired."""
        if not self.is_valid:
            self.renew()
        return self.get()

    def renew(self) -> bool:
        """
        Get new credentials since somebody needs some now: the service took the ones there are for expired,
        or there are none. Blocks. Whether there are others than some seconds ago.

        However many ask, and however often, the service is asked after growing pauses only.
        """
        with self._lock:
            now = self._elapsed()
            if now - self._retrieved_at < _FRESH:
                return self.is_valid
            if now < self._next_demand_at:
                return False
            _logger.info("= the role token is renewed before its time: it is asked for")
            self._refresh()
            now = self._elapsed()
            if now - self._retrieved_at < _FRESH:
                self._demand_delay = _DEMAND_DELAYS[0]
                return True
            self._next_demand_at = now + self._demand_delay
            self._demand_delay = min(self._longest_delay, self._demand_delay * 2)
            return False

    def refresh(self) -> float:
        """
        Get new credentials, and a new key when the service wants one. Blocks. Never raises.

        Returns the seconds to wait before the next call, as ``due_in`` says then: half of the credentials'
        life, or longer and longer when the service refuses.
        """
        with self._lock:
            return self._refresh()

    def due_in(self) -> float:
        """Seconds until ``refresh`` is to be called again."""
        return max(0.0, self._due_at - self._elapsed())

    def _refresh(self) -> float:
        had_none = not self.is_valid
        try:
            token = self._request(self._registration.key)
        except AwsError as error:
            pause = self._pause_after(error)
            _logger.warning("! no role token, again in %.0f s: %s", pause, error)
            self._failures += 1
            self.problem = str(error)
        else:
            self._failures = 0
            self.problem = ""
            self._take(token)
            if token.update_key_pair:
                self._rotate()
            pause = max(_MIN_REFRESH_PAUSE, self._life / 2)
            if had_none and self.is_valid:
                self.on_renewed()
        self._due_at = self._elapsed() + pause
        return pause

    def _request(self, key: PrivateKey) -> RoleToken:
        registration = self._registration
        return self._api.request_role_token(registration.instance_id, registration.fingerprint, key)

    def _take(self, token: RoleToken) -> None:
        expires_at = token.credentials.expires_at
        self._life = expires_at - self._now() if expires_at is not None else float("inf")
        self._credentials, self._retrieved_at = token.credentials, self._elapsed()

    def _rotate(self) -> None:
        """Replace the key. Whatever happens, the one that the service knows is the one that is kept."""
        old = self._registration
        try:
            new_key = rsa.generate(roads=("openssl", "ssh-keygen", "python"))
        except LocalSetup as error:
            _logger.warning("! the instance's key cannot be replaced: %s", error)
            return
        try:
            self._api.update_public_key(old.instance_id, old.key, new_key.public_key)
        except AwsError as error:
            _logger.warning("! the instance's key may not have been replaced: %s", error)
            if not self._is_known(new_key):
                return
        renewed = replace(old, key=new_key)
        try:
            save(self._state, renewed)
        except LocalSetup as error:
            # A restart would find the old key in the file, so the service gets it back.
            _logger.warning("! the instance's new key is not used: %s", error)
            try:
                self._api.update_public_key(old.instance_id, new_key, old.key.public_key)
                return
            except AwsError as refusal:
                _logger.warning("! nor can the old one be put back: %s", refusal)
        self._registration = renewed
        _logger.info("= the instance's key was replaced")

    def _is_known(self, new_key: PrivateKey) -> bool:
        """Whether the service took the new key, after an answer that did not tell."""
        for key in (self._registration.key, new_key):
            try:
                self._take(self._request(key))
            except AwsError:
                continue
            return key is new_key
        return False

    def _pause_after(self, error: AwsError) -> float:
        if isinstance(error, AccessDenied) or getattr(error, "code", "") == _FINAL_CODE:
            return _DENIED_PAUSE + _DENIED_JITTER * self._chance()
        growing = 2.0 ** min(self._failures, _MAX_EXPONENT) * (1 + 0.2 * self._chance())
        longest = _MAX_PAUSE if self.is_valid else _MAX_PAUSE_WITHOUT
        return min(longest, growing + _FAILED_PAUSE + _FAILED_JITTER * self._chance())


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
