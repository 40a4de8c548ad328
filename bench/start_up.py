"""How long things take to begin: commands, an import, a container, a login; and what an install adds."""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from aws_stub import aws_stub
from bench.site import ROOT, Effort, Site, tell, timing
from e2e.laptop import Job, Laptop, launch, until
from local_cloud import LocalCloud

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

print("began at", time.time(), flush=True)
thread = threading.Thread(target=watch, args=(time.monotonic(),))
thread.start()
sagemaker_ssh_helper.setup_and_start_ssh()
thread.join()
"""


def start_ups(folder: Path, effort: Effort) -> Dict[str, float]:
    """Commands that need nobody else, and what an install adds to an empty environment."""
    python = [sys.executable, "-c"]
    timed = "import time; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"
    imports = [
        float(subprocess.check_output([*python, timed.format("sagemaker_ssh_helper.wrapper")]))
        for _ in range(effort.runs)
    ]
    version = [str(Path(sys.executable).with_name("sm-ssh")), "--version"]
    if not Path(version[0]).exists():
        version = [sys.executable, "-m", "sagemaker_ssh_helper", "--version"]
    figures = {
        "cli_version_s": timing(
            effort.runs, lambda: subprocess.run(version, check=True, capture_output=True)
        ),
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


def looks(folder: Path, effort: Effort) -> Dict[str, float]:
    """The Tab key, and a list of two hundred running jobs, when every call to AWS takes 50 ms."""
    home = folder / "home"
    home.mkdir()
    with aws_stub() as stub:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        env = {**kept, **stub.environment(HOME=str(home))}
        stub.answers.update(_two_hundred_jobs())
        sm_ssh = [sys.executable, "-m", "sagemaker_ssh_helper"]

        def run(*words: str) -> "subprocess.CompletedProcess[bytes]":
            return subprocess.run([*sm_ssh, *words], env=env, check=True, capture_output=True, timeout=60)

        run("completion", "--refresh")
        assert run("completion", "--candidates", "connect", "job-1").stdout
        completion = timing(effort.runs, lambda: run("completion", "--candidates", "connect", "job-1"))
        stub.delay = CALL_DELAY
        listing = timing(effort.runs, lambda: run("list"))
        stub.asked.clear()
        assert len(run("list").stdout.splitlines()) == 200
        return {
            "completion_s": tell("completion_s", completion),
            "list_200_s": tell("list_200_s", listing),
            "list_200_calls": tell("list_200_calls", len(stub.asked)),
        }


def _two_hundred_jobs() -> Dict[str, Any]:
    """The answers of AWS for an account where so many training jobs run, each with a container."""
    names = [f"job-{number}" for number in range(200)]
    jobs = [
        {"TrainingJobName": name, "TrainingJobStatus": "InProgress", "CreationTime": 1.7e9} for name in names
    ]
    entries = {
        name: {
            "InstanceId": f"mi-{number:017x}",
            "PingStatus": "Online",
            "Name": f"algo-1.{name}.training.sagemaker",
            "LastPingDateTime": 1.7e9,
            "RegistrationDate": 1.7e9,
            "AgentVersion": "3.3.4515.0",
        }
        for number, name in enumerate(names)
    }

    def page(parameters: Dict[str, Any], key: str, items: List[Dict[str, Any]], most: int) -> Dict[str, Any]:
        start = int(parameters.get("NextToken", 0))
        more = {"NextToken": str(start + most)} if start + most < len(items) else {}
        return {key: items[start : start + most], **more}

    def described(parameters: Dict[str, Any]) -> Dict[str, Any]:
        wanted = parameters["Filters"][0]["Values"]
        found = [entries[name] for name in wanted if name in entries]
        return page(parameters, "InstanceInformationList", found, 50)

    return {
        "ListTrainingJobs": lambda parameters: page(parameters, "TrainingJobSummaries", jobs, 100),
        "ListProcessingJobs": {"ProcessingJobSummaries": []},
        "ListTransformJobs": {"TransformJobSummaries": []},
        "ListEndpoints": {"Endpoints": []},
        "ListNotebookInstances": {"NotebookInstances": []},
        "ListApps": {"Apps": []},
        "ListSpaces": {"Spaces": []},
        "DescribeInstanceInformation": described,
    }


def bootstrap(alice: Laptop, effort: Effort) -> Dict[str, float]:
    """From the call in the job's script to a node that is online and accepts ssh."""
    seconds: List[float] = []
    # A tail needs more of them than a median.
    for _ in range(effort.runs * 4 if effort.runs > 1 else 1):
        job = launch(alice, BOOTSTRAP, wait=1, keep_program=True)
        until(lambda job=job: "online after" in job.log(), "the node to be online")
        seconds.append(_told(job, "online after"))
        job.wait_ended()
    logins = [_first_login(alice) for _ in range(effort.runs)]
    rank = math.ceil(0.95 * len(seconds)) - 1
    return {
        "bootstrap_to_online_s": tell("bootstrap_to_online_s", statistics.median(seconds)),
        "bootstrap_p95_s": tell("bootstrap_p95_s", sorted(seconds)[rank]),
        "bootstrap_to_ssh_s": tell("bootstrap_to_ssh_s", statistics.median(logins)),
    }


def _first_login(alice: Laptop) -> float:
    """From the call in the job's script to the end of a command by ssh that waited for the container."""
    job = launch(alice, BOOTSTRAP, wait=60, keep_program=True)
    done = alice.sm_ssh("exec", job.host, "--", "true")
    ended_at = time.time()
    assert done.returncode == 0, done.stderr
    began_at = _told(job, "began at")
    job.stop()
    return ended_at - began_at


def _told(job: Job, words: str) -> float:
    """The number at the end of the line of the job's log that begins so."""
    lines = until(lambda: [line for line in job.log().splitlines() if line.startswith(words)], words)
    return float(lines[0].split()[-1])


def banner(site: Site) -> Dict[str, float]:
    """From the start of start-proxy to the server's first byte, when every call to AWS takes 50 ms."""
    pins = site.alice.home / ".local" / "state" / "sm-ssh" / "pins.json"
    figures: Dict[str, float] = {}
    cloud, alice, job = site.cloud, site.alice, site.job
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
            with site.proxy("sagemaker_ssh_helper", "start-proxy", job.host) as process:
                assert process.stdout is not None
                assert process.stdout.read(4) == b"SSH-"
                taken = time.perf_counter() - began
                used = cloud_calls(cloud) - calls
            return taken, used

        return run

    for name, known in (("time_to_banner_s", True), ("time_to_banner_warm_s", False)):
        runs = [first_byte(known)() for _ in range(site.effort.runs)]
        figures[name] = tell(name, statistics.median(taken for taken, _ in runs))
        figures[name.replace("_s", "_calls")] = statistics.median(calls for _, calls in runs)
    cloud.clear_faults()
    return figures


def cloud_calls(cloud: LocalCloud) -> int:
    """Calls of APIs so far; the upgrade of a WebSocket is none."""
    mine = [row for row in cloud.requests() if row["user"] == "alice"]
    return sum(row["count"] for row in mine if not row["action"].startswith("ssmmessages:"))


def size_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
