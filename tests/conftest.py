"""What all tests share: how long Hypothesis looks. ``HYPOTHESIS_PROFILE=deep`` looks for hours."""

import functools
import logging
import os
import signal
import sys
from typing import Iterator, List

import pytest
from hypothesis import HealthCheck, settings

# Under nohup, or in the background of a script, these are ignored, and every process started here would
# inherit that: tests of what a signal does would test nothing.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# No deadlines: two cores are shared, and a slow example is no bug.
settings.register_profile(
    "fast", max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("deep", settings.get_profile("fast"), max_examples=20000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

# A worker takes a whole file: one of a minute that begins last has the other workers wait for it.
_LONG = ("test_examples.py", "test_demo.py", "test_cmd_emulator.py", "test_sdk_v2.py", "test_matrix.py")


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """The longest files first."""
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture(autouse=True)
def quiet_again() -> Iterator[None]:
    """
    A command that a test runs in this process logs to a file from then on; the tests after it do not, and are
    not slowed down by it.
    """
    root, ours = logging.getLogger(), logging.getLogger("sagemaker_ssh_helper")
    levels, handlers, complains = (root.level, ours.level), list(ours.handlers), logging.raiseExceptions
    yield
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.raiseExceptions = complains
    for handler in set(ours.handlers) - set(handlers):
        ours.removeHandler(handler)
        if isinstance(handler, logging.StreamHandler) and handler.stream is not sys.stderr:
            handler.stream.close()


@pytest.fixture(scope="session", autouse=True)
def service_models() -> Iterator[None]:
    """The descriptions of AWS's services, which botocore reads anew for each session, are read once."""
    try:
        import botocore.session
    except ImportError:  # as in a container
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        shared = functools.lru_cache(maxsize=None)(botocore.session.create_loader)
        patch.setattr(botocore.session, "create_loader", shared)
        yield
