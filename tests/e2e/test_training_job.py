"""The main road: a job launched with ssh, reached by real OpenSSH, left to complete."""

import hashlib
import os
import signal
import socket
import subprocess
import threading
import urllib.request
from contextlib import closing
from typing import Callable, Iterator

import pytest

from e2e.laptop import Job, Laptop, end, launch, running, until

SCRIPT = """
import json, os
print("started after the wait")
with open(os.path.join(os.environ["SM_MODEL_DIR"], "model.json"), "w") as file:
    json.dump({"weights": [1, 2, 3]}, file)
"""


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice, SCRIPT) as job:
        yield job


def test_ssh_runs_a_command_in_the_job_and_returns_its_status(alice: Laptop, job: Job) -> None:
    done = alice.ssh(job.host, "printenv TRAINING_JOB_NAME; exit 7")
    assert done.stdout.decode() == f"{job.name}\n", done.stderr.decode()
    assert done.returncode == 7


def test_connect_passes_arguments_input_and_status_through(alice: Laptop, job: Job) -> None:
    content = os.urandom(100_000)
    done = alice.sm_ssh("connect", job.host, "-o", "LogLevel=ERROR", "--", "sha256sum; exit 3", stdin=content)
    assert done.stdout.split()[0].decode() == hashlib.sha256(content).hexdigest(), done.stderr.decode()
    assert done.returncode == 3


def test_a_login_has_the_environment_of_the_job(alice: Laptop, job: Job) -> None:
    told = alice.ssh(job.host, "env -0").stdout.decode().split("\0")
    variables = dict(line.split("=", 1) for line in told if line)
    assert variables["TRAINING_JOB_NAME"] == job.name
    assert variables["SM_MODEL_DIR"]
    assert variables["AWS_ENDPOINT_URL"]


def test_the_host_key_is_the_one_the_container_told(alice: Laptop, job: Job) -> None:
    instance_id = job.instances()[0]["InstanceId"]
    tags = alice.client("ssm").list_tags_for_resource(ResourceType="ManagedInstance", ResourceId=instance_id)
    told = {tag["Key"]: tag["Value"] for tag in tags["TagList"]}
    done = alice.sm_ssh("connect", job.host, "true")
    assert done.returncode == 0, done.stderr.decode()
    pinned = (alice.home / ".config" / "sm-ssh" / "known_hosts").read_text()
    assert f"{job.host} {told['SSHHostKey']}" in pinned
    assert told["SSHResourceName"] == job.name
    assert told["SSHNode"] == "algo-1"
    assert told["SSHOwner"] == alice.user["user_id"]


@pytest.mark.parametrize("size", [0, 1, 50_000_000], ids=["nothing", "one byte", "50 MB"])
def test_a_file_is_copied_both_ways(alice: Laptop, job: Job, size: int) -> None:
    alice.configure_ssh()
    there, back = alice.home / "there", alice.home / "back"
    there.write_bytes(os.urandom(size))
    folder = alice.ssh(job.host, "mktemp -d").stdout.decode().strip()
    scp = ["scp", "-q", "-F", str(alice.home / ".ssh" / "config")]
    for source, target in ((there, f"{job.host}:{folder}/file"), (f"{job.host}:{folder}/file", back)):
        done = alice.run(*scp, str(source), str(target))
        assert done.returncode == 0, done.stderr.decode()
    assert hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(there.read_bytes()).digest()
    alice.ssh(job.host, f"rm -r {folder}")


def test_a_folder_is_kept_in_step_by_rsync(alice: Laptop, job: Job) -> None:
    alice.configure_ssh()
    source = alice.home / "folder"
    (source / "below").mkdir(parents=True)
    (source / "below" / "a file's name").write_text("content")
    folder = alice.ssh(job.host, "mktemp -d").stdout.decode().strip()
    shell = f"ssh -F {alice.home}/.ssh/config"
    done = alice.run("rsync", "-a", "-e", shell, f"{source}/", f"{job.host}:{folder}/")
    assert done.returncode == 0, done.stderr.decode()
    done = alice.run("rsync", "-a", "-e", shell, f"{job.host}:{folder}/", str(alice.home / "returned"))
    assert done.returncode == 0, done.stderr.decode()
    assert (alice.home / "returned" / "below" / "a file's name").read_text() == "content"


