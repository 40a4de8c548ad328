"""
What this machine launched: the launch id of each resource, to know its containers again.

One small file per resource, ``$XDG_STATE_HOME/sm-ssh/launches/<name>.<type>.json``. It holds no secret: the
id also stands in the environment that DescribeTrainingJob shows.
"""

import json
import re
from pathlib import Path

from sagemaker_ssh_helper.client.files import private_dir, read_text, state_dir, write_atomic
from sagemaker_ssh_helper.names import ResourceKind

_LAUNCH_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")


def _path(kind: ResourceKind, name: str) -> Path | None:
    # A name becomes a file name: one that is no SageMaker name has no record.
    if not _NAME.fullmatch(name):
        return None
    return state_dir() / "launches" / f"{name}.{kind.domain}.json"


def save(kind: ResourceKind, name: str, launch_id: str) -> None:
    """
    Remember that this machine launches ``name`` with ``launch_id`` (32 hexadecimal digits).

    A record of the same name is replaced. Raises LocalSetup when it cannot be written.
    """
    assert _LAUNCH_ID.fullmatch(launch_id), "a launch id is 32 hexadecimal digits"
    path = _path(kind, name)
    if path is not None:
        private_dir(path.parent)
        write_atomic(path, json.dumps({"launch_id": launch_id}) + "\n")


def load(kind: ResourceKind, name: str) -> str | None:
    """The launch id that this machine gave to ``name``; None when it did not launch it."""
    path = _path(kind, name)
    text = read_text(path) if path is not None else None
    if text is None:
        return None
    try:
        launch_id = json.loads(text)["launch_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return launch_id if isinstance(launch_id, str) and _LAUNCH_ID.fullmatch(launch_id) else None
