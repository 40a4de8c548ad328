"""Sessions that the account wants encrypted with a KMS key: real programs on both sides, and real AES-GCM."""

import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest

from e2e.laptop import Job, Laptop, running
from e2e.test_terminal_sessions import Screen
from hidden_modules import hide
from local_cloud import LocalCloud

PREFERENCES = "SSM-SessionManagerRunShell"
SHELL = "Encrypted-Shell"
NOTICE = b"This session is encrypted with an AWS KMS key."
ALIAS = "alias/sessions"


def shell_document(key_id: str, session_type: str = "Standard_Stream") -> Dict[str, Any]:
    return {"schemaVersion": "1.0", "sessionType": session_type, "inputs": {"kmsKeyId": key_id}}


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def admin(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("admin")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice) as job:
        yield job


@pytest.fixture(scope="module")
def key(admin: Laptop) -> Iterator[Dict[str, str]]:
    """A KMS key that alice may use for her sessions, and documents that want it."""
    kms, iam, ssm = admin.client("kms"), admin.client("iam"), admin.client("ssm")
    made: Dict[str, str] = kms.create_key()["KeyMetadata"]
    kms.create_alias(AliasName=ALIAS, TargetKeyId=made["KeyId"])
    role = admin.info["role_arn"].rpartition("/")[2]
    iam.put_user_policy(
        UserName="alice",
        PolicyName="encrypted-sessions",
        PolicyDocument=policy(
            allow("kms:GenerateDataKey", made["Arn"]),
            allow("ssm:StartSession", "arn:aws:ssm:*:*:document/*"),
        ),
    )
    iam.put_role_policy(
        RoleName=role,
        PolicyName="encrypted-sessions",
        PolicyDocument=policy(allow("kms:Decrypt", made["Arn"])),
    )
    ssm.create_document(Name=SHELL, Content=json.dumps(shell_document(made["Arn"])), DocumentType="Session")
    yield made
    ssm.delete_document(Name=SHELL)
    iam.delete_user_policy(UserName="alice", PolicyName="encrypted-sessions")
    iam.delete_role_policy(RoleName=role, PolicyName="encrypted-sessions")


def allow(action: str, resource: str) -> Dict[str, str]:
    return {"Effect": "Allow", "Action": action, "Resource": resource}


