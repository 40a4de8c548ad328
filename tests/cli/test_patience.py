"""Commands that look again and again: a failure that passes is told, and ends nothing."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from aws_stub import AwsStub, Refusal
from sagemaker_ssh_helper.cli import cmd_list
from sagemaker_ssh_helper.cli.main import main
from sagemaker_ssh_helper.cli.patience import Patience
from sagemaker_ssh_helper.errors import AccessDenied, EndpointUnreachable, SSHHelperError, Throttled


def raising(error: SSHHelperError) -> None:
    raise error


def test_throttling_is_told_once_until_it_is_over(capfd: pytest.CaptureFixture[str]) -> None:
    patience = Patience()
    for _ in range(3):
        assert patience.look(lambda: raising(Throttled("AWS throttles a call"))) is None
    assert patience.look(lambda: 1) == 1
    assert patience.look(lambda: raising(Throttled("AWS throttles a call"))) is None
    assert capfd.readouterr().err == "sm-ssh: AWS throttles a call; trying again\n" * 2


def test_what_never_worked_and_what_does_not_pass_is_an_error() -> None:
    patience = Patience()
    with pytest.raises(EndpointUnreachable):
        patience.look(lambda: raising(EndpointUnreachable("nobody answers")))
    patience.look(lambda: 1)
    assert patience.look(lambda: raising(EndpointUnreachable("nobody answers"))) is None
    with pytest.raises(AccessDenied):
        patience.look(lambda: raising(AccessDenied("no")))


def test_a_watched_list_outlives_failures(
    stub: AwsStub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in stub.environment().items():
        monkeypatch.setenv(name, value)
    job = {"TrainingJobName": "j", "TrainingJobStatus": "InProgress", "CreationTime": 1e9}
    answers = iter(
        [{}, Refusal("ValidationException"), Refusal("ValidationException"), {"TrainingJobSummaries": [job]}]
    )
    stub.answers["ListTrainingJobs"] = lambda params: next(answers)
    stub.answers["DescribeInstanceInformation"] = {}
    pauses = iter(range(4))

    def sleep(seconds: float) -> None:
        if next(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(cmd_list, "time", SimpleNamespace(sleep=sleep))
    assert main(["list", "--watch", "--json", "training.sagemaker"]) == 130
    captured = capfd.readouterr()
    assert [len(json.loads(line)["instances"]) for line in captured.out.splitlines()] == [0, 1]
    assert captured.err.count("trying again") == 1
