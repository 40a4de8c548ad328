"""
A user's machine for scenarios: a home of its own, a user's keys, and the real commands.
"""

import io
import os
import secrets
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

from sagemaker_ssh_helper.launch import enable_ssh

COMMAND_TIMEOUT = 60  # seconds; far above what any command here takes

SM_SSH = [sys.executable, "-m", "sagemaker_ssh_helper"]


def until(condition: Callable[[], Any], what: str, timeout: float = 30) -> Any:
    """The first true value of ``condition``; fails when there was none in time."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
        time.sleep(0.05)


class Laptop:
    """
    One user at one machine.

    ``info`` is what the local cloud printed, ``user`` the name of one of its users.
    """

    def __init__(self, info: Mapping[str, Any], user: str, folder: Path) -> None:
        self.info = info
        self.user = next(entry for entry in info["users"] if entry["name"] == user)
        self.home = folder / f"home-{user}-{secrets.token_hex(2)}"
        self.home.mkdir(parents=True)
        self._session: Any = None
        self._clients: Dict[str, Any] = {}
        empty = folder / "empty"
        empty.touch()
        keep = {
            name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ
        }
        self.env: Dict[str, str] = {
            **keep,
            "HOME": str(self.home),
            "AWS_ENDPOINT_URL": info["endpoint_url"],
            "AWS_REGION": info["region"],
            "AWS_DEFAULT_REGION": info["region"],
            "AWS_ACCESS_KEY_ID": self.user["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": self.user["secret_access_key"],
            "AWS_CONFIG_FILE": str(empty),
            "AWS_SHARED_CREDENTIALS_FILE": str(empty),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        if info.get("ca_file"):
            self.env["AWS_CA_BUNDLE"] = info["ca_file"]

    def run(
        self, *command: str, stdin: bytes = b"", env: Optional[Mapping[str, str]] = None
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a command to its end; its status is the caller's business."""
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            env={**self.env, **(env or {})},
            cwd=self.home,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )

    def sm_ssh(self, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
        return self.run(*SM_SSH, *arguments, **options)

    def popen(self, *command: str, **options: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, env=self.env, cwd=self.home, **options)

    def session(self) -> Any:
        """A boto3 session of this user; the same for each call."""
        import boto3

        if self._session is None:
            self._session = boto3.Session(
                aws_access_key_id=self.user["access_key_id"],
                aws_secret_access_key=self.user["secret_access_key"],
                region_name=self.info["region"],
            )
        return self._session

    def client(self, service: str) -> Any:
        """A boto3 client of this user; the same for each call, as conditions are asked again and again."""
        if service not in self._clients:
            self._clients[service] = self.session().client(
                service, endpoint_url=self.info["endpoint_url"], verify=self.info.get("ca_file")
            )
        return self._clients[service]

    def python(self, code: str, *arguments: str) -> str:
        """What a Python program of this user prints; it must end well."""
        done = self.run(sys.executable, "-c", textwrap.dedent(code), *arguments)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    @contextmanager
    def at_it(self) -> Iterator[None]:
        """
        This process has the environment of the user's own, so that keys and records go to its home: a process
        for each launch would cost the tests a minute.
        """
        before = dict(os.environ)
        os.environ.clear()
        os.environ.update(self.env)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def configure_ssh(self) -> List[str]:
        """Write the ssh configuration; the words that every ssh of this user begins with."""
        done = self.sm_ssh("config-ssh")
        assert done.returncode == 0, done.stderr.decode()
        return ["ssh", "-F", str(self.home / ".ssh" / "config"), "-o", "BatchMode=yes"]

    def ssh(self, host: str, *words: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
        config = self.home / ".ssh" / "config"
        if not config.exists():
            self.configure_ssh()
        return self.run(
            "ssh", "-F", str(config), "-o", "BatchMode=yes", *words[:-1], host, words[-1], **options
        )


class Job:
    """A training job launched by a laptop's user."""

    def __init__(self, laptop: Laptop, name: str) -> None:
        self.laptop = laptop
        self.name = name
        self.host = f"{name}.training.sagemaker"

    def describe(self) -> Dict[str, Any]:
        described: Dict[str, Any] = self.laptop.client("sagemaker").describe_training_job(
            TrainingJobName=self.name
        )
        return described

    def log(self) -> str:
        """What it has written so far."""
        logs = self.laptop.client("logs")
        try:
            events = logs.filter_log_events(
                logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=f"{self.name}/"
            )["events"]
        except logs.exceptions.ResourceNotFoundException:
            # No job of this cloud has written anything.
            return ""
        # moto passes over the prefix.
        own = [event for event in events if event["logStreamName"].startswith(f"{self.name}/")]
        return "\n".join(event["message"] for event in own)

    def instances(self) -> List[Dict[str, Any]]:
        answer = self.laptop.client("ssm").describe_instance_information(
            Filters=[{"Key": "tag:SSHResourceName", "Values": [self.name]}]
        )
        found: List[Dict[str, Any]] = answer["InstanceInformationList"]
        return found

    def wait_online(self) -> str:
        """Its instance id, once it is online."""

        def online() -> Optional[str]:
            described = self.describe()
            assert described["TrainingJobStatus"] == "InProgress", (described, self.log())
            ids = [found["InstanceId"] for found in self.instances() if found["PingStatus"] == "Online"]
            return ids[0] if ids else None

        try:
            return str(until(online, f"{self.name} to be online"))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from error

    def wait_ended(self) -> Dict[str, Any]:
        def ended() -> Optional[Dict[str, Any]]:
            described = self.describe()
            return described if described["TrainingJobStatus"] not in ("InProgress", "Stopping") else None

        described: Dict[str, Any] = until(ended, f"{self.name} to end", 60)
        return described

    def stop(self) -> None:
        self.laptop.client("sagemaker").stop_training_job(TrainingJobName=self.name)


def launch(
    laptop: Laptop,
    script: str = "print('trained')",
    *,
    wait: int = 600,
    ssh: bool = True,
    ssh_nodes: int = 2,
    keep_program: bool = False,
    files: Mapping[str, bytes] = MappingProxyType({}),
    **request: Any,
) -> Job:
    """
    A job that runs ``script``, which has ``files`` beside it; with ``ssh`` it waits for a connection ``wait``
    seconds, on its first ``ssh_nodes`` nodes.

    With ``keep_program`` the script itself starts ssh: the library is there, and nothing stands before it.
    """
    name = request.pop("name", f"job-{secrets.token_hex(4)}")
    bucket = f"sagemaker-{laptop.info['region']}-{laptop.info['account_id']}"
    key = f"{name}/code/sourcedir.tar.gz"
    s3 = laptop.client("s3")
    s3.create_bucket(Bucket=bucket)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member, content in {"train.py": textwrap.dedent(script).encode(), **files}.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    s3.put_object(Bucket=bucket, Key=key, Body=buffer.getvalue())
    full = {
        "TrainingJobName": name,
        "AlgorithmSpecification": {"TrainingImage": "local/python:3", "TrainingInputMode": "File"},
        "RoleArn": laptop.info["role_arn"],
        "HyperParameters": {
            "sagemaker_program": "train.py",
            "sagemaker_submit_directory": f"s3://{bucket}/{key}",
        },
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/output"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
        **request,
    }
    if ssh:
        with laptop.at_it():
            full = enable_ssh(
                full, laptop.session(), connection_wait_time_seconds=wait, ssh_instance_count=ssh_nodes
            )
        if keep_program:
            full["HyperParameters"]["sagemaker_program"] = "train.py"
    laptop.client("sagemaker").create_training_job(**full)
    return Job(laptop, name)


@contextmanager
def running(laptop: Laptop, script: str = "print('trained')", **options: Any) -> Iterator[Job]:
    """A job that is online, and is stopped afterwards."""
    job = launch(laptop, script, **options)
    try:
        job.wait_online()
        yield job
    finally:
        if job.describe()["TrainingJobStatus"] == "InProgress":
            job.stop()


def end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)
