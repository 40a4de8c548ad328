"""
``sm-ssh connect HOST [COMMAND…]``: ssh to a container, with ssh's own options, in one step.
"""

from __future__ import annotations

import os
import sys

from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.via import is_plugin

_HELP = """\
usage: sm-ssh connect [options of ssh] [USER@]HOST [options of ssh] [--] [COMMAND...]

  sm-ssh connect my-job.training.sagemaker
  sm-ssh connect -L 8888:localhost:8888 algo-2.my-job.training.sagemaker
  sm-ssh connect my-job.training.sagemaker -- python -c 'print("as it was given")'

Every option of ssh is passed on, and so is the exit status: the command's, or 255 without a connection.
One word as COMMAND is a line for the remote shell; several arrive there word by word as they were given.
It needs no configuration: nothing of ~/.ssh is read that could weaken the check of the host key.

  --profile NAME, --region REGION
                      which AWS account and region
  --trust-first-use   accept a container whose host key nothing vouches for, and remember that key
  --fresh             read the container's tags again, even if they were read in the last minutes
  --via plugin        let AWS's session-manager-plugin carry the session; the default is --via direct
"""

_OWN = {
    "--profile": True,
    "--region": True,
    "--trust-first-use": False,
    "--fresh": False,
    "--via": True,
    # Of the helper before this one, which forwarded ports unless told not to.
    "--ssh-only": False,
    "--no-default-forwards": False,
}


def run_words(words: list[str]) -> int:
    """Prepare the container, then become ssh."""
    before_command = words[: words.index("--")] if "--" in words else words
    if before_command[:1] in (["-h"], ["--help"]) or before_command[-1:] == ["--help"]:
        print(_HELP, end="")
        return 0
    from sagemaker_ssh_helper.aws.json_rpc import Client
    from sagemaker_ssh_helper.aws.session import Session
    from sagemaker_ssh_helper.client import connect
    from sagemaker_ssh_helper.targets import Target

    asked = connect.split_arguments(words, _OWN)
    target = Target.parse(asked.host)
    via_plugin = is_plugin(asked.own.get("--via"))
    connect.find_ssh()
    if via_plugin:
        from sagemaker_ssh_helper.client import plugin

        plugin.find()
    session = Session.open(asked.own.get("--profile"), asked.own.get("--region"))
    for line in session.warnings:
        say(line)
    trust_first_use = "--trust-first-use" in asked.own
    prepared = connect.prepare(
        Client(session),
        target,
        asked.host,
        user=asked.user,
        trust_first_use=trust_first_use,
        fresh="--fresh" in asked.own,
        tell=say,
    )
    proxy = [*connect.program_words(), "start-proxy", "--region", session.region]
    if asked.own.get("--profile"):
        proxy += ["--profile", asked.own["--profile"]]
    if trust_first_use:
        proxy.append("--trust-first-use")
    if via_plugin:
        proxy += ["--via", "plugin"]
    proxy += ["--instance-id", prepared.instance.id, asked.host]
    argv = connect.ssh_command(
        asked.host,
        user=asked.user or prepared.user,
        proxy=proxy,
        options=asked.options,
        command=asked.command,
        learn_host_key=prepared.pin.host_key is None,
    )
    sys.stdout.flush()
    if sys.platform == "win32":
        import subprocess

        return subprocess.call(argv)
    os.execv(argv[0], argv)
