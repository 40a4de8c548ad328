"""
The commands of the helper before this one, as documentation and scripts call them: each is one of ours.
"""

from __future__ import annotations

import sys

from sagemaker_ssh_helper.cli.main import main as sm_ssh
from sagemaker_ssh_helper.cli.main import say
from sagemaker_ssh_helper.client import older_settings
from sagemaker_ssh_helper.names import DOMAIN, ResourceKind

_SETTINGS = {
    "set-domain-id": older_settings.DOMAIN_ID,
    "set-user-profile-name": older_settings.USER_PROFILE,
    "set-jb-license-server": older_settings.LICENSE_SERVER,
}


def _by_kind(program: str, kind: ResourceKind) -> int:
    """``PROGRAM ACTION NAME …``: what it says is done to the resource of this kind."""
    words = sys.argv[1:]
    action, rest = (words[0], words[1:]) if words else ("", [])
    if action in _SETTINGS and kind is ResourceKind.STUDIO and len(rest) == 1:
        older_settings.save(_SETTINGS[action], rest[0])
        return 0
    is_connect = action == "connect" or action.startswith("connect-")
    if not rest or not (is_connect or action in ("proxy-host", "run-command", "stop-waiting")):
        say(f"error[usage]: {program} takes connect, proxy-host, run-command or stop-waiting, then a name")
        return 2
    host, more = _host(rest[0], kind), rest[1:]
    if is_connect:
        return sm_ssh(["connect", host, *more])
    if action == "proxy-host":
        return sm_ssh(["start-proxy", host])
    if action == "run-command":
        return sm_ssh(["exec", host, "--", *more])
    return sm_ssh(["continue", host])


def _host(name: str, kind: ResourceKind) -> str:
    if "." in name or name.startswith("mi-"):
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
    """``sm-local-start-ssh mi-… [ssh options]``, and ``sm-connect-ssh-proxy`` with key files between them."""
    target, rest = sys.argv[1:2], sys.argv[2:]
    while target and rest and not rest[0].startswith("-"):
        # Files of keys: ours is used.
        rest = rest[1:]
    return sm_ssh(["connect", *target, *rest])


def configure() -> int:
    """``sm-local-configure``: nothing has to be installed; says whether all is as it should be."""
    say("nothing is installed: this package needs no other. What follows is sm-ssh doctor")
    return sm_ssh(["doctor"])
