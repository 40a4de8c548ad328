"""
``sm-ssh config``: the user's own settings, and where each comes from.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
from typing import Any

from sagemaker_ssh_helper.cli.parser import add_aws_options
from sagemaker_ssh_helper.client import settings, standard_streams
from sagemaker_ssh_helper.client.files import cache_dir, config_dir, state_dir
from sagemaker_ssh_helper.errors import LocalSetup, RegionMissing, UsageError


def add_parser(subparsers: Any) -> None:
    described = "; ".join(f"{name}: {meaning}" for name, meaning in settings.NAMES.items())
    parser = subparsers.add_parser(
        "config",
        help="set what is used when no option says otherwise",
        description=f"Show and change your settings ({described}). Options come first, then the environment, "
        "then these, then AWS's own files. No call is made.",
    )
    add_aws_options(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="what is in force")
    listing.add_argument("--origin", action="store_true", help="and where each comes from")
    for name, meaning in (("get", "print one that is in force"), ("unset", "take one out of the file")):
        verbs.add_parser(name, help=meaning).add_argument("name", metavar="NAME")
    setting = verbs.add_parser("set", help="put one into the file")
    setting.add_argument("name", metavar="NAME")
    setting.add_argument("value", metavar="VALUE")
    verbs.add_parser("edit", help="open the file in $VISUAL or $EDITOR")
    verbs.add_parser("path", help="where the file is, and the others of this program")


def run(args: argparse.Namespace) -> int:
    if args.verb == "list":
        for name, (value, origin) in _in_force(args).items():
            print(f"{name}={value}" + (f"\t{origin}" if args.origin else ""))
    elif args.verb == "get":
        settings.check_name(args.name)
        value, _ = _in_force(args).get(args.name, ("", ""))
        if not value:
            return 1
        print(value)
    elif args.verb in ("set", "unset"):
        settings.change(args.name, args.value if args.verb == "set" else None)
    elif args.verb == "edit":
        _edit()
    else:
        for name, path in (
            ("settings", settings.path()),
            ("keys", config_dir()),
            ("state", state_dir()),
            ("cache", cache_dir()),
        ):
            print(f"{name}={path}")
    return 0


def _in_force(args: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """The settings that have a value now, each with where that comes from."""
    found = {}
    kept = {} if _keys_in_environment() else settings.read()
    for value, origin in (
        (args.profile, "--profile"),
        (os.environ.get("AWS_PROFILE"), "AWS_PROFILE"),
        (os.environ.get("AWS_DEFAULT_PROFILE"), "AWS_DEFAULT_PROFILE"),
        (kept.get("profile"), str(settings.path())),
    ):
        if value:
            found["profile"] = (value, origin)
            break
    try:
        session = settings.open_session(args.profile, args.region)
    except RegionMissing:
        return found
    return {**found, "region": (session.region, session.region_origin)}


def _keys_in_environment() -> bool:
    """They come before a profile that is only a setting."""
    return bool(os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"))


def _edit() -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor and not standard_streams.input_is_terminal():
        raise UsageError("there is no terminal, and no editor is named", fix="Set EDITOR")
    from sagemaker_ssh_helper.client.files import private_dir

    private_dir(config_dir())
    words = [*shlex.split(editor or "vi"), str(settings.path())]
    try:
        status = subprocess.call(
            words, stdin=standard_streams.input_descriptor(), stdout=standard_streams.output_descriptor()
        )
    except OSError as error:
        raise LocalSetup(f"cannot run {words[0]}", evidence=error.strerror, fix="Set EDITOR") from error
    if status:
        raise LocalSetup(f"{words[0]} ended with status {status}", fix="See whether the file was written")
    settings.read()