def test_a_forwarded_port_reaches_a_server_in_the_job(alice: Laptop, job: Job) -> None:
    ssh = alice.configure_ssh()
    server = (
        "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler);"
        " print(s.server_port, flush=True); s.serve_forever()"
    )
    process = alice.popen(
        *ssh, job.host, f'cd "$(mktemp -d)"; echo from the job > page; exec python3 -c "{server}"',
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    tunnel = None
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            local = probe.getsockname()[1]
        tunnel = alice.popen(*ssh, "-N", "-L", f"127.0.0.1:{local}:127.0.0.1:{port}", job.host)

        def page() -> bytes:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{local}/page", timeout=5) as response:
                    return bytes(response.read())
            except OSError:
                return b""

        assert until(page, "the page") == b"from the job\n"
    finally:
        for started in (process, tunnel):
            if started is not None:
                end(started)
                if started.stdout is not None:
                    started.stdout.close()


def test_list_shows_the_job_as_online(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("list")
    assert done.returncode == 0, done.stderr.decode()
    lines = [line.split() for line in done.stdout.decode().splitlines() if job.host in line]
    assert [(line[0], line[-1]) for line in lines] == [("Online", job.host)]


def test_two_users_work_in_their_own_jobs_at_once(
    alice: Laptop, job: Job, laptop: Callable[[str], Laptop]
) -> None:
    bob = laptop("bob")
    with running(bob) as other:
        answers: dict[str, subprocess.CompletedProcess[bytes]] = {}

        def work(user: Laptop, place: Job) -> None:
            command = "head -c 3000000 /dev/zero | wc -c; echo $TRAINING_JOB_NAME"
            answers[place.name] = user.ssh(place.host, command)

        threads = [threading.Thread(target=work, args=pair) for pair in ((alice, job), (bob, other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for place in (job, other):
            words = answers[place.name].stdout.decode().split()
            assert (words[0], words[-1]) == ("3000000", place.name), answers[place.name].stderr.decode()


def test_a_killed_ssh_leaves_no_process_and_no_session(alice: Laptop, job: Job) -> None:
    ssh = alice.configure_ssh()
    process = alice.popen(
        *ssh, job.host, "echo in; exec sleep 1000", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"in\n"
    proxies = _proxies_of(job.host)
    assert proxies
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    until(lambda: not _proxies_of(job.host), "start-proxy to end")
    ssm = alice.client("ssm")
    until(lambda: not ssm.describe_sessions(State="Active")["Sessions"], "the session to be over")


def test_the_job_goes_on_when_the_wait_is_stopped(alice: Laptop) -> None:
    job = launch(alice, SCRIPT)
    job.wait_online()
    assert "started after the wait" not in job.log()
    done = alice.ssh(job.host, "sm-wait stop")
    assert done.returncode == 0, done.stderr.decode()
    described = job.wait_ended()
    assert described["TrainingJobStatus"] == "Completed", job.log()
    artefact = described["ModelArtifacts"]["S3ModelArtifacts"]
    bucket, _, key = artefact.removeprefix("s3://").partition("/")
    assert alice.client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"] > 0
    assert "started after the wait" in job.log()


def test_a_job_that_waits_for_nobody_runs_at_once_and_is_reachable(alice: Laptop) -> None:
    script = """
    import os, time
    print("running", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.05)
    """
    job = launch(alice, script, wait=0)
    try:
        until(lambda: "running" in job.log(), "the script to run")
        job.wait_online()
        # A login begins in the job's own folder.
        assert alice.ssh(job.host, "touch go").returncode == 0
        assert job.wait_ended()["TrainingJobStatus"] == "Completed"
    finally:
        if job.describe()["TrainingJobStatus"] == "InProgress":
            job.stop()


def test_the_second_node_of_a_job_has_a_name(alice: Laptop) -> None:
    resources = {"InstanceType": "ml.m5.large", "InstanceCount": 3, "VolumeSizeInGB": 10}
    with running(alice, ResourceConfig=resources) as job:
        second = f"algo-2.{job.name}.training.sagemaker"
        until(lambda: len(job.instances()) == 2, "two nodes to register")
        done = alice.ssh(second, "grep -o 'current_host[^,]*' /opt/ml/input/config/resourceconfig.json")
        assert done.stdout.decode().strip() == 'current_host": "algo-2"', done.stderr.decode()
        left_out = "no ssh on algo-3: SSH_INSTANCE_COUNT leaves it out"
        until(lambda: left_out in job.log(), "the third node to say that it is left out")

        # From one node to another, with the job's own key. The other one may not know our address yet.
        done = alice.ssh(job.host, FROM_NODE_TO_NODE)
        assert done.stdout.decode().splitlines() == ['current_host": "algo-2"', "same", "no key"]
        said = done.stderr.decode()
        assert "algo-3 has no ssh here: SSH_INSTANCE_COUNT is 2." in said
        # Another key is not admitted.
        assert "Permission denied (publickey)" in said


FROM_NODE_TO_NODE = """
until ssh -o BatchMode=yes algo-2 true 2>first; do sleep 0.1; done
ssh algo-2 "grep -o 'current_host[^,]*' /opt/ml/input/config/resourceconfig.json"
head -c 100000 /dev/urandom > here
scp -q here algo-2:there
ssh algo-2 ssh algo-1 cat here | cmp - here && ssh algo-2 cat there | cmp - here && echo same
printenv SSH_NODE_KEY || echo no key
ssh algo-3 true
ssh-keygen -q -t ed25519 -N '' -f mine
pin="-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=known"
ssh -F none -p 22022 -i mine -o BatchMode=yes $pin algo-2
"""


def _proxies_of(host: str) -> "list[str]":
    """The processes of start-proxy for this host, by their command lines."""
    found = subprocess.run(
        ["pgrep", "-f", f"start-proxy.*{host}"], capture_output=True, text=True, check=False
    )
    return found.stdout.split()
