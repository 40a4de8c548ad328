"""No secret of a container in what its agent says or logs, whatever answers it."""

import asyncio
import gc
import json
import logging

import pytest

from agent.http_server import Reply, ScriptedServer
from echoing_server import FORMS, echoing
from sagemaker_ssh_helper import plain_logs
from sagemaker_ssh_helper.agent.aws_api import AwsApi, Retry
from sagemaker_ssh_helper.agent.credentials import ContainerCredentials
from sagemaker_ssh_helper.agent.sigv4 import Credentials
from sagemaker_ssh_helper.agent.transport import Transport
from sagemaker_ssh_helper.channels import connect_websocket
from sagemaker_ssh_helper.errors import SSHHelperError, reason_of, trace_of
from sagemaker_ssh_helper.plain_logs import PlainFormatter

pytestmark = pytest.mark.container

CANARY = "CanaryOfTheTest"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}
ODD = tuple(CANARY + odd for odd in ("\n", f"\r\nX: {CANARY}", "\u00e9", "\0", "\u2028", " "))


@pytest.fixture
def quiet(caplog):
    """Calls, and looks at the error and all that was logged."""
    caplog.set_level(logging.DEBUG)

    def quiet(call, *arguments):
        caplog.clear()
        told = ""
        try:
            call(*arguments)
        except SSHHelperError as error:
            told = "\n".join([str(error), reason_of(error), trace_of(error)])
            told += "\n".join(map(str, (error.what, error.evidence, error.fix)))
        told += "\n".join(PlainFormatter().format(record) for record in caplog.records)
        assert CANARY not in told
        return told

    return quiet


def calls_of(environ, credentials):
    api = AwsApi(
        "eu-west-1", lambda: credentials, environ=environ, retry=Retry(attempts=1), sleep=lambda _: None
    )
    return [
        api.caller_identity,
        lambda: api.create_activation("role", "name", {}),
        lambda: api.create_control_channel("mi-0123456789abcdef0"),
        lambda: asyncio.run(_upgrade(api)),
    ]


async def _upgrade(api):
    upgrade = api.control_channel_upgrade("mi-0123456789abcdef0")
    await connect_websocket(upgrade.url, headers=upgrade.headers, timeout=5.0)


@pytest.mark.parametrize("form", FORMS)
def test_calls_and_upgrades_that_are_answered_with_what_they_sent(form, quiet):
    keys = Credentials("AKIAEXAMPLE", f"{CANARY}Secret", f"{CANARY}Token/with+signs==")
    with echoing(form) as (host, port):
        for user in ("", f"me:{CANARY}@"):
            for call in calls_of({"AWS_ENDPOINT_URL": f"http://{user}{host}:{port}"}, keys):
                quiet(call)


@pytest.mark.parametrize("url", ["http://me:{}@[::1", "http://me:{}@127.0.0.1:9", "http://me:{}@h:x", "x://me:{}@h"])
def test_endpoints_that_lead_nowhere(url, quiet):
    def make_all():
        for call in calls_of({"AWS_ENDPOINT_URL": url.format(CANARY)}, Credentials("A", "s", f"{CANARY}T")):
            assert quiet(call)
        raise SSHHelperError("all of them said something")

    assert quiet(make_all)


@pytest.mark.parametrize("form", FORMS)
def test_proxies_with_a_password(form, quiet):
    with echoing(form) as (host, port):
        for scheme in ("http", "https"):
            environ = {"all_proxy": f"http://me:{CANARY}@{host}:{port}"}
            quiet(Transport(environ).request, "GET", f"{scheme}://aws.invalid/", {})


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_keys_that_no_header_can_hold_are_named_by_their_variable(name, value, quiet):
    told = quiet(ContainerCredentials({**KEYS, name: value}).get)
    assert f"{name} cannot be sent to AWS" in told


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("name", ["AccessKeyId", "SecretAccessKey", "Token"])
def test_keys_of_an_answer_that_no_header_can_hold_are_named(name, value, quiet):
    answer = {"AccessKeyId": "A", "SecretAccessKey": "s", "Token": "t", name: value}
    with ScriptedServer(Reply(200, json.dumps(answer).encode())) as server:
        environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.url}/creds"}
        told = quiet(ContainerCredentials(environ, sleep=lambda _: None).get)
    assert f"{name} cannot be sent to AWS" in told


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("token", [f"{CANARY}Token", *(odd for odd in ODD if odd.strip() == odd)])
def test_the_token_of_the_credentials_endpoint(form, token, quiet):
    with echoing(form) as (host, port):
        for user in ("", f"me:{CANARY}@"):
            environ = {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{user}{host}:{port}/creds",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN": token,
            }
            assert quiet(ContainerCredentials(environ, sleep=lambda _: None).get)


def test_an_error_of_another_library_is_told_by_its_type_alone():
    try:
        try:
            raise ValueError(f"Invalid header value b'{CANARY}'")
        except ValueError as error:
            raise RuntimeError(CANARY) from error
    except RuntimeError as error:
        told = trace_of(error)
    assert CANARY not in told
    assert "\nValueError\nwhich led to:\n" in told
    assert told.endswith("\nRuntimeError")
    assert "test_secrets.py" in told
    assert reason_of(OSError(2, CANARY)) == "No such file or directory"
    assert reason_of(OSError(CANARY)) == "OSError"


def test_what_nobody_catches_in_an_event_loop_is_logged_without_its_text(quiet, caplog):
    async def fail():
        raise ValueError(CANARY)

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda text: 1 / 0, CANARY)
        # Nobody asks what came of it.
        task = loop.create_task(fail())
        await asyncio.wait([task])
        del task
        gc.collect()

    told = quiet(plain_logs.run, main())
    assert CANARY not in caplog.text
    assert "ZeroDivisionError" in told
    assert "Task exception was never retrieved" in told
    assert told.rstrip().endswith("ValueError")
