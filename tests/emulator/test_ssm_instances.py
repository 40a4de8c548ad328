from datetime import datetime, timezone
from typing import Any, Iterator

import pytest
from botocore.exceptions import ClientError

from emulator.cloud_process import CloudProcess
from emulator.gateway_peers import Node

TIER = "/ssm/managed-instance/activation-tier"


@pytest.fixture
def ssm(ssm_cloud: CloudProcess) -> Any:
    return ssm_cloud.client("ssm")


@pytest.fixture
def switched(ssm_cloud: CloudProcess) -> Iterator[CloudProcess]:
    """A cloud whose switches are cleared after the test."""
    yield ssm_cloud
    ssm_cloud.clear_faults()


def by_tag(key: str, *values: str) -> Any:
    return [{"Key": f"tag:{key}", "Values": list(values)}]


def ids(answer: Any) -> Any:
    return [item["InstanceId"] for item in answer["InstanceInformationList"]]


def ping_status(ssm: Any, instance_id: str) -> Any:
    [found] = ssm.describe_instance_information(Filters=[{"Key": "InstanceIds", "Values": [instance_id]}])[
        "InstanceInformationList"
    ]
    return found["PingStatus"]


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_instance_is_described_as_its_agent_says(ssm_cloud: CloudProcess, ssm: Any) -> None:
    node = Node(ssm_cloud, {"SSHResourceName": "described"}, name="algo-1.described.training.sagemaker")
    before = datetime.now(timezone.utc)
    node.ping(
        AgentStatus="Active",
        AvailabilityZone="",
        ComputerName="host.example",
        IPAddress="10.0.0.7",
        PlatformName="Ubuntu",
        PlatformVersion="22.04",
        SSMConnectionChannel="",
    )

    [found] = ssm.describe_instance_information(Filters=by_tag("SSHResourceName", "described"))[
        "InstanceInformationList"
    ]

    assert abs((found.pop("LastPingDateTime") - before).total_seconds()) < 30
    assert abs((found.pop("RegistrationDate") - before).total_seconds()) < 30
    assert found == {
        "InstanceId": node.id,
        "PingStatus": "Online",
        "AgentVersion": node.version,
        "IsLatestVersion": False,
        "PlatformType": "Linux",
        "PlatformName": "Ubuntu",
        "PlatformVersion": "22.04",
        "ActivationId": node.activation_id,
        "IamRole": ssm_cloud.role,
        "ResourceType": "ManagedInstance",
        "Name": "algo-1.described.training.sagemaker",
        "IPAddress": "10.0.0.7",
        "ComputerName": "host.example",
        "SourceId": node.id,
        "SourceType": "AWS::SSM::ManagedInstance",
    }


def test_filters_choose_instances(ssm_cloud: CloudProcess, ssm: Any) -> None:
    one = Node(ssm_cloud, {"Fruit": "apple", "Size": "small"})
    two = Node(ssm_cloud, {"Fruit": "pear", "Size": "small"})
    three = Node(ssm_cloud, {"Fruit": "apple", "Size": "large"})
    one.ping()

    def described(*filters: Any) -> Any:
        return ids(ssm.describe_instance_information(Filters=[*filters]))

    assert described(*by_tag("Fruit", "apple")) == [one.id, three.id]
    assert described(*by_tag("Fruit", "apple", "pear"), *by_tag("Size", "small")) == [one.id, two.id]
    assert described({"Key": "tag-key", "Values": ["Fruit"]}) == [one.id, two.id, three.id]
    assert described(*by_tag("Fruit", "plum")) == []
    mine = {"Key": "InstanceIds", "Values": [three.id, one.id, "mi-00000000000000000"]}
    assert described(mine) == [one.id, three.id]
    assert described(mine, {"Key": "PingStatus", "Values": ["Online"]}) == [one.id]
    assert described({"Key": "ActivationIds", "Values": [two.activation_id]}) == [two.id]
    assert described(mine, {"Key": "ResourceType", "Values": ["EC2Instance"]}) == []
    old = ssm.describe_instance_information(
        InstanceInformationFilterList=[{"key": "ActivationIds", "valueSet": [two.activation_id]}]
    )
    assert ids(old) == [two.id]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            {"Filters": [*by_tag("a", "b"), {"Key": "PingStatus", "Values": ["Online"]}]},
            ("ValidationException", "Tag filters can't be combined with other filter types."),
        ),
        (
            {
                "Filters": by_tag("a", "b"),
                "InstanceInformationFilterList": [{"key": "PingStatus", "valueSet": ["Online"]}],
            },
            ("ValidationException", "Filters and InstanceInformationFilterList can't be used together."),
        ),
        (
            {"Filters": [{"Key": "Colour", "Values": ["red"]}]},
            ("InvalidFilterKey", "The filter key Colour isn't valid."),
        ),
        (
            {"Filters": [{"Key": "InstanceIds", "Values": [f"mi-{n:017x}" for n in range(101)]}]},
            None,
        ),
        ({"NextToken": "no token"}, ("InvalidNextToken", "The specified token isn't valid.")),
    ],
    ids=["tags and others", "both kinds", "unknown key", "101 values", "bad token"],
)
def test_filters_that_make_no_sense_are_refused(ssm: Any, request_: Any, expected: Any) -> None:
    with pytest.raises(ClientError) as error:
        ssm.describe_instance_information(**request_)
    found = error.value.response["Error"]
    assert expected is None or (found["Code"], found["Message"]) == expected


