"""
A local cloud for tests: the real ``sm-ssh emulator start``, in a process of its own with a home of its own.

::

    with LocalCloud(tmp_path) as cloud:
        cloud.client("ssm", user="alice").describe_instance_information()
        with cloud.fault(action="ssm:StartSession", user="bob", kind="deny"):
            ...
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

START_TIMEOUT = 60
END_TIMEOUT = 30


def clean_environment(home: Path) -> dict[str, str]:
    """This process' environment without anything about AWS, ssh or this product, and with another home."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "SSH_", "SM_", "XDG_", "SAGEMAKER_"))
        and name.lower() not in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    }
    env.update(HOME=str(home), AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull)
    env["AWS_EC2_METADATA_DISABLED"] = "true"
    return env


class LocalCloud:
    """
    The running cloud; use it as a context manager.

    Args:
        folder: an empty one, for its home and its log.
        options: further arguments of ``emulator start``, such as ``--tls``.
        environment: further variables of its process.
        within: a command that runs the one after it, such as another user's view of this machine.
    """

    info: dict[str, Any]
    """What ``--json`` printed."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        environment: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._within = within
        self._options = options
        self._environment = dict(environment or {})
        self._clients: dict[Any, Any] = {}

    def __enter__(self) -> "LocalCloud":
        home = self._folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        self.log = self._folder / "cloud.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *self._within,
                    sys.executable,
                    "-m",
                    "sagemaker_ssh_helper",
                    "emulator",
                    "start",
                    "--json",
                    "--until-eof",
                    *self._options,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**clean_environment(home), **self._environment},
                start_new_session=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(START_TIMEOUT)
            raise AssertionError(f"the local cloud did not start: {self.log.read_text()}")
        self.info = json.loads(line)
        return self

    def __exit__(self, *exception: object) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        assert self.process.stdout is not None
        try:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(END_TIMEOUT)
            raise
        finally:
            self.process.stdout.close()
            assert self.process.stdin is not None
            self.process.stdin.close()

    @property
    def endpoint_url(self) -> str:
        return str(self.info["endpoint_url"])

    def user(self, name: str) -> dict[str, str]:
        """One of the ``users`` of ``info``."""
        return next(user for user in self.info["users"] if user["name"] == name)

    def client(self, service: str, user: str = "alice", **options: Any) -> Any:
        """A boto3 client with this user's keys; without retries unless ``options`` (a Config's) say so."""
        own = self.user(user)
        return self.client_with(service, own["access_key_id"], own["secret_access_key"], **options)

    def client_with(
        self, service: str, access_key_id: str, secret: str, token: str | None = None, **options: Any
    ) -> Any:
        """The same with any keys."""
        import boto3
        import botocore.session
        from botocore.config import Config

        wanted = (service, access_key_id, secret, token, repr(sorted(options.items())))
        if wanted not in self._clients:
            session = botocore.session.Session()
            for name in ("config_file", "credentials_file"):
                session.set_config_variable(name, os.devnull)
            config = {"retries": {"mode": "standard", "total_max_attempts": 1}, "proxies": {}, **options}
            self._clients[wanted] = boto3.Session(botocore_session=session).client(
                service,
                region_name=self.info["region"],
                endpoint_url=self.endpoint_url,
                aws_access_key_id=access_key_id,
                aws_secret_access_key=secret,
                aws_session_token=token,
                verify=self.info.get("ca_file"),
                config=Config(**config),
            )
        return self._clients[wanted]

    def environment(self, user: str, home: Path) -> dict[str, str]:
        """The environment in which a program is this user of this cloud."""
        own = self.user(user)
        env = clean_environment(home)
        env.update(
            AWS_ENDPOINT_URL=self.endpoint_url,
            AWS_REGION=self.info["region"],
            AWS_DEFAULT_REGION=self.info["region"],
            AWS_ACCESS_KEY_ID=own["access_key_id"],
            AWS_SECRET_ACCESS_KEY=own["secret_access_key"],
        )
        if "ca_file" in self.info:
            env["AWS_CA_BUNDLE"] = self.info["ca_file"]
        return env

    def local(self, method: str, path: str, body: Any = None, user: str = "admin") -> Any:
        """
        A signed call below ``/_local/``: ``local("GET", "requests")``. Returns the decoded JSON.

        Raises urllib.error.HTTPError.
        """
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        own = self.user(user)
        data = None if body is None else json.dumps(body).encode()
        url = f"{self.info.get('http_endpoint_url', self.endpoint_url)}/_local/{path}"
        signed = AWSRequest(method, url, data=data or b"", headers={"Content-Type": "application/json"})
        keys = Credentials(own["access_key_id"], own["secret_access_key"])
        SigV4Auth(keys, "local", self.info["region"]).add_auth(signed)
        request = urllib.request.Request(url, data, dict(signed.headers.items()), method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return json.loads(answer.read())

    def faults(self, **switch: Any) -> str:
        """Turn a switch on; returns its id."""
        return str(self.local("POST", "faults", switch)["id"])

    def clear_faults(self) -> None:
        """Turn all switches off."""
        self.local("DELETE", "faults")

    @contextlib.contextmanager
    def fault(self, **switch: Any) -> Iterator[None]:
        """A switch that is on inside the ``with``; afterwards all are off."""
        self.faults(**switch)
        try:
            yield
        finally:
            self.clear_faults()

    def requests(self) -> list[dict[str, Any]]:
        """The counted calls: rows with action, user, count and errors."""
        return list(self.local("GET", "requests")["requests"])

    def count(self, action: str, user: str | None = None) -> int:
        """How many calls of this action were made so far, by this user or by anybody."""
        return sum(
            row["count"] for row in self.requests() if row["action"] == action and user in (None, row["user"])
        )

    def reset_requests(self) -> None:
        """Count from zero."""
        self.local("DELETE", "requests")
