"""
The figures we hold ourselves to, as one JSON object on standard output; progress goes to standard error.

    python -m bench

Medians of RUNS. Everything runs on this machine over loopback: a local cloud, a job in it, the real commands.
A payload is 1024 bytes and gets one acknowledge, as between official peers. MB is 10^6 bytes.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests")]

from e2e.laptop import Job, Laptop, launch, running, until  # noqa: E402  (the path is set above)
from local_cloud import LocalCloud  # noqa: E402

RUNS = 5
TRANSFER_BYTES = 20_000_000
SSH_TRANSFER_BYTES = 50_000_000
PAYLOAD_BYTES = 1024
CALL_DELAY = 0.05  # seconds

# Measures in the job, from the call in its script to the state that sm-wait status shows.
BOOTSTRAP = """
import json, os, threading, time
import sagemaker_ssh_helper

def watch(began):
    path = os.path.join(os.environ["SSH_STATE_DIR"], "status.json")
    while True:
        try:
            with open(path) as file:
                if json.load(file)["state"] == "online":
                    break
        except (OSError, ValueError):
            pass
        time.sleep(0.005)
    print("online after", round(time.monotonic() - began, 3), flush=True)

thread = threading.Thread(target=watch, args=(time.monotonic(),))
thread.start()
sagemaker_ssh_helper.setup_and_start_ssh()
thread.join()
"""


def main() -> int:
    figures: Dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="sm-ssh-bench-") as folder:
        figures.update(start_ups(Path(folder)))
        with LocalCloud(Path(folder, "cloud")) as cloud:
            alice = Laptop(cloud.info, "alice", Path(folder))
            figures.update(bootstrap(alice))
            with running(alice) as job:
                figures.update(banner(cloud, alice, job))
                figures.update(transfers(cloud, alice, job))
                figures.update(ssh_transfers(alice, job))
    print(json.dumps(figures, indent=1))
    return 0


def start_ups(folder: Path) -> Dict[str, float]:
    """Commands that need nobody else, and what an install adds to an empty environment."""
    python = [sys.executable, "-c"]
    timed = "import time; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"
    imports = [
        float(subprocess.check_output([*python, timed.format("sagemaker_ssh_helper.wrapper")]))
        for _ in range(RUNS)
    ]
    version = [str(Path(sys.executable).with_name("sm-ssh")), "--version"]
    if not Path(version[0]).exists():
        version = [sys.executable, "-m", "sagemaker_ssh_helper", "--version"]
    figures = {
        "cli_version_s": timing(lambda: subprocess.run(version, check=True, capture_output=True)),
        "wrapper_import_ms": tell("wrapper_import_ms", statistics.median(imports) * 1000),
    }
    empty = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(empty)], check=True)
    before = size_bytes(empty)
    subprocess.run(
        [
            str(empty / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            str(ROOT),
        ],
        check=True,
        stdout=sys.stderr,
    )
    figures["install_mb"] = tell("install_mb", (size_bytes(empty) - before) / 1e6)
    figures["cli_version_s"] = tell("cli_version_s", figures["cli_version_s"])
    return figures


def bootstrap(alice: Laptop) -> Dict[str, float]:
    """From the call in the job's script to a node that is online and accepts ssh."""
    seconds: List[float] = []
    for _ in range(RUNS):
        job = launch(alice, BOOTSTRAP, wait=1, keep_program=True)
        until(lambda job=job: "online after" in job.log(), "the node to be online")
        seconds += [
            float(line.split()[-1]) for line in job.log().splitlines() if line.startswith("online after")
        ]
        job.wait_ended()
    return {"bootstrap_to_online_s": tell("bootstrap_to_online_s", statistics.median(seconds))}


def banner(cloud: LocalCloud, alice: Laptop, job: Job) -> Dict[str, float]:
    """From the start of start-proxy to the server's first byte, when every call to AWS takes 50 ms."""
    pins = alice.home / ".local" / "state" / "sm-ssh" / "pins.json"
    figures: Dict[str, float] = {}
    alice.sm_ssh("start-proxy", job.host)
    cloud.faults(kind="delay", action="*", user="alice", seconds=CALL_DELAY)

    def first_byte(known: bool) -> Callable[[], Tuple[float, int]]:
        def run() -> Tuple[float, int]:
            if known:
                # Met before, but its tags were not read in the last minutes.
                entries = json.loads(pins.read_text())
                for entry in entries.values():
                    entry["checked_at"] = 0
                pins.write_text(json.dumps(entries))
            calls = cloud_calls(cloud)
            began = time.perf_counter()
            with proxy(
                alice, [sys.executable, "-m", "sagemaker_ssh_helper", "start-proxy", job.host]
            ) as process:
                assert process.stdout is not None
                assert process.stdout.read(4) == b"SSH-"
                taken = time.perf_counter() - began
                used = cloud_calls(cloud) - calls
            return taken, used

        return run

    for name, known in (("time_to_banner_s", True), ("time_to_banner_warm_s", False)):
        runs = [first_byte(known)() for _ in range(RUNS)]
        figures[name] = tell(name, statistics.median(taken for taken, _ in runs))
        figures[name.replace("_s", "_calls")] = statistics.median(calls for _, calls in runs)
    cloud.clear_faults()
    return figures


