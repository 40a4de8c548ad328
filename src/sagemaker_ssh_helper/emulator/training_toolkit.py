"""
What SageMaker's framework images do with "script mode": the user's script, started as they start it.

As a module it says how the script is started (``script_entry``). As a program, in the node, it installs what
the script asks for, and then becomes the script::

    training_toolkit.py [--requirements FILE] [--package] --failure FILE -- COMMAND [ARGUMENT...]

Conventions of those images, public in their documentation: the hyperparameters ``sagemaker_program`` and
``sagemaker_submit_directory`` (or the variables ``SAGEMAKER_PROGRAM`` and ``SAGEMAKER_SUBMIT_DIRECTORY``),
``/opt/ml/code``, ``requirements.txt`` beside the script, ``SM_*`` variables, hyperparameters as ``--name
value``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = "sagemaker_program"
SUBMIT_DIRECTORY = "sagemaker_submit_directory"

RESERVED_PREFIX = "sagemaker_"
"""Hyperparameters that are for the toolkit, not for the script."""

RESERVED = ("_tuning_objective_metric",)

TAIL_LINES = 20
"""How much of pip's output stands in the failure file."""


@dataclass(frozen=True)
class ScriptEntry:
    """How a script is started: the command, what it adds to the environment, and the working directory."""

    command: list[str]
    environment: dict[str, str]
    cwd: str
    script_command: list[str]
    """The command without the installation before it, as error messages show it."""


def setting(name: str, hyperparameters: Mapping[str, str], environment: Mapping[str, str]) -> str | None:
    """A setting of the toolkit: the hyperparameter, else the variable of that name in capitals, else None."""
    value = decode(hyperparameters[name]) if name in hyperparameters else environment.get(name.upper())
    return str(value) if value else None


