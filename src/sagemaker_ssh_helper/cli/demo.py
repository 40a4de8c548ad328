"""
The demo: the product's main road from end to end, each step with evidence from the far end.
"""

import contextlib
import fnmatch
import hashlib
import json
import logging
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Protocol, Sequence

from sagemaker_ssh_helper.errors import LocalSetup, SSHHelperError, UsageError
from sagemaker_ssh_helper.names import Env

_COPY_BYTES = 5_000_000
# OpenSSH at both ends is what the demo shows.
_ENVIRONMENT = {Env.SSHD: "openssh"}

# How long each step may take, in seconds; all are far above what a slow machine needs.
_CLOUD_TIMEOUT = 30
_ONLINE_TIMEOUT = 60
_COMMAND_TIMEOUT = 60
_JOB_TIMEOUT = 120

_TRAIN = '''\
"""Fits a line to a few points, and saves it where SageMaker collects models."""

import json
import os
import sys

points = [(x, 3 * x + 1) for x in range(10)]
slope = sum((x - 4.5) * (y - 14.5) for x, y in points) / sum((x - 4.5) ** 2 for x, _ in points)
model = {"job": os.environ["TRAINING_JOB_NAME"], "slope": slope, "arguments": sys.argv[1:]}
with open(os.path.join(os.environ["SM_MODEL_DIR"], "model.json"), "w") as file:
    json.dump(model, file)
print("trained:", model)
'''

# Run in the job, over ssh: a web server whose only page holds a number that nobody else knows.
_WEB_SERVER = """\
import http.server, os, secrets
nonce = secrets.token_hex(16)
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{nonce} {os.environ['TRAINING_JOB_NAME']}".encode())
    def log_message(self, *words):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Page)
print(server.server_port, nonce, flush=True)
server.serve_forever()
"""

_SHA256 = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"


class StepFailed(Exception):
    """A step did not do what it should; the text says why."""


class Reporter(Protocol):
    """Who is told of each step as it begins and ends."""

    def begin(self, step: str) -> None: ...

    def end(self, step: str, seconds: float, evidence: str) -> None: ...

    def say(self, line: str) -> None: ...


MAX_SOURCE_BYTES = 100_000_000
"""Code is small; what is larger is data, or a folder that was not meant."""

_LEFT_OUT = (".git", ".venv*", "__pycache__", ".ssh", ".aws")


class Console:
    """Reports on stdout."""

    def begin(self, step: str) -> None:
        pass

    def end(self, step: str, seconds: float, evidence: str) -> None:
        print(f"{seconds:6.2f} s  {step:<28} {evidence}", flush=True)

    def say(self, line: str) -> None:
        print(line, flush=True)


@dataclass(frozen=True)
class Job:
    """
    What to train: the demo's own script unless one is named.

    ``sources`` are files and folders that go with the script; nothing else that lies beside it does.
    """

    script: Optional[str] = None
    sources: Sequence[str] = ()
    inputs: Dict[str, str] = field(default_factory=dict)
    hyperparameters: Dict[str, str] = field(default_factory=dict)
    sdk: str = "boto3"

    def check(self) -> None:
        """Raises UsageError when a script, a source or an input folder is not there, or there is too much."""
        if self.script is not None:
            if not os.path.isfile(self.script):
                raise UsageError(f"there is no training script {self.script!r}", fix="Name a .py or .sh file")
            if not self.script.endswith((".py", ".sh")):
                raise UsageError(f"{self.script!r} is no .py and no .sh file")
        elif self.sources:
            raise UsageError(
                "--source goes with a script of yours", fix="Name one: sm-ssh demo SCRIPT --source DIR"
            )
        for source in self.sources:
            if not os.path.exists(source):
                raise UsageError(f"there is no source {source!r}", fix="Name a file or a folder")
        size = sum(path.stat().st_size for path in self.files().values())
        if size > MAX_SOURCE_BYTES:
            raise UsageError(
                f"the sources hold {size / 1e6:.0f} MB, and {MAX_SOURCE_BYTES / 1e6:.0f} MB are the most",
                fix="Name less by --source, and give data by --input",
            )
        for channel, folder in self.inputs.items():
            if not os.path.isdir(folder):
                raise UsageError(f"the input channel {channel} names {folder!r}, which is no folder")


    @property
    def program(self) -> str:
        """The script's place among ``files``."""
        script = Path(self.script or "train.py").resolve()
        for source in map(Path, self.sources):
            with contextlib.suppress(ValueError):
                if source.is_dir():
                    return script.relative_to(source.resolve()).as_posix()
        return script.name

    def files(self) -> Dict[str, Path]:
        """What the job gets, by its place there: the script, and the sources but for links to nowhere."""
        if self.script is None:
            return {}
        found: Dict[str, Path] = {}
        for source in map(Path, self.sources):
            if not source.is_dir():
                found[source.name] = source
                continue
            for folder, names, files in os.walk(source):
                names[:] = [name for name in names if not _fits(name, _LEFT_OUT)]
                for name in files:
                    path = Path(folder, name)
                    if path.is_file():
                        found[path.relative_to(source).as_posix()] = path
        found[self.program] = Path(self.script)
        return found


