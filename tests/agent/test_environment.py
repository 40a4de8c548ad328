"""The job's environment, kept; and programs that run whatever the job's folder holds."""

import os
import stat
import subprocess
import sys

import pytest

from sagemaker_ssh_helper.agent import environment, login
from sagemaker_ssh_helper.agent.state import StateDir, programs_folder
from sagemaker_ssh_helper.errors import LocalSetup

pytestmark = pytest.mark.container


@pytest.fixture
def state(tmp_path):
    return StateDir.open(str(tmp_path / "node"), create=True)


def run(words, **options):
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, **options)


# --- saving ---


def test_the_environment_comes_back_but_for_what_belongs_to_one_shell(state):
    job = {b"A": b"1\n2", b"EMPTY": b"", b"EQUALS": b"a=b", b"NOT_UTF8": b"\xff", b"PATH": b"/bin"}
    left_out = {b"SHLVL": b"3", b"_": b"/bin/x", b"SSH_TTY": b"/dev/pts/0", b"OLDPWD": b"/o"}

    environment.save(state, {**job, **left_out, b"PWD": b"/wrong"}, b"/job")

    path = os.fsencode(state.bin) + b":/bin"
    assert environment.load(state.environment) == {**job, b"PATH": path, b"PWD": b"/job"}


def test_the_file_is_for_us_alone(state):
    environment.save(state, {b"SECRET": b"x"}, b"/")

    assert stat.S_IMODE(os.stat(state.environment).st_mode) == 0o600


def test_a_job_without_a_path_gets_the_systems(state):
    environment.save(state, {}, b"/")

    assert environment.load(state.environment)[b"PATH"].split(b":")[1:] == [
        os.fsencode(part) for part in os.defpath.split(":")
    ]


# --- programs ---


def test_modules_of_the_job_do_not_take_the_place_of_ours(state, tmp_path):
    environment.link_package(state)
    for name in ("json", "base64", "sagemaker_ssh_helper", "importlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the job')")
    words = environment.python_command(state, "sagemaker_ssh_helper.agent.setup", ["--help"])

    done = run(words, cwd=str(tmp_path), env={"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": "x"})

    assert done.stdout.startswith(b"usage: sm-setup-ssh")


def test_the_package_is_found_where_this_one_is(state):
    environment.link_package(state)
    environment.link_package(state)

    link = os.path.join(state.lib, "sagemaker_ssh_helper")
    assert os.readlink(link) == os.path.dirname(os.path.dirname(os.path.realpath(environment.__file__)))
    assert os.listdir(state.lib) == ["sagemaker_ssh_helper"]


@pytest.mark.parametrize("program", ["sm-wait", "sm-setup-ssh"])
def test_the_programs_find_their_node_by_themselves(state, program):
    environment.write_programs(state)

    done = run([os.path.join(state.bin, program), "status"], cwd="/", env={"SSH_STATE_DIR": "/elsewhere"})

    assert f"folder:    {state.path}".encode() in done.stdout
    assert done.returncode == 1


def test_the_interpreters_libraries_are_found_again(state, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/it's here")

    environment.write_programs(state)

    line = b"export LD_LIBRARY_PATH='/opt/it'\"'\"'s here'\n"
    assert line in state.read(state.login)
    assert line in state.read(os.path.join(state.bin, "sm-wait"))


@pytest.mark.parametrize("embedding", ["/usr/bin/uwsgi", "", None])
def test_python_inside_another_program_is_replaced_by_one_from_the_path(monkeypatch, tmp_path, embedding):
    (tmp_path / "python3").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", embedding)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert environment.interpreter() == str(tmp_path / "python3")


def test_no_python_program_at_all_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", None)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(LocalSetup, match="no python3 program"):
        environment.interpreter()


# --- the launcher of logins ---


def login_with(state, tmp_path, session, sftp_server=""):
    """Run the launcher as sshd does, with the environment sshd makes."""
    environment.write_programs(state, sftp_server)
    return run(["/bin/sh", state.login], env={"SHELL": "/bin/sh", **session}, cwd="/")


def test_a_launcher_without_its_python_gives_a_plain_login(state, tmp_path, monkeypatch):
    gone = tmp_path / "python3.gone"
    gone.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(gone))
    environment.save(state, {b"A": b"1"}, b"/")
    environment.write_programs(state)
    gone.unlink()

    done = run(
        ["/bin/sh", state.login], env={"SHELL": "/bin/sh", "SSH_ORIGINAL_COMMAND": "echo plain $A; exit 3"}
    )

    assert (done.stdout, done.returncode) == (b"plain\n", 3)


