"""
SageMakerSecureShellHelper: the commands of ``sm-ssh`` for programs.

``python -m sagemaker_ssh_helper.sm_ssh`` is ``sm-ssh``.
"""

from __future__ import annotations

import sys

from sagemaker_ssh_helper.cli.main import main


class SageMakerSecureShellHelper:
    """
    Each method does what the command of its name does, on this process's standard streams, and returns its
    exit status; what went wrong stands on standard error.

    ``profile`` and ``region`` as the options of those names; else the environment's.
    """

    def __init__(self, profile: str | None = None, region: str | None = None) -> None:
        self._options = [
            *(["--profile", profile] if profile else []),
            *(["--region", region] if region else []),
        ]

    def list(self, name: str = "sagemaker") -> int:
        """Show the containers that can be reached: ``training.sagemaker``, ``my-job.training.sagemaker``."""
        return main(["list", *self._options, name])

    def connect(self, fqdn: str, *ssh_arguments: str) -> int:
        """Log in to a container by the local ssh, whose options and remote command may follow."""
        return main(["connect", *self._options, fqdn, *ssh_arguments])

    def start_proxy(self, fqdn: str) -> int:
        """Carry standard input and output to the container's ssh server, as ssh's ProxyCommand does."""
        return main(["start-proxy", *self._options, fqdn])


if __name__ == "__main__":
    sys.exit(main())
