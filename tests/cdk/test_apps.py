"""The applications of the Cloud Development Kit, synthesised by the kit itself."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from sagemaker_ssh_helper import iam_policies

pytestmark = pytest.mark.matrix

ACCOUNT = "111122223333"
TOPIC = f"arn:aws:sns:eu-west-1:{ACCOUNT}:gpu"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/"
CONTEXT = {
    "sns_notification_topic_arn": TOPIC,
    "sagemaker_role_arn": f"{ROLE}Jobs",
    "user_role_arn": f"{ROLE}People",
}

Synth = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def synth(tmp_path: Path) -> Synth:
    """Runs an app as ``cdk`` does, with ``context`` for its ``-c``; the assembly is in ``tmp_path/out``."""

    def synth(app: str, context: Dict[str, str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", f"sagemaker_ssh_helper.cdk.{app}"],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.pathsep.join(sys.path),
                "HOME": str(tmp_path),
                "CDK_OUTDIR": str(tmp_path / "out"),
                "CDK_CONTEXT_JSON": json.dumps(context),
                "CDK_DEFAULT_ACCOUNT": ACCOUNT,
                "CDK_DEFAULT_REGION": "us-east-1",
                "AWS_REGION": "eu-west-1",
            },
            capture_output=True,
            text=True,
            timeout=110,
        )

    return synth


def resources(tmp_path: Path, stack: str, kind: str) -> List[Dict[str, Any]]:
    """The properties of one kind's resources in the stack's template, without CloudFormation's functions."""
    text = (tmp_path / "out" / f"{stack}.template.json").read_text()
    found = json.loads(text)["Resources"].values()
    return [_flat(each["Properties"]) for each in found if each["Type"] == kind]


def _flat(value: Any) -> Any:
    """With texts joined, and ``aws`` for the partition."""
    if value == {"Ref": "AWS::Partition"}:
        return "aws"
    if isinstance(value, dict):
        if list(value) == ["Fn::Join"]:
            separator, parts = value["Fn::Join"]
            return separator.join(str(_flat(part)) for part in parts)
        return {key: _flat(each) for key, each in value.items()}
    return [_flat(each) for each in value] if isinstance(value, list) else value


def test_low_gpu(synth: Synth, tmp_path: Path) -> None:
    done = synth("low_gpu_lambda_app", CONTEXT)
    assert done.returncode == 0, done.stderr
    (rule,) = resources(tmp_path, "Low-GPU-Lambda-Stack", "AWS::Events::Rule")
    assert rule["EventPattern"] == {
        "source": ["aws.sagemaker"],
        "detail-type": ["SageMaker Processing Job State Change"],
        "detail": {"ProcessingJobStatus": ["Completed", "Stopped"]},
    }
    (function,) = resources(tmp_path, "Low-GPU-Lambda-Stack", "AWS::Lambda::Function")
    assert function["Handler"] == "low_gpu_lambda.handler"
    assert function["Environment"] == {"Variables": {"SNS_NOTIFICATION_TOPIC_ARN": TOPIC}}
    (code,) = (tmp_path / "out").glob("asset.*")
    assert sorted(path.name for path in code.iterdir()) == ["__init__.py", "low_gpu_lambda.py"]
    (policy,) = resources(tmp_path, "Low-GPU-Lambda-Stack", "AWS::IAM::Policy")
    jobs = f"arn:aws:sagemaker:eu-west-1:{ACCOUNT}"
    granted = {each["Action"]: each["Resource"] for each in policy["PolicyDocument"]["Statement"]}
    assert granted == {
        "sagemaker:DescribeProcessingJob": f"{jobs}:processing-job/*",
        "sagemaker:DescribeTrainingJob": f"{jobs}:training-job/*",
        "sns:Publish": TOPIC,
    }


def test_what_is_not_given_is_told_with_an_example(synth: Synth) -> None:
    done = synth("low_gpu_lambda_app", {})
    assert done.returncode == 2
    assert (
        "sagemaker-ssh-helper: error[usage]: sns_notification_topic_arn is not given. "
        "Add -c sns_notification_topic_arn=arn:aws:sns:REGION:ACCOUNT:TOPIC\n"
    ) in done.stderr
    assert "Traceback" not in done.stderr


def test_iam_ssm(synth: Synth, tmp_path: Path) -> None:
    done = synth("iam_ssm_app", CONTEXT)
    assert done.returncode == 0, done.stderr
    policies = resources(tmp_path, "SSH-IAM-SSM-Stack", "AWS::IAM::ManagedPolicy")
    granted = {policy["Roles"][0]: policy["PolicyDocument"]["Statement"] for policy in policies}
    assert granted == {
        "Jobs": iam_policies.of_containers(f"{ROLE}Jobs"),
        "People": iam_policies.of_owners(),
    }


def test_advanced_tier(synth: Synth, tmp_path: Path) -> None:
    done = synth("advanced_tier_app", {})
    assert done.returncode == 0, done.stderr
    setting = f"arn:aws:ssm:eu-west-1:{ACCOUNT}:servicesetting/ssm/managed-instance/activation-tier"
    (made,) = resources(tmp_path, "Advanced-Tier-Stack", "Custom::AWS")
    call = json.loads(made["Update"])
    assert (call["service"], call["action"]) == ("SSM", "updateServiceSetting")
    assert call["parameters"] == {"SettingId": setting, "SettingValue": "advanced"}
    assert json.loads(made["Create"]) == call
    assert "Delete" not in made
    (policy,) = resources(tmp_path, "Advanced-Tier-Stack", "AWS::IAM::Policy")
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert (statement["Action"], statement["Resource"]) == ("ssm:UpdateServiceSetting", setting)
