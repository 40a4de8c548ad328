import re
from typing import Any

import pytest

from sagemaker_ssh_helper import names
from sagemaker_ssh_helper.emulator.documents import DOCUMENTS, Documents
from sagemaker_ssh_helper.emulator.service import ApiError


def test_documents_that_we_name_in_calls_exist() -> None:
    assert DOCUMENTS[names.Document.START_SSH_SESSION].kind == "Session"
    assert DOCUMENTS[names.Document.RUN_SHELL_SCRIPT].kind == "Command"


@pytest.mark.parametrize("name", list(DOCUMENTS))
def test_every_placeholder_is_a_parameter(name: str) -> None:
    document = DOCUMENTS[name]
    placeholders = set(re.findall(r"\{\{ (\w+) \}\}", document.text))
    assert placeholders == set(document.parameters)


def test_document_is_found_by_name_and_by_arn() -> None:
    document = Documents().find("AWS-StartSSHSession")
    assert Documents().find("arn:aws:ssm:us-east-1::document/AWS-StartSSHSession") is document
    assert document.arn("us-east-1", "123456789012") == (
        "arn:aws:ssm:us-east-1::document/AWS-StartSSHSession"
    )
    shell = Documents().find("SSM-SessionManagerRunShell")
    assert shell.arn("us-east-1", "123456789012").endswith(
        ":123456789012:document/SSM-SessionManagerRunShell"
    )


@pytest.mark.parametrize("port", ["1", "22", "80", "2222", "10022", "65535"])
def test_ports_are_accepted(port: str) -> None:
    assert Documents().find("AWS-StartSSHSession").arguments({"portNumber": [port]}) == {"portNumber": port}


@pytest.mark.parametrize("port", ["0", "65536", "99999", "-1", "22 ", "", "ssh", "022"])
def test_what_is_no_port_is_refused(port: str) -> None:
    with pytest.raises(ApiError, match="InvalidParameters"):
        Documents().find("AWS-StartSSHSession").arguments({"portNumber": [port]})


@pytest.mark.parametrize(
    ("document", "values"),
    [
        ("AWS-StartNonInteractiveCommand", {"separateOutputStream": ["maybe"]}),
        ("AWS-StartNonInteractiveCommand", {"stdOutSeparatorPrefix": ["x" * 31]}),
        ("AWS-StartPortForwardingSessionToRemoteHost", {"host": ["two words"]}),
        ("AWS-StartPortForwardingSessionToRemoteHost", {}),
        ("AWS-RunShellScript", {}),
        ("AWS-RunShellScript", {"commands": []}),
        ("AWS-RunShellScript", {"commands": ["x"], "workingDirectory": ["d" * 4097]}),
    ],
)
def test_values_that_break_the_rules_are_refused(document: str, values: Any) -> None:
    with pytest.raises(ApiError, match="InvalidParameters"):
        Documents().find(document).arguments(values)
