"""How the library comes with requests that say what program runs."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Dict, List

import pytest
from botocore.exceptions import ClientError

from sagemaker_ssh_helper import archive, delivery
from sagemaker_ssh_helper.errors import LaunchRefused

START = ["/bin/sh", "-c", 'p=$(command -v python3 || command -v python) && exec "$p" "$0" "$@"; exec "$@"']


class S3:
    """A session whose only client keeps what is put."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.objects: Dict[str, bytes] = {}
        self._refuses = refuses

    def client(self, service: str) -> "S3":
        assert service == "s3"
        return self

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> None:
        if self._refuses:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")
        self.objects[f"s3://{Bucket}/{Key}"] = Body


def channel(name: str, uri: str, **source: Any) -> Dict[str, Any]:
    return {"ChannelName": name, "DataSource": {"S3DataSource": {"S3Uri": uri, **source}}}


def training(**changes: Any) -> Dict[str, Any]:
    return {
        "AlgorithmSpecification": {
            "TrainingImage": "image",
            "ContainerEntrypoint": ["/bin/bash"],
            "ContainerArguments": ["-c", "run"],
        },
        "OutputDataConfig": {"S3OutputPath": "s3://mine/output/"},
        **changes,
    }


def processing(**changes: Any) -> Dict[str, Any]:
    return {
        "AppSpecification": {"ImageUri": "image", "ContainerEntrypoint": ["python3", "run.py"]},
        **changes,
    }


def test_a_training_job_gets_a_channel_and_is_started_by_ours() -> None:
    s3 = S3()
    changed = delivery.with_library(s3, "job", training())
    assert changed["AlgorithmSpecification"] == {
        "TrainingImage": "image",
        "ContainerEntrypoint": [*START, "/opt/ml/input/data/sagemaker_ssh_helper/start.pyz"],
        "ContainerArguments": ["/bin/bash", "-c", "run"],
    }
    assert changed["InputDataConfig"] == [
        {
            "ChannelName": "sagemaker_ssh_helper",
            "DataSource": {
                "S3DataSource": {
                    "S3DataType": "S3Prefix",
                    "S3Uri": "s3://mine/output/ssh/job/",
                    "S3DataDistributionType": "FullyReplicated",
                }
            },
            "InputMode": "File",
        }
    ]
    assert list(s3.objects) == ["s3://mine/output/ssh/job/start.pyz"]
    assert delivery.with_library(s3, "job", changed) == changed


def test_the_library_lies_beside_the_code() -> None:
    channels = [channel("data", "s3://yours/data"), channel("code", "s3://mine/job/input/code/")]
    changed = delivery.with_library(S3(), "job", training(InputDataConfig=channels))
    source = changed["InputDataConfig"][-1]["DataSource"]["S3DataSource"]
    assert source["S3Uri"] == "s3://mine/job/input/ssh/job/"


def test_all_instance_groups_get_the_library_when_channels_have_groups() -> None:
    groups = [{"InstanceGroupName": name} for name in ("a", "b")]
    request = training(
        InputDataConfig=[channel("data", "s3://yours/data", InstanceGroupNames=["a"])],
        ResourceConfig={"InstanceGroups": groups},
    )
    source = delivery.with_library(S3(), "job", request)["InputDataConfig"][-1]["DataSource"]["S3DataSource"]
    assert source["InstanceGroupNames"] == ["a", "b"]


def test_a_processing_job_gets_an_input_and_is_started_by_ours() -> None:
    s3 = S3()
    code = {"InputName": "code", "S3Input": {"S3Uri": "s3://mine/job/code/run.py"}}
    changed = delivery.with_library(s3, "job", processing(ProcessingInputs=[code]))
    assert changed["AppSpecification"] == {
        "ImageUri": "image",
        "ContainerEntrypoint": [*START, "/opt/ml/processing/input/sagemaker_ssh_helper/start.pyz"],
        "ContainerArguments": ["python3", "run.py"],
    }
    kept, ours = changed["ProcessingInputs"]
    assert kept == code
    assert ours["InputName"] == "sagemaker_ssh_helper"
    assert ours["S3Input"]["S3Uri"] == "s3://mine/job/code/ssh/job/"
    assert ours["S3Input"]["LocalPath"] == "/opt/ml/processing/input/sagemaker_ssh_helper"
    assert list(s3.objects) == ["s3://mine/job/code/ssh/job/start.pyz"]
    assert delivery.with_library(s3, "job", changed) == changed


