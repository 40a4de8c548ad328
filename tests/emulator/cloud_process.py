"""The local cloud of tests, with what Systems Manager and the gateway need beside boto3: signed HTTP."""

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from local_cloud import LocalCloud

TIMEOUT = 20.0  # seconds; every answer comes much sooner


class CloudProcess(LocalCloud):
    """A local cloud in a process of its own, which logs everything; a context manager."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder, *options, environment={"SM_SSH_DEBUG": "true"})

    @property
    def region(self) -> str:
        return str(self.info["region"])

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """What trusts this cloud; None without TLS."""
        path = self.info.get("ca_file")
        return None if path is None else ssl.create_default_context(cafile=path)

    @property
    def role(self) -> str:
        """The execution role, without what stands before its name in its ARN."""
        return str(self.info["role_arn"]).partition(":role/")[2]

    @property
    def log_text(self) -> str:
        """What it logged so far."""
        return "".join(path.read_text() for path in (self.log.parent / "home").rglob("sm-ssh/logs/*.log"))

    @property
    def memory_bytes(self) -> int:
        """What the process has resident."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the process has no VmRSS")

    def client(self, service: str, user: str = "admin", **options: Any) -> Any:
        return super().client(service, user, **options)

    def credentials(self, user: str) -> Credentials:
        own = self.user(user)
        return Credentials(own["access_key_id"], own["secret_access_key"])

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        credentials: Credentials | None,
        service: str,
        target: str = "",
    ) -> tuple[int, Any]:
        """Status and decoded body of a signed (or, without credentials, unsigned) JSON call."""
        headers = {"Content-Type": "application/x-amz-json-1.1"}
        if target:
            headers["X-Amz-Target"] = target
        status, text = self.request("POST", path, json.dumps(body).encode(), headers, credentials, service)
        return status, json.loads(text) if text.startswith("{") else text

    def request(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        credentials: Credentials | None,
        service: str,
    ) -> tuple[int, str]:
        """Status and body of any call."""
        url = urlsplit(self.endpoint_url)
        host = url.hostname or ""
        signed = dict(headers)
        if credentials is not None:
            signed = dict(self.signed_headers(method, path, body, headers, credentials, service))
        connection = http.client.HTTPConnection(host, url.port, timeout=TIMEOUT)
        if self.ssl_context is not None:
            connection = http.client.HTTPSConnection(
                host, url.port, timeout=TIMEOUT, context=self.ssl_context
            )
        try:
            connection.request(method, path, body, signed)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def signed_headers(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        credentials: Credentials,
        service: str,
    ) -> Mapping[str, str]:
        """The headers of a request, and those that sign it."""
        request = AWSRequest(method, self.endpoint_url + path, data=body, headers=dict(headers))
        request.headers["Host"] = urlsplit(self.endpoint_url).netloc
        SigV4Auth(credentials, service, self.region).add_auth(request)
        return dict(request.headers.items())
