"""
Whether a container is the one the user means, decided before the first byte flows.

The host key is made in the container and told in the tag SSHHostKey of its activation. The first time an
instance is met, its SSHLaunchId must be the launch id of the resource: the one this machine recorded when it
launched it, or else the one in the environment that AWS describes. Then the key is pinned for that instance
id, and from then on ssh checks it strictly. A tag that says another key later is refused, and an instance
that claims another name later has to prove that one too.

The pins stand in ``pins.json``; beside the key each keeps the few other tags that a connection needs, so that
the next one need not read them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagemaker_ssh_helper.aws.instances import Instance
from sagemaker_ssh_helper.client import known_hosts
from sagemaker_ssh_helper.client.files import (
    config_dir,
    locked,
    private_dir,
    read_text,
    state_dir,
    write_atomic,
)
from sagemaker_ssh_helper.client.ssh_words import HostName, LoginName
from sagemaker_ssh_helper.errors import HostKeyChanged, HostNotTrusted, LocalSetup, UsageError
from sagemaker_ssh_helper.names import InstanceId, Tag
from sagemaker_ssh_helper.public_keys import PublicKey, parse_host_key

FRESH_TIMEOUT = 300.0
"""Seconds for which a pin stands in for the tags it was made from; after that they are compared again."""

KEPT_TIMEOUT = 60 * 86400.0
"""Seconds after its last use when a pin is dropped; instances live for days."""

_KEPT_USERS = 500
_USE_INTERVAL = 86400.0  # seconds; how exactly the last use is known
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_USER_LINES = r"^Host (\S+)\n  User (\S+)$"
_OPTION_TRUST = "--trust-first-use"


@dataclass(frozen=True)
class Pin:
    """
    What is known of one instance.

    ``host_key`` is None for a node without the tag that the user chose to trust on first use: ssh learns its
    key, under the names in ``hosts``. ``checked_at`` and ``used_at`` are seconds since the epoch.
    """

    instance_id: InstanceId
    name: str
    """The resource that it was shown to belong to; empty when it claims none."""
    host_key: PublicKey | None
    port: int
    user: LoginName | None
    owner: str | None
    keys: frozenset[str]
    """Fingerprints of the user keys that the container admits, as far as we know."""
    checked_at: float
    used_at: float
    hosts: frozenset[str] = frozenset()

    def fresh(self, now: float) -> bool:
        """Whether the tags need not be read again yet. A clock set back does not make it so."""
        return 0 <= now - self.checked_at < FRESH_TIMEOUT


def load(instance_id: InstanceId, now: Callable[[], float] = time.time) -> Pin | None:
    """What is pinned for the instance. Raises LocalSetup when the store cannot be used."""
    pin = _load_all().get(instance_id)
    if pin is not None and now() - pin.used_at > _USE_INTERVAL:
        pin = dataclasses.replace(pin, used_at=now())
        _store_if_possible(pin, now())
    return pin


def establish(
    instance: Instance,
    tags: Mapping[str, str],
    *,
    launch_ids: Callable[[str], Sequence[str]],
    trust_first_use: bool = False,
    now: Callable[[], float] = time.time,
) -> Pin:
    """
    The pin of an instance whose tags were just read; made now when it is the first time.

    ``launch_ids`` gives the launch ids that the resource is known by, and may stop at the one it is given; it
    is asked at the first time of a name only, so it may make a call. Raises HostKeyChanged when the tag is
    not what was pinned, HostNotTrusted when nothing shows that the instance is what it claims to be.
    """
    known = verify(instance, tags, launch_ids=launch_ids, trust_first_use=trust_first_use)
    pin = Pin(
        instance_id=instance.id,
        name=instance.name,
        host_key=_host_key(instance, tags),
        port=port_of(tags),
        user=_user(tags),
        owner=tags.get(Tag.OWNER),
        keys=_keys(tags) | (known.keys if known is not None else frozenset()),
        checked_at=now(),
        used_at=now(),
        hosts=known.hosts if known is not None else frozenset(),
    )
    if known is not None and (known.name, known.host_key) == (pin.name, pin.host_key):
        _store_if_possible(pin, now())
    else:
        _store(pin, now())
    return pin


def verify(
    instance: Instance,
    tags: Mapping[str, str],
    *,
    launch_ids: Callable[[str], Sequence[str]],
    trust_first_use: bool = False,
) -> Pin | None:
    """The pin there was, if any, after the checks of ``establish``; nothing is changed. Raises the same."""
    known = _load_all().get(instance.id)
    host_key = _host_key(instance, tags)
    if known is None or (known.name != instance.name and known.host_key == host_key):
        _admit(instance, tags, host_key, launch_ids, trust_first_use)
    elif known.host_key is None and host_key is None:
        pass
    elif known.host_key != host_key:
        raise HostKeyChanged(
            f"the host key of {instance.id} ({instance.fqdn}) is not the one pinned before",
            evidence=f"pinned {_print(known.host_key)}, its tag {Tag.HOST_KEY} now says {_print(host_key)}",
            fix="Somebody may stand between: do not log in. Ask who changed the tag; if it was you, delete "
            f"{instance.id} from {_path()}",
        )
    return known


def remember_key(pin: Pin, fingerprint: str, now: Callable[[], float] = time.time) -> Pin:
    """The same pin, with one more user key that the container admits."""
    changed = dataclasses.replace(pin, keys=pin.keys | {fingerprint})
    _store_if_possible(changed, now())
    return changed


def announce(pin: Pin, host: str) -> None:
    """
    Tell ssh: write the pinned key under ``host`` into our known_hosts, and the login name into hosts.conf.

    ssh reads known_hosts after it got the server's key, so this must return before the first byte flows.
    Where the key is to be learnt by ssh itself, only a line of another instance is removed. Raises
    LocalSetup.
    """
    if pin.host_key is not None and known_hosts.has_key(host, pin.host_key, pin.instance_id):
        write_user_line(host, pin.user)
        return
    private_dir(config_dir())
    with locked(known_hosts.path()):
        if pin.host_key is not None:
            known_hosts.set_key(host, pin.host_key, pin.instance_id)
        elif host.lower() not in pin.hosts:
            known_hosts.forget(host)
            _store(dataclasses.replace(pin, hosts=pin.hosts | {host.lower()}), time.time())
    write_user_line(host, pin.user)


def announce_relayed(host: str, host_key: PublicKey, user: LoginName, instance_id: InstanceId) -> None:
    """
    The same for a native target, whose key came through the session: nothing is pinned beyond it.

    Raises LocalSetup.
    """
    private_dir(config_dir())
    with locked(known_hosts.path()):
        known_hosts.set_key(host, host_key, instance_id)
    write_user_line(host, user)


def relayed(instance: Instance, host: str) -> Pin:
    """What stands for the pin of a native target: nothing but the login name it told last."""
    users = _users(read_text(hosts_path()) or "")
    return Pin(
        instance_id=instance.id,
        name=instance.name,
        host_key=None,
        port=22,
        user=LoginName(users[host]) if host in users else None,
        owner=None,
        keys=frozenset(),
        checked_at=0.0,
        used_at=0.0,
    )


def was_relayed(host: str, instance_id: InstanceId) -> bool:
    """Whether this native target told its key and login name before, under this name. Raises LocalSetup."""
    return any(line.endswith(f" {instance_id}") for line in known_hosts.lines_of(host))


def hosts_path() -> Path:
    """The file of ``Host`` and ``User`` lines that our ssh block includes."""
    return config_dir() / "hosts.conf"


def write_user_line(host: str, user: LoginName | None) -> None:
    """
    Make ``ssh host`` log in as ``user``; None or ``root`` removes our lines, for root is the block's default.

    The lines of the last hundreds of hosts are kept. Raises LocalSetup; UsageError for a host or a name that
    ssh would not read as one.
    """
    # Whatever the type says: ssh takes its orders from this file.
    host, user = HostName(host), None if user is None else LoginName(user)
    path = hosts_path()
    wanted = None if user in (None, "root") else user
    # Known already: on a disk without room, or read-only, a container that is known is reached all the same.
    if _users(read_text(path) or "").get(host) == wanted:
        return
    private_dir(path.parent)
    with locked(path):
        before = read_text(path) or ""
        users = _users(before)
        if users.get(host) == wanted:
            return
        users.pop(host, None)
        if wanted is not None:
            users[host] = wanted
        kept = list(users.items())[-_KEPT_USERS:]
        write_atomic(path, "".join(f"Host {name}\n  User {login}\n" for name, login in kept))


def _users(text: str) -> dict[str, str]:
    """The login name of each host in ``hosts.conf``; lines that we did not write so are left out."""
    found = dict(re.findall(_USER_LINES, text, re.MULTILINE))
    return {host: user for host, user in found.items() if _is(HostName, host) and _is(LoginName, user)}


def _is(word: Callable[[str], str], text: str) -> bool:
    try:
        word(text)
    except UsageError:
        return False
    return True


def _path() -> Path:
    return state_dir() / "pins.json"


def _admit(
    instance: Instance,
    tags: Mapping[str, str],
    host_key: PublicKey | None,
    launch_ids: Callable[[str], Sequence[str]],
    trust_first_use: bool,
) -> None:
    """Raise HostNotTrusted unless the instance, met for the first time, is what it claims to be."""
    what = f"{instance.id} claims to be {instance.fqdn}"
    if host_key is None:
        if trust_first_use:
            return
        raise HostNotTrusted(
            f"{what}, but has no {Tag.HOST_KEY} tag to know its host key by",
            evidence="it was launched with an older helper, or by somebody else",
            fix=f"If you know that it is yours: sm-ssh connect {_OPTION_TRUST} {instance.fqdn}",
        )
    claimed = tags.get(Tag.LAUNCH_ID, "")
    expected = launch_ids(claimed)
    if claimed and claimed in expected:
        return
    if claimed and expected:
        # Positive evidence against it: no option talks this away.
        raise HostNotTrusted(
            f"{what}, but its {Tag.LAUNCH_ID} is not the one of that launch",
            evidence=f"its tag says {claimed[:8]}…, the launch was {expected[0][:8]}…",
            fix="Do not log in: another activation uses this name; its tag SSHCreator says whose it is",
        )
    if not trust_first_use:
        raise HostNotTrusted(
            f"{what}, and nothing here proves it",
            evidence="it was not launched from this machine, and AWS's description of it shows no launch id",
            fix=f"If you know that it is yours: sm-ssh connect {_OPTION_TRUST} {instance.fqdn}",
        )


def _host_key(instance: Instance, tags: Mapping[str, str]) -> PublicKey | None:
    text = tags.get(Tag.HOST_KEY)
    if text is None:
        return None
    try:
        return parse_host_key(text)
    except UsageError as error:
        raise HostNotTrusted(
            f"the tag {Tag.HOST_KEY} of {instance.id} is not a valid host key",
            fix="Do not log in: the helper never writes such a tag",
        ) from error


def port_of(tags: Mapping[str, str]) -> int:
    """Where the container's ssh server listens, by its tags."""
    text = tags.get(Tag.PORT, "")
    return int(text) if _PORT.fullmatch(text) and int(text) < 65536 else 22


