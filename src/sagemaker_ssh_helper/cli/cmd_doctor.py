"""
``sm-ssh doctor [TARGET]``: what would keep a connection from being made, found in the order it is made.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from sagemaker_ssh_helper.cli.parser import add_aws_options
from sagemaker_ssh_helper.client.terminal_text import escaped

_MARKS = {"ok": "ok  ", "warning": "WARN", "failed": "FAIL", "skipped": "-   "}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="find what keeps a connection from being made",
        description="Check this machine, the account and, if one is named, a target, in the order in which a "
        "connection needs them. Nothing is changed; one session is opened and ended for a target. The status "
        "is that of the first failed check, else 0.",
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help="as for connect")
    parser.add_argument("--fix", action="store_true", help="write the ssh block where it is missing or stale")
    parser.add_argument("--strict", action="store_true", help="a warning is a failure: status 1")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    add_aws_options(parser)


def run(args: argparse.Namespace) -> int:
    from sagemaker_ssh_helper.cli.doctor import FAILED, WARNING, Examination, Result

    results: list[Result] = []
    for result in Examination(args.target, args.profile, args.region, fix=args.fix).results():
        results.append(result)
        if not args.json:
            _show(result.status, result.check, result.text, result.fix, result.seconds)
    failed = [result for result in results if result.status == FAILED]
    warnings = [result for result in results if result.status == WARNING]
    status = failed[0].exit_code if failed else int(bool(args.strict and warnings))
    if args.json:
        checks = [
            {
                "check": result.check,
                "status": result.status,
                "text": result.text,
                "fix": result.fix,
                "error": result.error,
                "seconds": round(result.seconds, 3),
            }
            for result in results
        ]
        print(json.dumps({"schema": 1, "checks": checks, "exit": status}))
    else:
        print(
            f"{len(failed)} failed, {len(warnings)} to look at" if failed or warnings else "nothing is wrong"
        )
    return status


def _show(status: str, check: str, text: str, fix: str | None, seconds: float) -> None:
    print(escaped(f"{_MARKS[status]}  {check:<12} {text}"))
    if fix and status != "ok":
        print(escaped(f"      fix          {fix}"))
    sys.stdout.flush()
