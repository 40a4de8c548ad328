"""
One session and its bytes: how fast, at what price, and how soon a key is echoed.

The client is ``bench.port_session``: what start-proxy runs, to a port of ``bench.peer`` beside the job.
"""

import json
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import Any, Dict, Iterator, List, Tuple

from bench.peer import PIECE, count_off, write_all
from bench.site import ROOT, Site, cpu_seconds, tell, timing
from sagemaker_ssh_helper.names import Env
from sagemaker_ssh_helper.protocol.stream import WINDOW_BYTES

ROUND_TRIP = 0.08  # seconds
SMALL = {Env.MAX_PAYLOAD: "1024"}
ENDLESS = 1 << 50  # bytes


def speeds(site: Site, *, tls: bool = False) -> Dict[str, float]:
    """
    Both ways, in the size that is found out and in payloads of 1024 bytes; and what a GB costs each process.

    ``client_cpu_s_per_gb`` and its like are of payloads of 1024 bytes, the worse way.
    """
    effort = site.effort
    figures: Dict[str, float] = {}
    for size, amount, variables in (("", effort.large_bytes, {}), ("_1k", effort.small_bytes, SMALL)):
        worst: Dict[str, float] = {}
        for direction in ("upload", "download"):
            name = f"{direction}{size}{'_tls' if tls else ''}"
            runs = [transfer(site, direction, amount, variables) for _ in range(effort.runs)]
            figures[f"{name}_mb_s"] = tell(f"{name}_mb_s", statistics.median(rate for rate, _ in runs))
            for who in runs[0][1]:
                key = f"{name}_{who}_cpu_s_per_gb"
                figures[key] = tell(key, statistics.median(cpu[who] for _, cpu in runs))
                worst[who] = max(worst.get(who, 0.0), figures[key])
    if not tls:
        figures.update({f"{who}_cpu_s_per_gb": value for who, value in worst.items()})
    return figures


def round_trip(site: Site) -> Dict[str, float]:
    """What part of window / round trip a transfer reaches when a round trip takes 80 ms; the worse way."""
    best = WINDOW_BYTES / ROUND_TRIP / 1e6
    with site.cloud.fault(kind="link", rtt=ROUND_TRIP):
        rates = {
            direction: statistics.median(
                transfer(site, direction, site.effort.large_bytes, {})[0] for _ in range(site.effort.runs)
            )
            for direction in ("upload", "download")
        }
    figures = {f"rtt80_{name}_mb_s": tell(f"rtt80_{name}_mb_s", rate) for name, rate in rates.items()}
    figures["rtt80_fraction"] = tell("rtt80_fraction", min(rates.values()) / best)
    return figures


