"""The policies: what the docs show is what the code grants, and what it grants is no more than meant."""

import json
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping

import pytest

from sagemaker_ssh_helper import iam_policies
from sagemaker_ssh_helper.emulator import policies, users
from sagemaker_ssh_helper.emulator.policies import Verdict

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "prepare-an-account.md"
SHOWN = re.compile(r"(<!-- policy: (\w+) -->\n```json\n)(.*?)(```)", re.DOTALL)
ROLE = "arn:aws:iam::ACCOUNT:role/ROLE"
POLICIES: Dict[str, List[iam_policies.Statement]] = {
    "trust": [iam_policies.trust()],
    "containers": iam_policies.of_containers(ROLE),
    "leaving": iam_policies.of_leaving_containers(),
    "owners": iam_policies.of_owners(),
    "guard": iam_policies.guard(),
    "debuggers": iam_policies.of_debuggers(),
}
SESSION = "arn:aws:ssm:us-east-1:123456789012:session/"
TAG = "ssm:resourceTag/aws:ssmmessages:session-id"
END = "0a1b2c3d4e5f6g7h8i9j0k1l2m"


def shown(statements: List[iam_policies.Statement]) -> str:
    """A policy as the docs show it: a statement's members each on a line of its own."""
    text = json.dumps(iam_policies.document(*statements), indent=2)
    return re.sub(r"\[\s+\"[^\[\]{}]{1,90}\s+\]", lambda match: " ".join(match[0].split()), text)


def test_the_docs_show_the_policies_of_the_code() -> None:
    text = PAGE.read_text("utf-8")
    fresh = SHOWN.sub(lambda match: f"{match[1]}{shown(POLICIES[match[2]])}\n{match[4]}", text)
    assert {match[2] for match in SHOWN.finditer(text)} == set(POLICIES)
    if os.environ.get("SM_SSH_WRITE_DOCS"):
        PAGE.write_text(fresh, "utf-8")
    assert text == fresh, "SM_SSH_WRITE_DOCS=1 pytest tests/test_policies.py writes them anew"


def test_the_users_of_the_local_cloud_have_them() -> None:
    theirs = users.user_policy("123456789012")["Statement"]
    for statement in [*iam_policies.of_owners(), *iam_policies.of_debuggers()]:
        assert statement in theirs
    role = "arn:aws:iam::123456789012:role/SageMakerRole"
    jobs = users.role_policy("123456789012")["Statement"]
    for statement in iam_policies.of_containers(role):
        assert statement in jobs


@pytest.mark.parametrize("name", POLICIES)
def test_a_managed_policy_has_room_for_each(name: str) -> None:
    document = json.dumps(iam_policies.document(*POLICIES[name]), separators=(",", ":"))
    assert len(document) < 6144


def may(action: str, resource: str, **context: Any) -> bool:
    """What an owner's policy says."""
    document = iam_policies.document(*iam_policies.of_owners())
    known = {key.replace("__", ":"): value for key, value in context.items()}
    return policies.evaluate([document], action, resource, known) is Verdict.ALLOWED


USER = {"aws:userid": "AIDAEXAMPLE", "aws:username": "ann"}
ROLE_SESSION = {"aws:userid": "AROAEXAMPLE:ann@example.com"}


@pytest.mark.parametrize(
    "action", ["ssm:ResumeSession", "ssm:TerminateSession", "ssmmessages:OpenDataChannel"]
)
@pytest.mark.parametrize(
    ("who", "session", "tag", "is_own"),
    [
        (USER, f"ann-{END}", None, True),
        (USER, f"ann-{END}", "AIDAEXAMPLE", True),
        (USER, f"AIDAEXAMPLE-{END}", None, True),
        (USER, f"ann-{END}", "AROAEXAMPLE:ann", False),
        (USER, f"ann-2-{END}", None, False),
        (USER, f"ann-2-{END}", "AIDAOTHER", False),
        (USER, f"annette-{END}", None, False),
        (USER, f"AIDAEXAMPLEX-{END}", None, False),
        (USER, f"bob-{END}", "AIDAEXAMPLE2", False),
        (ROLE_SESSION, f"ann@example.com-{END}", "AROAEXAMPLE:ann@example.com", True),
        (ROLE_SESSION, f"ann@example.com-{END}", f"AROAEXAMPLE:ann@example.com-{END}", True),
        (ROLE_SESSION, f"AROAEXAMPLE:ann@example.com-{END}", None, True),
        (ROLE_SESSION, f"ann@example.com-2-{END}", "AROAEXAMPLE:ann@example.com-2", False),
        (ROLE_SESSION, f"ann@example.com-{END}", "AROAOTHER:ann@example.com", False),
        ({"aws:userid": "AIDAEXAMPLE", "aws:username": "x"}, f"ann-{END}", None, False),
    ],
)
def test_sessions_are_told_apart(
    action: str, who: Mapping[str, str], session: str, tag: "str | None", is_own: bool
) -> None:
    context = {**who, **({TAG: tag} if tag else {})}
    assert may(action, SESSION + session, **context) is is_own


def test_a_job_tags_what_it_registers_and_nothing_that_is_there() -> None:
    document = iam_policies.document(*iam_policies.of_containers(ROLE))

    def verdict(resource: str, **tags: str) -> Verdict:
        context = {f"ssm:resourceTag/{key}": value for key, value in tags.items()}
        return policies.evaluate(
            [document], "ssm:AddTagsToResource", resource, {**context, "aws:TagKeys": "SSHOwner"}
        )

    node = "arn:aws:ssm:us-east-1:ACCOUNT:managed-instance/mi-0123456789abcdef0"
    assert verdict(ROLE) is Verdict.ALLOWED
    assert verdict(node) is Verdict.NOT_ALLOWED
    assert verdict(node, SSHOwner="AIDAOTHER") is Verdict.NOT_ALLOWED
    assert verdict(node, SSHCreator="AROAEXAMPLE:me") is Verdict.NOT_ALLOWED


def test_the_guard_takes_away_and_gives_nothing() -> None:
    guard = iam_policies.document(*iam_policies.guard())
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    node = "arn:aws:ssm:us-east-1:123456789012:managed-instance/mi-0123456789abcdef0"
    mine, other = ({"ssm:resourceTag/SSHOwner": owner, **USER} for owner in ("AIDAEXAMPLE", "AIDAOTHER"))
    for action in (
        "ssm:StartSession",
        "ssm:SendCommand",
        "ssm:AddTagsToResource",
        "ssm:UpdateManagedInstanceRole",
    ):
        assert policies.evaluate([guard], action, node, mine) is Verdict.NOT_ALLOWED
        assert policies.evaluate([guard, everything], action, node, mine) is Verdict.ALLOWED
        assert policies.evaluate([guard, everything], action, node, other) is Verdict.DENIED
        assert policies.evaluate([guard, everything], action, node, USER) is Verdict.DENIED
    for action in (
        "ssm:CreateAssociation",
        "ssm:StartAutomationExecution",
        "ssm:RegisterTaskWithMaintenanceWindow",
    ):
        assert policies.evaluate([guard, everything], action, "*", mine) is Verdict.DENIED
    for action in ("ssm:ResumeSession", "ssm:TerminateSession"):
        assert policies.evaluate([guard, everything], action, f"{SESSION}x-{END}", USER) is Verdict.ALLOWED
