"""
Whatever the environment, AWS's files and the credentials look like: a command works, or says why in one line.

``error[internal]`` is what a user gets for a mistake of ours. Here every odd thing is met alone, and
each with some of the others, in one process.
"""

from __future__ import annotations

import os
import pwd
import random
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from pwd import struct_passwd
from typing import Any

import pytest

from aws_stub import AwsStub, aws_stub
from sagemaker_ssh_helper.cli.main import main

ROLE = "role_arn = arn:aws:iam::111122223333:role/r"
KEYS = "aws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = SECRETKEYOFTHEFILE"

SECRETS = ("SECRETKEYOFTHEFILE", "SECRETOFTHEHELPER", "SECRETOFTHEENVIRONMENT", "TOKENOFTHEENVIRONMENT")

TEMPORARY = '"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "S", "SessionToken": "T"'
SSO = "sso_start_url = https://x.awsapps.com/start\nsso_account_id = 1\nsso_role_name = r\nsso_region"

HELPERS = {
    "prints-nothing": "true",
    "prints-text": "echo SECRETOFTHEHELPER",
    "prints-a-list": "echo '[\"SECRETOFTHEHELPER\"]'",
    "prints-a-number": "echo 1",
    "prints-bytes": "printf '\\377\\376{}'",
    "lacks-a-key": """echo '{"Version": 1, "AccessKeyId": "A", "Secret": "SECRETOFTHEHELPER"}'""",
    "has-null": """echo '{"Version": 1, "AccessKeyId": null, "SecretAccessKey": null}'""",
    "has-numbers": """echo '{"Version": 1, "AccessKeyId": 1, "SecretAccessKey": 2}'""",
    "of-version-2": """echo '{"Version": 2, "AccessKeyId": "A", "SecretAccessKey": "SECRETOFTHEHELPER"}'""",
    "odd-expiration": f"""echo '{{{TEMPORARY}, "Expiration": "soon"}}'""",
    "number-as-expiration": f"""echo '{{{TEMPORARY}, "Expiration": 5}}'""",
    "has-expired": f"""echo '{{{TEMPORARY}, "Expiration": "2020-01-01T00:00:00Z"}}'""",
    "fails-with-bytes": "printf '\\377\\n\\033[31m' >&2; exit 3",
    "fails-in-silence": "exit 3",
    "line-end-in-keys": r"""printf '{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "S\\n"}'""",
}

