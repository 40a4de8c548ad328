"""Session documents of an account, and its session preferences."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from emulator.cloud_process import CloudProcess
from emulator.gateway_peers import Node, closed_output, input_data, open_client
from sagemaker_ssh_helper.names import AGENT_VERSION

PREFERENCES = "SSM-SessionManagerRunShell"
CONTENT = {
    "schemaVersion": "1.0",
    "description": "A shell",
    "sessionType": "Standard_Stream",
    "inputs": {"kmsKeyId": "alias/mine"},
    "parameters": {"who": {"type": "String", "default": "me"}},
}


@pytest.fixture
def ssm(ssm_cloud: CloudProcess) -> Any:
    return ssm_cloud.client("ssm", "admin")


@pytest.fixture
def made(ssm: Any) -> Iterator[str]:
    """The name of a document of the account."""
    ssm.create_document(Name="Mine", Content=json.dumps(CONTENT), DocumentType="Session")
    yield "Mine"
    ssm.delete_document(Name="Mine")


@pytest.fixture
def preferences(ssm: Any) -> Iterator[Any]:
    """Call it with inputs that the account's preferences are to have."""

    def prefer(**inputs: str) -> None:
        document = json.loads(ssm.get_document(Name=PREFERENCES)["Content"])
        document["inputs"].update(inputs)
        ssm.update_document(Name=PREFERENCES, Content=json.dumps(document), DocumentVersion="$LATEST")

    yield prefer
    ssm.delete_document(Name=PREFERENCES)


def code(call: Any, **params: Any) -> str:
    with pytest.raises(ClientError) as error:
        call(**params)
    return str(error.value.response["Error"]["Code"])


def test_a_document_is_made_and_read(ssm: Any, made: str) -> None:
    described = ssm.describe_document(Name=made)["Document"]

    assert (described["Owner"], described["DocumentVersion"]) == ("123456789012", "1")
    assert described["Description"] == "A shell"
    assert [parameter["DefaultValue"] for parameter in described["Parameters"]] == ["me"]
    assert json.loads(ssm.get_document(Name=made)["Content"]) == CONTENT


def test_an_update_takes_the_place_of_the_document(ssm: Any, made: str) -> None:
    updated = ssm.update_document(Name=made, Content=json.dumps({**CONTENT, "description": "New"}))

    assert updated["DocumentDescription"]["DocumentVersion"] == "2"
    assert json.loads(ssm.get_document(Name=made)["Content"])["description"] == "New"
    assert code(ssm.update_document, Name=made, Content=json.dumps(CONTENT), DocumentVersion="1") == (
        "InvalidDocumentVersion"
    )
    same = json.dumps({**CONTENT, "description": "New"})
    assert code(ssm.update_document, Name=made, Content=same) == "DuplicateDocumentContent"


def test_a_deleted_document_is_gone(ssm: Any) -> None:
    ssm.create_document(Name="Gone", Content=json.dumps(CONTENT), DocumentType="Session")
    ssm.delete_document(Name="Gone")
    assert code(ssm.get_document, Name="Gone") == "InvalidDocument"
    assert code(ssm.delete_document, Name="Gone") == "InvalidDocument"


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"Content": "no JSON at all"}, "InvalidDocumentContent"),
        ({"Content": "[]" + " " * 10}, "InvalidDocumentContent"),
        ({"Content": json.dumps({**CONTENT, "schemaVersion": "2.2"})}, "InvalidDocumentContent"),
        ({"Content": json.dumps({**CONTENT, "sessionType": "Dream"})}, "InvalidDocumentContent"),
        ({"Content": json.dumps({**CONTENT, "inputs": []})}, "InvalidDocumentContent"),
        ({"Content": json.dumps({**CONTENT, "parameters": {"a": {}}})}, "InvalidDocumentContent"),
        ({"DocumentType": "Command"}, "InvalidDocumentContent"),
        ({"DocumentFormat": "YAML"}, "InvalidDocumentContent"),
        ({"Name": "Amazon-Mine"}, "ValidationException"),
        ({"Name": "Mine"}, "DocumentAlreadyExists"),
        ({"Name": PREFERENCES}, "DocumentAlreadyExists"),
    ],
)
def test_documents_that_cannot_be_made(ssm: Any, made: str, params: dict[str, str], expected: str) -> None:
    whole = {"Name": "Other", "Content": json.dumps(CONTENT), "DocumentType": "Session", **params}
    assert code(ssm.create_document, **whole) == expected


def test_documents_of_amazon_are_left_alone(ssm: Any) -> None:
    name = "AWS-StartSSHSession"
    assert code(ssm.update_document, Name=name, Content=json.dumps(CONTENT)) == "InvalidDocumentOperation"
    assert code(ssm.delete_document, Name=name) == "InvalidDocumentOperation"


def test_making_documents_needs_the_right_to(ssm_cloud: CloudProcess, made: str) -> None:
    alice = ssm_cloud.client("ssm", "alice")
    content = json.dumps(CONTENT)
    assert code(alice.create_document, Name="Hers", Content=content) == "AccessDeniedException"
    assert code(alice.update_document, Name=made, Content=content) == "AccessDeniedException"
    assert code(alice.delete_document, Name=made) == "AccessDeniedException"


