"""
People as they come to AWS: as an IAM user, by a role, by single sign-on. Each has the documented policy and
nothing else: enough for every command, for a session that is lost and found, and for nobody else's.
"""

import json
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from botocore.exceptions import ClientError

from e2e.laptop import SM_SSH, Job, Laptop, end, running, until
from local_cloud import LocalCloud
from sagemaker_ssh_helper import iam_policies

POLICY = json.dumps(iam_policies.document(*iam_policies.of_owners(), *iam_policies.of_debuggers()))
SSO_ROLE = "AWSReservedSSO_Developers_0123456789abcdef"


@pytest.fixture
def user(e2e_cloud: LocalCloud) -> Iterator[Dict[str, Any]]:
    """The keys of the user ``ann``."""
    iam = e2e_cloud.client("iam", "admin")
    iam.create_user(UserName="ann")
    iam.put_user_policy(UserName="ann", PolicyName="ssh", PolicyDocument=POLICY)
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    yield key
    iam.delete_access_key(UserName="ann", AccessKeyId=key["AccessKeyId"])
    iam.delete_user_policy(UserName="ann", PolicyName="ssh")
    iam.delete_user(UserName="ann")


@contextmanager
def role(cloud: LocalCloud, name: str, policy: str = POLICY) -> Iterator[Callable[[str], Dict[str, Any]]]:
    """Makes keys of a session of this role, by the session's name."""
    iam = cloud.client("iam", "admin")
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": cloud.info["account_id"]}}
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(iam_policies.document(trust)))
    iam.put_role_policy(RoleName=name, PolicyName="ssh", PolicyDocument=policy)
    arn = made["Role"]["Arn"]

    def keys(session: str) -> Dict[str, Any]:
        answer = cloud.client("sts", "admin").assume_role(RoleArn=arn, RoleSessionName=session)
        return dict(answer["Credentials"])

    yield keys
    iam.delete_role_policy(RoleName=name, PolicyName="ssh")
    iam.delete_role(RoleName=name)


@pytest.fixture
def developer(e2e_cloud: LocalCloud) -> Iterator[Callable[[str], Dict[str, Any]]]:
    with role(e2e_cloud, "Developer") as keys:
        yield keys


@pytest.fixture
def signed_on(e2e_cloud: LocalCloud) -> Iterator[Callable[[str], Dict[str, Any]]]:
    with role(e2e_cloud, SSO_ROLE) as keys:
        yield keys


class Principal:
    """Somebody with these keys, who is the owner of a job; and what they own at AWS."""

    def __init__(self, cloud: LocalCloud, keys: Dict[str, Any], folder: Path) -> None:
        self.cloud = cloud
        self.laptop = Laptop(cloud.info, "alice", folder)
        self._keys = [keys["AccessKeyId"], keys["SecretAccessKey"], keys.get("SessionToken")]
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        self.laptop.env.update({name: key for name, key in zip(names, self._keys) if key})

    def client(self, service: str) -> Any:
        return self.cloud.client_with(service, *self._keys)

    def take_over(self, job: Job) -> None:
        """The job's owner tag is this one's id, as after a launch."""
        owner = self.client("sts").get_caller_identity()["UserId"]
        for instance in job.instances():
            self.cloud.client("ssm", "admin").add_tags_to_resource(
                ResourceType="ManagedInstance",
                ResourceId=instance["InstanceId"],
                Tags=[{"Key": "SSHOwner", "Value": owner}],
            )

    def session_id(self) -> str:
        arn = self.client("sts").get_caller_identity()["Arn"]
        sessions = self.cloud.client("ssm", "admin").describe_sessions(State="Active")["Sessions"]
        (own,) = (session for session in sessions if session["Owner"] == arn)
        return str(own["SessionId"])


@pytest.fixture(scope="module")
def job(e2e_cloud: LocalCloud, laptop: Callable[[str], Laptop]) -> Iterator[Job]:
    with running(laptop("alice"), "import time; time.sleep(600)", wait=0) as job:
        yield job


def denials(cloud: LocalCloud) -> List[str]:
    """The actions that were refused since the last reset."""
    return [
        f"{row['action']} by {row['user']}"
        for row in cloud.requests()
        if any(code.startswith("AccessDenied") for code in row["errors"])
    ]


