"""
ssh into any running Amazon SageMaker container, by name.

In a container, call :func:`setup_and_start_ssh` once, early in the job's script. On the user's machine
see :mod:`sagemaker_ssh_helper.launch` and :mod:`sagemaker_ssh_helper.wrapper`, and the command ``sm-ssh``.

Importing this package loads the standard library only.
"""

import os.path

with open(os.path.join(os.path.dirname(__file__), "VERSION"), encoding="ascii") as _version_file:
    __version__ = _version_file.read().strip()


def setup_and_start_ssh() -> None:
    """
    Make this container reachable, and wait for a connection as long as the launch asked.

    Returns when the wait is over (``SSH_WAIT_TIME_SECONDS``, or ``sm-wait stop``); at once when the job was
    not launched with ssh (``START_SSH`` is not ``true``) or another process of this node already called it.
    Never raises: what goes wrong is logged, and shown by ``sm-wait status``.
    """
    from sagemaker_ssh_helper.agent.bootstrap import setup_and_start_ssh

    setup_and_start_ssh()
