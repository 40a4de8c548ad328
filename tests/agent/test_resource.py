"""Who am I: from the files and variables SageMaker puts into a container."""

import json

import pytest

from sagemaker_ssh_helper.agent.resource import (
    Resource,
    base_dir,
    has_other_hosts,
    identify,
    is_wanted,
    region,
)
from sagemaker_ssh_helper.names import ResourceKind

pytestmark = pytest.mark.container

ARN = "arn:aws:sagemaker:eu-west-1:111122223333:"


@pytest.fixture
def ml(tmp_path):
    """A SageMaker folder; call it with a path and a value to put a JSON file there."""

    def write(name, value):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")

    write.path = str(tmp_path)
    return write


TRAINING = {"TRAINING_JOB_NAME": "my-job", "TRAINING_JOB_ARN": ARN + "training-job/my-job"}


def test_a_training_job_is_known_by_its_variables(ml):
    ml("input/config/resourceconfig.json", {"current_host": "algo-1", "hosts": ["algo-1"]})

    found = identify(TRAINING, ml.path)

    assert found == Resource(ResourceKind.TRAINING, "my-job", ARN + "training-job/my-job", 0)
    assert found.node == "algo-1"


@pytest.mark.parametrize(
    ("current", "rank"),
    [("algo-1", 0), ("algo-2", 1), ("algo-10", 9), ("algo-12", 11), ("algo-3-x7k2p", 2)],
)
def test_the_rank_is_the_number_in_the_host_name_not_its_place_in_a_list(ml, current, rank):
    hosts = ["algo-1", "algo-10", "algo-12", "algo-2", "algo-3-x7k2p"]
    ml("input/config/resourceconfig.json", {"current_host": current, "hosts": hosts})

    assert identify(TRAINING, ml.path).rank == rank


def test_a_host_with_another_name_is_ranked_by_its_place(ml):
    ml("input/config/resourceconfig.json", {"current_host": "b", "hosts": ["a", "b"]})

    assert identify(TRAINING, ml.path).rank == 1


@pytest.mark.parametrize("content", ["", "[]", "{", '{"current_host": 7, "hosts": "x"}', "\x00"])
def test_a_damaged_resource_configuration_gives_the_first_node(ml, content):
    ml("input/config/resourceconfig.json", content)

    assert identify(TRAINING, ml.path).rank == 0


@pytest.mark.parametrize("arn", ["", "my-job"])
def test_local_mode_has_a_name_and_no_arn(ml, arn):
    found = identify({"TRAINING_JOB_NAME": "my-job", "TRAINING_JOB_ARN": arn}, ml.path)

    assert (found.name, found.arn) == ("my-job", "")


def test_every_node_of_a_processing_job_knows_its_rank(ml):
    arn = ARN + "processing-job/clean"
    ml("config/processingjobconfig.json", {"ProcessingJobName": "clean", "ProcessingJobArn": arn})
    ml("config/resourceconfig.json", {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]})

    assert identify({}, ml.path) == Resource(ResourceKind.PROCESSING, "clean", arn, 1)


def test_a_transform_job_is_named_by_its_arn(ml):
    found = identify({"TRANSFORM_JOB_ARN": ARN + "transform-job/batch"}, ml.path)

    assert found == Resource(ResourceKind.TRANSFORM, "batch", ARN + "transform-job/batch", 0)


def test_a_notebook_instance_is_known_by_its_metadata(ml):
    arn = ARN + "notebook-instance/nb"
    ml("metadata/resource-metadata.json", {"ResourceArn": arn, "ResourceName": "nb"})

    assert identify({}, ml.path) == Resource(ResourceKind.NOTEBOOK, "nb", arn, 0)


# What the three kinds of Studio's apps write: of a user, of a space, and of a space's user.
STUDIO = [
    {"AppType": "KernelGateway", "DomainId": "d-1", "UserProfileName": "terry", "ResourceName": "my-app"},
    {"AppType": "JupyterLab", "DomainId": "d-1", "SpaceName": "space", "ResourceName": "default"},
    {
        "AppType": "CodeEditor",
        "DomainId": "d-1",
        "UserProfileName": "terry",
        "SpaceName": "space",
        "ResourceName": "default",
        "ExecutionRoleArn": "arn:aws:iam::111122223333:role/Mine",
        "AppImageVersion": "3.1.0",
        "New": [1],
    },
]


