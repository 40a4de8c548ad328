"""What can happen to a session within a few events, all of it; and that a broken rule would be seen."""

import logging
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Iterator
from unittest.mock import patch

import pytest

from protocol.model import Count, Scenario, Violation, explore
from protocol.mutants import (
    HANDSHAKE,
    LATE,
    MUTANTS,
    OFFICIAL_AGENT,
    OFFICIAL_CLIENT,
    ONE,
    OVERTAKEN,
    PACED,
    PROBES,
    SILENT,
    THREE,
    TWO,
    TYPED,
    Mutant,
)

pytestmark = pytest.mark.container

RULES = Path(__file__).parent.parent.parent / "docs" / "adr" / "0002-reliability-rules.md"

SMALL = Scenario("one small message up", 6, up=b"a")
NETWORK = Scenario(
    "two small messages down, and only the network errs", 6, down=b"AB", window=2,
    without=frozenset(["stop", "hold", "close", "break"]),
)  # fmt: skip

SHALLOW = [
    replace(SMALL, depth=5),
    replace(NETWORK, depth=5),
    ONE,
    TWO,
    replace(THREE, depth=3),
    TYPED,
    replace(PACED, depth=3),
    replace(OVERTAKEN, depth=4),
    LATE,
    replace(PROBES, depth=3),
    replace(PROBES, depth=3, name="larger payloads are tried, and get through", limit=1 << 20),
    replace(HANDSHAKE, depth=3),
    replace(OFFICIAL_AGENT, depth=3),
    replace(OFFICIAL_CLIENT, depth=3),
    SILENT,
]
DEEP = [
    SMALL,
    NETWORK,
    replace(ONE, depth=6),
    replace(TWO, depth=6),
    replace(THREE, depth=6),
    replace(TYPED, depth=6),
    replace(PACED, depth=5),
    OVERTAKEN,
    replace(PROBES, depth=6),
    replace(HANDSHAKE, depth=6),
    replace(OFFICIAL_AGENT, depth=6),
    replace(OFFICIAL_CLIENT, depth=6),
    replace(SILENT, depth=10),
]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A session that fails by rights says so a hundred thousand times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def name(scenario: Scenario) -> str:
    return f"{scenario.name}, depth {scenario.depth}"


def report(scenario: Scenario, count: Count) -> None:
    print(
        f"{name(scenario)}: {count.states} states, {count.steps} steps;"
        f" a good network needs {count.slowest:.2f} s at most"
    )


@pytest.mark.parametrize("scenario", SHALLOW, ids=name)
def test_from_every_state_all_bytes_arrive_once_in_order_and_both_ends_end(scenario: Scenario) -> None:
    count = explore(scenario)
    report(scenario, count)

    assert count.states > 300
    assert count.slowest < 2.0


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", DEEP, ids=name)
def test_the_same_further_on(scenario: Scenario) -> None:
    count = explore(scenario)
    report(scenario, count)

    assert count.states > 4_000
    assert count.slowest < 5.0


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.rule}: {mutant.mistake}")
def test_a_broken_rule_has_a_counterexample(mutant: Mutant) -> None:
    with ExitStack() as patches:
        for owner, attribute, replacement in mutant.patches:
            patches.enter_context(patch.object(owner, attribute, replacement))
        with pytest.raises(Violation) as found:
            explore(mutant.scenario)
    print(f"{mutant.mistake}: {found.value}")

    assert mutant.finding in found.value.what
    assert len(found.value.trace) <= mutant.scenario.depth


def test_every_reliability_rule_has_a_mutant() -> None:
    rules = {int(number) for number in re.findall(r"^(\d+)\. ", RULES.read_text("utf-8"), re.MULTILINE)}

    assert {mutant.rule for mutant in MUTANTS} == rules


def test_a_counterexample_reads_like_what_happened() -> None:
    forgetful = next(mutant for mutant in MUTANTS if "a copy is delivered" in mutant.mistake)
    with patch.object(*forgetful.patches[0]), pytest.raises(Violation) as found:
        explore(forgetful.scenario)

    assert str(found.value) == (
        "the agent received b'aa' of b'a' after: double #1 to the agent;"
        " and on a good network: deliver #1 to the agent"
    )
