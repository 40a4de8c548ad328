"""
The option ``--via``: who carries a session.
"""

from __future__ import annotations

from sagemaker_ssh_helper.errors import UsageError

WAYS = ("direct", "plugin")
"""Ourselves, or AWS's own client program; the first is the default."""


def is_plugin(way: str | None) -> bool:
    """Whether the session is handed over. Raises UsageError for a way there is not."""
    if way not in (None, *WAYS):
        raise UsageError(f"--via takes {' or '.join(WAYS)}", evidence=f"not {way!r}")
    return way == "plugin"
