"""When to ping and when to give up, with both clocks as numbers."""

import pytest

from sagemaker_ssh_helper.channels.keepalive import DOUBT_TIMEOUT, Keepalive, Life

pytestmark = pytest.mark.container

WALL = 1_700_000_000.0


def keepalive() -> Keepalive:
    return Keepalive(15.0, 100.0, WALL)


def test_a_silent_peer_is_pinged_after_the_interval_and_dead_after_two() -> None:
    alive = keepalive()
    assert alive.next_check(100.0) == 115.0
    assert alive.check(114.9, WALL + 14.9, 100.0) is Life.FINE
    assert alive.check(115.0, WALL + 15.0, 100.0) is Life.PING
    assert alive.next_check(100.0) == 130.0
    assert alive.check(129.9, WALL + 29.9, 100.0) is Life.FINE
    assert alive.check(130.0, WALL + 30.0, 100.0) is Life.DEAD


def test_whatever_comes_is_a_sign_of_life() -> None:
    alive = keepalive()
    assert alive.check(115.0, WALL + 15.0, 110.0) is Life.FINE
    assert alive.next_check(110.0) == 125.0
    assert alive.check(125.0, WALL + 25.0, 110.0) is Life.PING
    assert alive.check(131.0, WALL + 31.0, 126.0) is Life.FINE


def test_after_a_sleep_the_peer_has_to_answer_within_seconds() -> None:
    alive = keepalive()
    # Eight hours by the wall, three seconds by the clock that stops.
    assert alive.check(103.0, WALL + 8 * 3600, 102.0) is Life.PING
    assert alive.next_check(102.0) == 103.0 + DOUBT_TIMEOUT
    assert alive.check(107.9, WALL + 8 * 3600 + 4.9, 102.0) is Life.FINE
    assert alive.check(108.0, WALL + 8 * 3600 + 5.0, 102.0) is Life.DEAD


def test_an_answer_after_a_sleep_ends_the_doubt() -> None:
    alive = keepalive()
    assert alive.check(103.0, WALL + 3600, 102.0) is Life.PING
    assert alive.check(108.0, WALL + 3605, 103.1) is Life.FINE
    assert alive.next_check(103.1) == pytest.approx(118.1)


@pytest.mark.parametrize("jump", [-7200.0, 9.0])
def test_a_clock_that_is_set_is_no_sleep(jump: float) -> None:
    """Backwards, or a little forwards, as time services do."""
    alive = keepalive()

    assert alive.check(103.0, WALL + 3.0 + jump, 102.0) is Life.FINE
