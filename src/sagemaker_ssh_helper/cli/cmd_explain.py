"""
``sm-ssh explain ID``: what an error id, or an error code of AWS, means, and what to do.
"""

from __future__ import annotations

import argparse
import re
from typing import Any

from sagemaker_ssh_helper import errors
from sagemaker_ssh_helper.errors import UsageError


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "explain",
        help="say what an error id means, and what to do",
        description="Say what the id in the brackets of an error means, its exit code, and what to do. An "
        "error code of AWS, like TargetNotConnected, is explained by the ids that stand for it.",
    )
    parser.add_argument("id", nargs="?", metavar="ID", help="as in error[ID]; all of them if left out")


def run(args: argparse.Namespace) -> int:
    from sagemaker_ssh_helper.cli.catalogue import CATALOGUE

    codes = exit_codes()
    if args.id is None:
        width = max(map(len, CATALOGUE))
        for known, (what, _) in CATALOGUE.items():
            print(f"{known:<{width}}  {_plain(what)}")
        return 0
    asked = args.id.lower().removeprefix("error[").rstrip("]:")
    # AWS's codes stand in the explanations.
    found = [asked] if asked in CATALOGUE else [id for id in CATALOGUE if _speaks_of(id, asked)]
    if not found:
        import difflib

        near = difflib.get_close_matches(asked, CATALOGUE, n=1)
        raise UsageError(
            f"there is no error {args.id!r}",
            fix=f"Did you mean {near[0]}?" if near else "See all of them: sm-ssh explain",
        )
    for id in found:
        what, todo = CATALOGUE[id]
        print(f"{id}  (exit code {codes[id]})")
        print(f"  what happened  {_plain(what)}")
        print(f"  what to do     {_plain(todo) or 'the line of the error says it'}")
    return 0


def _speaks_of(id: str, code: str) -> bool:
    from sagemaker_ssh_helper.cli.catalogue import CATALOGUE

    return re.search(rf"`{re.escape(code)}`", CATALOGUE[id][0], re.IGNORECASE) is not None


def exit_codes() -> dict[str, int]:
    """The exit code of each id."""
    found: list[type[errors.SSHHelperError]] = [errors.SSHHelperError]
    for error in found:
        found += error.__subclasses__()
    return {error.id: error.exit_code for error in found}


def _plain(text: str) -> str:
    """Without the marks of Markdown."""
    return re.sub(r"\[([^\]]*)\]\(([^)]*)\)", r"\1", text).replace("`", "")
