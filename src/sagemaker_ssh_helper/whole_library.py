"""
The modules that stay on the user's machine, asked for in a container: found in a whole library, or explained.

What travels into a job is what a container runs (:data:`sagemaker_ssh_helper.archive.SHIPPED`). A job that
launches jobs imports more, such as ``wrapper``: that comes from an installed library of the same version, of
which this folder would hide the rest; without one the import says what to do.

Standard library only; Python 3.8.
"""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Optional, Sequence

_PACKAGE = "sagemaker_ssh_helper"
_HERE = os.path.dirname(os.path.abspath(__file__))


class _Finder(MetaPathFinder):
    """Asked last, for what nobody found."""

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        package, _, module = fullname.partition(".")
        if package != _PACKAGE or not module or "." in module:
            return None
        folder = _installed()
        if folder is None:
            # Not ModuleNotFoundError: `from package import module` hides the text of that one.
            raise ImportError(
                f"{fullname} is not in the part of the library that travels into a job; to use it there, "
                f"install the whole library, version {_version(_HERE)}, in the job or its image",
                name=fullname,
            )
        return PathFinder.find_spec(fullname, [folder])


def find_rest() -> None:
    """Let imports of this package find what is not here."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def _installed() -> Optional[str]:
    """The folder of a whole library of our version; another version's modules do not fit ours."""
    folders = (os.path.join(folder or os.curdir, _PACKAGE) for folder in sys.path)
    whole = (folder for folder in folders if os.path.isfile(os.path.join(folder, "launch.py")))
    return next((folder for folder in whole if _version(folder) == _version(_HERE)), None)


def _version(folder: str) -> str:
    try:
        with open(os.path.join(folder, "VERSION"), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
