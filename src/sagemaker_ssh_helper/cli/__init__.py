"""
The command ``sm-ssh``: arguments in, one call, output. One module per command.
"""

import os
import sys


def _prefer_own_modules() -> None:
    """
    Look for modules in the folders of PYTHONPATH last; for ``python -m`` also in the folder we are in.

    They are there for other programs: a ``queue.py`` in one would be taken for Python's own.
    """
    variable = os.environ.get("PYTHONPATH")
    last = {os.path.abspath(folder) for folder in variable.split(os.pathsep)} if variable else set()
    program = getattr(sys.modules["__main__"], "__spec__", None)
    if program is not None and program.name == "sagemaker_ssh_helper.__main__":
        last.add(os.path.abspath(sys.path[0]))
    if last:
        sys.path.sort(key=lambda folder: os.path.abspath(folder) in last)


_prefer_own_modules()
