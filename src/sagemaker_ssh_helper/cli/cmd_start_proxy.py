"""
``sm-ssh start-proxy HOST``: what ssh runs as its ProxyCommand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.via import is_plugin
from sagemaker_ssh_helper.errors import UsageError
from sagemaker_ssh_helper.names import InstanceId
from sagemaker_ssh_helper.targets import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from sagemaker_ssh_helper.aws.json_rpc import Client

_HELP = """\
usage: sm-ssh start-proxy [--profile NAME] [--region REGION] [--user USER] HOST [ADDRESS]

For ssh's ProxyCommand; "sm-ssh config-ssh" writes it. Standard input and output carry ssh's bytes and nothing
else; what goes wrong is told in one line on standard error, and the status is then 255.

  HOST                 the host name as it was typed: ssh gives it as %n
  ADDRESS              taken where HOST is "%n" itself, as programs leave it that do not know %n: they know %h
  --user USER          the login name: ssh gives it as %r; one that the container does not admit is told
  --profile, --region  which AWS account and region
  --trust-first-use    accept a container whose host key nothing vouches for
  --fresh              read the container's tags again, even if they were read in the last minutes
  --no-wait            do not wait for a container that is still starting
  --via plugin         let AWS's session-manager-plugin carry the session; the default is --via direct
"""

_VALUES = ("--profile", "--region", "--user", "--instance-id", "--via")
_SWITCHES = ("--trust-first-use", "--fresh", "--no-wait")


def run_words(words: list[str]) -> int:
    """Read the words by hand: this command starts for each connection, and argparse takes 14 ms."""
    from sagemaker_ssh_helper.client import proxy_command

    given: dict[str, str] = {}
    hosts: list[str] = []
    switches: set[str] = set()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in ("-h", "--help"):
            print(_HELP, end="")
            return 0
        if word == "--":
            hosts += rest
            break
        if word in _SWITCHES:
            switches.add(word)
        elif name in _VALUES:
            if not equals:
                if not rest:
                    raise UsageError(f"option {name} needs a value")
                value = rest.pop(0)
            given[name] = value
        elif word.startswith("-"):
            raise UsageError(f"unknown option {name}", fix="See: sm-ssh start-proxy --help")
        else:
            hosts.append(word)
    # Parsers of ssh's configuration that do not know %n leave it as it is; they know %h.
    hosts = [host for host in hosts if host != "%n"][:1] if len(hosts) == 2 else hosts
    if len(hosts) != 1:
        raise UsageError(
            "start-proxy takes one host name",
            fix="In ssh's configuration: ProxyCommand sm-ssh start-proxy %n %h",
        )
    instance_id = given.get("--instance-id")
    if instance_id is not None and Target.parse(instance_id).instance_id is None:
        raise UsageError(f"{instance_id!r} is no managed instance")
    options = proxy_command.ProxyOptions(
        host=hosts[0],
        profile=given.get("--profile"),
        region=given.get("--region"),
        user=given.get("--user"),
        instance_id=InstanceId(instance_id) if instance_id else None,
        trust_first_use="--trust-first-use" in switches,
        fresh="--fresh" in switches,
        via_plugin=is_plugin(given.get("--via")),
        wait="--no-wait" not in switches,
    )
    return proxy_command.run(options, say, _until_ready)


def _until_ready(client: Client, target: Target, pause: Callable[[float], bool]) -> None:
    from sagemaker_ssh_helper.cli import waiting

    # The terminal is ssh's.
    waiting.until_ready(client, target, pause=pause, clock=False)
