"""
Signals, whatever whoever started us does about its own: ignored and blocked ones are inherited by programs.

Standard library only; Python 3.8.
"""

import signal


def hear() -> None:
    """
    Learn how children end, and receive every signal.

    Where SIGCHLD is ignored the kernel forgets exit statuses, and every child seems to have succeeded. Set
    handlers before: what was held back arrives at once.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
