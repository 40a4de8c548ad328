"""
What scripts in a container ask about where they run, under the names they know.

Standard library only; Python 3.8.
"""

import inspect
import os
from pathlib import Path

from sagemaker_ssh_helper.agent import resource


def sm_get_node_rank() -> int:
    """
    Which node of a job this container is, counted from 0: 1 in ``algo-2``.

    0 outside of a job, and in a container that does not tell. Never raises.
    """
    return resource.identify(os.environ, resource.base_dir(os.environ)).rank


def get_caller_script_name() -> str:
    """
    The file name of the code that calls it, without its folder: ``train.py``.

    Code without a file is named as tracebacks name it: ``<stdin>``, ``<string>``.
    """
    return Path(inspect.stack(context=0)[1].filename).name
