"""
The target that a command was given, in any of the forms of ``docs/reference/cli.md``.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass

from sagemaker_ssh_helper.aws import instances
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.client import last_target, naming, standard_streams
from sagemaker_ssh_helper.client.last_target import LastTarget
from sagemaker_ssh_helper.client.settings import open_session
from sagemaker_ssh_helper.errors import LocalSetup, NotInstrumented, UsageError
from sagemaker_ssh_helper.names import ResourceKind
from sagemaker_ssh_helper.targets import Target, of_arn, split_bare

LAST = "@last"

_SPELLED_OUT = ("arn:", "https://")


@dataclass(frozen=True)
class Named:
    """A target, its whole host name, and who asks for it where."""

    client: Client
    target: Target
    profile: str | None
    """As it was asked for, for programs that we start."""

    @property
    def host(self) -> str:
        """The name that ssh and people know it by."""
        return self.target.fqdn

    @property
    def session(self) -> Session:
        """The caller."""
        return self.client.session

    def remember(self) -> None:
        """Make it what ``@last`` means; where nothing can be written, it goes on meaning the one before."""
        with contextlib.suppress(LocalSetup):
            last_target.save(LastTarget(self.host, self.session.region, self.profile))


def find(text: str | None, profile: str | None, region: str | None) -> Named:
    """
    What the user means by ``text``; None lets them pick on a terminal.

    Raises UsageError for what names nothing, and without a terminal for None; what ``naming.find`` raises.
    """
    typed = text
    if text is not None and text.lower() == LAST:
        last = last_target.load()
        text, region = last.host, region or last.region
        # A profile of another account would not know it.
        profile = profile or last.profile
    target: Target | None = None
    bare = split_bare(text) if text is not None else None
    if text is not None and is_spelled_out(text):
        target, its_region = spelled_out(text)
        region = region or its_region
    elif text is not None and bare is None:
        target = Target.parse(text)
    elif text is None and not _asking_makes_sense():
        raise UsageError("no target is named", fix="Name one: sm-ssh connect NAME.training.sagemaker")
    session = open_session(profile, region)
    for line in session.warnings:
        say(line)
    client = Client(session)
    if bare is not None:
        target = naming.find(client, bare[1], bare[0])
    elif target is None:
        from sagemaker_ssh_helper.cli import picker

        target = picker.pick(client, say)
    named = Named(client, target, profile)
    if typed != named.host:
        say(f"{typed or 'chosen'}: {named.host}")
    return named


def is_spelled_out(text: str) -> bool:
    """Whether it says its region, too."""
    return text.startswith(_SPELLED_OUT)


def spelled_out(text: str) -> tuple[Target, str]:
    """The target of an ARN, or of its page in the AWS console, and its region. Raises UsageError."""
    if text.startswith("arn:"):
        return of_arn(text)
    from sagemaker_ssh_helper.aws import console

    return console.of_resource_url(text)


def resource_of(named: Named) -> tuple[ResourceKind, str]:
    """
    The resource that a target belongs to; for an instance's id its tags are read.

    Raises NotInstrumented when an instance says no resource, and what ``instances.resolve`` raises.
    """
    target = named.target
    if target.kind is not None:
        return target.kind, target.name
    assert target.instance_id is not None, "a target is an instance id or a kind and a name"
    instance = instances.resolve(named.client, target)
    if instance.kind is None and not instance.is_native:
        instance = instance.with_tags(instances.tags_of(named.client, instance.id))
    if instance.kind is None or not instance.name:
        raise NotInstrumented(f"{instance.id} belongs to no resource of SageMaker", evidence="by its tags")
    return instance.kind, instance.name


def is_whole(text: str) -> bool:
    """Whether nothing has to be looked up, or read, to know which host is meant."""
    if is_spelled_out(text) or text.startswith("@"):
        return False
    try:
        Target.parse(text)
    except UsageError:
        return split_bare(text) is None
    return True


def _asking_makes_sense() -> bool:
    return standard_streams.input_is_terminal() and sys.stderr.isatty()
