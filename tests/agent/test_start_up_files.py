"""Start-up files of the account's shell: none for a command; an interactive shell survives its own."""

import os
import pwd
import shutil
import sys
from pathlib import Path

import pytest

from agent.ssh_node import SshNode, User

pytestmark = pytest.mark.container

HOSTILE = ["echo noise; echo noise >&2", "exit 0", "exec dash", "set -e; false", "read x"]
FILES = {
    "bash": [".bashrc", ".bash_profile", ".profile", "bash_env"],
    "zsh": [".zshenv", ".zshrc", ".zprofile", "zdotdir/.zshenv", "zdotdir/.zshrc"],
    "fish": [".config/fish/config.fish", "job_config/fish/config.fish"],
}
# The account gets a shell and a home of the test's, and every bash a system's file that is the test's.
VIEW = """
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/system" /etc/bash.bashrc
shift
exec "$@"
"""


class HostileNode:
    """A node whose account has this shell; what its start-up files hold is :meth:`set`."""

    def __init__(self, shell: str, folder: Path) -> None:
        self.shell = shell
        self.folder = folder
        self.home = folder / "home"
        own = pwd.getpwuid(os.geteuid())
        # Without root of our own, the test's view makes us root there.
        inside = pwd.getpwuid(0)
        entry = f"{inside.pw_name}:x:0:0::{self.home}:{shutil.which(shell)}\n"
        others = [line for line in Path("/etc/passwd").read_text().splitlines(True) if ":x:0:" not in line]
        (folder / "passwd").write_text(entry + "".join(others))
        self.set("")
        variables = {
            "BASH_ENV": self.home / "bash_env",
            "ZDOTDIR": self.home / "zdotdir",
            "XDG_CONFIG_HOME": self.home / "job_config",
            "HOME": self.home,
            "ENV": self.home / "env",
        }
        unshare = ["unshare", *([] if own.pw_uid == 0 else ["-Ur"]), "-m"]
        self.node = SshNode(
            User(inside.pw_name, own.pw_uid, own.pw_gid, sys.executable),
            {name.encode(): bytes(value) for name, value in variables.items()},
            within=[*unshare, "sh", "-ec", VIEW, "sh", str(folder)],
        )

    def set(self, text: str) -> None:
        """What every start-up file of the shell holds."""
        for name in FILES[self.shell]:
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        (self.folder / "system").write_text(f"{text}\n")


@pytest.fixture(scope="module", params=list(FILES))
def hostile(request, tmp_path_factory):
    made = HostileNode(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.node.close()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_command_runs_without_any(hostile, text):
    hostile.set(text)

    done = hostile.node.ssh("printf ok; exit 3", stdin=b"input")

    assert (done.stdout, done.stderr, done.returncode) == (b"ok", b"", 3)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_command_with_a_terminal_runs_without_any(hostile, text):
    hostile.set(text)

    done = hostile.node.ssh("printf ok; exit 3", options=["-tt"])

    assert (done.stdout, done.returncode) == (b"ok", 3)


@pytest.mark.parametrize("program", [["scp"], ["scp", "-O"]], ids=" ".join)
def test_copies_run_without_any(hostile, program, tmp_path):
    source, target = tmp_path / "source", hostile.node.job / "target"
    source.write_bytes(b"x" * 1000)
    for text in HOSTILE:
        hostile.set(text)
        target.unlink(missing_ok=True)

        done = hostile.node.run([*program, "-q", "-F", str(hostile.node.config), str(source), "job:target"])

        assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)
        assert target.read_bytes() == b"x" * 1000


def test_a_script_of_a_command_has_the_job_s_file_for_scripts(hostile):
    hostile.set("")
    (hostile.home / "bash_env").write_text("echo read")

    done = hostile.node.ssh("printf 1; bash -c 'printf 2'; printf 3")

    assert done.stdout == b"1read\n23"


def interactive(hostile, *lines):
    """What an interactive shell prints, and its status: these lines are typed."""
    return hostile.node.ssh(options=["-tt"], stdin="".join(f"{line}\n" for line in lines).encode())


@pytest.mark.parametrize("text", HOSTILE)
def test_an_interactive_shell_survives_them(hostile, text):
    hostile.set(text)

    # Each file that asks for a line gets one.
    typed = [""] * 5 if text.startswith("read") else []
    done = interactive(hostile, *typed, "printf '%s-%s\\n' alive here", "exit 3")

    assert b"alive-here" in done.stdout
    assert done.returncode == 3


def test_an_interactive_shell_reads_them_in_their_order(hostile):
    for name in FILES[hostile.shell]:
        (hostile.home / name).write_text(f"echo file-of-the-user {name}\n")
    (hostile.home / "env").write_text("echo ENV was read\n")
    (hostile.folder / "system").write_text("echo file-of-the-system\n")

    shown = interactive(hostile, "exit").stdout

    read = [line for line in shown.decode().splitlines() if line.startswith("file-of-")]
    assert b"ENV was read" not in shown
    assert (
        read
        == {
            "bash": ["file-of-the-system", "file-of-the-user .bashrc"],
            "zsh": ["file-of-the-user zdotdir/.zshenv", "file-of-the-user zdotdir/.zshrc"],
            "fish": ["file-of-the-user job_config/fish/config.fish"],
        }[hostile.shell]
    )


SHOWN = {
    "bash": "{ shopt; set -o; trap; declare -F; declare -p HISTFILE ENV POSIXLY_CORRECT; }",
    "zsh": "{ setopt; whence -w precmd; echo $ZDOTDIR $ENV; }",
    "fish": "begin; echo $XDG_CONFIG_HOME; functions; end",
}


def test_an_interactive_shell_is_as_it_would_be_without_us(hostile):
    hostile.set("")
    show = f"{SHOWN[hostile.shell]} 2>&1 | grep -v '^bash: line' >"

    # The second is started by the first, as anybody would.
    interactive(hostile, f"{show} ours", hostile.shell, f"{show} plain", "exit", "exit")

    ours, plain = ((hostile.node.job / name).read_text().splitlines() for name in ("ours", "plain"))
    assert len(ours) > 3
    assert ours == plain
