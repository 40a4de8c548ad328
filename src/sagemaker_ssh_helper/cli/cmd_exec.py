"""
``sm-ssh exec TARGET… -- COMMAND…``: one command in one container, or in many at once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING

from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.parser import Parser, add_aws_options, add_road_options
from sagemaker_ssh_helper.errors import SSHHelperError, UsageError

if TYPE_CHECKING:
    from sagemaker_ssh_helper.cli.named import Named
    from sagemaker_ssh_helper.cli.road import Wishes

AT_ONCE = 32
"""Connections at a time: each is two processes here."""

_NO_SESSION = 255

_LOOK_INTERVAL = 0.1
"""Seconds between two looks for a signal."""


def parser() -> Parser:
    """The options, without the command."""
    parser = Parser(
        prog="sm-ssh exec",
        usage="sm-ssh exec [options] TARGET... -- COMMAND...",
        description="Run a command in a container, without a terminal there. Its standard input, output and "
        "exit status are the command's. In several containers it gets no input, each line of output has its "
        "container's name in front, and the status is the highest.",
        allow_abbrev=False,
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="as for connect; picked on a terminal")
    parser.add_argument("--all", action="store_true", help="every node of each target")
    parser.add_argument(
        "--json", action="store_true", help="one object at the end: status and output of each container"
    )
    add_road_options(parser)
    add_aws_options(parser)
    return parser


def run_words(words: list[str]) -> int:
    """The words before ``--`` are ours, those after it the command's."""
    end = words.index("--") if "--" in words else len(words)
    args = parser().parse_args(words[:end])
    command = words[end + 1 :]
    if not command:
        raise UsageError(
            "no command is given", fix="Put it after two dashes: sm-ssh exec TARGET -- nvidia-smi"
        )
    return execute(args, command)


def execute(args: argparse.Namespace, command: Sequence[str]) -> int:
    """
    Run ``command`` where ``args`` say: ``targets``, ``all``, ``json``, and the options of the road.

    The exit status of the command, or the highest. Does not return for one container alone.
    """
    from sagemaker_ssh_helper.cli import road
    from sagemaker_ssh_helper.client import connect

    connect.find_ssh()
    asked = [road.asked(text, args) for text in args.targets or [None]]
    if len(asked) > 1 or args.all or args.json:
        return _in_several(asked, args, command)
    ready = road.prepare(*asked[0])
    argv = connect.ssh_command(ready.host, ready.settings, options=connect.for_one_command(), command=command)
    return connect.become(argv)


@dataclass
class _Run:
    """One container, and how the command went there."""

    named: Named
    wishes: Wishes
    label: str
    status: int = _NO_SESSION
    error: SSHHelperError | None = None
    output: list[str] = field(default_factory=list)
    error_output: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None


