"""
SageMakerSecureShellHelper: names of containers taken apart, and the commands of ``sm-ssh`` for programs.

``python -m sagemaker_ssh_helper.sm_ssh`` is ``sm-ssh``.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from sagemaker_ssh_helper import __version__
from sagemaker_ssh_helper.cli.main import main
from sagemaker_ssh_helper.errors import UsageError
from sagemaker_ssh_helper.names import DOMAIN, ResourceKind

_IDE = "ide"
"""What an app of Studio is called here: its host names say ``studio``."""


def read_version() -> str:
    """The version of this package."""
    return __version__


class SageMakerSecureShellHelper:
    """
    What a host name holds; and methods that do what the command of their name does, on this process's
    standard streams, and return its exit status: what went wrong stands on standard error.
    """

    resources = [_IDE, "training", "processing", "transform", "inference", "notebook"]

    @staticmethod
    def fqdn_to_type(fqdn: str) -> str:
        """``training`` of ``x.training.sagemaker``, ``ide`` of Studio's. Raises UsageError, a ValueError."""
        return _parts(fqdn)[1]

    @classmethod
    def type_to_fqdn(cls, resource_type: str) -> str:
        """The end of the host names of a type, ``training.sagemaker``. Raises UsageError for another word."""
        if resource_type not in cls.resources:
            raise UsageError(
                f"{resource_type!r} is not a type of container",
                fix=f"The types are {', '.join(cls.resources)}",
            )
        domain = ResourceKind.STUDIO.domain if resource_type == _IDE else resource_type
        return f"{domain}.{DOMAIN}"

    @staticmethod
    def fqdn_to_name(fqdn: str) -> str:
        """The first part, a job's or an app's name; empty in ``training.sagemaker``. Raises UsageError."""
        names = _parts(fqdn)[0]
        return names[0] if names else ""

    @staticmethod
    def fqdn_to_studio_domain_id(fqdn: str) -> str:
        """``d-…`` of ``app.user.d-….studio.sagemaker``; empty where none is named. Raises UsageError."""
        names = _parts(fqdn)[0]
        return names[2] if len(names) > 2 else ""

    @staticmethod
    def fqdn_to_studio_user_name(fqdn: str) -> str:
        """The user, or space, of ``app.user.d-….studio.sagemaker``; else empty. Raises UsageError."""
        names = _parts(fqdn)[0]
        return names[1] if len(names) > 1 else ""

    @staticmethod
    def print_version() -> None:
        """Print the version of this package."""
        print(__version__)

    def list(self, fqdn: str = DOMAIN) -> int:
        """Show the containers that can be reached: ``training.sagemaker``, ``my-job.training.sagemaker``."""
        return main(["list", fqdn])

    @staticmethod
    def start_proxy(fqdn: str) -> int:
        """Carry standard input and output to the container's ssh server, as ssh's ProxyCommand does."""
        return main(["start-proxy", fqdn])

    def connect_ports(self, fqdn: str, extra_args: str | Sequence[str] = "") -> int:
        """
        Log in to a container by the local ssh, with the ports of ``sm-ssh connect`` forwarded.

        ``extra_args`` are options of ssh and a remote command, in one text as people type them, or as words.
        """
        words = shlex.split(extra_args) if isinstance(extra_args, str) else extra_args
        return main(["connect", fqdn, *words])


def _parts(fqdn: str) -> tuple[list[str], str]:
    """The names before the type, and the type."""
    *names, domain, end = fqdn.split(".") if "." in fqdn else ("", "")
    kinds = [kind.domain for kind in ResourceKind]
    if end.lower() != DOMAIN or domain.lower() not in kinds or not all(names):
        raise UsageError(
            f"{fqdn!r} is not the name of a container",
            fix=f"Name one as NAME.TYPE.{DOMAIN}; TYPE is one of {', '.join(kinds)}",
        )
    is_studio = domain.lower() == ResourceKind.STUDIO.domain
    return names, _IDE if is_studio else domain.lower()


if __name__ == "__main__":
    sys.exit(main())
