"""
The role of a job: temporary keys for its containers, and for what the cloud does in its name.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from sagemaker_ssh_helper.emulator.identities import ContainerCredentials, Credentials, credential_document
from sagemaker_ssh_helper.emulator.service import Caller, Cloud

LIFETIME_SECONDS = 6 * 3600.0
REFRESH_SECONDS = 3600.0
"""New keys are made when the present ones have less than this left."""

SESSION_NAME = "SageMaker"
"""Of a job's role session: ``assumed-role/<role>/SageMaker``."""


class RoleSession:
    """
    The keys of one role as SageMaker assumes it, for all jobs that have it. Safe to use from several threads.

    Args:
        caller: ``cloud.iam.role_caller(role, SESSION_NAME)``.
    """

    def __init__(self, cloud: Cloud, caller: Caller) -> None:
        self._cloud = cloud
        self._caller = caller
        self._credentials: Credentials | None = None
        self._clients: dict[str, Any] = {}
        self._lock = threading.RLock()

    @property
    def user_id(self) -> str:
        """``aws:userid`` of this session."""
        return self._caller.user_id

    def credentials(self) -> Credentials:
        """Keys that are good for an hour at least."""
        with self._lock:
            known = self._credentials
            if known is None or (known.expires_at or 0.0) - time.time() < REFRESH_SECONDS:
                known = self._credentials = self._cloud.identities.issue(self._caller, LIFETIME_SECONDS)
            return known

    def client(self, service: str) -> Any:
        """
        A boto3 client of the cloud with the role's rights, made once (some 200 ms).

        It calls back over HTTP: use it in a worker thread, never on the event loop, which has to answer.
        """
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._make_client(service)
            return self._clients[service]

    def _make_client(self, service: str) -> Any:
        import boto3
        import botocore.session
        from botocore.config import Config

        session = botocore.session.Session()
        # The user's own files and environment must not reach the cloud's calls to itself.
        session.set_config_variable("config_file", os.devnull)
        session.set_config_variable("credentials_file", os.devnull)
        session.get_component("credential_provider").providers = [_Provider(self._metadata)]
        return boto3.session.Session(botocore_session=session).client(
            service,
            region_name=self._cloud.region,
            endpoint_url=self._cloud.http_endpoint_url,
            config=Config(
                proxies={}, retries={"mode": "standard", "total_max_attempts": 2}, max_pool_connections=32
            ),
        )

    def _metadata(self) -> dict[str, Any]:
        document = credential_document(self.credentials())
        return {
            "access_key": document["AccessKeyId"],
            "secret_key": document["SecretAccessKey"],
            "token": document["Token"],
            "expiry_time": document["Expiration"],
        }


class _Provider:
    """Where a botocore session looks for keys: here, and renewed in time."""

    METHOD = CANONICAL_NAME = "local-cloud"

    def __init__(self, metadata: Callable[[], dict[str, Any]]) -> None:
        self._metadata = metadata

    def load(self) -> Any:
        from botocore.credentials import RefreshableCredentials

        return RefreshableCredentials.create_from_metadata(
            self._metadata(), refresh_using=self._metadata, method=self.METHOD
        )


class JobCredentials:
    """A job's way to its role's keys, from construction to ``close``: an address and a token of its own."""

    def __init__(self, cloud: Cloud, role: RoleSession) -> None:
        self._cloud = cloud
        self._id = secrets.token_urlsafe(16)
        self._token = secrets.token_urlsafe(32)
        self.role = role
        cloud.container_credentials[self._id] = ContainerCredentials(self._token, self._document)

    def close(self) -> None:
        """No keys for this job from now on; those given out end with their time."""
        self._cloud.container_credentials.pop(self._id, None)

    def environment(self) -> dict[str, str]:
        """The variables by which AWS libraries in a container find the keys."""
        # Plain HTTP also when the cloud has TLS: boto3 does not use AWS_CA_BUNDLE for this one request.
        url = f"{self._cloud.http_endpoint_url}/_local/credentials/{self._id}"
        return {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": url,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": self._token,
        }

    def _document(self) -> Mapping[str, Any]:
        return credential_document(self.role.credentials())
