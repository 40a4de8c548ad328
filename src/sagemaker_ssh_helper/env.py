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


def get_caller_script_name(trace_back: int = 1) -> str:
    """
    The file name of the code that calls it, without its folder: ``train.py``.

    ``trace_back`` is how many calls to go back: 1 is whoever calls this, 2 that one's caller; beyond the
    first caller it stays there. Code without a file is named as tracebacks name it: ``<string>``.
    """
    stack = inspect.stack(context=0)
    return Path(stack[min(trace_back, len(stack) - 1)].filename).name
