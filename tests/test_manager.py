"""SSMManager: the documented names, on the one resolver."""

from pathlib import Path
from typing import Dict, Iterator

import boto3
import pytest

from local_cloud import LocalCloud
from sagemaker_ssh_helper.manager import PING_STATUS, SSMManager


class Replaced(SSMManager):
    """As test-suites of users do it: the listing answers from a table."""

    def __init__(self, table: Dict[str, Dict[str, str]], **options: object) -> None:
        super().__init__(region_name="eu-west-1", **options)  # type: ignore[arg-type]  # a test's own
        self.table = table

    def list_all_instances_and_fetch_tags(self) -> Dict[str, Dict[str, str]]:
        return self.table


def node(number: int, kind: str = "training-job", name: str = "job", **more: str) -> Dict[str, str]:
    arn = f"arn:aws:sagemaker:eu-west-1:123456789012:{kind}/{name}"
    return {"SSHResourceName": name, "SSHResourceArn": arn, "SSHNode": f"algo-{number}", **more}


def test_nodes_come_by_the_number_in_their_names() -> None:
    manager = Replaced({"mi-c": node(10), "mi-b": node(2), "mi-a": node(1)})
    assert manager.get_training_instance_ids("job") == ["mi-a", "mi-b", "mi-c"]


def test_only_live_nodes_of_that_resource_and_kind_are_given() -> None:
    manager = Replaced(
        {
            "mi-live": node(1, **{PING_STATUS: "Online"}),
            "mi-gone": node(2, **{PING_STATUS: "ConnectionLost"}),
            "mi-other": node(1, name="another"),
            "mi-processing": node(1, kind="processing-job"),
            "mi-without-arn": {"SSHResourceName": "job", "SSHNode": "algo-3"},
        }
    )
    assert manager.get_training_instance_ids("job") == ["mi-live", "mi-without-arn"]
    assert manager.get_processing_instance_ids("job") == ["mi-processing", "mi-without-arn"]
    assert manager.get_endpoint_instance_ids("nothing") == []


def test_a_wait_ends_as_soon_as_the_node_is_there() -> None:
    manager = Replaced({}, sleep_between_retries_in_seconds=0.01)
    looks = []

    def appears_later() -> Dict[str, Dict[str, str]]:
        looks.append(1)
        return {"mi-a": node(1)} if len(looks) == 3 else {}

    manager.list_all_instances_and_fetch_tags = appears_later  # type: ignore[method-assign]  # the documented seam
    assert manager.get_training_instance_ids("job", timeout_in_sec=30) == ["mi-a"]
    assert len(looks) == 3


def test_the_listing_may_be_replaced_for_all_managers(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"mi-a": node(1)}
    monkeypatch.setattr(SSMManager, "list_all_instances_and_fetch_tags", lambda self: table)
    # Whoever asked AWS here would find nobody.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert SSMManager(region_name="eu-west-1").get_training_instance_ids("job") == ["mi-a"]


def test_instances_expire_by_their_registration() -> None:
    day = 86400
    table = {
        "mi-old": node(1, SSHTimestamp=str(1_000 * day)),
        "mi-new": node(1, SSHTimestamp=str(1_009 * day)),
        "mi-unknown": node(1, SSHTimestamp="yesterday"),
    }
    manager = Replaced(table, clock_timestamp_override=1_010 * day)
    assert manager.list_expired_ssh_instances(expiration_days=5) == ["mi-old"]
    assert manager.list_expired_ssh_instances() == ["mi-old", "mi-new"]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


def test_one_call_finds_the_nodes_of_one_resource(
    cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.endpoint_url)
    alice = cloud.user("alice")
    session = boto3.Session(
        aws_access_key_id=alice["access_key_id"],
        aws_secret_access_key=alice["secret_access_key"],
        region_name=cloud.info["region"],
    )
    manager = SSMManager(session=session)
    before = cloud.count("ssm:DescribeInstanceInformation")
    assert manager.get_training_instance_ids("no-such-job") == []
    assert cloud.count("ssm:DescribeInstanceInformation") == before + 1
    assert cloud.count("ssm:ListTagsForResource") == 0
    assert manager.list_all_instances_and_fetch_tags() == {}
