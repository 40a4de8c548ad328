"""
``sm-ssh ide TARGET [DIR]``: open a container's folder in an editor of this machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.parser import add_aws_options, add_road_options
from sagemaker_ssh_helper.errors import LocalSetup, UsageError

if TYPE_CHECKING:
    from sagemaker_ssh_helper.cli.road import Road
    from sagemaker_ssh_helper.client.editors import Container, Editor

_PROBE_TIMEOUT = 60.0  # seconds; far above what it takes


def add_parser(subparsers: Any) -> None:
    from sagemaker_ssh_helper.client.editors import EDITORS

    parser = subparsers.add_parser(
        "ide",
        help="open a container's folder in an editor",
        description="Open a folder of a container in an editor of this machine, which connects by plain ssh: "
        "the block of sm-ssh config-ssh must be there. What the editor's server needs is looked for in the "
        "container first. Where no editor is found, the link that opens one is printed.",
        allow_abbrev=False,
    )
    parser.add_argument("target", metavar="TARGET", help="as for connect")
    parser.add_argument(
        "dir", nargs="?", default="", metavar="DIR", help="/opt/ml/code, or the login's home, if left out"
    )
    parser.add_argument("--app", choices=EDITORS, help="which editor; the first that is found if left out")
    parser.add_argument("--print", action="store_true", help="print the link, open nothing")
    add_road_options(parser)
    add_aws_options(parser)


def run(args: argparse.Namespace) -> int:
    from sagemaker_ssh_helper.cli import road
    from sagemaker_ssh_helper.client import connect, ssh_config
    from sagemaker_ssh_helper.client.editors import EDITORS

    connect.find_ssh()
    path = ssh_config.default_path()
    why = ssh_config.why_not_in_effect(path, connect.program_words())
    if why:
        raise LocalSetup(
            "plain ssh does not know the names of containers, so no editor does",
            evidence=why,
            fix="Run: sm-ssh config-ssh",
        )
    ready = road.prepare(*road.asked(args.target, args))
    editor, program = EDITORS[args.app or "vscode"], None
    for candidate in [EDITORS[args.app]] if args.app else EDITORS.values():
        program = candidate.find()
        if program is not None:
            editor = candidate
            break
    found = _probe(ready, args.dir)
    if not found.folder:
        raise UsageError(f"there is no folder {args.dir!r} in {ready.host}", fix="Name one that is there")
    for problem in found.problems(editor):
        say(problem)
    return _open(editor, None if args.print else program, ready, found, is_asked=bool(args.print))


def _probe(ready: Road, folder: str) -> Container:
    from sagemaker_ssh_helper.client import children, connect
    from sagemaker_ssh_helper.client.editors import PROBE, Container

    options, command = connect.for_one_command(), ["sh", "-s", "--", folder]
    argv = connect.ssh_command(ready.host, ready.settings, options=options, command=command)
    try:
        with children.attended(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            told, _ = process.communicate(PROBE.encode(), timeout=_PROBE_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise LocalSetup(f"{ready.host} did not answer in {_PROBE_TIMEOUT:.0f} s") from error
    if process.returncode != 0:
        # ssh has told why.
        raise LocalSetup(
            f"ssh {ready.host} failed with status {process.returncode}", fix="See the lines above"
        )
    return Container.parse(told.decode("utf-8", "replace"))


def _open(editor: Editor, program: str | None, ready: Road, found: Container, *, is_asked: bool) -> int:
    user, host = ready.user, ready.host
    if program is None:
        if not is_asked:
            say(f"no editor was found on PATH; this link opens {editor.label}")
        print(editor.link(user, host, found.folder))
        return 0
    say(f"opening {found.folder} of {host} in {editor.label}")
    sys.stdout.flush()
    return subprocess.call([program, *editor.arguments(user, host, found.folder)], stdin=subprocess.DEVNULL)
