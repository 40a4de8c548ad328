"""A home of its own for every test, and a client of a stub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aws_stub import AwsStub, aws_stub
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.session import Session


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    return folder


@pytest.fixture
def stub() -> Iterator[AwsStub]:
    with aws_stub() as stub:
        yield stub


@pytest.fixture
def client(stub: AwsStub) -> Client:
    return Client(Session.open(environ=stub.environment()), sleep=lambda seconds: None)
