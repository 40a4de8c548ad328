"""A short run of every fuzz target, without packages; `make fuzz` is the long one."""

import logging
from typing import Iterator

import pytest

from fuzz.mutate import inputs
from fuzz.targets import TARGETS

RUNS = 300


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", TARGETS)
def test_only_documented_errors_come_out(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    # Every shape of seed, not every seed: some targets have thousands.
    for data in [*seeds[:: len(seeds) // 300 + 1], *inputs(seeds, RUNS)]:
        try:
            target.run(data)
        except Exception as error:
            raise AssertionError(f"{name} of {data[:2000]!r}") from error


def test_the_inputs_are_the_same_every_time() -> None:
    seeds = TARGETS["agent-message"].seeds()

    assert inputs(seeds, 20) == inputs(seeds, 20)
    assert inputs(seeds, 20) != inputs(seeds, 20, number=1)
