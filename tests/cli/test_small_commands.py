"""explain, known-hosts, completion and deregister, as processes."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from aws_stub import AwsStub, Refusal
from sagemaker_ssh_helper.cli import cmd_completion
from sagemaker_ssh_helper.cli.catalogue import CATALOGUE

from .conftest import SM_SSH, Run
from .test_main import _loaded


@pytest.mark.parametrize("typed", ["target-ended", "error[target-ended]:", "Target-Ended"])
def test_an_id_is_explained_however_it_was_copied(sm_ssh: Run, typed: str) -> None:
    done = sm_ssh("explain", typed)
    assert done.returncode == 0
    assert done.stdout.decode().startswith("target-ended  (exit code 7)\n  what happened  ")


def test_all_ids_are_listed_and_a_wrong_one_is_answered_with_a_near_one(sm_ssh: Run) -> None:
    assert [line.split()[0] for line in sm_ssh("explain").stdout.decode().splitlines()] == list(CATALOGUE)
    done = sm_ssh("explain", "target-endet")
    assert done.returncode == 2
    assert b"Did you mean target-ended?" in done.stderr


def test_known_hosts_prints_the_pinned_line_in_any_case(sm_ssh: Run, stub: AwsStub, home: Path) -> None:
    folder = home / ".config" / "sm-ssh"
    folder.mkdir(parents=True)
    line = "job.training.sagemaker ssh-ed25519 AAAA mi-00000000000000001"
    (folder / "known_hosts").write_text(f"{line}\nother.training.sagemaker ssh-ed25519 BBBB mi-2\n")
    assert sm_ssh("known-hosts", "Job.Training.SageMaker").stdout.decode() == f"{line}\n"
    unknown = sm_ssh("known-hosts", "unknown.training.sagemaker")
    assert (unknown.returncode, unknown.stdout) == (0, b"")
    assert stub.asked == []


@pytest.fixture
def cached(home: Path) -> Path:
    """Fresh names of the environment's region."""
    path = home / ".cache" / "sm-ssh" / "names.json"
    path.parent.mkdir(parents=True)
    names = ["bert-1.training.sagemaker", "Big.inference.sagemaker"]
    path.write_text(json.dumps({"at": time.time(), "for": ["", "eu-west-1", ""], "names": names}))
    return path


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["connect", "b"], ["bert-1.training.sagemaker", "Big.inference.sagemaker"]),
        (["exec", "be"], ["bert-1.training.sagemaker"]),
        (["cp", "be"], ["bert-1.training.sagemaker:"]),
        (["conn"], ["connect"]),
        (["status", "@"], ["@last"]),
        (["completion", ""], ["bash", "zsh", "fish", "powershell"]),
        (["explain", "target-o"], ["target-offline"]),
        (["exec", "bert", "--", ""], []),
        (["emulator", ""], []),
    ],
)
def test_candidates_are_commands_names_and_ids(
    sm_ssh: Run, stub: AwsStub, cached: Path, words: list[str], found: list[str]
) -> None:
    assert sm_ssh("completion", "--candidates", *words).stdout.decode().splitlines() == found
    assert stub.asked == []


def test_names_are_asked_for_and_kept(sm_ssh: Run, stub: AwsStub, home: Path) -> None:
    jobs = [{"TrainingJobName": "seen", "TrainingJobStatus": "InProgress"}]
    stub.answers.update(
        ListTrainingJobs={"TrainingJobSummaries": jobs}, ListEndpoints=Refusal("AccessDeniedException")
    )
    assert sm_ssh("completion", "--refresh").returncode == 0
    assert sm_ssh("completion", "--candidates", "connect", "s").stdout == b"seen.training.sagemaker\n"
    other = sm_ssh("completion", "--candidates", "connect", "s", env={"AWS_PROFILE": "other"})
    assert other.stdout == b""


def test_old_or_spoilt_names_are_renewed_beside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stub: AwsStub
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    renewed: list[int] = []
    monkeypatch.setattr(cmd_completion, "_refresh_beside", lambda: renewed.append(1))
    path = tmp_path / "sm-ssh" / "names.json"
    path.parent.mkdir()
    for text, names in (
        ("{not json", []),
        (
            json.dumps({"at": 0, "for": ["", "", ""], "names": ["old.training.sagemaker"]}),
            ["old.training.sagemaker"],
        ),
        (json.dumps({"at": time.time(), "for": ["x", "", ""], "names": ["x.training.sagemaker"]}), []),
    ):
        path.write_text(text)
        assert cmd_completion.candidates(["status", ""]) == [*names, "@last"]
    assert len(renewed) == 3


def test_candidates_load_next_to_nothing(environment: dict[str, str], cached: Path) -> None:
    loaded = _loaded(["completion", "--candidates", "connect", "b"], environment)
    assert not loaded & {"argparse", "asyncio", "botocore", "boto3", "subprocess"}


