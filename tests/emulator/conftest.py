from collections.abc import Iterator

import pytest

from emulator.cloud_process import CloudProcess
from local_cloud import LocalCloud


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """One local cloud for all tests that leave it as they found it."""
    with LocalCloud(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture(scope="session")
def tls_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """One that speaks TLS."""
    with LocalCloud(tmp_path_factory.mktemp("tls-cloud"), "--tls") as running:
        yield running


@pytest.fixture(scope="session")
def ssm_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudProcess]:
    """One local cloud for the tests of Systems Manager and the gateway; each makes instances of its own."""
    with CloudProcess(tmp_path_factory.mktemp("ssm_cloud")) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def bucket(cloud: LocalCloud) -> str:
    """The bucket that users share."""
    name = f"sagemaker-{cloud.info['region']}-{cloud.info['account_id']}"
    cloud.client("s3", user="admin").create_bucket(Bucket=name)
    return name
