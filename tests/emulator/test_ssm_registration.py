import json
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import Any, Iterator

import pytest
from botocore.exceptions import ClientError

from emulator.cloud_process import CloudProcess
from emulator.gateway_peers import Node, new_private_key, public_key_text


@pytest.fixture
def ssm(ssm_cloud: CloudProcess) -> Any:
    return ssm_cloud.client("ssm")


@pytest.fixture
def switched(ssm_cloud: CloudProcess) -> Iterator[CloudProcess]:
    """A cloud whose switches are cleared after the test."""
    yield ssm_cloud
    ssm_cloud.clear_faults()


def register(cloud: CloudProcess, activation: Any, **changes: Any) -> Any:
    """An anonymous registration: status and answer."""
    body = {
        "ActivationCode": activation["ActivationCode"],
        "ActivationId": activation["ActivationId"],
        "Fingerprint": "2f0ed5a2-1111-4222-8333-444455556666",
        "PublicKey": public_key_text(new_private_key()),
        "PublicKeyType": "Rsa",
        **changes,
    }
    return cloud.post("/", body, None, "ssm", target="AmazonSSM.RegisterManagedInstance")


def trust(service: str) -> str:
    """A trust policy for one service."""
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_activation_is_described_and_deleted(ssm_cloud: CloudProcess, ssm: Any) -> None:
    expires = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=29)
    made = ssm.create_activation(
        IamRole=ssm_cloud.role,
        Description="for a job",
        DefaultInstanceName="algo-1.described.training.sagemaker",
        RegistrationLimit=7,
        ExpirationDate=expires,
        Tags=[{"Key": "SSHOwner", "Value": "somebody"}],
    )
    filters = [{"FilterKey": "ActivationIds", "FilterValues": [made["ActivationId"]]}]

    [found] = ssm.describe_activations(Filters=filters)["ActivationList"]

    assert found.pop("CreatedDate") <= datetime.now(timezone.utc)
    assert found == {
        "ActivationId": made["ActivationId"],
        "Description": "for a job",
        "DefaultInstanceName": "algo-1.described.training.sagemaker",
        "IamRole": ssm_cloud.role,
        "RegistrationLimit": 7,
        "RegistrationsCount": 0,
        "ExpirationDate": expires,
        "Expired": False,
        "Tags": [{"Key": "SSHOwner", "Value": "somebody"}],
    }
    ssm.delete_activation(ActivationId=made["ActivationId"])
    assert ssm.describe_activations(Filters=filters)["ActivationList"] == []
    status, answer = register(ssm_cloud, made)
    assert (status, answer["__type"]) == (400, "InvalidActivation")


def test_role_that_systems_manager_may_not_assume_is_refused(ssm_cloud: CloudProcess, ssm: Any) -> None:
    with pytest.raises(ClientError) as error:
        ssm.create_activation(IamRole="no-such-role")
    assert error.value.response["Error"] == {
        "Code": "ValidationException",
        "Message": "Nonexistent role or missing ssm service principal in trust policy: no-such-role",
    }


def test_user_without_the_right_cannot_make_an_activation(ssm_cloud: CloudProcess) -> None:
    with pytest.raises(ClientError) as error:
        ssm_cloud.client("ssm", "alice").create_activation(IamRole=ssm_cloud.role)
    assert code(error) == "AccessDeniedException"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ([("aws:mine", "x")], "ValidationException"),
        ([("SSHOwner", "a#b")], "ValidationException"),
        ([("k" * 129, "x")], "ValidationException"),
        ([("k", "v" * 257)], "ValidationException"),
        ([("k", "1"), ("k", "2")], "ValidationException"),
        ([(f"k{number}", "x") for number in range(51)], "TooManyTagsError"),
    ],
    ids=["reserved", "character", "long key", "long value", "twice", "too many"],
)
def test_tags_have_limits(ssm_cloud: CloudProcess, ssm: Any, tags: Any, expected: str) -> None:
    with pytest.raises(ClientError) as error:
        ssm.create_activation(
            IamRole=ssm_cloud.role, Tags=[{"Key": key, "Value": value} for key, value in tags]
        )
    assert code(error) == expected


def test_expiry_must_be_ahead_and_within_30_days(ssm_cloud: CloudProcess, ssm: Any) -> None:
    for days in (-1, 31):
        with pytest.raises(ClientError) as error:
            ssm.create_activation(
                IamRole=ssm_cloud.role, ExpirationDate=datetime.now(timezone.utc) + timedelta(days=days)
            )
        assert code(error) == "ValidationException"


def test_activation_admits_as_many_as_its_limit(ssm_cloud: CloudProcess, ssm: Any) -> None:
    made = ssm.create_activation(IamRole=ssm_cloud.role, RegistrationLimit=2)
    assert [register(ssm_cloud, made)[0] for _ in range(2)] == [200, 200]

    status, answer = register(ssm_cloud, made)

    assert (status, answer["__type"]) == (400, "RegistrationLimitExceeded")


def test_expired_activation_admits_nobody(ssm_cloud: CloudProcess, ssm: Any) -> None:
    soon = datetime.now(timezone.utc) + timedelta(seconds=0.5)
    made = ssm.create_activation(IamRole=ssm_cloud.role, ExpirationDate=soon)
    while datetime.now(timezone.utc) < soon:
        threading.Event().wait(0.05)

    status, answer = register(ssm_cloud, made)

    assert (status, answer["__type"]) == (400, "ActivationExpired")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ActivationCode": "x" * 20}, "InvalidActivation"),
        ({"ActivationId": "00000000-0000-4000-8000-000000000000"}, "InvalidActivation"),
        ({"PublicKey": "QUJD"}, "InvalidPublicKey"),
        ({"PublicKey": "A" * 392}, "InvalidPublicKey"),
        ({"PublicKeyType": "Ed25519"}, "InvalidPublicKeyType"),
        ({"Fingerprint": None}, "ValidationException"),
        ({"Fingerprint": 3}, "ValidationException"),
    ],
)
def test_registration_with_a_wrong_field_is_refused(
    ssm_cloud: CloudProcess, ssm: Any, changes: Any, expected: str
) -> None:
    made = ssm.create_activation(IamRole=ssm_cloud.role)

    status, answer = register(ssm_cloud, made, **changes)

    assert (status, answer["__type"]) == (400, expected)


