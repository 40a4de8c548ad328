"""
``sm-ssh cp SOURCE… DESTINATION``: files and folders to a container, or from one; OpenSSH's sftp carries them.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.parser import add_aws_options, add_road_options
from sagemaker_ssh_helper.errors import CopyFailed, SshMissing, UsageError

if TYPE_CHECKING:
    from sagemaker_ssh_helper.cli.road import Road

_LINES = 3
"""Of what sftp said last: how many are shown."""

_LAST_LINES_TIMEOUT = 2.0  # seconds

_FULL = 64
"""KiB: a disk with less has no room for what was being copied."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "cp",
        help="copy files to or from a container",
        description="Copy files between this machine and a container, named as TARGET:PATH. A path that does "
        "not begin with / is below the login's home. Names are taken as they are: no pattern is expanded in "
        "the container. On a terminal the rate and the time left are shown.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="sources, then the destination; one side is TARGET:PATH"
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="folders too, with all in them")
    parser.add_argument("-p", "--preserve", action="store_true", help="keep modes and times")
    parser.add_argument("--resume", action="store_true", help="go on with files that were copied in part")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    add_road_options(parser)
    add_aws_options(parser)


@dataclass(frozen=True)
class Place:
    """A path, and the container it is in; None for this machine."""

    target: str | None
    path: str

    @classmethod
    def parse(cls, text: str) -> Place:
        """``TARGET:PATH``; a colon behind a slash, or behind one letter on Windows, is part of a path."""
        target, colon, path = text.partition(":")
        is_drive = sys.platform == "win32" and len(target) == 1
        # An ARN's own colons end before its last slash.
        if text.startswith("arn:"):
            head, _, tail = text.rpartition("/") if text.count(":") == 5 else text.partition("/")
            name, colon, path = tail.partition(":")
            target = f"{head}/{name}"
        if not colon or not target or ("/" in target and not target.startswith("arn:")) or is_drive:
            return cls(None, text)
        return cls(target, path)


