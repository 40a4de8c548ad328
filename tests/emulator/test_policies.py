"""The policy language, statement by statement; no cloud."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagemaker_ssh_helper.emulator import policies
from sagemaker_ssh_helper.emulator.policies import Verdict

ALLOWED, DENIED, NOT_ALLOWED = Verdict.ALLOWED, Verdict.DENIED, Verdict.NOT_ALLOWED
ARN = "arn:aws:s3:::bucket/folder/key"


def document(*statements: dict[str, Any], version: str = "2012-10-17") -> dict[str, Any]:
    return {"Version": version, "Statement": list(statements)}


def allow(action: Any = "*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def deny(action: Any = "*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {**allow(action, resource, **more), "Effect": "Deny"}


def decide(
    *statements: dict[str, Any], action: str = "s3:GetObject", resource: str = ARN, **context: Any
) -> Verdict:
    return policies.evaluate([document(*statements)], action, resource, context)


def test_nothing_is_allowed_without_a_statement() -> None:
    assert decide() is NOT_ALLOWED
    assert policies.evaluate([], "s3:GetObject", ARN, {}) is NOT_ALLOWED


@pytest.mark.parametrize("statements", [[allow(), deny()], [deny(), allow()]])
def test_an_explicit_deny_wins_in_any_order(statements: list[dict[str, Any]]) -> None:
    assert decide(*statements) is DENIED
    apart = [document(statement) for statement in statements]
    assert policies.evaluate(apart, "s3:GetObject", ARN, {}) is DENIED


@pytest.mark.parametrize(
    ("action", "fits"),
    [
        ("s3:GetObject", True),
        ("S3:getobject", True),
        ("s3:Get*", True),
        ("s3:*Object", True),
        ("s3:Get?bject", True),
        ("*", True),
        ("s3:*", True),
        (["s3:PutObject", "s3:GetObject"], True),
        ("s3:GetObject?", False),
        ("s3:Get", False),
        ("s3", False),
        ("ssm:*", False),
        ([], False),
    ],
)
def test_actions_have_wildcards_and_no_case(action: Any, fits: bool) -> None:
    assert decide(allow(action)) is (ALLOWED if fits else NOT_ALLOWED)
    assert decide(allow(), deny(action)) is (DENIED if fits else ALLOWED)


@pytest.mark.parametrize(
    ("resource", "fits"),
    [
        ("*", True),
        (ARN, True),
        ("arn:aws:s3:::bucket/*", True),
        ("arn:aws:s3:::*/key", True),
        ("arn:aws:s3:::bucket/folder/k?y", True),
        (["arn:aws:s3:::other", "arn:aws:s3:::bucket/*"], True),
        ("arn:aws:s3:::bucket", False),
        ("arn:aws:s3:::BUCKET/*", False),
        ("arn:aws:s3:::bucket/folder/k.y", False),
    ],
)
def test_resources_have_wildcards_and_case(resource: Any, fits: bool) -> None:
    assert decide(allow("*", resource)) is (ALLOWED if fits else NOT_ALLOWED)


def test_not_action_and_not_resource_turn_it_round() -> None:
    others: dict[str, Any] = {"Effect": "Allow", "NotAction": ["s3:Get*"], "Resource": "*"}
    elsewhere: dict[str, Any] = {"Effect": "Allow", "Action": "*", "NotResource": "arn:aws:s3:::bucket/*"}

    assert decide(others) is NOT_ALLOWED
    assert decide(others, action="s3:PutObject") is ALLOWED
    assert decide(elsewhere) is NOT_ALLOWED
    assert decide(elsewhere, resource="arn:aws:s3:::other/key") is ALLOWED


@pytest.mark.parametrize(
    ("operator", "want", "have", "holds"),
    [
        ("StringEquals", "a", "a", True),
        ("StringEquals", ["a", "b"], "b", True),
        ("StringEquals", "a", "A", False),
        ("StringEquals", "a*", "ab", False),
        ("StringEquals", "a", None, False),
        ("StringEqualsIfExists", "a", None, True),
        ("StringEqualsIfExists", "a", "b", False),
        ("StringNotEquals", "a", "b", True),
        ("StringNotEquals", ["a", "b"], "b", False),
        ("StringNotEquals", "a", None, True),
        ("StringEqualsIgnoreCase", "a", "A", True),
        ("StringNotEqualsIgnoreCase", "a", "A", False),
        ("StringLike", "a*c?", "abbbcd", True),
        ("StringLike", ["x", "a*"], "ab", True),
        ("StringLike", "a*", "A", False),
        ("StringNotLike", "a*", "ab", False),
        ("StringNotLike", "a*", "b", True),
        ("NumericEquals", "5", "5.0", True),
        ("NumericLessThan", 5, "4", True),
        ("NumericLessThan", 5, "5", False),
        ("NumericLessThanEquals", "5", "5", True),
        ("NumericGreaterThan", "5", "6", True),
        ("NumericGreaterThanEquals", "5", "4", False),
        ("NumericNotEquals", "5", "5", False),
        ("NumericEquals", "5", "five", False),
        ("Bool", "true", "true", True),
        ("Bool", True, "True", True),
        ("Bool", "false", "true", False),
        ("Bool", "true", None, False),
        ("BoolIfExists", "true", None, True),
        ("DateLessThan", "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z", True),
        ("DateGreaterThan", "1767225600", "2026-01-02T00:00:00Z", True),
        ("DateGreaterThan", "2027-01-01T00:00:00Z", "2026-01-01T00:00:00Z", False),
        ("IpAddress", "127.0.0.0/8", "127.0.0.1", True),
        ("IpAddress", "10.0.0.0/8", "127.0.0.1", False),
        ("NotIpAddress", "10.0.0.0/8", "127.0.0.1", True),
        ("ArnLike", "arn:aws:iam::*:role/*", "arn:aws:iam::1:role/x/y", True),
        ("ArnLike", "arn:aws:*:role/x", "arn:aws:iam::1:role/x", False),
        ("ArnEquals", "arn:aws:iam::1:role/x", "arn:aws:iam::1:role/x", True),
        ("ArnNotLike", "arn:aws:iam::1:role/*", "arn:aws:iam::1:role/x", False),
        ("Null", "true", None, True),
        ("Null", "true", "a", False),
        ("Null", "false", "a", True),
        ("Null", "false", None, False),
        ("ForAnyValue:StringEquals", ["a", "b"], ["x", "b"], True),
        ("ForAnyValue:StringEquals", ["a", "b"], ["x", "y"], False),
        ("ForAnyValue:StringEquals", "a", None, False),
        ("ForAnyValue:StringNotEquals", "a", ["a", "b"], True),
        ("ForAllValues:StringLike", "SSH*", ["SSHOwner", "SSHPort"], True),
        ("ForAllValues:StringLike", "SSH*", ["SSHOwner", "Name"], False),
        ("ForAllValues:StringEquals", "a", None, True),
        ("ForAllValues:StringNotEquals", "a", ["b", "a"], False),
        ("StringEquals", "a", ["x", "a"], True),
        ("StringNotEquals", "a", ["x", "a"], False),
    ],
)
def test_conditions(operator: str, want: Any, have: Any, holds: bool) -> None:
    context = {} if have is None else {"some:Key": have}
    condition = {"Condition": {operator: {"SOME:key": want}}}

    verdict = policies.evaluate([document(allow(**condition))], "s3:GetObject", ARN, context)

    assert verdict is (ALLOWED if holds else NOT_ALLOWED)


def test_all_conditions_must_hold() -> None:
    condition = {"StringEquals": {"a": "1", "b": "2"}, "Bool": {"c": "true"}}

    assert decide(allow(Condition=condition), a="1", b="2", c="true") is ALLOWED
    assert decide(allow(Condition=condition), a="1", b="3", c="true") is NOT_ALLOWED
    assert decide(allow(Condition=condition), a="1", b="2", c="false") is NOT_ALLOWED


@pytest.mark.parametrize("operator", ["StringSounds", "ForSomeValues:StringEquals", "BinaryEquals"])
def test_what_is_not_known_fails_closed(operator: str) -> None:
    condition = {"Condition": {operator: {"a": "1"}}}

    assert decide(allow(**condition), a="1") is NOT_ALLOWED
    assert decide(allow(), deny(**condition), a="2") is DENIED


@pytest.mark.parametrize(
    ("resource", "holds"),
    [
        ("arn:aws:s3:::bucket/${aws:username}/*", True),
        ("arn:aws:s3:::bucket/${AWS:UserName}/*", True),
        ("arn:aws:s3:::bucket/${aws:userid}/*", False),
        ("arn:aws:s3:::bucket/${aws:PrincipalTag/team}/*", False),
        ("arn:aws:s3:::bucket/${aws:PrincipalTag/team, 'folder'}/*", True),
        ("arn:aws:s3:::bucket/${*}/*", False),
        ("arn:aws:s3:::bucket/$folder/*", False),
    ],
)
def test_variables_stand_for_the_callers_values(resource: str, holds: bool) -> None:
    context = {"aws:username": "folder", "aws:userid": "AIDA"}

    verdict = policies.evaluate([document(allow("*", resource))], "s3:GetObject", ARN, context)

    assert verdict is (ALLOWED if holds else NOT_ALLOWED)


def test_a_variable_brings_no_wildcards() -> None:
    statement = allow("*", "arn:aws:s3:::bucket/${aws:username}/*")
    condition = allow(Condition={"StringLike": {"tag": "${aws:username}"}})

    assert policies.evaluate([document(statement)], "s3:GetObject", ARN, {"aws:username": "*"}) is NOT_ALLOWED
    context = {"aws:username": "*", "tag": "anything"}
    assert policies.evaluate([document(condition)], "s3:GetObject", ARN, context) is NOT_ALLOWED


def test_a_condition_compares_with_variables() -> None:
    condition = {"Condition": {"StringEquals": {"ssm:resourceTag/SSHOwner": "${aws:userid}"}}}
    mine = {"aws:userid": "AROA:me", "ssm:resourceTag/SSHOwner": "AROA:me"}

    assert policies.evaluate([document(allow(**condition))], "ssm:StartSession", "*", mine) is ALLOWED
    others = {**mine, "ssm:resourceTag/SSHOwner": "AROA:you"}
    assert policies.evaluate([document(allow(**condition))], "ssm:StartSession", "*", others) is NOT_ALLOWED
    nobody = {"ssm:resourceTag/SSHOwner": ""}
    assert policies.evaluate([document(allow(**condition))], "ssm:StartSession", "*", nobody) is NOT_ALLOWED


def test_variables_came_with_the_second_version() -> None:
    old = document(allow("*", "arn:aws:s3:::bucket/${aws:username}"), version="2008-10-17")
    literal = "arn:aws:s3:::bucket/${aws:username}"

    context = {"aws:username": "me"}
    assert policies.evaluate([old], "s3:GetObject", "arn:aws:s3:::bucket/me", context) is NOT_ALLOWED
    assert policies.evaluate([old], "s3:GetObject", literal, context) is ALLOWED


def test_one_statement_needs_no_list() -> None:
    assert policies.evaluate([{"Statement": allow()}], "s3:GetObject", ARN, {}) is ALLOWED


@pytest.mark.parametrize(
    ("principal", "holds"),
    [
        ({"Service": "ssm.amazonaws.com"}, True),
        ({"Service": ["sagemaker.amazonaws.com", "ssm.amazonaws.com"]}, True),
        ("*", True),
        ({"AWS": "ssm.amazonaws.com"}, False),
        ({"Service": "sagemaker.amazonaws.com"}, False),
        ({"Service": "*.amazonaws.com"}, False),
        (None, False),
    ],
)
def test_trust_names_principals(principal: Any, holds: bool) -> None:
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}

    verdict = policies.trusts(document(statement), ["Service:ssm.amazonaws.com"], "sts:AssumeRole", {})

    assert verdict is (ALLOWED if holds else NOT_ALLOWED)


def test_trust_can_be_denied_and_fails_closed() -> None:
    good = {"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}
    bad = {"Effect": "Deny", "Principal": {"Service": "ssm.amazonaws.com"}, "Action": "sts:*"}
    unknown = {"Effect": "Deny", "NotPrincipal": {"AWS": "1"}, "Action": "sts:AssumeRole"}
    ssm = ["Service:ssm.amazonaws.com"]

    assert policies.trusts(document(good, bad), ssm, "sts:AssumeRole", {}) is DENIED
    assert policies.trusts(document(good, unknown), ssm, "sts:AssumeRole", {}) is DENIED
    assert policies.trusts(document({**unknown, "Effect": "Allow"}), ssm, "sts:AssumeRole", {}) is NOT_ALLOWED


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "3"])
def test_a_document_is_a_json_object(text: str) -> None:
    with pytest.raises(ValueError, match=r"policy document|Expecting"):
        policies.parse(text)


@given(pattern=st.text(alphabet="ab*?$", max_size=12), text=st.text(alphabet="ab$", max_size=12))
def test_wildcards_agree_with_a_matcher_of_another_make(pattern: str, text: str) -> None:
    def fits(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return any(fits(pattern[1:], text[start:]) for start in range(len(text) + 1))
        return bool(text) and pattern[0] in ("?", text[0]) and fits(pattern[1:], text[1:])

    expected = ALLOWED if fits(pattern, text) else NOT_ALLOWED

    assert policies.evaluate([document(allow("*", pattern))], "s3:GetObject", text, {}) is expected


@pytest.mark.parametrize("effect", [None, "allow", "Permit", ["Allow"], ""])
def test_only_the_word_allow_allows(effect: Any) -> None:
    statement = {
        key: value for key, value in {**allow("s3:*"), "Effect": effect}.items() if value is not None
    }
    assert policies.evaluate([document(statement)], "s3:GetObject", "*", {}) is NOT_ALLOWED
    trust = {"Principal": "*", "Action": "sts:AssumeRole", **({} if effect is None else {"Effect": effect})}
    assert policies.trusts(document(trust), ["AWS:1"], "sts:AssumeRole", {}) is NOT_ALLOWED
