"""
Failures that pass, in commands that look again and again: they are told, and the command goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.errors import EndpointUnreachable, ServiceError, SSHHelperError, Throttled

T = TypeVar("T")


class Patience:
    """
    For one command.

    What fails before anything succeeded is most likely wrong for good; only throttling is not.
    """

    def __init__(self) -> None:
        self._has_seen = False
        self._told = ""

    def look(self, attempt: Callable[[], T]) -> T | None:
        """What ``attempt`` gives; None when it failed in a way that passes. Raises what does not pass."""
        try:
            seen = attempt()
        except (Throttled, EndpointUnreachable, ServiceError) as error:
            if not (self._has_seen or isinstance(error, Throttled)):
                raise
            self._tell(error)
            return None
        self._has_seen = True
        self._told = ""
        return seen

    def _tell(self, error: SSHHelperError) -> None:
        line = f"{error.what}; trying again"
        if line != self._told:
            say(line)
            self._told = line
