"""
Who holds which key: the registry of every credential that the local cloud has handed out.
"""

import hmac
import secrets
import string
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sagemaker_ssh_helper.emulator.service import Caller

_KEY_LETTERS = string.ascii_uppercase + "234567"
_SECRET_LETTERS = string.ascii_letters + string.digits + "+/"


@dataclass(frozen=True)
class Credentials:
    """
    One key. ``session_token`` and ``expires_at`` (seconds since the Unix epoch) are None for a user's own
    key.

    The secret and the token are left out of ``repr``.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires_at: float | None = None

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and time.time() >= self.expires_at


@dataclass(frozen=True)
class Identity:
    """A key and the caller it speaks for."""

    credentials: Credentials
    caller: Caller

    def has_token(self, token: str | None) -> bool:
        """Whether this is the session token of the key; None stands for "no token sent"."""
        own = self.credentials.session_token
        if own is None or token is None:
            return own is None and token is None
        return hmac.compare_digest(own.encode(), token.encode())


def random_id(prefix: str, length: int = 20) -> str:
    """An id like ``AKIA…`` or ``AROA…``: the prefix, then random capitals and digits, ``length`` in all."""
    return prefix + "".join(secrets.choice(_KEY_LETTERS) for _ in range(length - len(prefix)))


def random_secret() -> str:
    """A secret access key: 40 random characters."""
    return "".join(secrets.choice(_SECRET_LETTERS) for _ in range(40))


class Identities:
    """
    The registry. Safe to use from several threads.

    Args:
        other_keys: asked for a key that was never added; the keys that clients made through IAM's
        CreateAccessKey.
    """

    def __init__(self, other_keys: Callable[[str], Identity | None] = lambda access_key_id: None) -> None:
        self._identities: dict[str, Identity] = {}
        self._added = 0
        self._lock = threading.Lock()
        self._other_keys = other_keys

    def add(
        self,
        access_key_id: str,
        secret_access_key: str,
        session_token: str | None,
        caller: Caller,
        expires_at: float | None = None,
    ) -> Identity:
        """Make a key known. Its ``caller`` is stored with that key's id filled in."""
        identity = Identity(
            Credentials(access_key_id, secret_access_key, session_token, expires_at),
            replace(caller, access_key_id=access_key_id),
        )
        with self._lock:
            self._forget_long_expired()
            self._identities[access_key_id] = identity
        return identity

    def issue(self, caller: Caller, lifetime_seconds: float) -> Credentials:
        """New temporary credentials (``ASIA…``, with a session token) for a caller."""
        identity = self.add(
            random_id("ASIA"),
            random_secret(),
            secrets.token_urlsafe(96),
            caller,
            time.time() + lifetime_seconds,
        )
        return identity.credentials

    def lookup(self, access_key_id: str) -> Identity | None:
        """The identity behind a key, expired ones too; None for a key that nobody has."""
        with self._lock:
            identity = self._identities.get(access_key_id)
        return identity or self._other_keys(access_key_id)

    def revoke(self, predicate: Callable[[Caller], bool]) -> None:
        """Forget every key whose caller the predicate picks; requests with them fail from now on."""
        with self._lock:
            gone = [key for key, identity in self._identities.items() if predicate(identity.caller)]
            for key in gone:
                del self._identities[key]

    def _forget_long_expired(self) -> None:
        # An expired key is kept for an hour, so that its user reads "expired" and not "unknown".
        self._added += 1
        if self._added % 256 == 0:
            horizon = time.time() - 3600
            gone = [
                key
                for key, identity in self._identities.items()
                if identity.credentials.expires_at is not None and identity.credentials.expires_at < horizon
            ]
            for key in gone:
                del self._identities[key]


def credential_document(credentials: Credentials) -> Mapping[str, Any]:
    """What a container credentials endpoint answers: AccessKeyId, SecretAccessKey, Token, Expiration."""
    assert credentials.expires_at is not None, "only temporary credentials go to containers"
    return {
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
        "Token": credentials.session_token,
        "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(credentials.expires_at)),
    }


@dataclass(frozen=True)
class ContainerCredentials:
    """
    What ``GET /_local/credentials/<id>`` serves to one job.

    ``token`` is what the request must carry, whole, in its Authorization header; ``provider`` is called
    once a request and returns a :func:`credential_document`.
    """

    token: str = field(repr=False)
    provider: Callable[[], Mapping[str, Any]]


__all__: list[str] = [
    "ContainerCredentials",
    "Credentials",
    "Identities",
    "Identity",
    "credential_document",
    "random_id",
    "random_secret",
]
