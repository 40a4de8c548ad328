"""
From a target to a container that will let us in: instance, trust, key; and the ssh command line that uses it.
"""

from __future__ import annotations

import base64
import dataclasses
import difflib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sagemaker_ssh_helper.aws import commands, instances, resources, sessions
from sagemaker_ssh_helper.aws.instances import Instance
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.client import keys, known_hosts, launches, ssh_options, standard_streams, trust
from sagemaker_ssh_helper.client.files import config_dir
from sagemaker_ssh_helper.client.shell_words import quoted
from sagemaker_ssh_helper.client.trust import Pin
from sagemaker_ssh_helper.errors import (
    NO_ANSWER,
    AccessDenied,
    HostNotTrusted,
    KeyNotDelivered,
    LocalSetup,
    SSHHelperError,
    SshMissing,
    TargetNotFound,
    UsageError,
    WrongUser,
)
from sagemaker_ssh_helper.names import Command, Env, InstanceId, ResourceKind, Tag
from sagemaker_ssh_helper.public_keys import HOST_KEY_TYPES
from sagemaker_ssh_helper.targets import Target

CONNECT_TIMEOUT = 600
"""Seconds that ssh waits for the server's first line: enough for a job to start first."""

# The options of ssh that take a value, by the synopsis of ssh(1); every other letter is a switch.
OPTIONS_WITH_VALUE = frozenset("BbcDEeFIiJLlmOoPpQRSWw")
SWITCHES = frozenset("46AaCfGgKkMNnqsTtVvXxYy")


@dataclass(frozen=True)
class Prepared:
    """A container that is online, trusted, and holds our key."""

    instance: Instance
    pin: Pin

    @property
    def user(self) -> str:
        """The login name it admits."""
        return self.pin.user or default_user(self.instance.kind)


def default_user(kind: ResourceKind | None) -> str:
    """The login name of a container that does not tell one."""
    return "sagemaker-user" if kind is ResourceKind.STUDIO else "root"


