"""
The set-up: from a call in the user's script to an agent that is online.

Two processes share the work. This module is the *caller*, in the user's script: it takes the node's lock,
keeps the script's environment, starts the second process and waits as long as it was told to. The second one,
``node`` below its ``keeper``, is in a session of its own and makes everything that takes time. So the script
is never held up by more than it asked for, and whatever goes wrong stays in the other process, in one line of
the job's log and in ``sm-wait status``.

Standard library only; Python 3.8.
"""

import contextlib
import os
import subprocess
import time
from typing import Iterator, List, Mapping

from sagemaker_ssh_helper.agent import environment, resource
from sagemaker_ssh_helper.agent.job_output import say
from sagemaker_ssh_helper.agent.resource import Resource
from sagemaker_ssh_helper.agent.state import Lock, State, StateDir, Status, explained_os_error
from sagemaker_ssh_helper.agent.waiting import Waiter, true_status
from sagemaker_ssh_helper.errors import LocalSetup, SSHHelperError, reason_of
from sagemaker_ssh_helper.names import DOMAIN, Env, Line

START_TIMEOUT = 60.0
"""Seconds that a script which waits for connections waits for the node to come online, at most."""

# From the lock to the new state; most often it is a thousandth of this.
_BEGIN_TIMEOUT = 2.0

_KEEPER = "sagemaker_ssh_helper.agent.keeper"


def setup_and_start_ssh() -> None:
    """See :func:`sagemaker_ssh_helper.setup_and_start_ssh`."""
    try:
        if os.environ.get(Env.START_SSH, "").strip().lower() == "true":
            _set_up(os.environ)
    except Exception as error:  # whatever it is, the job goes on
        say(f"{Line.NO_SSH}{reason_of(error)}")


def _set_up(environ: Mapping[str, str]) -> None:
    here = resource.identify(environ, resource.base_dir(environ))
    if not resource.is_wanted(here, environ):
        say(f"no ssh on {here.node}: {Env.INSTANCE_COUNT} leaves it out")
        return
    state = StateDir.choose(environ)
    lock = state.try_agent_lock()
    if lock is None:
        # Another process of this node is at it, or was.
        _refuse_shared(state)
        return
    wait_time = _wait_time(environ)
    with lock, contextlib.ExitStack() as stack:
        with _failures_told(state):
            state.begin(why="setting up")
            environment.save(state, os.environb, _current_folder())
            environment.link_package(state)
            waiter = None
            if wait_time:
                # Made before anybody can be here, so that an early `sm-wait stop` is not lost.
                waiter = stack.enter_context(Waiter(state, "setup_and_start_ssh"))
            _start_agent_process(state, lock, tell_job=waiter is None)
        lock.release()
        if waiter is not None:
            _wait(state, waiter, here, wait_time)


def _refuse_shared(state: StateDir) -> None:
    """Raise LocalSetup when the agent with this folder is another container's: homes can be shared."""
    own = os.uname().nodename
    host = _host(state)
    if host not in ("", own):
        # It may tell of an earlier container until the other process has begun.
        time.sleep(_BEGIN_TIMEOUT)
        host = _host(state)
    if host not in ("", own):
        raise LocalSetup(
            f"another container, {host}, has its files in {state.path}",
            fix=f"Set {Env.STATE_DIR} to a folder that this container has for itself",
        )


def _host(state: StateDir) -> str:
    status = state.read_status()
    return "" if status is None else status.host


@contextlib.contextmanager
def _failures_told(state: StateDir) -> Iterator[None]:
    """What goes wrong is raised as our error, once the node's state says the same, if it can be made to."""
    try:
        yield
    except (SSHHelperError, OSError) as error:
        told = error if isinstance(error, SSHHelperError) else explained_os_error(error, state.path)
        try:
            state.update_status(State.FAILED, why=str(told))
        except OSError:
            pass
        raise told from error


def _wait_time(environ: Mapping[str, str]) -> float:
    text = environ.get(Env.WAIT_TIME_SECONDS, "").strip()
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        say(f"{Env.WAIT_TIME_SECONDS} is {text!r}, which is no number of seconds: not waiting")
        return 0.0


def _current_folder() -> bytes:
    try:
        return os.getcwdb()
    except OSError:
        # It was removed under us.
        return b"/"


def _start_agent_process(state: StateDir, lock: Lock, *, tell_job: bool) -> None:
    """Start it so that it is no child of the user's script, which may wait for children of its own."""
    log_path, how = state.agent_log, "tell-job" if tell_job else "quiet"
    arguments = [state.path, log_path, str(os.getpid()), str(lock.fileno), how]
    command = environment.python_command(state, _KEEPER, arguments)
    environ, left_out = environment.passable(os.environb)
    if left_out:
        names = ", ".join(name.decode("ascii", "backslashreplace") for name in left_out)
        say(f"no program can be started with variables as large as {names}: logins go without them")
    try:
        with open(log_path, "ab") as log:
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock.fileno],
                start_new_session=True,
                env=environ,
                check=True,
            )
    except (OSError, subprocess.SubprocessError) as error:
        evidence = reason_of(error)
        if isinstance(error, OSError):
            evidence = f"{error.strerror}: {error.filename!r}"
        raise LocalSetup(
            "the agent's process cannot be started",
            evidence=evidence,
            fix=f"It takes /bin/sh, one more process, and room for {log_path}",
        ) from error


def _wait(state: StateDir, waiter: Waiter, here: Resource, seconds: float) -> None:
    """Wait for the node, then for people: never more than ``seconds`` from when it is online."""
    began_at = time.monotonic()
    found: List[Status] = []

    def is_decided() -> bool:
        status = true_status(state)
        if status is not None and status.state in (State.ONLINE, State.FAILED):
            found.append(status)
        return bool(found)

    waiter.wait(min(START_TIMEOUT, seconds), unless=is_decided)
    if waiter.ended:
        say("the wait was ended before the node was online")
        return
    left = seconds
    if not found:
        left -= time.monotonic() - began_at
        say("not online yet; it goes on in the background. See: sm-wait status")
    elif found[0].state is State.FAILED:
        say(f"{Line.NO_SSH}{found[0].why}. Log: {found[0].log}")
        return
    else:
        node = "" if here.rank == 0 else f"{here.node}."
        host = f"{node}{here.name}.{here.kind.domain}.{DOMAIN}"
        say(f"online as {found[0].instance_id}. Connect: ssh {host}")
    if left > 0:
        say(f"waiting {left:.0f} s for a connection; the job goes on then, or after: sm-wait stop")
        ran_out = waiter.wait(left, unless=lambda: _has_failed(state))
        say("the wait is over" if ran_out else "the wait was ended")


def _has_failed(state: StateDir) -> bool:
    status = true_status(state)
    return status is not None and status.state is State.FAILED
