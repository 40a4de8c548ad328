"""Every form in which a target can be named, and what is said of a name that fits none, or several."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from aws_stub import AwsStub, Refusal
from sagemaker_ssh_helper.aws import console
from sagemaker_ssh_helper.names import ResourceKind
from sagemaker_ssh_helper.targets import Target

from .conftest import SM_SSH, Run

HOST = "bert-2026-11-01.training.sagemaker"


@pytest.fixture
def account(stub: AwsStub) -> AwsStub:
    """Two live jobs and an endpoint; nothing of them is registered."""

    def jobs(params: dict[str, object]) -> dict[str, object]:
        names = ["bert-2026-11-01", "Prep-9"] if "StatusEquals" in params else ["old-job", "bert-2026-11-01"]
        return {
            "TrainingJobSummaries": [
                {"TrainingJobName": name, "TrainingJobStatus": "InProgress", "CreationTime": 1.0}
                for name in names
            ]
        }

    def described(params: dict[str, str]) -> object:
        if params["TrainingJobName"] not in ("bert-2026-11-01", "Prep-9", "old-job"):
            return Refusal("ValidationException", "Requested resource not found.")
        status = "Completed" if params["TrainingJobName"] == "old-job" else "InProgress"
        return {"TrainingJobName": params["TrainingJobName"], "TrainingJobStatus": status}

    stub.answers.update(
        ListTrainingJobs=jobs,
        ListProcessingJobs={"ProcessingJobSummaries": []},
        ListEndpoints={"Endpoints": [{"EndpointName": "prep-serving", "EndpointStatus": "InService"}]},
        DescribeTrainingJob=described,
        DescribeEndpoint={
            "EndpointName": "prep-serving",
            "EndpointConfigName": "c",
            "EndpointStatus": "InService",
        },
        DescribeEndpointConfig={"ProductionVariants": []},
        DescribeInstanceInformation={"InstanceInformationList": []},
    )
    return stub


@pytest.mark.parametrize(
    ("typed", "host"),
    [
        ("bert-2026-11-01", HOST),
        ("bert", HOST),
        ("BERT-2026", HOST),
        ("algo-2.bert", f"algo-2.{HOST}"),
        ("prep-9", "Prep-9.training.sagemaker"),
        ("Prep", "Prep-9.training.sagemaker"),
        ("prep-s", "prep-serving.inference.sagemaker"),
        ("old", "old-job.training.sagemaker"),
        ("arn:aws:sagemaker:eu-west-1:123456789012:training-job/bert-2026-11-01", HOST),
        (
            "https://eu-west-1.console.aws.amazon.com/sagemaker/home?region=eu-west-1#/jobs/bert-2026-11-01",
            HOST,
        ),
    ],
)
def test_a_name_is_found_by_its_beginning_node_or_arn(
    sm_ssh: Run, account: AwsStub, typed: str, host: str
) -> None:
    done = sm_ssh("connect", typed)
    first, error = done.stderr.decode().splitlines()
    assert first == f"sm-ssh: {typed}: {host}"
    # Found; what it does then is another matter.
    assert error.startswith(("sm-ssh: error[not-instrumented]", "sm-ssh: error[target-"))
    assert "target-not-found" not in error


def test_a_bare_name_needs_no_command(sm_ssh: Run, account: AwsStub) -> None:
    done = sm_ssh("bert-2026")
    assert f"bert-2026: {HOST}" in done.stderr.decode()


@pytest.mark.parametrize("typed", ["bert", "algo-1.bert", "BERT-2026-11-01", HOST])
def test_one_resource_is_listed_by_any_name(sm_ssh: Run, account: AwsStub, typed: str) -> None:
    done = sm_ssh("list", typed)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.split()[0] == b"ssh:NotFound"
    assert done.stdout.split()[-1] == HOST.encode()


@pytest.mark.parametrize("kind", [kind for kind in ResourceKind if kind is not ResourceKind.STUDIO])
@pytest.mark.parametrize("region", ["eu-west-1", "cn-north-1", "us-gov-west-1"])
def test_a_page_of_the_console_names_its_resource_and_region(kind: ResourceKind, region: str) -> None:
    url = console.resource_url(region, kind, "my-job")
    assert console.of_resource_url(url) == (Target(kind=kind, name="my-job"), region)


@pytest.mark.parametrize(
    "url",
    [
        "https://eu-west-1.console.aws.amazon.com/sagemaker/home?region=eu-west-1#/studio/x",
        "https://eu-west-1.console.aws.amazon.com/s3/home?region=eu-west-1#/jobs/x",
        "https://example.com/sagemaker/home?region=eu-west-1#/jobs/x",
    ],
)
def test_another_page_is_refused_before_any_call(sm_ssh: Run, account: AwsStub, url: str) -> None:
    done = sm_ssh("connect", url)
    assert done.returncode == 2
    assert b"is no page of a job" in done.stderr
    assert account.asked == []


def test_the_region_of_an_arn_is_called(sm_ssh: Run, account: AwsStub) -> None:
    sm_ssh("connect", "arn:aws:sagemaker:eu-north-1:123456789012:training-job/bert-2026-11-01")
    assert all("/eu-north-1/" in asked.headers["Authorization"] for asked in account.asked)


@pytest.mark.parametrize(
    "typed", ["arn:aws:s3:::bucket", "arn:aws:sagemaker:eu-west-1:123456789012:model/m", "arn:x", "@first"]
)
def test_what_names_no_container_is_refused_before_any_call(
    sm_ssh: Run, account: AwsStub, typed: str
) -> None:
    done = sm_ssh("connect", typed)
    assert done.returncode == 2
    assert b"error[usage]" in done.stderr
    assert account.asked == []


def test_several_that_fit_are_all_named(sm_ssh: Run, account: AwsStub) -> None:
    account.answers["ListEndpoints"] = {
        "Endpoints": [
            {"EndpointName": name, "EndpointStatus": "InService"} for name in ("serve-a", "serve-b")
        ]
    }
    done = sm_ssh("connect", "serve")
    assert done.returncode == 2
    assert done.stderr.decode() == (
        "sm-ssh: error[ambiguous-target]: 'serve' is the beginning of 2 names: "
        "serve-a.inference.sagemaker, serve-b.inference.sagemaker. Type more of it\n"
    )


def test_a_misspelt_name_is_answered_with_similar_ones(sm_ssh: Run, account: AwsStub) -> None:
    done = sm_ssh("connect", "bort")
    assert done.returncode == 3
    assert done.stderr.decode() == (
        "sm-ssh: error[target-not-found]: no job, endpoint, notebook or app is called 'bort', or begins with "
        f"that (region eu-west-1 from AWS_REGION). Did you mean {HOST}?\n"
    )


@pytest.mark.parametrize("typed", ["elsewhere", "elsewhere.training.sagemaker"])
def test_another_configured_region_that_has_it_is_named(
    sm_ssh: Run, account: AwsStub, home: Path, typed: str
) -> None:
    (home / "config").write_text("[profile other]\nregion = us-east-2\n")
    summary = {"TrainingJobName": "elsewhere", "TrainingJobStatus": "InProgress"}

    def in_region(answer: object) -> object:
        def choose(params: object) -> object:
            here = "/us-east-2/" in account.asked[-1].headers["Authorization"]
            return answer if here else Refusal("ValidationException", "Requested resource not found.")

        return choose

    account.answers["ListTrainingJobs"] = in_region({"TrainingJobSummaries": [summary]})  # type: ignore[assignment]
    account.answers["DescribeTrainingJob"] = in_region(summary)  # type: ignore[assignment]
    done = sm_ssh("connect", typed, env={"AWS_CONFIG_FILE": str(home / "config")})
    assert done.returncode == 3
    (line,) = done.stderr.decode().splitlines()
    assert "there is one in us-east-2" in line
    assert line.endswith(f"Try: sm-ssh connect --region us-east-2 {typed}")


def test_a_kind_that_may_not_be_listed_hides_no_other(sm_ssh: Run, account: AwsStub) -> None:
    account.answers["ListProcessingJobs"] = Refusal("AccessDeniedException", "no")
    assert f"bert: {HOST}" in sm_ssh("connect", "bert").stderr.decode()


def test_a_name_that_may_be_among_what_is_not_listed_is_not_said_to_be_missing(
    sm_ssh: Run, account: AwsStub
) -> None:
    account.answers["ListProcessingJobs"] = Refusal("AccessDeniedException", "no")
    done = sm_ssh("connect", "bort")
    assert done.returncode == 4
    told = done.stderr.decode()
    assert "error[access-denied]: nothing that you may list is called 'bort'" in told
    assert "you may not list these kinds: processing job; " in told
    assert "bort.processing.sagemaker" in told


def test_a_caller_who_may_list_nothing_is_told(sm_ssh: Run, account: AwsStub) -> None:
    for operation in [name for name in account.answers if name.startswith("List")]:
        account.answers[operation] = Refusal("AccessDeniedException", "no")
    for kind in ("TransformJobs", "NotebookInstances", "Apps"):
        account.answers[f"List{kind}"] = Refusal("AccessDeniedException", "no")
    done = sm_ssh("connect", "bert")
    assert done.returncode == 4
    assert b"error[access-denied]" in done.stderr


def test_last_means_nothing_before_the_first_connection(sm_ssh: Run, account: AwsStub) -> None:
    done = sm_ssh("connect", "@last")
    assert done.returncode == 3
    assert b"@last means nothing yet" in done.stderr


def test_last_is_the_host_and_the_region_that_were_reached(sm_ssh: Run, account: AwsStub, home: Path) -> None:
    state = home / ".local" / "state" / "sm-ssh"
    state.mkdir(parents=True)
    (state / "last.json").write_text(json.dumps({"host": HOST, "region": "eu-north-1", "profile": None}))
    done = sm_ssh("connect", "@last")
    assert done.stderr.decode().startswith(f"sm-ssh: @last: {HOST}\n")
    assert all("/eu-north-1/" in asked.headers["Authorization"] for asked in account.asked)


def typed_at_a_terminal(environment: dict[str, str], text: str, *words: str) -> tuple[int, str]:
    """The status, and what the terminal showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*SM_SSH, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    os.write(ours, text.encode())
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # how Linux tells that nobody has the other end any more
        pass
    finally:
        os.close(ours)
    return process.wait(60), shown.decode()


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        ("2\n", "bert-2026-11-01.training.sagemaker"),
        ("7\nserv\n", "prep-serving.inference.sagemaker"),
        ("Prep\n1\n", "Prep-9.training.sagemaker"),
        ("nothing-like-it\nbert\n", "bert-2026-11-01.training.sagemaker"),
    ],
)
def test_a_target_left_out_is_picked_on_a_terminal(
    environment: dict[str, str], account: AwsStub, keys: str, chosen: str
) -> None:
    status, shown = typed_at_a_terminal(environment, keys, "connect")
    assert f"chosen: {chosen}" in shown, shown
    assert status in (5, 7)