def echoes(site: Site) -> Dict[str, float]:
    """One byte there and back, alone and while another session downloads or uploads; the worse of them."""
    count = site.effort.echoes
    alone = sorted(echo_times(site, count))
    figures = {
        "echo_p50_ms": tell("echo_p50_ms", alone[len(alone) // 2] * 1e3),
        "echo_p99_ms": tell("echo_p99_ms", alone[len(alone) * 99 // 100] * 1e3),
    }
    busy: List[float] = []
    for direction in ("upload", "download"):
        with bulk(site, direction):
            times = sorted(echo_times(site, count))
        busy.append(times[len(times) * 95 // 100] * 1e3)
        figures[f"echo_{direction}_p95_ms"] = tell(f"echo_{direction}_p95_ms", busy[-1])
    figures["echo_bulk_p95_ms"] = tell("echo_bulk_p95_ms", max(busy))
    return figures


def transfer(
    site: Site, direction: str, amount: int, variables: Dict[str, str]
) -> Tuple[float, Dict[str, float]]:
    """MB/s of the last three quarters of a transfer, and processor seconds for each GB of all of it."""
    with session(site, "take" if direction == "upload" else "give", amount, **variables) as (process, peer):
        assert process.stdout is not None
        assert process.stdin is not None
        pids = {"client": process.pid, **site.pids}
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        if direction == "upload":
            write_all(process.stdin.write, amount)
            process.stdin.flush()
            assert process.stdout.read(1) == b"k"
        else:
            process.stdin.write(b"g")
            process.stdin.flush()
            read = process.stdout.read1  # type: ignore[attr-defined]
            marks = count_off(lambda: len(read(PIECE)), amount)
        cpu = {name: (cpu_seconds(pid) - before[name]) / amount * 1e9 for name, pid in pids.items()}
        process.terminate()
        if direction == "upload":
            assert peer.stdout is not None
            marks = json.loads(peer.stdout.readline())
    return amount * 3 / 4 / (marks[1] - marks[0]) / 1e6, cpu


def echo_times(site: Site, count: int) -> List[float]:
    with session(site, "echo") as (process, _):
        assert process.stdout is not None
        assert process.stdin is not None
        times = []
        for _ in range(count + 20):
            began = time.perf_counter()
            process.stdin.write(b"k")
            process.stdin.flush()
            process.stdout.read(1)
            times.append(time.perf_counter() - began)
    # The first ones find cold caches.
    return times[20:]


@contextmanager
def session(
    site: Site, *words: object, **variables: str
) -> Iterator[Tuple["subprocess.Popen[bytes]", "subprocess.Popen[bytes]"]]:
    """A session to a peer that does this: the process of its client, and the peer's."""
    peer = subprocess.Popen(
        [sys.executable, "-m", "bench.peer", *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert peer.stdout is not None
        port = peer.stdout.readline().decode().strip()
        with site.proxy("bench.port_session", site.instance_id(), port, **variables) as process:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"r"
            yield process, peer
    finally:
        peer.kill()
        peer.communicate()


@contextmanager
def bulk(site: Site, direction: str) -> Iterator[None]:
    """A session that moves as much as it can meanwhile; the ends of it are programs of the system."""
    with ExitStack() as stack:
        process, _ = stack.enter_context(session(site, "take" if direction == "upload" else "give", ENDLESS))
        if direction == "upload":
            source = ["cat", "/dev/zero"]
            mover = subprocess.Popen(source, stdout=process.stdin)
        else:
            assert process.stdin is not None
            process.stdin.write(b"g")
            process.stdin.flush()
            mover = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
        try:
            # Until payloads have their size.
            time.sleep(1.0)
            yield
        finally:
            mover.kill()
            mover.wait()


def ssh_transfers(site: Site) -> Dict[str, float]:
    """A login, and the last three quarters of transfers, through real ssh."""
    ssh, amount = [*site.alice.configure_ssh(), site.job.host], site.effort.large_bytes // 4

    def login() -> None:
        assert site.alice.run(*ssh, "true").returncode == 0

    def upload() -> List[float]:
        with ssh_command(f"head -c {amount // 4} >/dev/null; echo; cat >/dev/null") as process:
            writer = threading.Thread(target=feed, args=(process, amount))
            writer.start()
            process.stdout.read(1)
            quarter = time.perf_counter()
            process.stdout.read()
            writer.join()
            return [quarter, time.perf_counter()]

    def download() -> List[float]:
        with ssh_command(f"head -c {amount} /dev/zero") as process:
            return count_off(lambda: len(process.stdout.read1(PIECE)), amount)

    @contextmanager
    def ssh_command(command: str) -> Iterator[Any]:
        process = site.alice.popen(*ssh, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        yield process
        assert process.wait(30) == 0
        process.stdout.close()

    def rate(marks: List[float]) -> float:
        return amount * 3 / 4 / (marks[1] - marks[0]) / 1e6

    figures = {"ssh_login_s": tell("ssh_login_s", timing(site.effort.runs, login))}
    for name, run in (("ssh_upload_mb_s", upload), ("ssh_download_mb_s", download)):
        figures[name] = tell(name, statistics.median(rate(run()) for _ in range(site.effort.runs)))
    return figures


def feed(process: "subprocess.Popen[bytes]", amount: int) -> None:
    assert process.stdin is not None
    write_all(process.stdin.write, amount)
    process.stdin.close()
