"""
Words that we write into files which ssh reads: made only from text that cannot be anything else there.

Each is a ``str``, so that it goes wherever text goes, and is made by a check. Writers take these types alone
and make them anew, so that text which was not checked is refused in any case.
"""

from __future__ import annotations

import re

from sagemaker_ssh_helper.errors import UsageError
from sagemaker_ssh_helper.names import InstanceId
from sagemaker_ssh_helper.targets import is_native


class LoginName(str):
    """
    The name of an account in a container.

    Raises UsageError for text that no account is called by: spaces, line ends, and whatever ssh's
    configuration or a shell would read otherwise.
    """

    _FORM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}\$?")

    def __new__(cls, text: str) -> LoginName:
        if not isinstance(text, str) or not cls._FORM.fullmatch(text):
            raise UsageError(f"{_shown(text)} is not the name of an account")
        return super().__new__(cls, text)


class HostName(str):
    """
    A name by which ssh is told of a container: what ``Target.parse`` takes, a space's ARN included.

    Raises UsageError for anything that ssh's files read as a pattern, a list, a marker or an option.
    """

    _FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}")

    def __new__(cls, text: str) -> HostName:
        if not isinstance(text, str) or not cls._FORM.fullmatch(text):
            raise UsageError(f"{_shown(text)} is not a host name")
        return super().__new__(cls, text)


_MANAGED = re.compile(r"mi-[0-9a-f]{17}")


def instance_word(instance_id: InstanceId) -> str:
    """The id of a managed instance, or a native target, as one word. Raises UsageError for other text."""
    if not _MANAGED.fullmatch(instance_id) and not is_native(instance_id):
        raise UsageError(f"{_shown(instance_id)} is not the id of a managed instance")
    return instance_id


def _shown(text: object) -> str:
    return f"{text!r:.80}"