def test_sftp_without_a_server_program_says_what_to_do(state, tmp_path):
    done = login_with(state, tmp_path, {"SSH_ORIGINAL_COMMAND": "internal-sftp"})

    assert b"scp -O" in done.stdout
    assert b"openssh-sftp-server" in done.stdout
    assert done.returncode == 1


def test_sftp_runs_the_images_server_in_the_jobs_environment(state, tmp_path):
    server = tmp_path / "sftp-server"
    server.write_text('#!/bin/sh\necho "served in $PWD with $A"\n')
    server.chmod(0o700)
    environment.save(state, {b"A": b"it"}, os.fsencode(tmp_path))

    done = login_with(state, tmp_path, {"SSH_ORIGINAL_COMMAND": "internal-sftp"}, str(server))

    assert done.stdout == f"served in {tmp_path} with it\n".encode()


def test_a_shell_that_cannot_run_is_told(state, tmp_path):
    done = login_with(state, tmp_path, {"SHELL": "/no/shell", "SSH_ORIGINAL_COMMAND": "true"})

    assert done.stdout == b"cannot run /no/shell: No such file or directory\n"
    assert done.returncode == 126


SESSION = {b"HOME": b"/", b"USER": b"me", b"SHELL": b"/bin/sh", b"TERM": b"xterm", b"PATH": b"/sshd"}


def test_what_belongs_to_the_connection_is_sshds_and_the_rest_is_the_jobs(tmp_path):
    home = os.fsencode(tmp_path)
    saved = b"TERM=dumb\0USER=job\0PATH=/job\0SSH_AUTH_SOCK=/old\0HOME=" + home + b"\0PWD=" + home + b"\0"

    found, folder = login.login_environment(saved, {**SESSION, b"SSH_AUTH_SOCK": b"/new"})

    assert found == {
        b"TERM": b"xterm",
        b"LANG": b"C.UTF-8",
        b"USER": b"me",
        b"SHELL": b"/bin/sh",
        b"PATH": b"/job",
        b"SSH_AUTH_SOCK": b"/new",
        b"HOME": home,
        b"PWD": home,
    }
    assert folder == home


def test_a_home_and_a_folder_that_are_gone_are_replaced(tmp_path):
    found, folder = login.login_environment(b"HOME=/gone\0PWD=/gone/too\0A=1\0", SESSION)

    assert (found[b"HOME"], folder, found[b"PWD"], found[b"A"]) == (b"/", b"/", b"/", b"1")


def test_without_a_saved_environment_sshds_is_used():
    found, folder = login.login_environment(b"", {**SESSION, b"SSH_ORIGINAL_COMMAND": b"x"})

    assert found == {**SESSION, b"PWD": b"/", b"LANG": b"C.UTF-8"}
    assert folder == b"/"


@pytest.mark.parametrize("name", [b"LANG", b"LC_ALL", b"LC_CTYPE"])
def test_a_job_that_says_something_of_languages_keeps_it(name):
    found, _ = login.login_environment(name + b"=de_DE\0", SESSION)

    assert {key: value for key, value in found.items() if key in (b"LANG", b"LC_ALL", b"LC_CTYPE")} == {
        name: b"de_DE"
    }


@pytest.mark.parametrize(
    ("asked", "known", "shown"),
    [
        ("xterm-ghostty", ["x/xterm", "x/xterm-256color"], "xterm-256color"),
        ("xterm-kitty", ["78/xterm"], "xterm"),
        ("xterm-kitty", ["x/xterm-kitty", "x/xterm-256color"], "xterm-kitty"),
        ("alacritty", ["61/alacritty", "78/xterm-256color"], "alacritty"),
        ("../x/xterm", ["x/xterm"], "xterm"),
        ("tmux-256color", [], "tmux-256color"),
    ],
)
def test_a_terminal_that_this_image_does_not_know_is_shown_as_one_that_it_knows(
    tmp_path, monkeypatch, asked, known, shown
):
    monkeypatch.setattr(login, "_TERMINFO", (os.fsencode(tmp_path / "terminfo"),))
    for name in known:
        path = tmp_path / "terminfo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")

    found, _ = login.login_environment(b"", {**SESSION, b"TERM": asked.encode()})

    assert found[b"TERM"] == shown.encode()