def prepare(
    client: Client,
    target: Target,
    host: str,
    *,
    user: str | None = None,
    instance_id: InstanceId | None = None,
    trust_first_use: bool = False,
    fresh: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """
    Make ready what ssh needs to reach ``target`` under the name ``host``.

    One call for a container met in the last minutes, two for one met before, three for a new one, and more
    only when our key must be delivered.

    Args:
        host: the name as the user typed it; ssh looks its key up under it.
        user: the login name that ssh will use, when known; one that the container refuses is an error now.
        instance_id: the instance, when it was resolved a moment ago: it is not looked up again.
        trust_first_use: accept a container that nothing vouches for.
        fresh: read the container's tags even if they were read a moment ago.
        tell: called with a line for the user when something takes longer than usual.

    Raises what ``instances.resolve``, ``trust.establish`` and ``deliver_key`` raise; WrongUser.
    """
    pair = keys.ensure_key()
    if instance_id is not None:
        instance = Instance(
            id=instance_id,
            ping_status=instances.ONLINE,
            kind=target.kind,
            name=target.name,
            node=target.node_or_first,
        )
    else:
        try:
            instance = instances.resolve(client, target)
        except TargetNotFound as error:
            from sagemaker_ssh_helper.client import naming

            raise naming.located(error, client.session, target) from error
    if instance.is_native:
        # The relay brings our key, and tells the container's.
        return Prepared(instance, trust.relayed(instance, host))
    pin = trust.load(instance.id)
    if pin is not None and instance_id is not None and pin.name.lower() == instance.name.lower():
        # ssh and users may fold its letters.
        instance = dataclasses.replace(instance, name=pin.name)
    # An instance that was asked for by its id may have told no name: it is what it was.
    renamed = pin is not None and instance.name not in ("", pin.name)
    if pin is None or fresh or renamed or not pin.fresh(time.time()):
        tags = instance.tags if instance.tags is not None else instances.tags_of(client, instance.id)
        instance = instance.with_tags(tags)
        # An endpoint's containers go by their launch id, which is proven below.
        if instance_id is not None and target.name and target.kind is not ResourceKind.INFERENCE:
            tagged = tags.get(Tag.RESOURCE_NAME, target.name)
            if target.name.lower() != tagged.lower():
                raise HostNotTrusted(f"{instance_id} is no container of {target.name}")
            instance = dataclasses.replace(instance, name=tagged)
        pin = trust.establish(
            instance,
            tags,
            launch_ids=lambda claimed: launch_ids(client, instance, claimed, tell),
            trust_first_use=trust_first_use,
        )
    trust.announce(pin, host)
    if user is not None and pin.user == "root" != user:
        # A container that runs as root may admit others too: what its image knows is its own affair.
        tell(f"{host} runs as root; if {user!r} is refused, use root@{host}")
    elif user is not None and pin.user not in (None, user):
        raise WrongUser(
            f"{host} admits {pin.user!r} only, not {user!r}",
            evidence="its tag SSHUser: the container does not run as root",
            fix=f"Use {pin.user}@{host}, or the same command again without a name: it is known from now on",
        )
    if pair.public.fingerprint not in pin.keys:
        tell(f"delivering your public key to {instance.fqdn}")
        deliver_key(client, pin, pair.public.line)
        pin = trust.remember_key(pin, pair.public.fingerprint)
    elif os.environ.get(Env.AUTHORIZED_KEYS_PATH):
        _leave_key(client, pair.public.line, tell)
    return Prepared(instance, pin)


def _leave_key(client: Client, public_line: str, tell: Callable[[str], None]) -> None:
    """Put the key where SSH_AUTHORIZED_KEYS_PATH says, although this container has it: others look there."""
    from sagemaker_ssh_helper.client import s3_delivery

    try:
        s3_delivery.put_key(client.session, os.environ[Env.AUTHORIZED_KEYS_PATH], public_line)
    except SSHHelperError as error:
        tell(f"warning: {error}")


def deliver_key(client: Client, pin: Pin, public_line: str) -> None:
    """
    Have the container admit a public key, by Run Command: two calls or more, a second or two.

    The key travels as one base64 token in a fixed command; with SSH_AUTHORIZED_KEYS_PATH it goes there, and
    the token says where. Raises KeyNotDelivered, AwsError, WaitTimeout; UsageError for a path that is none.
    """
    text, command = public_line, Command.AUTHORIZE_KEY
    place = os.environ.get(Env.AUTHORIZED_KEYS_PATH, "")
    if place:
        from sagemaker_ssh_helper.client import s3_delivery

        text = s3_delivery.put_key(client.session, place, public_line)
        command = Command.AUTHORIZE_KEY_FROM
    token = base64.b64encode(text.encode()).decode()
    try:
        result = commands.run(
            client,
            pin.instance_id,
            command.format(token=token),
            comment="sm-ssh: authorize a key",
        )
    except AccessDenied as error:
        raise sessions.refused(client, "ssm:SendCommand", pin.instance_id, pin.owner, error) from error
    if not result.ok:
        said = " ".join((result.error_output or result.output).split())[:300]
        raise KeyNotDelivered(
            f"{pin.instance_id} did not take your public key",
            evidence=f"{result.status}, exit code {result.exit_code}" + (f": {said}" if said else ""),
            fix="The container may run an older helper; launch it from this machine, and it knows the key",
        )


def launch_ids(
    client: Client, instance: Instance, claimed: str, tell: Callable[[str], None] = lambda line: None
) -> Sequence[str]:
    """
    The launch ids that this machine and AWS know the resource by; AWS is asked only when it must be.

    SageMaker is asked for a proof, and may not answer: then there is none, and ``tell`` gets the reason.
    """
    if instance.kind is None or not instance.name:
        return ()
    recorded = launches.load(instance.kind, instance.name)
    if recorded is not None and recorded == claimed:
        return (recorded,)
    described: Sequence[str | None] = ()
    try:
        if instance.kind is ResourceKind.INFERENCE:
            described = resources.hosted_launch_ids(client, instance.name)
        elif instance.kind is ResourceKind.TRANSFORM:
            described = resources.transform_launch_ids(client, instance.name)
        else:
            resource = resources.describe(client, instance.kind, instance.name)
            described = [resource.launch_id] if resource is not None else []
    except NO_ANSWER as error:
        tell(f"whose launch {instance.id} is cannot be looked up: {error}")
    return tuple(launch_id for launch_id in (*described, recorded) if launch_id)


@dataclass(frozen=True)
class SshArguments:
    """
    A command line for ssh, taken apart.

    ``options`` go before the host; ``command`` after it, word by word as the user gave them. ``own`` holds
    the long options, which ssh has none of: they are ours.
    """

    options: tuple[str, ...]
    host: str | None
    """None when none was named."""
    user: str | None
    command: tuple[str, ...]
    own: Mapping[str, str]


def split_arguments(words: Sequence[str], own: Mapping[str, bool]) -> SshArguments:
    """
    Tell the options of ssh, our own, the host and the remote command apart, as ssh does.

    Options may stand before and after the host. The command begins at the first word after the host that is
    no option, or after ``--``. ``user@host`` and ``-l user`` both name the user.

    Args:
        words: the command line after ``connect``.
        own: our long options, and whether each takes a value.

    Raises UsageError.
    """
    options: list[str] = []
    ours: dict[str, str] = {}
    host: str | None = None
    user: str | None = None
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--":
            index += 1
            if host is not None:
                break
            # As in ssh: no more options, the host comes next, then the command.
            if index == len(words):
                break
            host = words[index]
            index += 1
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            if name not in own:
                near = difflib.get_close_matches(name, own, n=1)
                fix = f"Did you mean {near[0]}?" if near else "See: sm-ssh connect --help"
                raise UsageError(f"unknown option {name}", fix=fix)
            index += 1
            if own[name] and not equals:
                if index == len(words):
                    raise UsageError(f"option {name} needs a value")
                value = words[index]
                index += 1
            ours[name] = value
        elif word.startswith("-") and len(word) > 1:
            taken, named_user = _option(words, index)
            options += taken if named_user is None else ()
            user = named_user or user
            index += len(taken)
        elif host is None:
            host = word
            index += 1
        else:
            break
    named, at, rest = (host or "").rpartition("@")
    if at and named:
        # The first to name the user wins, as in ssh.
        user, host = user or named, rest
    if user is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*\$?", user):
        raise UsageError(f"{user!r} is no login name")
    return SshArguments(tuple(options), host, user, tuple(words[index:]), ours)


def _option(words: Sequence[str], index: int) -> tuple[list[str], str | None]:
    """The words of one cluster of options, and the user if it was ``-l``."""
    word = words[index]
    for position, letter in enumerate(word[1:], start=1):
        if letter in OPTIONS_WITH_VALUE:
            if position + 1 < len(word):
                taken, value = [word], word[position + 1 :]
            elif index + 1 < len(words):
                taken, value = [word, words[index + 1]], words[index + 1]
            else:
                raise UsageError(f"option -{letter} of ssh needs a value")
            if letter == "l":
                if position > 1:
                    raise UsageError(f"give -l alone, not inside {word!r}")
                return taken, value
            return taken, None
        if letter not in SWITCHES:
            raise UsageError(f"ssh has no option -{letter}", evidence=f"in {word!r}", fix="See: man ssh")
    return [word], None


def find_ssh() -> str:
    """The path of ssh. Raises SshMissing when there is none."""
    program = shutil.which("ssh")
    if program is None:
        raise SshMissing("ssh was not found", fix="Install OpenSSH's client, and see that ssh is on PATH")
    return program


@dataclass(frozen=True)
class SshSettings:
    """
    What ssh, scp, sftp and rsync's ssh are told with ``-o`` to reach one container, whatever the user's own
    configuration says.

    ssh takes the first value it sees: ``safe`` goes before the user's options, ``defaults`` after them.
    """

    safe: tuple[str, ...]
    defaults: tuple[str, ...]


def ssh_settings(
    host: str,
    *,
    user: str,
    proxy: Sequence[str] | None,
    learn_host_key: bool = False,
    control_path: str = "none",
) -> SshSettings:
    """
    The settings for ``host`` through ``proxy``; None for an address that leads there by itself.

    ``learn_host_key`` lets ssh accept and keep the key of a node that tells none. ``control_path`` is where
    the user's ControlMaster may share connections. Raises SshMissing when there is no ssh.
    """
    key = config_dir() / "key"
    fixed = ssh_options.always(find_ssh())
    safe = [
        f"ProxyCommand={proxy_command(proxy) if proxy is not None else 'none'}",
        f"UserKnownHostsFile={quote_value(known_hosts.path())}",
        f"StrictHostKeyChecking={'accept-new' if learn_host_key else 'yes'}",
        f"HostKeyAlias={host.lower()}",
        *(setting for setting in fixed if not ssh_options.yields(setting)),
    ]
    if not learn_host_key:
        safe.append(f"HostKeyAlgorithms={','.join(HOST_KEY_TYPES)}")
    defaults = [
        f"User={user}",
        f"IdentityFile={quote_value(key)}",
        *(setting for setting in fixed if ssh_options.yields(setting)),
        f"ControlPath={quote_value(control_path)}",
        f"ConnectTimeout={CONNECT_TIMEOUT}",
    ]
    return SshSettings(tuple(safe), tuple(defaults))


def with_o(settings: Sequence[str]) -> list[str]:
    """Each setting behind its own ``-o``."""
    return [word for setting in settings for word in ("-o", setting)]


def for_one_command() -> list[str]:
    """The options of ssh for a command that runs one program, whatever the user's configuration wants."""
    return ["-T", *with_o(ssh_options.of_one_command(find_ssh()))]


def ssh_command(
    host: str,
    settings: SshSettings,
    *,
    options: Sequence[str] = (),
    command: Sequence[str] = (),
) -> list[str]:
    """
    The argv that runs ssh to ``host``; the user's ``options`` stand between the two kinds of settings.

    Raises SshMissing when there is no ssh.
    """
    argv = [find_ssh(), *with_o(settings.safe), *options, *with_o(settings.defaults)]
    # ssh joins the words of a command with spaces and the remote shell takes them apart again: a word that
    # needs it is quoted here, once, so that it arrives as it was given. One word alone is a shell line.
    # ssh takes no more options after the first --, neither before the host nor after it.
    argv += ["--", host]
    if command:
        argv += command if len(command) == 1 else map(quoted, command)
    return argv


def proxy_words(
    host: str,
    instance_id: InstanceId,
    *,
    region: str,
    profile: str | None,
    trust_first_use: bool = False,
    wait: bool = True,
    via_plugin: bool = False,
    user: str | None = None,
) -> list[str]:
    """
    How ssh starts the proxy to an instance that was made ready a moment ago, under the name ``host``.

    ``user`` is the login name that the user asked for, where only the proxy learns whether it is admitted.
    """
    words = [*program_words(), "start-proxy", "--region", region]
    if profile:
        words += ["--profile", profile]
    if trust_first_use:
        words.append("--trust-first-use")
    if not wait:
        words.append("--no-wait")
    if via_plugin:
        words += ["--via", "plugin"]
    if user:
        words += ["--user", user]
    return [*words, "--instance-id", instance_id, host]


def become(argv: list[str]) -> int:
    """
    Run ssh in our place. Does not return where a program can become another one; else the exit status.

    On Windows it is a child, and Ctrl-C is its alone: we wait for what it makes of it.
    """
    sys.stdout.flush()
    standard_streams.give_back()
    if sys.platform == "win32":
        import signal
        import subprocess

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return subprocess.call(argv)
    os.execv(argv[0], argv)


def program_words() -> list[str]:
    """How to start this sm-ssh again: absolute, independent of PATH and of the folder."""
    invoked = Path(sys.argv[0])
    if invoked.name in ("sm-ssh", "sm-ssh.exe"):
        found = invoked if invoked.is_absolute() else Path(shutil.which(sys.argv[0]) or invoked)
        # Not resolved: the link in a user's bin folder outlives the version it points to.
        absolute = Path(os.path.abspath(found))
        # pip's starter takes the suffix off on Windows.
        for program in (absolute, absolute.with_suffix(".exe")):
            if os.access(program, os.X_OK):
                return [str(program)]
    beside = Path(sys.executable).parent / ("sm-ssh.exe" if sys.platform == "win32" else "sm-ssh")
    if os.access(beside, os.X_OK):
        return [str(beside)]
    return [sys.executable, "-m", "sagemaker_ssh_helper"]


def proxy_command(words: Sequence[str]) -> str:
    """
    The value of ProxyCommand that runs ``words``: ssh expands ``%`` in it and gives it to the user's shell.

    Words that are ssh's own tokens, like ``%n``, are left for ssh. Raises LocalSetup for what no shell can
    hold.
    """
    return " ".join(word if re.fullmatch(r"%[nrhp]", word) else _proxy_word(word) for word in words)


def _proxy_word(word: str) -> str:
    if "\n" in word or "\r" in word or "\0" in word:
        raise LocalSetup(
            f"{word!r} cannot stand in an ssh configuration", fix="Move it to a path without line ends"
        )
    if sys.platform == "win32":
        # Windows takes slashes in the path of a program; Git's ssh asks a Unix shell, which eats backslashes.
        word = word.replace("\\", "/")
        quoted = f'"{word}"' if re.search(r"[\s&|<>^();,='!]", word) else word
    elif re.fullmatch(r"[A-Za-z0-9_@%+=:,./~-]+", word):
        quoted = word
    else:
        # Double quotes, which every parser of ssh configurations knows; what the shell reads inside them is
        # escaped.
        quoted = '"' + re.sub(r'([\\"$`])', r"\\\1", word) + '"'
    return quoted.replace("%", "%%")


def quote_value(path: Path | str) -> str:
    """A path as the value of an ssh option: ``%`` doubled, and quoted when there is a space in it."""
    text = str(path)
    if sys.platform == "win32":
        text = text.replace("\\", "/")
    # ssh has no way to write these: a variable's ${, and what its quotes and escapes are made of.
    if re.search(r'[\n\r\0"\\]|\$\{', text):
        raise LocalSetup(
            f"{text!r} cannot stand in an ssh configuration", fix="Set XDG_CONFIG_HOME to a plain path"
        )
    text = text.replace("%", "%%")
    return f'"{text}"' if re.search(r"[\s']", text) else text
