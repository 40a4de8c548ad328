"""The programs of ``examples/``, each in a local cloud, with ssh into what it started."""

import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import IO, Iterator, List

import pytest

from e2e import sdk_programs
from e2e.laptop import Laptop
from local_cloud import LocalCloud

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.timeout(sdk_programs.TIMEOUT)

REGION_OF_OTHERS = "eu-west-2"

SPARK_SUBMIT = """
    #!/bin/sh
    # Spark's images have a program of this name that gives the script to Spark; here Python runs it.
    for last; do :; done
    exec python "$last"
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud with the programs of the images that the examples name: it runs what is on its PATH."""
    programs = tmp_path_factory.mktemp("image")
    (programs / "smspark-submit").write_text(textwrap.dedent(SPARK_SUBMIT).lstrip())
    (programs / "smspark-submit").chmod(0o755)
    path = os.pathsep.join([str(EXAMPLES / "images" / "training"), str(programs), os.environ["PATH"]])
    with LocalCloud(tmp_path_factory.mktemp("cloud"), environment={"PATH": path}) as cloud:
        yield cloud


@pytest.fixture
def alice(cloud: LocalCloud, tmp_path: Path) -> Laptop:
    return Laptop(cloud.info, "alice", tmp_path)


class Example:
    """
    A running example. Everything that it prints is read as it comes; use it as a context.

    Args:
        command: the interpreter, as ``sdk_programs.command`` gives it.
    """

    def __init__(self, laptop: Laptop, command: List[str]) -> None:
        self.laptop = laptop
        self.said = ""
        self._changed = threading.Condition()
        laptop.env["PYTHONUNBUFFERED"] = "1"
        self._process = laptop.popen(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)

    def __enter__(self) -> "Example":
        self._reader.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(timeout=10)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def host(self, kind: str) -> str:
        """The host name that it tells for what it has launched of this kind."""
        pattern = re.compile(rf"sm-ssh connect (?:--\S+ \S+ )*(\S+\.{kind}\.sagemaker)\n")

        def told() -> bool:
            return pattern.search(self.said) is not None or not self._reader.is_alive()

        with self._changed:
            assert self._changed.wait_for(told, timeout=180), self.said
            found = pattern.search(self.said)
        assert found is not None, self.said
        return found.group(1)

    def look_into(self, kind: str) -> str:
        """Log in to what it has launched, and let it go on; the ids that are told there."""
        host = self.host(kind)
        done = self.laptop.sm_ssh("connect", host, "printenv START_SSH; hostname; sm-wait stop")
        assert done.stdout.decode().startswith("true\n"), (self.said, done.stderr.decode())
        return host

    def end(self) -> str:
        """Press Enter, and wait until it ends well; all that it said."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        assert self._process.wait(timeout=90) == 0, self.said
        self._reader.join(timeout=10)
        return self.said

    def _read(self, stream: IO[bytes]) -> None:
        for line in iter(stream.readline, b""):
            with self._changed:
                self.said += line.decode()
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


def run(laptop: Laptop, name: str, *arguments: str) -> Example:
    command = sdk_programs.command(2, laptop, str(EXAMPLES / name), laptop.info["role_arn"], *arguments)
    return Example(laptop, command)


def test_every_example_is_listed() -> None:
    listed = re.findall(r"^\| `(\w+\.py)` \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.py"))


def test_boto3_job(alice: Laptop) -> None:
    bucket = f"sagemaker-{alice.info['region']}-{alice.info['account_id']}"
    alice.client("s3").create_bucket(Bucket=bucket)
    command = [sys.executable, str(EXAMPLES / "boto3_job.py"), alice.info["role_arn"], bucket]
    with Example(alice, command) as example:
        example.look_into("training")
        assert "Completed" in example.end()


@pytest.mark.sdk
@pytest.mark.matrix
def test_placeholder(alice: Laptop, cloud: LocalCloud) -> None:
    with run(alice, "placeholder.py") as example:
        host = example.host("training")
        ask = "from sagemaker_ssh_helper import *; print(is_profiler_issues_found())"
        found = {"training_job": host.partition(".")[0], "rule": "LowGPUUtilization", "status": "IssuesFound"}
        with cloud.fault(kind="rule-status", **found):
            done = alice.sm_ssh("connect", host, f"python -c '{ask}'")
            assert done.stdout == b"True\n", (example.said, done.stderr.decode())
            assert alice.sm_ssh("stop", "--yes", host).returncode == 0
            assert "LowGPUUtilization IssuesFound" in example.end()


@pytest.mark.sdk
def test_tuning(alice: Laptop) -> None:
    with run(alice, "tuning.py") as example:
        host = example.look_into("training")
        # The best of one job is that job.
        assert host.split(".")[0] in example.end().splitlines()


@pytest.mark.sdk
@pytest.mark.matrix
def test_estimator(alice: Laptop) -> None:
    with run(alice, "estimator.py") as example:
        example.look_into("training")
        assert "Completed" in example.end()


@pytest.mark.sdk
@pytest.mark.matrix
def test_own_image(alice: Laptop) -> None:
    with run(alice, "own_image.py") as example:
        example.look_into("training")
        example.look_into("inference")
        assert "[2, 4, 6]" in example.end()


@pytest.mark.sdk
@pytest.mark.matrix
def test_other_region(cloud: LocalCloud, alice: Laptop) -> None:
    region = alice.env["AWS_REGION"]
    alice.env["AWS_REGION"] = alice.env["AWS_DEFAULT_REGION"] = REGION_OF_OTHERS
    with run(alice, "other_region.py", region) as example:
        assert f"{region}.console.aws.amazon.com" in example.host("processing") + example.said
        alice.env["AWS_REGION"] = alice.env["AWS_DEFAULT_REGION"] = region
        example.look_into("processing")
        assert "mi-" in example.end()


@pytest.mark.sdk
@pytest.mark.matrix
@pytest.mark.parametrize("name", ["processing_script.py", "processing_spark.py"])
def test_processing(alice: Laptop, name: str) -> None:
    with run(alice, name) as example:
        example.look_into("processing")
        example.end()


@pytest.mark.sdk
@pytest.mark.matrix
@pytest.mark.parametrize(
    "name", ["endpoint.py", "large_model.py", "multi_model.py", "multi_model_of_model.py"]
)
def test_endpoints(alice: Laptop, name: str) -> None:
    with run(alice, name) as example:
        example.look_into("inference")
        assert "[2, 4, 6]" in example.end()


@pytest.mark.sdk
@pytest.mark.matrix
def test_transform(cloud: LocalCloud, alice: Laptop) -> None:
    with run(alice, "transform.py") as example:
        example.look_into("transform")
        place = example.end().splitlines()[-1]
    bucket, _, key = place.removeprefix("s3://").partition("/")
    answer = cloud.client("s3").get_object(Bucket=bucket, Key=f"{key}/data.json.out")
    assert answer["Body"].read() == b"[2, 4, 6]"