def run(args: argparse.Namespace) -> int:
    places = [Place.parse(text) for text in args.paths]
    if len(places) < 2:
        raise UsageError("cp takes a source and a destination", fix="See: sm-ssh cp --help")
    sources, destination = places[:-1], places[-1]
    targets = {place.target for place in sources}
    if len(targets) > 1 or (destination.target is None) == (targets == {None}):
        raise UsageError(
            "one side of cp is a container, the other this machine",
            evidence=f"from {', '.join(_shown(place) for place in sources)} to {_shown(destination)}",
            fix="Name the container's side TARGET:PATH; between two containers copy through this machine",
        )
    lines = [_upload(source, destination, args) for source in sources]
    if destination.target is None:
        if len(sources) > 1 and not Path(destination.path).is_dir():
            raise UsageError(f"{destination.path!r} is no folder", fix="Several files need one to go into")
        lines = [_line("get", _remote(source.path), destination.path, args) for source in sources]
    sftp = shutil.which("sftp")
    if sftp is None:
        raise SshMissing("sftp was not found", fix="Install OpenSSH's client, and see that sftp is on PATH")
    from sagemaker_ssh_helper.cli import road
    from sagemaker_ssh_helper.client import children, connect, ssh_options

    (target,) = {*targets, destination.target} - {None}
    ready = road.prepare(*road.asked(target, args))
    # sftp asks for a subsystem by itself, and a session that is to be of another type is refused.
    own = [one for one in ssh_options.of_one_command(connect.find_ssh()) if not one.startswith("SessionType")]
    settings = connect.with_o((*ready.settings.safe, *own, *ready.settings.defaults))
    shows = not args.quiet and sys.stderr.isatty() and os.environ.get("TERM") not in (None, "dumb")
    if shows:
        # A batch begins with it off; that it is on now is said, which nobody wants to read.
        lines[:0] = ["@progress"] if sys.platform == "win32" else ["@progress", r"@!printf '\033[A\033[2K'"]
    with children.attended(
        [sftp, *settings, "-b", "-", "--", ready.host],
        stdin=subprocess.PIPE,
        # What it shows is talk.
        stdout=sys.stderr.fileno() if shows else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        said = _Said(process)
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
        status = process.wait()
        said.finish()
    if status in (0, 255) and (status == 0 or said.an_error):
        return status
    raise CopyFailed(
        "nothing more is copied" if status == 255 else "not everything was copied",
        evidence=_cause(said.lines, ready, destination),
        fix=f"To go on with what is there: {_again(args)}",
        status=status,
    )


class _Said:
    """
    What sftp, and what it started, say on standard error.

    Lines of ours are for the user now; the others tell why, if it fails.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.lines: deque[str] = deque(maxlen=_LINES)
        self.an_error = False
        assert process.stderr is not None
        self._stream = process.stderr
        self._reader = threading.Thread(target=self._read, name="sftp", daemon=True)
        self._reader.start()

    def finish(self) -> None:
        """Take the last lines. What sftp started, and outlives it, is not waited for long."""
        self._reader.join(_LAST_LINES_TIMEOUT)

    def _read(self) -> None:
        for raw in iter(self._stream.readline, b""):
            line = raw.decode("utf-8", "replace").strip()
            if line.startswith("sm-ssh: "):
                say(line.removeprefix("sm-ssh: "))
                self.an_error |= line.startswith("sm-ssh: error[")
            elif line:
                self.lines.append(line)


def _cause(lines: Sequence[str], ready: Road, destination: Place) -> str:
    said = "; ".join(lines)
    # The protocol has one word for all that its authors did not think of.
    if destination.target is not None and lines and lines[-1].endswith(": Failure"):
        path = _remote(destination.path)
        free = _free_space(ready, path)
        if free is not None and free < _FULL:
            return f"{said}; the disk of {path} in the container is full"
    return said or "sftp does not say why"


def _free_space(ready: Road, path: str) -> int | None:
    """KiB that are free in the container where ``path`` is; None when it cannot be told."""
    from sagemaker_ssh_helper.client import children, connect

    ask = 'p=$1; [ -e "$p" ] || p=$(dirname -- "$p"); df -Pk -- "$p"'
    argv = connect.ssh_command(
        ready.host, ready.settings, options=connect.for_one_command(), command=["sh", "-c", ask, "sh", path]
    )
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with children.attended(argv, **pipes) as process:
        told, _ = process.communicate()
    found = re.search(rb"(\d+) +\d+% [^\n]*\s*$", told)
    return int(found[1]) if found else None


def _again(args: argparse.Namespace) -> str:
    options = [word for word, chosen in (("-r", args.recursive), ("-p", args.preserve)) if chosen]
    for name in ("profile", "region"):
        if value := getattr(args, name):
            options += [f"--{name}", value]
    return shlex.join(["sm-ssh", "cp", "--resume", *options, *args.paths])


def _upload(source: Place, destination: Place, args: argparse.Namespace) -> str:
    path = Path(source.path)
    if source.target is None:
        if not path.exists():
            raise UsageError(f"there is no file {source.path!r}")
        if path.is_dir() and not args.recursive:
            raise UsageError(f"{source.path!r} is a folder", fix="Copy it with all in it: sm-ssh cp -r")
    return _line("put", source.path, _remote(destination.path), args)


def _line(command: str, source: str, destination: str, args: argparse.Namespace) -> str:
    """One line of sftp's batch language. Raises UsageError for a name that it cannot hold."""
    if any(character in name for name in (source, destination) for character in "\n\r\0"):
        raise UsageError("a name with a line end cannot be copied by sftp", fix="Pack it with tar first")
    options = "".join(
        f" -{letter}"
        for letter, chosen in (("R", args.recursive), ("p", args.preserve), ("a", args.resume))
        if chosen
    )
    return f"@{command}{options} {quoted(source)} {quoted(destination)}"


def quoted(name: str) -> str:
    """The name as sftp reads it back: one word, and no pattern. A name that begins with - is a path."""
    if name.startswith("-"):
        name = f"./{name}"
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _remote(path: str) -> str:
    """sftp begins in the login's home and knows no ~."""
    if path in ("", "~", "~/"):
        return "."
    return path.removeprefix("~/")


def _shown(place: Place) -> str:
    return f"{place.target}:{place.path}" if place.target else place.path
