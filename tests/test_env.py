"""What scripts in a container ask about where they run."""

import json
import subprocess
import sys

import pytest

from sagemaker_ssh_helper.env import get_caller_script_name, sm_get_node_rank

pytestmark = pytest.mark.container


@pytest.fixture
def base(tmp_path, monkeypatch):
    """The SageMaker folder of this process, which is no job's yet."""
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.delenv("TRAINING_JOB_NAME", raising=False)
    return tmp_path


@pytest.mark.parametrize(("host", "rank"), [("algo-1", 0), ("algo-2", 1), ("algo-10", 9)])
def test_a_node_of_a_training_job_tells_its_rank(base, monkeypatch, host, rank):
    config = base / "input" / "config"
    config.mkdir(parents=True)
    hosts = ["algo-1", "algo-10", "algo-2"]
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": host, "hosts": hosts}))
    monkeypatch.setenv("TRAINING_JOB_NAME", "job")
    assert sm_get_node_rank() == rank


def test_a_node_of_a_processing_job_tells_its_rank(base):
    config = base / "config"
    config.mkdir()
    (config / "processingjobconfig.json").write_text(json.dumps({"ProcessingJobName": "job"}))
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": "algo-3"}))
    assert sm_get_node_rank() == 2


def test_outside_of_a_job_it_is_the_first(base):
    assert sm_get_node_rank() == 0


def test_a_script_is_told_its_name():
    assert get_caller_script_name() == "test_env.py"
    code = "from sagemaker_ssh_helper.env import *; print(get_caller_script_name())"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, check=True)
    assert done.stdout == b"<string>\n"
