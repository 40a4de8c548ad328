"""
Applications of the AWS Cloud Development Kit: ``cdk -a "python -m sagemaker_ssh_helper.cdk.…" deploy STACK``.

They need the ``cdk`` extra, and Node.js.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from sagemaker_ssh_helper.errors import LocalSetup, SSHHelperError, UsageError


def synthesize(add_stacks: Callable[[Any, Any], None]) -> int:
    """
    Write the cloud assembly that ``cdk`` asks for; the exit status.

    ``add_stacks`` is given the application, and the environment of its stacks: the caller's account, and the
    region of AWS_REGION, else the caller's. What it raises of our errors is one line on standard error.
    """
    try:
        try:
            import aws_cdk
        except ImportError as error:
            raise LocalSetup(
                f"the Cloud Development Kit is not there ({error})",
                fix="Install it, in the folder of this package's source: pip install '.[cdk]'",
            ) from error
        app = aws_cdk.App()
        account = os.environ.get("CDK_DEFAULT_ACCOUNT")
        region = os.environ.get("AWS_REGION") or os.environ.get("CDK_DEFAULT_REGION")
        add_stacks(app, aws_cdk.Environment(account=account, region=region))
        app.synth()
    except SSHHelperError as error:
        sys.stderr.write(f"sagemaker-ssh-helper: error[{error.id}]: {error}\n")
        return error.exit_code
    return 0


def context(app: Any, name: str, example: str) -> str:
    """The value that ``cdk -c NAME=VALUE`` gives. Raises UsageError, which shows the example, without one."""
    value = app.node.try_get_context(name)
    if not value:
        raise UsageError(f"{name} is not given", fix=f"Add -c {name}={example}")
    return str(value)