def test_pages_hold_every_instance_once(ssm_cloud: CloudProcess, ssm: Any) -> None:
    nodes = [Node(ssm_cloud, {"Paged": "yes"}) for _ in range(12)]
    expected = [node.id for node in nodes]

    first = ssm.describe_instance_information(Filters=by_tag("Paged", "yes"))
    paginator = ssm.get_paginator("describe_instance_information")
    pages = list(paginator.paginate(Filters=by_tag("Paged", "yes"), MaxResults=5))

    assert ids(first) == expected[:10]
    assert [ids(page) for page in pages] == [expected[:5], expected[5:10], expected[10:]]
    # One that goes away between two pages moves nothing.
    page = ssm.describe_instance_information(Filters=by_tag("Paged", "yes"), MaxResults=5)
    ssm.deregister_managed_instance(InstanceId=expected[0])
    following = ssm.describe_instance_information(
        Filters=by_tag("Paged", "yes"), MaxResults=5, NextToken=page["NextToken"]
    )
    assert ids(following) == expected[5:10]


def test_tags_are_added_listed_and_removed(ssm_cloud: CloudProcess, ssm: Any) -> None:
    node = Node(ssm_cloud, {"SSHOwner": "somebody"})
    resource = {"ResourceType": "ManagedInstance", "ResourceId": node.id}

    ssm.add_tags_to_resource(
        **resource, Tags=[{"Key": "SSHOwner", "Value": "other"}, {"Key": "Größe", "Value": "2 @+-"}]
    )
    assert ssm.list_tags_for_resource(**resource)["TagList"] == [
        {"Key": "SSHOwner", "Value": "other"},
        {"Key": "Größe", "Value": "2 @+-"},
    ]
    assert ids(ssm.describe_instance_information(Filters=by_tag("SSHOwner", "somebody"))) == []

    ssm.remove_tags_from_resource(**resource, TagKeys=["SSHOwner", "absent"])
    assert ssm.list_tags_for_resource(**resource)["TagList"] == [{"Key": "Größe", "Value": "2 @+-"}]
    with pytest.raises(ClientError) as error:
        ssm.add_tags_to_resource(**resource, Tags=[{"Key": f"k{n}", "Value": ""} for n in range(50)])
    assert code(error) == "TooManyTagsError"
    with pytest.raises(ClientError) as error:
        ssm.list_tags_for_resource(ResourceType="ManagedInstance", ResourceId="mi-00000000000000000")
    assert code(error) == "InvalidResourceId"
    with pytest.raises(ClientError) as error:
        ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId="p")
    assert code(error) == "InvalidResourceType"


def test_online_follows_the_control_channel_and_the_pings(switched: CloudProcess, ssm: Any) -> None:
    switched.faults(kind="ping-status", grace=0, window=900)
    node = Node(switched)
    assert ping_status(ssm, node.id) == "ConnectionLost"
    node.ping()
    assert ping_status(ssm, node.id) == "Online"

    with node.open_control():
        assert ping_status(ssm, node.id) == "Online"
        assert ssm.get_connection_status(Target=node.id)["Status"] == "connected"

    while ssm.get_connection_status(Target=node.id)["Status"] == "connected":
        pass
    assert ping_status(ssm, node.id) == "ConnectionLost"
    node.ping()
    assert ping_status(ssm, node.id) == "Online"
    switched.faults(kind="ping-status", window=0)
    assert ping_status(ssm, node.id) == "ConnectionLost"


def test_lost_channel_counts_as_online_for_a_while(switched: CloudProcess, ssm: Any) -> None:
    switched.faults(kind="ping-status", grace=600)
    node = Node(switched)
    node.open_control().peer.close()
    while ssm.get_connection_status(Target=node.id)["Status"] == "connected":
        pass

    assert ping_status(ssm, node.id) == "Online"


def test_instance_speaks_only_for_itself(ssm_cloud: CloudProcess) -> None:
    node, other = Node(ssm_cloud), Node(ssm_cloud)

    status, answer = node.call("UpdateInstanceInformation", InstanceId=other.id, AgentVersion="1.1.1.1")

    assert (status, answer["__type"]) == (400, "AccessDeniedException")


