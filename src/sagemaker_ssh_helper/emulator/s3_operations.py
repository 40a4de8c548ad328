"""
Which S3 operation a request is: by method, path, query and headers, from botocore's model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

_KINDS = {"/": 0, "/{Bucket}": 1, "/{Bucket}/{Key+}": 2}


@dataclass(frozen=True)
class S3Call:
    """One request to S3. ``path`` is in path style, percent-encoded."""

    operation: str
    bucket: str
    key: str
    path: str
    query: Mapping[str, str]


@dataclass(frozen=True)
class _Row:
    name: str
    kind: int
    method: str
    fixed: Mapping[str, str]
    needed: frozenset[str]
    headers: frozenset[str]

    def fits(self, query: Mapping[str, str], headers: Mapping[str, str]) -> bool:
        return (
            all(name in query and value in ("", query[name]) for name, value in self.fixed.items())
            and self.needed <= query.keys()
            and all(name in headers for name in self.headers)
        )

    @property
    def weight(self) -> int:
        return len(self.fixed) + len(self.needed) + len(self.headers)


class S3Operations:
    """The table of operations. ``model`` is botocore's service model of S3."""

    def __init__(self, model: Any) -> None:
        self._rows: dict[tuple[int, str], list[_Row]] = {}
        for name in model.operation_names:
            row = _row(name, model.operation_model(name))
            if row is not None:
                self._rows.setdefault((row.kind, row.method), []).append(row)
        for rows in self._rows.values():
            rows.sort(key=lambda row: row.weight, reverse=True)

    def find(
        self, method: str, path: str, query: str, headers: Mapping[str, str], host_bucket: str | None
    ) -> S3Call | None:
        """
        The operation; None when S3 has none for this method and address.

        Args:
            path: as sent, percent-encoded.
            headers: names in lower case.
            host_bucket: the bucket in the host name, if there is one.
        """
        if host_bucket is not None:
            path = f"/{host_bucket}{path}"
        bucket, _, key = path.removeprefix("/").partition("/")
        kind = 2 if key else 1 if bucket else 0
        parameters = dict(parse_qsl(query, keep_blank_values=True))
        for row in self._rows.get((kind, method), ()):
            if row.fits(parameters, headers):
                return S3Call(row.name, unquote(bucket), unquote(key), path, parameters)
        return None


def _row(name: str, operation: Any) -> _Row | None:
    path, _, query = operation.http["requestUri"].partition("?")
    if path not in _KINDS:
        return None
    fixed = {key: value for key, value in parse_qsl(query, keep_blank_values=True) if key != "x-id"}
    needed, headers = set(), set()
    shape = operation.input_shape
    for member_name in shape.required_members if shape else ():
        where = shape.members[member_name].serialization
        if where.get("location") == "querystring":
            needed.add(where["name"])
        elif where.get("location") == "header":
            headers.add(where["name"].lower())
    return _Row(name, _KINDS[path], operation.http["method"], fixed, frozenset(needed), frozenset(headers))
