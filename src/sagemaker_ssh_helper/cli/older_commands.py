"""
The commands of the helper before this one, as documentation and scripts call them: each is one of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from sagemaker_ssh_helper.cli.main import main as sm_ssh
from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.client import last_target, older_settings
from sagemaker_ssh_helper.errors import SSHHelperError
from sagemaker_ssh_helper.names import DOMAIN, ResourceKind

_SETTINGS = {
    "set-domain-id": older_settings.DOMAIN_ID,
    "set-user-profile-name": older_settings.USER_PROFILE,
    "set-jb-license-server": older_settings.LICENSE_SERVER,
}


_SETUP_ONLY = "--proxy-setup-only"

_STUDIO_OPTIONS = ("--domain-id", "--user-profile-name")
"""Said before the action; a name of an app says as much by itself."""


def _by_kind(program: str, kind: ResourceKind) -> int:
    """``PROGRAM ACTION NAME …``: what it says is done to the resource of this kind."""
    words = sys.argv[1:]
    while kind is ResourceKind.STUDIO and len(words) > 1 and words[0] in _STUDIO_OPTIONS:
        words = words[2:]
    action, rest = (words[0], words[1:]) if words else ("", [])
    if action in _SETTINGS and kind is ResourceKind.STUDIO and len(rest) == 1:
        older_settings.save(_SETTINGS[action], rest[0])
        return 0
    if action == "run-command" and rest:
        # The name may be left out, and a command looks like a short name: only a whole one is taken for it.
        host = rest.pop(0) if _is_whole(rest[0]) and len(rest) > 1 else ""
        return _last(program, kind, host, lambda found: sm_ssh(["exec", found, "--", *rest]))
    if action == "stop-waiting":
        host = _host(rest[0], kind) if rest else ""
        return _last(program, kind, host, lambda found: sm_ssh(["continue", found]))
    is_connect = action == "connect" or action.startswith("connect-")
    if not rest or not (is_connect or action == "proxy-host"):
        say(
            f"error[usage]: {program} takes connect or proxy-host and a name, run-command and a command, or "
            "stop-waiting"
        )
        return 2
    if is_connect:
        return sm_ssh(["connect", _host(rest[0], kind), *rest[1:]])
    return sm_ssh(["start-proxy", _host(rest[0], kind)])


def _last(program: str, kind: ResourceKind, host: str, run: Callable[[str], int]) -> int:
    """Run it for a host; without one for the container that was reached last, if it is of this kind."""
    if not host:
        try:
            host = last_target.load().host
        except SSHHelperError as error:
            say(f"error[{error.id}]: {error}")
            return error.exit_code
        if not host.endswith(f".{kind.domain}.{DOMAIN}"):
            say(
                f"error[usage]: {host} was reached last, and is no {kind.label}. Name one: {program} ACTION "
                f"NAME.{kind.domain}.{DOMAIN}"
            )
            return 2
    return run(host)


def _is_whole(name: str) -> bool:
    return name.endswith(f".{DOMAIN}") or name.startswith("mi-")


def _host(name: str, kind: ResourceKind) -> str:
    if "." in name or _is_whole(name):
        return name
    return f"{name}.{kind.domain}.{DOMAIN}"


def ide() -> int:
    return _by_kind("sm-local-ssh-ide", ResourceKind.STUDIO)


def training() -> int:
    return _by_kind("sm-local-ssh-training", ResourceKind.TRAINING)


def processing() -> int:
    return _by_kind("sm-local-ssh-processing", ResourceKind.PROCESSING)


def transform() -> int:
    return _by_kind("sm-local-ssh-transform", ResourceKind.TRANSFORM)


def inference() -> int:
    return _by_kind("sm-local-ssh-inference", ResourceKind.INFERENCE)


def notebook() -> int:
    return _by_kind("sm-local-ssh-notebook", ResourceKind.NOTEBOOK)


def start_ssh() -> int:
    """
    ``sm-local-start-ssh mi-… [ssh options]``, and ``sm-connect-ssh-proxy`` with key files between them.

    With ``--proxy-setup-only`` it proves that one may log in, and goes.
    """
    words = [word for word in sys.argv[1:] if word != _SETUP_ONLY]
    target, rest = words[:1], words[1:]
    if len(words) < len(sys.argv) - 1:
        return sm_ssh(["exec", *target, "--", "true"])
    while target and rest and not rest[0].startswith("-"):
        # Files of keys: ours is used.
        rest = rest[1:]
    return sm_ssh(["connect", *target, *rest])


def configure() -> int:
    """``sm-local-configure``: nothing has to be installed; says whether all is as it should be."""
    say("nothing is installed: this package needs no other. What follows is sm-ssh doctor")
    return sm_ssh(["doctor"])
