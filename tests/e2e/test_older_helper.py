"""What the documentation of the helper before this one tells users to type, with real ssh."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from e2e.laptop import SM_SSH, Job, Laptop, end, running

_CALL = "import sys; from sagemaker_ssh_helper.cli import older_commands; sys.exit(older_commands.{}())"


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice) as job:
        yield job


def older(
    laptop: Laptop, function: str, *words: str, **options: bytes
) -> "subprocess.CompletedProcess[bytes]":
    """One of the older commands, by the function that its script calls."""
    return laptop.run(sys.executable, "-c", _CALL.format(function), *words, **options)


def test_every_older_command_is_a_script_of_the_package() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    found = re.findall(r'^(sm-\S+) = "sagemaker_ssh_helper.cli.older_commands:(\w+)"', project, re.M)
    from sagemaker_ssh_helper.cli import older_commands

    assert all(callable(getattr(older_commands, function)) for _, function in found)
    kinds = ("ide", "training", "processing", "transform", "inference", "notebook")
    assert {name for name, _ in found} == {
        "sm-local-configure",
        "sm-local-start-ssh",
        "sm-connect-ssh-proxy",
        *(f"sm-local-ssh-{kind}" for kind in kinds),
    }


def test_a_login_brings_the_ssh_server_and_the_key_where_the_faq_has_them(alice: Laptop, job: Job) -> None:
    # No command: a shell that reads its lines from us, for as long as we want it.
    process = alice.popen(
        *SM_SSH, "connect", job.host, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        told: List[str] = []
        while not told or "is the ssh server of" not in told[-1]:
            line = process.stderr.readline().decode()
            assert line, told
            told.append(line)
        port = int(told[-1].split()[1].rpartition(":")[2])
        assert port == 11022 or any("11022 is taken" in line for line in told)
        process.stdin.write(b"echo in\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"in\n"
        for name in (job.host, "sagemaker-ssh-gw"):
            known = alice.home / ".config" / "sm-ssh" / "known_hosts"
            login = alice.run(
                "ssh", "-F", os.devnull, "-i", str(alice.home / ".ssh" / name), "-p", str(port),
                "-o", "BatchMode=yes", "-o", f"HostKeyAlias={job.host.lower()}",
                "-o", f"UserKnownHostsFile={known}", "-o", "IdentitiesOnly=yes",
                f"{user(alice, job)}@127.0.0.1", "echo by port",
            )  # fmt: skip
            assert login.stdout == b"by port\n", login.stderr.decode()
    finally:
        end(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def user(alice: Laptop, job: Job) -> str:
    return alice.ssh(job.host, "id -un").stdout.decode().strip()


def test_a_key_that_is_not_ours_stays(alice: Laptop, job: Job) -> None:
    from sagemaker_ssh_helper.client import older_settings

    mine = alice.home / ".ssh" / "old-job.training.sagemaker"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("a key of an older helper")
    code = "import sys, pathlib; from sagemaker_ssh_helper.client import older_settings as o;"
    alice.python(f"{code} o.link_key(sys.argv[1], pathlib.Path('/of/ours'))", mine.name)
    assert mine.read_text() == "a key of an older helper"
    # A link of ours that nobody used for long is taken away; a fresh one is not.
    for name, at in (("long-ago.training.sagemaker", 0.0), ("just-now.training.sagemaker", None)):
        (mine.parent / name).symlink_to("/of/ours")
        if at is not None:
            os.utime(mine.parent / name, (at, at), follow_symlinks=False)
    alice.python(f"{code} o.link_key('x.training.sagemaker', pathlib.Path('/of/ours'))")
    left = {path.name for path in mine.parent.glob("*.sagemaker")}
    assert os.readlink(mine.parent / "sagemaker-ssh-gw.pub").endswith(".pub")
    assert {"just-now.training.sagemaker", "x.training.sagemaker", mine.name} <= left
    assert "long-ago.training.sagemaker" not in left
    assert older_settings.LICENSE_SERVER


def test_the_commands_by_kind(alice: Laptop, job: Job) -> None:
    done = older(alice, "training", "connect", job.name, "echo in")
    assert done.stdout == b"in\n", done.stderr.decode()
    done = older(alice, "training", "run-command", job.host, "printf", "%s|", "a b", "c")
    assert done.stdout == b"a b|c|", done.stderr.decode()
    # Without a name, the container that was reached last is meant.
    done = older(alice, "training", "run-command", "printf", "%s|", "a b")
    assert done.stdout == b"a b|", done.stderr.decode()
    done = older(alice, "training", "proxy-host", job.name, stdin=b"SSH-2.0-nobody\r\n")
    assert done.stdout.startswith(b"SSH-2.0-"), done.stderr.decode()
    instance_id = job.instances()[0]["InstanceId"]
    done = older(
        alice, "start_ssh", instance_id, "key.pub", "key", "-T", "-o", "BatchMode=yes", stdin=b"echo in\n"
    )
    assert b"in\n" in done.stdout, done.stderr.decode()
    done = older(alice, "start_ssh", "--proxy-setup-only", instance_id)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr.decode()


@pytest.mark.parametrize("words", [[], ["connect"], ["dance", "job"]])
def test_what_makes_no_sense_is_a_usage_error(alice: Laptop, words: List[str]) -> None:
    done = older(alice, "training", *words)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"error[usage]: sm-local-ssh-training takes connect" in done.stderr


def test_what_it_is_told_to_remember_is_kept(alice: Laptop) -> None:
    assert older(alice, "ide", "set-jb-license-server", "jb.example").returncode == 0
    kept = alice.home / ".local" / "state" / "sm-ssh" / "older_settings.json"
    assert "jb.example" in kept.read_text()


def test_the_log_of_a_run_is_also_where_it_used_to_be(alice: Laptop, tmp_path: Path) -> None:
    env = {"SM_SSH_DEBUG": "true", "TMPDIR": str(tmp_path)}
    alice.sm_ssh("list", env=env)
    log = tmp_path / "sm-ssh-debug.log"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert "ListTrainingJobs" in log.read_text()
    assert alice.user["secret_access_key"] not in log.read_text()
    # A name that leads elsewhere is somebody's trap.
    log.unlink()
    (tmp_path / "elsewhere").touch()
    log.symlink_to(tmp_path / "elsewhere")
    assert alice.sm_ssh("list", env=env).returncode == 0
    assert (tmp_path / "elsewhere").read_text() == ""
