"""
Our known_hosts file: for each host name the key of the container that it means now.

A line is ``<host> <type> <base64> <instance id>``; the id stands where ssh expects a comment. ssh looks
a host up in lower case. ``~/.ssh/known_hosts`` is never touched.
"""

from __future__ import annotations

from pathlib import Path

from sagemaker_ssh_helper.client.files import config_dir, read_text, write_atomic
from sagemaker_ssh_helper.client.ssh_words import HostName, instance_word
from sagemaker_ssh_helper.names import InstanceId
from sagemaker_ssh_helper.public_keys import PublicKey


def path() -> Path:
    """Where the file is."""
    return config_dir() / "known_hosts"


def line_of(host: str, key: PublicKey, instance_id: InstanceId) -> str:
    """The line, without its end. Raises UsageError for a host or an id that is not one word of its kind."""
    return f"{HostName(host).lower()} {key.line} {instance_word(instance_id)}"


def lines_of(host: str) -> list[str]:
    """The lines for ``host``, in any letter case; none when no key is pinned. Raises LocalSetup."""
    return [line for line in _lines() if line.split(" ", 1)[0] == host.lower()]


def has_key(host: str, key: PublicKey, instance_id: InstanceId) -> bool:
    """Whether ``set_key`` would change nothing. Raises LocalSetup."""
    return lines_of(host) == [line_of(host, key, instance_id)]


def set_key(host: str, key: PublicKey, instance_id: InstanceId) -> None:
    """
    Make ``key`` the only one for ``host``; other hosts' lines stay as they are.

    Call it after the control plane was asked, and with the trust store locked. Raises LocalSetup.
    """
    _replace(host, line_of(host, key, instance_id))


def forget(host: str) -> None:
    """Drop what is known of ``host``, so that ssh can learn its key. Same conditions as ``set_key``."""
    _replace(host, None)


def forget_instances(instance_ids: set[InstanceId]) -> None:
    """Drop the lines of these instances. Same conditions as ``set_key``."""
    lines = _lines()
    kept = [line for line in lines if line.rpartition(" ")[2] not in instance_ids]
    if kept != lines:
        _write(kept)


def _replace(host: str, line: str | None) -> None:
    lines = _lines()
    kept = [known for known in lines if known.split(" ", 1)[0] != host.lower()]
    changed = [*kept, line] if line is not None else kept
    if changed != lines and sorted(changed) != sorted(lines):
        _write(changed)


def _lines() -> list[str]:
    return (read_text(path()) or "").splitlines()


def _write(lines: list[str]) -> None:
    write_atomic(path(), "".join(f"{line}\n" for line in lines))
