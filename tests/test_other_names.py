"""Modules that are there for the names that programs import: jobs of others, lists, Studio, the commands."""

import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List

import boto3
import pytest

from aws_stub import AwsStub, Refusal, aws_stub
from local_cloud import LocalCloud
from sagemaker_ssh_helper.detached_sagemaker import DetachedEstimator, DetachedProcessor
from sagemaker_ssh_helper.errors import LaunchRefused, ServiceError, TargetNotFound
from sagemaker_ssh_helper.ide import SSHIDE, IDEAppStatus, NotebookInstance
from sagemaker_ssh_helper.interactive_sagemaker import InteractiveSageMaker, SageMaker
from sagemaker_ssh_helper.names import ResourceKind
from sagemaker_ssh_helper.sm_ssh import SageMakerSecureShellHelper
from sagemaker_ssh_helper.wrapper import SSHEstimatorWrapper, SSHProcessorWrapper

INSTANCE = "mi-0123456789abcdef0"


def take(monkeypatch: pytest.MonkeyPatch, variables: Dict[str, str], home: Path) -> None:
    for name, value in {**variables, "HOME": str(home)}.items():
        monkeypatch.setenv(name, value)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)


# --- against the local cloud ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(tmp_path_factory.mktemp("cloud")) as cloud:
        cloud.client("s3", user="admin").create_bucket(Bucket="sagemaker-output")
        yield cloud


@pytest.fixture
def session(cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> boto3.Session:
    variables = cloud.environment("alice", tmp_path)
    take(monkeypatch, {name: text for name, text in variables.items() if name.startswith("AWS_")}, tmp_path)
    return boto3.Session()


@pytest.fixture
def training_job(cloud: LocalCloud, session: boto3.Session) -> Iterator[str]:
    """A job that runs until the test is over."""
    client, name = session.client("sagemaker"), f"somebody-else-s-{secrets.token_hex(4)}"
    client.create_training_job(
        TrainingJobName=name,
        RoleArn=cloud.info["role_arn"],
        AlgorithmSpecification={
            "TrainingImage": "image",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["sleep", "600"],
        },
        OutputDataConfig={"S3OutputPath": "s3://sagemaker-output/jobs"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 600},
    )
    yield name
    client.stop_training_job(TrainingJobName=name)
    waiter = client.get_waiter("training_job_completed_or_stopped")
    waiter.wait(TrainingJobName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})


def test_a_job_of_another_process_is_an_estimator(session: boto3.Session, training_job: str) -> None:
    estimator = DetachedEstimator.attach(training_job, session)
    assert estimator.latest_training_job.name == training_job
    assert estimator.sagemaker_session is session
    assert isinstance(estimator.ssh_wrapper, SSHEstimatorWrapper)
    assert estimator.ssh_wrapper.is_job_in_progress()
    with pytest.raises(LaunchRefused, match=f"the estimator has already started {training_job}"):
        SSHEstimatorWrapper.create(estimator)


def test_a_processing_job_of_another_process_is_a_processor(
    cloud: LocalCloud, session: boto3.Session
) -> None:
    session.client("sagemaker").create_processing_job(
        ProcessingJobName="somebody-else-s-data",
        RoleArn=cloud.info["role_arn"],
        AppSpecification={"ImageUri": "image", "ContainerEntrypoint": ["true"]},
        ProcessingResources={
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
        },
    )
    processor = DetachedProcessor.attach("somebody-else-s-data", session)
    assert processor.jobs == [processor.latest_job]
    assert processor.latest_job.job_name == "somebody-else-s-data"
    processor.ssh_wrapper.wait_processing_job()
    with pytest.raises(LaunchRefused, match="the processor has already started somebody-else-s-data"):
        SSHProcessorWrapper.create(processor)


@pytest.mark.parametrize("detached", [DetachedEstimator, DetachedProcessor])
def test_a_job_that_is_not_there_is_told(session: boto3.Session, detached: Any) -> None:
    with pytest.raises(TargetNotFound, match=r"there is no (training|processing) job 'nothing' in"):
        detached.attach("nothing", session)