def without_one_member(metadata):
    return [metadata, *({k: v for k, v in metadata.items() if k != gone} for gone in metadata)]


@pytest.mark.parametrize("metadata", [each for one in STUDIO for each in without_one_member(one)])
def test_a_studio_app_is_named_by_its_arn_since_every_space_app_is_called_default(ml, metadata):
    arn = ARN + "app/d-1/space/JupyterLab/my-app"
    ml("metadata/resource-metadata.json", {"ResourceArn": arn, **metadata})

    found = identify({"TRAINING_JOB_NAME": "not-this"}, ml.path)

    assert found == Resource(ResourceKind.STUDIO, "my-app", arn, 0)


@pytest.mark.parametrize("arn", [{}, {"ResourceArn": None}, {"ResourceArn": "rubbish"}])
def test_metadata_without_an_arn_is_known_by_its_name(ml, arn):
    ml("metadata/resource-metadata.json", {**STUDIO[0], **arn})
    assert identify({}, ml.path) == Resource(ResourceKind.STUDIO, "my-app", "", 0)

    ml("metadata/resource-metadata.json", {"ResourceName": "nb", **arn})
    assert identify({}, ml.path) == Resource(ResourceKind.NOTEBOOK, "nb", "", 0)


def test_what_tells_nothing_is_an_endpoint_under_its_launch_id(ml):
    found = identify({"SSH_LAUNCH_ID": "0f" * 16}, ml.path)

    assert found == Resource(ResourceKind.INFERENCE, "0f" * 16, "", 0)


@pytest.mark.parametrize(
    ("count", "rank", "wanted"),
    [
        (None, 1, True),
        (None, 2, False),
        ("1", 0, True),
        ("1", 1, False),
        ("0", 0, False),
        ("all", 99, True),
        ("rubbish", 1, True),
        # A digit to Python, and no number.
        ("²", 1, True),
        ("-1", 2, False),
    ],
)
def test_only_the_first_nodes_are_wanted(count, rank, wanted):
    environ = {} if count is None else {"SSH_INSTANCE_COUNT": count}

    assert is_wanted(Resource(ResourceKind.TRAINING, "j", "", rank), environ) == wanted


def test_the_region_comes_from_the_environment_before_the_arn():
    resource = Resource(ResourceKind.TRAINING, "j", ARN + "training-job/j", 0)

    assert region({}, resource) == "eu-west-1"
    assert region({"AWS_DEFAULT_REGION": "us-east-2"}, resource) == "us-east-2"
    assert region({"AWS_REGION": "cn-north-1", "AWS_DEFAULT_REGION": "x"}, resource) == "cn-north-1"
    assert region({}, Resource(ResourceKind.TRAINING, "j", "", 0)) == ""


def test_the_folder_is_opt_ml_unless_the_environment_moves_it():
    assert base_dir({}) == "/opt/ml"
    assert base_dir({"SAGEMAKER_BASE_DIR": "/x/opt/ml"}) == "/x/opt/ml"


@pytest.mark.parametrize(
    ("config", "several"),
    [
        ({"hosts": ["algo-1"]}, False),
        ({"hosts": ["algo-1", "algo-2"]}, True),
        ({"hosts": ["a", "b"]}, True),
        ({"hosts": ["algo-1"], "instance_groups": [{"hosts": ["algo-1"]}, {"hosts": ["algo-2"]}]}, True),
        ({"hosts": ["algo-1"], "instance_groups": [{"hosts": ["algo-1"]}, "x", {"hosts": 1}]}, False),
        ({"hosts": {}}, False),
        ({}, False),
    ],
)
@pytest.mark.parametrize("folder", ["input/config", "config"])
def test_a_job_knows_whether_it_has_other_nodes(ml, config, several, folder):
    ml(f"{folder}/resourceconfig.json", {"current_host": "algo-1", **config})

    assert has_other_hosts({"SAGEMAKER_BASE_DIR": ml.path}) is several
