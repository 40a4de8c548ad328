"""Real logins beside what users have in their configuration of ssh for all hosts."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from e2e.laptop import SM_SSH, Job, Laptop, running

FOR_ALL = """
Host *
  HostName %h.corp
  ProxyJump bastion.corp
  ProxyUseFdpass yes
  Port 2222
  PreferredAuthentications password
  PubkeyAuthentication no
  PubkeyAcceptedKeyTypes ssh-rsa
  GlobalKnownHostsFile /nowhere/known_hosts
  KnownHostsCommand /bin/false
  StrictHostKeyChecking no
  CheckHostIP yes
  CanonicalizeHostname always
  ServerAliveCountMax 1
  IdentitiesOnly no
"""
FOR_COMMANDS = """
  RemoteCommand echo not this
  RequestTTY force
  StdinNull yes
  SessionType none
  ForkAfterAuthentication yes
  PermitLocalCommand yes
  LocalCommand echo local
  LocalForward 127.0.0.1:1 localhost:1
  ExitOnForwardFailure yes
"""


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice) as job:
        alice.configure_ssh()
        yield job


@pytest.fixture
def beside(alice: Laptop) -> Iterator[Callable[[str], List[str]]]:
    """Adds to the user's configuration below our block; the words of ssh that read it."""
    config = alice.home / ".ssh" / "config"
    before = config.read_text()

    def add(text: str) -> List[str]:
        config.write_text(before + text)
        return ["ssh", "-F", str(config)]

    yield add
    config.write_text(before)


@pytest.fixture
def own_ssh(alice: Laptop, beside: Callable[[str], List[str]], tmp_path: Path) -> Callable[[str], Laptop]:
    """A machine whose ssh reads the configuration in the tests' home; OpenSSH takes that of the account."""

    def make(text: str) -> Laptop:
        words = beside(text)
        program = tmp_path / "ssh"
        program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {words[2]} "$@"\n')
        program.chmod(0o755)
        machine = Laptop.__new__(Laptop)
        machine.__dict__.update(alice.__dict__)
        machine.env = {**alice.env, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return machine

    return make


def test_plain_ssh_goes_its_way(alice: Laptop, job: Job, beside: Callable[[str], List[str]]) -> None:
    done = alice.run(*beside(FOR_ALL), "-o", "BatchMode=yes", job.host, "cat", stdin=b"x" * 100_000)
    assert (done.returncode, len(done.stdout)) == (0, 100_000), done.stderr.decode()


@pytest.mark.parametrize("text", [FOR_ALL, FOR_ALL + FOR_COMMANDS], ids=["for all", "and commands"])
def test_a_command_of_ours_runs_as_it_is_asked_to(
    job: Job, own_ssh: Callable[[str], Laptop], text: str
) -> None:
    machine = own_ssh(text)
    done = machine.sm_ssh("exec", job.host, "--", "cat", stdin=b"\x00\xffx")
    assert (done.returncode, done.stdout) == (0, b"\x00\xffx"), done.stderr.decode()
    done = machine.sm_ssh("exec", "--all", job.host, "--", "echo", "in")
    assert (done.returncode, done.stdout) == (0, b"algo-1 | in\n"), done.stderr.decode()


def test_a_connection_goes_its_way(job: Job, own_ssh: Callable[[str], Laptop]) -> None:
    text = FOR_ALL + "  RemoteCommand echo not this\n  ExitOnForwardFailure yes\n"
    done = own_ssh(text).sm_ssh("connect", job.host, "--", "echo", "in")
    assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr.decode()


def test_connections_are_shared_where_the_container_is_the_same(
    job: Job, own_ssh: Callable[[str], Laptop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's path is for the name alone, and another account has jobs of that name."""
    with tempfile.TemporaryDirectory(prefix="sm", dir="/tmp") as short:
        users = Path(short) / "users"
        machine = own_ssh(f"Host *\n  ControlMaster auto\n  ControlPersist 60\n  ControlPath {users}\n")
        config = Path(short) / "config" / "sm-ssh"
        shutil.copytree(machine.home / ".config" / "sm-ssh", config)
        machine.env["XDG_CONFIG_HOME"] = str(config.parent)
        words = ("connect", job.host, "--", "echo", "in")
        assert machine.sm_ssh(*words).stdout == b"in\n"
        (shared,) = (config / "shared").iterdir()
        try:
            assert not users.exists()
            check: Any = machine.run("ssh", "-S", str(shared), "-O", "check", "x")
            assert b"Master running" in check.stderr
            assert machine.sm_ssh(*words).stdout == b"in\n"
        finally:
            machine.run("ssh", "-S", str(shared), "-O", "exit", "x")


def test_a_parser_that_does_not_know_the_name_as_it_was_typed(alice: Laptop, job: Job) -> None:
    """It leaves %n as it is."""
    words = [*SM_SSH, "start-proxy", "--user", "root", "%n", job.host]
    process = alice.popen(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline().startswith(b"SSH-2.0-")
        process.stdin.close()
        process.wait(30)


ASYNCSSH = """
import asyncio, asyncssh, sys

async def main():
    async with asyncssh.connect(sys.argv[2], config=[sys.argv[1]]) as connection:
        print((await connection.run("echo in")).stdout, end="")

asyncio.run(main())
"""


def test_asyncssh_reads_the_block(alice: Laptop, job: Job) -> None:
    config = str(alice.home / ".ssh" / "config")
    assert alice.python(ASYNCSSH, config, job.host) == "in\n"
