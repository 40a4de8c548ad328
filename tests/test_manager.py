"""SSMManager: the documented names, on the one resolver."""

from pathlib import Path
from typing import Any, Dict, Iterator

import boto3
import pytest

from local_cloud import LocalCloud
from sagemaker_ssh_helper.manager import PING_STATUS, SSMManager


class Replaced(SSMManager):
    """As test-suites of users do it: the listing answers from a table."""

    def __init__(self, table: Dict[str, Dict[str, Any]], **options: object) -> None:
        super().__init__(region_name="eu-west-1", **options)  # type: ignore[arg-type]  # a test's own
        self.table = table

    def list_all_instances_and_fetch_tags(self) -> Dict[str, Dict[str, Any]]:
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


DAY = 86400


def test_what_does_not_answer_expires_by_its_registration() -> None:
    gone = {PING_STATUS: "ConnectionLost"}
    table = {
        "mi-old": node(1, SSHTimestamp=str(1_000 * DAY), **gone),
        "mi-new": node(1, SSHTimestamp=str(1_009 * DAY), **gone),
        "mi-unknown": node(1, SSHTimestamp="yesterday", **gone),
        "mi-untold": node(1, **gone),
        "mi-another-product-s": {"Name": "database", **gone},
    }
    manager = Replaced(table, clock_timestamp_override=1_010 * DAY)
    old = ["mi-old", "mi-unknown", "mi-untold"]
    assert manager.list_expired_ssh_instances(expiration_days=5) == old
    assert manager.list_expired_ssh_instances() == ["mi-old", "mi-new", *old[1:]]


def test_what_answers_never_expires() -> None:
    table = {"mi-old": node(1, SSHTimestamp="1", **{PING_STATUS: "Online"})}
    assert Replaced(table).list_expired_ssh_instances() == []


def test_nodes_without_a_number_come_newest_first_and_values_may_be_numbers() -> None:
    def of_older_helper(timestamp: object) -> Dict[str, Any]:
        return {
            "SSHResourceName": "job",
            "SSHResourceArn": node(1)["SSHResourceArn"],
            "SSHTimestamp": timestamp,
        }

    manager = Replaced(
        {
            "mi-a": of_older_helper(5),
            "mi-b": of_older_helper("7"),
            "mi-c": of_older_helper(7),
            "mi-d": of_older_helper(6),
        }
    )
    assert manager.get_training_instance_ids("job", expected_count=4) == ["mi-b", "mi-c", "mi-d", "mi-a"]
    assert manager.get_instance_ids_once("training-job", "job", not_earlier_than_timestamp=7) == [
        "mi-b",
        "mi-c",
    ]
    assert manager.get_ssh_instance_timestamp("mi-d") == 6
    assert manager.get_ssh_instance_timestamp("mi-none") == 0


def test_apps_of_studio_are_told_apart_by_domain_and_user() -> None:
    def app(domain: str, user: str) -> Dict[str, Any]:
        arn = f"arn:aws:sagemaker:eu-west-1:123456789012:app/{domain}/{user}/KernelGateway/app"
        return {"SSHResourceName": "app", "SSHResourceArn": arn, "SSHTimestamp": 1}

    manager = Replaced(
        {"mi-a": app("d-1", "terry"), "mi-b": app("d-2", "terry"), "mi-c": app("d-1", "terry-b")}
    )
    assert manager.get_studio_kgw_instance_ids("app") == ["mi-a", "mi-b", "mi-c"]
    assert manager.get_studio_user_kgw_instance_ids("d-1", "terry", "app") == ["mi-a"]
    assert manager.get_studio_user_kgw_instance_ids("", "terry", "app") == ["mi-a", "mi-b"]
    assert manager.get_studio_user_kgw_instance_ids("d-1", "terry", "app", not_earlier_than_timestamp=2) == []


def test_a_type_that_no_resource_has_is_told_with_those_that_are() -> None:
    with pytest.raises(
        ValueError, match=r"'job' is not a type of resource\. The types are training-job, .*app"
    ):
        Replaced({}).get_instance_ids("job", "my-job")


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
