"""
The checks of ``sm-ssh doctor``, in the order in which a connection needs what they look at.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sagemaker_ssh_helper import __version__
from sagemaker_ssh_helper.aws import instances, permissions, sessions
from sagemaker_ssh_helper.aws.instances import Instance
from sagemaker_ssh_helper.aws.json_rpc import Caller, Client
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.channels import certificates
from sagemaker_ssh_helper.cli import named
from sagemaker_ssh_helper.client import connect, keys, plugin, ssh_config, trust
from sagemaker_ssh_helper.client.files import locked
from sagemaker_ssh_helper.client.settings import open_session
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    AdvancedTierOff,
    SSHHelperError,
    SshMissing,
    TargetNotFound,
)
from sagemaker_ssh_helper.names import Tag

# Where programs of a desktop look, which start with a shorter PATH than a terminal's.
DESKTOP_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")
_SHARED_SESSION_NAMES = ("SageMaker",)
"""What AWS calls the session of everybody who works by a role: Studio and notebook instances."""

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


@dataclass(frozen=True)
class Result:
    """What one check found. ``error`` is the id of what would stop a connection."""

    check: str
    status: str
    text: str
    fix: str | None = None
    error: str | None = None
    exit_code: int = 0
    seconds: float = 0.0


class Examination:
    """
    One run of the checks.

    ``target`` is as the user typed it; without one only the machine and the account are looked at. With
    ``fix`` the ssh block is written where it is missing or stale; nothing else is ever changed.
    """

    def __init__(self, target: str | None, profile: str | None, region: str | None, *, fix: bool) -> None:
        self._typed = target
        self._profile = profile
        self._region = region
        self._fix = fix
        self._session: Session | None = None
        self._client: Client | None = None
        self._caller: Caller | None = None
        self._named: named.Named | None = None
        self._instance: Instance | None = None
        self._trusted = False

    def results(self) -> Iterator[Result]:
        """Each check as it is done. One that needs a check that failed is skipped."""
        checks: list[tuple[str, Callable[[], Result], Callable[[], Any]]] = [
            ("ssh", self._ssh, lambda: True),
            ("install", self._install, lambda: True),
            ("plugin", self._plugin, lambda: True),
            ("config", self._config, lambda: True),
            ("region", self._open_session, lambda: True),
            ("certificates", self._certificates, lambda: self._session),
            ("credentials", self._credentials, lambda: self._client),
            ("permissions", self._permissions, lambda: self._caller),
            ("tier", self._tier, lambda: self._caller),
        ]
        if self._typed is not None:
            checks += [
                ("target", self._target, lambda: self._caller),
                ("owner", self._owner, lambda: self._instance),
                ("trust", self._trust, lambda: self._instance),
                ("key", self._key, lambda: self._instance),
                ("session", self._start, lambda: self._trusted),
            ]
        for name, check, needed in checks:
            started_at = time.monotonic()
            if not needed():
                yield Result(name, SKIPPED, "needs what failed above")
                continue
            try:
                result = check()
            except SSHHelperError as error:
                text = error.what + (f" ({error.evidence})" if error.evidence else "")
                result = Result(name, FAILED, " ".join(text.split()), error.fix, error.id, error.exit_code)
            yield Result(
                name,
                result.status,
                result.text,
                result.fix,
                result.error,
                result.exit_code,
                time.monotonic() - started_at,
            )

    def _ssh(self) -> Result:
        program = connect.find_ssh()
        if shutil.which("ssh-keygen") is None:
            raise SshMissing("ssh-keygen was not found", fix="Install OpenSSH's client")
        done = subprocess.run(
            [program, "-V"], capture_output=True, encoding="utf-8", errors="replace", check=False
        )
        version = (done.stderr or done.stdout).split(",")[0].strip()
        if os.name == "posix" and shutil.which("ssh", path=os.pathsep.join(DESKTOP_PATH)) is None:
            return Result(
                "ssh",
                WARNING,
                f"{version} at {program}, where editors started from the desktop do not look",
                "Start the editor from a terminal, or set the path of ssh in its settings",
            )
        return Result("ssh", OK, f"{version} at {program}")

    def _install(self) -> Result:
        """Another installation on PATH is what a terminal runs, or what an older script finds."""
        ours = os.path.realpath(connect.program_words()[0])
        folders = dict.fromkeys(os.environ.get("PATH", "").split(os.pathsep))
        programs = [found for folder in folders if folder and (found := shutil.which("sm-ssh", path=folder))]
        others = [program for program in programs if os.path.realpath(program) != ours]
        if not others:
            return Result("install", OK, f"version {__version__}, the only one on PATH")
        return Result(
            "install", WARNING, f"this is {ours}; there is also {', '.join(others)}",
            "Uninstall what is not wanted: pip uninstall sagemaker-ssh-helper, in its environment",
        )  # fmt: skip

    def _plugin(self) -> Result:
        """Nothing but ``--via plugin`` needs it."""
        program = shutil.which(plugin.PROGRAM)
        if program is None:
            return Result("plugin", OK, f"{plugin.PROGRAM} is not installed, and not needed")
        version = plugin.version_of(program)
        why = plugin.why_not(version)
        if why:
            text = f"{plugin.PROGRAM} {version} is too old for --via plugin: {why}"
            return Result("plugin", WARNING, text, plugin.INSTALL)
        return Result("plugin", OK, f"{plugin.PROGRAM} {version}")

    def _config(self) -> Result:
        path = ssh_config.default_path()
        file = ssh_config.ConfigFile.read(path)
        if file.block is None:
            if self._fix:
                return self._write_block()
            return Result(
                "config", WARNING, f"{path} does not know the names of containers, so plain ssh does not",
                "Run: sm-ssh config-ssh",
            )  # fmt: skip
        why = ssh_config.why_not_in_effect(path, connect.program_words())
        if not why:
            options = ssh_config.options_for(path)
            told = f"; ssh does not follow HOME, so tell it: ssh {shlex.join(options)}" if options else ""
            return Result("config", OK, f"the block in {path} is in effect{told}")
        if self._fix:
            return self._write_block()
        return Result(
            "config", WARNING, f"plain ssh does not use our block in {path} ({why})", "Run: sm-ssh config-ssh"
        )

    def _write_block(self) -> Result:
        with locked(ssh_config.lock_path()):
            file = ssh_config.ConfigFile.read(ssh_config.default_path())
            text = ssh_config.block_text(connect.program_words(), file.chosen, created=file.created_by_us)
            file.write(file.with_block(text))
        keys.ensure_key()
        why = ssh_config.why_not_in_effect(file.path, connect.program_words())
        if why:
            return Result(
                "config", WARNING, f"the block in {file.path} has no effect ({why})", f"Mend {file.path}"
            )
        return Result("config", OK, f"wrote the block into {file.path}")

    def _open_session(self) -> Result:
        region = self._region
        if region is None and self._typed is not None and named.is_spelled_out(self._typed):
            _, region = named.spelled_out(self._typed)
        self._session = open_session(self._profile, region)
        self._client = Client(self._session)
        text = f"{self._session.region} (from {self._session.region_origin})"
        if self._session.warnings:
            return Result("region", WARNING, "; ".join(self._session.warnings))
        return Result("region", OK, text)

    def _certificates(self) -> Result:
        assert self._session is not None
        ours = f"those of the package, of {certificates.bundled_date()}"
        named_file = self._session.ca_bundle()
        certificates.default_ssl_context()
        if isinstance(named_file, str):
            certificates.context_of(named_file, "ca_bundle, or REQUESTS_CA_BUNDLE,")
            return Result("certificates", OK, f"{named_file} says what is trusted")
        variable = certificates.chosen_by()
        if variable is not None:
            return Result("certificates", OK, f"{os.environ[variable]} ({variable}) says what is trusted")
        if certificates.system_has_certificates():
            return Result("certificates", OK, f"this machine's; {ours}, are for machines without")
        return Result("certificates", OK, f"{ours}, as this machine has none")

    def _credentials(self) -> Result:
        assert self._client is not None
        self._caller = self._client.caller()
        profile = self._client.session.profile
        of = f", profile {profile}" if profile else ""
        keys_of = f"keys from {self._client.session.credentials_origin}"
        return Result(
            "credentials", OK, f"{self._caller.arn} in account {self._caller.account}{of}; {keys_of}"
        )

    def _permissions(self) -> Result:
        assert self._session is not None
        assert self._caller is not None
        try:
            missing = permissions.missing(self._session, self._caller)
        except AccessDenied:
            return Result(
                "permissions", SKIPPED,
                "not checked: you may not call iam:SimulatePrincipalPolicy for yourself",
            )  # fmt: skip
        if not missing:
            return Result("permissions", OK, "every action of a connection is allowed")
        # Without these a connection is made, and lost where it could have been resumed or ended well.
        mild = {"ssm:ResumeSession", "ssm:TerminateSession", "ssmmessages:OpenDataChannel"}
        text = f"missing: {', '.join(missing)}"
        fix = "Ask an administrator for them: docs/how-to/prepare-an-account.md has the policy"
        if mild.issuperset(missing):
            return Result(
                "permissions", WARNING, f"{text}; sessions end with a short loss of the network", fix
            )
        return Result("permissions", FAILED, text, fix, AccessDenied.id, AccessDenied.exit_code)

    def _tier(self) -> Result:
        assert self._client is not None
        assert self._caller is not None
        setting = "/ssm/managed-instance/activation-tier"
        try:
            answer = self._client.call("ssm", "GetServiceSetting", SettingId=setting)
        except AccessDenied:
            return Result("tier", SKIPPED, "not checked: you may not call ssm:GetServiceSetting")
        tier = str((answer.get("ServiceSetting") or {}).get("SettingValue", ""))
        if tier == "advanced":
            return Result("tier", OK, "advanced-instances tier is on")
        return Result(
            "tier", FAILED, f"the tier of managed instances is {tier!r}: Session Manager refuses them",
            f"An administrator turns it on: aws ssm update-service-setting --setting-id {setting} "
            f"--setting-value advanced --region {self._client.session.region}",
            AdvancedTierOff.id, AdvancedTierOff.exit_code,
        )  # fmt: skip

    def _target(self) -> Result:
        from sagemaker_ssh_helper.client import naming

        found = named.find(self._typed, self._profile, self._region)
        try:
            instance = instances.resolve(found.client, found.target)
        except TargetNotFound as error:
            raise naming.located(error, found.session, found.target) from error
        self._named = found
        if instance.is_native:
            self._instance = instance
            return Result("target", OK, f"{found.host} is {instance.id}: SageMaker's own agent serves it")
        if instance.tags is None:
            instance = instance.with_tags(instances.tags_of(found.client, instance.id))
        self._instance = instance
        return Result(
            "target",
            OK,
            f"{found.host} is {instance.id}, {instance.ping_status}, agent {instance.agent_version}",
        )

    def _owner(self) -> Result:
        if self._is_native:
            return Result("owner", SKIPPED, "such a target has none: policies alone say who may")
        assert self._caller is not None
        return whose(self._tags.get(Tag.OWNER, ""), self._caller.user_id)

    def _trust(self) -> Result:
        assert self._named is not None
        assert self._instance is not None
        if self._is_native:
            self._trusted = True
            return Result("trust", SKIPPED, "SageMaker vouches for such a target")
        instance, client = self._instance, self._named.client
        known = trust.verify(
            instance, self._tags, launch_ids=lambda claimed: connect.launch_ids(client, instance, claimed)
        )
        self._trusted = True
        return Result(
            "trust", OK, "its host key is pinned" if known else "its launch id is the one of its launch"
        )

    def _key(self) -> Result:
        if self._is_native:
            return Result("key", SKIPPED, "such a target needs none")
        pair = keys.ensure_key() if self._fix else keys.load_key()
        if pair is not None and pair.public.fingerprint in self._tags.get(Tag.KEYS, ""):
            return Result("key", OK, f"{pair.public.fingerprint} was admitted at launch")
        what = "you have no key yet: connect makes one" if pair is None else "your key is not there yet"
        return Result("key", OK, f"{what}; connect delivers it by Run Command")

    def _start(self) -> Result:
        assert self._named is not None
        assert self._instance is not None
        client = self._named.client
        if self._is_native:
            grant = sessions.start_document(client, self._instance.id, None, {})
            sessions.terminate(client, grant.id)
            return Result("session", OK, "a shell was granted, and ended")
        port = trust.port_of(self._tags)
        grant = sessions.start(client, self._instance.id, port, self._tags.get(Tag.OWNER))
        sessions.terminate(client, grant.id)
        return Result("session", OK, f"one to port {port} was granted, and ended")

    @property
    def _is_native(self) -> bool:
        assert self._instance is not None
        return self._instance.is_native

    @property
    def _tags(self) -> Any:
        assert self._instance is not None
        return self._instance.tags or {}


def whose(owner: str, me: str) -> Result:
    """What to say of a node whose SSHOwner is ``owner`` to the caller with this ``aws:userid``."""
    role, _, session_name = me.partition(":")
    if owner == me and session_name in _SHARED_SESSION_NAMES:
        return Result(
            "owner", WARNING, f"you, and everybody else who uses this role as {session_name!r}",
            "Use a session name of your own: role_session_name in a profile of ~/.aws/config",
        )  # fmt: skip
    if owner == me:
        return Result("owner", OK, "you")
    # Whether that matters is for the account's policies to say: the session shows it.
    text = f"its {Tag.OWNER} is {owner or 'not set'}, you are {me}"
    if session_name and owner.startswith(f"{role}:"):
        return Result(
            "owner", WARNING, f"{text}: the same role under another session name",
            "If that was you, keep one name: role_session_name in the profile of ~/.aws/config",
        )  # fmt: skip
    return Result("owner", WARNING, text, "Launch your own job, or have this one made yours")
