"""The doctor names what is wrong: one fault at a time, on a machine and in an account that work."""

import json
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest

from e2e.laptop import Job, Laptop, launch, running
from local_cloud import LocalCloud


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop], e2e_cloud: LocalCloud) -> Iterator[Laptop]:
    """Alice, who may also ask what she may do."""
    policy = {"Effect": "Allow", "Action": "iam:SimulatePrincipalPolicy", "Resource": "*"}
    with user_policy(e2e_cloud, "ask", policy):
        alice = laptop("alice")
        # Where no other installation of this machine is.
        alice.env["PATH"] = "/usr/bin:/bin:/usr/sbin:/sbin"
        yield alice


class user_policy:
    """A further statement for alice while it is entered."""

    def __init__(self, cloud: LocalCloud, name: str, statement: Dict[str, Any]) -> None:
        self._iam = cloud.client("iam", user="admin")
        self._name = name
        self._document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})

    def __enter__(self) -> None:
        self._iam.put_user_policy(UserName="alice", PolicyName=self._name, PolicyDocument=self._document)

    def __exit__(self, *exception: object) -> None:
        self._iam.delete_user_policy(UserName="alice", PolicyName=self._name)


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice, name="examined") as job:
        yield job


def examined(laptop: Laptop, *words: str, **options: Any) -> "tuple[int, Dict[str, Dict[str, Any]]]":
    """The status, and each check by its name."""
    done = laptop.sm_ssh("doctor", "--json", *words, **options)
    assert b"Traceback" not in done.stderr
    shown = json.loads(done.stdout)
    assert set(shown) == {"schema", "checks", "exit"}
    assert (shown["schema"], shown["exit"]) == (1, done.returncode)
    assert all(
        set(check) == {"check", "status", "text", "fix", "error", "seconds"} for check in shown["checks"]
    )
    return done.returncode, {check["check"]: check for check in shown["checks"]}


def test_what_works_is_all_right_and_nothing_is_changed(alice: Laptop, job: Job) -> None:
    before = sorted(alice.home.rglob("*"))
    status, checks = examined(alice, job.host)
    assert status == 0
    assert list(checks) == [
        "ssh", "install", "plugin", "config", "region", "certificates", "credentials", "permissions",
        "tier", "target", "owner", "trust", "key", "session",
    ]  # fmt: skip
    assert {name for name, check in checks.items() if check["status"] != "ok"} == {"config"}, checks
    assert sorted(alice.home.rglob("*")) == before
    assert not alice.client("ssm").describe_sessions(State="Active")["Sessions"]
    assert examined(alice, "--strict", job.host)[0] == 1


def test_the_text_is_in_plain_words(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("doctor", "exam")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("ok    ssh          OpenSSH")
    assert any(line.startswith("WARN  config") for line in lines)
    assert "      fix          Run: sm-ssh config-ssh" in lines
    assert lines[-1] == "0 failed, 1 to look at"


def test_a_missing_block_is_written_when_asked_and_then_is_right(laptop: Callable[[str], Laptop]) -> None:
    bob = laptop("bob")
    assert examined(bob, "--fix")[1]["config"]["status"] == "ok"
    done = bob.run("ssh", "-F", str(bob.home / ".ssh" / "config"), "-G", "x.training.sagemaker")
    assert b"start-proxy" in done.stdout
    checks = examined(bob)[1]
    assert checks["config"]["status"] in ("ok", "warning")
    # Nobody may ask about himself unless he was allowed to.
    assert checks["permissions"]["status"] == "skipped"
    assert "iam:SimulatePrincipalPolicy" in checks["permissions"]["text"]


@pytest.mark.parametrize(
    ("action", "status", "check_status"),
    [("ssm:StartSession", 4, "failed"), ("ssm:ResumeSession", 0, "warning")],
)
def test_a_missing_permission_is_named(
    alice: Laptop, e2e_cloud: LocalCloud, action: str, status: int, check_status: str
) -> None:
    with user_policy(e2e_cloud, "deny", {"Effect": "Deny", "Action": action, "Resource": "*"}):
        ended, checks = examined(alice)
    assert ended == status
    assert checks["permissions"]["status"] == check_status
    assert f"missing: {action}" in checks["permissions"]["text"]


def test_the_tier_is_named(alice: Laptop, e2e_cloud: LocalCloud) -> None:
    admin = e2e_cloud.client("ssm", user="admin")
    setting = "/ssm/managed-instance/activation-tier"
    admin.update_service_setting(SettingId=setting, SettingValue="standard")
    try:
        status, checks = examined(alice)
    finally:
        admin.update_service_setting(SettingId=setting, SettingValue="advanced")
    assert status == 5
    assert checks["tier"]["error"] == "advanced-tier-off"


def test_wrong_credentials_end_what_needs_them(alice: Laptop, job: Job) -> None:
    status, checks = examined(alice, job.host, env={"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE"})
    assert status == 4
    assert checks["credentials"]["error"] == "credentials-invalid"
    assert {checks[name]["status"] for name in ("permissions", "tier", "target", "session")} == {"skipped"}


def test_another_installation_is_named(alice: Laptop, tmp_path: Path) -> None:
    other = tmp_path / "sm-ssh"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    checks = examined(alice, env={"PATH": f"{tmp_path}:{alice.env['PATH']}"})[1]
    assert checks["install"]["status"] == "warning"
    assert str(other) in checks["install"]["text"]


def test_no_region_is_named(alice: Laptop) -> None:
    status, checks = examined(alice, env={"AWS_REGION": "", "AWS_DEFAULT_REGION": ""})
    assert status == 9
    assert checks["region"]["error"] == "region-missing"


def test_a_target_that_cannot_be_reached_has_the_error_of_connect(alice: Laptop) -> None:
    ended = launch(alice, "raise SystemExit(3)", wait=0, name="examined-too-late")
    ended.wait_ended()
    for target, error, exit_code in (
        (ended.host, "target-ended", 7),
        ("no-such.training.sagemaker", "target-not-found", 3),
        ("a b", "usage", 2),
    ):
        status, checks = examined(alice, target)
        assert (status, checks["target"]["error"]) == (exit_code, error)
        assert checks["session"]["status"] == "skipped"


def test_somebody_else_s_job_is_refused_by_its_session(laptop: Callable[[str], Laptop], job: Job) -> None:
    status, checks = examined(laptop("bob"), job.host)
    assert status == 5
    assert checks["owner"]["status"] == "warning"
    assert checks["session"]["error"] == "not-owner"


def test_an_impostor_is_not_trusted(alice: Laptop, e2e_cloud: LocalCloud) -> None:
    with running(alice, name="examined-impostor") as job:
        e2e_cloud.client("ssm", user="admin").add_tags_to_resource(
            ResourceType="ManagedInstance",
            ResourceId=job.instances()[0]["InstanceId"],
            Tags=[{"Key": "SSHLaunchId", "Value": "0" * 32}],
        )
        status, checks = examined(alice, job.host)
    assert status == 5
    assert checks["trust"]["error"] == "host-not-trusted"