def _fits(name: str, patterns: Sequence[str]) -> bool:
    """Whether a file's name fits one of the patterns."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def run(job: Job, reporter: Reporter, *, shell: bool = False) -> int:
    """
    The exit status of the demo: 0 when every step did what it should, else 1.

    Changes HOME and the AWS variables of this process: everything is kept in a temporary folder. Raises
    UsageError and LocalSetup before anything is started.
    """
    job.check()
    for program in ("ssh", "scp"):
        if shutil.which(program) is None:
            raise LocalSetup(
                f"the demo needs OpenSSH's {program}, which is not in PATH",
                fix="Install it: apt-get install openssh-client (Debian, Ubuntu) or brew install openssh",
            )
    if job.script is not None:
        files = job.files()
        size = sum(path.stat().st_size for path in files.values())
        some = ", ".join([job.program, *sorted(name for name in files if name != job.program)][:6])
        more = f" and {len(files) - 6} more" if len(files) > 6 else ""
        reporter.say(f"the job gets {some}{more}: {size / 1000:.1f} kB")
    demo = _Demo(job, reporter)
    with tempfile.TemporaryDirectory(prefix="sm-ssh-demo-") as folder, contextlib.ExitStack() as stack:
        try:
            demo.run(Path(folder), stack, shell=shell)
        except (StepFailed, SSHHelperError) as error:
            reporter.say(f"demo: FAILED at step {demo.step!r}: {error}")
            demo.show_log()
            return 1
    reporter.say("demo: ok")
    return 0


class _Demo:
    def __init__(self, job: Job, reporter: Reporter) -> None:
        self.job = job
        self.step = ""
        self._reporter = reporter
        self._name = ""
        self._logs: Any = None

    def run(self, folder: Path, stack: contextlib.ExitStack, *, shell: bool) -> None:
        with self._step("start a local cloud") as evidence:
            cloud = _start_cloud(folder, stack)
            evidence.append(cloud["endpoint_url"])
            import boto3

            session = boto3.Session()
            self._logs = session.client("logs")
        with self._step(f"launch a training job ({self.job.sdk})") as evidence:
            launch = _launch_by_sdk_v2 if self.job.sdk == "v2" else _launch_by_boto3
            self._name = launch(self.job, session, cloud["role_arn"], folder)
            evidence.append(self._name)
        host = f"{self._name}.training.sagemaker"
        with self._step("wait for its agent") as evidence:
            evidence.append(self._wait_online(session))
        ssh_config = folder / "home" / ".ssh" / "config"
        with self._step("write the ssh config") as evidence:
            _call([sys.executable, "-m", "sagemaker_ssh_helper", "config-ssh"])
            evidence.append(f"Host *.training.sagemaker in {ssh_config.name}")
        ssh = ["ssh", "-F", str(ssh_config), "-o", "BatchMode=yes"]
        with self._step(f"ssh {host}") as evidence:
            told = _log_in([*ssh, host, "printenv TRAINING_JOB_NAME"]).strip()
            _expect(told == self._name, f"the job calls itself {told!r}, not {self._name!r}")
            pinned = _pinned_key(folder, host)
            evidence.append(f"it says TRAINING_JOB_NAME={told}; host key {pinned}")
        with self._step("copy 5 MB there and back") as evidence:
            evidence.append(_copy_both_ways(ssh, host, folder))
        with self._step("reach a web server in the job") as evidence:
            evidence.append(self._forward(ssh, host))
        if shell:
            self._reporter.say(f"        You are in {host}. Leave with: exit")
            subprocess.run(["ssh", "-F", str(ssh_config), host], check=False)
        with self._step("stop the waiting loop") as evidence:
            evidence.append(_stop_waiting([*ssh, host], may_be_over=shell))
        with self._step("wait for the job to complete") as evidence:
            described = self._wait_ended(session.client("sagemaker"))
            evidence.append(described["TrainingJobStatus"])
        with self._step("find the model in S3") as evidence:
            evidence.append(_model_artefact(session, described))
        if self.job.script is not None:
            self.show_log()

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[List[str]]:
        self.step = name
        self._reporter.begin(name)
        started_at = time.monotonic()
        evidence: List[str] = []
        try:
            yield evidence
        except (subprocess.SubprocessError, OSError) as error:
            raise StepFailed(str(error)) from error
        self._reporter.end(name, time.monotonic() - started_at, "; ".join(evidence))

    def show_log(self) -> None:
        """Say what the job printed, as far as CloudWatch Logs has it."""
        if not self._name:
            return
        try:
            events = self._logs.filter_log_events(
                logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=f"{self._name}/"
            )["events"]
        except Exception as error:  # the log is extra: the demo's verdict stands without it
            self._reporter.say(f"  (the job's log cannot be read: {error})")
            return
        for event in events:
            self._reporter.say(f"  | {event['message']}")

    def _wait_online(self, session: Any) -> str:
        from sagemaker_ssh_helper.manager import SSMManager

        manager = SSMManager(session=session, sleep_between_retries_in_seconds=0.1)
        sagemaker = session.client("sagemaker")
        deadline = time.monotonic() + _ONLINE_TIMEOUT
        while time.monotonic() < deadline:
            found = manager.get_training_instance_ids(self._name, timeout_in_sec=2)
            if found:
                return found[0]
            described = sagemaker.describe_training_job(TrainingJobName=self._name)
            if described["TrainingJobStatus"] != "InProgress":
                reason = described.get("FailureReason", "no reason given")
                raise StepFailed(f"the job is {described['TrainingJobStatus']}: {reason}")
        raise StepFailed(f"no agent of the job was online after {_ONLINE_TIMEOUT} s")

    def _forward(self, ssh: List[str], host: str) -> str:
        with _background([*ssh, host, f"exec python3 -c {_quoted(_WEB_SERVER)}"]) as server:
            assert server.stdout is not None, "a background command has its output piped"
            words = server.stdout.readline().split()
            if len(words) != 2:
                raise StepFailed("the web server in the job did not start")
            remote_port, nonce = words
            local_port = _free_port()
            forward = f"127.0.0.1:{local_port}:127.0.0.1:{remote_port}"
            with _background([*ssh, "-N", "-o", "ExitOnForwardFailure=yes", "-L", forward, host]) as tunnel:
                page = _fetch(f"http://127.0.0.1:{local_port}/", tunnel)
        _expect(page == f"{nonce} {self._name}", "the page that came back is not the one made in the job")
        return f"port {remote_port} there is {local_port} here; its page holds {nonce[:8]}…"

    def _wait_ended(self, sagemaker: Any) -> Dict[str, Any]:
        deadline = time.monotonic() + _JOB_TIMEOUT
        while True:
            described: Dict[str, Any] = sagemaker.describe_training_job(TrainingJobName=self._name)
            status = described["TrainingJobStatus"]
            if status == "Completed":
                return described
            if status not in ("InProgress", "Stopping"):
                raise StepFailed(f"the job is {status}: {described.get('FailureReason', 'no reason given')}")
            if time.monotonic() > deadline:
                raise StepFailed(f"the job was still {described['SecondaryStatus']} after {_JOB_TIMEOUT} s")
            time.sleep(0.1)


def _start_cloud(folder: Path, stack: contextlib.ExitStack) -> Dict[str, Any]:
    home = folder / "home"
    home.mkdir(mode=0o700)
    empty = folder / "aws-config"
    empty.touch()
    for name in [name for name in os.environ if name.startswith(("AWS_", "XDG_", "SSH_", "SM_SSH_"))]:
        del os.environ[name]
    os.environ["HOME"] = str(home)
    cloud = subprocess.Popen(
        # It holds our pipe, so it ends with us even if we are killed.
        [sys.executable, "-m", "sagemaker_ssh_helper", "emulator", "start", "--json", "--until-eof"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    stack.callback(_end, cloud)
    assert cloud.stdout is not None, "the cloud's output is piped"
    line = cloud.stdout.readline()
    if not line:
        raise StepFailed(f"it ended with status {cloud.wait(timeout=_CLOUD_TIMEOUT)}; see above")
    info: Dict[str, Any] = json.loads(line)
    user = info["users"][0]
    os.environ.update(
        AWS_ENDPOINT_URL=info["endpoint_url"],
        AWS_REGION=info["region"],
        AWS_DEFAULT_REGION=info["region"],
        AWS_ACCESS_KEY_ID=user["access_key_id"],
        AWS_SECRET_ACCESS_KEY=user["secret_access_key"],
        AWS_CONFIG_FILE=str(empty),
        AWS_SHARED_CREDENTIALS_FILE=str(empty),
        AWS_EC2_METADATA_DISABLED="true",
    )
    return info


def _source_folder(job: Job, folder: Path) -> "tuple[Path, str]":
    """The folder with the job's code, and the entry point in it."""
    source = folder / "source"
    if job.script is None:
        source.mkdir()
        (source / "train.py").write_text(_TRAIN, encoding="utf-8")
        return source, "train.py"
    for name, path in job.files().items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, source / name)
    return source, job.program


