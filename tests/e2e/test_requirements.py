"""The library comes by requirements.txt: pip installs it for the job, which starts ssh itself."""

import io
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Callable

import sagemaker_ssh_helper
from e2e.laptop import Laptop, launch
from sagemaker_ssh_helper.launch import enable_ssh

PACKAGE = Path(sagemaker_ssh_helper.__file__).parent

SCRIPT = """
import sagemaker_ssh_helper
sagemaker_ssh_helper.setup_and_start_ssh()
print("from", sagemaker_ssh_helper.__file__)
"""


def wheel() -> bytes:
    """This package, as pip takes it from an index."""
    installed = distribution("sagemaker-ssh-helper")
    info = f"sagemaker_ssh_helper-{installed.version}.dist-info"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in PACKAGE.rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                archive.write(path, str(path.relative_to(PACKAGE.parent)))
        archive.writestr(f"{info}/METADATA", installed.metadata.as_string())
        archive.writestr(f"{info}/entry_points.txt", installed.read_text("entry_points.txt") or "")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


def test_a_job_brings_the_library_by_its_requirements(laptop: Callable[[str], Laptop]) -> None:
    alice = laptop("alice")
    request = {"TrainingJobName": "job", "RoleArn": alice.info["role_arn"], "AlgorithmSpecification": {}}
    with alice.at_it():
        environment = enable_ssh(request, alice.session(), connection_wait_time_seconds=600)["Environment"]
    name = f"sagemaker_ssh_helper-{distribution('sagemaker-ssh-helper').version}-py3-none-any.whl"
    job = launch(
        alice,
        SCRIPT,
        ssh=False,
        Environment=environment,
        files={"requirements.txt": f"./{name}\n".encode(), name: wheel()},
    )
    job.wait_online()

    done = alice.ssh(job.host, "sm-wait stop")

    assert done.stdout == b"stopped 1 waiting\n", done.stderr.decode()
    assert job.wait_ended()["TrainingJobStatus"] == "Completed", job.log()
    (told,) = [line for line in job.log().splitlines() if line.startswith("from ")]
    # Where pip put it for this job, and not where it was for all of them.
    assert "site-packages" in told
    assert not told.startswith(f"from {PACKAGE}")
