"""The commands of the helper before this one: which of ours each is. With real ssh in e2e."""

from pathlib import Path
from typing import List

import pytest

from sagemaker_ssh_helper.cli import older_commands
from sagemaker_ssh_helper.client import last_target
from sagemaker_ssh_helper.client.last_target import LastTarget

JOB = "my-job.training.sagemaker"
NODE = "mi-0123456789abcdef0"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> List[List[str]]:
    """What sm-ssh is given; the container that was reached last is JOB."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    last_target.save(LastTarget(JOB, "eu-west-1", None))
    given: List[List[str]] = []

    def sm_ssh(words: List[str]) -> int:
        given.append(words)
        return 0

    monkeypatch.setattr(older_commands, "sm_ssh", sm_ssh)
    return given


@pytest.mark.parametrize(
    ("function", "words", "ours"),
    [
        ("training", ["connect", "my-job"], ["connect", JOB]),
        ("training", ["proxy-host", JOB], ["start-proxy", JOB]),
        ("training", ["run-command", "nvidia-smi", "-L"], ["exec", JOB, "--", "nvidia-smi", "-L"]),
        (
            "training",
            ["run-command", "x.training.sagemaker", "id"],
            ["exec", "x.training.sagemaker", "--", "id"],
        ),
        ("training", ["run-command", NODE, "id"], ["exec", NODE, "--", "id"]),
        ("training", ["stop-waiting"], ["continue", JOB]),
        ("training", ["stop-waiting", "other"], ["continue", "other.training.sagemaker"]),
        (
            "ide",
            ["--domain-id", "d-1", "--user-profile-name", "terry", "connect-app", "app", "--ssh-only"],
            ["connect", "app.studio.sagemaker", "--ssh-only"],
        ),
        ("start_ssh", [NODE, "key.pub", "key", "-v"], ["connect", NODE, "-v"]),
        ("start_ssh", ["--proxy-setup-only", NODE], ["exec", NODE, "--", "true"]),
    ],
)
def test_each_is_one_of_ours(
    ran: List[List[str]], monkeypatch: pytest.MonkeyPatch, function: str, words: List[str], ours: List[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["program", *words])
    assert getattr(older_commands, function)() == 0
    assert ran == [ours]


def test_a_container_of_another_kind_is_not_meant(
    ran: List[List[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["program", "stop-waiting"])
    assert older_commands.processing() == 2
    assert ran == []
    assert f"{JOB} was reached last, and is no processing job" in capsys.readouterr().err


def test_without_a_last_container_one_has_to_be_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr("sys.argv", ["program", "run-command", "true"])
    assert older_commands.training() == 3
    assert "error[target-not-found]: @last means nothing yet" in capsys.readouterr().err