def _bucket(session: Any) -> str:
    account = session.client("sts").get_caller_identity()["Account"]
    bucket = f"sagemaker-{session.region_name}-{account}"
    s3 = session.client("s3")
    if session.region_name == "us-east-1":
        s3.create_bucket(Bucket=bucket)
    else:
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": session.region_name})
    return bucket


def _upload_inputs(job: Job, session: Any, bucket: str) -> Dict[str, str]:
    s3 = session.client("s3")
    locations = {}
    for channel, folder in job.inputs.items():
        prefix = f"demo/input/{channel}"
        locations[channel] = f"s3://{bucket}/{prefix}"
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                s3.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder).as_posix()}")
    return locations


def _launch_by_boto3(job: Job, session: Any, role_arn: str, folder: Path) -> str:
    from sagemaker_ssh_helper.launch import enable_ssh

    bucket = _bucket(session)
    source, program = _source_folder(job, folder)
    archive = folder / "sourcedir.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, arcname=".")
    session.client("s3").upload_file(str(archive), bucket, "demo/code/sourcedir.tar.gz")
    name = f"demo-{secrets.token_hex(4)}"
    request: Dict[str, Any] = {
        "TrainingJobName": name,
        "AlgorithmSpecification": {"TrainingImage": "local/python:3", "TrainingInputMode": "File"},
        "RoleArn": role_arn,
        "HyperParameters": {
            **job.hyperparameters,
            "sagemaker_program": program,
            "sagemaker_submit_directory": f"s3://{bucket}/demo/code/sourcedir.tar.gz",
        },
        "InputDataConfig": [
            {
                "ChannelName": channel,
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": location}},
            }
            for channel, location in _upload_inputs(job, session, bucket).items()
        ],
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/demo/output"},
        "Environment": dict(_ENVIRONMENT),
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    }
    if not request["InputDataConfig"]:
        del request["InputDataConfig"]
    session.client("sagemaker").create_training_job(**enable_ssh(request, session))
    return name


