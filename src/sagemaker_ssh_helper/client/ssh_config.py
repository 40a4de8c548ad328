"""
Our block in the user's ssh configuration: written, replaced and taken out without touching a byte around it.

The block stands at the top of the file, because ssh takes the first value it finds, and ends with ``Host *``,
so that what follows means what it meant before. Its marker lines never change: they are how we find it again.
"""

from __future__ import annotations

import codecs
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sagemaker_ssh_helper.client import known_hosts, ssh_options
from sagemaker_ssh_helper.client.connect import (
    CONNECT_TIMEOUT,
    default_user,
    find_ssh,
    proxy_command,
    quote_value,
)
from sagemaker_ssh_helper.client.files import config_dir, home, home_of_account, private_dir, write_atomic
from sagemaker_ssh_helper.client.trust import hosts_path
from sagemaker_ssh_helper.errors import ConfigBroken, LocalSetup, UsageError
from sagemaker_ssh_helper.names import DOMAIN, ResourceKind
from sagemaker_ssh_helper.public_keys import HOST_KEY_TYPES

BEGIN = "# >>> sm-ssh >>>"
END = "# <<< sm-ssh <<<"
_HEADER = f'{BEGIN}  managed by "sm-ssh config-ssh"; "sm-ssh config-ssh --remove" deletes it; edits are lost'
_CREATED = "created-by-us"
_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9]*[ =].*")


@dataclass(frozen=True)
class BlockOptions:
    """What the user chose; kept in the block, so that writing it again keeps it."""

    profile: str | None = None
    region: str | None = None
    options: tuple[str, ...] = ()
    """Settings of ssh, ``Name value`` or ``Name=value``, which come before ours."""
    via: str | None = None
    """What start-proxy is to get as ``--via``."""

    def __bool__(self) -> bool:
        return bool(self.profile or self.region or self.options or self.via)


def block_text(program: Sequence[str], chosen: BlockOptions, *, created: bool = False) -> str:
    """
    The block, from marker to marker, lines ended by a newline.

    Args:
        program: the words that start sm-ssh, the first an absolute path.
        created: whether there was no file before us.

    Raises UsageError for an option that is none, LocalSetup for a path that ssh cannot hold.
    """
    for text in (chosen.profile or "", chosen.region or "", chosen.via or "", *chosen.options):
        if re.search(r"[\n\r\0]", text):
            raise UsageError(f"{text!r} holds the end of a line")
    for option in chosen.options:
        if not _OPTION.fullmatch(option):
            raise UsageError(f"{option!r} is no setting of ssh", fix='Write it like -o "ForwardAgent yes"')
    proxy = [*program, "start-proxy"]
    remembered = []
    if created:
        remembered.append(f"# :{_CREATED}=yes")
    if chosen.profile:
        proxy += ["--profile", chosen.profile]
        remembered.append(f"# :profile={chosen.profile}")
    if chosen.region:
        proxy += ["--region", chosen.region]
        remembered.append(f"# :region={chosen.region}")
    if chosen.via:
        proxy += ["--via", chosen.via]
        remembered.append(f"# :via={chosen.via}")
    remembered += [f"# :option={option}" for option in chosen.options]
    patterns = " ".join(f"*.{kind.domain}.{DOMAIN}" for kind in ResourceKind)
    lines = [
        _HEADER,
        *remembered,
        # The login names of containers that do not run as root.
        "Host *",
        f"  Include {quote_value(hosts_path())}",
        f"Host *.{ResourceKind.STUDIO.domain}.{DOMAIN}",
        f"  User {default_user(ResourceKind.STUDIO)}",
        f"Host {patterns}",
        *(f"  {option}" for option in chosen.options),
        f"  User {default_user(None)}",
        f"  ProxyCommand {proxy_command([*proxy, '--user', '%r', '%n', '%h'])}",
        f"  IdentityFile {quote_value(config_dir() / 'key')}",
        f"  UserKnownHostsFile {quote_value(known_hosts.path())}",
        "  StrictHostKeyChecking yes",
        f"  HostKeyAlgorithms {','.join(HOST_KEY_TYPES)}",
        f"  ConnectTimeout {CONNECT_TIMEOUT}",
        "  ControlPath none",
        *(f"  {setting.replace('=', ' ', 1)}" for setting in ssh_options.always(find_ssh())),
        "# What follows is for all hosts, as before.",
        "Host *",
        END,
    ]
    return "".join(f"{line}\n" for line in lines)


def lock_path() -> Path:
    """What our processes lock while one changes a configuration; it is not beside the user's file."""
    return config_dir() / "ssh_config"


def default_path() -> Path:
    """The user's own ssh configuration. It follows HOME, which ssh does not: see ``options_for``."""
    return Path(home()) / ".ssh" / "config"


def options_for(path: Path) -> list[str]:
    """
    The words after ``ssh`` that have it read this configuration: none when it does so by itself.

    OpenSSH takes the home from the account (ssh(1)), also where HOME says otherwise: in containers of CI, or
    under sudo.
    """
    return [] if path == Path(home_of_account()) / ".ssh" / "config" else ["-F", str(path)]


