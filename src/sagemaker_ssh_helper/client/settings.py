"""
The user's own settings of ``sm-ssh``: the file ``config.toml``, and the caller of AWS that it is a part of.

Flags and the environment come first, then this file, then AWS's own files.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.client.files import config_dir, private_dir, read_text, write_atomic
from sagemaker_ssh_helper.errors import LocalSetup, UsageError

NAMES = {
    "profile": "the profile of the AWS configuration that is used",
    "region": "the AWS region that is called",
}
"""Each setting, and what it says."""

_REPAIR = "Mend it with: sm-ssh config edit"


def path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the file is. It may not exist."""
    return config_dir(environ) / "config.toml"


def read(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The settings in the file, by name. Raises LocalSetup when it is there and cannot be understood."""
    text = read_text(path(environ))
    return {} if text is None else parse(text, str(path(environ)))


def parse(text: str, where: str) -> dict[str, str]:
    """The settings in a file's text. Raises LocalSetup, with the line where there is one."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        found: dict[str, Any] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeError) as error:
        raise LocalSetup(f"{where} is no TOML", evidence=str(error), fix=_REPAIR) from error
    for name, value in found.items():
        if name not in NAMES:
            raise LocalSetup(f"{where} has an unknown setting: {name}", evidence=_known(), fix=_REPAIR)
        if not isinstance(value, str) or not value:
            raise LocalSetup(f'{where}: {name} is no text, like {name} = "…"', fix=_REPAIR)
    return found


def change(name: str, value: str | None) -> None:
    """
    Set one, or take it out of the file with None. What else is in the file stays as it is.

    Raises UsageError for a setting or a value that there cannot be, LocalSetup as ``read`` does.
    """
    check_name(name)
    if value is not None and not (value.strip() and value.isprintable()):
        raise UsageError(f"{name} cannot be {value!r}", fix=f"To have none: sm-ssh config unset {name}")
    read()
    text = read_text(path()) or ""
    line = re.compile(rf"^[ \t]*{re.escape(name)}[ \t]*=[^\n]*(\n|\Z)", re.MULTILINE)
    new = "" if value is None else f"{name} = {json.dumps(value, ensure_ascii=False)}\n"
    if line.search(text):
        text = line.sub(lambda _: new, text, count=1)
    elif new:
        text = f"{text}\n{new}" if text and not text.endswith("\n") else text + new
    parse(text, str(path()))
    private_dir(path().parent)
    write_atomic(path(), text)


def check_name(name: str) -> None:
    """Raises UsageError when there is no such setting."""
    if name not in NAMES:
        raise UsageError(f"there is no setting {name!r}", evidence=_known(), fix="See: sm-ssh config --help")


def open_session(profile: str | None = None, region: str | None = None) -> Session:
    """As Session.open, with the user's settings where flags and environment say nothing."""
    return Session.open(profile, region, defaults=read(), defaults_origin=str(path()))


def _known() -> str:
    return f"settings are: {', '.join(NAMES)}"
