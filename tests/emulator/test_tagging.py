"""The Resource Groups Tagging API over the services of the local cloud."""

import secrets
from typing import Any

import pytest
from botocore.exceptions import ClientError

from emulator.cloud_process import CloudProcess
from emulator.gateway_peers import Node


def model(cloud: CloudProcess, run: str, **tags: str) -> str:
    """A model with these tags; its ARN."""
    made = cloud.client("sagemaker").create_model(
        ModelName=f"model-{secrets.token_hex(4)}",
        PrimaryContainer={"Image": "image"},
        ExecutionRoleArn=cloud.info["role_arn"],
        Tags=[{"Key": key, "Value": value} for key, value in {"Run": run, **tags}.items()],
    )
    return str(made["ModelArn"])


def resources(cloud: CloudProcess, **filters: Any) -> dict[str, dict[str, str]]:
    pages = cloud.client("resourcegroupstaggingapi", user="admin").get_paginator("get_resources")
    return {
        found["ResourceARN"]: {tag["Key"]: tag["Value"] for tag in found["Tags"]}
        for page in pages.paginate(**filters)
        for found in page["ResourceTagMappingList"]
    }


def test_resources_are_found_by_tags_and_types(ssm_cloud: CloudProcess) -> None:
    run = secrets.token_hex(4)
    one, two, three = (model(ssm_cloud, run, Number=str(number)) for number in (1, 2, 3))
    of_run = {"Key": "Run", "Values": [run]}
    assert resources(ssm_cloud, TagFilters=[of_run])[two] == {"Run": run, "Number": "2"}
    some = [of_run, {"Key": "Number", "Values": ["1", "3"]}]
    for types in ([], ["sagemaker"], ["sagemaker:model", "ssm"]):
        assert set(resources(ssm_cloud, TagFilters=some, ResourceTypeFilters=types)) == {one, three}
    assert resources(ssm_cloud, TagFilters=some, ResourceTypeFilters=["sagemaker:endpoint"]) == {}
    # The pages together are the whole.
    assert set(resources(ssm_cloud, TagFilters=[of_run], ResourcesPerPage=1)) == {one, two, three}
    assert set(resources(ssm_cloud, ResourceARNList=[two])) == {two}
    client = ssm_cloud.client("resourcegroupstaggingapi", user="admin")
    assert run in client.get_tag_values(Key="Run")["TagValues"]
    assert {"Run", "Number"} <= set(client.get_tag_keys()["TagKeys"])


def test_managed_instances_are_found_by_tags(ssm_cloud: CloudProcess) -> None:
    node = Node(ssm_cloud, {"SSHResourceName": "tagged-job"}, name="algo-1.tagged-job.training.sagemaker")
    filters = [{"Key": "SSHResourceName", "Values": ["tagged-job"]}]
    (found,) = resources(ssm_cloud, TagFilters=filters, ResourceTypeFilters=["ssm:managed-instance"])
    assert found.endswith(f":managed-instance/{node.id}")


@pytest.mark.parametrize(
    "params",
    [
        {"ResourcesPerPage": 101},
        {"PaginationToken": "nonsense"},
        {"ResourceARNList": ["arn:aws:ssm:us-east-1:123456789012:document/a"], "TagFilters": [{"Key": "A"}]},
    ],
)
def test_what_makes_no_sense_is_refused(ssm_cloud: CloudProcess, params: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match="InvalidParameterException"):
        ssm_cloud.client("resourcegroupstaggingapi", user="admin").get_resources(**params)


def test_it_is_a_right_of_its_own(ssm_cloud: CloudProcess) -> None:
    with pytest.raises(ClientError, match="not authorized to perform: tag:GetResources"):
        ssm_cloud.client("resourcegroupstaggingapi", user="bob").get_resources()
