"""SSHLog: links; what it looks up is tested with real containers, in e2e."""

from typing import Any, Dict

import boto3
import pytest

from aws_stub import aws_stub
from sagemaker_ssh_helper.log import SSHLog


def test_each_kind_has_its_page_and_its_log_in_the_console() -> None:
    log = SSHLog(session=boto3.Session(region_name="eu-west-2"))
    assert log.region_name == "eu-west-2"
    console = "https://eu-west-2.console.aws.amazon.com"
    metadata = {
        log.get_training_metadata_url("one"): "jobs",
        log.get_processing_metadata_url("one"): "processing-jobs",
        log.get_transform_metadata_url("one"): "transform-jobs",
        log.get_endpoint_metadata_url("one"): "endpoints",
    }
    assert metadata == {
        f"{console}/sagemaker/home?region=eu-west-2#/{page}/one": page for page in metadata.values()
    }
    group = f"{console}/cloudwatch/home?region=eu-west-2#logsV2:log-groups/log-group/$252Faws$252Fsagemaker"
    assert [
        log.get_training_cloudwatch_url("one"),
        log.get_processing_cloudwatch_url("one"),
        log.get_transform_cloudwatch_url("one"),
        log.get_endpoint_cloudwatch_url("one"),
    ] == [
        f"{group}$252FTrainingJobs$3FlogStreamNameFilter$3Done",
        f"{group}$252FProcessingJobs$3FlogStreamNameFilter$3Done",
        f"{group}$252FTransformJobs$3FlogStreamNameFilter$3Done",
        f"{group}$252FEndpoints$252Fone",
    ]


def test_the_region_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    url = SSHLog("cn-north-1").get_training_metadata_url("one")
    assert url == "https://cn-north-1.console.amazonaws.cn/sagemaker/home?region=cn-north-1#/jobs/one"


def test_an_endpoint_that_has_not_registered_yet_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sagemaker_ssh_helper.log._INTERVAL", 0.01)
    instance_id = "mi-" + "a" * 17
    message = f"Successfully registered the instance with AWS SSM using Managed instance-id: {instance_id}"
    answers = iter([[], [], [[{"field": "@message", "value": message}]]])
    with aws_stub() as stub:
        for name, value in stub.environment().items():
            monkeypatch.setenv(name, value)

        def results(_: Dict[str, Any]) -> Dict[str, Any]:
            return {"status": "Complete", "results": next(answers)}

        stub.answers.update(StartQuery={"queryId": "q"}, GetQueryResults=results)
        log = SSHLog()
        assert log.get_endpoint_ssm_instance_ids("my-endpoint") == []
        assert log.get_endpoint_ssm_instance_ids("my-endpoint", timeout_in_sec=60) == [instance_id]
    assert stub.operations.count("StartQuery") == 3
