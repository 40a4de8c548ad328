"""
``sm-ssh connect HOST [COMMAND…]``: ssh to a container, with ssh's own options, in one step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.via import is_plugin

if TYPE_CHECKING:
    from sagemaker_ssh_helper.cli.road import Road

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
  --no-default-forwards
                      forward no ports unless asked to; without it, and without a COMMAND, the container's ssh
                      server is a port here (11022 for a training job), and port 12345 there is 12345 here
  --via plugin        let AWS's session-manager-plugin carry the session; the default is --via direct
"""

_OWN = {
    "--profile": True,
    "--region": True,
    "--trust-first-use": False,
    "--fresh": False,
    "--no-wait": False,
    "--via": True,
    "--no-default-forwards": False,
    # The same, as the helper before this one had it.
    "--ssh-only": False,
}
_SILENT = {"--no-default-forwards", "--ssh-only"}


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
    options = list(asked.options)
    if asked.command:
        options += connect.with_o(["RemoteCommand=none"])
    elif not _SILENT & asked.own.keys():
        options += [*_default_forwards(road), *connect.with_o(["ExitOnForwardFailure=no"])]
    argv = connect.ssh_command(found.host, road.settings, options=options, command=asked.command)
    return connect.become(argv)


def _default_forwards(road: Road) -> list[str]:
    """Options of ssh for the ports that a login has brought along since the helper before this one."""
    from sagemaker_ssh_helper.cli.local_ports import DEBUGGER_PORT, LOOPBACK, defaults, with_free_ports
    from sagemaker_ssh_helper.client import keys, older_settings
    from sagemaker_ssh_helper.names import ResourceKind

    options = []
    brought = with_free_ports(LOOPBACK, defaults(road.kind, road.ssh_port))
    for forward in brought:
        options += ["-L", f"{LOOPBACK}:{forward.near}:{forward.host}:{forward.far}"]
    if brought:
        say(
            f"{LOOPBACK}:{brought[0].near} is the ssh server of {road.host}; --no-default-forwards leaves "
            "such ports out"
        )
        options += ["-R", f"{LOOPBACK}:{DEBUGGER_PORT}:localhost:{DEBUGGER_PORT}"]
    license_server = older_settings.load().get(older_settings.LICENSE_SERVER)
    if license_server and road.kind is ResourceKind.STUDIO:
        options += ["-R", f"localhost:443:{license_server}:443"]
    older_settings.link_key(road.host, keys.ensure_key().path)
    return options
