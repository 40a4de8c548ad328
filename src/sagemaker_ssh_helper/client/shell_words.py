"""
Words for a shell that we do not know: that of a login in a container is read from the image's accounts.
"""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[A-Za-z0-9@+:,./_-][A-Za-z0-9@%+=:,./_-]*")
_PARTS = re.compile(r"['\\!]|[^'\\!]+")


def quoted(word: str) -> str:
    """
    The word as sh, bash, zsh, dash, busybox, fish, csh and tcsh read it alike.

    Within single quotes fish takes a backslash for an escape, and csh an exclamation mark for its history:
    these stand outside, behind a backslash. csh has no way to write a line end that the others understand.
    """
    if _PLAIN.fullmatch(word):
        return word
    if not word:
        return "''"
    return "".join(f"\\{part}" if part in "'\\!" else f"'{part}'" for part in _PARTS.findall(word))
