"""
How our logs show an exception: where it came about, and why, without its text.

Imports the standard library only; Python 3.8.
"""

import logging
from types import TracebackType
from typing import Optional, Tuple, Type, Union

from sagemaker_ssh_helper.errors import trace_of

_ExcInfo = Union[
    Tuple[Type[BaseException], BaseException, Optional[TracebackType]], Tuple[None, None, None]
]


class PlainFormatter(logging.Formatter):
    """Formats what asyncio and other libraries log with an exception as we do."""

    def formatException(self, ei: _ExcInfo) -> str:
        """See ``trace_of``."""
        return trace_of(ei[1]) if ei[1] is not None else ""
