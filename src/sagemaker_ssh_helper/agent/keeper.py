"""
The process above the node's agent: it starts the agent, and starts it again when it dies.

An agent that ends by itself has said why, and stays ended. One that is killed, or fails in a way that nobody
foresaw, is started again after growing pauses, with the same registration; sshd goes on meanwhile. One that
dies again and again soon after its start is given up. Should this process be killed, the agent goes on.

It forks before it imports anything large, so that it stays small and costs the start no time.

Standard library only; Python 3.8.
"""

import os
import signal
import sys
import time
from typing import List, Optional, Sequence

from sagemaker_ssh_helper.agent import signals

EXIT_DIED = 5
"""The exit status of an agent that failed in a way that nobody foresaw."""

# As for the official agent: it died that often, each time sooner than that many seconds after its start.
QUICK_ENDS = 5
QUICK = 10.0

# Seconds before it is started again, doubled up to the longest; up to half of each is left out by chance.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """
    Keep the agent until it ends: the words of ``node.main``.

    Returns the agent's exit status, or 1 when it was given up.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    keeper = _Keeper(words)
    while True:
        if keeper.fork() == 0:
            try:
                from sagemaker_ssh_helper.agent import node

                return node.main(words)
            except Exception as error:
                from sagemaker_ssh_helper.errors import trace_of

                # Before it could tell anything itself: our standard error is the agent's log.
                sys.stderr.write(f"{trace_of(error)}\n")
                return EXIT_DIED
        status = keeper.wait()
        if status is None:
            status = keeper.pause()
        if status is not None:
            return status


class _Keeper:
    def __init__(self, words: List[str]) -> None:
        self._words = words
        self._agent = 0
        self._began_at = 0.0
        self._told_to_end = False
        self._quick_ends = 0
        self._next_pause = FIRST_PAUSE
        self._was_online = False
        self._how = ""
        self._wakeup = signals.Wakeup({signal.SIGTERM: self._end})

    def _end(self, number: int, frame: object) -> None:
        """The handler of SIGTERM: the agent ends in good order, and is not started again."""
        if not self._told_to_end:
            self._told_to_end = True
            self._pass_on()

    def _pass_on(self) -> None:
        if self._told_to_end and self._agent:
            try:
                os.kill(self._agent, signal.SIGTERM)
            except ProcessLookupError:
                # It ended this moment.
                pass

    def fork(self) -> int:
        """Like os.fork."""
        self._began_at = time.monotonic()
        # The agent's is not for our handler, nor is ours for the agent's copy of it.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        pid = os.fork()
        if pid == 0:
            self._wakeup.close()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        else:
            self._agent = pid
            # It may have come before there was anybody to hand it to.
            self._pass_on()
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return pid

    def wait(self) -> Optional[int]:
        """Until the agent ended; its exit status, or None when it died."""
        while True:
            pid, ended = os.waitpid(self._agent, os.WNOHANG)
            if pid:
                break
            self._wakeup.wait()
        self._agent = 0
        code = os.WEXITSTATUS(ended) if os.WIFEXITED(ended) else -os.WTERMSIG(ended)
        if code >= 0 and code != EXIT_DIED:
            return code
        self._how = "it failed" if code == EXIT_DIED else f"signal {-code}"
        return None

    def pause(self) -> Optional[int]:
        """Until it may be started again; an exit status when it may not."""
        # Only those that see an agent die need them.
        import random

        from sagemaker_ssh_helper.agent.job_output import JobOutput
        from sagemaker_ssh_helper.agent.state import State, StateDir
        from sagemaker_ssh_helper.errors import LocalSetup
        from sagemaker_ssh_helper.names import Line

        path, log, job, _, how_told = self._words
        state = StateDir.open(path)

        def tell(new: State, why: str) -> None:
            _log(why)
            try:
                state.update_status(new, why=why)
            except OSError as error:
                _log(f"the state cannot be written: {error}")

        status = state.read_status()
        self._was_online = self._was_online or (status is not None and status.state is State.ONLINE)
        how = status.why if status is not None and status.state is State.FAILED else self._how
        if time.monotonic() - self._began_at < QUICK:
            self._quick_ends += 1
        else:
            self._quick_ends, self._next_pause = 0, FIRST_PAUSE
        if self._quick_ends == QUICK_ENDS:
            error = LocalSetup(
                f"the agent died {QUICK_ENDS} times soon after its start", evidence=how, fix=f"See {log}"
            )
            tell(State.FAILED, str(error))
            # As long as it never was online whoever waits for that tells it.
            if how_told == "tell-job" or self._was_online:
                JobOutput(int(job)).say(f"{Line.NO_SSH}{error}")
            return 1
        known = status is not None and status.instance_id
        tell(
            State.REGISTERED if known else State.STARTING, f"the agent died ({how}) and will be started again"
        )
        try:
            # Meanwhile whoever wants to end the agent finds us.
            state.write(state.agent_pid, b"%d" % os.getpid())
        except OSError as error:
            _log(f"{state.agent_pid} cannot be written: {error}")
        seconds = self._next_pause * (0.5 + 0.5 * random.random())
        self._next_pause = min(LONGEST_PAUSE, 2 * self._next_pause)
        goes_on_at = time.monotonic() + seconds
        while not self._told_to_end:
            left = goes_on_at - time.monotonic()
            if left <= 0:
                return None
            self._wakeup.wait(left)
        tell(State.FAILED, "the agent was told to end")
        return 0


def _log(text: str) -> None:
    """Our standard error is the agent's log."""
    sys.stderr.write(f"! {text}\n")
    sys.stderr.flush()