PROFILES = {
    "keys": KEYS,
    "half": "aws_access_key_id = AKIAIOSFODNN7EXAMPLE",
    "process-missing": "credential_process = /nonexistent/helper --for me",
    "process-folder": "credential_process = /tmp",
    "process-unbalanced": "credential_process = /bin/echo 'unbalanced",
    "process-empty": "credential_process =",
    "process-plain-file": "credential_process = {home}/plain",
    "process-other-format": "credential_process = {home}/garbage",
    **{f"process-{name}": f"credential_process = {{home}}/bin/{name}" for name in HELPERS},
    "role-without-source": ROLE,
    "role-of-nobody": f"{ROLE}\nsource_profile = absent",
    "role-of-itself": f"{ROLE}\nsource_profile = role-of-itself",
    "loop-a": f"{ROLE}\nsource_profile = loop-b",
    "loop-b": f"{ROLE}\nsource_profile = loop-a",
    "role-of-an-empty-profile": f"{ROLE}\nsource_profile = empty",
    "role-refused": f"{ROLE}\nsource_profile = keys",
    "role-garbage": "role_arn = garbage\nsource_profile = keys",
    "role-odd-duration": f"{ROLE}\nsource_profile = keys\nduration_seconds = long",
    "role-two-sources": f"{ROLE}\nsource_profile = keys\ncredential_source = Environment",
    "role-odd-source": f"{ROLE}\ncredential_source = Moon",
    "role-environment": f"{ROLE}\ncredential_source = Environment",
    "role-container": f"{ROLE}\ncredential_source = EcsContainer",
    "role-metadata": f"{ROLE}\ncredential_source = Ec2InstanceMetadata",
    "role-mfa": f"{ROLE}\nsource_profile = keys\nmfa_serial = arn:aws:iam::111122223333:mfa/me",
    "web-identity-missing": f"{ROLE}\nweb_identity_token_file = /nonexistent/token",
    "web-identity-folder": f"{ROLE}\nweb_identity_token_file = /tmp",
    "web-identity-bytes": f"{ROLE}\nweb_identity_token_file = {{home}}/garbage",
    "sso-half": "sso_start_url = https://x.awsapps.com/start",
    "sso-no-session": "sso_session = absent\nsso_account_id = 111122223333\nsso_role_name = r",
    "sso-no-token": f"{SSO} = eu-west-1",
    "sso-odd-region": f"{SSO} = no where",
    "login": "login_session = arn:aws:iam::111122223333:user/me",
    "empty": "",
    "no-value": "region",
    "region-empty": f"region =\n{KEYS}",
    "region-odd": f"region = mars one\n{KEYS}",
    "nested": f"{KEYS}\ns3 =\n  addressing_style = path\n  broken",
    "indented": f"  {KEYS}",
    "endpoint-bare": f"endpoint_url = localhost:1\n{KEYS}",
    "endpoint-odd": f"endpoint_url = ://\n{KEYS}",
    "services-missing": f"services = absent\n{KEYS}",
    "bundle-missing": f"ca_bundle = /nonexistent/ca.pem\n{KEYS}",
    "odd-numbers": f"max_attempts = x\nmetadata_service_timeout = x\n{KEYS}",
    "odd-numbers-no-keys": "max_attempts = x\nmetadata_service_num_attempts = y",
    "odd-modes": f"retry_mode = x\ndefaults_mode = x\nsts_regional_endpoints = x\n{KEYS}",
    "odd-switches": f"use_fips_endpoint = x\nuse_dualstack_endpoint = x\n{KEYS}",
    "with-a-space in-it": KEYS,
    "percent%(x)s": KEYS,
}  # fmt: skip

FILES = {
    "missing": None,
    "empty": b"",
    "folder": "folder",
    "below-a-file": "below",
    "duplicate-section": b"[default]\nregion = eu-west-1\n[default]\nregion = us-east-1\n",
    "duplicate-option": b"[default]\nregion = eu-west-1\nregion = us-east-1\n",
    "byte-order-mark": b"\xef\xbb\xbf[default]\nregion = eu-west-1\n",
    "utf-16": "[default]\nregion = eu-west-1\n".encode("utf-16"),
    "stray-line": b"[default]\nregion = eu-west-1\nthis is nothing\n",
    "no-section": b"region = eu-west-1\n",
    "open-bracket": b"[default\nregion = eu-west-1\n",
    "open-quote": b'[profile "x]\nregion = eu-west-1\n',
    "empty-section": b"[]\nregion = eu-west-1\n",
    "profile-alone": b"[profile]\nregion = eu-west-1\n",
    "latin-1": b"[profile caf\xe9]\nregion = eu-west-1\n",
    "null-bytes": b"[default]\nregion = eu\0west\n",
    "carriage-returns": b"[default]\r\nregion = eu-west-1\r\n",
    "percent": b"[default]\nregion = %(region)s\n",
    "unbalanced-name": b"[profile it's]\nregion = eu-west-1\n",
}

