"""
A local cloud in a process of its own, and one of its users who runs training jobs there with boto3.
"""

import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config

LOG_GROUP = "/aws/sagemaker/TrainingJobs"

START = "from sagemaker_ssh_helper.cli.main import main; raise SystemExit(main())"

# Becomes uid 65534 without a right but to read: interpreters may live below a root user's private home.
AS_NOBODY = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
right = 1 << 2  # CAP_DAC_READ_SEARCH
libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(right, right, right, 0, 0, 0))
libc.prctl(47, 2, 2, 0, 0)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE
os.execv(sys.argv[1], sys.argv[1:])
"""


# Stays whoever it is, without the right to mount.
WITHOUT_MOUNTS = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 21, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_SYS_ADMIN
os.execv(sys.argv[1], sys.argv[1:])
"""


class JobCloud:
    """
    ``sm-ssh emulator start --json`` with a home of its own below ``folder``; ended at the end of the block.

    Args:
        options: more options of the command.
        prefix: a command line that runs the command after it.
        environment: more variables for the cloud.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        self.temporary.chmod(0o777)  # also for a cloud that runs as somebody else
        self._command = [
            *prefix,
            sys.executable,
            "-c",
            START,
            "emulator",
            "start",
            "--json",
            "--until-eof",
            *options,
        ]
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.temporary),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            **(environment or {}),
        }

    def __enter__(self) -> "JobCloud":
        self.process = subprocess.Popen(
            self._command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.communicate(timeout=30)
        assert line, f"the cloud did not start: status {self.process.returncode}"
        self.info: dict[str, Any] = json.loads(line)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=60)

    def user(self, name: str = "alice") -> "User":
        return User(self.info, name)


class User:
    """One user of a cloud: clients, a bucket, and short ways to run a job and see how it went."""

    _numbers = itertools.count(1)

    def __init__(self, info: Mapping[str, Any], name: str) -> None:
        self.info = info
        self.keys = next(user for user in info["users"] if user["name"] == name)
        self.session = botocore.session.Session()
        self.session.set_credentials(self.keys["access_key_id"], self.keys["secret_access_key"])
        self._clients: dict[str, Any] = {}
        self.bucket = f"sagemaker-{info['region']}-{info['account_id']}"

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = self.session.create_client(
                service,
                region_name=self.info["region"],
                endpoint_url=self.info["endpoint_url"],
                verify=self.info.get("ca_file"),
                config=Config(retries={"total_max_attempts": 1}),
            )
        return self._clients[service]

    @property
    def sagemaker(self) -> Any:
        return self.client("sagemaker")

    @property
    def s3(self) -> Any:
        s3 = self.client("s3")
        if "Buckets" in s3.list_buckets() and not s3.list_buckets()["Buckets"]:
            s3.create_bucket(Bucket=self.bucket)
        return s3

    def put(self, key: str, body: bytes) -> str:
        """An object in the user's bucket; returns its URI."""
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
        return f"s3://{self.bucket}/{key}"

    def get(self, uri: str) -> bytes:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        body: bytes = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return body

    def new_name(self, what: str = "job") -> str:
        return f"{what}-{os.getpid()}-{next(self._numbers)}"

    def request(self, script: str | Mapping[str, str | bytes], **members: Any) -> dict[str, Any]:
        """
        A valid request for a job in script mode.

        Args:
            script: the source of ``train.py``, or all files by name, the first being the program.
            members: replace or add members; HyperParameters are added to those of script mode.
        """
        files = {"train.py": script} if isinstance(script, str) else script
        name = members.pop("TrainingJobName", None) or self.new_name()
        code = self.put(f"{name}/source/sourcedir.tar.gz", archive(files))
        hyperparameters = {
            "sagemaker_program": json.dumps(next(iter(files))),
            "sagemaker_submit_directory": json.dumps(code),
            **members.pop("HyperParameters", {}),
        }
        return {
            "TrainingJobName": name,
            "RoleArn": self.info["role_arn"],
            "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
            "OutputDataConfig": {"S3OutputPath": f"s3://{self.bucket}/output"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": 300},
            "HyperParameters": hyperparameters,
            **members,
        }

    def start(self, script: str | Mapping[str, str | bytes], **members: Any) -> str:
        """A started job; returns its name. Arguments as for ``request``."""
        request = self.request(script, **members)
        self.sagemaker.create_training_job(**request)
        return str(request["TrainingJobName"])

    def describe(self, name: str) -> dict[str, Any]:
        described: dict[str, Any] = self.sagemaker.describe_training_job(TrainingJobName=name)
        return described

    def wait(
        self,
        name: str,
        condition: Callable[[Mapping[str, Any]], object] = lambda job: (
            job["TrainingJobStatus"] in ("Completed", "Failed", "Stopped")
        ),
    ) -> dict[str, Any]:
        """What DescribeTrainingJob says once the condition holds; without one, once the job has ended."""
        return until(lambda: (job := self.describe(name)) and condition(job) and job, f"{name} to get there")

    def run(self, script: str | Mapping[str, str | bytes], **members: Any) -> dict[str, Any]:
        """How a job ended. Arguments as for ``request``."""
        return self.wait(self.start(script, **members))

    def log(self, name: str, group: str = LOG_GROUP) -> list[str]:
        """The lines of the job's log so far."""
        logs = self.client("logs")
        try:
            pages = logs.get_paginator("describe_log_streams").paginate(
                logGroupName=group, logStreamNamePrefix=f"{name}/"
            )
            streams = [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
        except logs.exceptions.ResourceNotFoundException:
            return []
        lines: list[str] = []
        for stream in streams:
            token: dict[str, str] = {}
            while True:
                page = logs.get_log_events(
                    logGroupName=group, logStreamName=stream, startFromHead=True, **token
                )
                lines += [event["message"] for event in page["events"]]
                if token.get("nextToken") == page["nextForwardToken"]:
                    break
                token = {"nextToken": page["nextForwardToken"]}
        return lines

    def wait_for_line(self, name: str, text: str) -> list[str]:
        """The job's log once a line of it contains the text."""
        return until(
            lambda: (lines := self.log(name)) and any(text in line for line in lines) and lines,
            f"{text!r} in the log of {name}",
        )

    def switch(self, **body: Any) -> None:
        """Turn a switch of the local cloud; for administrators."""
        request = AWSRequest("POST", f"{self.info['endpoint_url']}/_local/faults", data=json.dumps(body))
        SigV4Auth(self.session.get_credentials(), "local", self.info["region"]).add_auth(request)
        answer = botocore.httpsession.URLLib3Session().send(request.prepare())
        assert answer.status_code == 200, answer.text


def archive(files: Mapping[str, str | bytes]) -> bytes:
    """A ``.tar.gz`` of these files; sources may be indented."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            data = textwrap.dedent(content).encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def unpacked(data: bytes) -> dict[str, bytes]:
    """The files of a ``.tar.gz`` by name."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]


def until(condition: Callable[[], Any], what: str, timeout: float = 60) -> Any:
    """The first true value of ``condition``; fails when there was none in time."""
    end_at = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end_at, f"waited {timeout} s for {what}"
        time.sleep(0.02)