def test_picking_nothing_is_a_clear_end(environment: dict[str, str], account: AwsStub) -> None:
    status, shown = typed_at_a_terminal(environment, "\x04", "connect")
    assert status == 2
    assert "nothing was picked" in shown


def test_without_arguments_a_terminal_gets_the_picker(environment: dict[str, str], account: AwsStub) -> None:
    status, shown = typed_at_a_terminal(environment, "bert\n")
    assert f"chosen: {HOST}" in shown, shown
    assert status == 5


def test_a_terminal_where_nothing_runs_is_told(environment: dict[str, str], account: AwsStub) -> None:
    account.answers.update(ListTrainingJobs={"TrainingJobSummaries": []}, ListEndpoints={"Endpoints": []})
    status, shown = typed_at_a_terminal(environment, "", "connect")
    assert status == 3
    assert "nothing runs here" in shown


def test_every_kind_can_be_named_by_its_arn() -> None:
    from sagemaker_ssh_helper.targets import of_arn

    for kind in set(ResourceKind) - {ResourceKind.STUDIO}:
        target, region = of_arn(f"arn:aws-cn:sagemaker:cn-north-1:123456789012:{kind.arn_type}/a-1")
        assert (target.kind, target.name, region) == (kind, "a-1", "cn-north-1")
    target, _ = of_arn("arn:aws:ssm:eu-west-1:123456789012:managed-instance/mi-0123456789abcdef0")
    assert target.instance_id == "mi-0123456789abcdef0"
