"""From a name to the one live container; and why there is none."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from aws_stub import AwsStub, Refusal
from sagemaker_ssh_helper import errors
from sagemaker_ssh_helper.aws import instances, inventory, resources
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.names import ResourceKind
from sagemaker_ssh_helper.targets import Target

ID_1, ID_2, ID_3 = (f"mi-{number:017x}" for number in (1, 2, 3))


def entry(instance_id: str, name: str = "algo-1.job.training.sagemaker", **more: Any) -> dict[str, Any]:
    return {
        "InstanceId": instance_id,
        "PingStatus": "Online",
        "Name": name,
        "LastPingDateTime": time.time() - 5,
        "RegistrationDate": time.time() - 300,
        "AgentVersion": "3.3.4515.0",
        **more,
    }


def offline(instance_id: str, name: str = "algo-1.job.training.sagemaker") -> dict[str, Any]:
    return entry(instance_id, name, PingStatus="ConnectionLost", LastPingDateTime=time.time() - 3600)


def registered(stub: AwsStub, *entries: dict[str, Any]) -> None:
    """Answer as the service does: what carries the tag SSHResourceName with one of the values."""

    def describe(params: dict[str, Any]) -> dict[str, Any]:
        (asked,) = params["Filters"]
        if asked["Key"] == "InstanceIds":
            return {"InstanceInformationList": [e for e in entries if e["InstanceId"] in asked["Values"]]}
        if asked["Key"] == "tag-key":
            return {"InstanceInformationList": list(entries)}
        assert asked["Key"] == "tag:SSHResourceName"
        names = {e.get("tag") or e["Name"].split(".")[1] for e in entries}
        assert len(asked["Values"]) <= 100
        return {
            "InstanceInformationList": [
                e
                for e in entries
                if (e.get("tag") or e["Name"].split(".")[1]) in names & set(asked["Values"])
            ]
        }

    stub.answers["DescribeInstanceInformation"] = describe


def job(status: str = "InProgress", **more: Any) -> dict[str, Any]:
    return {
        "TrainingJobName": "job",
        "TrainingJobStatus": status,
        "Environment": {"START_SSH": "true"},
        "ResourceConfig": {"InstanceCount": 2},
        "CreationTime": time.time() - 60,
        **more,
    }


def resolve(client: Client, host: str = "job.training.sagemaker") -> instances.Instance:
    return instances.resolve(client, Target.parse(host))


def test_a_live_node_takes_one_call(stub: AwsStub, client: Client) -> None:
    registered(stub, entry(ID_1), entry(ID_2, "algo-2.job.training.sagemaker"))
    found = resolve(client)

    assert (found.id, found.node, found.kind, found.name) == (ID_1, "algo-1", ResourceKind.TRAINING, "job")
    assert stub.operations == ["DescribeInstanceInformation"]
    assert stub.asked[0].params["Filters"] == [{"Key": "tag:SSHResourceName", "Values": ["job"]}]
    assert resolve(client, "algo-2.job.training.sagemaker").id == ID_2


def test_nodes_of_the_past_do_not_count(stub: AwsStub, client: Client) -> None:
    registered(stub, offline(ID_2), entry(ID_1), offline(ID_3))
    assert resolve(client).id == ID_1


def test_a_resource_of_another_kind_with_the_same_name_does_not_count(stub: AwsStub, client: Client) -> None:
    registered(stub, entry(ID_2, "algo-1.job.processing.sagemaker"), entry(ID_1))
    assert resolve(client).id == ID_1


def test_two_live_instances_of_one_node_are_an_error_that_names_both(stub: AwsStub, client: Client) -> None:
    registered(stub, entry(ID_2, RegistrationDate=time.time()), entry(ID_1))
    with pytest.raises(errors.DuplicateNode, match=f"{ID_1} and {ID_2}"):
        resolve(client)


def test_an_instance_named_for_another_resource_does_not_count_whatever_its_tag(
    stub: AwsStub, client: Client
) -> None:
    registered(stub, entry(ID_1, "algo-1.mallory.training.sagemaker", tag="job"))
    stub.answers["DescribeTrainingJob"] = job()
    with pytest.raises(errors.TargetOffline, match="no container of it has registered yet"):
        resolve(client)


def test_a_node_of_an_older_helper_is_known_by_its_tags(stub: AwsStub, client: Client) -> None:
    registered(stub, entry(ID_1, "", tag="job"), entry(ID_2, "box", tag="job"))
    arns = {
        ID_1: "arn:aws:sagemaker:eu-west-1:1:training-job/job",
        ID_2: "arn:aws:sagemaker:eu-west-1:1:endpoint/job",
    }
    stub.answers["ListTagsForResource"] = lambda params: {
        "TagList": [
            {"Key": "SSHResourceArn", "Value": arns[params["ResourceId"]]},
            {"Key": "SSHResourceName", "Value": "job"},
        ]
    }
    found = resolve(client)

    assert (found.id, found.kind, found.name, found.node) == (ID_1, ResourceKind.TRAINING, "job", None)
    assert found.tags is not None


def test_an_instance_id_is_looked_up_as_it_is(stub: AwsStub, client: Client) -> None:
    registered(stub, entry(ID_1), offline(ID_2))
    assert resolve(client, ID_1).id == ID_1
    with pytest.raises(errors.TargetOffline, match="ConnectionLost, last ping"):
        resolve(client, ID_2)
    with pytest.raises(errors.TargetNotFound, match=ID_3):
        resolve(client, ID_3)


def test_registered_but_not_online(stub: AwsStub, client: Client) -> None:
    registered(stub, offline(ID_1))
    stub.answers["DescribeTrainingJob"] = job()
    with pytest.raises(errors.TargetOffline, match=rf"{ID_1} is ConnectionLost, last ping .*60 min ago"):
        resolve(client)


def test_registered_but_the_job_may_not_be_described(stub: AwsStub, client: Client) -> None:
    registered(stub, offline(ID_1))
    stub.answers["DescribeTrainingJob"] = Refusal("AccessDeniedException", "no")
    with pytest.raises(errors.TargetOffline, match="ConnectionLost"):
        resolve(client)


def test_a_job_that_has_ended_is_told_with_its_reason(stub: AwsStub, client: Client) -> None:
    registered(stub, offline(ID_1))
    reason = "AlgorithmError: exit code 1\nTraceback"
    stub.answers["DescribeTrainingJob"] = job("Failed", FailureReason=reason, TrainingEndTime=1790000000.0)
    with pytest.raises(errors.TargetEnded) as caught:
        resolve(client)

    at = time.strftime("%Y-%m-%d", time.localtime(1790000000))
    assert f"job has ended: Failed at {at}" in str(caught.value)
    assert "AlgorithmError: exit code 1 Traceback" in str(caught.value)
    assert caught.value.exit_code == 7


def test_a_job_without_the_helper(stub: AwsStub, client: Client) -> None:
    registered(stub)
    stub.answers["DescribeTrainingJob"] = job(Environment={"A": "b"}, SecondaryStatus="Training")
    with pytest.raises(errors.NotInstrumented, match="status Training, no START_SSH=true"):
        resolve(client)


def test_a_job_that_is_still_starting(stub: AwsStub, client: Client) -> None:
    registered(stub)
    stub.answers["DescribeTrainingJob"] = job(SecondaryStatus="Downloading")
    with pytest.raises(errors.TargetOffline, match=r"still starting.*Downloading, 60 s ago"):
        resolve(client)


def test_a_node_that_the_job_does_not_have(stub: AwsStub, client: Client) -> None:
    registered(stub, entry(ID_1))
    stub.answers["DescribeTrainingJob"] = job()
    with pytest.raises(errors.TargetNotFound, match=r"has no algo-3: it has 2 nodes.*algo-1"):
        resolve(client, "algo-3.job.training.sagemaker")


def test_the_nodes_of_all_groups_of_a_heterogeneous_cluster_count(stub: AwsStub, client: Client) -> None:
    groups = [
        {"InstanceGroupName": "data", "InstanceType": "ml.m5.xlarge", "InstanceCount": 1},
        {"InstanceGroupName": "gpu", "InstanceType": "ml.g5.xlarge", "InstanceCount": 2},
    ]
    stub.answers["DescribeTrainingJob"] = job(
        ResourceConfig={"InstanceGroups": groups},
        Environment={"START_SSH": "true", "SSH_INSTANCE_COUNT": "all"},
    )
    found = resources.describe(client, ResourceKind.TRAINING, "job")
    assert found is not None
    assert (found.instance_count, found.ssh_nodes) == (3, 3)
    assert found.instance_type == "ml.m5.xlarge, ml.g5.xlarge"


def test_a_node_that_has_not_registered(stub: AwsStub, client: Client) -> None:
    registered(stub, entry(ID_1))
    stub.answers["DescribeTrainingJob"] = job()
    with pytest.raises(errors.TargetOffline, match=r"algo-2 of job is not registered \(registered: algo-1\)"):
        resolve(client, "algo-2.job.training.sagemaker")


def missing(message: str = "Requested resource not found.") -> Refusal:
    return Refusal("ValidationException", message)


@pytest.mark.parametrize(
    "refusal",
    [missing(), missing("Could not find requested job with name: jobb"), Refusal("ResourceNotFound")],
)
def test_a_misspelt_name_is_told_with_what_is_like_it(
    stub: AwsStub, client: Client, refusal: Refusal
) -> None:
    registered(stub)
    stub.answers["DescribeTrainingJob"] = refusal
    stub.answers["ListTrainingJobs"] = {
        "TrainingJobSummaries": [{"TrainingJobName": "job"}, {"TrainingJobName": "unlike"}]
    }
    with pytest.raises(errors.TargetNotFound) as caught:
        resolve(client, "jobb.training.sagemaker")

    assert "Did you mean job.training.sagemaker?" in str(caught.value)
    assert "region eu-west-1 from AWS_REGION" in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_name_like_nothing_points_to_the_list(stub: AwsStub, client: Client) -> None:
    registered(stub)
    stub.answers["DescribeTrainingJob"] = missing()
    stub.answers["ListTrainingJobs"] = Refusal("AccessDeniedException")
    with pytest.raises(errors.TargetNotFound, match=r"sm-ssh list training\.sagemaker"):
        resolve(client, "xyz.training.sagemaker")


def test_a_name_that_ssh_has_folded_is_found_in_its_own_case(stub: AwsStub, client: Client) -> None:
    registered(stub, entry(ID_1, "algo-1.My-Job.training.sagemaker"))
    stub.answers["DescribeTrainingJob"] = missing()
    stub.answers["ListTrainingJobs"] = {"TrainingJobSummaries": [{"TrainingJobName": "My-Job"}]}

    assert resolve(client, "my-job.training.sagemaker").name == "My-Job"


def test_a_name_that_aws_itself_folds_is_found_in_its_own_case(stub: AwsStub, client: Client) -> None:
    registered(stub, entry(ID_1, "algo-1.My-Job.training.sagemaker"))
    stub.answers["DescribeTrainingJob"] = job(TrainingJobName="My-Job")

    assert resolve(client, "my-job.training.sagemaker").name == "My-Job"


def test_a_validation_error_that_is_none_about_the_name_is_not_hidden(stub: AwsStub, client: Client) -> None:
    registered(stub)
    stub.answers["DescribeTrainingJob"] = missing("1 validation error detected")
    with pytest.raises(errors.ServiceError, match="1 validation error"):
        resolve(client)


def test_waiting_ends_when_the_node_is_there(stub: AwsStub, client: Client) -> None:
    stub.answers["DescribeTrainingJob"] = job()
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now > 5:
            registered(stub, entry(ID_1))

    registered(stub)
    target = Target.parse("job.training.sagemaker")
    found = instances.wait_for(client, target, timeout=60, monotonic=lambda: now, sleep=sleep)

    assert found.id == ID_1
    registered(stub)
    with pytest.raises(errors.TargetOffline):
        instances.wait_for(client, target, timeout=0)


def test_waiting_stops_at_what_it_cannot_mend(stub: AwsStub, client: Client) -> None:
    registered(stub)
    stub.answers["DescribeTrainingJob"] = job("Stopped")
    with pytest.raises(errors.TargetEnded):
        instances.wait_for(client, Target.parse("job.training.sagemaker"), timeout=60)


def test_the_nodes_of_a_resource_come_in_order(stub: AwsStub, client: Client) -> None:
    registered(
        stub,
        entry(ID_3, "algo-10.job.training.sagemaker"),
        offline(ID_2, "algo-2.job.training.sagemaker"),
        entry(ID_1),
    )
    found = instances.instances_of(client, ResourceKind.TRAINING, "job")
    assert [instance.node for instance in found] == ["algo-1", "algo-2", "algo-10"]


def test_the_listing_starts_from_what_lives(stub: AwsStub, client: Client) -> None:
    names = [f"job-{number:03}" for number in range(150)]
    stub.answers["ListTrainingJobs"] = {
        "TrainingJobSummaries": [
            {"TrainingJobName": name, "TrainingJobStatus": "InProgress", "CreationTime": 1.0}
            for name in names
        ]
    }
    registered(
        stub,
        entry(ID_1, "algo-1.job-000.training.sagemaker"),
        offline(ID_2, "algo-1.job-000.training.sagemaker"),
        offline(ID_3, "algo-1.job-149.training.sagemaker"),
    )
    rows = inventory.of_live_resources(client, [ResourceKind.TRAINING], _no_words)

    assert [(row.status, row.name) for row in rows if row.status != inventory.NOT_FOUND] == [
        ("Online", "job-000"),
        ("ConnectionLost", "job-149"),
    ]
    assert len(rows) == 150
    assert stub.operations == ["ListTrainingJobs", *["DescribeInstanceInformation"] * 2]
    assert stub.asked[0].params["StatusEquals"] == "InProgress"


def _no_words(line: str) -> None:
    raise AssertionError(line)


def test_a_kind_that_may_not_be_listed_is_told_and_left_out(stub: AwsStub, client: Client) -> None:
    stub.answers["ListTrainingJobs"] = {
        "TrainingJobSummaries": [{"TrainingJobName": "job", "TrainingJobStatus": "InProgress"}]
    }
    stub.answers["ListProcessingJobs"] = Refusal("AccessDeniedException", "no")
    registered(stub)
    told: list[str] = []
    kinds = [ResourceKind.TRAINING, ResourceKind.PROCESSING, ResourceKind.STUDIO]
    rows = inventory.of_live_resources(client, kinds, told.append)

    assert [(row.status, row.host) for row in rows] == [("ssh:NotFound", "job.training.sagemaker")]
    assert len(told) == 1
    assert told[0].startswith("processing: not listed: ")


def test_when_nothing_may_be_listed_that_is_the_error(stub: AwsStub, client: Client) -> None:
    for kind in ("TrainingJobs", "ProcessingJobs"):
        stub.answers[f"List{kind}"] = Refusal("AccessDeniedException", "no")
    stub.answers["ListApps"] = Refusal("UnknownOperationException", "no such kind here")
    kinds = [ResourceKind.TRAINING, ResourceKind.PROCESSING, ResourceKind.STUDIO]
    with pytest.raises(errors.AccessDenied):
        inventory.of_live_resources(client, kinds, lambda line: None)


def test_the_kinds_are_asked_for_at_once(stub: AwsStub, client: Client) -> None:
    """Each waits until the others have been asked."""
    together = threading.Barrier(3, timeout=30)

    def answer(params: object) -> dict[str, object]:
        together.wait()
        return {}

    for kind in ("TrainingJobs", "ProcessingJobs", "TransformJobs"):
        stub.answers[f"List{kind}"] = answer
    registered(stub)
    kinds = [ResourceKind.TRAINING, ResourceKind.PROCESSING, ResourceKind.TRANSFORM]
    assert inventory.of_live_resources(client, kinds, _no_words) == []


def test_one_resource_is_shown_whatever_it_does(stub: AwsStub, client: Client) -> None:
    registered(stub, offline(ID_1))
    stub.answers["DescribeTrainingJob"] = job("Completed")
    (row,) = inventory.of_resource(client, ResourceKind.TRAINING, "job")
    assert (row.status, row.resource_status, row.instance_id) == ("ConnectionLost", "Completed", ID_1)


def test_all_shows_what_has_ended_too(stub: AwsStub, client: Client) -> None:
    registered(
        stub, entry(ID_1), offline(ID_2, "algo-1.old.training.sagemaker"), entry(ID_3, "foreign", tag="x")
    )
    known = inventory.of_ended_resources(client, [ResourceKind.TRAINING], [])
    assert [row.name for row in known] == ["job", "old"]
    assert inventory.of_ended_resources(client, [ResourceKind.TRAINING], known) == []


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("CreateActivation failed (ThrottlingException: Rate exceeded)", errors.RegistrationThrottled),
        ("RegistrationLimitExceeded: Registration limit of 20000 reached", errors.RegistrationLimit),
        ("Nonexistent role or missing ssm service principal in trust policy", errors.RoleNotTrusted),
        ("there is no OpenSSH server in this image", errors.RegistrationFailed),
    ],
)
def test_what_a_container_wrote_before_it_gave_up_is_the_reason(
    stub: AwsStub, client: Client, said: str, kind: type[errors.SSHHelperError]
) -> None:
    registered(stub)
    stub.answers["DescribeTrainingJob"] = job(SecondaryStatus="Training")
    line = f"sagemaker-ssh-helper: no ssh in this container: {said}. Log: /log"
    stub.answers["FilterLogEvents"] = {"events": [{"message": line, "logStreamName": "job/algo-1-1"}]}
    with pytest.raises(errors.RegistrationFailed) as caught:
        instances.resolve(client, Target.parse("job.training.sagemaker"))
    assert type(caught.value) is kind
    assert said in str(caught.value)


def test_isolation_is_told_before_anything_is_waited_for(stub: AwsStub, client: Client) -> None:
    registered(stub)
    stub.answers["DescribeTrainingJob"] = job(SecondaryStatus="Starting", EnableNetworkIsolation=True)
    with pytest.raises(errors.NetworkIsolated, match="EnableNetworkIsolation is true"):
        instances.resolve(client, Target.parse("job.training.sagemaker"))
