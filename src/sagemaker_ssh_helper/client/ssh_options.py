"""
Every setting of ssh(1), and who decides it for our connections; ``docs/reference/ssh-options.md`` is made of
this table.

ssh takes the first value it finds. What could lead to another container, past its host key or to another
login, or break the stream, is ours: the block in the user's configuration and our own commands set it before
the user's ``Host *`` can. Our commands that run one program each (exec, cp, ide) also set what would change
what they run. The rest is the user's.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from sagemaker_ssh_helper.client.files import config_dir, private_dir, state_dir, write_atomic
from sagemaker_ssh_helper.errors import LocalSetup


class Whose(enum.Enum):
    """Who decides a setting."""

    OURS = "ours"
    COMMANDS = "our commands'"
    USERS = "yours"


@dataclass(frozen=True)
class Option:
    """One setting: who decides it, to what where that is always the same, and why."""

    name: str
    whose: Whose
    value: str = ""
    why: str = ""
    since: str = ""
    """The first OpenSSH that knows it, for one that those in use may not."""


def _ours(name: str, value: str, why: str, since: str = "") -> Option:
    return Option(name, Whose.OURS, value, why, since)


def _commands(name: str, value: str, why: str, since: str = "") -> Option:
    return Option(name, Whose.COMMANDS, value, why, since)


_NOBODY = os.devnull

OPTIONS: tuple[Option, ...] = (
    _ours("CanonicalizeHostname", "no", "another spelling of the name is another container"),
    _ours("CheckHostIP", "no", "there is no address behind the name"),
    _ours(
        "ControlPath",
        "",
        "in the block, none: a job of another account may have that name; "
        "our commands' stands for profile, region, instance and login",
    ),
    _ours("GlobalKnownHostsFile", _NOBODY, "only the key that AWS vouches for counts"),
    _ours("HashKnownHosts", "no", "a line that ssh learnt is found, and taken back"),
    _ours("HostKeyAlgorithms", "", "the kind of key that is pinned"),
    _ours("HostKeyAlias", "", "the name that was pinned; the block cannot say it, and reports yours"),
    _ours("HostName", "%h", "the name leads to the container, as it is"),
    _ours("IdentitiesOnly", "yes", "sshd allows few tries, and an agent may hold many keys"),
    _ours("IdentityFile", "", "the key that the container admits; yours are tried after it"),
    _ours("KnownHostsCommand", "none", "only the key that AWS vouches for counts", "8.5"),
    _ours("NoHostAuthenticationForLocalhost", "no", "the key is checked, whatever the name"),
    _ours("Port", "22", "another one changes the name that keys are looked up by"),
    _ours("PreferredAuthentications", "publickey", "containers take nothing else"),
    _ours("ProxyCommand", "", "the way there"),
    _ours("ProxyJump", "", "ProxyCommand stands before it"),
    _ours("ProxyUseFdpass", "no", "the way there is a stream"),
    _ours("PubkeyAcceptedKeyTypes", "*", "known as PubkeyAcceptedAlgorithms, too: our key is among them"),
    _ours("PubkeyAuthentication", "yes", "containers take nothing else"),
    _ours("ServerAliveInterval", "15", "Session Manager ends what is silent"),
    _ours("ServerAliveCountMax", "80", "our end knows better whether the link may come back"),
    _ours("StrictHostKeyChecking", "", "yes; accept-new for a node that tells no key"),
    _ours("UpdateHostKeys", "no", "only the key that AWS vouches for counts"),
    _ours("User", "", "whom the container admits; ssh USER@NAME is taken"),
    _ours("UserKnownHostsFile", "", "where the keys are that AWS vouches for"),
    _ours("VerifyHostKeyDNS", "no", "no name server knows these names"),
    _ours("ConnectTimeout", "", "a container that starts takes its time"),
    _commands("ControlMaster", "no", "a connection that is there is used; none stays behind"),
    _commands("ControlPersist", "no", "with it ssh drops what the way there says"),
    _commands("ClearAllForwardings", "yes", "they forward what they say, and nothing else"),
    _commands("ExitOnForwardFailure", "", "connect's own forwards may find their port taken"),
    _commands("ForkAfterAuthentication", "no", "they wait for the end", "8.7"),
    _commands("PermitLocalCommand", "no", "its output would be taken for the container's"),
    _commands("RemoteCommand", "none", "the command is theirs"),
    _commands("RequestTTY", "no", "bytes pass as they are"),
    _commands("SessionType", "default", "the command is theirs", "8.7"),
    _commands("StdinNull", "no", "their input goes to the container", "8.7"),
    *(
        Option(name, Whose.USERS)
        for name in (
            "AddKeysToAgent", "AddressFamily", "BatchMode", "BindAddress", "BindInterface",
            "CanonicalDomains", "CanonicalizeFallbackLocal", "CanonicalizeMaxDots",
            "CanonicalizePermittedCNAMEs", "CASignatureAlgorithms", "CertificateFile", "ChannelTimeout",
            "Ciphers", "Compression", "ConnectionAttempts", "DynamicForward",
            "EnableEscapeCommandline", "EnableSSHKeysign", "EscapeChar", "FingerprintHash",
            "ForwardAgent", "ForwardX11", "ForwardX11Timeout", "ForwardX11Trusted", "GatewayPorts",
            "GSSAPIAuthentication", "GSSAPIClientIdentity", "GSSAPIDelegateCredentials",
            "GSSAPIKexAlgorithms", "GSSAPIKeyExchange", "GSSAPIRenewalForcesRekey",
            "GSSAPIServerIdentity", "GSSAPITrustDNS", "Host", "HostbasedAcceptedAlgorithms",
            "HostbasedAuthentication", "IdentityAgent", "IgnoreUnknown", "Include", "IPQoS",
            "KbdInteractiveAuthentication", "KbdInteractiveDevices", "KexAlgorithms", "LocalCommand",
            "LocalForward", "LogLevel", "LogVerbose", "MACs", "Match", "NumberOfPasswordPrompts",
            "ObscureKeystrokeTiming", "PasswordAuthentication", "PermitRemoteOpen", "PKCS11Provider",
            "RefuseConnection", "RekeyLimit", "RemoteForward", "RequiredRSASize", "RevokedHostKeys",
            "SecurityKeyProvider", "SendEnv", "SetEnv", "StreamLocalBindMask", "StreamLocalBindUnlink",
            "SyslogFacility", "Tag", "TCPKeepAlive", "Tunnel", "TunnelDevice", "VersionAddendum",
            "VisualHostKey", "WarnWeakCrypto", "XAuthLocation",
        )
    ),
)  # fmt: skip
"""Of OpenSSH 10.2, as ssh_config(5) has them."""

_ANSWER_TIMEOUT = 10.0

_NEWER = tuple(option for option in OPTIONS if option.since)


_YIELDING = ("IdentitiesOnly", "Port", "PreferredAuthentications", "PubkeyAcceptedKeyTypes",
             "PubkeyAuthentication", "ServerAliveInterval", "ServerAliveCountMax")  # fmt: skip


def always(program: str) -> list[str]:
    """What our block and our commands always set to the same: ``Name=value``, for this ssh."""
    return _of(Whose.OURS, program)


def yields(setting: str) -> bool:
    """Whether what the user says on the command line may come before this one of ``always``."""
    return setting.partition("=")[0] in _YIELDING


def of_one_command(program: str) -> list[str]:
    """What a command of ours that runs one program sets beside that: ``Name=value``, for this ssh."""
    return _of(Whose.COMMANDS, program)


def control_path(*identity: str) -> str:
    """
    Where connections to one container may be shared, when the user's ControlMaster says so: a path that
    stands for all of ``identity``; ``none`` where it would be too long for a socket, or there are none.
    """
    if sys.platform == "win32":
        return "none"
    digest = hashlib.sha256("\0".join(identity).encode("utf-8", "surrogateescape")).hexdigest()[:20]
    folder = config_dir() / "shared"
    path = str(folder / digest)
    # ssh adds a dot and 16 characters while it makes the socket, of whose name 103 characters are taken.
    if len(os.fsencode(path)) + 17 > 103 or "%" in path:
        return "none"
    private_dir(folder)
    return path


def _of(whose: Whose, program: str) -> list[str]:
    known = _known_to(program)
    return [
        f"{option.name}={option.value}"
        for option in OPTIONS
        if option.whose is whose and option.value and (not option.since or option.name in known)
    ]


def _known_to(program: str) -> frozenset[str]:
    """Of the newer settings those that this ssh knows; asked once for each program, and kept."""
    try:
        found = os.stat(program)
    except OSError:
        return frozenset()
    stamp = [program, found.st_mtime_ns, found.st_size, len(_NEWER)]
    kept = state_dir() / "ssh-options.json"
    try:
        record = json.loads(kept.read_text(encoding="utf-8"))
        if record["of"] == stamp:
            return frozenset(record["known"])
    except (OSError, ValueError, TypeError, KeyError):
        pass
    known = [option.name for option in _NEWER] if _takes(program, _NEWER) else [
        option.name for option in _NEWER if _takes(program, [option])
    ]  # fmt: skip
    if kept.parent.is_dir():
        with contextlib.suppress(LocalSetup):
            write_atomic(kept, json.dumps({"of": stamp, "known": known}))
    return frozenset(known)


def _takes(program: str, options: Iterable[Option]) -> bool:
    words = [word for option in options for word in ("-o", f"{option.name}={option.value}")]
    try:
        done = subprocess.run(
            [program, "-F", _NOBODY, *words, "-G", "x"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_ANSWER_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        # No ssh that anybody knows; what all of them know is enough for it.
        return False
    return done.returncode == 0


def page() -> str:
    """The table of the docs, in Markdown."""
    lines = ["| setting | whose | what we set | why |", "| --- | --- | --- | --- |"]
    for option in sorted(OPTIONS, key=lambda option: option.name.lower()):
        value = f"`{option.value}`" if option.value else ""
        since = f" (OpenSSH {option.since} and later)" if option.since else ""
        lines.append(f"| `{option.name}` | {option.whose.value} | {value} | {option.why}{since} |")
    return "\n".join(lines) + "\n"
