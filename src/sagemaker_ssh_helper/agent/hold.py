"""
The command ``sm-hold``: run the job's command, and keep the container for people when it fails.

Standard library only; Python 3.8.
"""

import contextlib
import os
import signal
import subprocess
import sys
from typing import List, Optional, Sequence, Tuple

from sagemaker_ssh_helper.agent import signals, waiting
from sagemaker_ssh_helper.agent.bootstrap import setup_and_start_ssh
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.errors import SSHHelperError, UsageError, reason_of
from sagemaker_ssh_helper.names import Env

HOLD_SECONDS = 1800
"""How long a container is kept when ``--for`` does not say so."""

END_TIMEOUT = 2.0
"""Seconds that the node's agent may take to end; most often it takes a tenth."""

USAGE = f"""\
usage: sm-hold [--for SECONDS] -- COMMAND [ARGUMENT…]

Runs COMMAND. When it fails the container stays for SECONDS ({HOLD_SECONDS}), or until `sm-wait stop`, so that
you can log in and look. The exit status is that of COMMAND, 128 + N when signal N ended it.
"""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command. Returns its exit status; 126 or 127 when it cannot be run, 2 for wrong words."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        return 0
    try:
        seconds, command = _parse(words)
    except UsageError as error:
        sys.stderr.write(f"sm-hold: error[{error.id}]: {error}\n")
        return error.exit_code
    status = _Holder().run(command, seconds)
    _end_agent()
    return status


def _end_agent() -> None:
    """The container goes: its node should not stay in the list of those that can be reached."""
    if os.environ.get(Env.START_SSH, "").strip().lower() == "true":
        try:
            StateDir.choose(os.environ).end_agent(END_TIMEOUT)
        except (SSHHelperError, OSError):
            # It was told already why there is no ssh.
            pass


def _parse(words: List[str]) -> Tuple[int, List[str]]:
    seconds = HOLD_SECONDS
    if words[:1] == ["--for"]:
        text = words[1] if len(words) > 1 else ""
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise UsageError(f"{text!r} is no number of seconds", fix="Say sm-hold --for 600 -- COMMAND")
        seconds, words = int(text), words[2:]
    if words[:1] != ["--"] or len(words) < 2:
        raise UsageError("there is no command after --", fix="Say sm-hold -- COMMAND, as in sm-hold -- train")
    return seconds, words[1:]


class _Holder:
    """One command, and what the signals that arrive meanwhile mean for it."""

    def __init__(self) -> None:
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._told_to_end = 0
        """The signal that said so."""

    def run(self, command: List[str], seconds: int) -> int:
        wakeup = signals.Wakeup({signal.SIGTERM: self._end, signal.SIGINT: self._end})
        with contextlib.closing(wakeup):
            try:
                self._process = subprocess.Popen(command)
            except OSError as error:
                _say(f"cannot run {command[0]}: {error.strerror}")
                return 127 if isinstance(error, FileNotFoundError) else 126
            if self._told_to_end:
                # It came before there was anybody to hand it to.
                self._process.send_signal(self._told_to_end)
            while True:
                code = self._process.poll()
                if code is not None:
                    break
                wakeup.wait()
        status = code if code >= 0 else 128 - code
        if status and not self._told_to_end:
            self._hold(status, seconds)
        return status

    def _end(self, number: int, frame: object) -> None:
        self._told_to_end = number
        if self._process is not None and (number == signal.SIGTERM or not _in_foreground()):
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                pass

    def _hold(self, status: int, seconds: int) -> None:
        # The command may have failed before it came to this. It never waits here: we do.
        os.environ[Env.WAIT_TIME_SECONDS] = "0"
        setup_and_start_ssh()
        try:
            with waiting.Waiter(StateDir.choose(os.environ), "sm-hold", seconds) as waiter:
                _say(
                    f"the command failed, exit status {status}; kept for {seconds} s, or until: sm-wait stop"
                )
                ran_out = waiter.wait(seconds, unless=lambda: bool(self._told_to_end))
        except (SSHHelperError, OSError) as error:
            _say(f"the container is not kept: {reason_of(error)}")
            return
        _say("the time is over" if ran_out else "stopped")


def _in_foreground() -> bool:
    """Whether a terminal sends its keys' signals to us: then the command gets them, too."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _say(text: str) -> None:
    sys.stderr.write(f"sm-hold: {text}\n")
    # Before 3.9 a pipe got it only at the end.
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
