"""Version gates: each end compares the other's version in its own way."""

import pytest

from sagemaker_ssh_helper.names import AGENT_VERSION, CLIENT_VERSION
from sagemaker_ssh_helper.protocol import versions

pytestmark = pytest.mark.container


@pytest.mark.parametrize(
    ("agent_version", "expected"),
    [
        ("3.0.196.0", False),
        ("3.0.196.1", True),
        ("3.0.197.0", True),
        ("10.0.0.0", True),
        ("3.3", False),
        ("3.3.0", False),
        ("3.3.0.0.0", False),
        ("3.3.0.x", False),
        ("3.3.0.-1", False),
        ("3.3.0.²", False),
        ("", False),
    ],
)
def test_client_multiplexes_with_agents_above_3_0_196_0_in_four_numbers(
    agent_version: str, expected: bool
) -> None:
    assert versions.client_multiplexes(agent_version) is expected


@pytest.mark.parametrize(
    ("client_version", "expected"),
    [
        ("1.1.70", True),
        ("1.1.70.0", True),
        ("1.1.70-beta", False),
        ("1.1.70+build", True),
        ("1.1.61.0", False),
        ("1.1.69", False),
        ("1.2.0.0", True),
        ("1.10.0.0", True),
        ("1.1", False),
        ("2", True),
        ("", False),
        ("1.1.x", True),
    ],
)
def test_agent_multiplexes_with_clients_from_1_1_70_on(client_version: str, expected: bool) -> None:
    assert versions.agent_multiplexes(client_version) is expected


def test_keepalives_are_for_old_peers() -> None:
    assert versions.client_keeps_alive("3.1.1511.0")
    assert not versions.client_keeps_alive("3.1.1512.0")
    assert versions.client_keeps_alive("3.3")
    assert versions.agent_keeps_alive("1.2.331.0")
    assert not versions.agent_keeps_alive("1.2.331.1")
    assert not versions.agent_keeps_alive("1.2.332")
    assert versions.agent_keeps_alive("")


def test_flag_that_ends_a_session_needs_a_newer_agent() -> None:
    assert not versions.takes_terminate_flag("2.3.722.0")
    assert versions.takes_terminate_flag("2.3.722.1")


@pytest.mark.parametrize(
    ("one", "other", "order"),
    [
        ("1.0.0-alpha", "1.0.0", -1),
        ("1.0.0-alpha", "1.0.0-alpha.1", -1),
        ("1.0.0-2", "1.0.0-10", -1),
        ("1.0.0-2", "1.0.0-alpha", -1),
        ("1.0.0", "1.0.0+x", 0),
        ("1.0.0.a", "1.0.0.b", -1),
        ("1.0.0.10", "1.0.0.9", 1),
        ("1.0.0.0", "1.0.0", 1),
    ],
)
def test_order_of_versions(one: str, other: str, order: int) -> None:
    assert versions.compare(one, other) == order
    assert versions.compare(other, one) == -order


def test_our_own_ends_multiplex_without_keepalives_and_pass_every_gate() -> None:
    assert versions.client_multiplexes(AGENT_VERSION)
    assert versions.takes_terminate_flag(AGENT_VERSION)
    assert not versions.client_keeps_alive(AGENT_VERSION)
    assert versions.agent_multiplexes(CLIENT_VERSION)
    assert not versions.agent_keeps_alive(CLIENT_VERSION)
