"""
What every command that goes by ssh does first: the container is found, trusted and given our key.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.cli.named import Named, find
from sagemaker_ssh_helper.cli.via import is_plugin
from sagemaker_ssh_helper.client import connect, ssh_options, trust
from sagemaker_ssh_helper.client.connect import SshSettings
from sagemaker_ssh_helper.errors import TargetOffline
from sagemaker_ssh_helper.names import ResourceKind


@dataclass(frozen=True)
class Wishes:
    """How the user wants to get there."""

    user: str | None = None
    trust_first_use: bool = False
    fresh: bool = False
    via_plugin: bool = False
    wait: bool = True
    """Wait for a container that is still starting."""
    alone: bool = True
    """Nothing else writes to the terminal meanwhile."""


@dataclass(frozen=True)
class Road:
    """A container that ssh reaches with these settings."""

    named: Named
    settings: SshSettings
    user: str
    """The login name."""
    kind: ResourceKind | None
    ssh_port: int
    """Where the ssh server of the container listens, there."""

    @property
    def host(self) -> str:
        """The name to give to ssh."""
        return self.named.host


def asked(text: str | None, args: argparse.Namespace) -> tuple[Named, Wishes]:
    """
    The target ``[USER@]TARGET``, and what ``parser.add_aws_options`` and ``add_road_options`` read.

    Raises what ``named.find`` raises.
    """
    user, at, rest = (text or "").rpartition("@")
    if at and user:
        text = rest
    wishes = Wishes(user or args.user, args.trust_first_use, args.fresh, is_plugin(args.via), args.wait)
    return find(text, args.profile, args.region), wishes


def prepare(named: Named, wishes: Wishes) -> Road:
    """
    Make the container ready for ssh, and make it ``@last``; one that is still starting is waited for.

    Raises what ``connect.prepare`` raises.
    """
    if wishes.via_plugin:
        from sagemaker_ssh_helper.client import plugin

        plugin.find()
    prepared = _waited_for(named, wishes)
    named.remember()
    native = prepared.instance.is_native
    if (
        native
        and not wishes.via_plugin
        and not (wishes.user or trust.was_relayed(named.host, prepared.instance.id))
    ):
        from sagemaker_ssh_helper.client import relay

        # Nothing but the container itself says who may log in, and ssh wants to know that first.
        relay.learn(named.client, prepared.instance, named.host, say)
        prepared = _prepared(named, wishes)
    proxy = connect.proxy_words(
        named.host,
        prepared.instance.id,
        region=named.session.region,
        profile=named.profile,
        trust_first_use=wishes.trust_first_use,
        wait=wishes.wait,
        via_plugin=wishes.via_plugin,
        user=wishes.user if native else None,
    )
    user = wishes.user or prepared.user
    settings = connect.ssh_settings(
        named.host,
        user=user,
        proxy=proxy,
        learn_host_key=prepared.pin.host_key is None and not native,
        control_path=ssh_options.control_path(
            named.profile or "", named.session.region, prepared.instance.id, named.host, user
        ),
    )
    return Road(named, settings, user, prepared.instance.kind or named.target.kind, prepared.pin.port)


def _waited_for(named: Named, wishes: Wishes) -> connect.Prepared:
    while True:
        try:
            return _prepared(named, wishes)
        except TargetOffline as error:
            if not (error.may_come and wishes.wait):
                raise
        from sagemaker_ssh_helper.cli import waiting

        waiting.until_ready(named.client, named.target, clock=wishes.alone)


def _prepared(named: Named, wishes: Wishes) -> connect.Prepared:
    return connect.prepare(
        named.client,
        named.target,
        named.host,
        user=wishes.user,
        trust_first_use=wishes.trust_first_use,
        fresh=wishes.fresh,
        tell=say,
    )
