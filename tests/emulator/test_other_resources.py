"""Kinds of resources that the local cloud does not run."""

import pytest
from botocore.exceptions import ClientError

from local_cloud import LocalCloud


@pytest.mark.parametrize(
    ("operation", "member"),
    [
        ("list_notebook_instances", "NotebookInstances"),
        ("list_apps", "Apps"),
    ],
)
def test_a_kind_that_is_not_run_lists_nothing(cloud: LocalCloud, operation: str, member: str) -> None:
    assert getattr(cloud.client("sagemaker"), operation)()[member] == []


def test_one_of_a_kind_that_is_not_run_is_not_found(cloud: LocalCloud) -> None:
    with pytest.raises(ClientError, match="Requested resource not found"):
        cloud.client("sagemaker").describe_notebook_instance(NotebookInstanceName="none")