def policy(*statements: Dict[str, str]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


@contextmanager
def preferences(admin: Laptop, key_id: str) -> Iterator[None]:
    """The account wants its sessions encrypted."""
    ssm = admin.client("ssm")
    document = json.loads(ssm.get_document(Name=PREFERENCES)["Content"])
    document["inputs"]["kmsKeyId"] = key_id
    ssm.update_document(Name=PREFERENCES, Content=json.dumps(document), DocumentVersion="$LATEST")
    try:
        yield
    finally:
        ssm.delete_document(Name=PREFERENCES)


def only_line(stderr: bytes) -> str:
    (line,) = stderr.decode().splitlines()
    return line


def test_a_shell_on_the_terminal(e2e_cloud: LocalCloud, alice: Laptop, job: Job, key: Dict[str, str]) -> None:
    generated, decrypted = e2e_cloud.count("kms:GenerateDataKey", "alice"), e2e_cloud.count("kms:Decrypt")
    with Screen(alice, job.host, "--document", SHELL) as screen:
        screen.wait_for(re.escape(NOTICE))
        screen.wait_for(rb"[$#] ")
        screen.type(b"echo job=$TRAINING_JOB_NAME; stty size\r")
        screen.wait_for(rb"\njob=%s\r\n30 100\r\n" % job.name.encode())
        screen.type(b"exit\r")
        assert screen.wait_end() == 0
        assert screen.is_as_before
    assert e2e_cloud.count("kms:GenerateDataKey", "alice") == generated + 1
    assert e2e_cloud.count("kms:Decrypt") == decrypted + 1


def test_it_goes_on_after_a_lost_link(e2e_cloud: LocalCloud, alice: Laptop, job: Job, key: Any) -> None:
    with Screen(alice, job.host, "--document", SHELL) as screen:
        screen.wait_for(rb"[$#] ")
        for side in ("client", "agent", "both"):
            e2e_cloud.faults(kind="cut", side=side)
            screen.type(b"echo after-%s-$((6*7))\r" % side.encode())
            screen.wait_for(rb"\nafter-%s-42\r\n" % side.encode())
        screen.type(b"exit\r")
        assert screen.wait_end() == 0
    e2e_cloud.clear_faults()


@pytest.mark.parametrize("name", ["KeyId", "Arn", "alias", "alias ARN"])
def test_the_accounts_preferences_hold_for_commands(
    admin: Laptop, alice: Laptop, job: Job, key: Dict[str, str], name: str
) -> None:
    key_id = {"alias": ALIAS, "alias ARN": key["Arn"].rpartition(":")[0] + f":{ALIAS}"}.get(name) or key[name]
    command = ("--document", "AWS-StartNonInteractiveCommand", "--parameter", "separateOutputStream=True")
    with preferences(admin, key_id):
        done = alice.sm_ssh(
            "session", job.host, *command, "--parameter", "command=sh -c 'echo out; echo err >&2; exit 7'"
        )
    assert (done.returncode, done.stdout) == (7, b"out\n")
    assert done.stderr == NOTICE + b"\nerr\n"


def test_a_large_output_arrives_whole(admin: Laptop, alice: Laptop, job: Job, key: Dict[str, str]) -> None:
    command = ("--document", "AWS-StartNonInteractiveCommand", "--parameter", "separateOutputStream=True")
    with preferences(admin, key["Arn"]):
        done = alice.sm_ssh("session", job.host, *command, "--parameter", "command=seq 200000")
    assert done.returncode == 0
    assert done.stdout == b"".join(b"%d\n" % number for number in range(1, 200001))


def test_ssh_is_not_encrypted_twice(
    e2e_cloud: LocalCloud, admin: Laptop, alice: Laptop, job: Job, key: Dict[str, str]
) -> None:
    """There are no encrypted port sessions, and ssh needs none; it has to work all the same."""
    ssm = admin.client("ssm")
    port = {
        **shell_document(key["Arn"], "Port"),
        "parameters": {"portNumber": {"type": "String", "default": "22"}},
        "properties": {"portNumber": "{{ portNumber }}"},
    }
    generated = e2e_cloud.count("kms:GenerateDataKey")
    with preferences(admin, key["Arn"]):
        done = alice.ssh(job.host, "printenv TRAINING_JOB_NAME")
    assert (done.returncode, done.stdout) == (0, job.name.encode() + b"\n"), done.stderr

    ssm.create_document(Name="Encrypted-Port", Content=json.dumps(port), DocumentType="Session")
    process = alice.sm_ssh("session", job.host, "--document", "Encrypted-Port", stdin=b"no ssh client\r\n")
    ssm.delete_document(Name="Encrypted-Port")
    assert process.stdout.startswith(b"SSH-2.0-"), process.stderr
    assert e2e_cloud.count("kms:GenerateDataKey") == generated


def test_a_user_without_the_key_is_told(alice: Laptop, admin: Laptop, job: Job, key: Dict[str, str]) -> None:
    other = admin.client("kms").create_key()["KeyMetadata"]["Arn"]
    with preferences(admin, other):
        done = alice.sm_ssh("session", job.host)
    assert (done.returncode, done.stdout) == (255, b"")
    line = only_line(done.stderr)
    assert line.startswith(
        "sm-ssh: error[access-denied]: the session is to be encrypted, and AWS does not let you call "
        "kms:GenerateDataKey (AWS says: User: "
    )
    assert line.endswith(f"Ask an administrator to allow kms:GenerateDataKey with the key {other}")


def test_a_container_without_the_key_is_told(
    alice: Laptop, admin: Laptop, job: Job, key: Dict[str, str]
) -> None:
    iam, other = admin.client("iam"), admin.client("kms").create_key()["KeyMetadata"]["Arn"]
    iam.put_user_policy(
        UserName="alice", PolicyName="other-key", PolicyDocument=policy(allow("kms:GenerateDataKey", other))
    )
    with preferences(admin, other):
        done = alice.sm_ssh("session", job.host)
    iam.delete_user_policy(UserName="alice", PolicyName="other-key")
    assert (done.returncode, done.stdout) == (255, b"")
    line = only_line(done.stderr)
    assert (
        "the container cannot decrypt the session's data key (Decrypt failed (AccessDeniedException: " in line
    )
    assert "Let the role of its managed instance call kms:Decrypt" in line


def test_a_key_that_is_not_there_is_told(alice: Laptop, admin: Laptop, job: Job, key: Any) -> None:
    with preferences(admin, "alias/no-such-key"):
        done = alice.sm_ssh("session", job.host)
    assert (done.returncode, done.stdout) == (255, b"")
    assert "kms:GenerateDataKey" in only_line(done.stderr)


def test_a_laptop_without_cryptography_is_told(alice: Laptop, job: Job, key: Any, tmp_path: Path) -> None:
    done = alice.sm_ssh("session", job.host, "--document", SHELL, env=hide(tmp_path, "cryptography"))
    assert (done.returncode, done.stdout) == (255, b"")
    line = only_line(done.stderr)
    assert line.startswith("sm-ssh: error[local-setup]: ")
    assert line.endswith("Install it: pip install cryptography")
