"""The command sm-setup-ssh: images, keys, status."""

import base64
import os
import shutil

import pytest

from sagemaker_ssh_helper.agent import setup, sshd
from sagemaker_ssh_helper.agent.setup import main, parse_token
from sagemaker_ssh_helper.agent.state import State, StateDir
from sagemaker_ssh_helper.errors import UsageError
from sagemaker_ssh_helper.public_keys import PublicKey

pytestmark = pytest.mark.container

LINE = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))).decode()


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("SSH_STATE_DIR", str(tmp_path / "node"))
    return StateDir.choose(os.environ)


def token(line):
    return base64.b64encode(line.encode()).decode()


# --- start ---


@pytest.mark.parametrize(
    ("words", "ends", "status"), [([], State.ONLINE, 0), (["start-ssh"], State.FAILED, 1)]
)
def test_it_starts_ssh_whatever_the_launch_said(state, monkeypatch, words, ends, status):
    monkeypatch.setenv("START_SSH", "false")
    started = []

    def setup_and_start_ssh():
        started.append(os.environ["START_SSH"])
        state.update_status(ends, why="as the test wants it")

    monkeypatch.setattr("sagemaker_ssh_helper.agent.bootstrap.setup_and_start_ssh", setup_and_start_ssh)
    monkeypatch.setattr(setup.waiting, "true_status", StateDir.read_status)
    assert main(words) == status
    assert started == ["true"]


# --- authorize ---


def test_a_key_is_admitted_once(state, capsys):
    sha256 = PublicKey.parse(LINE).sha256

    assert main(["authorize", token(LINE)]) == 0
    assert main(["authorize", token(f"{LINE} me@laptop\n")]) == 0

    assert capsys.readouterr().out == f"admitted: {sha256}\nknown already: {sha256}\n"
    assert state.read(state.authorized_keys) == LINE.encode() + b"\n"
    assert os.stat(state.authorized_keys).st_mode & 0o077 == 0


def test_authorizing_changes_nothing_else(state):
    state.update_status(State.ONLINE, why="fine")
    before = state.read(state.status_json)

    main(["authorize", token(LINE)])

    assert state.read(state.status_json) == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not base64!",
        LINE,
        token("rubbish"),
        token(f'command="rm -rf /" {LINE}'),
        token(f"{LINE}\n{LINE}"),
        token(f"{LINE}\x00"),
        base64.b64encode(b"\xff\xfe").decode(),
        base64.urlsafe_b64encode(b"\xfb\xff" * 30).decode(),
        token(LINE)[:-4],
        "A" * 10_000,
        "$(id)",
    ],
)
def test_a_token_that_holds_no_key_is_refused_and_not_repeated(state, capsys, text):
    assert main(["authorize", text]) == 2

    said = capsys.readouterr().err
    assert said.startswith("sm-setup-ssh: error[usage]: that is no") or "too long" in said
    assert len(text) < 4 or text not in said
    assert state.read(state.authorized_keys) is None


def test_a_token_is_the_standard_base64_of_a_line():
    assert parse_token(token(LINE)).line == LINE
    with pytest.raises(UsageError):
        parse_token(token(LINE) + "\n")


# --- words ---


@pytest.mark.parametrize("words", [["frobnicate"], ["--version"], ["", "x"]])
def test_unknown_commands_end_with_2(capsys, words):
    assert main(words) == 2
    assert "sm-setup-ssh knows no" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["authorize"], ["authorize", "a", "b"], ["configure", "now"], ["status", "x"]]
)
def test_a_wrong_number_of_words_shows_the_usage(capsys, words):
    assert main(words) == 2
    assert capsys.readouterr().err == setup.USAGE


def test_help_is_no_error(capsys):
    assert main(["-h"]) == 0
    assert capsys.readouterr().out == setup.USAGE


def test_status_is_that_of_sm_wait(state, capsys):
    state.update_status(State.FAILED, why="no role")

    assert main(["status"]) == 1
    assert "why:       no role" in capsys.readouterr().out


# --- configure ---


