"""``python -m bench`` measures what docs/reference/speed.md says, by the names it says."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest

from bench import memory, start_up, streams
from bench.site import Effort, Site
from e2e.laptop import Laptop, running
from local_cloud import LocalCloud

ROOT = Path(__file__).parents[2]
PAGE = ROOT.joinpath("docs", "reference", "speed.md").read_text(encoding="utf-8")
DOCUMENTED = {
    name
    for cell in re.findall(r"^\| (`[a-z].*?) \|", PAGE, re.MULTILINE)
    for name in re.findall(r"`([a-z0-9_]+)`", cell)
}
TINY = Effort(runs=1, large_bytes=2_000_000, small_bytes=200_000, echoes=20, sessions=3)


@pytest.fixture(scope="module")
def site(e2e_cloud: LocalCloud, laptop: Callable[[str], Laptop]) -> Iterator[Site]:
    alice = laptop("alice")
    with running(alice) as job:
        yield Site(e2e_cloud, alice, job, TINY)


def test_speeds_and_their_price_have_their_documented_names(site: Site) -> None:
    figures = streams.speeds(site)
    wanted = {f"{way}{size}_mb_s" for way in ("upload", "download") for size in ("", "_1k")}
    wanted |= {f"{who}_cpu_s_per_gb" for who in ("client", "gateway", "agent")}
    assert wanted <= DOCUMENTED
    assert wanted <= set(figures)
    of_each = {
        name for name in figures if re.search(r"load(_1k)?_(client|gateway|agent)_cpu_s_per_gb$", name)
    }
    assert set(figures) - wanted == of_each
    assert all(value >= 0 for value in figures.values())


def test_sessions_come_and_go(site: Site) -> None:
    memory.come_and_go(site, 3)
    assert not site.cloud.client("ssm", user="admin").describe_sessions(State="Active")["Sessions"]


def test_looks_have_their_documented_names(tmp_path: Path) -> None:
    figures = start_up.looks(tmp_path, TINY)
    assert set(figures) == {"completion_s", "list_200_s", "list_200_calls"}
    assert set(figures) <= DOCUMENTED
    # A count, not a time.
    assert figures["list_200_calls"] <= 12


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_quick_form_measures_all_that_is_documented() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick"], cwd=ROOT, stdout=subprocess.PIPE, timeout=880, check=True
    )
    of_each = re.compile(r"load(_1k)?(_tls)?_(client|gateway|agent)_cpu_s_per_gb$")
    assert {name for name in json.loads(done.stdout) if not of_each.search(name)} == DOCUMENTED
