"""
``sm-ssh continue TARGET``: end the waiting for connections, so that the job goes on.
"""

from __future__ import annotations

from sagemaker_ssh_helper.cli import cmd_exec
from sagemaker_ssh_helper.cli.parser import Parser, add_aws_options, add_road_options


def run_words(words: list[str]) -> int:
    """``sm-wait stop`` in every node; the highest status."""
    parser = Parser(
        prog="sm-ssh continue",
        description="End the waiting for connections in every node of a target, so that its job goes on: the "
        "same as sm-wait stop there.",
        allow_abbrev=False,
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help="as for connect; picked on a terminal")
    add_road_options(parser)
    add_aws_options(parser)
    args = parser.parse_args(words)
    args.targets, args.all, args.json = [args.target] if args.target else [], True, False
    return cmd_exec.execute(args, ["sm-wait", "stop"])
