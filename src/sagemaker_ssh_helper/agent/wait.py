"""
The command ``sm-wait``: wait in a container, see who waits, let the job go on, see how the node is.

Standard library only; Python 3.8.
"""

import os
import sys
import time
from typing import List, Optional, Sequence

from sagemaker_ssh_helper.agent import waiting
from sagemaker_ssh_helper.agent.job_output import let_every_character_be_written
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.errors import SSHHelperError, UsageError

USAGE = """\
usage: sm-wait SECONDS   wait here that long, or until `sm-wait stop`
       sm-wait stop      let everything go on that waits in this container
       sm-wait list      who waits, and how long still
       sm-wait status    how this node is; exit status 0 when it is online
"""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command. Returns its exit status: 0, 1 (not online, or a failure), or 2 (wrong words)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    let_every_character_be_written()
    if words in (["-h"], ["--help"], ["help"]):
        sys.stdout.write(USAGE)
        return 0
    try:
        return _run(words)
    except SSHHelperError as error:
        sys.stderr.write(f"sm-wait: error[{error.id}]: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _run(words: List[str]) -> int:
    if len(words) != 1:
        sys.stderr.write(USAGE)
        return UsageError.exit_code
    word = words[0]
    seconds = _seconds(word)
    if seconds is None and word not in ("stop", "list", "status"):
        raise UsageError(f"sm-wait knows no {word!r}", fix="Say sm-wait SECONDS, stop, list or status")

    state = StateDir.choose(os.environ)
    if seconds is not None:
        with waiting.Waiter(state, "sm-wait", seconds) as waiter:
            sys.stderr.write(f"sm-wait: waiting {seconds} s; end it with: sm-wait stop\n")
            # Before 3.9 a pipe got it only at the end of the wait.
            sys.stderr.flush()
            ran_out = waiter.wait(seconds)
        sys.stderr.write("sm-wait: the time is over\n" if ran_out else "sm-wait: stopped\n")
        return 0
    if word == "stop":
        stopped = waiting.stop_all(state)
        sys.stdout.write(f"stopped {stopped} waiting\n" if stopped else "nothing waits here\n")
        return 0
    if word == "list":
        for entry in waiting.list_all(state):
            left = f"{max(0.0, entry.until - time.time()):.0f} s left" if entry.until else "starting"
            sys.stdout.write(f"{entry.pid}\t{entry.what}\t{left}\n")
        return 0
    lines, online = waiting.describe_status(state)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0 if online else 1


def _seconds(word: str) -> Optional[int]:
    return int(word) if word.isascii() and word.isdigit() and len(word) < 10 else None


if __name__ == "__main__":
    sys.exit(main())