VARIABLES: dict[str, list[str | None]] = {
    "AWS_REGION": [None, "", "mars one", "EU-WEST-1", "eu-west-1\n", "europe", "éu-west-1", "x" * 300],
    "AWS_DEFAULT_REGION": ["", "us east", "us-east-1"],
    "AWS_PROFILE": ["", "absent", " ", "default", "line\nend", "\udcff"],
    "AWS_DEFAULT_PROFILE": ["", "absent"],
    "HOME": [None, "", "{home}/nothing", "relative", "/dev/null", "{home}/plain"],
    "XDG_CONFIG_HOME": ["", "relative", "/dev/null", "{home}/plain", "/proc/nothing"],
    "XDG_STATE_HOME": ["", "/dev/null", "/proc/nothing"],
    "XDG_CACHE_HOME": ["", "/dev/null"],
    "AWS_ENDPOINT_URL": ["", "localhost:1", "http://", "http:/x", "ftp://localhost", "://",
                         "http://127.0.0.1:99999", "http://127.0.0.1:port", "http://[::1", "http://a b",
                         "https://127.0.0.1:1/path?x", "x\n",
                         "http://ex\u00e4mple.invalid"],
    "AWS_ENDPOINT_URL_SAGEMAKER": ["localhost:1", "http://127.0.0.1:1"],
    "AWS_CA_BUNDLE": ["", "/nonexistent", "/tmp", "{home}/plain", "{home}/garbage"],
    "REQUESTS_CA_BUNDLE": ["/nonexistent"],
    "AWS_MAX_ATTEMPTS": ["", "x", "0", "-1"],
    "AWS_RETRY_MODE": ["", "odd"],
    "AWS_DEFAULTS_MODE": ["", "odd"],
    "AWS_METADATA_SERVICE_TIMEOUT": ["", "x"],
    "AWS_METADATA_SERVICE_NUM_ATTEMPTS": ["", "x"],
    "AWS_EC2_METADATA_DISABLED": ["maybe"],
    "AWS_EC2_METADATA_SERVICE_ENDPOINT": ["nowhere", "http://127.0.0.1:1"],
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": ["odd"],
    "AWS_STS_REGIONAL_ENDPOINTS": ["odd"],
    "AWS_USE_FIPS_ENDPOINT": ["", "odd", "true"],
    "AWS_USE_DUALSTACK_ENDPOINT": ["odd", "true"],
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": ["odd", "true"],
    "AWS_ACCESS_KEY_ID": [None, "", "A\nB", "Ü", " "],
    "AWS_SECRET_ACCESS_KEY": [None, "", "SECRETOFTHEENVIRONMENT\n", "Ü"],
    "AWS_SESSION_TOKEN": ["", "TOKENOFTHEENVIRONMENT\n", "TOKENOFTHEENVIRONMENT\r\nX-Evil: 1", "Ü"],
    "AWS_CREDENTIAL_EXPIRATION": ["soon", "2020-01-01T00:00:00Z"],
    "AWS_ROLE_ARN": ["arn:aws:iam::111122223333:role/r"],
    "AWS_WEB_IDENTITY_TOKEN_FILE": ["/nonexistent", "/tmp", "{home}/garbage"],
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": ["nowhere", "http://example.com/x", "http://[::"],
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": ["x y"],
    "AWS_CONTAINER_AUTHORIZATION_TOKEN": ["a\nb"],
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": ["/nonexistent"],
    "AWS_SDK_UA_APP_ID": ["x\ny"],
    "AWS_DATA_PATH": ["/nonexistent"],
    "HTTP_PROXY": ["nowhere", "http://", "http://127.0.0.1:1", "socks5h://127.0.0.1:1", "http://[::1"],
    "NO_PROXY": ["[", ",,"],
    "SM_SSH_DEBUG": ["true", "odd"],
    "LANG": ["", "odd"],
    "TERM": [None, "", "odd"],
    "PATH": [None, "", "/nonexistent"],
    "TMPDIR": ["/proc/nothing"],
}  # fmt: skip

COMMANDS = (
    ["list"],
    ["status", "my-job"],
    ["logs", "my-job.training.sagemaker"],
    ["connect", "--no-wait", "my-job.training.sagemaker", "true"],
    ["doctor"],
    ["config", "list"],
    ["deregister", "--dry-run"],
)

PAIRS = 150