def _in_several(
    asked: Sequence[tuple[Named, Wishes]], args: argparse.Namespace, command: Sequence[str]
) -> int:
    from sagemaker_ssh_helper.client.children import end_as_told
    from sagemaker_ssh_helper.client.proxy_command import Interrupts

    runs = [run for named, wishes in asked for run in _runs(named, wishes, args.all, len(asked) > 1)]
    terminal = threading.Lock()
    starting = threading.Lock()
    ended = threading.Event()
    is_read = threading.Event()
    is_read.set()

    def end() -> None:
        with starting:
            ended.set()
        for run in runs:
            if run.process is not None and run.process.poll() is None:
                run.process.terminate()

    def carry(stream: IO[str], run: _Run, kept: list[str], shown: IO[str]) -> None:
        with stream:
            for line in stream:
                if args.json:
                    kept.append(line)
                    continue
                with terminal:
                    shown.write(f"{run.label} | {line.rstrip(chr(10))}\n")
                    shown.flush()

    def work(run: _Run) -> None:
        try:
            _start(run, command, starting, ended)
        except SSHHelperError as error:
            run.error = error
            with terminal:
                say(f"{run.label}: error[{error.id}]: {error}")
            return
        if run.process is None:
            return
        assert run.process.stdout is not None
        assert run.process.stderr is not None
        errors = threading.Thread(
            target=carry, args=(run.process.stderr, run, run.error_output, sys.stderr), daemon=True
        )
        errors.start()
        try:
            carry(run.process.stdout, run, run.output, sys.stdout)
        except BrokenPipeError:
            # Whoever reads us has seen enough; the other nodes need not go on either.
            is_read.clear()
            end()
        errors.join()
        run.status = run.process.wait()

    interrupts = Interrupts()
    # Not a pool: its threads would keep us while one of them waits for a container.
    waiting = SimpleQueue[_Run]()
    for run in runs:
        waiting.put(run)
    threads = [
        threading.Thread(target=_work_off, args=(waiting, work), daemon=True)
        for _ in range(min(AT_ONCE, len(runs)))
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and interrupts.received is None:
        for thread in threads:
            thread.join(_LOOK_INTERVAL)
    if interrupts.received is not None:
        end()
        for run in runs:
            if run.process is not None:
                run.process.wait()
    interrupts.release()
    end_as_told(interrupts)
    if not is_read.is_set():
        raise BrokenPipeError
    if args.json:
        print(json.dumps({"schema": 1, "containers": [_entry(run) for run in runs]}))
    _summarize(runs)
    return max(run.status if run.status >= 0 else 128 - run.status for run in runs)


def _work_off(waiting: SimpleQueue[_Run], work: Callable[[_Run], None]) -> None:
    with suppress(Empty):
        while True:
            work(waiting.get_nowait())


def _runs(named: Named, wishes: Wishes, all_nodes: bool, whole_names: bool) -> list[_Run]:
    """One for the target, or one for each of its nodes. Raises what ``instances.resolve`` raises."""
    from dataclasses import replace

    wishes = replace(wishes, alone=False)
    if not all_nodes or named.target.kind is None:
        return [_Run(named, wishes, named.host)]
    suffix = f".{named.target.name}" if whole_names else ""
    return [
        _Run(replace(named, target=replace(named.target, node=node)), wishes, f"{node}{suffix}")
        for node in _nodes(named, wishes)
    ]


def _nodes(named: Named, wishes: Wishes) -> list[str]:
    """Those that registered, those that SageMaker's own road leads to, and those that are still to come."""
    from sagemaker_ssh_helper.aws import instances, native, resources
    from sagemaker_ssh_helper.errors import AccessDenied, TargetOffline
    from sagemaker_ssh_helper.targets import rank_of

    kind, name = named.target.kind, named.target.name
    assert kind is not None, "an instance alone has no nodes"
    known = [instance.node or "algo-1" for instance in instances.instances_of(named.client, kind, name)]
    try:
        resource = resources.describe(named.client, kind, name)
    except AccessDenied:
        resource = None
    if resource is not None and not resource.ended:
        if wishes.wait:
            known += [f"algo-{number}" for number in range(1, resource.ssh_nodes + 1)]
        known += native.nodes(named.client, resource, coming=wishes.wait)
    if not known:
        try:
            # Says why there is none.
            known.append(instances.resolve(named.client, named.target).node or "algo-1")
        except TargetOffline as error:
            if not (error.may_come and wishes.wait):
                raise
            known.append("algo-1")
    return sorted(set(known), key=rank_of)


def _start(run: _Run, command: Sequence[str], starting: threading.Lock, ended: threading.Event) -> None:
    from sagemaker_ssh_helper.cli import road
    from sagemaker_ssh_helper.client import connect

    ready = road.prepare(run.named, run.wishes)
    options = ["-n", *connect.for_one_command()]
    argv = connect.ssh_command(ready.host, ready.settings, options=options, command=command)
    with starting:
        if ended.is_set():
            return
        run.process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )


def _entry(run: _Run) -> dict[str, object]:
    return {
        "host": run.named.host,
        "status": run.status,
        "error": run.error.id if run.error else None,
        "stdout": "".join(run.output),
        "stderr": "".join(run.error_output),
    }


def _summarize(runs: Sequence[_Run]) -> None:
    good = sum(run.status == 0 for run in runs)
    line = f"{len(runs)} node{'s' if len(runs) > 1 else ''}, {good} ok"
    if good < len(runs):
        line += "; " + ", ".join(f"{run.label}: {run.status}" for run in runs if run.status != 0)
    say(line)