def decode(value: str) -> Any:
    """A hyperparameter's value. SDKs encode each as JSON; what is not JSON is the text itself."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def script_entry(
    program: str,
    *,
    hyperparameters: Mapping[str, str],
    environment: Mapping[str, str],
    resource_config: Mapping[str, Any],
    input_data_config: Mapping[str, Any],
    code: Path,
    base: str,
    python: str,
    job_name: str,
) -> ScriptEntry:
    """
    How the images start ``program``.

    Args:
        program: the script's path below the code folder; ``.py``, or anything executable, or a module when
            the code folder is a package (has a ``setup.py``).
        hyperparameters: as in the request: names to texts.
        environment: what the script has anyway.
        code: the code folder, as this process finds it.
        base: ``/opt/ml``, as the script finds it.
        python: the interpreter.
    """
    decoded = {name: decode(value) for name, value in hyperparameters.items()}
    reserved = {
        name: value for name, value in decoded.items() if name.startswith(RESERVED_PREFIX) or name in RESERVED
    }
    own = {name: _rebased(value, base) for name, value in decoded.items() if name not in reserved}
    arguments = [word for name, value in own.items() for word in (_option(name), _text(value, str))]
    package = (code / "setup.py").is_file()
    code_seen = f"{base}/code"
    variables = _variables(
        program=program,
        own=own,
        reserved=reserved,
        arguments=arguments,
        resource_config=resource_config,
        input_data_config=input_data_config,
        base=base,
        job_name=job_name,
    )
    paths = [code_seen, environment.get("PYTHONPATH", "")]
    variables["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)

    if package:
        command = [python, "-m", program.removesuffix(".py").replace("/", "."), *arguments]
    elif program.endswith(".py"):
        command = [python, program, *arguments]
    else:
        command = [*_shell_command(code / program, program), *arguments]
    installation: list[str] = []
    if (code / "requirements.txt").is_file():
        installation += ["--requirements", f"{code_seen}/requirements.txt"]
    if package:
        installation += ["--package"]
    if not installation:
        return ScriptEntry(command, variables, code_seen, command)
    installation += ["--failure", f"{base}/output/failure", "--"]
    start = [python, "-I", "-S", os.path.abspath(__file__), *installation, *command]
    return ScriptEntry(start, variables, code_seen, command)


def _shell_command(path: Path, program: str) -> list[str]:
    try:
        with path.open("rb") as file:
            executable = file.read(2) == b"#!"
        if executable:
            path.chmod(path.stat().st_mode | 0o100)
    except OSError:
        executable = False
    return [f"./{program}"] if executable else ["/bin/sh", f"./{program}"]


def _option(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name}"


def _rebased(value: Any, base: str) -> Any:
    """A path below /opt/ml, for nodes that have their /opt/ml elsewhere."""
    if isinstance(value, str) and value.startswith("/opt/ml/"):
        return base + value[len("/opt/ml") :]
    return value


def _text(value: Any, other: Any) -> str:
    return value if isinstance(value, str) else other(value)


def _variables(
    *,
    program: str,
    own: Mapping[str, Any],
    reserved: Mapping[str, Any],
    arguments: list[str],
    resource_config: Mapping[str, Any],
    input_data_config: Mapping[str, Any],
    base: str,
    job_name: str,
) -> dict[str, str]:
    channels = {name: f"{base}/input/data/{name}" for name in input_data_config}
    gpus = len([name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit()])
    module = program.removesuffix(".py")
    known: dict[str, Any] = {
        "channel_input_dirs": channels,
        "current_host": resource_config["current_host"],
        "current_instance_group": resource_config["current_group_name"],
        "current_instance_type": resource_config["current_instance_type"],
        "framework_module": None,
        "hosts": resource_config["hosts"],
        "hyperparameters": own,
        "input_config_dir": f"{base}/input/config",
        "input_data_config": input_data_config,
        "input_dir": f"{base}/input",
        "is_master": resource_config["current_host"] == sorted(resource_config["hosts"])[0],
        "job_name": job_name,
        "log_level": reserved.get("sagemaker_container_log_level", 20),
        "model_dir": f"{base}/model",
        "module_dir": reserved.get(SUBMIT_DIRECTORY) or f"{base}/code",
        "module_name": module,
        "network_interface_name": resource_config["network_interface_name"],
        "num_cpus": os.cpu_count() or 1,
        "num_gpus": gpus,
        "output_data_dir": f"{base}/output/data",
        "output_dir": f"{base}/output",
        "output_intermediate_dir": f"{base}/output/intermediate",
        "resource_config": resource_config,
        "user_entry_point": program,
    }
    in_training_env_only = {
        "channel_input_dirs",
        "framework_module",
        "hyperparameters",
        "is_master",
        "job_name",
    }
    values: dict[str, Any] = {
        f"SM_{name.upper()}": value for name, value in known.items() if name not in in_training_env_only
    }
    values.update(
        SM_CHANNELS=list(channels),
        SM_FRAMEWORK_PARAMS=dict(reserved),
        SM_HPS=dict(own),
        SM_TRAINING_ENV=known,
        SM_USER_ARGS=arguments,
        SAGEMAKER_JOB_NAME=job_name,
    )
    values.update({f"SM_CHANNEL_{name.upper()}": folder for name, folder in channels.items()})
    values.update({f"SM_HP_{name.upper()}": value for name, value in own.items()})
    return {
        name: _text(value, lambda other: json.dumps(other, sort_keys=True))
        for name, value in values.items()
        if "=" not in name  # a hyperparameter may be called anything, a variable may not
    }


# -- the program ---------------------------------------------------------------------------------------------


def install(arguments: list[str], failure: str) -> int:
    """
    Run pip with these arguments; its output goes to ours. Returns its status.

    When it fails, the failure file says so in the words of SageMaker's images.
    """
    command = [sys.executable, "-m", "pip", "install", *arguments]
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None, "it is a pipe"
    for line in process.stdout:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        tail.append(line.decode("utf-8", "replace").rstrip("\n"))
    status = process.wait()
    if status:
        message = "\n".join(tail).strip()
        with open(failure, "w", encoding="utf-8") as file:
            file.write(
                f"InstallRequirementsError:\nExitCode {status}\n"
                f'ErrorMessage "{message[-600:]}"\nCommand "{" ".join(command)}"'
            )
    return status


def main(arguments: list[str]) -> int:
    """The program. Returns only when an installation failed or the command cannot be run."""
    split = arguments.index("--")
    options, command = arguments[:split], arguments[split + 1 :]
    failure = options[options.index("--failure") + 1]
    if "--requirements" in options:
        status = install(["-r", options[options.index("--requirements") + 1]], failure)
        if status:
            return status if status > 0 else 128 - status
    if "--package" in options:
        status = install(["."], failure)
        if status:
            return status if status > 0 else 128 - status
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
