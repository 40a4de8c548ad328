"""
Queries of CloudWatch Logs Insights: ``fields``, ``display``, ``filter``, ``sort`` and ``limit``. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

DEFAULT_LIMIT = 10_000  # rows, when a query does not say; the service's own

Event = Mapping[str, Any]
"""One line of a log by the names of queries: ``@timestamp`` (milliseconds), ``@message``, ``@logStream``…"""

Condition = Callable[[Event], bool]

_TOKEN = re.compile(
    r"""\s*(?: (?P<regex> /(?:\\.|[^/\\])*/i? )
             | (?P<text> "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' )
             | (?P<sign> \|  | , | \( | \) | =~ | != | <= | >= | = | < | > )
             | (?P<word> [^\s|,()=!<>"'/]+ ) )""",
    re.VERBOSE,
)


class MalformedQuery(ValueError):
    """The query is wrong, or uses what the local cloud does not do; ``str`` says which."""


@dataclass
class Query:
    """What a query asks for."""

    fields: list[str] = field(default_factory=lambda: ["@timestamp", "@message"])
    conditions: list[Condition] = field(default_factory=list)
    sort_by: str = "@timestamp"
    descending: bool = True
    limit: int = DEFAULT_LIMIT

    @classmethod
    def parse(cls, text: str) -> Query:
        """Raises MalformedQuery."""
        query = cls()
        for command in _commands(_tokens(text)):
            query._add(command)
        return query

    def run(self, events: Iterable[Event]) -> list[dict[str, str]]:
        """The rows, each with its fields in the order that the query names them, and ``@ptr``."""
        found = [event for event in events if all(condition(event) for condition in self.conditions)]
        found.sort(key=lambda event: _sortable(event.get(self.sort_by)), reverse=self.descending)
        return [
            {
                **{name: _shown(name, event[name]) for name in self.fields if name in event},
                "@ptr": str(event["@ptr"]),
            }
            for event in found[: self.limit]
        ]

    def _add(self, command: Sequence[str]) -> None:
        name, *rest = command
        if name in ("fields", "display") and rest:
            self.fields = [token for token in rest if token != ","]
        elif name == "filter" and rest:
            self.conditions.append(_Filter(rest).parse())
        elif name == "sort" and len(rest) in (1, 2) and rest[1:] in ([], ["asc"], ["desc"]):
            self.sort_by, self.descending = rest[0], rest[1:] != ["asc"]
        elif name == "limit" and len(rest) == 1 and rest[0].isdecimal():
            self.limit = int(rest[0])
        else:
            raise MalformedQuery(f"The local cloud does not understand this part: {' '.join(command)}")


class _Filter:
    """The condition of one ``filter``: ``or`` of ``and`` of ``not``, comparisons and brackets."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = [*tokens]

    def parse(self) -> Condition:
        condition = self._any()
        if self._tokens:
            raise MalformedQuery(f"The filter has too much: {' '.join(self._tokens)}")
        return condition

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._accept("or"):
            parts.append(self._all())
        return lambda event: any(part(event) for part in parts)

    def _all(self) -> Condition:
        parts = [self._one()]
        while self._accept("and"):
            parts.append(self._one())
        return lambda event: all(part(event) for part in parts)

    def _one(self) -> Condition:
        if self._accept("not"):
            condition = self._one()
            return lambda event: not condition(event)
        if self._accept("("):
            condition = self._any()
            if not self._accept(")"):
                raise MalformedQuery("A bracket is not closed.")
            return condition
        name = self._next()
        negated = self._accept("not")
        sign = self._next().lower()
        matches = _comparison(sign, self._next())
        return lambda event: matches(str(event.get(name, ""))) != negated

    def _accept(self, word: str) -> bool:
        if self._tokens and self._tokens[0].lower() == word:
            self._tokens.pop(0)
            return True
        return False

    def _next(self) -> str:
        if not self._tokens:
            raise MalformedQuery("The filter ends too early.")
        return self._tokens.pop(0)


def _comparison(sign: str, operand: str) -> Callable[[str], bool]:
    if sign in ("like", "=~"):
        if operand.startswith("/"):
            flags = re.IGNORECASE if operand.endswith("i") else 0
            try:
                expression = re.compile(operand.rstrip("i")[1:-1], flags)
            except re.error as error:
                raise MalformedQuery(f"The regular expression {operand} is not valid: {error}") from error
            return lambda value: expression.search(value) is not None
        part = _plain(operand)
        return lambda value: part in value
    if sign in ("=", "!="):
        wanted = _plain(operand)
        return lambda value: (value == wanted) == (sign == "=")
    raise MalformedQuery(f"The local cloud does not compare by {sign}.")


def _tokens(text: str) -> list[str]:
    # A comment goes to the end of its line.
    text = re.sub(r"(?m)^\s*#.*$", "", text).strip()
    tokens, position = [], 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise MalformedQuery(f"The query cannot be read from here: {text[position : position + 40]}")
        tokens.append(found.group().strip())
        position = found.end()
    return tokens


def _commands(tokens: Sequence[str]) -> list[list[str]]:
    commands: list[list[str]] = [[]]
    for token in tokens:
        if token == "|":
            commands.append([])
        else:
            commands[-1].append(token)
    if [] in commands:
        raise MalformedQuery("A command is missing before or after a |.")
    return commands


def _plain(operand: str) -> str:
    if operand[:1] in ("'", '"'):
        return re.sub(r"\\(.)", r"\1", operand[1:-1])
    return operand


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, (int, float)):
        return 1, float(value), ""
    return (0, 0.0, "") if value is None else (2, 0.0, str(value))


def _shown(name: str, value: Any) -> str:
    if name == "@timestamp":
        moment = datetime.fromtimestamp(value / 1000, timezone.utc)
        return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{int(value) % 1000:03d}"
    return str(value)
