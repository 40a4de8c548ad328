"""Modules that are there for the names that programs import: jobs of others, lists, Studio, the commands."""

import io
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import boto3
import pytest

from aws_stub import AwsStub, Refusal, aws_stub
from local_cloud import LocalCloud
from sagemaker_ssh_helper.deregister_old_instances_from_ssm import deregister, is_approved_to_deregister
from sagemaker_ssh_helper.detached_sagemaker import DetachedEstimator, DetachedProcessor
from sagemaker_ssh_helper.errors import LaunchRefused, ServiceError, TargetNotFound
from sagemaker_ssh_helper.ide import SSHIDE, IDEAppStatus, NotebookInstance
from sagemaker_ssh_helper.interactive_sagemaker import InteractiveSageMaker, SageMaker, SageMakerStudioApp
from sagemaker_ssh_helper.log import SSHLog
from sagemaker_ssh_helper.manager import PING_STATUS, SSMManager
from sagemaker_ssh_helper.sm_ssh import SageMakerSecureShellHelper, read_version
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
    described = estimator.describe()
    assert described["TrainingJobStatus"] == "InProgress"
    assert estimator.training_image_uri() == "image"
    assert estimator.hyperparameters() == {}
    assert estimator.model_data == f"s3://sagemaker-output/jobs/{training_job}/output/model.tar.gz"
    assert SSHEstimatorWrapper.attach(training_job, session).is_job_in_progress()
    with pytest.raises(ValueError, match=f"stands for {training_job}, which was started elsewhere"):
        estimator.fit()
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
    wrapper = SSHProcessorWrapper.attach("somebody-else-s-data", session)
    assert wrapper.get_processor_latest_job_name() == "somebody-else-s-data"
    wrapper.wait_processing_job()
    assert processor.describe()["ProcessingJobStatus"] == "Completed"
    with pytest.raises(LaunchRefused, match="the processor has already started somebody-else-s-data"):
        SSHProcessorWrapper.create(processor)


@pytest.mark.parametrize("detached", [DetachedEstimator, DetachedProcessor])
def test_a_job_that_is_not_there_is_told(session: boto3.Session, detached: Any) -> None:
    with pytest.raises(TargetNotFound, match=r"there is no (training|processing) job 'nothing' in"):
        detached.attach("nothing", session).describe()


