"""
Codes of a second factor (``mfa_serial`` in a profile): asked on the terminal itself, and once.

Standard input may be ssh's stream, and a terminal in whose background we run belongs to somebody else.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

from botocore.utils import JSONFileCache

from sagemaker_ssh_helper.errors import CredentialsMissing

_TERMINAL = ("CONIN$", "CONOUT$") if sys.platform == "win32" else ("/dev/tty", "/dev/tty")


class Prompt:
    """
    What botocore calls for a code.

    ``is_allowed`` says whether the terminal is still ours to ask on: once a session has it, it is not.
    """

    def __init__(self, profile: str | None, is_allowed: Callable[[], bool]) -> None:
        self._profile = profile
        self._is_allowed = is_allowed

    def __call__(self, question: str) -> str:
        """Raises CredentialsMissing when nobody can be asked, or nobody answers."""
        allowed = self._is_allowed()
        code = _ask(question) if allowed else None
        if code is None:
            option = f" --profile {self._profile}" if self._profile else ""
            raise CredentialsMissing(
                f"the profile {self._profile or 'default'} takes an MFA code",
                evidence="there is no terminal on which to ask for it"
                if allowed
                else "the terminal belongs to the session that is open",
                fix=f"Run this in a terminal, then try again: sm-ssh list{option}",
            )
        return code


def prepare(botocore_session: Any, prompt: Prompt) -> None:
    """
    Have botocore's session ask by ``prompt``, and share what a code bought with the AWS CLI.

    A code is good once, and ssh starts a process of ours for each connection.
    """
    provider = botocore_session.get_component("credential_provider").get_provider("assume-role")
    # There is no public way to hand this in; tests/aws/test_mfa.py sees when it is gone.
    provider._prompter = prompt
    provider.cache = _Cache(os.path.expanduser(os.path.join("~", ".aws", "cli", "cache")))


class _Cache(JSONFileCache):  # type: ignore[misc]  # botocore has no types
    """Without a folder that can be written, the next process asks again."""

    def __setitem__(self, key: str, value: Any) -> None:
        with contextlib.suppress(OSError):
            super().__setitem__(key, value)


def _ask(question: str) -> str | None:
    """The line that is typed on the terminal; None without one, or when we are in its background."""
    try:
        typed_on, shown_on = _TERMINAL
        with open(typed_on, encoding="utf-8", errors="replace") as typed, open(
            shown_on, "w", encoding="utf-8", errors="replace"
        ) as shown:
            if sys.platform != "win32" and os.tcgetpgrp(typed.fileno()) != os.getpgrp():
                return None
            # Shown as it is typed: it is good once, and a terminal left silent by a signal would be worse.
            print(f"sm-ssh: {question}", end="", file=shown, flush=True)
            return typed.readline().strip() or None
    except OSError:
        return None