def test_an_image_with_openssh_is_left_as_it_is(capsys):
    assert main(["configure"]) == 0

    out = capsys.readouterr().out
    assert f"sshd:        {sshd.find_program('sshd')}\n" in out
    assert f"ssh-keygen:  {sshd.find_program('ssh-keygen')}\n" in out


def test_the_folder_that_sshd_needs_is_made_in_the_image(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "run" / "sshd"
    fake = tmp_path / "sshd"
    fake.write_text(
        f'#!/bin/sh\n[ -f "$5" ] && [ -d {folder} ] && exit\n'
        f'echo "Missing privilege separation directory: {folder}" >&2\n'
    )
    fake.chmod(0o700)
    found = sshd.find_program
    monkeypatch.setattr(sshd, "find_program", lambda name: str(fake) if name == "sshd" else found(name))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["configure"]) == 0
    assert not folder.exists()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main(["configure"]) == 0

    assert folder.is_dir()


@pytest.fixture
def bare_image(monkeypatch, tmp_path):
    """No OpenSSH until the package manager that is called with the returned function ran."""
    installed = tmp_path / "installed"
    found = sshd.find_program
    monkeypatch.setattr(sshd, "find_program", lambda name: found(name) if installed.exists() else None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def add(manager, script="exit 0"):
        program = tmp_path / manager
        program.write_text(f'#!/bin/sh\necho "$0 $*" >> {tmp_path}/calls\n{script}\n')
        program.chmod(0o700)
        return lambda: (tmp_path / "calls").read_text().replace(f"{tmp_path}/", "").splitlines()

    add.installed = f": > {installed}"
    return add


def test_a_bare_image_gets_openssh_from_its_package_manager_with_a_notice(bare_image, capsys):
    calls = bare_image("apt-get", bare_image.installed)

    assert main(["configure"]) == 0

    assert calls() == ["apt-get update -qq", "apt-get install -y -qq --no-install-recommends openssh-server"]
    assert "there is no sshd and no ssh-keygen; running: apt-get update" in capsys.readouterr().err


@pytest.mark.parametrize("manager", ["dnf", "microdnf", "yum", "apk", "zypper"])
def test_other_package_managers_are_known(bare_image, manager):
    calls = bare_image(manager, bare_image.installed)

    assert main(["configure"]) == 0

    assert "openssh-server" in calls()[0]


def test_a_package_manager_gets_neither_the_jobs_libraries_nor_a_path_without_system_programs(
    bare_image, monkeypatch
):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/conda/lib")
    monkeypatch.setenv("PYTHONPATH", "/opt/ml/code")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    calls = bare_image(
        "dnf",
        f'echo "${{LD_LIBRARY_PATH-none}} ${{PYTHONPATH-none}} $https_proxy $PATH" >> "${{0%dnf}}calls"; '
        f"{bare_image.installed}",
    )

    assert main(["configure"]) == 0

    libraries, modules, proxy, path = calls()[1].split()
    assert (libraries, modules, proxy) == ("none", "none", "http://proxy.example:3128")
    # The job's own first: there it was found.
    assert path.endswith(":/usr/sbin:/usr/local/sbin:/sbin:/usr/bin:/usr/local/bin:/bin")


def test_a_package_manager_that_fails_is_told(bare_image, capsys):
    bare_image("apk", "exit 7")

    assert main(["configure"]) == 9
    assert "ended with status 7" in capsys.readouterr().err


def test_a_package_manager_that_brings_nothing_is_told(bare_image, capsys):
    bare_image("apk")

    assert main(["configure"]) == 9
    assert "there still is no sshd and no ssh-keygen" in capsys.readouterr().err


def test_without_root_the_command_to_run_is_told(bare_image, monkeypatch, capsys):
    bare_image("dnf")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert main(["configure"]) == 9
    assert "Run as root: dnf install -y openssh-server" in capsys.readouterr().err


def test_without_a_package_manager_the_image_must_bring_it(bare_image, capsys):
    assert shutil.which("apt-get") is None

    assert main(["configure"]) == 9
    assert "no package manager we know" in capsys.readouterr().err
