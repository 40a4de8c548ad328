"""
How our logs show an exception: where it came about, and why, without its text.

Imports the standard library only; Python 3.8.
"""

import asyncio
import logging
from types import TracebackType
from typing import Any, Coroutine, Dict, Optional, Tuple, Type, TypeVar, Union

from sagemaker_ssh_helper.errors import trace_of

_ExcInfo = Union[
    Tuple[Type[BaseException], BaseException, Optional[TracebackType]], Tuple[None, None, None]
]
_T = TypeVar("_T")

_logger = logging.getLogger(__name__)


class PlainFormatter(logging.Formatter):
    """Formats what other libraries log with an exception as we do."""

    def formatException(self, ei: _ExcInfo) -> str:
        """See ``trace_of``."""
        return trace_of(ei[1]) if ei[1] is not None else ""


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """``asyncio.run``, whose loop logs what nobody caught as we do: its own words have arguments in full."""

    async def told() -> _T:
        asyncio.get_running_loop().set_exception_handler(_tell)
        return await main

    return asyncio.run(told())


def _tell(loop: asyncio.AbstractEventLoop, context: Dict[str, Any]) -> None:
    error = context.get("exception")
    what = str(context.get("message", "")).partition(" in callback ")[0]
    _logger.error("! in the event loop: %s%s", what, f":\n{trace_of(error)}" if error else "")