def test_what_runs_is_listed_with_its_instance(
    session: boto3.Session, training_job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sagemaker, manager = SageMaker(session=session), SSMManager(session=session)
    interactive = InteractiveSageMaker(sagemaker, manager)
    assert [job.training_job_name for job in sagemaker.list_training_jobs()] == [training_job]
    assert sagemaker.list_ide_apps() == []
    assert sagemaker.list_endpoints() == sagemaker.list_notebook_instances() == []
    interactive.print_training_jobs()
    assert capsys.readouterr().out == f"{training_job}  InProgress  ssh:NotFound\n"
    arn = f"arn:aws:sagemaker:{session.region_name}:123456789012:training-job/{training_job}"
    tags = {"SSHResourceName": training_job, "SSHResourceArn": arn, "SSHOwner": "AIDA", "SSHTimestamp": 1}
    table = {
        "mi-old": {**tags, "SSHTimestamp": "0"},
        "mi-new": tags,
        "mi-other": {"SSHResourceName": "other"},
    }
    [job] = interactive.list_training_jobs(table)
    assert (job.ssm_instance_id, job.ssh_owner, job.ping_status) == ("mi-new", "AIDA", "")


def test_apps_of_studio_are_joined_with_the_instances_of_their_own_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def instance(user: str) -> Dict[str, str]:
        arn = f"arn:aws:sagemaker:eu-west-1:123456789012:app/d-1/{user}/KernelGateway/default"
        return {"SSHResourceName": "default", "SSHResourceArn": arn, PING_STATUS: "Online", "SSHOwner": user}

    table = {f"mi-{user}": instance(user) for user in ("terry", "ann")}
    monkeypatch.setattr(SSMManager, "list_all_instances_and_fetch_tags", lambda self: table)
    monkeypatch.setattr(
        SageMaker,
        "list_ide_apps",
        lambda self: [
            SageMakerStudioApp("d-1", user, "default", "KernelGateway", "InService")
            for user in ("ann", "terry", "bob")
        ],
    )
    interactive = InteractiveSageMaker(SageMaker("eu-west-1"), SSMManager("eu-west-1"), SSHLog("eu-west-1"))
    assert [app.ssm_instance_id for app in interactive.list_studio_ide_apps()] == [
        "mi-ann",
        "mi-terry",
        SageMakerStudioApp.NO_SSH_FLAG,
    ]
    assert [app.ssh_owner for app in interactive.list_studio_ide_apps_for_user("terry")] == ["terry"]
    assert interactive.list_studio_ide_apps_for_user_and_domain("d-2", "terry") == []
    interactive.print_studio_ide_apps_for_user_and_domain("d-1", "terry")
    assert capsys.readouterr().out == "d-1/terry/KernelGateway/default  InService  mi-terry  Online  terry\n"


@pytest.mark.parametrize(
    ("fqdn", "parts"),
    [
        ("x.training.sagemaker", ("training", "x", "", "")),
        ("x.inference.sagemaker", ("inference", "x", "", "")),
        ("app.studio.sagemaker", ("ide", "app", "", "")),
        ("app.user.studio.sagemaker", ("ide", "app", "user", "")),
        ("app.user.d-1.studio.sagemaker", ("ide", "app", "user", "d-1")),
        ("training.sagemaker", ("training", "", "", "")),
    ],
)
def test_a_host_name_is_taken_apart(fqdn: str, parts: Tuple[str, str, str, str]) -> None:
    helper = SageMakerSecureShellHelper
    assert (
        helper.fqdn_to_type(fqdn),
        helper.fqdn_to_name(fqdn),
        helper.fqdn_to_studio_user_name(fqdn),
        helper.fqdn_to_studio_domain_id(fqdn),
    ) == parts
    assert fqdn.endswith(helper.type_to_fqdn(parts[0]))


@pytest.mark.parametrize(
    "fqdn", ["", "x", "x.training.example", "x.kitchen.sagemaker", ".training.sagemaker"]
)
def test_what_names_no_container_is_refused(fqdn: str) -> None:
    with pytest.raises(
        ValueError, match=r"is not the name of a container\. Name one as NAME\.TYPE\.sagemaker"
    ):
        SageMakerSecureShellHelper.fqdn_to_type(fqdn)


def test_the_commands_for_programs(
    session: boto3.Session, training_job: str, capfd: pytest.CaptureFixture[str]
) -> None:
    helper = SageMakerSecureShellHelper()
    assert helper.list("training.sagemaker") == 0
    assert capfd.readouterr().out.split()[-1] == f"{training_job}.training.sagemaker"
    assert helper.connect_ports("nothing.training.sagemaker", "-T true") == 3
    assert capfd.readouterr().err.startswith("sm-ssh: error[target-not-found]: ")
    assert helper.start_proxy("nothing.training.sagemaker") == 255
    refused = capfd.readouterr()
    assert refused.err.startswith("sm-ssh: error[target-not-found]: ")
    assert refused.out == ""
    helper.print_version()
    assert capfd.readouterr().out == f"{read_version()}\n"


def test_an_instance_that_answers_is_not_deregistered(account: AwsStub) -> None:
    other = "mi-" + "1" * 17
    statuses = {INSTANCE: "Online", other: "ConnectionLost"}

    def information(asked: Dict[str, Any]) -> Dict[str, Any]:
        [instance_id] = asked["Filters"][0]["Values"]
        return {"InstanceInformationList": [{"InstanceId": instance_id, "PingStatus": statuses[instance_id]}]}

    account.answers.update(DescribeInstanceInformation=information, DeregisterManagedInstance={})
    assert deregister([INSTANCE, other]) == [other]
    assert [call.params for call in account.asked if call.operation == "DeregisterManagedInstance"] == [
        {"InstanceId": other}
    ]


@pytest.mark.parametrize(("answer", "approved"), [("y\n", True), ("YES\n", True), ("\n", False), ("", False)])
def test_whoever_is_asked_has_to_say_yes(
    monkeypatch: pytest.MonkeyPatch, answer: str, approved: bool
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert is_approved_to_deregister(3) is approved


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
    assert ide.get_app_status("kernel") == IDEAppStatus("Pending")
    assert ide.get_app_status("kernel").is_in_transition()
    account.answers["DescribeApp"] = {"Status": "Failed", "FailureReason": "no room"}
    assert str(ide.get_app_status("kernel")) == "Failed, failure reason: no room"
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


def test_an_app_that_is_not_there_has_no_status(account: AwsStub) -> None:
    account.answers["DescribeApp"] = Refusal("ResourceNotFound", "App does not exist")
    found = SSHIDE("d-1", "terry").get_app_status("kernel")
    assert found.status is None
    answers = [found.is_pending(), found.is_in_transition(), found.is_deleting(), found.is_in_service()]
    assert answers == [False] * 4
    assert not found.is_deleted()


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
