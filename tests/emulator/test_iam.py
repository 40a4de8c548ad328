"""Who may do what in the running cloud: stored policies, AWS's words, roles and their trust."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local_cloud import LocalCloud
from sagemaker_ssh_helper.emulator.iam import AccessDenied
from sagemaker_ssh_helper.emulator.server import LocalCloud as Server
from sagemaker_ssh_helper.emulator.service import ApiError, Caller, Cloud

ACCOUNT = "123456789012"


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(action: Any, resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def error(caught: "pytest.ExceptionInfo[ClientError]") -> tuple[str, str]:
    response = caught.value.response["Error"]
    return response["Code"], response["Message"]


@pytest.mark.parametrize(
    ("service", "operation", "params", "code", "action", "resource"),
    [
        ("iam", "list_users", {}, "AccessDenied", "iam:ListUsers", "*"),
        (
            "iam",
            "create_access_key",
            {"UserName": "bob"},
            "AccessDenied",
            "iam:CreateAccessKey",
            f"arn:aws:iam::{ACCOUNT}:user/bob",
        ),
        (
            "iam",
            "put_role_policy",
            {"RoleName": "SageMakerRole", "PolicyName": "more", "PolicyDocument": "{}"},
            "AccessDenied",
            "iam:PutRolePolicy",
            f"arn:aws:iam::{ACCOUNT}:role/SageMakerRole",
        ),
        (
            "s3",
            "put_object",
            {"Bucket": "other", "Key": "a b", "Body": b"x" * 100},
            "AccessDenied",
            "s3:PutObject",
            '"arn:aws:s3:::other/a b"',
        ),
        (
            "s3",
            "list_objects_v2",
            {"Bucket": "other"},
            "AccessDenied",
            "s3:ListBucket",
            '"arn:aws:s3:::other"',
        ),
        (
            "s3",
            "put_bucket_policy",
            {"Bucket": "sagemaker-x", "Policy": "{}"},
            "AccessDenied",
            "s3:PutBucketPolicy",
            '"arn:aws:s3:::sagemaker-x"',
        ),
        (
            "logs",
            "delete_log_group",
            {"logGroupName": "/aws/sagemaker/TrainingJobs"},
            "AccessDeniedException",
            "logs:DeleteLogGroup",
            f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:/aws/sagemaker/TrainingJobs:log-stream:",
        ),
        ("kms", "create_key", {}, "AccessDeniedException", "kms:CreateKey", "*"),
        (
            "kms",
            "decrypt",
            {"KeyId": "1234abcd-12ab-34cd-56ef-1234567890ab", "CiphertextBlob": b"x"},
            "AccessDeniedException",
            "kms:Decrypt",
            f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        ),
        (
            "sns",
            "publish",
            {"TopicArn": f"arn:aws:sns:us-east-1:{ACCOUNT}:t", "Message": "m"},
            "AccessDenied",
            "SNS:Publish",
            f"arn:aws:sns:us-east-1:{ACCOUNT}:t",
        ),
    ],
)
def test_what_is_not_allowed_is_denied_in_awss_words(
    cloud: LocalCloud,
    service: str,
    operation: str,
    params: dict[str, Any],
    code: str,
    action: str,
    resource: str,
) -> None:
    with pytest.raises(ClientError) as caught:
        getattr(cloud.client(service), operation)(**params)

    assert error(caught) == (
        code,
        f"User: arn:aws:iam::{ACCOUNT}:user/alice is not authorized to perform: {action} on resource: "
        f"{resource} because no identity-based policy allows the {action} action",
    )


NODE = "mi-0123456789abcdef0"
SETTING = "/ssm/managed-instance/activation-tier"
NODE_TAGS = {"ResourceType": "ManagedInstance", "ResourceId": NODE}
JOB = {
    "TrainingJobName": "job",
    "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/SageMakerRole",
    "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
    "OutputDataConfig": {"S3OutputPath": "s3://sagemaker-x/out"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
    "StoppingCondition": {"MaxRuntimeInSeconds": 60},
}


@pytest.mark.parametrize(
    ("service", "operation", "params"),
    [
        ("ssm", "create_activation", {"IamRole": "SageMakerRole"}),
        ("ssm", "describe_instance_information", {}),
        ("ssm", "add_tags_to_resource", {**NODE_TAGS, "Tags": [{"Key": "SSHOwner", "Value": "me"}]}),
        ("ssm", "remove_tags_from_resource", {**NODE_TAGS, "TagKeys": ["SSHOwner"]}),
        ("ssm", "list_tags_for_resource", NODE_TAGS),
        ("ssm", "deregister_managed_instance", {"InstanceId": NODE}),
        ("ssm", "get_connection_status", {"Target": NODE}),
        ("ssm", "start_session", {"Target": NODE, "DocumentName": "AWS-StartSSHSession"}),
        ("ssm", "terminate_session", {"SessionId": "bob-0123456789abcdef0"}),
        (
            "ssm",
            "send_command",
            {
                "InstanceIds": [NODE],
                "DocumentName": "AWS-RunShellScript",
                "Parameters": {"commands": ["id"]},
            },
        ),
        ("ssm", "get_command_invocation", {"CommandId": "0" * 36, "InstanceId": NODE}),
        ("ssm", "get_service_setting", {"SettingId": SETTING}),
        ("ssm", "update_service_setting", {"SettingId": SETTING, "SettingValue": "standard"}),
        ("sagemaker", "create_training_job", JOB),
        ("sagemaker", "describe_training_job", {"TrainingJobName": "job"}),
        ("sagemaker", "list_training_jobs", {}),
        ("sagemaker", "stop_training_job", {"TrainingJobName": "job"}),
    ],
)
def test_our_own_services_ask_too(
    nobody: Callable[..., Any], service: str, operation: str, params: dict[str, Any]
) -> None:
    with pytest.raises(ClientError) as caught:
        getattr(nobody(service), operation)(**params)

    code, message = error(caught)
    assert code == "AccessDeniedException"
    assert message.startswith(
        f"User: arn:aws:iam::{ACCOUNT}:user/nobody is not authorized to perform: {service}:"
    )


@pytest.fixture
def nobody(cloud: LocalCloud) -> Iterator[Callable[..., Any]]:
    """Clients of a new user without a policy; policies may be given by name."""
    iam = cloud.client("iam", user="admin")
    iam.create_user(UserName="nobody")
    key = iam.create_access_key(UserName="nobody")["AccessKey"]
    given = []

    def client(service: str, *statements: dict[str, Any]) -> Any:
        if statements:
            name = f"p{len(given)}"
            iam.put_user_policy(UserName="nobody", PolicyName=name, PolicyDocument=document(*statements))
            given.append(name)
        return cloud.client_with(service, key["AccessKeyId"], key["SecretAccessKey"])

    yield client

    for name in given:
        iam.delete_user_policy(UserName="nobody", PolicyName=name)
    iam.delete_access_key(UserName="nobody", AccessKeyId=key["AccessKeyId"])
    iam.delete_user(UserName="nobody")


def test_a_policy_counts_from_the_next_call_on(nobody: Callable[..., Any], bucket: str) -> None:
    with pytest.raises(ClientError, match="AccessDenied"):
        nobody("s3").list_objects_v2(Bucket=bucket)

    listed = nobody("s3", allow("s3:ListBucket")).list_objects_v2(Bucket=bucket)
    assert listed["Name"] == bucket

    denies = {"Effect": "Deny", "Action": "s3:*", "Resource": f"arn:aws:s3:::{bucket}"}
    with pytest.raises(ClientError) as caught:
        nobody("s3", denies).list_objects_v2(Bucket=bucket)
    assert error(caught)[1].endswith("with an explicit deny in an identity-based policy")


def test_conditions_of_s3_are_known(nobody: Callable[..., Any], bucket: str) -> None:
    condition = {"StringLike": {"s3:prefix": "${aws:username}/*"}}
    s3 = nobody("s3", allow("s3:ListBucket", Condition=condition))

    assert s3.list_objects_v2(Bucket=bucket, Prefix="nobody/mine")["KeyCount"] == 0
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.list_objects_v2(Bucket=bucket, Prefix="alice/")
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.list_objects_v2(Bucket=bucket)


def test_copying_reads_one_and_writes_another(
    cloud: LocalCloud, nobody: Callable[..., Any], bucket: str
) -> None:
    cloud.client("s3").put_object(Bucket=bucket, Key="source", Body=b"data")
    writes = nobody("s3", allow("s3:PutObject", f"arn:aws:s3:::{bucket}/target"))
    copy = {"Bucket": bucket, "Key": "target", "CopySource": {"Bucket": bucket, "Key": "source"}}

    with pytest.raises(ClientError, match="s3:GetObject on resource"):
        writes.copy_object(**copy)

    nobody("s3", allow("s3:GetObject", f"arn:aws:s3:::{bucket}/source")).copy_object(**copy)
    assert cloud.client("s3").get_object(Bucket=bucket, Key="target")["Body"].read() == b"data"


def test_deleting_several_asks_for_each(cloud: LocalCloud, nobody: Callable[..., Any], bucket: str) -> None:
    for key in ("mine/1", "others/2"):
        cloud.client("s3").put_object(Bucket=bucket, Key=key, Body=b"")
    s3 = nobody("s3", allow("s3:DeleteObject", f"arn:aws:s3:::{bucket}/mine/*"))

    with pytest.raises(ClientError, match="others/2"):
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "mine/1"}, {"Key": "others/2"}]})

    assert cloud.client("s3").head_object(Bucket=bucket, Key="mine/1")["ContentLength"] == 0
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "mine/1"}]})
    cloud.client("s3").delete_object(Bucket=bucket, Key="others/2")


def test_groups_and_managed_policies_count(cloud: LocalCloud, nobody: Callable[..., Any]) -> None:
    iam = cloud.client("iam", user="admin")
    arn = iam.create_policy(PolicyName="keys", PolicyDocument=document(allow("kms:ListKeys")))["Policy"][
        "Arn"
    ]
    iam.create_group(GroupName="team")
    iam.attach_group_policy(GroupName="team", PolicyArn=arn)
    with pytest.raises(ClientError, match="AccessDenied"):
        nobody("kms").list_keys()

    iam.add_user_to_group(GroupName="team", UserName="nobody")
    assert "Keys" in nobody("kms").list_keys()

    # A new default version is what counts, too.
    version = iam.create_policy_version(
        PolicyArn=arn, PolicyDocument=document(allow("kms:ListAliases")), SetAsDefault=True
    )
    assert version["PolicyVersion"]["IsDefaultVersion"]
    with pytest.raises(ClientError, match="AccessDenied"):
        nobody("kms").list_keys()
    iam.remove_user_from_group(GroupName="team", UserName="nobody")


def test_aliases_of_keys_are_their_keys(cloud: LocalCloud, nobody: Callable[..., Any]) -> None:
    admin = cloud.client("kms", user="admin")
    key = admin.create_key()["KeyMetadata"]
    admin.create_alias(AliasName="alias/mine", TargetKeyId=key["KeyId"])
    kms = nobody("kms", allow("kms:GenerateDataKey", key["Arn"]))

    alias_arn = key["Arn"].rpartition(":")[0] + ":alias/mine"
    for name in ("alias/mine", alias_arn, key["KeyId"], key["Arn"]):
        assert len(kms.generate_data_key(KeyId=name, NumberOfBytes=32)["Plaintext"]) == 32
    with pytest.raises(ClientError, match=f"kms:Decrypt on resource: {key['Arn']} "):
        kms.decrypt(CiphertextBlob=admin.encrypt(KeyId=key["KeyId"], Plaintext=b"x")["CiphertextBlob"])


# Roles.


@pytest.fixture
def role(cloud: LocalCloud) -> Iterator[Callable[..., str]]:
    """Makes a role with this trust and these rights; its ARN."""
    iam = cloud.client("iam", user="admin")
    made = []

    def make(name: str, trust: dict[str, Any], *statements: dict[str, Any], **options: Any) -> str:
        statement = {"Effect": "Allow", "Action": "sts:AssumeRole", **trust}
        created = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(statement), **options)
        if statements:
            iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document(*statements))
        made.append((name, bool(statements)))
        return str(created["Role"]["Arn"])

    yield make

    for name, has_policy in made:
        if has_policy:
            iam.delete_role_policy(RoleName=name, PolicyName="p")
        iam.delete_role(RoleName=name)


def as_role(cloud: LocalCloud, sts: Any, service: str, arn: str, **options: Any) -> Any:
    got = sts.assume_role(RoleArn=arn, RoleSessionName="session", **options)["Credentials"]
    return cloud.client_with(service, got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"])


ROOT = {"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}


def test_a_role_is_assumed_by_who_is_trusted_and_allowed(
    cloud: LocalCloud, role: Callable[..., str], nobody: Callable[..., Any]
) -> None:
    arn = role("open", ROOT, allow("kms:ListKeys"))
    with pytest.raises(ClientError) as caught:
        nobody("sts").assume_role(RoleArn=arn, RoleSessionName="me")
    assert error(caught) == (
        "AccessDenied",
        f"User: arn:aws:iam::{ACCOUNT}:user/nobody is not authorized to perform: sts:AssumeRole "
        f"on resource: {arn}",
    )

    sts = nobody("sts", allow("sts:AssumeRole", arn))

    assert "Keys" in as_role(cloud, sts, "kms", arn).list_keys()
    with pytest.raises(ClientError, match=f"User: arn:aws:sts::{ACCOUNT}:assumed-role/open/session is not"):
        as_role(cloud, sts, "kms", arn).list_aliases()


def test_a_trust_that_names_the_user_is_enough(
    cloud: LocalCloud, role: Callable[..., str], nobody: Callable[..., Any]
) -> None:
    arn = role("named", {"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/nobody"}}, allow("kms:ListKeys"))

    assert "Keys" in as_role(cloud, nobody("sts"), "kms", arn).list_keys()


@pytest.mark.parametrize(
    "trust",
    [
        {"Principal": {"Service": "sagemaker.amazonaws.com"}},
        {"Principal": {"AWS": "arn:aws:iam::999999999999:root"}},
        {**ROOT, "Condition": {"StringEquals": {"sts:ExternalId": "secret"}}},
    ],
)
def test_trust_is_needed_even_by_administrators(
    cloud: LocalCloud, role: Callable[..., str], trust: dict[str, Any]
) -> None:
    arn = role("closed", trust)
    sts = cloud.client("sts", user="admin")

    with pytest.raises(ClientError, match="AccessDenied"):
        sts.assume_role(RoleArn=arn, RoleSessionName="me", ExternalId="wrong")
    with pytest.raises(ClientError, match="AccessDenied"):
        sts.assume_role(RoleArn=f"{arn}-missing", RoleSessionName="me")


def test_an_external_id_opens(cloud: LocalCloud, role: Callable[..., str]) -> None:
    arn = role("partner", {**ROOT, "Condition": {"StringEquals": {"sts:ExternalId": "secret"}}})

    got = cloud.client("sts", user="admin").assume_role(
        RoleArn=arn, RoleSessionName="me", ExternalId="secret"
    )

    assert got["AssumedRoleUser"]["Arn"].endswith(":assumed-role/partner/me")


def test_a_session_policy_and_a_boundary_only_take_away(cloud: LocalCloud, role: Callable[..., str]) -> None:
    iam, sts = cloud.client("iam", user="admin"), cloud.client("sts", user="admin")
    boundary = iam.create_policy(PolicyName="edge", PolicyDocument=document(allow("kms:List*")))["Policy"][
        "Arn"
    ]
    arn = role("bounded", ROOT, allow("*"), PermissionsBoundary=boundary)

    assert "Keys" in as_role(cloud, sts, "kms", arn).list_keys()
    with pytest.raises(ClientError, match="because no permissions boundary allows the kms:CreateKey action"):
        as_role(cloud, sts, "kms", arn).create_key()
    narrow = as_role(cloud, sts, "kms", arn, Policy=document(allow("kms:ListAliases")))
    assert "Aliases" in narrow.list_aliases()
    with pytest.raises(ClientError, match="because no session policy allows the kms:ListKeys action"):
        narrow.list_keys()
    with pytest.raises(ClientError, match="MalformedPolicyDocument"):
        as_role(cloud, sts, "kms", arn, Policy="nonsense")


def test_tags_of_a_session_are_its_principals_tags(cloud: LocalCloud, role: Callable[..., str]) -> None:
    condition = {"StringEquals": {"aws:PrincipalTag/team": "red"}}
    arn = role("tagged", ROOT, allow("kms:ListKeys", Condition=condition))
    sts = cloud.client("sts", user="admin")

    red = as_role(cloud, sts, "kms", arn, Tags=[{"Key": "team", "Value": "red"}])
    blue = as_role(cloud, sts, "kms", arn, Tags=[{"Key": "team", "Value": "blue"}])

    assert "Keys" in red.list_keys()
    with pytest.raises(ClientError, match="AccessDenied"):
        blue.list_keys()


def test_a_session_is_no_longer_than_the_role_allows(cloud: LocalCloud, role: Callable[..., str]) -> None:
    arn = role("short", ROOT, MaxSessionDuration=3600)
    sts = cloud.client("sts", user="admin")

    with pytest.raises(ClientError, match="exceeds the MaxSessionDuration"):
        sts.assume_role(RoleArn=arn, RoleSessionName="me", DurationSeconds=3601)


def test_sessions_of_a_deleted_role_can_do_nothing(cloud: LocalCloud) -> None:
    iam, sts = cloud.client("iam", user="admin"), cloud.client("sts", user="admin")
    trust = document({"Effect": "Allow", "Action": "sts:AssumeRole", **ROOT})
    arn = iam.create_role(RoleName="gone", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    iam.put_role_policy(RoleName="gone", PolicyName="p", PolicyDocument=document(allow("*")))
    kms = as_role(cloud, sts, "kms", arn)
    assert "Keys" in kms.list_keys()

    iam.delete_role_policy(RoleName="gone", PolicyName="p")
    iam.delete_role(RoleName="gone")

    with pytest.raises(ClientError, match="AccessDenied"):
        kms.list_keys()


# What services ask: handing a role on.


def passing(check: Callable[[Cloud, Caller], Any]) -> Any:
    """Run a check with alice as the caller, on a server of this process."""

    async def main() -> Any:
        server = await Server.start()
        try:
            return check(server.cloud, server.cloud.iam.user_caller("alice"))
        finally:
            await server.close()

    return asyncio.run(main())


@pytest.mark.parametrize("form", ["{arn}", "SageMakerRole"])
def test_a_role_may_be_handed_on_by_name_or_arn(form: str) -> None:
    def check(cloud: Cloud, alice: Caller) -> None:
        name = form.format(arn=cloud.role_arn)
        passed = cloud.iam.authorize_pass_role(alice, name, "sagemaker.amazonaws.com")
        assert passed == cloud.role_arn

    passing(check)


def test_handing_a_role_on_needs_permission_existence_and_trust() -> None:
    def check(cloud: Cloud, alice: Caller) -> None:
        pass_role = cloud.iam.authorize_pass_role
        with pytest.raises(AccessDenied) as denied:
            pass_role(alice, cloud.role_arn, "ssm.amazonaws.com")
        assert denied.value.message == (
            f"User: {alice.arn} is not authorized to perform: iam:PassRole on resource: {cloud.role_arn} "
            "because no identity-based policy allows the iam:PassRole action"
        )
        admin = cloud.iam.user_caller("admin")
        with pytest.raises(ApiError, match=r"Could not assume role .*missing. Please ensure") as missing:
            pass_role(admin, f"{cloud.role_arn}-missing", "sagemaker.amazonaws.com")
        assert missing.value.code == "ValidationException"
        with pytest.raises(ApiError, match="Nonexistent role or missing ssm service principal"):
            pass_role(admin, "service-role/missing", "ssm.amazonaws.com")
        with pytest.raises(ApiError, match=r"principal 'lambda.amazonaws.com' to assume"):
            pass_role(admin, cloud.role_arn, "lambda.amazonaws.com")
        assert cloud.iam.service_may_assume(cloud.role_arn, "ssm.amazonaws.com")
        assert not cloud.iam.service_may_assume(cloud.role_arn, "ec2.amazonaws.com")

    passing(check)


def test_the_owner_rule_is_in_the_users_policy() -> None:
    def check(cloud: Cloud, alice: Caller) -> None:
        node = f"arn:aws:ssm:us-east-1:{ACCOUNT}:managed-instance/mi-0123456789abcdef0"
        for action in ("ssm:StartSession", "ssm:SendCommand"):
            assert cloud.iam.allows(alice, action, node, {"ssm:resourceTag/SSHOwner": alice.user_id})
            assert not cloud.iam.allows(alice, action, node, {"ssm:resourceTag/SSHOwner": "AIDAOTHER"})
            assert not cloud.iam.allows(alice, action, node)
        session = f"arn:aws:ssm:us-east-1:{ACCOUNT}:session/"
        assert cloud.iam.allows(alice, "ssm:TerminateSession", f"{session}alice-{'0' * 26}")
        assert not cloud.iam.allows(alice, "ssm:TerminateSession", f"{session}bob-{'0' * 26}")

    passing(check)


def test_a_job_cannot_take_over_another_container() -> None:
    def check(cloud: Cloud, alice: Caller) -> None:
        job = cloud.iam.role_caller(cloud.role_arn, "job")
        keys = {"aws:TagKeys": ["SSHOwner", "SSHNode"]}
        assert cloud.iam.allows(job, "ssm:AddTagsToResource", cloud.role_arn, keys)
        node = f"arn:aws:ssm:us-east-1:{ACCOUNT}:managed-instance/mi-0123456789abcdef0"
        for tags in (
            {},
            {"ssm:resourceTag/SSHOwner": "AIDAOTHER"},
            {"ssm:resourceTag/SSHOwner": alice.user_id},
        ):
            assert not cloud.iam.allows(job, "ssm:AddTagsToResource", node, {**keys, **tags})

    passing(check)


def test_the_root_user_may_everything_and_missing_entities_are_said_so() -> None:
    def check(cloud: Cloud, alice: Caller) -> None:
        cloud.iam.authorize(Caller(ACCOUNT, "arn:aws:iam::1:root", ACCOUNT, "root", "root"), "any:Thing")
        with pytest.raises(ApiError, match="NoSuchEntity: The role with name x cannot be found"):
            cloud.iam.role_caller("x", "s")
        with pytest.raises(ApiError, match="NoSuchEntity: The user with name x cannot be found"):
            cloud.iam.user_caller("x")

    passing(check)


# The simulator.


def test_policies_can_be_simulated(cloud: LocalCloud) -> None:
    iam = cloud.client("iam", user="alice")

    answer = iam.simulate_principal_policy(
        PolicySourceArn=cloud.info["role_arn"],
        ActionNames=["ssm:CreateActivation", "ssm:StartSession", "s3:GetObject"],
        ResourceArns=["*", "arn:aws:s3:::sagemaker-x/k"],
    )

    decisions = {
        (result["EvalActionName"], result["EvalResourceName"]): result["EvalDecision"]
        for result in answer["EvaluationResults"]
    }
    assert decisions == {
        ("ssm:CreateActivation", "*"): "allowed",
        ("ssm:CreateActivation", "arn:aws:s3:::sagemaker-x/k"): "allowed",
        ("ssm:StartSession", "*"): "implicitDeny",
        ("ssm:StartSession", "arn:aws:s3:::sagemaker-x/k"): "implicitDeny",
        ("s3:GetObject", "*"): "implicitDeny",
        ("s3:GetObject", "arn:aws:s3:::sagemaker-x/k"): "allowed",
    }


def test_the_simulator_takes_context_and_custom_policies(cloud: LocalCloud) -> None:
    iam = cloud.client("iam", user="admin")
    condition = {"StringEquals": {"ssm:resourceTag/SSHOwner": "me"}}

    def decide(owner: str) -> str:
        entry = {
            "ContextKeyName": "ssm:resourceTag/SSHOwner",
            "ContextKeyValues": [owner],
            "ContextKeyType": "string",
        }
        answer = iam.simulate_custom_policy(
            PolicyInputList=[document(allow("ssm:StartSession", Condition=condition))],
            ActionNames=["ssm:StartSession"],
            ContextEntries=[entry],
        )
        return str(answer["EvaluationResults"][0]["EvalDecision"])

    assert (decide("me"), decide("you")) == ("allowed", "implicitDeny")
    with pytest.raises(ClientError, match="InvalidInput"):
        iam.simulate_custom_policy(PolicyInputList=["nonsense"], ActionNames=["ssm:StartSession"])
    with pytest.raises(ClientError, match="NoSuchEntity"):
        iam.simulate_principal_policy(
            PolicySourceArn=f"arn:aws:iam::{ACCOUNT}:user/missing", ActionNames=["ssm:StartSession"]
        )


def test_the_simulator_is_not_for_everyone(cloud: LocalCloud) -> None:
    with pytest.raises(ClientError, match="iam:SimulatePrincipalPolicy on resource"):
        cloud.client("iam").simulate_principal_policy(
            PolicySourceArn=f"arn:aws:iam::{ACCOUNT}:user/bob", ActionNames=["ssm:StartSession"]
        )