def _launch_by_sdk_v2(job: Job, session: Any, role_arn: str, folder: Path) -> str:
    # Its notices are not about this job, and its reports of use go to an address that the demo has not.
    os.environ["SAGEMAKER_SUPPRESS_V2_WARNING"] = "1"
    settings = folder / "sagemaker.yaml"
    settings.write_text(
        "SchemaVersion: '1.0'\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n", encoding="utf-8"
    )
    os.environ["SAGEMAKER_USER_CONFIG_OVERRIDE"] = str(settings)
    logging.disable(logging.INFO)
    try:
        from sagemaker.estimator import Estimator
        from sagemaker.session import Session
    except ImportError as error:
        raise StepFailed(f"{error}; run: pip install 'sagemaker<3'") from error
    from sagemaker_ssh_helper import archive
    from sagemaker_ssh_helper.wrapper import SSHEstimatorWrapper

    source, program = _source_folder(job, folder)
    (source / archive.LAUNCHER).write_text(archive.launcher_text(program), encoding="utf-8")
    bucket = _bucket(session)
    estimator = Estimator(
        image_uri="local/python:3",
        role=role_arn,
        instance_count=1,
        instance_type="ml.m5.large",
        entry_point=archive.LAUNCHER,
        source_dir=str(source),
        dependencies=[SSHEstimatorWrapper.dependency_dir()],
        hyperparameters=dict(job.hyperparameters),
        environment=dict(_ENVIRONMENT),
        output_path=f"s3://{bucket}/demo/output",
        base_job_name="demo",
        sagemaker_session=Session(boto_session=session, default_bucket=bucket),
    )
    wrapper = SSHEstimatorWrapper.create(estimator, connection_wait_time_seconds=600)
    estimator.fit(_upload_inputs(job, session, bucket) or None, wait=False)
    return wrapper.training_job_name()


