"""
IAM policy documents, decided: does this document allow this action on this resource? Pure; no store, no AWS.

The order of AWS holds: an explicit deny wins, then an allow, else the request is denied implicitly. Known
here: Action, NotAction, Resource, NotResource, Principal (in trust policies), and Condition with the
operators of ``_OPERATORS``, their ``…IfExists`` forms, ``Null``, and the prefixes ``ForAnyValue:`` and
``ForAllValues:``. A statement with anything else in it fails closed: it never allows, and always denies
when it is a Deny.
"""

import enum
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

Context = Mapping[str, str | Sequence[str]]
"""Condition keys of one request, such as ``ssm:resourceTag/SSHOwner``, to a value or several."""

Document = Mapping[str, Any]


class Verdict(enum.Enum):
    ALLOWED = "allowed"
    DENIED = "explicitDeny"
    NOT_ALLOWED = "implicitDeny"


class CannotDecide(Exception):
    """A statement uses a part of the policy language that is not known here."""


@lru_cache(maxsize=1024)
def parse(text: str) -> Document:
    """A policy document from its JSON text. Raises ValueError when it is none."""
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("a policy document is a JSON object")
    return document


def evaluate(documents: Iterable[Document], action: str, resource: str, context: Context) -> Verdict:
    """
    What identity-based policies say together.

    Args:
        documents: all that apply to the caller.
        action: ``service:Operation``.
        resource: an ARN, or ``*`` for actions without one.
        context: the condition keys and their values; names are compared without case.
    """
    known = {key.lower(): value for key, value in context.items()}
    verdict = Verdict.NOT_ALLOWED
    for document in documents:
        variables = document.get("Version") == "2012-10-17"
        for statement in _statements(document):
            denies = statement.get("Effect") == "Deny"
            try:
                applies = (
                    _action_matches(statement, action)
                    and _resource_matches(statement, resource, known if variables else None)
                    and _conditions_hold(statement, known, variables)
                )
            except CannotDecide:
                applies = denies
            if applies and denies:
                return Verdict.DENIED
            if applies and statement.get("Effect") == "Allow":
                verdict = Verdict.ALLOWED
    return verdict


def trusts(document: Document, principals: Sequence[str], action: str, context: Context) -> Verdict:
    """
    What a role's trust policy says about a principal.

    Args:
        document: the trust policy.
        principals: every form in which the principal may be named: ``Service:ssm.amazonaws.com``, or
            ``AWS:<arn>``, ``AWS:<account id>`` and so on.
        action: ``sts:AssumeRole``, mostly.
        context: as for ``evaluate``.
    """
    known = {key.lower(): value for key, value in context.items()}
    verdict = Verdict.NOT_ALLOWED
    for statement in _statements(document):
        denies = statement.get("Effect") == "Deny"
        try:
            applies = (
                _principal_matches(statement, principals)
                and _action_matches(statement, action)
                and _conditions_hold(statement, known, document.get("Version") == "2012-10-17")
            )
        except CannotDecide:
            applies = denies
        if applies and denies:
            return Verdict.DENIED
        if applies and statement.get("Effect") == "Allow":
            verdict = Verdict.ALLOWED
    return verdict


def _statements(document: Document) -> list[Mapping[str, Any]]:
    return [statement for statement in _listed(document.get("Statement")) if isinstance(statement, Mapping)]


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _principal_matches(statement: Mapping[str, Any], principals: Sequence[str]) -> bool:
    if "NotPrincipal" in statement:
        raise CannotDecide
    principal = statement.get("Principal")
    if principal == "*":
        return True
    if not isinstance(principal, Mapping):
        return False
    named = [f"{kind}:{name}" for kind, names in principal.items() for name in _listed(names)]
    return any(name in principals or name == "AWS:*" for name in named)


def _action_matches(statement: Mapping[str, Any], action: str) -> bool:
    if "NotAction" in statement:
        return not any(_glob(pattern.lower(), action.lower()) for pattern in _listed(statement["NotAction"]))
    return any(_glob(pattern.lower(), action.lower()) for pattern in _listed(statement.get("Action")))


def _resource_matches(statement: Mapping[str, Any], resource: str, variables: Context | None) -> bool:
    if "NotResource" in statement:
        return not any(_glob(pattern, resource, variables) for pattern in _listed(statement["NotResource"]))
    return any(_glob(pattern, resource, variables) for pattern in _listed(statement.get("Resource")))


