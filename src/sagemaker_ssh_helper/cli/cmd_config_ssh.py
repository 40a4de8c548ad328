"""
``sm-ssh config-ssh``: one block in ~/.ssh/config, after which plain ssh knows the names of containers.
"""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.parser import add_aws_options
from sagemaker_ssh_helper.cli.via import WAYS
from sagemaker_ssh_helper.errors import ConfigBroken


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "config-ssh",
        help="teach plain ssh the names of containers",
        description="Write one marked block into ssh's configuration. It holds no names of jobs, so it never "
        "goes stale. Run again with other options to change it; without options, the chosen ones stay.",
    )
    what = parser.add_mutually_exclusive_group()
    parser.add_argument("--dry-run", action="store_true", help="print the difference, write nothing")
    what.add_argument("--print", action="store_true", help="print the block, write nothing")
    what.add_argument(
        "--remove", action="store_true", help="take the block out; the rest stays byte for byte"
    )
    parser.add_argument("--ssh-config-file", metavar="PATH", type=Path, help="instead of ~/.ssh/config")
    parser.add_argument(
        "-o",
        "--ssh-option",
        metavar="OPTION",
        action="append",
        default=[],
        help='a setting of ssh for these hosts, like -o "ForwardAgent yes"; it comes before ours',
    )
    parser.add_argument(
        "--via",
        choices=WAYS,
        help="who carries the sessions: this program itself (direct), or AWS's session-manager-plugin",
    )
    add_aws_options(parser)


def run(args: argparse.Namespace) -> int:
    from sagemaker_ssh_helper.client import connect, keys, ssh_config
    from sagemaker_ssh_helper.client.files import locked
    from sagemaker_ssh_helper.client.ssh_config import BlockOptions, ConfigFile

    given = BlockOptions(args.profile, args.region, tuple(args.ssh_option), args.via)
    program = connect.program_words()
    if args.print:
        print(ssh_config.block_text(program, given), end="")
        return 0
    path = args.ssh_config_file or ssh_config.default_path()
    with locked(ssh_config.lock_path()):
        file = ConfigFile.read(path)
        before = file.before + (file.block or b"") + file.after
        if args.remove:
            after = file.without_block()
        else:
            chosen = given or file.chosen
            text = ssh_config.block_text(program, chosen, created=file.created_by_us)
            after = file.with_block(text)
        if args.dry_run:
            _print_difference(file.path, before, after)
            return 0
        if args.remove and file.created_by_us and not after and after != before:
            file.path.unlink()
        elif after != before:
            file.write(after)
    if after == before:
        say(f"no changes to make in {path}")
        if args.remove:
            return 0
    if args.remove:
        say(f"the block is out of {path}")
        return 0
    keys.ensure_key()
    _check(path, file.path, program)
    if after == before:
        return 0
    words = shlex.join(["ssh", *ssh_config.options_for(path), "NAME.training.sagemaker"])
    say(f"wrote the block into {path}; try: {words}")
    return 0


def _check(path: Path, real: Path, program: Sequence[str]) -> None:
    """Raises ConfigBroken when ssh, asked itself, does not use the block."""
    from sagemaker_ssh_helper.client import ssh_config

    why = ssh_config.why_not_in_effect(real, program)
    if why:
        raise ConfigBroken(
            f"the block is in {path}, but plain ssh does not use it",
            evidence=why,
            fix="Correct what ssh names there, then check: sm-ssh doctor",
        )


def _print_difference(path: Path, before: bytes, after: bytes) -> None:
    old = before.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    new = after.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    difference = "".join(difflib.unified_diff(old, new, str(path), str(path)))
    sys.stdout.buffer.write(difference.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()