def _copy_both_ways(ssh: List[str], host: str, folder: Path) -> str:
    there, back = folder / "there.bin", folder / "back.bin"
    there.write_bytes(os.urandom(_COPY_BYTES))
    remote = _call([*ssh, host, "mktemp -d"]).strip() + "/copy.bin"
    scp = ["scp", "-q", *ssh[1:]]
    _call([*scp, str(there), f"{host}:{remote}"])
    remote_hash = _call([*ssh, host, f"python3 -c {_quoted(_SHA256)} {_quoted(remote)}"]).strip()
    _call([*scp, f"{host}:{remote}", str(back)])
    sent, returned = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (there, back))
    _expect(remote_hash == sent, f"the file arrived as {remote_hash}, and was sent as {sent}")
    _expect(returned == sent, f"the file came back as {returned}, and was sent as {sent}")
    return f"sha256 {sent[:16]}… here, there, and back again"


def _stop_waiting(ssh: List[str], *, may_be_over: bool) -> str:
    try:
        _call([*ssh, "sm-wait stop"])
    except StepFailed as error:
        # A job that has little left to do may end before ssh does. Somebody who was in it may have let it go
        # on there. Whether it then ended well is seen next.
        if not may_be_over and "has ended (SageMaker tells" not in str(error):
            raise
        return "the job has gone on already"
    return "sm-wait stop"


def _model_artefact(session: Any, described: Dict[str, Any]) -> str:
    location = described["ModelArtifacts"]["S3ModelArtifacts"]
    bucket, _, key = location.removeprefix("s3://").partition("/")
    size = session.client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"]
    return f"{location} ({size} bytes)"


def _pinned_key(folder: Path, host: str) -> str:
    known_hosts = folder / "home" / ".config" / "sm-ssh" / "known_hosts"
    found = subprocess.run(
        ["ssh-keygen", "-l", "-F", host, "-f", str(known_hosts)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    lines = [line for line in found.stdout.splitlines() if not line.startswith("#")]
    _expect(bool(lines), "the host key is not pinned in known_hosts")
    return next(word for word in lines[0].split() if word.startswith("SHA256:"))


def _log_in(command: List[str]) -> str:
    """
    What the first command in a container prints.

    ssh settles the login name before it knows the container. One that does not run as root is told of in the
    first attempt, and has its own name in the configuration afterwards.
    """
    try:
        return _call(command)
    except StepFailed as error:
        if "error[wrong-user]" not in str(error):
            raise
        return _call(command)


def _call(command: List[str]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=_COMMAND_TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        said = " / ".join(done.stderr.strip().splitlines()[-3:]) or "no message"
        raise StepFailed(f"{command[0]} ended with status {done.returncode}: {said}")
    return done.stdout


@contextlib.contextmanager
def _background(command: List[str]) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, encoding="utf-8", errors="replace"
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _fetch(url: str, tunnel: "subprocess.Popen[str]") -> str:
    """The page at ``url`` as soon as the tunnel listens; StepFailed when the tunnel ends first."""
    deadline = time.monotonic() + _COMMAND_TIMEOUT
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                body: bytes = response.read()
                return body.decode()
        except urllib.error.URLError as error:
            if tunnel.poll() is not None:
                raise StepFailed(f"ssh ended with status {tunnel.returncode} while forwarding") from error
            if time.monotonic() > deadline:
                raise StepFailed(f"no page came through the forwarded port: {error.reason}") from error
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _quoted(text: str) -> str:
    return shlex.quote(text)


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise StepFailed(otherwise)
