"""
Targets of Session Manager that are no managed instances: containers of jobs with remote debugging, and
of endpoints that take sessions.
"""

from __future__ import annotations

import re
from collections.abc import Callable

TARGET_ID_KEY = "ssm:resourceTag/aws:ssmmessages:target-id"
"""The condition key by which policies tell native targets apart."""

_NATIVE = re.compile(r"sagemaker-(training-job|cluster|endpoint):")


def is_native(target: str) -> bool:
    """Whether this text has the form of a native target, known or not."""
    return _NATIVE.match(target) is not None


class NativeTargets:
    """
    Those that there are now, and whose agents may serve them.

    Attributes:
        removed: called with a target that is one no more, and why.
    """

    def __init__(self) -> None:
        self.removed: Callable[[str, str], None] = lambda target, why: None
        self._user_ids: dict[str, str] = {}

    def add(self, target: str, user_id: str) -> None:
        """A target, served by an agent that signs as this ``aws:userid``: the container's role session."""
        self._user_ids[target] = user_id

    def remove(self, target: str, why: str) -> None:
        """It is no target any more: its connections and sessions end, and clients are told why."""
        if self._user_ids.pop(target, None) is not None:
            self.removed(target, why)

    def __contains__(self, target: str) -> bool:
        return target in self._user_ids

    def admits(self, target: str, user_id: str | None) -> bool:
        """Whether a caller is this target's agent."""
        return user_id is not None and self._user_ids.get(target) == user_id