def transfers(cloud: LocalCloud, alice: Laptop, job: Job) -> Dict[str, float]:
    """One session to a TCP port, payloads of 1024 bytes; and what each process pays for a message."""
    agent = process_with("sagemaker_ssh_helper.agent.node", job.name)
    instance_id = job.instances()[0]["InstanceId"]
    figures: Dict[str, float] = {}
    messages = TRANSFER_BYTES / PAYLOAD_BYTES
    for direction in ("upload", "download"):
        speeds: List[float] = []
        cpu: Dict[str, List[float]] = {"client": [], "gateway": [], "agent": []}
        for _ in range(RUNS):
            with listener(direction) as port, proxy(
                alice, [sys.executable, "-m", "bench.port_session", instance_id, str(port)]
            ) as process:
                assert process.stdout is not None
                assert process.stdin is not None
                assert process.stdout.read(1) == b"r"
                pids = {"client": process.pid, "gateway": cloud.process.pid, "agent": agent}
                before = {name: cpu_seconds(pid) for name, pid in pids.items()}
                began = time.perf_counter()
                if direction == "upload":
                    process.stdin.write(bytes(TRANSFER_BYTES))
                    process.stdin.flush()
                    assert process.stdout.read(1) == b"k"
                else:
                    process.stdin.write(b"g")
                    process.stdin.flush()
                    assert len(process.stdout.read(TRANSFER_BYTES)) == TRANSFER_BYTES
                speeds.append(TRANSFER_BYTES / (time.perf_counter() - began) / 1e6)
                for name, pid in pids.items():
                    cpu[name].append((cpu_seconds(pid) - before[name]) / messages * 1e6)
        figures[f"{direction}_mb_s"] = tell(f"{direction}_mb_s", statistics.median(speeds))
        for name, values in cpu.items():
            key = f"{direction}_{name}_us_per_message"
            figures[key] = tell(key, statistics.median(values))
    return figures


def ssh_transfers(alice: Laptop, job: Job) -> Dict[str, float]:
    """The same through real ssh, its login taken off."""
    ssh = alice.configure_ssh()

    def timed(command: str, stdin: bytes) -> float:
        began = time.perf_counter()
        done = alice.run(*ssh, job.host, command, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return time.perf_counter() - began

    login = statistics.median(timed("true", b"") for _ in range(RUNS))
    content = bytes(SSH_TRANSFER_BYTES)
    up = statistics.median(timed("cat > /dev/null", content) for _ in range(RUNS))
    down = statistics.median(timed(f"head -c {SSH_TRANSFER_BYTES} /dev/zero", b"") for _ in range(RUNS))
    return {
        "ssh_login_s": tell("ssh_login_s", login),
        "ssh_upload_mb_s": tell("ssh_upload_mb_s", SSH_TRANSFER_BYTES / (up - login) / 1e6),
        "ssh_download_mb_s": tell("ssh_download_mb_s", SSH_TRANSFER_BYTES / (down - login) / 1e6),
    }


@contextmanager
def proxy(alice: Laptop, command: List[str]) -> Iterator["subprocess.Popen[bytes]"]:
    env = {**alice.env, "PYTHONPATH": os.pathsep.join([str(ROOT), alice.env.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=10)


@contextmanager
def listener(direction: str) -> Iterator[int]:
    """One connection: ``r``, then it takes TRANSFER_BYTES for a ``k``, or gives them for a byte."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"r")
            if direction == "download":
                connection.recv(1)
                connection.sendall(bytes(TRANSFER_BYTES))
                connection.recv(1)
                return
            left = TRANSFER_BYTES
            while left > 0:
                left -= len(connection.recv(1 << 20))
            connection.sendall(b"k")
            connection.recv(1)

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


def cloud_calls(cloud: LocalCloud) -> int:
    """Calls of APIs so far; the upgrade of a WebSocket is none."""
    mine = [row for row in cloud.requests() if row["user"] == "alice"]
    return sum(row["count"] for row in mine if not row["action"].startswith("ssmmessages:"))


def process_with(*words: str) -> int:
    """The process whose command line or environment has these words."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if all(word.encode() in text for word in words):
            return int(folder.name)
    raise LookupError(f"no process with {words}")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def size_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def timing(work: Callable[[], Any]) -> float:
    seconds: List[float] = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    # The first one fills caches.
    return statistics.median(seconds[1:])


def tell(name: str, value: float) -> float:
    print(f"{name:34} {value:10.3f}", file=sys.stderr, flush=True)
    return round(value, 4)


if __name__ == "__main__":
    sys.exit(main())
