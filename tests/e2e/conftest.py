from typing import Callable, Iterator

import pytest

from e2e.laptop import Laptop
from local_cloud import LocalCloud


@pytest.fixture(scope="session")
def e2e_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """One local cloud for all scenarios; each works with jobs of its own."""
    with LocalCloud(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def laptop(e2e_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Laptop]:
    """A fresh machine of a user, by the user's name."""
    return lambda user: Laptop(e2e_cloud.info, user, tmp_path_factory.mktemp("laptop"))
