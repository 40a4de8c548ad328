"""Our block in the user's ssh configuration: it comes, changes and goes, and nothing else moves."""

from __future__ import annotations

import codecs
import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagemaker_ssh_helper.client import ssh_config, trust
from sagemaker_ssh_helper.client.ssh_config import BEGIN, END, BlockOptions, ConfigFile, block_text
from sagemaker_ssh_helper.errors import LocalSetup, UsageError

PROGRAM = ["/opt/bin/sm-ssh"]


def text(*options: str, **chosen: str) -> str:
    return block_text(PROGRAM, BlockOptions(options=options, **chosen))


lines = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"Host *\n",
                b"  User me\n",
                b"# comment\n",
                b"\n",
                b"Include other\r\n",
                b"\xff\xfe\n",
                BEGIN.encode() + b" x\n",
                END.encode() + b"\n",
                b"  " + BEGIN.encode() + b"\n",
                b"# >>> other >>>\n",
            ]
        ),
        st.binary(max_size=20),
    ),
    max_size=12,
).map(b"".join)


@given(lines)
def test_any_file_is_changed_between_our_markers_only_or_refused(content: bytes) -> None:
    try:
        file = ConfigFile.parse(Path("config"), content)
    except LocalSetup:
        marked = content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        assert marked or b"\0" in content or BEGIN.encode() in content or END.encode() in content
        return
    changed = file.with_block(text(profile="p"))
    again = ConfigFile.parse(Path("config"), changed)

    assert again.without_block() == file.before + file.after
    assert again.with_block(text(profile="p")) == changed
    if file.block is None:
        assert again.without_block() == content
    else:
        assert file.before + file.block + file.after == content
        assert changed.startswith(file.before)
        assert changed.endswith(file.after)


@pytest.mark.parametrize(
    "content",
    [
        f"{BEGIN}\n",
        f"{END}\n",
        f"{END}\n{BEGIN}\n",
        f"{BEGIN}\n{BEGIN}\n{END}\n",
        f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n",
        f"{BEGIN}\n{END}\n{END}\n",
        f"{BEGIN}\n{BEGIN}\n{END}\n{END}\n",
    ],
)
def test_broken_markers_are_refused_with_the_fix(content: str) -> None:
    with pytest.raises(LocalSetup, match="Take out by hand"):
        ConfigFile.parse(Path("config"), content.encode())


def test_what_was_chosen_stands_in_the_block() -> None:
    chosen = BlockOptions("ml dev", "eu-west-1", ("ForwardAgent yes", "LogLevel=DEBUG"), "plugin")
    file = ConfigFile.parse(Path("config"), block_text(PROGRAM, chosen).encode() + b"Host x\n")
    assert file.chosen == chosen
    assert not ConfigFile.parse(Path("config"), b"# :profile=nobody\n").chosen


def test_a_file_with_windows_line_ends_keeps_them() -> None:
    content = b"Host x\r\n  User me\r\n"
    changed = ConfigFile.parse(Path("config"), content).with_block(text(profile="p"))

    assert changed.count(b"\n") == changed.count(b"\r\n")
    again = ConfigFile.parse(Path("config"), changed)
    assert again.without_block() == content
    assert again.chosen.profile == "p"


@pytest.mark.parametrize("option", ["", "NoValue", "-x y", "A b\nB c"])
def test_an_option_that_is_none_is_refused(option: str) -> None:
    with pytest.raises(UsageError):
        text(option)


def ssh_g(config: Path, host: str) -> dict[str, str]:
    """What ssh makes of the configuration; a setting that comes several times has its last line."""
    shown = subprocess.run(["ssh", "-G", "-F", str(config), host], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in shown.stdout.splitlines() if " " in line)


@pytest.fixture
def config(home: Path) -> Path:
    path = home / ".ssh" / "config"
    path.parent.mkdir(mode=0o700)
    return path


