"""
ssh into any running Amazon SageMaker container, by name.

In a container, call :func:`setup_and_start_ssh` once, early in the job's script. On the user's machine
see :mod:`sagemaker_ssh_helper.launch` and :mod:`sagemaker_ssh_helper.wrapper`, and the command ``sm-ssh``.

Importing this package loads the standard library only.
"""

import os.path

TYPE_CHECKING = False
if TYPE_CHECKING:
    # The command looks for modules where it should only when this package is there.
    from datetime import timedelta as _timedelta

with open(os.path.join(os.path.dirname(__file__), "VERSION"), encoding="ascii") as _version_file:
    __version__ = _version_file.read().strip()

if not os.path.exists(os.path.join(os.path.dirname(__file__), "launch.py")):
    # This is the part that travels into a job.
    from sagemaker_ssh_helper import whole_library as _whole_library

    _whole_library.find_rest()


def setup_and_start_ssh() -> None:
    """
    Make this container reachable, and wait for a connection as long as the launch asked.

    Returns when the wait is over (``SSH_WAIT_TIME_SECONDS``, or ``sm-wait stop``); at once when the job was
    not launched with ssh (``START_SSH`` is not ``true``) or another process of this node already called it.
    Never raises: what goes wrong is logged, and shown by ``sm-wait status``.
    """
    from sagemaker_ssh_helper.agent.bootstrap import setup_and_start_ssh

    setup_and_start_ssh()


def is_last_session_timeout(time_delta: "_timedelta") -> bool:
    """
    In a container: whether the last session ended at least that long ago, and none is open.

    Sessions are all that come through Systems Manager, ssh and shells alike, of our agent or an installed
    official one. Before the first one the time counts from when the agent started. Never raises: what cannot
    be seen is said once in the job's log, and the answer is False.
    """
    from sagemaker_ssh_helper.agent.idle import is_last_session_timeout

    return is_last_session_timeout(time_delta)


def is_profiler_issues_found() -> bool:
    """
    In a training job: whether a rule of SageMaker's Profiler, such as LowGPUUtilization, has found issues.

    One call of DescribeTrainingJob, which the job's role must allow. What goes wrong is said once in
    the job's log, and the answer is False. Raises LocalSetup outside of a training job, where it could never
    be true.
    """
    from sagemaker_ssh_helper.agent.profiler_rules import is_profiler_issues_found

    return is_profiler_issues_found()


def is_idle(duration: "_timedelta") -> bool:
    """
    In a container: whether nobody used it for that long. All the time there was no session, every GPU was
    below 5 %, the processors below 10 %, the network below 10 kB/s.

    The first call begins to look, in a thread, every five seconds; so it answers False. What cannot be
    measured counts as busy. Never raises.
    """
    from sagemaker_ssh_helper.agent.idle import is_idle

    return is_idle(duration)
