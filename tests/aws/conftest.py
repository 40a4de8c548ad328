"""A client of a stub."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aws_stub import AwsStub, aws_stub
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.session import Session


@pytest.fixture
def stub() -> Iterator[AwsStub]:
    with aws_stub() as stub:
        yield stub


@pytest.fixture
def sleeps() -> list[float]:
    return []


@pytest.fixture
def client(stub: AwsStub, sleeps: list[float]) -> Client:
    session = Session.open(environ=stub.environment())
    return Client(session, sleep=sleeps.append, jitter=lambda: 1.0)
