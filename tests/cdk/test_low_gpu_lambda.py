"""The function that is deployed to Lambda: SageMaker is a stand-in, the topic is the local cloud's."""

import json
import queue
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict, Iterator, List

import boto3
import pytest
from botocore.exceptions import ClientError

from aws_stub import AwsStub, Refusal, aws_stub
from local_cloud import LocalCloud
from sagemaker_ssh_helper.cdk.low_gpu.low_gpu_lambda import handler

EVENT = {
    "source": "aws.sagemaker",
    "detail-type": "SageMaker Processing Job State Change",
    "account": "123456789012",
    "region": "us-east-1",
    "detail": {"ProcessingJobName": "job-LowGPUUtilization-1", "ProcessingJobStatus": "Completed"},
}
ARN = "arn:aws:sagemaker:us-east-1:123456789012:training-job/my-job"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


@pytest.fixture
def inbox() -> Iterator["queue.Queue[Dict[str, str]]"]:
    """What a subscriber of the topic gets; its address is the queue's ``address``."""
    received: Any = queue.Queue()

    class Subscriber(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Subscriber) as server:
        received.address = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield received
        server.shutdown()
        thread.join()


@pytest.fixture
def sagemaker(
    cloud: LocalCloud, inbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AwsStub]:
    """It, with the function's environment around it."""
    for name, value in cloud.environment("admin", tmp_path).items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    sns = cloud.client("sns", "admin")
    topic = sns.create_topic(Name=f"topic-{inbox.address.rpartition(':')[2].strip('/')}")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=inbox.address)
    monkeypatch.setenv("SNS_NOTIFICATION_TOPIC_ARN", topic)
    with aws_stub() as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", stub.url)
        # The default session keeps the first one's credentials.
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
        yield stub


def rules(*statuses: str) -> List[Dict[str, str]]:
    return [
        {"RuleConfigurationName": f"Rule{number}", "RuleEvaluationStatus": status}
        for number, status in enumerate(statuses)
    ]


def test_issues_are_one_message(sagemaker: AwsStub, inbox: "queue.Queue[Dict[str, str]]") -> None:
    sagemaker.answers["DescribeProcessingJob"] = {"TrainingJobArn": ARN}
    sagemaker.answers["DescribeTrainingJob"] = {
        "TrainingJobStatus": "InProgress",
        "ProfilerRuleEvaluationStatuses": rules("NoIssuesFound", "IssuesFound", "IssuesFound"),
    }

    assert handler(EVENT, None) == {"training_job": "my-job", "issues": ["Rule1", "Rule2"]}

    message = inbox.get(timeout=60)
    assert message["Subject"] == "SageMaker: issues with my-job"
    assert message["Message"].splitlines() == [
        "The profiler has found issues with the training job my-job: Rule1, Rule2.",
        "Region us-east-1, account 123456789012, status InProgress.",
        "",
        "Look at it:  sm-ssh connect my-job.training.sagemaker",
        "Stop it:     sm-ssh stop my-job.training.sagemaker",
    ]
    assert inbox.empty()
    assert [asked.params for asked in sagemaker.asked] == [
        {"ProcessingJobName": "job-LowGPUUtilization-1"},
        {"TrainingJobName": "my-job"},
    ]


@pytest.mark.parametrize(
    ("processing", "training", "result"),
    [
        ({}, {}, {"training_job": None, "issues": []}),
        (
            {"TrainingJobArn": ARN},
            {"ProfilerRuleEvaluationStatuses": rules("NoIssuesFound", "Error", "Stopped")},
            {"training_job": "my-job", "issues": []},
        ),
        ({"TrainingJobArn": ARN}, {}, {"training_job": "my-job", "issues": []}),
    ],
    ids=["an ordinary processing job", "nothing was found", "no rules"],
)
def test_nothing_else_is_told(
    sagemaker: AwsStub,
    cloud: LocalCloud,
    processing: Dict[str, Any],
    training: Dict[str, Any],
    result: Dict[str, Any],
) -> None:
    sagemaker.answers.update(DescribeProcessingJob=processing, DescribeTrainingJob=training)
    cloud.reset_requests()
    assert handler(EVENT, None) == result
    assert cloud.count("SNS:Publish", "admin") == 0


def test_a_refusal_is_raised_for_lambda_to_try_again(
    sagemaker: AwsStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    sagemaker.answers["DescribeProcessingJob"] = Refusal(
        "ValidationException", "Requested resource not found."
    )
    with pytest.raises(ClientError, match="Requested resource not found"):
        handler(EVENT, None)
    sagemaker.answers["DescribeProcessingJob"] = {"TrainingJobArn": ARN}
    sagemaker.answers["DescribeTrainingJob"] = {"ProfilerRuleEvaluationStatuses": rules("IssuesFound")}
    monkeypatch.setenv("SNS_NOTIFICATION_TOPIC_ARN", "arn:aws:sns:us-east-1:123456789012:gone")
    with pytest.raises(ClientError, match="NotFound"):
        handler(EVENT, None)


def test_an_app_without_the_kit_says_what_to_install(tmp_path: Path) -> None:
    # It is not there, whether or not it is.
    (tmp_path / "aws_cdk.py").write_text("raise ImportError('no aws_cdk')")
    done = subprocess.run(
        [sys.executable, "-m", "sagemaker_ssh_helper.cdk.low_gpu_lambda_app"],
        env={"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr == (
        "sagemaker-ssh-helper: error[local-setup]: the Cloud Development Kit is not there (no aws_cdk). "
        "Install it, in the folder of this package's source: pip install '.[cdk]'\n"
    )
