"""The Tab key in real shells: each loads our completion as its help says, and knows commands and names."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from aws_stub import AwsStub

from .conftest import SM_SSH, Run

NAME = "bert-2026-11-01.training.sagemaker"


@pytest.fixture
def shell_environment(
    environment: Mapping[str, str], home: Path, tmp_path: Path, stub: AwsStub, sm_ssh: Run
) -> dict[str, str]:
    """Where ``sm-ssh`` is a program on PATH, and the names of what runs are on file."""
    program = tmp_path / "bin" / "sm-ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {" ".join(SM_SSH)} "$@"\n')
    program.chmod(0o755)
    stub.answers["ListTrainingJobs"] = {
        "TrainingJobSummaries": [
            {
                "TrainingJobName": NAME.partition(".")[0],
                "TrainingJobStatus": "InProgress",
                "CreationTime": 1.0,
            }
        ]
    }
    assert sm_ssh("completion", "--refresh").returncode == 0
    kept = json.loads((home / ".cache" / "sm-ssh" / "names.json").read_text())
    assert kept["names"] == [NAME]
    path = f"{program.parent}{os.pathsep}{environment['PATH']}"
    return {**environment, "PATH": path, "TERM": "vt100", "PS1": "> ", "ZDOTDIR": str(home)}


def shell(name: str) -> str:
    program = shutil.which(name)
    assert program, f"{name} is missing: scripts/setup-system installs it"
    return program


@contextmanager
def interactive(argv: list[str], environment: Mapping[str, str], folder: Path) -> Iterator[int]:
    """An interactive shell; the terminal's other end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execve(argv[0], argv, dict(environment))
    try:
        yield terminal
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def typed(terminal: int, text: str, expected: str) -> None:
    """Type it; returns once the terminal shows what is expected. A wait in vain ends with the test's time."""
    os.write(terminal, text.encode())
    shown = b""
    while expected.encode() not in shown:
        part = os.read(terminal, 4096)
        assert part, shown
        shown += part


@pytest.mark.parametrize(
    ("name", "options", "before"),
    [
        ("bash", ["--norc", "--noprofile", "-i"], ""),
        ("zsh", ["-f", "-i"], "autoload -Uz compinit && compinit -u -D; "),
    ],
)
def test_tab_completes_commands_and_names(
    shell_environment: dict[str, str], home: Path, name: str, options: list[str], before: str
) -> None:
    with interactive([shell(name), *options], shell_environment, home) as terminal:
        # What is typed is echoed: only the sum shows that it was run.
        typed(terminal, f'{before}eval "$(sm-ssh completion {name})"; echo ready$((20 + 3))\n', "ready23")
        typed(terminal, "sm-ssh expl\t", "sm-ssh explain")
        typed(terminal, "\x15sm-ssh connect ber\t", NAME)


@pytest.mark.parametrize(
    ("line", "expected"), [("sm-ssh expl", "explain"), ("sm-ssh connect ber", NAME), ("sm-ssh stop b", NAME)]
)
def test_fish_completes_commands_and_names(
    shell_environment: dict[str, str], home: Path, line: str, expected: str
) -> None:
    folder = home / ".config" / "fish" / "completions"
    folder.mkdir(parents=True)
    printed = subprocess.run([*SM_SSH, "completion", "fish"], env=shell_environment, capture_output=True)
    (folder / "sm-ssh.fish").write_bytes(printed.stdout)
    done = subprocess.run(
        [shell("fish"), "-c", f"complete -C '{line}'"],
        env=shell_environment,
        cwd=home,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.decode().split() == [expected], done.stderr.decode()


def test_python_that_answers_the_tab_key_loads_no_aws(shell_environment: dict[str, str]) -> None:
    code = (
        "import sys; from sagemaker_ssh_helper.cli.main import main;"
        " main(['completion', '--candidates', 'connect', 'b']);"
        " sys.exit(','.join({'boto3', 'botocore', 'argparse', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=shell_environment, capture_output=True, check=False
    )
    assert (done.stdout.decode().strip(), done.stderr) == (NAME, b"\n")
