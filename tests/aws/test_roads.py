"""From what the user names to the road that leads there: every road, in the order in which they are tried."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from aws_stub import AwsStub, Refusal
from sagemaker_ssh_helper import errors
from sagemaker_ssh_helper.aws import instances, native, resources, sessions
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.names import ResourceKind
from sagemaker_ssh_helper.targets import Target, is_native, of_arn

MANAGED = "mi-00000000000000001"
TRAINING = "sagemaker-training-job:job_algo-1"
ENDPOINT = "sagemaker-endpoint:job_blue_i-0123456789abcdef0"
CLUSTER = "sagemaker-cluster:abc123_workers-i-0123456789abcdef0"
SPACE = "arn:aws:sagemaker:eu-west-1:111122223333:space/d-abcdef123456/my-space"

LIVE, LOST, NOBODY = "Online", "ConnectionLost", None
DEBUG = {"RemoteDebugConfig": {"EnableRemoteDebug": True}}
SSH = {"Environment": {"START_SSH": "true"}}
RUNS = {"TrainingJobStatus": "InProgress", "SecondaryStatus": "Training"}
STARTS = {"TrainingJobStatus": "InProgress", "SecondaryStatus": "Starting"}


def serve(stub: AwsStub, ping: str | None, job: Mapping[str, Any]) -> None:
    """A training job of two nodes, and perhaps its registered instance."""
    registered = {"InstanceId": MANAGED, "PingStatus": ping, "Name": "algo-1.job.training.sagemaker"}
    stub.answers["DescribeInstanceInformation"] = {"InstanceInformationList": [registered] if ping else []}
    stub.answers["DescribeTrainingJob"] = {
        "TrainingJobName": "job",
        "ResourceConfig": {"InstanceCount": 2},
        "CreationTime": time.time() - 60,
        **job,
    }
    stub.answers["FilterLogEvents"] = {"events": []}


@pytest.mark.parametrize(
    ("ping", "job", "host", "leads_to"),
    [
        # Our own instance first, whatever else there is.
        (LIVE, {**RUNS, **SSH}, "job", MANAGED),
        (LIVE, {**RUNS, **SSH, **DEBUG}, "job", MANAGED),
        (LIVE, {**RUNS, **DEBUG}, "job", MANAGED),
        # SageMaker's own road where that one leads nowhere.
        (NOBODY, {**RUNS, **DEBUG}, "job", TRAINING),
        (NOBODY, {**RUNS, **DEBUG, "SecondaryStatus": "Downloading"}, "job", TRAINING),
        (NOBODY, {**RUNS, **DEBUG}, "algo-2.job", "sagemaker-training-job:job_algo-2"),
        (LIVE, {**RUNS, **SSH, **DEBUG}, "algo-2.job", "sagemaker-training-job:job_algo-2"),
        (LOST, {**RUNS, **SSH, **DEBUG}, "job", TRAINING),
        # No road, and why.
        (NOBODY, RUNS, "job", errors.NotInstrumented),
        (NOBODY, {**RUNS, "RemoteDebugConfig": {"EnableRemoteDebug": False}}, "job", errors.NotInstrumented),
        (NOBODY, {**RUNS, **DEBUG}, "algo-3.job", errors.NotInstrumented),
        (LOST, {**RUNS, **SSH}, "job", errors.TargetOffline),
        (LIVE, {**RUNS, **SSH}, "algo-2.job", errors.TargetOffline),
        (NOBODY, {**STARTS, **DEBUG}, "job", errors.TargetStarting),
        # It has a helper, which will register in a moment: that is the better road.
        (NOBODY, {**RUNS, **SSH, **DEBUG}, "job", errors.TargetStarting),
        (NOBODY, {**DEBUG, "TrainingJobStatus": "Completed"}, "job", errors.TargetEnded),
        (LOST, {**DEBUG, "TrainingJobStatus": "Stopped"}, "job", errors.TargetEnded),
    ],
)
def test_roads_to_a_training_job(
    stub: AwsStub,
    client: Client,
    ping: str | None,
    job: Mapping[str, Any],
    host: str,
    leads_to: str | type[errors.SSHHelperError],
) -> None:
    serve(stub, ping, job)
    target = Target.parse(f"{host}.training.sagemaker")

    if isinstance(leads_to, str):
        found = instances.resolve(client, target)
        assert (found.id, found.is_native, found.name) == (leads_to, leads_to != MANAGED, "job")
        assert found.node == target.node_or_first
    else:
        with pytest.raises(leads_to) as caught:
            instances.resolve(client, target)
        assert type(caught.value) is leads_to


@pytest.mark.parametrize(
    ("job", "coming", "nodes"),
    [
        ({**RUNS, **DEBUG}, False, ["algo-1", "algo-2"]),
        ({**RUNS, **SSH, **DEBUG}, False, ["algo-1", "algo-2"]),
        ({**STARTS, **DEBUG}, True, ["algo-1", "algo-2"]),
        ({**STARTS, **DEBUG}, False, []),
        (RUNS, True, []),
        # Instance groups have counts of their own.
        (
            {
                **RUNS,
                **DEBUG,
                "ResourceConfig": {"InstanceGroups": [{"InstanceCount": 1}, {"InstanceCount": 2}]},
            },
            False,
            ["algo-1", "algo-2", "algo-3"],
        ),
    ],
)
def test_every_node_of_a_training_job_is_known(
    stub: AwsStub, client: Client, job: Mapping[str, Any], coming: bool, nodes: list[str]
) -> None:
    serve(stub, NOBODY, job)
    resource = resources.describe(client, ResourceKind.TRAINING, "job")
    assert resource is not None
    assert native.nodes(client, resource, coming=coming) == nodes


@pytest.mark.parametrize(("count", "leads_to"), [("1", "sagemaker-training-job:job_algo-2"), ("2", None)])
def test_a_young_job_s_node_is_waited_for_unless_it_has_no_helper(
    stub: AwsStub, client: Client, count: str, leads_to: str | None
) -> None:
    environment = {"START_SSH": "true", "SSH_INSTANCE_COUNT": count}
    serve(stub, LIVE, {**RUNS, **DEBUG, "Environment": environment})
    stub.answers["DescribeInstanceInformation"]["InstanceInformationList"][0]["RegistrationDate"] = (
        time.time()
    )
    found = instances.find(client, Target.parse("algo-2.job.training.sagemaker"))
    if leads_to is None:
        assert isinstance(found, instances.Absent)
        assert found.error.may_come
    else:
        assert isinstance(found, instances.Instance)
        assert found.id == leads_to


def test_helper_that_failed_leaves_the_native_road(stub: AwsStub, client: Client) -> None:
    serve(stub, NOBODY, {**RUNS, **SSH, **DEBUG})
    said = "sagemaker_ssh_helper: no ssh in this container: Rate exceeded"
    stub.answers["FilterLogEvents"] = {
        "events": [{"eventId": "1", "timestamp": 0, "logStreamName": "job/algo-1-1", "message": said}]
    }
    assert instances.resolve(client, Target.parse("job.training.sagemaker")).id == TRAINING


def test_job_without_ssh_is_told_how_to_be_reached(stub: AwsStub, client: Client) -> None:
    serve(stub, NOBODY, RUNS)
    with pytest.raises(errors.NotInstrumented, match=r"Turn it on: sm-ssh enable job\. Or launch it with"):
        instances.resolve(client, Target.parse("job.training.sagemaker"))


def endpoint(stub: AwsStub, *variants: Mapping[str, Any], streams: tuple[str, ...] = ()) -> None:
    stub.answers["DescribeInstanceInformation"] = {"InstanceInformationList": []}
    stub.answers["DescribeEndpoint"] = {
        "EndpointName": "job",
        "EndpointStatus": "InService",
        "EndpointConfigName": "config",
    }
    stub.answers["DescribeEndpointConfig"] = {"ProductionVariants": list(variants)}
    stub.answers["DescribeModel"] = {}
    stub.answers["DescribeLogStreams"] = {"logStreams": [{"logStreamName": name} for name in streams]}


def test_endpoint_that_takes_sessions_is_found_by_its_log_streams(stub: AwsStub, client: Client) -> None:
    endpoint(
        stub,
        {"VariantName": "green", "ModelName": "m"},
        {"VariantName": "blue", "ModelName": "m", "EnableSSMAccess": True},
        streams=(
            "green/i-0aaaaaaaaaaaaaaaa",
            "blue/i-0123456789abcdef0",
            "blue/i-0123456789abcdef0/data-log",
            "blue/i-0bbbbbbbbbbbbbbbb",
        ),
    )
    assert instances.resolve(client, Target.parse("job.inference.sagemaker")).id == ENDPOINT
    second = instances.resolve(client, Target.parse("algo-2.job.inference.sagemaker"))
    assert second.id == "sagemaker-endpoint:job_blue_i-0bbbbbbbbbbbbbbbb"
    assert next(asked for asked in stub.asked if asked.operation == "DescribeLogStreams").params == {
        "logGroupName": "/aws/sagemaker/Endpoints/job",
        "orderBy": "LastEventTime",
        "descending": True,
    }


@pytest.mark.parametrize("connected", ["0bbbbbbbbbbbbbbbb", None])
def test_instances_of_an_endpoint_that_are_gone_are_passed_over(
    stub: AwsStub, client: Client, connected: str | None
) -> None:
    endpoint(stub, {"VariantName": "blue", "ModelName": "m", "EnableSSMAccess": True})
    stub.answers["DescribeEndpoint"]["ProductionVariants"] = [
        {"VariantName": "blue", "CurrentInstanceCount": 2},
        {"VariantName": "green", "CurrentInstanceCount": 9},
    ]
    # The last one to write need not be the last one to come, and may be gone.
    stub.answers["DescribeLogStreams"] = {
        "logStreams": [
            {"logStreamName": "blue/i-0aaaaaaaaaaaaaaaa", "creationTime": 1},
            {"logStreamName": "blue/i-0bbbbbbbbbbbbbbbb", "creationTime": 3},
            {"logStreamName": "blue/i-0cccccccccccccccc", "creationTime": 2},
        ]
    }

    def status(params: Mapping[str, str]) -> Mapping[str, str]:
        there = connected is not None and params["Target"].endswith(connected)
        return {"Target": params["Target"], "Status": "connected" if there else "notconnected"}

    stub.answers["GetConnectionStatus"] = (
        status if connected is not None else Refusal("AccessDeniedException", "no")
    )
    first = "0cccccccccccccccc" if connected is not None else "0aaaaaaaaaaaaaaaa"
    for host, instance in (("job", first), ("algo-2.job", "0bbbbbbbbbbbbbbbb")):
        found = instances.resolve(client, Target.parse(f"{host}.inference.sagemaker"))
        assert found.id == f"sagemaker-endpoint:job_blue_i-{instance}"
    resource = resources.describe(client, ResourceKind.INFERENCE, "job")
    assert resource is not None
    assert native.nodes(client, resource, coming=False) == ["algo-1", "algo-2"]


@pytest.mark.parametrize(
    ("access", "streams"), [(False, ("blue/i-0123456789abcdef0",)), (True, ()), (True, ("blue/other",))]
)
def test_other_endpoints_have_no_native_road(
    stub: AwsStub, client: Client, access: bool, streams: tuple[str, ...]
) -> None:
    endpoint(stub, {"VariantName": "blue", "ModelName": "m", "EnableSSMAccess": access}, streams=streams)
    with pytest.raises(errors.NotInstrumented, match="Launch it with sagemaker_ssh_helper"):
        instances.resolve(client, Target.parse("job.inference.sagemaker"))


def test_endpoint_whose_logs_may_not_be_read_has_no_native_road(stub: AwsStub, client: Client) -> None:
    endpoint(stub, {"VariantName": "blue", "ModelName": "m", "EnableSSMAccess": True})
    stub.answers["DescribeLogStreams"] = Refusal("AccessDeniedException", "no")
    with pytest.raises(errors.NotInstrumented):
        instances.resolve(client, Target.parse("job.inference.sagemaker"))


@pytest.mark.parametrize("text", [TRAINING, ENDPOINT, f"{ENDPOINT}_main", CLUSTER, SPACE])
def test_native_target_that_is_named_is_taken_as_it_is(stub: AwsStub, client: Client, text: str) -> None:
    assert is_native(text)
    target = Target.parse(text)
    found = instances.resolve(client, target)

    assert (found.id, target.fqdn) == (text, text)
    assert (found.name, found.node) == (("job", "algo-1") if text == TRAINING else ("", "algo-1"))
    assert stub.operations == []


@pytest.mark.parametrize(
    "text",
    [
        "sagemaker-training-job:job",
        "sagemaker-training-job:job_algo-0",
        "sagemaker-training-job:a;b_algo-1",
        "sagemaker-training-job:job_algo-1\n",
        "sagemaker-cluster:abc_workers",
        "sagemaker-endpoint:job_blue",
        "sagemaker-space:x",
        "arn:aws:sagemaker:eu-west-1:111122223333:space/d-1",
    ],
)
def test_other_texts_are_no_native_targets(text: str) -> None:
    assert not is_native(text)
    with pytest.raises(errors.UsageError):
        Target.parse(text)


def test_space_is_named_by_its_arn_with_its_region() -> None:
    target, region = of_arn(SPACE)
    assert (target.fqdn, region) == (SPACE, "eu-west-1")


@pytest.mark.parametrize(
    ("text", "service", "asked"),
    [
        (TRAINING, "AmazonSSM", {"Target": TRAINING}),
        (CLUSTER, "AmazonSSM", {"Target": CLUSTER}),
        (SPACE, "SageMaker", {"ResourceIdentifier": SPACE}),
    ],
)
def test_session_is_started_by_the_service_that_has_the_road(
    stub: AwsStub, client: Client, text: str, service: str, asked: Mapping[str, str]
) -> None:
    token = "t" * 1024  # SageMaker's may be that long
    stub.answers["StartSession"] = {"SessionId": "s-1", "StreamUrl": "wss://x", "TokenValue": token}
    found = instances.resolve(client, Target.parse(text))
    grant = sessions.start_document(client, found.id, None, {})

    assert (grant.id, grant.url, grant.token) == ("s-1", "wss://x", token)
    (request,) = stub.asked
    assert request.headers["X-Amz-Target"] == f"{service}.StartSession"
    assert {name: value for name, value in request.params.items() if name != "Reason"} == asked


def test_the_agent_of_the_service_is_waited_for(stub: AwsStub, client: Client) -> None:
    answers = iter(["notconnected", "notconnected", "connected"])
    stub.answers["GetConnectionStatus"] = lambda params: {"Target": TRAINING, "Status": next(answers)}
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert native.wait_connected(client, TRAINING, 60, monotonic=lambda: now[0], sleep=sleep)
    stub.answers["GetConnectionStatus"] = {"Target": TRAINING, "Status": "notconnected"}
    assert not native.wait_connected(client, TRAINING, 60, monotonic=lambda: now[0], sleep=sleep)
    stub.answers["GetConnectionStatus"] = Refusal("AccessDeniedException", "no")
    assert native.wait_connected(client, TRAINING, 60, monotonic=lambda: now[0], sleep=sleep)


@pytest.mark.parametrize("code", ["ValidationException", "InvalidInstanceId", "InternalServerError"])
def test_where_nobody_knows_that_question_the_session_tells(stub: AwsStub, client: Client, code: str) -> None:
    """Whether a native target may be asked for its status is not documented."""
    stub.answers["GetConnectionStatus"] = Refusal(code, "no such thing")
    if code == "InternalServerError":
        with pytest.raises(errors.ServiceError):
            native.wait_connected(client, TRAINING, 0)
    else:
        assert native.wait_connected(client, TRAINING, 0)


def test_remote_debugging_is_switched_by_one_call(stub: AwsStub, client: Client) -> None:
    stub.answers["UpdateTrainingJob"] = {"TrainingJobArn": "arn"}
    native.set_remote_debug(client, "job", True)
    (asked,) = stub.asked
    assert json.loads(json.dumps(asked.params)) == {
        "TrainingJobName": "job",
        "RemoteDebugConfig": {"EnableRemoteDebug": True},
    }
