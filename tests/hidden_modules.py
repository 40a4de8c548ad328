"""Programs that find some modules missing, though they are installed."""

import os
from pathlib import Path
from typing import Dict

_CODE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {names!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Missing())
"""


def hide(folder: Path, *names: str) -> Dict[str, str]:
    """The environment in which Python has none of these modules; ``folder`` is for a file of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_CODE.format(names=names))
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}