def test_agent_gets_sane_answers_to_its_periodic_calls(ssm_cloud: CloudProcess) -> None:
    node = Node(ssm_cloud)

    assert node.call("ListInstanceAssociations", InstanceId=node.id, MaxResults=20) == (
        200,
        {"Associations": []},
    )
    # The first is the model's form, the second what the official agent sends.
    for filters in ([{"key": "InstanceId", "value": node.id}], [{"Key": "InstanceId", "Value": node.id}]):
        assert node.call("ListAssociations", AssociationFilterList=filters, MaxResults=1) == (
            200,
            {"Associations": []},
        )
    status, answer = node.call("GetManifest", InstanceId=node.id)
    assert (status, answer["__type"]) == (400, "UnknownOperationException")


def test_deregistered_instance_is_gone_with_its_channel_and_keys(ssm_cloud: CloudProcess, ssm: Any) -> None:
    node = Node(ssm_cloud, {"Gone": "soon"})
    with node.open_control() as control:
        ssm.deregister_managed_instance(InstanceId=node.id)

        assert control.peer.wait_lost().startswith("1000 ")
    assert ids(ssm.describe_instance_information(Filters=by_tag("Gone", "soon"))) == []
    assert node.call("UpdateInstanceInformation", InstanceId=node.id)[1]["__type"] == (
        "UnrecognizedClientException"
    )
    assert node.request_token()[1]["__type"] == "InvalidInstanceId"
    with pytest.raises(ClientError) as error:
        ssm.deregister_managed_instance(InstanceId=node.id)
    assert code(error) == "InvalidInstanceId"


def test_a_user_can_deregister_what_is_the_users_own_alone(ssm_cloud: CloudProcess) -> None:
    node = Node(ssm_cloud, {"SSHOwner": ssm_cloud.user("alice")["user_id"]})
    with pytest.raises(ClientError) as error:
        ssm_cloud.client("ssm", "bob").deregister_managed_instance(InstanceId=node.id)
    assert code(error) == "AccessDeniedException"
    ssm_cloud.client("ssm", "alice").deregister_managed_instance(InstanceId=node.id)


def test_instance_can_have_another_role(ssm_cloud: CloudProcess, ssm: Any) -> None:
    node = Node(ssm_cloud)
    with pytest.raises(ClientError) as error:
        ssm.update_managed_instance_role(InstanceId=node.id, IamRole="no-such-role")
    assert code(error) == "ValidationException"

    ssm.update_managed_instance_role(InstanceId=node.id, IamRole=ssm_cloud.role)

    assert node.request_token()[0] == 200


def test_tier_is_a_setting(switched: CloudProcess, ssm: Any) -> None:
    setting = ssm.get_service_setting(SettingId=TIER)["ServiceSetting"]
    assert (setting["SettingValue"], setting["Status"]) == ("advanced", "Default")
    assert setting["ARN"] == f"arn:aws:ssm:{switched.region}:123456789012:servicesetting{TIER}"

    try:
        ssm.update_service_setting(SettingId=TIER, SettingValue="standard")
        changed = ssm.get_service_setting(SettingId=TIER)["ServiceSetting"]
        assert (changed["SettingValue"], changed["Status"]) == ("standard", "Customized")
        assert changed["LastModifiedUser"].endswith(":user/admin")
        with pytest.raises(ClientError) as error:
            ssm.update_service_setting(SettingId=TIER, SettingValue="golden")
        assert code(error) == "ValidationException"
        assert ssm.reset_service_setting(SettingId=TIER)["ServiceSetting"]["SettingValue"] == "standard"
    finally:
        switched.faults(kind="tier", tier="advanced")
    with pytest.raises(ClientError) as error:
        ssm.get_service_setting(SettingId="/ssm/opsinsights/opscenter")
    assert code(error) == "ServiceSettingNotFound"
    with pytest.raises(ClientError) as error:
        switched.client("ssm", "alice").update_service_setting(SettingId=TIER, SettingValue="standard")
    assert code(error) == "AccessDeniedException"


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "tier", "tier": "golden"},
        {"kind": "ping-status", "grace": "long"},
        {"kind": "ping-status", "colour": 1},
        {"kind": "session-timing", "offer": -1},
        {"kind": "registration-limit", "limit": "many"},
        {"kind": "token-lifetime", "seconds": 0},
        {"kind": "gateway", "action": "pause"},
        {"kind": "cut", "side": "left"},
    ],
)
def test_switch_that_makes_no_sense_is_refused(ssm_cloud: CloudProcess, body: Any) -> None:
    status, answer = ssm_cloud.post("/_local/faults", body, ssm_cloud.credentials("admin"), "local")
    assert (status, answer["__type"]) == (400, "ValidationException")
