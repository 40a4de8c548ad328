"""
The figures we hold ourselves to, as one JSON object on standard output; progress goes to standard error.

    python -m bench [--quick] [--only PART ...]

Medians of five runs (of one with ``--quick``, which shows that everything works and little more). Everything
runs on this machine over loopback: local clouds with and without TLS, a job in each, the real commands.
docs/reference/speed.md says what each figure means. MB is 10^6 bytes, GB 10^9.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

from bench.site import FULL, QUICK, Effort, Laptop, LocalCloud, Site

from bench import memory, start_up, streams  # isort: skip  (the first sets the path)
from e2e.laptop import running

PARTS = ("start-up", "speed", "tls", "latency", "memory")


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure, and print one JSON object."
    )
    parser.add_argument("--quick", action="store_true", help="one run of each, with little data")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS)
    )
    options = parser.parse_args(arguments)
    print(json.dumps(measure(QUICK if options.quick else FULL, options.only), indent=1))
    return 0


def measure(effort: Effort, parts: "List[str] | tuple[str, ...]" = PARTS) -> Dict[str, Any]:
    """The figures of these parts, by their names in docs/reference/speed.md."""
    figures: Dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="sm-ssh-bench-") as folder:
        if "start-up" in parts:
            figures.update(start_up.start_ups(Path(folder), effort))
            figures.update(start_up.looks(Path(folder), effort))
        if set(parts) - {"tls"}:
            with LocalCloud(Path(folder, "cloud")) as cloud:
                alice = Laptop(cloud.info, "alice", Path(folder))
                if "start-up" in parts:
                    figures.update(start_up.bootstrap(alice, effort))
                with running(alice, StoppingCondition={"MaxRuntimeInSeconds": 7200}) as job:
                    figures.update(plain(Site(cloud, alice, job, effort), parts))
        if "tls" in parts:
            with LocalCloud(Path(folder, "cloud-tls"), "--tls") as cloud:
                alice = Laptop(cloud.info, "alice", Path(folder))
                with running(alice, StoppingCondition={"MaxRuntimeInSeconds": 7200}) as job:
                    figures.update(streams.speeds(Site(cloud, alice, job, effort), tls=True))
    return figures


def plain(site: Site, parts: "List[str] | tuple[str, ...]") -> Dict[str, Any]:
    """What is measured without TLS."""
    figures: Dict[str, Any] = {}
    if "start-up" in parts:
        figures.update(start_up.banner(site))
    if "speed" in parts:
        figures.update(streams.speeds(site))
        figures.update(streams.round_trip(site))
        figures.update(streams.ssh_transfers(site))
    if "latency" in parts:
        figures.update(streams.echoes(site))
    if "memory" in parts:
        figures.update(memory.memory(site))
    return figures


if __name__ == "__main__":
    sys.exit(main())
