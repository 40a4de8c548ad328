"""``sm-ssh emulator start`` and ``run``, as a shell sees them."""

import json
import os
import pty
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hidden_modules import hide
from local_cloud import LocalCloud, clean_environment

EMULATOR = [sys.executable, "-m", "sagemaker_ssh_helper", "emulator"]
TIMEOUT = 60


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def emulator(home: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs ``sm-ssh emulator …`` to its end."""

    def run(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*EMULATOR, *words],
            env={**clean_environment(home), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    return run


@pytest.fixture
def started(home: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts ``sm-ssh emulator …`` in a session of its own, and ends it after the test."""
    processes = []

    def start(*words: str, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*EMULATOR, *words],
            env={**clean_environment(home), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start

    for process in processes:
        with process:
            process.kill()


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def rest_of(process: "subprocess.Popen[str]") -> str:
    """What is still to come, until the process has ended. (communicate() would forget what is buffered.)"""
    assert process.stdout is not None
    text = process.stdout.read()
    process.wait(TIMEOUT)
    return text


def until_gone(*pids: int) -> None:
    """Return when none of these processes lives any more."""
    ends_at = time.monotonic() + 20
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            left = max(0, ends_at - time.monotonic())
            assert select.select([handle], [], [], left)[0], f"process {pid} is still there"
        finally:
            os.close(handle)


# start


def test_start_prints_one_line_of_json_and_ends_when_told(started: Callable[..., Any]) -> None:
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process = started("start", "--json")
        info = json.loads(line_of(process))
        process.send_signal(signal_number)

        assert rest_of(process) == ""
        assert (process.returncode, process.stderr.read()) == (0, "")
        assert info["endpoint_url"].startswith("http://localhost:")


def test_start_tells_people_what_to_type(started: Callable[..., Any], home: Path) -> None:
    process = started("start", "--tls")
    first = line_of(process)
    process.send_signal(signal.SIGTERM)
    text = first + rest_of(process)

    assert text.startswith("A local cloud is running at https://localhost:")
    for name in (
        "ENDPOINT_URL",
        "REGION",
        "DEFAULT_REGION",
        "ACCESS_KEY_ID",
        "SECRET_ACCESS_KEY",
        "CA_BUNDLE",
    ):
        assert f"\n  export AWS_{name}=" in text
    assert "Role for jobs: arn:aws:iam::123456789012:role/SageMakerRole\n" in text
    assert "\n  bob    AKIA" in text


def test_what_people_type_works(started: Callable[..., Any], home: Path) -> None:
    process = started("start")
    lines = [line_of(process)]
    while not lines[-1].startswith("Role for jobs"):
        lines.append(line_of(process))
    exports = "".join(line for line in lines if line.startswith("  "))

    who = "import boto3; print(boto3.client('sts').get_caller_identity()['Arn'])"
    output = subprocess.run(
        ["sh", "-c", f'{exports}\nexec "$0" -c "$1"', sys.executable, who],
        env={**clean_environment(home), "AWS_PROFILE": "other", "AWS_SESSION_TOKEN": "x"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
        check=True,
    ).stdout

    assert output == "arn:aws:iam::123456789012:user/alice\n"


def test_start_ends_with_its_input_when_told_so(home: Path) -> None:
    process = subprocess.Popen(
        [*EMULATOR, "start", "--json", "--until-eof"],
        env=clean_environment(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert json.loads(line_of(process))
        assert process.poll() is None
        assert process.stdin is not None

        process.stdin.close()

        assert process.wait(TIMEOUT) == 0


def test_start_takes_the_port_it_is_given(started: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    info = json.loads(line_of(started("start", "--json", "--port", str(port))))

    assert info["endpoint_url"] == f"http://localhost:{port}"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_taken_port_is_one_clear_error(emulator: Callable[..., Any], family: socket.AddressFamily) -> None:
    address = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((address, 0), family=family) as taken:
        port = taken.getsockname()[1]
        done = emulator("start", "--json", "--port", str(port))

    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr == (
        f"sm-ssh: error[port-busy]: port {port} of {address} is taken by another program. "
        f"Choose another one: sm-ssh emulator start --port {port + 1}\n"
    )


@pytest.mark.parametrize("port", ["-1", "65536", "http", ""])
def test_a_port_is_a_number(emulator: Callable[..., Any], port: str) -> None:
    done = emulator("start", f"--port={port}")

    assert (done.returncode, done.stdout) == (2, "")
    assert "is not a port: 0 to 65535" in done.stderr


@pytest.mark.parametrize("module", ["h11", "moto", "werkzeug", "cryptography"])
@pytest.mark.parametrize("words", [("start", "--json"), ("run", "--", "true")])
def test_a_missing_extra_is_one_clear_error(
    emulator: Callable[..., Any], tmp_path: Path, module: str, words: "tuple[str, ...]"
) -> None:
    done = emulator(*words, **hide(tmp_path / "hidden", module))

    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr == (
        f"sm-ssh: error[local-setup]: the local cloud is not installed (there is no module {module}). "
        "Install it, in the folder of this package's source: pip install '.[emulator]'\n"
    )


def test_packages_of_other_versions_are_one_clear_error(emulator: Callable[..., Any], tmp_path: Path) -> None:
    # A package of this name with nothing in it that is needed.
    done = emulator("start", **hide(tmp_path / "hidden", "moto.core.responses", "moto.backends"))

    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr.startswith("sm-ssh: error[local-setup]: the local cloud")
    assert done.stderr.endswith(
        "Install it, in the folder of this package's source: pip install '.[emulator]'\n"
    )


def test_a_killed_clouds_folder_is_removed_by_the_next(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    foreign = temporary / "sm-ssh-cloud-being-made"
    foreign.mkdir()
    with LocalCloud(tmp_path / "1", environment={"TMPDIR": str(temporary)}) as running:
        with LocalCloud(tmp_path / "2", environment={"TMPDIR": str(temporary)}) as killed:
            killed.process.kill()
            killed.process.wait(TIMEOUT)
        assert len(list(temporary.iterdir())) == 3

        with LocalCloud(tmp_path / "3", environment={"TMPDIR": str(temporary)}):
            assert len(list(temporary.iterdir())) == 3

        assert running.client("sts").get_caller_identity()
    assert list(temporary.iterdir()) == [foreign]


def test_start_is_quick(tmp_path: Path) -> None:
    # Processor time, which other programs on the machine do not change.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with LocalCloud(tmp_path):
        pass
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.5


# run


def test_run_gives_the_command_its_aws(emulator: Callable[..., Any], tmp_path: Path) -> None:
    done = emulator(
        "run", "--", sys.executable, "-c",
        "import json, os; print(json.dumps(dict(os.environ)))",
        AWS_PROFILE="mine", AWS_DEFAULT_PROFILE="mine", AWS_SESSION_TOKEN="x", AWS_ROLE_ARN="arn",
        AWS_ENDPOINT_URL_S3="http://localhost:1", AWS_CA_BUNDLE="/none", NO_PROXY="example.com",
    )  # fmt: skip

    env = {
        name: value for name, value in json.loads(done.stdout).items() if "AWS" in name or name == "NO_PROXY"
    }
    assert done.returncode == 0
    assert set(env) == {
        "AWS_ENDPOINT_URL",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_EC2_METADATA_DISABLED",
        "NO_PROXY",
    }
    assert env["AWS_REGION"] == env["AWS_DEFAULT_REGION"] == "us-east-1"
    assert env["NO_PROXY"] == "example.com,localhost,127.0.0.1,::1"


@pytest.mark.parametrize("options", [(), ("--tls",)])
def test_the_command_is_the_first_user(emulator: Callable[..., Any], options: "tuple[str, ...]") -> None:
    code = (
        "import boto3, os; e = os.environ; print(boto3.client('sts').get_caller_identity()['Arn']);"
        "print(boto3.client('iam').get_role(RoleName='SageMakerRole')['Role']['Arn']);"
        "print(os.path.getsize(e['AWS_CONFIG_FILE']), e['AWS_ENDPOINT_URL'].partition(':')[0])"
    )

    done = emulator("run", *options, "--", sys.executable, "-c", code, HTTPS_PROXY="http://127.0.0.1:1")

    assert done.stdout.splitlines() == [
        "arn:aws:iam::123456789012:user/alice",
        "arn:aws:iam::123456789012:role/SageMakerRole",
        f"0 {'https' if options else 'http'}",
    ]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)],
)
def test_run_returns_the_commands_status(emulator: Callable[..., Any], script: str, status: int) -> None:
    done = emulator("run", "--", "sh", "-c", script)

    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_the_two_dashes_may_be_left_out(emulator: Callable[..., Any]) -> None:
    assert emulator("run", "sh", "-c", "echo $0 -- $1", "--tls", "--json").stdout == "--tls -- --json\n"


@pytest.mark.parametrize("words", [(), ("--",), ("--tls",)])
def test_run_needs_a_command(emulator: Callable[..., Any], words: "tuple[str, ...]") -> None:
    done = emulator("run", *words)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "sm-ssh: error[usage]: there is no command to run. "
        "Type it after two dashes: sm-ssh emulator run -- COMMAND\n"
    )


def test_a_command_that_is_not_there(emulator: Callable[..., Any], tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")

    missing = emulator("run", "--", "no-such-command")
    not_executable = emulator("run", "--", str(plain))

    assert missing.returncode == 127
    assert missing.stderr == (
        "sm-ssh: error[local-setup]: cannot run no-such-command (No such file or directory)\n"
    )
    assert not_executable.returncode == 126
    assert not_executable.stderr == f"sm-ssh: error[local-setup]: cannot run {plain} (Permission denied)\n"


def test_the_command_reads_our_stdin(home: Path) -> None:
    done = subprocess.run(
        [*EMULATOR, "run", "--", "cat"],
        env=clean_environment(home),
        input="typed",
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )

    assert done.stdout == "typed"


# A command with a child that has left its process group and a grandchild whose parent has died.
_FAMILY = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write, b"%d\\n" % os.getpid())
        signal.pause()
    os.write(write, b"%d\\n" % os.getpid())
    os._exit(0)
pids = b""
while pids.count(b"\\n") < 2:
    pids += os.read(read, 100)
print(os.getpid(), *pids.decode().split(), flush=True)
signal.pause()
"""


@pytest.mark.parametrize("words", [("run",), ("run", "--tls")])
def test_kill_9_of_run_ends_the_command_and_all_its_children(
    started: Callable[..., Any], words: "tuple[str, ...]"
) -> None:
    process = started(*words, "--", sys.executable, "-c", _FAMILY)
    pids = [int(pid) for pid in line_of(process).split()]
    assert len(pids) == 3

    process.kill()
    process.wait(TIMEOUT)

    until_gone(*pids)


def test_children_do_not_outlive_the_command(started: Callable[..., Any]) -> None:
    script = _FAMILY.replace("flush=True)\nsignal.pause()", "flush=True)\nsys.exit(3)")
    process = started("run", "--", sys.executable, "-c", script)
    pids = [int(pid) for pid in line_of(process).split()]

    assert process.wait(TIMEOUT) == 3
    until_gone(*pids)


def test_sigterm_to_run_is_sigterm_to_the_command(started: Callable[..., Any]) -> None:
    script = "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    process = started("run", "--", "sh", "-c", script)
    assert line_of(process) == "ready\n"

    process.terminate()

    assert rest_of(process) == "asked\n"
    assert process.returncode == 5


def test_ctrl_c_goes_to_the_command(home: Path) -> None:
    script = "trap 'echo interrupted; exit 6' INT; echo ready; while :; do sleep 0.1; done"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [*EMULATOR, "run", "--", "sh", "-c", script], clean_environment(home))
    try:
        seen = b""
        while b"ready" not in seen:
            seen += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        while b"interrupted" not in seen:
            seen += os.read(terminal, 1000)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)

    assert os.waitstatus_to_exitcode(status) == 6
    assert b"Traceback" not in seen


def test_run_leaves_nothing_behind(emulator: Callable[..., Any], tmp_path: Path, home: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    done = emulator("run", "--", "true", TMPDIR=str(temporary))

    assert done.returncode == 0
    assert list(temporary.iterdir()) == []
    assert list(home.iterdir()) == []