def why_not_in_effect(path: Path, program: Sequence[str]) -> str:
    """
    Why plain ssh, with this configuration, would not start ``program`` for a container; empty when it would.

    Asks ssh itself. Raises SshMissing.
    """
    if not path.exists():
        return f"there is no {path}"
    done = subprocess.run(
        [find_ssh(), "-F", str(path), "-G", f"x.{ResourceKind.TRAINING.domain}.{DOMAIN}"],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    settings = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    command = settings.get("proxycommand", "")
    if done.returncode != 0:
        # The last line only counts what the others tell, with the number of the line.
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["ssh refuses it"]
        return next((line for line in said if re.search(r"\bline \d+", line)), said[-1]).strip()
    if " start-proxy " not in command or program[0] not in command:
        return f"its ProxyCommand is {command or 'none'}"
    if "hostkeyalias" in settings:
        alias = settings["hostkeyalias"]
        return f"its HostKeyAlias {alias} is for containers, too, whose keys are not kept by that name"
    return ""


@dataclass(frozen=True)
class ConfigFile:
    """
    The file as it is: the bytes before our block, the block, the bytes after.

    ``block`` is None when there is none; then the bytes are all in ``after``, for the block goes on top.
    ``existed`` is false when there is no file.
    """

    path: Path
    before: bytes
    block: bytes | None
    after: bytes
    existed: bool = True

    @classmethod
    def read(cls, path: Path) -> ConfigFile:
        """
        The file at ``path``, through symbolic links.

        Raises LocalSetup when it cannot be read, ConfigBroken when its markers are not one beginning and one
        end, or when it begins as no file of ssh's may.
        """
        real = Path(os.path.realpath(path))
        try:
            content = real.read_bytes()
        except FileNotFoundError:
            return cls(real, b"", None, b"", existed=False)
        except OSError as error:
            raise LocalSetup(f"{path} cannot be read", evidence=error.strerror or str(error)) from error
        return cls.parse(real, content)

    @classmethod
    def parse(cls, path: Path, content: bytes) -> ConfigFile:
        """The parts of ``content``. Raises ConfigBroken as ``read`` does."""
        for mark, what in _MARKS:
            if content.startswith(mark):
                raise _unreadable(path, f"it begins with the mark of {what}")
        begins, ends = [], []
        offset = 0
        for line in content.splitlines(keepends=True):
            if line.lstrip().startswith(BEGIN.encode()):
                begins.append(offset)
            elif line.lstrip().startswith(END.encode()):
                ends.append(offset + len(line))
            offset += len(line)
        if not begins and not ends:
            if b"\0" in content:
                raise _unreadable(path, "it holds zero bytes, as UTF-16 does")
            return cls(path, b"", None, content)
        if len(begins) != 1 or len(ends) != 1 or ends[0] <= begins[0]:
            raise ConfigBroken(
                f"the sm-ssh block in {path} is broken",
                evidence=f"{len(begins)} beginning and {len(ends)} end marker(s), or in the wrong order",
                fix=f"Take out by hand what stands from {BEGIN!r} to {END!r}, then try again",
            )
        return cls(path, content[: begins[0]], content[begins[0] : ends[0]], content[ends[0] :])

    @property
    def chosen(self) -> BlockOptions:
        """What the block that is there was written with."""
        found = re.findall(rb"^# :([a-z-]+)=([^\r\n]*)", self.block or b"", re.MULTILINE)
        values: dict[str, list[str]] = {}
        for key, value in found:
            values.setdefault(key.decode(), []).append(value.decode("utf-8", "replace"))
        return BlockOptions(
            profile=values.get("profile", [None])[0],
            region=values.get("region", [None])[0],
            options=tuple(values.get("option", [])),
            via=values.get("via", [None])[0],
        )

    @property
    def created_by_us(self) -> bool:
        """Whether there was no file before the block was written."""
        return not self.existed or f"# :{_CREATED}=yes".encode() in (self.block or b"")

    def with_block(self, text: str) -> bytes:
        """The whole file with this block, in the file's own line ends."""
        block = text.encode()
        rest = self.before + self.after
        if b"\r\n" in rest and rest.count(b"\r\n") == rest.count(b"\n"):
            block = block.replace(b"\n", b"\r\n")
        return self.before + block + self.after

    def without_block(self) -> bytes:
        """The whole file without our block: the bytes that were there before it."""
        return self.before + self.after

    def write(self, content: bytes) -> None:
        """Replace the file; its mode stays, a new one is 0600 in a folder of 0700. Raises LocalSetup."""
        private_dir(self.path.parent)
        mode, owner = 0o600, None
        if self.existed:
            status = self.path.stat()
            mode, owner = status.st_mode & 0o7777, (status.st_uid, status.st_gid)
        write_atomic(self.path, content, mode, owner)


def _unreadable(path: Path, evidence: str) -> ConfigBroken:
    return ConfigBroken(
        f"ssh cannot read {path}",
        evidence=evidence,
        fix="Save it as UTF-8 without a byte order mark, then try again",
    )
