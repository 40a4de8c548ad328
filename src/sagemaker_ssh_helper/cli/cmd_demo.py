"""``sm-ssh demo``: a training job in a local cloud, and ssh into it, step by step."""

import argparse
from typing import Dict, List

from sagemaker_ssh_helper.errors import UsageError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "demo",
        help="run a training job in a local cloud and ssh into it; no AWS account needed",
        description="Starts a local cloud, runs a training job in it, logs in by ssh, copies files both ways,"
        " reaches a web server in the job through a forwarded port, lets the job go on, and shows what it"
        " left in S3. Exits 0 when every step did what it should, else 1. Nothing of yours is touched: keys,"
        " configuration and files live in a temporary folder.",
    )
    parser.add_argument("script", nargs="?", metavar="SCRIPT", help="your own training script (.py or .sh)")
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="PATH",
        help="a file or folder that the script needs (modules, requirements.txt); may be repeated",
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="CHANNEL=DIR",
        help="a folder to give to the job as an input channel; may be repeated",
    )
    parser.add_argument(
        "--hyperparameter",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a hyperparameter of the job; may be repeated",
    )
    parser.add_argument("--shell", action="store_true", help="open a shell in the job before it is let go on")
    parser.add_argument(
        "--sdk", choices=["boto3", "v2"], default="boto3", help="what launches the job (default: boto3)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from sagemaker_ssh_helper.cli import demo

    job = demo.Job(
        script=args.script,
        sources=args.source,
        inputs=_pairs("--input", args.input),
        hyperparameters=_pairs("--hyperparameter", args.hyperparameter),
        sdk=args.sdk,
    )
    return demo.run(job, demo.Console(), shell=args.shell)


def _pairs(option: str, values: List[str]) -> Dict[str, str]:
    pairs = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise UsageError(f"{option} {value!r} is not of the form NAME=VALUE")
        pairs[key] = text
    return pairs