@pytest.mark.parametrize("variable", ["TERMINFO", "TERMINFO_DIRS", "HOME"])
def test_a_terminal_that_the_job_brings_is_known(tmp_path, monkeypatch, variable):
    monkeypatch.setattr(login, "_TERMINFO", ())
    folder = tmp_path / ".terminfo"
    (folder / "x").mkdir(parents=True)
    (folder / "x" / "xterm-ghostty").write_bytes(b"")
    value = {"TERMINFO": folder, "TERMINFO_DIRS": f"/none:{folder}", "HOME": tmp_path}[variable]

    found, _ = login.login_environment(
        f"{variable}={value}\0".encode(), {**SESSION, b"TERM": b"xterm-ghostty"}
    )

    assert found[b"TERM"] == b"xterm-ghostty"


NOEXEC = """
import os, subprocess, sys
from sagemaker_ssh_helper.agent.environment import write_programs
from sagemaker_ssh_helper.agent.state import StateDir

state = StateDir.open(sys.argv[1], create=True)
write_programs(state)
done = subprocess.run([os.path.join(state.bin, "sm-wait"), "status"], stderr=subprocess.PIPE)
print(state.bin, done.returncode, done.stderr.decode())
for name in os.listdir(state.bin):
    os.unlink(os.path.join(state.bin, name))
os.rmdir(state.bin)
"""


def test_programs_are_where_they_can_be_run(tmp_path):
    """The folder of the node is on a file system that is mounted noexec, really."""
    folder = tmp_path / "mount"
    folder.mkdir()
    mount = 'mount -t tmpfs -o noexec,mode=0755 tmpfs "$1" && exec "$2" -c "$3" "$1/state"'
    words = ["unshare", "-rm", "sh", "-c", mount, "sh", str(folder), sys.executable, NOEXEC]
    done = subprocess.run(words, capture_output=True)
    assert done.returncode == 0, done.stderr
    path, status, told = done.stdout.decode().split(" ", 2)
    assert not path.startswith(str(tmp_path))
    # It ran, and says that nothing was set up.
    assert status not in ("126", "127"), told


def test_the_place_of_programs_depends_on_the_mounts_alone(tmp_path):
    path = str(tmp_path / "state")
    assert programs_folder(path, lambda place: False) == os.path.join(path, "bin")
    elsewhere = programs_folder(path, lambda place: place == path)
    assert elsewhere == programs_folder(path, lambda place: place == path)
    assert elsewhere != programs_folder(path + "2", lambda place: place == path + "2")
    assert not elsewhere.startswith(str(tmp_path))
    # Nothing can be run anywhere.
    assert programs_folder(path, lambda place: True) == os.path.join(path, "bin")


@pytest.mark.parametrize(
    ("more", "left_out"),
    [
        ({b"BIG": b"x" * (128 * 1024 - 5)}, []),
        ({b"BIG": b"x" * (128 * 1024 - 4)}, [b"BIG"]),
        ({b"BIG": b"x" * 200_000, b"OTHER": b"y" * 300_000}, [b"BIG", b"OTHER"]),
        ({b"N%d" % number: b"z" * 100_000 for number in range(30)}, [b"N10", b"N11", b"N12"]),
    ],
)
def test_what_no_program_can_be_started_with_is_left_out(state, more, left_out):
    given = {b"PATH": b"/usr/bin:/bin", b"KEPT": b"1", **more}
    kept, without = environment.passable(given)
    assert subprocess.call(["/bin/sh", "-c", 'test "$KEPT" = 1'], env=kept) == 0
    assert without[: len(left_out)] == left_out
    assert {**kept, **{name: given[name] for name in without}} == given
    if without:
        environment.save(state, given, b"/")
        assert not set(without) & set(environment.load(state.environment))
