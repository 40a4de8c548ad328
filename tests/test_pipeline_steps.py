"""ssh in the steps of pipelines, by the hook of a session whose requests are looked at and not sent."""

import json
from typing import Any, Dict, List

import boto3
import pytest

from sagemaker_ssh_helper.errors import LaunchRefused
from sagemaker_ssh_helper.launch import enable_for_session

ROLE = "arn:aws:iam::123456789012:role/Mine"


class Answer:
    status_code = 200


@pytest.fixture
def session(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> boto3.Session:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    session = boto3.Session(aws_access_key_id="key", aws_secret_access_key="secret", region_name="eu-west-1")
    enable_for_session(session, local_user_id="AIDAME", connection_wait_time_seconds=0)
    return session


def sent(session: boto3.Session, steps: List[Any]) -> List[Any]:
    """The steps that CreatePipeline sends."""
    client = session.client("sagemaker")
    seen: List[Dict[str, Any]] = []

    def answer(model: Any, params: Dict[str, Any], **_: Any) -> Any:
        seen.append(json.loads(params["body"]))
        return Answer(), {}

    client.meta.events.register("before-call.sagemaker.CreatePipeline", answer)
    client.create_pipeline(
        PipelineName="pipe",
        RoleArn=ROLE,
        ClientRequestToken="x" * 32,
        PipelineDefinition=json.dumps({"Version": "2020-12-01", "Steps": steps}),
    )
    found: List[Any] = json.loads(seen[0]["PipelineDefinition"])["Steps"]
    return found


def training(**changes: Any) -> Dict[str, Any]:
    arguments = {
        "RoleArn": ROLE,
        "AlgorithmSpecification": {"TrainingImage": "own"},
        "Environment": {"WIDTH": {"Get": "Parameters.Width"}},
        **changes,
    }
    return {"Name": "train", "Type": "Training", "Arguments": arguments}


def environment(step: Dict[str, Any]) -> Dict[str, Any]:
    found: Dict[str, Any] = step["Arguments"]["Environment"]
    return found


def test_steps_with_containers_get_ssh(session: boto3.Session) -> None:
    processing = {"Name": "process", "Type": "Processing", "Arguments": {"RoleArn": ROLE}}
    model = {"ExecutionRoleArn": ROLE, "PrimaryContainer": {"Image": "own"}}
    steps = sent(session, [training(), processing, {"Name": "m", "Type": "Model", "Arguments": model}])
    assert environment(steps[0])["WIDTH"] == {"Get": "Parameters.Width"}
    assert environment(steps[0])["START_SSH"] == environment(steps[1])["START_SSH"] == "true"
    assert steps[2]["Arguments"]["PrimaryContainer"]["Environment"]["SSH_OWNER_TAG"] == "AIDAME"
    assert "TrainingJobName" not in steps[0]["Arguments"]


def test_the_jobs_of_a_tuning_step_get_ssh(session: boto3.Session) -> None:
    one, other = ({"RoleArn": f"{ROLE}{name}", "Environment": {"MINE": name}} for name in ("One", "Other"))
    alone = {"Name": "tune", "Type": "Tuning", "Arguments": {"TrainingJobDefinition": one}}
    several = {"Name": "all", "Type": "Tuning", "Arguments": {"TrainingJobDefinitions": [one, other]}}
    steps = sent(session, [alone, several])
    definitions = [
        steps[0]["Arguments"]["TrainingJobDefinition"],
        *steps[1]["Arguments"]["TrainingJobDefinitions"],
    ]
    environments = [definition["Environment"] for definition in definitions]
    assert [each["MINE"] for each in environments] == ["One", "One", "Other"]
    assert [each["START_SSH"] for each in environments] == ["true"] * 3
    assert [each["SSH_SSM_ROLE"] for each in environments] == ["MineOne", "MineOne", "MineOther"]


def test_steps_within_a_condition_get_ssh(session: boto3.Session) -> None:
    branches = {"Conditions": [], "IfSteps": [training()], "ElseSteps": [training()]}
    (step,) = sent(session, [{"Name": "choose", "Type": "Condition", "Arguments": branches}])
    for branch in ("IfSteps", "ElseSteps"):
        assert environment(step["Arguments"][branch][0])["START_SSH"] == "true"


def test_other_steps_and_steps_with_ssh_stay_as_they_are(session: boto3.Session) -> None:
    steps = [
        {"Name": "stop", "Type": "Fail", "Arguments": {"ErrorMessage": "no"}},
        training(Environment={"START_SSH": "false"}),
    ]
    assert sent(session, steps) == steps


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"RoleArn": {"Get": "Parameters.Role"}}, "RoleArn of a training job is not known before"),
        ({"EnableNetworkIsolation": True}, "pipe-train runs in network isolation"),
        (
            {
                "HyperParameters": {
                    "sagemaker_program": "train.py",
                    "sagemaker_submit_directory": {"Get": "Parameters.Code"},
                }
            },
            "where pipe-train has its code is not known before",
        ),
    ],
)
def test_a_step_that_cannot_have_ssh_is_refused(
    session: boto3.Session, changes: Dict[str, Any], why: str
) -> None:
    with pytest.raises(LaunchRefused, match=why):
        sent(session, [training(**changes)])


@pytest.mark.parametrize("definition", ["no json", "[]", "{}"])
def test_what_is_no_definition_is_left_to_sagemaker(session: boto3.Session, definition: str) -> None:
    client = session.client("sagemaker")
    seen: List[Dict[str, Any]] = []

    def answer(model: Any, params: Dict[str, Any], **_: Any) -> Any:
        seen.append(json.loads(params["body"]))
        return Answer(), {}

    client.meta.events.register("before-call.sagemaker.UpdatePipeline", answer)
    client.update_pipeline(PipelineName="pipe", PipelineDefinition=definition)
    assert seen == [{"PipelineName": "pipe", "PipelineDefinition": definition}]
