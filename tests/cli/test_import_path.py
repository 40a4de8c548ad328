"""Folders of the user's own modules."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from sagemaker_ssh_helper.client import connect

# What Python itself loads, and the script that pip writes, before anything of ours runs.
BEFORE_US = "import re, runpy, sys; print(*sys.modules)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Modules that are named like those of the standard library: queue, logging, datetime and all others."""
    loaded = subprocess.run([sys.executable, "-c", BEFORE_US], stdout=subprocess.PIPE, text=True, check=True)
    folder = tmp_path_factory.mktemp("own")
    for name in set(sys.stdlib_module_names) - set(loaded.stdout.split()):
        if importlib.util.find_spec(name) is None:
            # Of another system: it is looked for in vain.
            continue
        (folder / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')\n")
    assert (folder / "queue.py").exists()
    return folder


@pytest.mark.parametrize("where", ["PYTHONPATH", "here"])
@pytest.mark.parametrize("program", [None, [sys.executable, "-m", "sagemaker_ssh_helper"]])
def test_modules_of_the_user_s_are_not_taken_for_python_s(
    folder: Path, tmp_path: Path, where: str, program: "list[str] | None"
) -> None:
    environ = {
        "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "AWS_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    if where == "PYTHONPATH":
        environ["PYTHONPATH"] = f"{folder}:"
    done = subprocess.run(
        [*(program or connect.program_words()), "start-proxy", "--no-wait", "x.training.sagemaker"],
        cwd=folder if where == "here" else tmp_path, env=environ, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr.startswith("sm-ssh: error[endpoint-unreachable]"), done.stderr
    assert done.returncode == 255
