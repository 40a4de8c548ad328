"""Sessions that the document wants encrypted: an agent, a toy cipher, and a service that plays KMS, too."""

import base64
import sys
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from agent.agent_thread import AgentThread
from agent.fake_service import DATA_KEY, MI, SSH_DOCUMENT, FakeService
from agent.test_program_session import APART, SHELL, outcome
from protocol.aead import ToyAead
from sagemaker_ssh_helper.channels import aes_gcm
from sagemaker_ssh_helper.protocol.message import PayloadType

pytestmark = pytest.mark.container

KEY_ID = "alias/sessions"
INPUTS = {**SHELL["inputs"], "kmsKeyId": KEY_ID}
ENCRYPTED: Dict[str, Any] = {**SHELL, "inputs": INPUTS}


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        running.answers["Decrypt"] = [(200, {"Plaintext": base64.b64encode(DATA_KEY.plain).decode()})]
        yield running


@pytest.fixture
def agent(service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AgentThread]:
    monkeypatch.setattr(aes_gcm, "load", lambda: ToyAead)
    with AgentThread(service, tmp_path / "state") as running:
        yield running


def test_a_shell_is_encrypted(service: FakeService, agent: AgentThread) -> None:
    client = service.offer_session(document=ENCRYPTED).wait_ready()
    client.send(b"echo $((6 * 7)) in secret\r")
    client.wait_until(b"42 in secret\r\n")
    client.send(b"exit\r")

    assert outcome(service.result(client)) == ("Success", "")
    assert client.ready is not None
    assert client.ready.customer_message == "This session is encrypted with an AWS KMS key."
    assert client.wire
    assert b"in secret" not in client.wire


def test_kms_is_asked_with_the_context_that_the_client_used(service: FakeService, agent: AgentThread) -> None:
    client = service.offer_session(document=ENCRYPTED).wait_ready()
    ((body, headers),) = [call[1:] for call in service.calls if call[0] == "Decrypt"]

    assert client.asked is not None
    assert client.asked.key_id == KEY_ID
    assert body == {
        "CiphertextBlob": base64.b64encode(DATA_KEY.cipher_text).decode(),
        "EncryptionContext": dict(client.asked.encryption_context),
        "KeyId": KEY_ID,
    }
    assert set(body["EncryptionContext"]) == {
        "aws:ssm:SessionId",
        "aws:ssm:TargetId",
        "aws:ssm:RandomChallenge",
    }
    assert (body["EncryptionContext"]["aws:ssm:TargetId"], headers["x-amz-target"]) == (
        MI,
        "TrentService.Decrypt",
    )
    assert "/kms/aws4_request" in headers["authorization"]


def test_outputs_and_exit_code_of_a_command_are_encrypted(service: FakeService, agent: AgentThread) -> None:
    document = {**APART, "inputs": INPUTS}
    command = "sh -c 'echo out in secret; echo err in secret >&2; exit 7'"
    client = service.offer_session(document=document, parameters={"command": command})

    assert outcome(service.result(client)) == ("Success", "")
    assert client.by_type == {
        PayloadType.OUTPUT: b"out in secret\n",
        PayloadType.STDERR: b"err in secret\n",
        PayloadType.EXIT_CODE: b"EXIT_CODE: 7",
    }
    assert b"in secret" not in client.wire
    assert b"EXIT_CODE" not in client.wire


def test_a_port_session_is_not_encrypted_by_a_document_that_names_a_key(
    service: FakeService, agent: AgentThread
) -> None:
    """Official agents encrypt none either; ssh does that itself."""
    client = service.offer_session(1, document={**SSH_DOCUMENT, "inputs": INPUTS})
    status, output = outcome(service.result(client))

    assert status == "Failed"
    assert output.startswith("Unable to connect to specified port")
    assert client.asked is None


def test_a_lost_connection_does_not_end_an_encrypted_shell(service: FakeService, agent: AgentThread) -> None:
    client = service.offer_session(document=ENCRYPTED).wait_ready()
    client.send(b"echo $((6 * 7))\r")
    client.wait_until(b"42\r\n")
    client.cut()
    client.send(b"echo $((6 * 8))\r")
    client.wait_until(b"48\r\n")

    assert client.opened == 2
    assert service.operations().count("Decrypt") == 1


def test_a_role_that_may_not_decrypt_is_told(service: FakeService, agent: AgentThread) -> None:
    said = "User: arn:aws:sts::1:assumed-role/r/mi-1 is not authorized to perform: kms:Decrypt"
    service.answers["Decrypt"] = [(400, {"__type": "AccessDeniedException", "message": said})]
    client = service.offer_session(document=ENCRYPTED)

    status, output = outcome(service.result(client))
    assert status == "Failed"
    assert output == (
        "the container cannot decrypt the session's data key "
        f"(Decrypt failed (AccessDeniedException: {said})). "
        "Let the role of its managed instance call kms:Decrypt with the key of the session document"
    )
    assert client.ready is None


@pytest.mark.parametrize("plain", ["", "no base64!", base64.b64encode(b"short").decode()])
def test_a_data_key_that_is_none_ends_the_session(
    service: FakeService, agent: AgentThread, plain: str
) -> None:
    service.answers["Decrypt"] = [(200, {"Plaintext": plain})]
    client = service.offer_session(document=ENCRYPTED)

    assert outcome(service.result(client))[0] == "Failed"
    assert client.ready is None


def test_without_cryptography_the_session_is_refused_by_name(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"] or [
        "cryptography"
    ]:
        monkeypatch.setitem(sys.modules, name, None)
    with AgentThread(service, tmp_path / "state"):
        client = service.offer_session(document=ENCRYPTED)
        status, output = outcome(service.result(client))

    assert status == "Failed"
    assert output.startswith("the session document wants the session encrypted (kmsKeyId), and the container")
    assert output.endswith("Install it: pip install cryptography")
    assert "\n" not in output
    # The client has not asked KMS for a key either.
    assert not any("data-channel" in name for name in service.operations())
