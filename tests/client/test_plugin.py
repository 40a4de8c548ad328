"""Versions of AWS's own client program."""

from __future__ import annotations

import pytest

from sagemaker_ssh_helper.client import plugin
from sagemaker_ssh_helper.errors import LocalSetup

AWSS = "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/s-1?role=publish_subscribe"
LOCAL = "ws://localhost:4566/v1/data-channel/s-1?role=publish_subscribe"


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("1.2.463.0", "AWS supports 1.2.764.0 and later only"),
        ("1.2.763.9", "AWS supports 1.2.764.0 and later only"),
        ("1.2.764.0", "before 1.2.835.0 a port session is dead after a lost link"),
        ("1.2.835.0", ""),
        ("1.2.896.0", ""),
        ("1.3.0.0", ""),
        ("of an unknown version", "AWS supports 1.2.764.0 and later only"),
    ],
)
def test_a_version_that_is_too_old_is_told(version: str, words: str) -> None:
    assert plugin.why_not(version) == words


@pytest.mark.parametrize("version", ["1.2.889.0", "1.2.896.0", "1.3.1.0", "2.0"])
def test_newer_ones_connect_to_aws_only(version: str) -> None:
    plugin._refuse_local(version, AWSS)
    with pytest.raises(LocalSetup, match=rf"{version} connects to AWS's own endpoints only"):
        plugin._refuse_local(version, LOCAL)


@pytest.mark.parametrize("version", ["1.2.835.0", "1.2.888.9", "of an unknown version"])
def test_older_ones_connect_to_whatever_they_are_told(version: str) -> None:
    plugin._refuse_local(version, LOCAL)
    assert plugin._numbers(version) < plugin._AWS_ONLY