OTHERS = """\
User someone
StrictHostKeyChecking ask
Host bastion
  User jump
  ProxyCommand nc %h %p
Host *
  ServerAliveInterval 77
  IdentityFile ~/.ssh/other
"""


def test_ssh_reads_the_block_for_our_hosts_and_the_users_file_for_others(config: Path) -> None:
    config.write_text(OTHERS)
    before = {host: ssh_g(config, host) for host in ("bastion", "example.com", "x.sagemaker")}
    file = ConfigFile.read(config)
    file.write(file.with_block(text("ForwardAgent yes", profile="ml-dev")))
    ours = ssh_g(config, "My-Job.training.sagemaker")

    assert ours["proxycommand"] == "/opt/bin/sm-ssh start-proxy --profile ml-dev --user %r %n %h"
    assert ours["user"] == "root"
    assert ours["stricthostkeychecking"] == "true"
    assert ours["updatehostkeys"] == "false"
    assert ours["hostkeyalgorithms"] == "ssh-ed25519,ecdsa-sha2-nistp256"
    assert ours["identitiesonly"] == "yes"
    assert ours["serveraliveinterval"] == "15"
    assert ours["connecttimeout"] == "600"
    assert ours["forwardagent"] == "yes"
    assert ssh_g(config, "app.studio.sagemaker")["user"] == "sagemaker-user"
    for kind in ("processing", "transform", "inference", "notebook", "studio"):
        assert "start-proxy" in ssh_g(config, f"algo-2.x.{kind}.sagemaker")["proxycommand"]
    assert {host: ssh_g(config, host) for host in before} == before


def test_login_names_of_single_containers_win(config: Path) -> None:
    file = ConfigFile.read(config)
    file.write(file.with_block(text()))
    trust.write_user_line("job.training.sagemaker", "ubuntu")

    assert ssh_g(config, "job.training.sagemaker")["user"] == "ubuntu"
    assert ssh_g(config, "other.training.sagemaker")["user"] == "root"


@pytest.mark.parametrize("folder", ["a b", "a%b", "ü", "it's"])
def test_odd_paths_are_quoted_so_that_ssh_reads_them(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / folder))
    (tmp_path / folder).mkdir()
    file = ConfigFile.read(config)
    program = str(tmp_path / folder / "sm-ssh")
    file.write(file.with_block(block_text([program], BlockOptions())))
    trust.write_user_line("job.training.sagemaker", "ubuntu")
    seen = ssh_g(config, "job.training.sagemaker")

    assert seen["identityfile"].replace("%%", "%") == str(tmp_path / folder / "sm-ssh" / "key")
    assert seen["userknownhostsfile"].replace("%%", "%").strip('"') == str(
        tmp_path / folder / "sm-ssh" / "known_hosts"
    )
    if "%" not in folder:  # ssh expands no tokens in the name of an included file
        assert seen["user"] == "ubuntu"


def test_a_new_file_is_private(home: Path) -> None:
    path = home / ".ssh" / "config"
    file = ConfigFile.read(path)
    file.write(file.with_block(text()))

    assert not file.existed
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_mode_and_link_stay(config: Path, home: Path) -> None:
    real = home / "dotfiles"
    real.write_text(OTHERS)
    real.chmod(0o640)
    config.symlink_to(real)
    file = ConfigFile.read(config)
    file.write(file.with_block(text()))

    assert config.is_symlink()
    assert os.readlink(config) == str(real)
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert real.read_text().endswith(OTHERS)


def test_an_unreadable_file_is_told(config: Path) -> None:
    config.mkdir()
    with pytest.raises(LocalSetup, match="cannot be read"):
        ConfigFile.read(config)


def test_the_markers_are_frozen() -> None:
    # Files in the field hold them: another text would leave blocks behind that nobody finds.
    assert (BEGIN, END) == ("# >>> sm-ssh >>>", "# <<< sm-ssh <<<")
    assert ssh_config.default_path().name == "config"
