"""The real command in a process of its own, with a home of its own and a stub for AWS."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from aws_stub import AwsStub, aws_stub

SM_SSH = (sys.executable, "-m", "sagemaker_ssh_helper")

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def stub() -> Iterator[AwsStub]:
    with aws_stub() as stub:
        yield stub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def environment(home: Path, stub: AwsStub) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    return {**kept, **stub.environment(HOME=str(home))}


@pytest.fixture
def sm_ssh(environment: Mapping[str, str], home: Path) -> Run:
    """Run the command with these words; ``env`` adds variables, None takes one away."""

    def run(
        *words: str, env: Mapping[str, str | None] | None = None, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        changed = {**environment, **(env or {})}
        return subprocess.run(
            [*SM_SSH, *words],
            input=stdin,
            capture_output=True,
            env={name: value for name, value in changed.items() if value is not None},
            cwd=home,
            timeout=60,
            check=False,
        )

    return run
