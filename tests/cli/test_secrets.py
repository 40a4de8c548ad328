"""No secret of the environment in what a command says or logs, whatever answers, and whatever goes wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from echoing_server import FORMS, echoing
from sagemaker_ssh_helper.aws import permissions
from sagemaker_ssh_helper.aws.json_rpc import Caller
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.cli.main import main
from sagemaker_ssh_helper.client.s3_delivery import put_key
from sagemaker_ssh_helper.errors import SSHHelperError, trace_of

CANARY = "CanaryOfTheTest"
KEYS = {
    "plain": (f"{CANARY}Secret/key+1", f"{CANARY}Token/with+signs=="),
    "no-token": (f"{CANARY}Secret", ""),
    "line-end-in-token": (f"{CANARY}Secret", f"{CANARY}\nToken"),
    "line-end-after-token": (f"{CANARY}Secret", f"{CANARY}Token\r\n"),
    "line-end-in-secret": (f"{CANARY}\r\nX-Other: {CANARY}", f"{CANARY}Token"),
    "other-letters": (f"{CANARY}Secret", f"{CANARY}é\u2028Token"),
}
ENDPOINTS = {
    "userinfo": "http://me:{canary}@{host}",
    "name-only": "http://{canary}@{host}",
    "signs": "http://me:{canary}@{canary}@{host}",
    "line-end": "http://me:{canary}\n@{host}",
    "nobody": "http://me:{canary}@127.0.0.1:9",
    "no-name": "http://me:{canary}@ssm.invalid",
    "no-port": "http://me:{canary}@127.0.0.1:port",
    "bracket": "http://me:{canary}@[::1",
    "scheme": "ftp://me:{canary}@{host}",
    "query": "http://{host}/?token=x&me:{canary}@",
    "token": "http://{host}/?token={canary}",
    "fragment": "http://{host}/#{canary}",
}
PROXIES = {
    "userinfo": "http://me:{canary}@{host}",
    "nobody": "http://me:{canary}@127.0.0.1:9",
    "no-url": "http://me:{canary}@[::1",
    "socks": "socks5h://me:{canary}@{host}",
    "line-end": "http://me:{canary}%0d%0aX:%20{canary}@{host}",
    "no-scheme": "me:{canary}@{host}",
    "other-letters": "http://me:{canary}%C3%A9@{host}",
}
COMMANDS = (
    ["list"],
    ["start-proxy", "--no-wait", "job.training.sagemaker"],
    ["doctor", "job.training.sagemaker"],
)


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name not in ("PATH", "LANG") and not name.startswith("PYTEST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sagemaker_ssh_helper.aws.json_rpc._FIRST_DELAY", 0.0)
    for name, value in {
        "AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "SM_SSH_DEBUG": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


def assert_quiet(home: Path, capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
    status = main(words)
    said = "".join(capfd.readouterr())
    logs = [path for path in home.rglob("*.log") if path.is_file()]
    assert logs, "debugging was on"
    told = said + "".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)
    assert CANARY not in told
    assert "error[internal]" not in said
    assert status != 0 or words[0] == "doctor", said


def set_keys(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    secret, token = KEYS[keys]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("form", FORMS)
def test_keys(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, keys: str, form: str
) -> None:
    set_keys(monkeypatch, keys)
    with echoing(form) as (host, port):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for words in COMMANDS:
            assert_quiet(tmp_path, capfd, words)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS"])
@pytest.mark.parametrize("form", ["json", "page", "status-line", "close"])
def test_an_endpoint_with_a_password(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str,
    variable: str,
    form: str,
) -> None:
    set_keys(monkeypatch, "plain")
    with echoing(form) as (host, port):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv(variable, ENDPOINTS[endpoint].format(canary=CANARY, host=f"{host}:{port}"))
        for words in COMMANDS:
            assert_quiet(tmp_path, capfd, words)


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_with_a_password(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    proxy: str,
    form: str,
    scheme: str,
) -> None:
    set_keys(monkeypatch, "plain")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{scheme}://ssm.invalid")
    with echoing(form) as (host, port):
        monkeypatch.setenv("ALL_PROXY", PROXIES[proxy].format(canary=CANARY, host=f"{host}:{port}"))
        for words in COMMANDS[:2]:
            assert_quiet(tmp_path, capfd, words)


@pytest.mark.parametrize("form", FORMS)
def test_calls_that_botocore_makes(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    set_keys(monkeypatch, "plain")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    caller = Caller("111122223333", "arn:aws:iam::111122223333:user/jane", "AIDA")
    with echoing(form) as (host, port):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:{CANARY}@{host}:{port}")
        calls = [lambda: permissions.missing(Session.open(), caller)]
        if form not in ("good", "redirect"):
            # S3 says nothing when it has taken an object. Led away, botocore leaves a socket open.
            calls.append(lambda: [put_key(Session.open(), "s3://the-bucket/keys", "ssh-ed25519 AAAA")])
        for call in calls:
            with pytest.raises(SSHHelperError) as failure:
                call()
            assert CANARY not in f"{failure.value} {trace_of(failure.value)}"