def test_what_runs_is_listed_by_host_name(
    session: boto3.Session, training_job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sagemaker = SageMaker(session=session)
    assert [found.name for found in sagemaker.list_resources(ResourceKind.TRAINING)] == [training_job]
    assert sagemaker.list_ide_apps() == []
    interactive = InteractiveSageMaker(sagemaker)
    assert interactive.list_hosts() == [f"{training_job}.training.sagemaker"]
    interactive.print_hosts()
    assert capsys.readouterr().out == f"{training_job}.training.sagemaker  InProgress\n"


def test_the_commands_for_programs(
    session: boto3.Session, training_job: str, capfd: pytest.CaptureFixture[str]
) -> None:
    helper = SageMakerSecureShellHelper(region=session.region_name)
    assert helper.list("training.sagemaker") == 0
    listed = capfd.readouterr()
    assert listed.out.split()[-1] == f"{training_job}.training.sagemaker"
    assert f"region {session.region_name} (from --region)" in listed.err
    assert helper.connect("nothing.training.sagemaker", "-T", "true") == 3
    assert capfd.readouterr().err.startswith("sm-ssh: error[target-not-found]: ")
    assert helper.start_proxy("nothing.training.sagemaker") == 255
    refused = capfd.readouterr()
    assert refused.err.startswith("sm-ssh: error[target-not-found]: ")
    assert refused.out == ""


@pytest.mark.parametrize(
    ("module", "arguments", "written"),
    [
        ("sm_ssh", ["--version"], ""),
        (
            "deregister_old_instances_from_ssm",
            ["--delete-older-than-n-days", "7", "--dry-run"],
            "0 instances in",
        ),
    ],
)
def test_modules_that_are_run(
    cloud: LocalCloud, tmp_path: Path, module: str, arguments: List[str], written: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"sagemaker_ssh_helper.{module}", *arguments],
        env=cloud.environment("admin", tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, written in done.stderr) == (0, True)


# --- Studio and notebook instances, which the local cloud does not run ------------------------------


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AwsStub]:
    with aws_stub() as stub:
        take(monkeypatch, stub.environment(), tmp_path)
        yield stub


def test_an_app_of_studio(account: AwsStub) -> None:
    ide = SSHIDE("d-1234567890ab", "terry")
    account.answers["DescribeApp"] = {"AppName": "kernel", "Status": "Pending"}
    assert ide.get_app_status("kernel") is IDEAppStatus.PENDING
    assert ide.get_app_status("kernel").is_in_transition()
    account.answers["DescribeApp"] = {"AppName": "kernel", "Status": "InService"}
    assert not ide.get_app_status("kernel").is_in_transition()
    account.answers["DeleteApp"] = {}
    ide.delete_app("kernel", "JupyterServer")
    assert account.asked[-1].params == {
        "DomainId": "d-1234567890ab",
        "UserProfileName": "terry",
        "AppType": "JupyterServer",
        "AppName": "kernel",
    }


def test_an_app_that_is_not_there(account: AwsStub) -> None:
    account.answers["DescribeApp"] = Refusal("ResourceNotFound", "App does not exist")
    with pytest.raises(TargetNotFound, match="no KernelGateway app 'kernel' of terry in the domain d-1"):
        SSHIDE("d-1", "terry").get_app_status("kernel")


def registered(name: str, resource: str) -> Dict[str, Any]:
    """The answers about one live instance of a resource."""
    arn = f"arn:aws:sagemaker:eu-west-1:111122223333:{resource}"
    tags = {"SSHResourceName": name, "SSHResourceArn": arn, "SSHNode": "algo-1"}
    return {
        "DescribeInstanceInformation": {
            "InstanceInformationList": [
                {"InstanceId": INSTANCE, "PingStatus": "Online", "LastPingDateTime": 0}
            ]
        },
        "ListTagsForResource": {"TagList": [{"Key": key, "Value": text} for key, text in tags.items()]},
    }


def test_the_instances_of_apps_and_notebooks(account: AwsStub) -> None:
    account.answers.update(registered("kernel", "app/d-1/terry/KernelGateway/kernel"))
    assert SSHIDE("d-1", "terry").get_instance_ids("kernel") == [INSTANCE]
    account.answers.update(registered("mine", "notebook-instance/mine"))
    assert NotebookInstance("mine").get_instance_ids() == [INSTANCE]


def test_a_notebook_instance(account: AwsStub) -> None:
    notebook = NotebookInstance("mine")
    account.answers["DescribeNotebookInstance"] = {
        "NotebookInstanceName": "mine",
        "NotebookInstanceStatus": "Stopped",
    }
    assert notebook.get_status() == "Stopped"
    account.answers["StartNotebookInstance"] = {}
    account.answers["StopNotebookInstance"] = {}
    notebook.start()
    notebook.stop()
    assert account.operations[-2:] == ["StartNotebookInstance", "StopNotebookInstance"]
    account.answers["StopNotebookInstance"] = Refusal(
        "ValidationException", "Status (Stopped) not in ([InService])"
    )
    with pytest.raises(ServiceError, match="Stopped"):
        notebook.stop()


def test_a_notebook_instance_that_is_not_there(account: AwsStub) -> None:
    account.answers["DescribeNotebookInstance"] = Refusal("ValidationException", "RecordNotFound: not found")
    with pytest.raises(TargetNotFound, match="there is no notebook instance 'mine' in eu-west-1"):
        NotebookInstance("mine").get_status()