def _glob(pattern: str, text: str, variables: Context | None = None) -> bool:
    """Whether the text fits a pattern with ``*``, ``?`` and, when there are values for them, variables."""
    try:
        if variables is None or "${" not in pattern:
            expression = _compiled(pattern)
        else:
            expression = re.compile(_expression(pattern, variables), re.DOTALL)
    except _NoValue:
        return False
    return expression.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Without values for variables: the same in every request, of which each looks at many."""
    return re.compile(_expression(pattern, None), re.DOTALL)


class _NoValue(Exception):
    """A policy variable has no value in this request, so what it stands in matches nothing."""


_TOKEN = re.compile(r"\$\{([^}]*)\}|\*+|\?|[^*?$]+|\$", re.DOTALL)


def _expression(pattern: str, variables: Context | None) -> str:
    parts = []
    for token in _TOKEN.finditer(pattern):
        text = token.group()
        if text.startswith("*"):
            parts.append(".*")
        elif text == "?":
            parts.append(".")
        elif token.group(1) is not None and variables is not None:
            parts.append(re.escape(_variable(token.group(1), variables)))
        else:
            parts.append(re.escape(text))
    return "".join(parts)


def _substitute(pattern: str, variables: Context | None) -> str:
    if variables is None:
        return pattern
    return re.sub(r"\$\{([^}]*)\}", lambda match: _variable(match.group(1), variables), pattern)


def _variable(name: str, variables: Context) -> str:
    # ${*}, ${?} and ${$} stand for the characters themselves.
    if name in ("*", "?", "$"):
        return name
    name, _, default = name.partition(",")
    value = variables.get(name.strip().lower())
    if isinstance(value, str):
        return value
    default = default.strip()
    if len(default) >= 2 and default[0] == default[-1] == "'":
        return default[1:-1]
    raise _NoValue


def _conditions_hold(statement: Mapping[str, Any], known: Context, variables: bool) -> bool:
    for operator, keys in (statement.get("Condition") or {}).items():
        for key, values in keys.items():
            if not _condition_holds(operator, known.get(key.lower()), _listed(values), known, variables):
                return False
    return True


def _condition_holds(
    operator: str, value: str | Sequence[str] | None, wanted: list[Any], known: Context, variables: bool
) -> bool:
    quantifier, _, name = operator.rpartition(":")
    values = [value] if isinstance(value, str) else list(value or [])
    if name == "Null":
        return any((not values) == (str(want).lower() == "true") for want in wanted)
    if_exists = name.endswith("IfExists")
    if if_exists:
        name = name[: -len("IfExists")]
    negated = name in _NEGATED
    test = _OPERATORS.get(_NEGATED.get(name, name))
    if test is None or quantifier not in ("", "ForAnyValue", "ForAllValues"):
        raise CannotDecide

    def one(have: str) -> bool:
        return negated != any(_test(test, have, want, known if variables else None) for want in wanted)

    if quantifier == "ForAllValues":
        return all(one(have) for have in values)
    if quantifier == "ForAnyValue":
        return any(one(have) for have in values)
    if not values:
        return if_exists or negated
    return all(one(have) for have in values) if negated else any(one(have) for have in values)


_Test = Callable[[str, str, Context | None], bool]


def _test(test: _Test, have: str, want: Any, variables: Context | None) -> bool:
    text = want if isinstance(want, str) else json.dumps(want)
    try:
        return test(have, text, variables)
    except (_NoValue, ValueError):
        return False


def _equals(have: str, want: str, variables: Context | None) -> bool:
    return have == _substitute(want, variables)


def _equals_ignoring_case(have: str, want: str, variables: Context | None) -> bool:
    return have.lower() == _substitute(want, variables).lower()


def _like(have: str, want: str, variables: Context | None) -> bool:
    return _glob(want, have, variables)


def _arn_like(have: str, want: str, variables: Context | None) -> bool:
    # Each of the six parts of an ARN is compared by itself, so that no wildcard spans a colon before the
    # last.
    have_parts, want_parts = have.split(":", 5), want.split(":", 5)
    return len(have_parts) == len(want_parts) == 6 and all(
        _glob(pattern, part, variables) for pattern, part in zip(want_parts, have_parts)
    )


def _bool(have: str, want: str, variables: Context | None) -> bool:
    return have.lower() == _substitute(want, variables).lower()


def _address(have: str, want: str, variables: Context | None) -> bool:
    return ipaddress.ip_address(have) in ipaddress.ip_network(_substitute(want, variables), strict=False)


def _numeric(compare: Callable[[float, float], bool]) -> _Test:
    return lambda have, want, variables: compare(float(have), float(_substitute(want, variables)))


def _date(compare: Callable[[float, float], bool]) -> _Test:
    return lambda have, want, variables: compare(_seconds(have), _seconds(_substitute(want, variables)))


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "Equals": lambda have, want: have == want,
    "LessThan": lambda have, want: have < want,
    "LessThanEquals": lambda have, want: have <= want,
    "GreaterThan": lambda have, want: have > want,
    "GreaterThanEquals": lambda have, want: have >= want,
}

_OPERATORS: dict[str, _Test] = {
    "StringEquals": _equals,
    "StringEqualsIgnoreCase": _equals_ignoring_case,
    "StringLike": _like,
    "ArnEquals": _arn_like,
    "ArnLike": _arn_like,
    "Bool": _bool,
    "IpAddress": _address,
    **{f"Numeric{name}": _numeric(compare) for name, compare in _COMPARISONS.items()},
    **{f"Date{name}": _date(compare) for name, compare in _COMPARISONS.items()},
}

_NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
    "NotIpAddress": "IpAddress",
    "NumericNotEquals": "NumericEquals",
    "DateNotEquals": "DateEquals",
}
"""Operators that hold when the other one does not, and when the key is missing."""
