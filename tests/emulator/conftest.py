from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local_cloud import LocalCloud


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """One local cloud for all tests that leave it as they found it."""
    with LocalCloud(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture
def bucket(cloud: LocalCloud) -> str:
    """The bucket that users share."""
    name = f"sagemaker-{cloud.info['region']}-{cloud.info['account_id']}"
    cloud.client("s3", user="admin").create_bucket(Bucket=name)
    return name


@pytest.fixture
def other_home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


Client = Any