def test_the_library_of_a_processing_job_without_code_lies_beside_its_outputs() -> None:
    outputs = {"Outputs": [{"OutputName": "o", "S3Output": {"S3Uri": "s3://mine/out"}}]}
    changed = delivery.with_library(S3(), "job", processing(ProcessingOutputConfig=outputs))
    assert changed["ProcessingInputs"][0]["S3Input"]["S3Uri"] == "s3://mine/out/ssh/job/"


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(processing(), id="nothing in S3"),
        pytest.param({"AppSpecification": {"ImageUri": "own"}}, id="processing by the image"),
        pytest.param({"AlgorithmSpecification": {"TrainingImage": "own"}}, id="training by the image"),
        pytest.param({"PrimaryContainer": {"Image": "own"}}, id="a model"),
    ],
)
def test_what_says_no_program_or_has_no_place_stays_as_it_is(request_: Dict[str, Any]) -> None:
    s3 = S3()
    assert delivery.with_library(s3, "job", request_) == request_
    assert not s3.objects


def full(count: int) -> List[str]:
    return [str(number) for number in range(count)]


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (training(InputDataConfig=[channel(name, "s3://a/b") for name in full(20)]), "20 channels"),
        (
            processing(
                ProcessingInputs=[{"InputName": "code", "S3Input": {"S3Uri": "s3://a/b"}}]
                + [{"InputName": name} for name in full(9)]
            ),
            "10 inputs",
        ),
        (
            training(
                AlgorithmSpecification={"ContainerEntrypoint": ["run"], "ContainerArguments": full(100)}
            ),
            "100 words in its command",
        ),
    ],
)
def test_what_has_no_room_is_refused(request_: Dict[str, Any], what: str) -> None:
    with pytest.raises(LaunchRefused, match=f"job has no room for the library: SageMaker takes {what}"):
        delivery.with_library(S3(), "job", request_)


def test_the_command_may_have_as_many_words_as_sagemaker_takes() -> None:
    specification = {"ContainerEntrypoint": ["run"], "ContainerArguments": full(99)}
    changed = delivery.with_library(S3(), "job", training(AlgorithmSpecification=specification))
    assert len(changed["AlgorithmSpecification"]["ContainerArguments"]) == 100


def test_a_refusal_of_s3_says_what_is_missing() -> None:
    with pytest.raises(LaunchRefused, match=r"s3://mine/output/ssh/job: .*AccessDenied") as refused:
        delivery.with_library(S3(refuses=True), "job", training())
    assert "s3:PutObject" in str(refused.value)


PROGRAM = """
import os, sys
import sagemaker_ssh_helper
print(sys.argv[1:], os.path.dirname(os.path.dirname(sagemaker_ssh_helper.__file__)))
"""


def test_the_starter_becomes_the_command_which_may_import_the_library(tmp_path: Path) -> None:
    starter = tmp_path / archive.STARTER
    starter.write_bytes(archive.starter())
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    own = tmp_path / "own"
    done = subprocess.run(
        [*START, str(starter), sys.executable, str(program), "a b", "c"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(tmp_path), "PYTHONPATH": str(own)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    arguments, _, folder = done.stdout.strip().rpartition(" ")
    assert arguments == "['a b', 'c']"
    assert folder.startswith(str(tmp_path / "sagemaker-ssh-helper-"))


def test_a_starter_that_cannot_start_ssh_says_so_and_goes_on(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(archive.starter())) as whole:
        text = whole.read("__main__.py")
    starter = tmp_path / archive.STARTER
    with zipfile.ZipFile(starter, "w") as broken:
        broken.writestr("__main__.py", text)
    done = subprocess.run(
        [sys.executable, "-S", str(starter), "echo", "went on"],
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "went on\n"
    assert done.stderr.startswith("sagemaker-ssh-helper: no ssh in this container: there is no module")


def test_an_image_without_python_runs_its_program_without_ssh(tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    done = subprocess.run(
        [*START, "/nowhere/start.pyz", "/bin/echo", "went on"],
        env={"PATH": str(empty)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "went on\n"


def test_the_same_library_gives_the_same_bytes() -> None:
    made = archive.starter()
    assert made == archive.starter()
    with zipfile.ZipFile(io.BytesIO(made)) as opened:
        names = opened.namelist()
    assert {"__main__.py", "sagemaker_ssh_helper/__init__.py", "sagemaker_ssh_helper/VERSION"} <= set(names)
