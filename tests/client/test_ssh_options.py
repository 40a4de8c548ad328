"""Whose each setting of ssh is: asked of the ssh that is here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sagemaker_ssh_helper.client import ssh_config, ssh_options
from sagemaker_ssh_helper.client.ssh_options import OPTIONS, Whose

SSH = shutil.which("ssh") or "ssh"
HOST = "my-job.training.sagemaker"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "ssh-options.md"
ALIASES = {"pubkeyacceptedalgorithms": "pubkeyacceptedkeytypes"}

HOSTILE = {
    "CanonicalizeHostname": "always",
    "CheckHostIP": "yes",
    "ControlPath": "/tmp/%h",
    "ConnectTimeout": "1",
    "GlobalKnownHostsFile": "/tmp/others",
    "HashKnownHosts": "yes",
    "HostKeyAlgorithms": "ssh-rsa",
    "HostName": "%h.corp",
    "IdentitiesOnly": "no",
    "KnownHostsCommand": "/bin/echo %H",
    "NoHostAuthenticationForLocalhost": "yes",
    "Port": "2222",
    "PreferredAuthentications": "password",
    "ProxyCommand": "nc %h %p",
    "ProxyJump": "bastion",
    "ProxyUseFdpass": "yes",
    "PubkeyAcceptedKeyTypes": "ssh-rsa",
    "PubkeyAuthentication": "no",
    "ServerAliveInterval": "0",
    "ServerAliveCountMax": "1",
    "StrictHostKeyChecking": "no",
    "UpdateHostKeys": "yes",
    "User": "nobody",
    "UserKnownHostsFile": "/tmp/others",
    "VerifyHostKeyDNS": "yes",
}


def settings(config: Path) -> dict[str, str]:
    """What ssh would do for a container."""
    done = subprocess.run([SSH, "-F", str(config), "-G", HOST], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


@pytest.fixture
def block(home: Path) -> str:
    return ssh_config.block_text(["/opt/sm-ssh"], ssh_config.BlockOptions())


def test_every_setting_of_ssh_is_in_the_table_once(home: Path) -> None:
    names = [option.name.lower() for option in OPTIONS]
    assert len(names) == len(set(names))
    empty = home / "empty"
    empty.touch()
    known = {name.lower() for name in settings(empty)}
    assert {ALIASES.get(name, name) for name in known} <= set(names)


def test_the_table_is_in_the_docs() -> None:
    text = PAGE.read_text("utf-8")
    fresh = text.partition("<!-- table -->\n")[0] + "<!-- table -->\n\n" + ssh_options.page()
    if os.environ.get("SM_SSH_WRITE_DOCS"):
        PAGE.write_text(fresh, "utf-8")
    assert text == fresh, "SM_SSH_WRITE_DOCS=1 pytest tests/client/test_ssh_options.py writes it anew"


@pytest.mark.parametrize(
    "name", [option.name for option in OPTIONS if option.whose is Whose.OURS and option.name in HOSTILE]
)
def test_what_is_ours_stays_whatever_is_for_all_hosts(name: str, block: str, home: Path) -> None:
    alone, beside = home / "alone", home / "beside"
    alone.write_text(block)
    beside.write_text(f"{block}Host *\n  {name} {HOSTILE[name]}\n")
    if name not in ssh_options._known_to(SSH) and name in {each.name for each in ssh_options._NEWER}:
        pytest.skip(f"this ssh does not know {name}")
    assert settings(beside) == settings(alone)


def test_nothing_of_ours_is_left_out_of_that() -> None:
    ours = {option.name for option in OPTIONS if option.whose is Whose.OURS}
    # Keys are added to, and the alias is told.
    assert ours - HOSTILE.keys() == {"IdentityFile", "HostKeyAlias"}


def test_an_alias_for_all_hosts_is_told(block: str, home: Path) -> None:
    config = home / "config"
    config.write_text(f"{block}Host *\n  HostKeyAlias mine\n")
    assert "HostKeyAlias mine" in ssh_config.why_not_in_effect(config, ["/opt/sm-ssh"])
    config.write_text(block)
    assert ssh_config.why_not_in_effect(config, ["/opt/sm-ssh"]) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [(b"Host x\n  Usr me\n", "line 2"), (b"Host x\n  Port abc\n", "line 2"), (b"Match nothing\n", "line 1")],
)
def test_what_ssh_refuses_is_told_with_its_line(text: bytes, why: str, block: str, home: Path) -> None:
    config = home / "config"
    config.write_bytes(block.encode() + text)
    line = int(why.split()[1]) + block.count("\n")
    assert f"line {line}" in ssh_config.why_not_in_effect(config, ["/opt/sm-ssh"])


def test_an_older_ssh_gets_what_it_knows(home: Path, tmp_path: Path) -> None:
    old = tmp_path / "ssh"
    old.write_text('#!/bin/sh\ncase "$*" in *KnownHostsCommand*|*SessionType*) exit 255 ;; esac\n')
    old.chmod(0o755)
    names = {setting.partition("=")[0] for setting in ssh_options.always(str(old))}
    assert "KnownHostsCommand" not in names
    assert {"HostName", "ProxyUseFdpass"} <= names
    commands = {setting.partition("=")[0] for setting in ssh_options.of_one_command(str(old))}
    assert "SessionType" not in commands
    assert "StdinNull" in commands
    # A program that has changed is asked anew.
    old.write_text("#!/bin/sh\nexit 0\n# new\n")
    assert "KnownHostsCommand=none" in ssh_options.always(str(old))


def test_a_shared_path_is_for_one_container_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/tmp/sm-ssh-test-of-paths")
    try:
        first = ssh_options.control_path("a", "eu-west-1", "mi-1", HOST, "root")
        others = [
            ssh_options.control_path(*identity)
            for identity in (
                ("b", "eu-west-1", "mi-1", HOST, "root"),
                ("a", "eu-west-2", "mi-1", HOST, "root"),
                ("a", "eu-west-1", "mi-2", HOST, "root"),
                ("a", "eu-west-1", "mi-1", HOST, "me"),
                ("a", "eu-west-1mi-1", "", HOST, "root"),
            )
        ]
        assert len({first, *others}) == 6
        assert first == ssh_options.control_path("a", "eu-west-1", "mi-1", HOST, "root")
        assert re.fullmatch(r"/tmp/.*/[0-9a-f]{20}", first)
        assert Path(first).parent.stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree("/tmp/sm-ssh-test-of-paths", ignore_errors=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/tmp/" + "x" * 90)
    assert ssh_options.control_path("a") == "none"


def test_what_the_way_there_says_is_heard(tmp_path: Path) -> None:
    """ssh gives a ProxyCommand no standard error where a connection has a path and is to stay."""
    way = tmp_path / "way"
    way.write_text("#!/bin/sh\necho why not >&2\nexit 1\n")
    way.chmod(0o755)
    config = tmp_path / "config"
    config.write_text("Host *\n  ControlPersist yes\n")
    own = [f"ControlPath={tmp_path}/shared", f"ProxyCommand={way}", *ssh_options.of_one_command(SSH)]
    words = [word for setting in own for word in ("-o", setting)]
    done = subprocess.run(
        [SSH, "-F", str(config), *words, HOST, "true"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 255
    assert "why not\n" in done.stderr
