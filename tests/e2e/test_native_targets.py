"""A training job that nobody prepared: remote debugging turned on while it runs, a shell in it, and ssh."""

import io
import json
import os
import re
import secrets
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.laptop import SM_SSH, Job, Laptop, launch, until
from local_cloud import LocalCloud

HOLD = "import time; print('begun', flush=True); time.sleep(600)"


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    """One that was launched without ssh, with remote debugging turned on by now."""
    job = launch(alice, HOLD, ssh=False)
    done = alice.sm_ssh("connect", "--no-wait", job.host)
    assert done.returncode == 5
    assert f"sm-ssh enable {job.name}" in done.stderr.decode()
    done = alice.sm_ssh("enable", job.host)
    assert done.returncode == 0, done.stderr.decode()
    yield job
    job.stop()


def test_a_shell_by_the_job_s_name(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("session", job.name, stdin=b"echo $TRAINING_JOB_NAME $((6 * 7))\nexit\n")
    assert done.returncode == 0, done.stderr.decode()
    assert f"{job.name} 42\r\n".encode() in done.stdout


def test_a_shell_by_the_target_of_systems_manager(alice: Laptop, job: Job) -> None:
    target = f"sagemaker-training-job:{job.name}_algo-1"
    done = alice.sm_ssh("session", target, stdin=b"echo $((6 * 7))\nexit\n")
    assert done.returncode == 0, done.stderr.decode()
    assert b"42\r\n" in done.stdout


def test_ssh_by_a_relay_that_is_brought_once(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("exec", job.host, "--", "sh", "-c", "cat; echo err >&2; exit 7", stdin=b"in")
    assert (done.returncode, done.stdout) == (7, b"in"), done.stderr.decode()
    assert b"bringing a relay for ssh" in done.stderr
    assert done.stderr.endswith(b"err\n")

    again = alice.sm_ssh("exec", job.host, "--", "echo $TRAINING_JOB_NAME")
    assert (again.returncode, again.stdout) == (0, job.name.encode() + b"\n"), again.stderr.decode()
    assert again.stderr == b""


def test_plain_ssh_and_the_key_it_checks(alice: Laptop, job: Job) -> None:
    done = alice.ssh(job.host, "echo $((6 * 7))")
    assert (done.returncode, done.stdout) == (0, b"42\n"), done.stderr.decode()
    known = alice.sm_ssh("known-hosts", job.host).stdout.decode()
    assert known.startswith(f"{job.host} ssh-ed25519 ")
    assert known.endswith(f" sagemaker-training-job:{job.name}_algo-1\n")


def test_every_byte_is_carried_both_ways(alice: Laptop, job: Job) -> None:
    content = bytes(range(256)) * 40 + os.urandom(1 << 20)
    done = alice.sm_ssh("exec", job.host, "--", "cat", stdin=content)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == content


def test_plugin_cannot_carry_it(alice: Laptop, job: Job) -> None:
    plugin = alice.home / "bin" / "session-manager-plugin"
    plugin.parent.mkdir(exist_ok=True)
    plugin.write_text("#!/bin/sh\nexit 1\n")
    plugin.chmod(0o700)
    path = f"{plugin.parent}{os.pathsep}{alice.env['PATH']}"
    done = alice.sm_ssh("exec", "--via", "plugin", job.host, "--", "true", env={"PATH": path})
    assert done.returncode == 255
    assert b"--via plugin carries no ssh to a target of SageMaker's own" in done.stderr


def test_status_and_doctor_know_it(alice: Laptop, job: Job) -> None:
    status = alice.sm_ssh("status", job.host)
    assert status.returncode == 0
    assert b"reachable  yes" in status.stdout
    doctor = alice.sm_ssh("doctor", job.host)
    assert b"SageMaker's own agent serves it" in doctor.stdout
    assert b"a shell was granted, and ended" in doctor.stdout


def test_logs_are_the_job_s_own(alice: Laptop, job: Job) -> None:
    until(lambda: "begun" in job.log(), "the job's line")
    # The agent of the service writes some, too.
    until(lambda: "= online" in job.log(), "the agent's lines")
    done = alice.sm_ssh("logs", job.host)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [b"begun"]


def test_disable_ends_it(alice: Laptop) -> None:
    job = launch(alice, HOLD, ssh=False)
    assert alice.sm_ssh("enable", job.host).returncode == 0
    assert alice.sm_ssh("disable", job.host).returncode == 0
    done = alice.sm_ssh("session", job.host, stdin=b"exit\n")
    assert done.returncode == 255
    assert b"error[not-instrumented]" in done.stderr
    job.stop()


NODE = 'grep -o \'"current_host": *"[^"]*\' ${SAGEMAKER_BASE_DIR:-/opt/ml}/input/config/resourceconfig.json'


@pytest.mark.parametrize("helpers", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_every_node_runs_a_command(alice: Laptop, helpers: int) -> None:
    resources = {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 10}
    debug = {"EnableRemoteDebug": True}
    job = launch(
        alice, HOLD, ssh=helpers > 0, ssh_nodes=helpers, ResourceConfig=resources, RemoteDebugConfig=debug
    )
    until(lambda: job.log().count("= online") >= 2, "the agents of the service")
    if helpers:
        job.wait_online()

    hosts = [f"{node}.{job.host}" for node in ("algo-1", "algo-2")]
    done = alice.sm_ssh("exec", "--all", "--json", job.host, "--", NODE)
    assert done.returncode == 0, done.stderr.decode()
    ran = json.loads(done.stdout)["containers"]
    told = [(run["host"], run["stdout"].split('"')[-1].strip()) for run in ran]
    assert told == [(host, host.partition(".")[0]) for host in hosts]

    ids = [alice.sm_ssh("known-hosts", host).stdout.decode().split()[-1] for host in hosts]
    native = [f"sagemaker-training-job:{job.name}_algo-{number}" for number in (1, 2)]
    assert ids[helpers:] == native[helpers:]
    assert all(name.startswith("mi-") for name in ids[:helpers])
    job.stop()


PREFERENCES = "SSM-SessionManagerRunShell"


@pytest.fixture
def bare_image(laptop: Callable[[str], Laptop], tmp_path: Path) -> Iterator[None]:
    """The shells of the account's sessions see another file system, with a shell in it and nothing else."""
    root = tmp_path / "image"
    loaded = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    for file in ["/bin/sh", *re.findall(r"(/\S+) \(0x", loaded)]:
        copy = root / file.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    chroot = ["chroot"] if os.getuid() == 0 else ["unshare", "-r", "chroot"]
    profile = {"linux": " ".join(["exec", *chroot, str(root), "/bin/sh"])}
    content = {"schemaVersion": "1.0", "sessionType": "Standard_Stream", "inputs": {"shellProfile": profile}}
    ssm = laptop("admin").client("ssm")
    before = ssm.get_document(Name=PREFERENCES)["Content"]
    ssm.update_document(Name=PREFERENCES, Content=json.dumps(content), DocumentVersion="$LATEST")
    yield
    ssm.update_document(Name=PREFERENCES, Content=before, DocumentVersion="$LATEST")


@pytest.mark.usefixtures("bare_image")
def test_an_image_without_python_has_a_shell_and_no_ssh(laptop: Callable[[str], Laptop], job: Job) -> None:
    alice = laptop("alice")
    told = (
        f"sm-ssh: error[ssh-server-down]: no ssh server can be started in {job.host}: its image has no "
        "Python 3.8 or later (its shell found none as python3, python, /opt/conda/bin/python3 or "
        "/usr/local/bin/python3). Install Python 3.8 or later in the image, or take a plain shell: "
        f"sm-ssh session {job.host}"
    )
    by_command, by_ssh = alice.sm_ssh("connect", job.host), alice.ssh(job.host, "true")
    for done in (by_command, by_ssh):
        assert (done.stdout, [told]) == (b"", _errors(done)), done.stderr.decode()
    assert (by_command.returncode, by_ssh.returncode) == (5, 255)

    shell = alice.sm_ssh("session", job.host, stdin=b"echo $((6 * 7))\nexit\n")
    assert shell.returncode == 0, shell.stderr.decode()
    assert b"42\r\n" in shell.stdout


def _errors(done: "subprocess.CompletedProcess[bytes]") -> list[str]:
    """The lines on standard error, without ssh's own about the connection."""
    lines = done.stderr.decode().splitlines()
    return [line for line in lines if not line.startswith(("Connection closed by", "kex_exchange"))]


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A job without the helper in a cloud that an ordinary user runs: its containers are that user's."""
    # A user namespace where the cloud and its jobs are number 1000, with an account and without any rights.
    folder = tmp_path_factory.mktemp("ordinary")
    home = folder / "home"
    home.mkdir()
    accounts = folder / "passwd"
    accounts.write_text(
        "root:x:0:0:root:/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/bin/false\n"
        f"plain:x:1000:1000::{home}:/bin/sh\n"
    )
    outer = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "-m", "sh", "-c"]
    inner = ["unshare", "-U", "--map-user=1000", "--map-group=1000", "--"]
    within = [*outer, f'mount --bind {accounts} /etc/passwd && exec "$@"', "sh", *inner]
    with LocalCloud(folder / "cloud", within=within) as cloud:
        alice = Laptop(cloud.info, "alice", folder)
        job = launch(alice, HOLD, ssh=False, RemoteDebugConfig={"EnableRemoteDebug": True})
        until(lambda: "= online" in job.log(), "the agent of the service")
        yield job


def test_ssh_as_an_ordinary_user(ordinary: Job) -> None:
    done = ordinary.laptop.sm_ssh("exec", ordinary.host, "--", "id -un; id -u; echo $TRAINING_JOB_NAME")
    told = f"plain\n1000\n{ordinary.name}\n"
    assert (done.returncode, done.stdout.decode()) == (0, told), done.stderr.decode()
    assert done.stderr.decode().splitlines() == [f"sm-ssh: bringing a relay for ssh into {ordinary.host}"]


@pytest.mark.soak
def test_plain_ssh_as_an_ordinary_user(ordinary: Job, tmp_path: Path) -> None:
    # It has to be told the name before anybody can know it, and knows it from then on.
    bob, host = Laptop(ordinary.laptop.info, "bob", tmp_path), ordinary.host
    unknown = bob.ssh(host, "true")
    assert unknown.returncode == 255
    assert f"error[wrong-user]: {host} admits 'plain' only, not 'root'" in unknown.stderr.decode()
    known = bob.ssh(host, "id -un")
    assert (known.returncode, known.stdout) == (0, b"plain\n"), known.stderr.decode()


SERVING = b"def predict_fn(data, model):\n    return [x * 2 for x in data]\n"


def endpoint_in_service(laptop: Laptop, name: str) -> None:
    described = laptop.client("sagemaker").describe_endpoint
    status = until(
        lambda: (
            (found := described(EndpointName=name)["EndpointStatus"]) not in ("Creating", "Updating")
            and found
        ),
        f"{name} to serve",
        60,
    )
    assert status == "InService", described(EndpointName=name)


@pytest.fixture(scope="module")
def endpoint(alice: Laptop) -> Iterator[str]:
    """One of two instances that take sessions, and that has no helper."""
    name = f"endpoint-{secrets.token_hex(4)}"
    bucket = f"sagemaker-{alice.info['region']}-{alice.info['account_id']}"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("code/inference.py")
        member.size = len(SERVING)
        tar.addfile(member, io.BytesIO(SERVING))
    s3, sagemaker = alice.client("s3"), alice.client("sagemaker")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key=f"{name}.tar.gz", Body=buffer.getvalue())
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=alice.info["role_arn"],
        PrimaryContainer={
            "Image": "image",
            "ModelDataUrl": f"s3://{bucket}/{name}.tar.gz",
            "Environment": {"SAGEMAKER_PROGRAM": "inference.py"},
        },
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[{**variant(name), "InitialInstanceCount": 2, "EnableSSMAccess": True}],
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    endpoint_in_service(alice, name)
    yield name
    sagemaker.delete_endpoint(EndpointName=name)


def variant(name: str) -> dict[str, str]:
    return {"VariantName": "one", "ModelName": name, "InstanceType": "ml.m5.large"}


def test_an_endpoint_without_the_helper(alice: Laptop, endpoint: str) -> None:
    host = f"{endpoint}.inference.sagemaker"
    done = alice.ssh(host, "printenv SAGEMAKER_PROGRAM")
    assert (done.returncode, done.stdout) == (0, b"inference.py\n"), done.stderr.decode()
    known = alice.sm_ssh("known-hosts", host).stdout.decode().split()[-1]
    assert re.fullmatch(rf"sagemaker-endpoint:{endpoint}_one_i-[0-9a-f]{{17}}", known)

    # Each instance is a server of its own, on a port of its own.
    done = alice.sm_ssh("exec", "--all", "--json", host, "--", "printenv SAGEMAKER_BIND_TO_PORT")
    assert done.returncode == 0, done.stderr.decode()
    ran = json.loads(done.stdout)["containers"]
    assert [run["host"] for run in ran] == [f"algo-1.{host}", f"algo-2.{host}"]
    assert len({run["stdout"] for run in ran}) == 2


def test_logs_of_an_endpoint_are_its_model_s_own(alice: Laptop, endpoint: str) -> None:
    logs = alice.client("logs")
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    until(lambda: "= online" in str(logs.filter_log_events(logGroupName=group)), "the agents' lines")
    done = alice.sm_ssh("logs", f"{endpoint}.inference.sagemaker")
    assert (done.returncode, done.stdout) == (0, b""), done.stderr.decode()


@pytest.mark.soak
def test_an_endpoint_takes_no_sessions_any_more(alice: Laptop, endpoint: str) -> None:
    # Turned off as it is turned on, by another configuration: the sessions end with the instances.
    host, off = f"{endpoint}.inference.sagemaker", f"{endpoint}-off"
    sagemaker = alice.client("sagemaker")
    sagemaker.create_endpoint_config(
        EndpointConfigName=off, ProductionVariants=[{**variant(endpoint), "InitialInstanceCount": 1}]
    )
    cat = alice.popen(
        *SM_SSH, "exec", host, "--", "echo in; cat", stdin=-1, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert cat.stdin is not None
    assert cat.stdout is not None
    assert cat.stderr is not None
    with cat.stdin, cat.stdout, cat.stderr:
        assert cat.stdout.readline() == b"in\n"
        sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=off)
        assert cat.wait(60) == 255
        assert b"The container has ended." in cat.stderr.read()
    endpoint_in_service(alice, endpoint)
    done = alice.sm_ssh("connect", host, "true")
    assert (done.returncode, b"error[not-instrumented]" in done.stderr) == (5, True), done.stderr.decode()


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("sagemaker-cluster:abc123_workers-i-0123456789abcdef0", marks=pytest.mark.soak),
        "arn:aws:sagemaker:{account}:space/d-abcdef123456/my-space",
    ],
)
def test_nodes_of_clusters_and_spaces(
    e2e_cloud: LocalCloud, laptop: Callable[[str], Laptop], target: str
) -> None:
    admin = laptop("admin")
    target = target.format(account=f"{admin.info['region']}:{admin.info['account_id']}")
    e2e_cloud.faults(kind="native-node", target=target)
    typed = b"echo $((6 * 7))\nexit\n"
    shell = until(
        lambda: (done := admin.sm_ssh("session", target, stdin=typed)).returncode == 0 and done,
        f"a shell in {target}",
    )
    assert b"42\r\n" in shell.stdout
    done = admin.sm_ssh("exec", target, "--", "sh", "-c", "cat; exit 7", stdin=b"in")
    assert (done.returncode, done.stdout) == (7, b"in"), done.stderr.decode()
    e2e_cloud.clear_faults()
