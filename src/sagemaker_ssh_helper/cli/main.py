"""
Which command is meant; what its errors look like and what they return.

Nothing is imported that the command at hand does not need: ``--version`` loads no parser, ``start-proxy`` no
boto3. A command's module has ``run_words(words) -> int`` when it reads its own words, else
``add_parser(subparsers)`` and ``run(args) -> int``.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TYPE_CHECKING

from sagemaker_ssh_helper import __version__
from sagemaker_ssh_helper.client import standard_streams
from sagemaker_ssh_helper.client.terminal_text import escaped
from sagemaker_ssh_helper.errors import SSHHelperError, UsageError, kind_and_reason, trace_of
from sagemaker_ssh_helper.names import Env

if TYPE_CHECKING:
    from types import ModuleType

COMMANDS = {
    "connect": "open a shell in a container, or run a command there",
    "exec": "run a command in one container, or in many",
    "cp": "copy files to or from a container",
    "forward": "bring a container's ports to this machine",
    "session": "open any kind of session: a shell, or a command, without ssh",
    "list": "show the containers that can be reached",
    "status": "say what a target is, and whether it can be reached",
    "wait": "wait until a target can be reached, runs, or has ended",
    "logs": "show what a target's containers wrote",
    "continue": "let a job go on that waits for connections",
    "enable": "make a running training job reachable that was launched without ssh",
    "disable": "turn a training job's remote debugging off again",
    "stop": "have SageMaker stop a job",
    "ide": "open a container's folder in an editor",
    "doctor": "find what keeps a connection from being made",
    "config": "set what is used when no option says otherwise",
    "config-ssh": "teach plain ssh the names of containers",
    "start-proxy": "carry ssh's bytes to a container (for ProxyCommand)",
    "known-hosts": "print a container's pinned host key (for KnownHostsCommand)",
    "completion": "make the Tab key know commands and names",
    "explain": "say what an error id means, and what to do",
    "deregister": "take the instances of containers that are gone off the account",
    "emulator": "run AWS's part on this machine, to try things without an account",
    "demo": "run a training job in the local cloud and log in to it",
}

_ALIASES = {"ssh": "connect", "ls": "list"}
# ssh's own status for "no connection": what runs ssh or is run by it cannot tell more, and every other number
# may be that of the remote command.
_OWN_FAILURE = ("start-proxy", "session")
# They lend the terminal to programs that they start, and look for credentials nowhere but in their own cloud.
_HOSTS = ("emulator", "demo")
_GLOBAL_OPTIONS = ("--profile", "--region")


def main(argv: list[str] | None = None) -> int:
    """Run ``sm-ssh`` with these words (those of the process if None); the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = ""
    _open_closed_descriptors()
    try:
        command, words = _dispatch(words)
        if sys.stdout is None and command != "start-proxy":
            sys.stdout = os.fdopen(1, "w", closefd=False)
        _let_every_character_be_written()
        if command not in _HOSTS:
            standard_streams.set_apart()
        status = _run(command, words)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except SSHHelperError as error:
        say(f"error[{error.id}]: {error}")
        return 255 if command in _OWN_FAILURE else error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever reads our output has seen enough. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), standard_streams.output_descriptor())
        return 141
    except Exception as error:
        if interrupted(error):
            return 130
        if os.environ.get(Env.DEBUG, "").lower() == "true":
            print(trace_of(error), file=sys.stderr)
        # Not its text, which may quote a key, or what went over the line.
        say(f"error[internal]: {_one_line(kind_and_reason(error))}{_keep_traceback(error)}")
        return 255 if command in _OWN_FAILURE else 1
    finally:
        standard_streams.give_back()


def interrupted(error: BaseException | None) -> bool:
    """
    Whether this is an interrupt, or came of one.

    One that falls between the two halves of handing a lock over ends, in Python's ``threading``, in the
    complaint that nobody holds the lock.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _open_closed_descriptors() -> None:
    """
    Put /dev/null where our caller left a standard descriptor closed.

    The next file or socket that is opened would else take its number, and be read as our input or get our
    messages. ``sys.stdout`` stays None: ``start-proxy`` has to tell that nobody can hear it.
    """
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            break
        # What other programs of ours inherit it for.
        os.set_inheritable(descriptor, True)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _let_every_character_be_written() -> None:
    """In a locale whose encoding lacks some of them, those are shown as others, and end nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            codecs.register_error("sm-ssh", _plainer)
            stream.reconfigure(errors="sm-ssh")


def _plainer(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError), "streams that are written are encoded"
    lacking = error.object[error.start : error.end]
    return "".join("..." if character == "…" else "?" for character in lacking), error.end


def say(line: str) -> None:
    """One line for the user, on standard error."""
    # Some of it was said by a container or by whatever answers in AWS's place.
    print(f"sm-ssh: {escaped(line)}", file=sys.stderr, flush=True)


