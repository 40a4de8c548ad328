"""What tests of the asyncio shell share."""

import pytest

from channels.relay import Relay


@pytest.fixture
def relay() -> Relay:
    """Started by ``in_loop``, inside the test's own loop."""
    return Relay()