def check_session(cloud: LocalCloud, one: Principal, another: Principal, job: Job) -> None:
    """A session of one's is cut, resumed and ended; not by another."""
    one.take_over(job)
    cloud.reset_requests()
    words = [*SM_SSH, "connect", "--trust-first-use", job.host, "--", "cat"]
    process = one.laptop.popen(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in (b"before\n", b"after\n"):
            process.stdin.write(word)
            process.stdin.flush()
            assert process.stdout.readline() == word, process.communicate()
            cloud.faults(kind="cut", side="client")
        until(lambda: cloud.count("ssm:ResumeSession") >= 2, "the second resume")
        assert denials(cloud) == []
        session_id = one.session_id()
        for call in ("resume_session", "terminate_session"):
            with pytest.raises(ClientError, match="AccessDenied"):
                getattr(another.client("ssm"), call)(SessionId=session_id)
        one.client("ssm").terminate_session(SessionId=session_id)
        assert process.wait(30) == 255
    finally:
        end(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()


@pytest.mark.parametrize("reading", ["name", "name-alone", "userid"])
def test_sessions_of_a_user_are_the_user_s_own(
    e2e_cloud: LocalCloud,
    user: Dict[str, Any],
    developer: Callable[..., Any],
    job: Job,
    tmp_path: Path,
    reading: str,
) -> None:
    one = Principal(e2e_cloud, user, tmp_path)
    with e2e_cloud.fault(kind="session-names", by=reading):
        check_session(e2e_cloud, one, Principal(e2e_cloud, developer("ann"), tmp_path), job)


@pytest.mark.parametrize("reading", ["name", "userid"])
def test_sessions_of_a_role_are_one_person_s_own(
    e2e_cloud: LocalCloud, developer: Callable[..., Any], job: Job, tmp_path: Path, reading: str
) -> None:
    one, another = (Principal(e2e_cloud, developer(name), tmp_path) for name in ("ann", "ann-2"))
    with e2e_cloud.fault(kind="session-names", by=reading):
        check_session(e2e_cloud, one, another, job)
        check_session(e2e_cloud, another, one, job)


@pytest.mark.parametrize("reading", ["name", "userid"])
def test_sessions_of_single_sign_on_are_one_person_s_own(
    e2e_cloud: LocalCloud, signed_on: Callable[..., Any], job: Job, tmp_path: Path, reading: str
) -> None:
    one, another = (
        Principal(e2e_cloud, signed_on(name), tmp_path) for name in ("user@example.com", "user@example.org")
    )
    with e2e_cloud.fault(kind="session-names", by=reading):
        check_session(e2e_cloud, one, another, job)


def test_the_documented_policy_is_enough_for_every_command(
    e2e_cloud: LocalCloud, user: Dict[str, Any], job: Job, tmp_path: Path
) -> None:
    ann = Principal(e2e_cloud, user, tmp_path)
    ann.take_over(job)
    (tmp_path / "file").write_text("x")
    e2e_cloud.reset_requests()
    for words in (
        ["list"],
        ["list", job.host],
        ["status", job.host],
        ["logs", job.host],
        ["wait", job.host],
        ["connect", "--trust-first-use", job.host, "--", "true"],
        ["exec", job.host, "--", "true"],
        ["cp", str(tmp_path / "file"), f"{job.host}:/tmp/file-of-ann"],
        ["session", job.host, "--document", "AWS-StartNonInteractiveCommand", "--parameter", "command=true"],
        ["continue", job.host],
        ["doctor", job.host],
        ["enable", job.host, "--no-wait"],
        ["disable", job.host],
        ["stop", "--yes", job.host],
    ):
        done = ann.laptop.sm_ssh(*words)
        told = done.stderr.decode()
        assert done.returncode == 0 or words[0] in ("enable", "disable"), (words, told)
        # What doctor asks IAM about itself is no call of a connection.
        found = [text for text in denials(e2e_cloud) if not text.startswith("iam:Simulate")]
        assert found == [], words
        assert "access-denied" not in told, (words, told)


@pytest.mark.parametrize("owner", ["AIDAOTHERTEAM", ""], ids=["of another team", "without an owner"])
def test_a_job_cannot_make_a_node_that_is_there_its_own(
    e2e_cloud: LocalCloud, laptop: Callable[[str], Laptop], tmp_path: Path, owner: str
) -> None:
    arn = f"arn:aws:iam::{e2e_cloud.info['account_id']}:role/Jobs"
    policy = json.dumps(iam_policies.document(*iam_policies.of_containers(arn)))
    with running(laptop("alice"), "import time; time.sleep(600)", wait=0) as job:
        node = {"ResourceType": "ManagedInstance", "ResourceId": job.wait_online()}
        admin = e2e_cloud.client("ssm", "admin")
        admin.remove_tags_from_resource(TagKeys=["SSHOwner"], **node)
        if owner:
            admin.add_tags_to_resource(Tags=[{"Key": "SSHOwner", "Value": owner}], **node)
        with role(e2e_cloud, "Jobs", policy) as keys:
            jobs = Principal(e2e_cloud, keys("SageMaker"), tmp_path).client("ssm")
            for key in ("SSHOwner", "SSHResourceName", "Name"):
                with pytest.raises(ClientError, match="AccessDenied"):
                    jobs.add_tags_to_resource(Tags=[{"Key": key, "Value": "mine"}], **node)