def _user(tags: Mapping[str, str]) -> LoginName | None:
    try:
        return LoginName(tags.get(Tag.USER, ""))
    except UsageError:
        return None


def _keys(tags: Mapping[str, str]) -> frozenset[str]:
    return frozenset(re.findall(r"[A-Za-z0-9_-]{16}", tags.get(Tag.KEYS, "")))


def _print(key: PublicKey | None) -> str:
    return key.sha256 if key is not None else "none"


def _load_all() -> dict[InstanceId, Pin]:
    text = read_text(_path())
    try:
        entries = json.loads(text) if text else {}
    except ValueError:
        entries = {}
    pins = {}
    for instance_id, entry in entries.items() if isinstance(entries, dict) else ():
        pin = _parse(InstanceId(instance_id), entry)
        if pin is not None:
            pins[pin.instance_id] = pin
    return pins


def _parse(instance_id: InstanceId, entry: Any) -> Pin | None:
    try:
        return Pin(
            instance_id=instance_id,
            name=entry["name"],
            host_key=parse_host_key(entry["host_key"]) if entry["host_key"] else None,
            port=int(entry["port"]),
            user=LoginName(entry["user"]) if entry["user"] is not None else None,
            owner=entry["owner"],
            keys=frozenset(entry["keys"]),
            checked_at=float(entry["checked_at"]),
            used_at=float(entry["used_at"]),
            hosts=frozenset(entry.get("hosts", ())),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _store_if_possible(pin: Pin, now: float) -> None:
    """What else is known of an instance that is pinned: a disk without room does not keep us from it."""
    with contextlib.suppress(LocalSetup):
        _store(pin, now)


def _store(pin: Pin, now: float) -> None:
    private_dir(state_dir())
    with locked(_path()):
        pins = _load_all()
        pins[pin.instance_id] = pin
        old = {known.instance_id for known in pins.values() if now - known.used_at > KEPT_TIMEOUT}
        entries = {
            known.instance_id: {
                "name": known.name,
                "host_key": known.host_key.line if known.host_key else "",
                "port": known.port,
                "user": known.user,
                "owner": known.owner,
                "keys": sorted(known.keys),
                "checked_at": known.checked_at,
                "used_at": known.used_at,
                "hosts": sorted(known.hosts),
            }
            for known in pins.values()
            if known.instance_id not in old
        }
        write_atomic(_path(), json.dumps(entries, indent=1, sort_keys=True) + "\n")
    if old:
        with locked(known_hosts.path()):
            known_hosts.forget_instances(old)