def test_account_has_a_registration_limit(switched: CloudProcess, ssm: Any) -> None:
    made = ssm.create_activation(IamRole=switched.role)
    switched.faults(kind="registration-limit", limit=0)

    status, answer = register(switched, made)

    assert (status, answer["__type"]) == (400, "RegistrationLimitExceeded")
    assert answer["message"] == "Registration limit of 0 reached for SSM On-prem managed instances."


def test_token_has_all_five_fields_and_acts_as_the_role(ssm_cloud: CloudProcess) -> None:
    node = Node(ssm_cloud)

    assert sorted(node.token) == [
        "AccessKeyId",
        "SecretAccessKey",
        "SessionToken",
        "TokenExpirationDate",
        "UpdateKeyPair",
    ]
    assert node.token["TokenExpirationDate"] == pytest.approx(time.time() + 3600, abs=30)
    assert node.token["UpdateKeyPair"] is False
    role = ssm_cloud.role.rsplit("/", 1)[-1]
    body = b"Action=GetCallerIdentity&Version=2011-06-15"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, text = ssm_cloud.request("POST", "/", body, headers, node.credentials, "sts")
    assert status == 200
    assert f":assumed-role/{role}/{node.id}</Arn>" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"key": new_private_key()},
        {"salt_bytes": 20},
        {"date": (datetime.now(timezone.utc) - timedelta(minutes=20)).strftime("%Y%m%dT%H%M%SZ")},
    ],
    ids=["another key", "another salt length", "20 minutes ago"],
)
def test_token_request_with_a_wrong_signature_is_refused(ssm_cloud: CloudProcess, changes: Any) -> None:
    status, answer = Node(ssm_cloud).request_token(**changes)
    assert (status, answer["__type"]) == (400, "InvalidSignatureException")


def test_token_request_with_another_fingerprint_is_refused(ssm_cloud: CloudProcess) -> None:
    node = Node(ssm_cloud)
    node.fingerprint = "00000000-0000-4000-8000-000000000000"

    status, answer = node.request_token()

    assert (status, answer["__type"]) == (400, "MachineFingerprintDoesNotMatch")


def test_token_request_of_a_stranger_is_refused(ssm_cloud: CloudProcess) -> None:
    status, answer = Node(ssm_cloud).request_token(instance_id="mi-00000000000000000")
    assert (status, answer["__type"]) == (400, "InvalidInstanceId")


def test_new_key_takes_the_place_of_the_old_one(ssm_cloud: CloudProcess) -> None:
    node = Node(ssm_cloud)
    new_key = new_private_key()
    body = {"NewPublicKey": public_key_text(new_key), "NewPublicKeyType": "Rsa"}

    assert node.rsa_call("UpdateManagedInstancePublicKey", body) == (200, {})

    assert node.request_token()[1]["__type"] == "InvalidSignatureException"
    assert node.request_token(key=new_key)[0] == 200


def test_token_lifetime_is_a_switch(switched: CloudProcess) -> None:
    node = Node(switched)
    switched.faults(kind="token-lifetime", seconds=1)

    expires_at = node.request_token()[1]["TokenExpirationDate"]

    assert expires_at == pytest.approx(time.time() + 1, abs=1)


def test_role_without_trust_gives_no_more_tokens(ssm_cloud: CloudProcess) -> None:
    iam = ssm_cloud.client("iam")
    iam.create_role(RoleName="lost-trust", AssumeRolePolicyDocument=trust("ssm.amazonaws.com"))
    made = ssm_cloud.client("ssm").create_activation(IamRole="lost-trust")
    node = Node(ssm_cloud)
    node.id = register(ssm_cloud, made, PublicKey=public_key_text(node.key), Fingerprint=node.fingerprint)[1][
        "InstanceId"
    ]
    assert node.request_token()[0] == 200

    iam.update_assume_role_policy(RoleName="lost-trust", PolicyDocument=trust("ec2.amazonaws.com"))

    assert node.request_token()[1]["__type"] == "AccessDeniedException"


def test_a_policy_may_ask_for_the_tags_of_an_instance_that_tells_about_itself(
    ssm_cloud: CloudProcess,
) -> None:
    """As the policy for servers of the older helper does."""
    owned, nobody_s = Node(ssm_cloud, {"SSHOwner": "owner-in-a-policy"}), Node(ssm_cloud)
    iam = ssm_cloud.client("iam")
    condition = {"StringNotLike": {"ssm:resourceTag/SSHOwner": "*"}}
    statement = {"Effect": "Deny", "Action": "ssm:Update*", "Resource": "*", "Condition": condition}
    policy = {"RoleName": ssm_cloud.role, "PolicyName": "tagged"}
    iam.put_role_policy(
        **policy, PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    try:
        owned.ping()
        status, answer = nobody_s.call(
            "UpdateInstanceInformation",
            AgentName="amazon-ssm-agent",
            AgentVersion=nobody_s.version,
            InstanceId=nobody_s.id,
            PlatformType="Linux",
        )
        assert (status, answer["__type"]) == (400, "AccessDeniedException")
    finally:
        iam.delete_role_policy(**policy)