def _dispatch(words: list[str]) -> tuple[str, list[str]]:
    """The command and its words. Options that every command takes may stand before it."""
    leading: list[str] = []
    while words and words[0].partition("=")[0] in _GLOBAL_OPTIONS:
        name, equals, _ = words[0].partition("=")
        size = 1 if equals else 2
        if len(words) < size:
            raise UsageError(f"option {name} needs a value")
        leading += words[:size]
        words = words[size:]
    if not words and _on_a_terminal():
        return "connect", leading
    if not words or words[0] in ("-h", "--help", "help"):
        if len(words) > 1 and words[0] == "help":
            return _command(words[1]), ["--help"]
        return "--help", []
    first, rest = words[0], words[1:]
    if first in ("-v", "--version"):
        return "--version", []
    command = _ALIASES.get(first, first)
    if command in COMMANDS:
        return command, leading + rest
    near = _near_command(first)
    # A name has a digit in it, nearly always; the words of a command never do.
    if _looks_like_target(first) and (not near or any(letter.isdigit() for letter in first)):
        return "connect", leading + words
    return _command(first), []


def _command(word: str) -> str:
    """The command of this name. Raises UsageError with the one that may be meant."""
    command = _ALIASES.get(word, word)
    if command in COMMANDS:
        return command
    near = _near_command(word)
    raise UsageError(
        f'no command "{_one_line(word)}"' + (f'; did you mean "{near[0]}"?' if near else ""),
        fix=None if near else "See: sm-ssh --help",
    )


def _near_command(word: str) -> list[str]:
    import difflib

    return difflib.get_close_matches(word, [*COMMANDS, *_ALIASES], n=1, cutoff=0.75)


def _on_a_terminal() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))


def _looks_like_target(word: str) -> bool:
    import re

    return (
        re.fullmatch(r"(?:[\w.-]+@)?[A-Za-z0-9][A-Za-z0-9.-]*|@last|(?:arn:|https://)\S+", word) is not None
    )


def _run(command: str, words: list[str]) -> int:
    if command == "--version":
        print(__version__)
        return 0
    if command == "--help":
        print(help_text(), end="")
        return 0
    _set_up_logging(command)
    module = _load(command)
    run_words = getattr(module, "run_words", None)
    if run_words is not None:
        return int(run_words(words))
    from sagemaker_ssh_helper.cli.parser import Parser

    parser = Parser(prog="sm-ssh", allow_abbrev=False)
    subparsers = parser.add_subparsers(required=True)
    module.add_parser(subparsers)
    # Straight to the command's own parser, so that a complaint names its help.
    return int(module.run(subparsers.choices[command].parse_args(words)))


def _load(command: str) -> ModuleType:
    import importlib

    return importlib.import_module(f"sagemaker_ssh_helper.cli.cmd_{command.replace('-', '_')}")


def help_text() -> str:
    """What ``sm-ssh --help`` prints."""
    lines = [
        "sm-ssh: a shell in any running Amazon SageMaker container, by name",
        "",
        "  sm-ssh                                       pick a container, and log in",
        "  sm-ssh my-job                                log in: a name, or its beginning, is enough",
        "  sm-ssh connect my-job.training.sagemaker nvidia-smi",
        "  sm-ssh config-ssh && ssh my-job.training.sagemaker",
        "",
        "Commands (sm-ssh COMMAND --help tells more):",
        *(f"  {name:<12} {text}" for name, text in COMMANDS.items()),
        "",
        "Options of every command that calls AWS:",
        "  --profile NAME   credentials and region of this profile",
        "  --region REGION  instead of AWS_REGION, AWS_DEFAULT_REGION and the profile's",
        "",
        "  -v, --version    print the version",
        "  -h, --help       print this",
        "",
        f"Set {Env.DEBUG}=true for a log of each run. Nothing is sent anywhere but to your AWS account.",
    ]
    return "".join(f"{line}\n" for line in lines)


def _set_up_logging(command: str) -> None:
    """With SM_SSH_DEBUG=true a private log file; else silence: users get errors, not logs."""
    import logging

    logger = logging.getLogger("sagemaker_ssh_helper")
    if os.environ.get(Env.DEBUG, "").lower() != "true":
        logger.addHandler(logging.NullHandler())
        return
    from sagemaker_ssh_helper.cli import logs

    path = logs.start(command)
    say(f"log of this run: {path}")


def _keep_traceback(error: BaseException) -> str:
    """Write where an unexpected error came from to a private file; the words that name it."""
    from sagemaker_ssh_helper.cli import logs

    try:
        return f". The details are in {logs.keep(error)}"
    except (OSError, SSHHelperError):
        return f". Set {Env.DEBUG}=true to see the details"


def _one_line(text: str) -> str:
    return " ".join(text.split())