class Laptop:
    """A home with AWS's files, in which a command is run in this process with an environment of its own."""

    def __init__(self, home: Path, stub: AwsStub, capfd: pytest.CaptureFixture[str]) -> None:
        self._home = home
        self._capfd = capfd
        (home / "plain").write_text("plain")
        (home / "garbage").write_bytes(b"\xff\xfe\x00garbage\n")
        (home / "garbage").chmod(0o755)
        (home / "bin").mkdir()
        for name, body in HELPERS.items():
            program = home / "bin" / name
            program.write_text(f"#!/bin/sh\n{body}\n")
            program.chmod(stat.S_IRWXU)
        self._kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        self._environment = stub.environment(HOME=str(home), SM_SSH_NO_COLOR="1")

    def _file(self, name: str, content: bytes | str | None) -> str:
        path = self._home / name
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        if content == "folder":
            path.mkdir()
        elif content == "below":
            return str(self._home / "plain" / name)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        return str(path)

    def run(
        self,
        command: list[str],
        *,
        variables: dict[str, str | None],
        config: bytes | str | None = b"",
        credentials: bytes | str | None = b"",
        profile: str | None = None,
    ) -> str:
        """All that it says."""
        if profile is not None:
            assert isinstance(config, bytes), "a profile has its place in the file"
            # What it may lead to, and itself: one that cannot be parsed would hide the others.
            present = {"keys", "empty", "loop-a", "loop-b", profile}
            sections = (f"[profile {name}]\n{PROFILES[name]}\n" for name in sorted(present))
            config += "".join(sections).replace("{home}", str(self._home)).encode()
            variables = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, **variables}
            command = [*command[:1], "--profile", profile, *command[1:]]
        environment: dict[str, str | None] = {
            **self._kept,
            **self._environment,
            "AWS_CONFIG_FILE": self._file("config", config),
            "AWS_SHARED_CREDENTIALS_FILE": self._file("credentials", credentials),
            **variables,
        }
        before = dict(os.environ)
        os.environ.clear()
        for name, value in environment.items():
            if value is not None:
                os.environ[name] = value.replace("{home}", str(self._home))
        try:
            status = main(command)
        finally:
            os.environ.clear()
            os.environ.update(before)
        assert isinstance(status, int)
        captured = self._capfd.readouterr()
        return captured.err + captured.out


@pytest.fixture
def laptop(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Laptop]:
    resolve = socket.getaddrinfo

    def only_loopback(host: Any, *rest: Any, **options: Any) -> Any:
        if host in ("127.0.0.1", "localhost"):
            return resolve(host, *rest, **options)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", only_loopback)
    account = struct_passwd(("me", "x", os.getuid(), os.getgid(), "", str(tmp_path), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: account)
    monkeypatch.chdir(tmp_path)
    with aws_stub() as stub:
        for operation in ("ListTrainingJobs", "DescribeInstanceInformation"):
            stub.answers[operation] = {}
        yield Laptop(tmp_path, stub, capfd)


def judge(told: str) -> str:
    """What is wrong with it; empty when nothing is."""
    lines = [line for line in told.splitlines() if "error[" in line]
    if "error[internal]" in told or "Traceback" in told:
        return told
    if len(lines) > 1:
        return f"more than one line: {told}"
    leaked = [secret for secret in SECRETS if secret in told]
    return f"a secret: {told}" if leaked else ""


def singles() -> list[dict[str, Any]]:
    """Each odd thing alone."""
    no_keys: dict[str, str | None] = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
    cases: list[dict[str, Any]] = [
        {"variables": {**keys, name: value}}
        for name, values in VARIABLES.items()
        for value in values
        for keys in ({}, no_keys)
    ]
    cases += [{"config": content, "variables": no_keys} for content in FILES.values()]
    cases += [{"credentials": content, "variables": no_keys} for content in FILES.values()]
    cases += [{"profile": name, "variables": {}} for name in PROFILES]
    return cases


def pairs() -> list[dict[str, Any]]:
    """Three odd variables, a profile or two odd files; the same ones in each run."""
    chance = random.Random(26)
    cases = []
    for number in range(PAIRS):
        names = chance.sample(sorted(VARIABLES), 3)
        case: dict[str, Any] = {"variables": {name: chance.choice(VARIABLES[name]) for name in names}}
        if number % 2:
            case["profile"] = chance.choice(sorted(PROFILES))
        else:
            case["config"] = chance.choice(list(FILES.values()))
            case["credentials"] = chance.choice(list(FILES.values()))
        cases.append(case)
    return cases


@pytest.mark.parametrize("cases", [singles, pairs])
def test_no_environment_is_an_internal_error(
    laptop: Laptop, cases: Callable[[], list[dict[str, Any]]]
) -> None:
    wrong = []
    for number, case in enumerate(cases()):
        command = COMMANDS[number % len(COMMANDS)]
        complaint = judge(laptop.run(command, **case))
        if complaint:
            wrong.append(f"{command} {case}: {complaint}")
    assert wrong == []
