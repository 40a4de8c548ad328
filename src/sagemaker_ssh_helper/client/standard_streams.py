"""
Our own standard input and output, out of reach of everything that we start or call.

ssh's bytes, or a script's data, come in there and leave there. A program that AWS's configuration names
(``credential_process``), or a library that asks for a code, would take bytes of theirs or add some: it finds
/dev/null as its input, and standard error as its output. The real ones have other descriptors, which no
program inherits; see docs/adr/0032-standard-streams-set-apart.md.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO


class _SetApart:
    """``python_output`` is what ``sys.stdout`` was."""

    def __init__(self, python_output: TextIO | None) -> None:
        self.input = os.dup(0)
        self.output = os.dup(1)
        self.python_output = python_output


_set_apart: _SetApart | None = None


def set_apart() -> None:
    """
    Take descriptors 0 and 1 out of reach. Both must be open. ``sys.stdout`` still writes to the real output.

    Nothing when that is done already.
    """
    global _set_apart
    if _set_apart is not None:
        return
    before = sys.stdout
    writes_there = before is not None and _descriptor_of(before) == 1
    if writes_there:
        before.flush()
    kept = _set_apart = _SetApart(before)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    if writes_there:
        sys.stdout = open(  # noqa: SIM115 - it stays until they are given back
            kept.output,
            "w",
            encoding=before.encoding,
            errors=before.errors,
            buffering=1 if os.isatty(kept.output) else -1,
            closefd=False,
        )


def give_back() -> None:
    """Put them back, for a program that takes our place, or for whoever called us."""
    global _set_apart
    if _set_apart is None:
        return
    kept, _set_apart = _set_apart, None
    if sys.stdout is not None and sys.stdout is not kept.python_output:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        sys.stdout = kept.python_output
    os.dup2(kept.input, 0)
    os.dup2(kept.output, 1)
    os.close(kept.input)
    os.close(kept.output)


def input_descriptor() -> int:
    """The real standard input."""
    return 0 if _set_apart is None else _set_apart.input


def output_descriptor() -> int:
    """The real standard output."""
    return 1 if _set_apart is None else _set_apart.output


def input_is_terminal() -> bool:
    """Whether somebody is there to be asked."""
    return os.isatty(input_descriptor())


def read_line() -> str:
    """A line that the user typed; "" at the end of the input."""
    with open(input_descriptor(), encoding="utf-8", errors="replace", closefd=False) as typed:
        return typed.readline()


def _descriptor_of(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None
