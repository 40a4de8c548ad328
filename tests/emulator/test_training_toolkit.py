"""Script mode: how a script is started, without starting one."""

import json
from pathlib import Path
from typing import Any

import pytest

from sagemaker_ssh_helper.emulator.training_toolkit import ScriptEntry, decode, script_entry, setting


def entry(code: Path, program: str = "train.py", base: str = "/opt/ml", **more: Any) -> ScriptEntry:
    hosts = more.pop("hosts", ["algo-1"])
    arguments: dict[str, Any] = {
        "hyperparameters": {},
        "environment": {},
        "resource_config": {
            "current_host": hosts[-1],
            "current_instance_type": "ml.m5.large",
            "current_group_name": "homogeneousCluster",
            "hosts": hosts,
            "network_interface_name": "lo",
        },
        "input_data_config": {},
        "code": code,
        "base": base,
        "python": "python",
        "job_name": "job",
    }
    return script_entry(program, **{**arguments, **more})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ('"text"', "text"),
        ("text", "text"),
        ("true", True),
        ("True", "True"),
        ("null", None),
        ('{"a": [1]}', {"a": [1]}),
        ("", ""),
        ("{broken", "{broken"),
    ],
)
def test_hyperparameter_is_json_or_itself(text: str, value: Any) -> None:
    assert decode(text) == value


def test_hyperparameters_become_arguments(tmp_path: Path) -> None:
    hyperparameters = {
        "sagemaker_program": '"train.py"',
        "_tuning_objective_metric": '"loss"',
        "epochs": "3",
        "e": '"one letter"',
        "shape": "[1, 2]",
        "flag": "false",
        "nothing": "null",
        "text": '"$(rm -rf); \\"quoted\\" ü"',
    }
    started = entry(tmp_path, hyperparameters=hyperparameters)

    arguments = ["--epochs", "3", "-e", "one letter", "--shape", "[1, 2]", "--flag", "False"]
    arguments += ["--nothing", "None", "--text", '$(rm -rf); "quoted" ü']
    assert started.command == ["python", "train.py", *arguments]
    assert json.loads(started.environment["SM_USER_ARGS"]) == arguments
    assert json.loads(started.environment["SM_HPS"])["shape"] == [1, 2]
    assert "sagemaker_program" not in json.loads(started.environment["SM_HPS"])
    assert json.loads(started.environment["SM_FRAMEWORK_PARAMS"])["sagemaker_program"] == "train.py"
    assert started.environment["SM_HP_EPOCHS"] == "3"
    assert started.environment["SM_HP_FLAG"] == "false"


def test_variables_name_the_folders(tmp_path: Path) -> None:
    channels = {"train": {"TrainingInputMode": "File"}, "test-set": {"TrainingInputMode": "File"}}
    started = entry(tmp_path, base="/base", input_data_config=channels)

    environment = started.environment
    assert started.cwd == "/base/code"
    assert json.loads(environment["SM_CHANNELS"]) == ["train", "test-set"]
    assert environment["SM_CHANNEL_TRAIN"] == "/base/input/data/train"
    assert environment["SM_CHANNEL_TEST-SET"] == "/base/input/data/test-set"
    assert environment["SM_MODEL_DIR"] == "/base/model"
    assert environment["SM_OUTPUT_DATA_DIR"] == "/base/output/data"
    assert environment["SM_OUTPUT_DIR"] == "/base/output"
    assert environment["SM_INPUT_CONFIG_DIR"] == "/base/input/config"
    assert (
        json.loads(environment["SM_TRAINING_ENV"])["channel_input_dirs"]["train"] == "/base/input/data/train"
    )


def test_every_variable_is_text_that_a_process_can_have(tmp_path: Path) -> None:
    started = entry(tmp_path, hyperparameters={"a=b": "1", "c d": "2"}, hosts=["algo-1", "algo-2"])

    assert all(isinstance(value, str) and "=" not in name for name, value in started.environment.items())
    assert json.loads(started.environment["SM_HOSTS"]) == ["algo-1", "algo-2"]
    assert started.environment["SM_CURRENT_HOST"] == "algo-2"
    assert json.loads(started.environment["SM_TRAINING_ENV"])["is_master"] is False
    assert started.command[2:] == ["--a=b", "1", "--c d", "2"]


def test_paths_of_a_container_are_moved_where_it_has_none(tmp_path: Path) -> None:
    hyperparameters = {"model_dir": '"/opt/ml/model"', "other": '"/opt/mlx"'}
    started = entry(tmp_path, base="/node/ml", hyperparameters=hyperparameters)

    assert started.command[2:] == ["--model_dir", "/node/ml/model", "--other", "/opt/mlx"]


def test_module_path_of_the_user_comes_after_the_code(tmp_path: Path) -> None:
    assert entry(tmp_path).environment["PYTHONPATH"] == "/opt/ml/code"
    given = entry(tmp_path, environment={"PYTHONPATH": "/mine"})
    assert given.environment["PYTHONPATH"] == "/opt/ml/code:/mine"


def test_script_without_shebang_is_a_shell_script(tmp_path: Path) -> None:
    (tmp_path / "plain.sh").write_text("echo hello\n")
    (tmp_path / "own").write_text("#!/usr/bin/env perl\n")

    assert entry(tmp_path, "plain.sh").command == ["/bin/sh", "./plain.sh"]
    assert entry(tmp_path, "own").command == ["./own"]
    assert (tmp_path / "own").stat().st_mode & 0o100
    assert entry(tmp_path, "missing.sh").command == ["/bin/sh", "./missing.sh"]


def test_requirements_and_packages_are_installed_first(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("")
    started = entry(tmp_path)
    before, after = started.command[: started.command.index("--")], started.command[-2:]
    assert after == started.script_command == ["python", "train.py"]
    assert before[before.index("--requirements") + 1] == "/opt/ml/code/requirements.txt"
    assert "--package" not in before

    (tmp_path / "setup.py").write_text("")
    started = entry(tmp_path, "package/train.py")
    assert "--package" in started.command
    assert started.script_command == ["python", "-m", "package.train"]


def test_setting_may_be_a_variable() -> None:
    assert (
        setting("sagemaker_program", {"sagemaker_program": '"a.py"'}, {"SAGEMAKER_PROGRAM": "b.py"}) == "a.py"
    )
    assert setting("sagemaker_program", {"sagemaker_program": "a.py"}, {}) == "a.py"
    assert setting("sagemaker_program", {}, {"SAGEMAKER_PROGRAM": "b.py"}) == "b.py"
    assert setting("sagemaker_program", {}, {}) is None
