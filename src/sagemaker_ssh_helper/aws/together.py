"""
Calls to AWS that do not wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Given = TypeVar("_Given")
_Found = TypeVar("_Found")

_AT_ONCE = 16


def each(ask: Callable[[_Given], _Found], given: Iterable[_Given]) -> list[_Found]:
    """
    What ``ask`` gives for each, in their order, all asked at once.

    Raises what the first of them that failed raises, when all have ended.
    """
    items = list(given)
    if len(items) < 2:
        return [ask(item) for item in items]
    with ThreadPoolExecutor(min(len(items), _AT_ONCE)) as pool:
        return list(pool.map(ask, items))
