"""
``sm-ssh connect HOST [COMMAND…]``: ssh to a container, with ssh's own options, in one step.
"""

from __future__ import annotations

import os
import sys

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
  --no-wait           do not wait for a container that is still starting
  --via plugin        let AWS's session-manager-plugin carry the session; the default is --via direct
"""

_OWN = {
    "--profile": True,
    "--region": True,
    "--trust-first-use": False,
    "--fresh": False,
    "--no-wait": False,
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
    from sagemaker_ssh_helper.cli import named
    from sagemaker_ssh_helper.cli.road import Wishes, prepare
    from sagemaker_ssh_helper.client import connect

    asked = connect.split_arguments(words, _OWN)
    wishes = Wishes(
        user=asked.user,
        trust_first_use="--trust-first-use" in asked.own,
        fresh="--fresh" in asked.own,
        via_plugin=is_plugin(asked.own.get("--via")),
        wait="--no-wait" not in asked.own,
    )
    connect.find_ssh()
    found = named.find(asked.host, asked.own.get("--profile"), asked.own.get("--region"))
    road = prepare(found, wishes)
    argv = connect.ssh_command(found.host, road.settings, options=asked.options, command=asked.command)
    sys.stdout.flush()
    if sys.platform == "win32":
        import subprocess

        return subprocess.call(argv)
    os.execv(argv[0], argv)
