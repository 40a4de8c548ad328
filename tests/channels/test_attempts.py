"""Whether to connect again, and when, with time as a number."""

import asyncio
import ssl
from typing import List, Optional

import pytest

from sagemaker_ssh_helper.channels.attempts import MAX_REFUSALS, PROVEN_AFTER, Attempts
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    ConnectionFailed,
    CredentialsExpired,
    EndpointUnreachable,
    Throttled,
)

pytestmark = pytest.mark.container


def attempts(open_timeout: Optional[float] = 30.0, resume_timeout: Optional[float] = 900.0) -> Attempts:
    return Attempts(open_timeout, resume_timeout, (0.1, 5.0), 100.0, chance=lambda: 0.5)


def test_the_first_attempt_after_a_loss_comes_at_once_and_then_ever_more_slowly() -> None:
    again = attempts()
    again.connected(100.0)
    again.lost("reset", True, 160.0)
    delays: List[float] = [again.next_delay(160.0)]
    for _ in range(10):
        again.failed(OSError("unreachable"), 160.0)
        delays.append(again.next_delay(160.0))

    assert delays == pytest.approx([0, 0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])


def test_where_somebody_waits_a_silent_network_is_asked_every_second() -> None:
    again = Attempts(30.0, 900.0, (0.1, 5.0), 100.0, chance=lambda: 1.0, eager=True)
    again.connected(100.0)
    again.lost("reset", True, 160.0)
    for _ in range(20):
        again.failed(ConnectionFailed("cannot reach it"), 160.0)
        delay = again.next_delay(160.0)
    assert 0.7 < delay < 1.0

    # An attempt that waited for an answer has waited already.
    again.failed(ConnectionFailed("no answer"), 160.0, lasted=10.0)
    assert again.next_delay(160.0) == 0.0

    again.failed(refusal(503), 160.0, lasted=10.0)
    assert again.next_delay(160.0) > 5.0


def test_a_link_that_is_cut_all_the_time_is_used_while_it_carries_something() -> None:
    again = attempts()
    now = 100.0
    for _ in range(1000):
        again.connected(now)
        now += 0.3
        again.lost("reset", True, now)
        assert again.next_delay(now) <= 0.1

    assert again.verdict is None


def test_delays_are_spread_by_a_quarter() -> None:
    for chance, delay in ((0.0, 0.075), (1.0, 0.125)):
        again = Attempts(30.0, 900.0, (0.1, 5.0), 100.0, chance=lambda chance=chance: chance)
        again.failed(OSError(), 100.0)
        again.failed(OSError(), 100.0)
        assert again.next_delay(100.0) == pytest.approx(delay)


def test_before_the_first_connection_there_is_less_time() -> None:
    again = attempts()
    again.failed(OSError("no route"), 129.0)
    again.next_delay(129.0)
    assert again.verdict is None

    again.failed(OSError("no route"), 130.1)
    again.next_delay(130.1)

    assert str(again.verdict) == "no connection in 30 s (no route)"


def test_after_a_loss_there_is_much_time() -> None:
    again = attempts()
    again.connected(100.0)
    again.lost("reset", True, 1000.0)
    again.failed(OSError("no route"), 1899.0)
    again.next_delay(1899.0)
    assert again.verdict is None

    again.failed(OSError("no route"), 1901.0)
    again.next_delay(1901.0)

    assert str(again.verdict) == "the connection was lost and could not be regained in 900 s (no route)"


def test_without_a_timeout_it_never_gives_up() -> None:
    again = attempts(None, None)
    for hour in range(1000):
        again.failed(OSError(), 100.0 + 3600 * hour)
        assert again.next_delay(100.0 + 3600 * hour) <= 6.25

    assert again.verdict is None


def test_connections_that_are_dropped_at_once_and_bring_nothing_count_as_failures() -> None:
    again = attempts()
    now = 100.0
    delays = []
    while again.verdict is None:
        again.connected(now)
        now += 0.2
        again.lost("closed", False, now)
        delays.append(again.next_delay(now))
        now += delays[-1]

    assert delays[:4] == pytest.approx([0, 0.1, 0.2, 0.4])
    assert delays[-1] == 5.0
    assert now == pytest.approx(1000.0, abs=6.0)


@pytest.mark.parametrize(("proven", "lasted"), [(True, 2.0), (False, PROVEN_AFTER)])
def test_a_connection_that_was_one_starts_the_count_anew(proven: bool, lasted: float) -> None:
    again = attempts()
    now = 100.0
    for _ in range(1000):
        again.connected(now)
        now += lasted
        again.lost("rotated", proven, now)
        assert again.next_delay(now) == 0.0

    assert again.verdict is None


def refusal(status: int) -> ConnectionFailed:
    return ConnectionFailed("refused", status=status)


def untrusted() -> ConnectionFailed:
    error = ConnectionFailed("not trusted")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed")
    return error


@pytest.mark.parametrize(
    "error",
    [
        AccessDenied("no"),
        CredentialsExpired("old"),
        refusal(403),
        refusal(404),
        untrusted(),
        KeyError("mistake"),
    ],
    ids=str,
)
def test_at_the_start_these_errors_are_final(error: Exception) -> None:
    again = attempts()
    again.failed(error, 100.0)

    assert again.verdict is error


@pytest.mark.parametrize(
    "error",
    [
        OSError("dns"),
        asyncio.TimeoutError(),
        ConnectionFailed("lost"),
        EndpointUnreachable("no route"),
        Throttled("slow down"),
        refusal(408),
        refusal(429),
        refusal(500),
        refusal(503),
        ConnectionFailed(
            "refused", status=400, body="<ThrottlingException><message>slow</message></ThrottlingException>"
        ),
        ConnectionFailed("refused", status=400, headers={"x-amzn-errortype": "InternalServerException"}),
    ],
    ids=str,
)
def test_at_the_start_these_errors_may_pass(error: Exception) -> None:
    again = attempts()
    again.failed(error, 100.0)

    assert again.verdict is None


def test_a_session_that_was_there_survives_a_network_that_tampers_with_tls() -> None:
    again = attempts()
    again.connected(100.0)
    again.lost("reset", True, 200.0)
    again.failed(untrusted(), 201.0)

    assert again.verdict is None


def test_a_refusal_of_a_session_that_was_there_has_to_be_repeated() -> None:
    again = attempts()
    again.connected(100.0)
    again.lost("reset", True, 200.0)
    for _ in range(MAX_REFUSALS - 1):
        again.failed(refusal(403), 201.0)
        assert again.verdict is None
    again.failed(refusal(403), 201.0)

    assert again.verdict is not None


def test_a_denial_is_believed_when_it_is_repeated() -> None:
    """The policies of a service take their time to be the same everywhere."""
    again = attempts()
    again.connected(100.0)
    again.lost("reset", True, 160.0)
    for _ in range(MAX_REFUSALS - 1):
        again.failed(AccessDenied("no"), 160.0)
        assert again.verdict is None
    denied = AccessDenied("no")
    again.failed(denied, 160.0)

    assert again.verdict is denied
