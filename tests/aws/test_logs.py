"""What containers told in their logs, by queries."""

from __future__ import annotations

from typing import Any

import pytest

from aws_stub import AwsStub, Refusal
from sagemaker_ssh_helper.aws import logs
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.errors import ServiceError, WaitTimeout

LINE = "Successfully registered the instance with AWS SSM using Managed instance-id: "


def row(message: str) -> list[dict[str, str]]:
    return [{"field": "@message", "value": message}, {"field": "@ptr", "value": "mi-0000000000000000f"}]


def test_the_ids_that_were_told_are_given_once_newest_first(stub: AwsStub, client: Client) -> None:
    answers = iter([{"status": "Scheduled"}, {"status": "Running", "results": []}])
    rows = [row(f"INFO {LINE}mi-{digit * 17}") for digit in "bab"] + [row(LINE + "none")]

    def results(params: dict[str, Any]) -> dict[str, Any]:
        assert params == {"queryId": "q"}
        return next(answers, {"status": "Complete", "results": rows})

    stub.answers.update(StartQuery={"queryId": "q"}, GetQueryResults=results)
    assert logs.registered_in(client, "/aws/sagemaker/Endpoints/my-endpoint", sleep=lambda seconds: None) == [
        "mi-" + "b" * 17,
        "mi-" + "a" * 17,
    ]
    assert stub.operations == ["StartQuery", *["GetQueryResults"] * 3]
    assert stub.asked[0].params["logGroupName"] == "/aws/sagemaker/Endpoints/my-endpoint"


@pytest.mark.parametrize("code", ["ResourceNotFoundException", "AccessDeniedException"])
def test_a_log_that_is_not_there_or_closed_to_us_tells_nothing(
    stub: AwsStub, client: Client, code: str
) -> None:
    stub.answers["StartQuery"] = Refusal(code, "no")
    assert logs.registered_in(client, "/aws/sagemaker/Endpoints/my-endpoint") == []


def test_another_refusal_is_an_error(stub: AwsStub, client: Client) -> None:
    stub.answers["StartQuery"] = Refusal("MalformedQueryException", "no")
    with pytest.raises(ServiceError, match="MalformedQueryException"):
        logs.registered_in(client, "/aws/sagemaker/Endpoints/my-endpoint")


def test_a_search_without_end_is_given_up(stub: AwsStub, client: Client) -> None:
    stub.answers.update(StartQuery={"queryId": "q"}, GetQueryResults={"status": "Running"})
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(WaitTimeout, match=r"the log /aws/.*/my-endpoint was not searched in 30 s"):
        logs.registered_in(
            client, "/aws/sagemaker/Endpoints/my-endpoint", monotonic=lambda: now[0], sleep=sleep
        )
    assert now[0] <= 30