def test_bash_completes_a_name(environment: Mapping[str, str], cached: Path, home: Path) -> None:
    python, *rest = SM_SSH
    (home / "sm-ssh").write_text(f'#!/bin/sh\nexec "{python}" {" ".join(rest)} "$@"\n')
    (home / "sm-ssh").chmod(0o755)
    script = (
        'eval "$(sm-ssh completion bash)"; COMP_WORDS=(sm-ssh connect be); COMP_CWORD=2; _sm_ssh;'
        ' printf "%s\\n" "${COMPREPLY[@]}"; complete -p sm-ssh'
    )
    env = {**environment, "PATH": f"{home}:{environment['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines() == [
        "bert-1.training.sagemaker",
        "complete -o default -F _sm_ssh sm-ssh",
    ], done.stderr


@pytest.mark.parametrize("words", [[], ["tcsh"], ["bash", "zsh"]])
def test_a_shell_that_is_none_is_refused(sm_ssh: Run, words: list[str]) -> None:
    assert sm_ssh("completion", *words).returncode == 2


def fleet(stub: AwsStub) -> None:
    def entry(number: int, status: str, registered: float) -> dict[str, object]:
        return {
            "InstanceId": f"mi-0000000000000000{number}",
            "PingStatus": status,
            "Name": f"algo-1.job-{number}.training.sagemaker",
            "RegistrationDate": registered,
        }

    now = time.time()
    known = [entry(1, "ConnectionLost", 1.0), entry(2, "Online", 1.0), entry(3, "ConnectionLost", now - 60)]
    stub.answers.update(
        DescribeInstanceInformation={"InstanceInformationList": known}, DeregisterManagedInstance={}
    )


def taken_off(stub: AwsStub) -> list[str]:
    return [
        asked.params["InstanceId"] for asked in stub.asked if asked.operation == "DeregisterManagedInstance"
    ]


def test_only_what_is_old_and_silent_is_taken_off(sm_ssh: Run, stub: AwsStub) -> None:
    fleet(stub)
    done = sm_ssh("deregister", "--preapproving-deregistration", "--delete-older-than-n-days", "1")
    assert done.returncode == 0, done.stderr.decode()
    assert taken_off(stub) == ["mi-00000000000000001"]
    assert done.stdout.decode() == "mi-00000000000000001  ConnectionLost  job-1.training.sagemaker\n"
    assert done.stderr.decode() == "sm-ssh: 1 deregistered, 0 failed\n"


def test_a_dry_run_takes_nothing_off_and_no_one_to_ask_is_an_error(sm_ssh: Run, stub: AwsStub) -> None:
    fleet(stub)
    shown = json.loads(sm_ssh("deregister", "--dry-run", "--json").stdout)
    assert (shown["schema"], shown["dry_run"]) == (1, True)
    assert [entry["instance_id"][-1] for entry in shown["instances"]] == ["1", "3"]
    assert sm_ssh("deregister").returncode == 2
    assert sm_ssh("deregister", "--delete-older-than-n-days", "-1").returncode == 2
    assert taken_off(stub) == []


def test_what_could_not_be_taken_off_is_told(sm_ssh: Run, stub: AwsStub) -> None:
    fleet(stub)
    stub.answers["DeregisterManagedInstance"] = Refusal("AccessDeniedException", "no")
    done = sm_ssh("deregister", "--yes")
    assert done.returncode == 4
    assert b"mi-00000000000000001: error[access-denied]" in done.stderr
    assert b"0 deregistered, 2 failed" in done.stderr


def test_throttling_is_waited_out(sm_ssh: Run, stub: AwsStub) -> None:
    fleet(stub)
    refused = iter([Refusal("ThrottlingException", "Rate exceeded")] * 6)
    stub.answers["DeregisterManagedInstance"] = lambda params: next(refused, {})
    done = sm_ssh("deregister", "--yes", "--delete-older-than-n-days", "1")
    assert done.returncode == 0, done.stderr.decode()
    assert taken_off(stub) == ["mi-00000000000000001"] * 7


def test_an_interrupt_takes_no_more_off(environment: Mapping[str, str], stub: AwsStub) -> None:
    begun = threading.Event()

    def first(params: object) -> dict[str, object]:
        # All of them would take ten seconds.
        stub.delay = 0.1
        begun.set()
        return {}

    entries = [
        {
            "InstanceId": f"mi-{number:017x}",
            "PingStatus": "ConnectionLost",
            "Name": f"algo-1.job-{number}.training.sagemaker",
            "RegistrationDate": 1.0,
        }
        for number in range(400)
    ]
    stub.answers.update(
        DescribeInstanceInformation={"InstanceInformationList": entries}, DeregisterManagedInstance=first
    )
    with subprocess.Popen(
        [*SM_SSH, "deregister", "--yes"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert begun.wait(30)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130, told.decode()
    assert told.decode().endswith(" of 400 were done; the same command goes on with the rest\n")
    assert len(taken_off(stub)) < 400
