"""The class AWS: one account and region, as library code names it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aws_stub import AwsStub
from sagemaker_ssh_helper.aws import AWS


def test_it_is_the_callers_region_and_partition(stub: AwsStub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stub.environment().items():
        monkeypatch.setenv(name, value)
    stub.answers["ListTagsForResource"] = {"TagList": []}

    assert (AWS().region_name, AWS().partition) == ("eu-west-1", "aws")
    assert AWS("cn-north-1").partition == "aws-cn"
    assert AWS("cn-north-1").get_console_domain() == "console.amazonaws.cn"
    assert AWS("cn-north-1").get_sts_endpoint() == "https://sts.cn-north-1.amazonaws.com.cn"
    arns = ["arn:aws-cn:iam::123456789012:role/Role", "arn:aws:s3:::bucket", "role/Role", "arn:", ""]
    assert [AWS.is_arn(each) for each in arns] == [True, True, False, False, False]
    assert AWS().client.call("ssm", "ListTagsForResource") == {"TagList": []}


def test_it_takes_a_boto3_session() -> None:
    import boto3

    session = boto3.Session("AKID", "secret", region_name="us-gov-west-1")
    assert AWS(boto_session=session).partition == "aws-us-gov"
    assert AWS("eu-west-1", session).client.session.credentials().access_key == "AKID"


def test_importing_it_loads_nothing_of_awss() -> None:
    code = "import sys, sagemaker_ssh_helper.aws; print([name for name in sys.modules if 'boto' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