def offered(ssm_cloud: CloudProcess, **params: Any) -> dict[str, Any]:
    """The content of the document that an agent is offered."""
    node = Node(ssm_cloud)
    with node.open_control() as control:
        control.wait_connected()
        started = ssm_cloud.client("ssm", "admin").start_session(Target=node.id, **params)
        shell = control.receive_offer()
        ssm_cloud.client("ssm", "admin").terminate_session(SessionId=started["SessionId"])
    return dict(shell.document_content)


def test_a_session_is_offered_with_the_accounts_document(ssm_cloud: CloudProcess, made: str) -> None:
    assert offered(ssm_cloud, DocumentName=made) == CONTENT


def test_preferences_hold_for_shells_and_commands(ssm_cloud: CloudProcess, preferences: Any) -> None:
    preferences(kmsKeyId="alias/mine", runAsEnabled="true")

    shell = offered(ssm_cloud)
    command = offered(ssm_cloud, DocumentName="AWS-StartInteractiveCommand", Parameters={"command": ["ls"]})
    assert (shell["inputs"]["kmsKeyId"], shell["inputs"]["runAsEnabled"]) == ("alias/mine", "true")
    assert command["inputs"] == shell["inputs"]
    assert "inputs" not in offered(ssm_cloud, DocumentName="AWS-StartSSHSession")


def test_deleted_preferences_are_those_of_a_new_account(ssm: Any, ssm_cloud: CloudProcess) -> None:
    before = ssm.get_document(Name=PREFERENCES)["Content"]
    document = json.loads(before)
    document["inputs"]["kmsKeyId"] = "alias/mine"
    ssm.update_document(Name=PREFERENCES, Content=json.dumps(document))
    ssm.delete_document(Name=PREFERENCES)
    assert ssm.get_document(Name=PREFERENCES)["Content"] == before


# -- how long a session may last --------------------------------------------------------------------


@pytest.fixture
def quick(ssm_cloud: CloudProcess) -> Iterator[CloudProcess]:
    """A cloud whose minutes are short."""
    ssm_cloud.faults(kind="session-timing", minute=0.05)
    yield ssm_cloud
    ssm_cloud.clear_faults()


def ended(ssm: Any, grant: dict[str, str]) -> tuple[str, Any]:
    """How a session ended, and how long it might have lasted."""
    filters = [{"key": "SessionId", "value": grant["SessionId"]}]
    until = time.monotonic() + 10
    while not (found := ssm.describe_sessions(State="History", Filters=filters)["Sessions"]):
        assert time.monotonic() < until, "the session has not ended"
    (session,) = found
    return session["Status"], session.get("MaxSessionDuration")


def end_of_idle(cloud: CloudProcess, document: str) -> tuple[str, tuple[str, Any]]:
    """What the client of a session where nobody says a word reads at its end, and how that ended."""
    node, ssm = Node(cloud, version=AGENT_VERSION), cloud.client("ssm", "admin")
    with node.open_control() as control:
        grant = ssm.start_session(Target=node.id, DocumentName=document)
        control.receive_offer()
        with open_client(grant) as client:
            told = closed_output(client.receive())
            control.complete(grant["SessionId"])
        return told, ended(ssm, grant)


def test_an_idle_session_is_ended(quick: CloudProcess, preferences: Any) -> None:
    preferences(idleSessionTimeout="1")
    assert end_of_idle(quick, "AWS-StartSSHSession") == (
        "The session was idle for a minute.",
        ("Terminated", None),
    )


def test_a_session_that_is_used_is_not_idle(quick: CloudProcess, preferences: Any) -> None:
    preferences(idleSessionTimeout="40", maxSessionDuration="50")
    node, ssm = Node(quick, version=AGENT_VERSION), quick.client("ssm", "admin")
    with node.open_control() as control:
        grant = ssm.start_session(Target=node.id, DocumentName="AWS-StartSSHSession")
        control.receive_offer()
        with node.open_data(grant["SessionId"]) as agent, open_client(grant) as client:
            number, is_over = 0, False
            while not is_over:
                client.send(input_data(b"x", number))
                is_over = agent.receive_message().message_type == "channel_closed"
                number += 1
                # Somebody types.
                time.sleep(0.02)
            told = closed_output(client.receive())
            agent.close()
            control.complete(grant["SessionId"])
        assert told == "The session has lasted as long as it may: 50 minutes."
        assert ended(ssm, grant) == ("Terminated", "50")


def test_a_documents_own_limits_come_first(quick: CloudProcess, ssm: Any, preferences: Any) -> None:
    preferences(idleSessionTimeout="60")
    inputs = {"idleSessionTimeout": "2"}
    content = {"schemaVersion": "1.0", "sessionType": "Standard_Stream", "inputs": inputs}
    ssm.create_document(Name="Brief", Content=json.dumps(content), DocumentType="Session")
    told, _ = end_of_idle(quick, "Brief")
    ssm.delete_document(Name="Brief")
    assert told == "The session was idle for 2 minutes."


@pytest.mark.parametrize(
    "inputs",
    [
        {"idleSessionTimeout": "0"},
        {"idleSessionTimeout": "61"},
        {"maxSessionDuration": "1441"},
        {"idleSessionTimeout": "²"},
    ],
)
def test_limits_that_are_none_are_refused(ssm: Any, inputs: dict[str, str]) -> None:
    content = {"schemaVersion": "1.0", "sessionType": "Standard_Stream", "inputs": inputs}
    assert code(ssm.create_document, Name="Bad", Content=json.dumps(content)) == "InvalidDocumentContent"
