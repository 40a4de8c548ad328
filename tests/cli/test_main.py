"""Which command is meant, what is loaded for it, and what its errors look like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

import sagemaker_ssh_helper
from aws_stub import AwsStub, Refusal
from sagemaker_ssh_helper.cli import main as main_module
from sagemaker_ssh_helper.cli.main import COMMANDS, help_text

from .conftest import SM_SSH, Run

VERSION = sagemaker_ssh_helper.__version__


@pytest.mark.parametrize("word", ["-v", "--version"])
def test_the_version(sm_ssh: Run, word: str) -> None:
    done = sm_ssh(word)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, f"{VERSION}\n", b"")


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"], ["help"]])
def test_help_names_every_command(sm_ssh: Run, words: list[str]) -> None:
    done = sm_ssh(*words)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, help_text(), b"")
    assert all(f"  {name} " in help_text() for name in COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(sm_ssh: Run, command: str) -> None:
    for words in ([command, "--help"], ["help", command]):
        done = sm_ssh(*words)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.decode().startswith(f"usage: sm-ssh {command} ")
        assert done.stderr == b""


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["conect", "x"], 'error[usage]: no command "conect"; did you mean "connect"?'),
        (["lists"], 'error[usage]: no command "lists"; did you mean "list"?'),
        (["-x"], 'error[usage]: no command "-x". See: sm-ssh --help'),
        (["help", "lst"], 'error[usage]: no command "lst"; did you mean "list"?'),
        (["help", "nothing"], 'error[usage]: no command "nothing". See: sm-ssh --help'),
        (["top", "x"], 'error[usage]: no command "top"; did you mean "stop"?'),
        (["list", "--jsno"], "error[usage]: unrecognized arguments: --jsno. Did you mean --json?"),
        (
            ["exec", "--al", "x", "--", "true"],
            "error[usage]: unrecognized arguments: --al. Did you mean --all?",
        ),
        (["list", "--sincee=2h"], "error[usage]: unrecognized arguments: --sincee=2h. Did you mean --since?"),
        (
            ["list", "--quite-other"],
            "error[usage]: unrecognized arguments: --quite-other. See: sm-ssh list --help",
        ),
        (
            ["connect", "--trust-first", "x"],
            "error[usage]: unknown option --trust-first. Did you mean --trust-first-use?",
        ),
        (["a\nb"], 'error[usage]: no command "a b". See: sm-ssh --help'),
        (["--region"], "error[usage]: option --region needs a value"),
        (["list", "--nope"], "error[usage]: unrecognized arguments: --nope. See: sm-ssh list --help"),
        (
            ["connect"],
            "error[usage]: no target is named. Name one: sm-ssh connect NAME.training.sagemaker",
        ),
        (
            ["connect", "job.training"],
            "error[usage]: 'job.training' names no container. Name one as NAME.TYPE.sagemaker, "
            "algo-N.NAME.TYPE.sagemaker or mi-…; see what is there: sm-ssh list",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line_and_2(sm_ssh: Run, words: list[str], line: str) -> None:
    done = sm_ssh(*words)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", f"sm-ssh: {line}\n")


def test_a_target_alone_is_a_connection_to_it(sm_ssh: Run, stub: AwsStub) -> None:
    for words in (["job.training.sagemaker"], ["--region", "eu-north-1", "me@Job.Training.SageMaker"]):
        stub.asked.clear()
        done = sm_ssh(*words)
        assert b"error[aws-error]" in done.stderr
        assert stub.operations == ["DescribeInstanceInformation"]
    assert "/eu-north-1/ssm/" in stub.asked[0].headers["Authorization"]


def _loaded(words: list[str], environment: Mapping[str, str]) -> set[str]:
    code = (
        "import sys, os\n"
        "from sagemaker_ssh_helper.cli.main import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit:\n"
        "    pass\n"
        "sys.stderr.write('\\nLOADED ' + ' '.join(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        env=dict(environment),
        text=True,
        check=True,
    )
    return set(done.stderr.rpartition("LOADED ")[2].split())


def test_the_version_loads_next_to_nothing(environment: dict[str, str]) -> None:
    loaded = _loaded(["--version"], environment)
    assert not loaded & {"argparse", "logging", "asyncio", "botocore", "boto3", "json", "subprocess"}


def test_start_proxy_loads_no_boto3_no_parser_and_no_session_when_keys_are_in_the_environment(
    environment: dict[str, str],
) -> None:
    loaded = _loaded(["start-proxy", "job.training.sagemaker"], environment)
    assert "botocore.auth" in loaded
    assert not loaded & {"boto3", "argparse", "botocore.session", "botocore.client", "sagemaker", "moto"}


@pytest.fixture
def mistake(tmp_path: Path) -> dict[str, str]:
    """The environment of a command with a mistake of ours in it, right after its first answer from AWS."""
    (tmp_path / "mistake").mkdir()
    (tmp_path / "mistake" / "sitecustomize.py").write_text(
        "from sagemaker_ssh_helper.aws import instances\n"
        "def mistaken(client, target):\n"
        "    return client.call('ssm', 'DescribeInstanceInformation')['no such key']\n"
        "instances.resolve = mistaken\n"
    )
    path = os.pathsep.join(filter(None, (str(tmp_path / "mistake"), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path}


def test_an_unexpected_error_is_one_line_and_a_private_file(
    sm_ssh: Run, stub: AwsStub, home: Path, mistake: dict[str, str]
) -> None:
    stub.answers["DescribeInstanceInformation"] = {"InstanceInformationList": []}
    done = sm_ssh("connect", "job.training.sagemaker", env=mistake)
    (line,) = done.stderr.decode().splitlines()
    path = Path(line.rpartition("The details are in ")[2])

    assert done.returncode == 1
    assert line.startswith("sm-ssh: error[internal]: KeyError. ")
    assert path.parent == home / ".local" / "state" / "sm-ssh" / "logs"
    assert "Traceback" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert sm_ssh("start-proxy", "job.training.sagemaker", env=mistake).returncode == 255


def test_debug_shows_the_traceback_and_logs_to_a_private_file(
    sm_ssh: Run, stub: AwsStub, home: Path, mistake: dict[str, str]
) -> None:
    stub.answers["DescribeInstanceInformation"] = {"InstanceInformationList": []}
    done = sm_ssh("connect", "job.training.sagemaker", env={"SM_SSH_DEBUG": "true", **mistake})
    lines = done.stderr.decode().splitlines()
    path = Path(lines[0].removeprefix("sm-ssh: log of this run: "))

    assert "Traceback" in done.stderr.decode()
    assert "> ssm DescribeInstanceInformation" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert "wJalr" not in path.read_text()


def test_old_logs_are_dropped(sm_ssh: Run, stub: AwsStub, home: Path) -> None:
    folder = home / ".local" / "state" / "sm-ssh" / "logs"
    folder.mkdir(parents=True)
    for number in range(70):
        (folder / f"2020-01-01T0000{number:02}-1-list.log").touch()
    sm_ssh("list", env={"SM_SSH_DEBUG": "true"})
    assert len(list(folder.iterdir())) == 50


def test_output_that_nobody_reads_is_no_error(environment: dict[str, str], stub: AwsStub, home: Path) -> None:
    stub.answers["ListTrainingJobs"] = {"TrainingJobSummaries": []}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*SM_SSH, "list", "--json", "training"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


def test_an_interrupt_is_130_and_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(command: str, words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main_module, "_run", interrupted)
    assert main_module.main(["list"]) == 130
    assert capsys.readouterr() == ("", "")


def test_what_comes_of_an_interrupt_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(command: str, words: list[str]) -> int:
        try:
            raise KeyboardInterrupt
        finally:
            # As a lock says it that the interrupt found half handed over.
            threading.Lock().release()

    monkeypatch.setattr(main_module, "_run", interrupted)
    assert main_module.main(["list"]) == 130
    assert capsys.readouterr() == ("", "")


def test_what_others_say_cannot_move_the_cursor(sm_ssh: Run, stub: AwsStub) -> None:
    stub.answers["DescribeInstanceInformation"] = Refusal("Nasty", "\x1b[2J\x07 gone\r\nsm-ssh: all is well")
    done = sm_ssh("connect", "job.training.sagemaker")
    assert b"\x1b" not in done.stderr
    assert b"\x07" not in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_standard_descriptor_that_is_closed_is_no_error(
    environment: dict[str, str], stub: AwsStub, home: Path, closed: str
) -> None:
    stub.answers.update(ListTrainingJobs=JOBS, DescribeInstanceInformation=NODES)
    command = ["sh", "-c", f'"$@" list training {closed}', "sh", *SM_SSH]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"error" not in done.stderr
    assert b"region eu-west-1" not in done.stdout


def test_a_locale_that_lacks_a_character_gets_another_one(sm_ssh: Run) -> None:
    plain = {"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = sm_ssh("explain", env=plain)
    assert done.returncode == 0, done.stderr.decode()
    assert b'"mi-... is not connected."' in done.stdout
    assert b"or mi-...; see what is there" in sm_ssh("connect", "job.training", env=plain).stderr


def test_a_log_that_cannot_be_written_is_no_error(
    environment: dict[str, str], stub: AwsStub, home: Path
) -> None:
    stub.answers.update(ListTrainingJobs=JOBS, DescribeInstanceInformation=NODES)
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *SM_SSH, "list", "training"],
        env={**environment, "SM_SSH_DEBUG": "true"},
        cwd=home,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 3
    assert len(done.stderr.splitlines()) == 2, done.stderr.decode()


def test_two_regions_that_differ_are_a_warning(sm_ssh: Run, stub: AwsStub) -> None:
    done = sm_ssh("list", "training", env={"AWS_DEFAULT_REGION": "us-east-1"})
    assert b"AWS_REGION=eu-west-1 is used, not AWS_DEFAULT_REGION=us-east-1" in done.stderr


JOBS = {
    "TrainingJobSummaries": [
        {"TrainingJobName": "seen", "TrainingJobStatus": "InProgress", "CreationTime": 1.0},
        {"TrainingJobName": "unseen", "TrainingJobStatus": "InProgress", "CreationTime": 1.0},
    ]
}
NODES = {
    "InstanceInformationList": [
        {
            "InstanceId": "mi-00000000000000001",
            "PingStatus": "Online",
            "Name": "algo-1.seen.training.sagemaker",
            "RegistrationDate": 1.0,
            "LastPingDateTime": 2.0,
        },
        {
            "InstanceId": "mi-00000000000000002",
            "PingStatus": "ConnectionLost",
            "Name": "algo-2.seen.training.sagemaker",
            "RegistrationDate": 1.0,
        },
    ]
}


def test_list_prints_plain_words_when_piped(sm_ssh: Run, stub: AwsStub) -> None:
    stub.answers.update(ListTrainingJobs=JOBS, DescribeInstanceInformation=NODES)
    done = sm_ssh("list", "training.sagemaker")
    rows = [line.split() for line in done.stdout.decode().splitlines()]

    assert done.returncode == 0
    assert [(row[0], row[1], row[2], row[-1]) for row in rows] == [
        ("Online", "mi-00000000000000001", "algo-1", "seen.training.sagemaker"),
        ("ConnectionLost", "mi-00000000000000002", "algo-2", "algo-2.seen.training.sagemaker"),
        ("ssh:NotFound", "-", "-", "unseen.training.sagemaker"),
    ]
    assert done.stderr.decode() == f"sm-ssh: {VERSION}, region eu-west-1 (from AWS_REGION)\n"


def test_lists_json_has_a_schema(sm_ssh: Run, stub: AwsStub) -> None:
    stub.answers.update(ListTrainingJobs=JOBS, DescribeInstanceInformation=NODES)
    shown = json.loads(sm_ssh("list", "training", "--json").stdout)

    assert (shown["schema"], shown["region"], len(shown["instances"])) == (1, "eu-west-1", 3)
    assert shown["instances"][0] == {
        "status": "Online",
        "instance_id": "mi-00000000000000001",
        "node": "algo-1",
        "type": "training",
        "name": "seen",
        "resource_status": "InProgress",
        "since": 1.0,
        "last_ping_at": 2.0,
        "host": "seen.training.sagemaker",
    }


def test_an_empty_list_says_so_on_stderr(sm_ssh: Run, stub: AwsStub) -> None:
    done = sm_ssh("list")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"nothing runs here" in done.stderr


# For every way to fail before there is a session: what AWS answers, the variables, and the line.
FAULTS: dict[str, tuple[dict[str, object], dict[str, str | None], int, str]] = {
    "credentials-missing": ({}, {"AWS_ACCESS_KEY_ID": None}, 4, "no AWS credentials were found"),
    "region-missing": ({}, {"AWS_REGION": None}, 9, "no AWS region is set"),
    "endpoint-unreachable": (
        {},
        {"AWS_ENDPOINT_URL": "http://localhost:9"},
        9,
        "does not answer at http://localhost:9",
    ),
    "credentials-expired": (
        {"DescribeInstanceInformation": Refusal("ExpiredTokenException", "expired")},
        {},
        4,
        "have expired",
    ),
    "credentials-invalid": (
        {"DescribeInstanceInformation": Refusal("UnrecognizedClientException", "invalid")},
        {},
        4,
        "does not accept the credentials",
    ),
    "access-denied": (
        {"DescribeInstanceInformation": Refusal("AccessDeniedException", "not authorized")},
        {},
        4,
        "does not let you call ssm:DescribeInstanceInformation",
    ),
    "throttled": (
        {"DescribeInstanceInformation": Refusal("ThrottlingException", "Rate exceeded")},
        {},
        8,
        "throttles ssm:DescribeInstanceInformation",
    ),
    "target-not-found": (
        {"DescribeTrainingJob": Refusal("ValidationException", "Requested resource not found.")},
        {},
        3,
        "there is no training job 'job'",
    ),
    "target-ended": (
        {"DescribeTrainingJob": {"TrainingJobStatus": "Completed"}},
        {},
        7,
        "job has ended: Completed",
    ),
    "not-instrumented": (
        {"DescribeTrainingJob": {"TrainingJobStatus": "InProgress", "Environment": {}}},
        {},
        5,
        "job runs, but was not started with ssh",
    ),
    "target-starting": (
        {"DescribeTrainingJob": {"TrainingJobStatus": "InProgress", "Environment": {"START_SSH": "true"}}},
        {},
        5,
        "job is still starting",
    ),
}


@pytest.mark.parametrize("error_id", sorted(FAULTS))
def test_every_fault_has_a_line_of_its_own(sm_ssh: Run, stub: AwsStub, error_id: str) -> None:
    answers, variables, status, said = FAULTS[error_id]
    stub.answers["DescribeInstanceInformation"] = {"InstanceInformationList": []}
    stub.answers.update(answers)  # type: ignore[arg-type]  # a table of all kinds of answers
    commands = [("connect --no-wait", status), ("start-proxy --no-wait", 255)]
    if error_id == "throttled":  # which is waited out for some seconds
        commands.pop()
    for command, expected in commands:
        done = sm_ssh(*command.split(), "job.training.sagemaker", env=variables)
        (line,) = done.stderr.decode().splitlines()

        assert line.startswith(f"sm-ssh: error[{error_id}]: "), line
        assert said in line
        assert done.stdout == b""
        assert done.returncode == expected


@pytest.mark.parametrize(
    "name", ["a;touch x", "$(touch x)", "a b", "../../x", "-oProxyCommand=x", "a'b", "ä", ""]
)
def test_a_name_that_is_none_reaches_nobody(sm_ssh: Run, stub: AwsStub, home: Path, name: str) -> None:
    for command in ("connect", "start-proxy"):
        done = sm_ssh(command, "--", f"{name}.training.sagemaker")
        assert b"error[usage]" in done.stderr
        assert done.stdout == b""
    assert stub.asked == []
    assert list(home.iterdir()) == []


def test_connect_without_ssh_is_a_problem_of_this_machine(sm_ssh: Run, stub: AwsStub, tmp_path: Path) -> None:
    done = sm_ssh("connect", "job.training.sagemaker", env={"PATH": str(tmp_path)})
    assert done.returncode == 9
    assert b"error[ssh-missing]: ssh was not found" in done.stderr
    assert stub.asked == []
