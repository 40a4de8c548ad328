"""SSHLog: links; what it looks up is tested with real containers, in e2e."""

from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Dict, Iterator, List

import boto3
import pytest
from moto import mock_aws

from aws_stub import AwsStub, aws_stub
from sagemaker_ssh_helper.log import SSHLog


def test_each_kind_has_its_page_and_its_log_in_the_console() -> None:
    log = SSHLog(session=boto3.Session(region_name="eu-west-2"))
    assert log.region_name == "eu-west-2"
    console = "https://eu-west-2.console.aws.amazon.com"
    metadata = {
        log.get_training_metadata_url("one"): "jobs/one",
        log.get_processing_metadata_url("one"): "processing-jobs/one",
        log.get_transform_metadata_url("one"): "transform-jobs/one",
        log.get_endpoint_metadata_url("one"): "endpoints/one",
        log.get_endpoint_config_metadata_url("one"): "endpointConfig/one",
        log.get_model_metadata_url("one"): "models/one",
        log.get_ide_metadata_url("d-1", "terry"): "studio/d-1/user/terry",
    }
    assert metadata == {
        f"{console}/sagemaker/home?region=eu-west-2#/{page}": page for page in metadata.values()
    }
    group = (
        f"{console}/cloudwatch/home?region=eu-west-2#logsV2:log-groups/log-group/$252Faws$252Fsagemaker$252F"
    )
    assert [
        log.get_training_cloudwatch_url("one"),
        log.get_processing_cloudwatch_url("one"),
        log.get_transform_cloudwatch_url("one"),
        log.get_endpoint_cloudwatch_url("one"),
        log.get_ide_cloudwatch_url("d-1", "terry", "app"),
    ] == [
        f"{group}TrainingJobs$3FlogStreamNameFilter$3Done$252F",
        f"{group}ProcessingJobs$3FlogStreamNameFilter$3Done$252F",
        f"{group}TransformJobs$3FlogStreamNameFilter$3Done$252F",
        f"{group}Endpoints$252Fone",
        f"{group}studio$3FlogStreamNameFilter$3Dd-1$252Fterry$252FKernelGateway$252Fapp$252F",
    ]


def test_the_region_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # A link needs nobody to be signed in.
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    url = SSHLog("cn-north-1").get_training_metadata_url("one")
    assert url == "https://cn-north-1.console.amazonaws.cn/sagemaker/home?region=cn-north-1#/jobs/one"


INSTANCE = "mi-" + "a" * 17


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsStub]:
    with aws_stub() as stub:
        for name, value in stub.environment().items():
            monkeypatch.setenv(name, value)
        message = f"Successfully registered the instance with AWS SSM using Managed instance-id: {INSTANCE}"
        row = [{"field": "@message", "value": message}]
        stub.answers.update(
            StartQuery={"queryId": "q"}, GetQueryResults={"status": "Complete", "results": [row]}
        )
        yield stub


def test_an_endpoint_that_has_not_registered_yet_is_looked_for_again(account: AwsStub) -> None:
    told = account.answers["GetQueryResults"]["results"]
    answers = iter([[], [], told])

    def results(_: Dict[str, Any]) -> Dict[str, Any]:
        return {"status": "Complete", "results": next(answers)}

    account.answers["GetQueryResults"] = results
    log = SSHLog(sleep_between_retries_in_seconds=0.01)
    assert log.get_endpoint_ssm_instance_ids("my-endpoint") == []
    assert log.get_endpoint_ssm_instance_ids("my-endpoint", timeout_in_sec=60) == [INSTANCE]
    assert account.operations.count("StartQuery") == 3


@pytest.mark.parametrize(
    ("look", "group", "condition"),
    [
        (lambda log: log.get_training_ssm_instance_ids("one"), "TrainingJobs", r"/^one\//"),
        (lambda log: log.get_processing_ssm_instance_ids("one"), "ProcessingJobs", r"/^one\//"),
        (lambda log: log.get_transformer_ssm_instance_ids("one"), "TransformJobs", r"/^one\//"),
        (lambda log: log.get_endpoint_ssm_instance_ids("one"), "Endpoints/one", ""),
        (lambda log: log.get_studio_kgw_ssm_instance_ids("one"), "studio", r"/\/KernelGateway\/one(\/|$)/"),
        (lambda log: log.get_ssm_instance_ids("/aws/sagemaker/mine", "a.b", 5, 1), "mine", r"/^a\.b/"),
    ],
)
def test_what_containers_told_is_found_in_the_log_of_their_kind(
    account: AwsStub, look: Callable[[SSHLog], List[str]], group: str, condition: str
) -> None:
    assert look(SSHLog()) == [INSTANCE]
    asked = next(call.params for call in account.asked if call.operation == "StartQuery")
    assert asked["logGroupName"] == f"/aws/sagemaker/{group}"
    assert ("@logStream like " + condition in asked["queryString"]) == bool(condition)


def test_the_addresses_of_a_jobs_nodes(account: AwsStub) -> None:
    account.answers["DescribeInstanceInformation"] = {
        "InstanceInformationList": [
            {
                "InstanceId": INSTANCE,
                "Name": f"algo-{number}.one.training.sagemaker",
                "IPAddress": f"10.0.0.{number}",
            }
            for number in (2, 1)
        ]
    }
    assert SSHLog().get_ip_addresses("one") == ["10.0.0.1", "10.0.0.2"]


def test_messages_of_a_topic_are_counted_in_whole_minutes() -> None:
    with mock_aws():
        cloudwatch = boto3.Session(
            aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-west-1"
        ).client("cloudwatch")
        for published in (2, 3):
            cloudwatch.put_metric_data(
                Namespace="AWS/SNS",
                MetricData=[
                    {
                        "MetricName": "NumberOfMessagesPublished",
                        "Dimensions": [{"Name": "TopicName", "Value": "idle-jobs"}],
                        "Value": published,
                        "Timestamp": datetime.now(timezone.utc) - timedelta(seconds=30),
                    }
                ],
            )
        log = SSHLog("eu-west-1")
        assert log.count_sns_notifications("idle-jobs", timedelta(seconds=90)) == 5
        assert log.count_sns_notifications("other", timedelta(hours=1)) == 0
