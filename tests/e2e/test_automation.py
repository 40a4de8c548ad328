"""What programs of users do with tunnels: SSMProxy, and the wrappers' methods that stand on it."""

import json
import shutil
from pathlib import Path
from typing import Any, Callable

import pytest

from e2e.laptop import Laptop, launch, running, until
from local_cloud import LocalCloud
from sagemaker_ssh_helper.wrapper import SSHEstimatorWrapper

# The user's own program: its keys are given in the code, and nothing else in its environment names any.
PREAMBLE = """
import json, os, socket, subprocess, sys
import boto3
session = boto3.Session(
    aws_access_key_id=os.environ.pop("AWS_ACCESS_KEY_ID"),
    aws_secret_access_key=os.environ.pop("AWS_SECRET_ACCESS_KEY"),
)
"""


def active_sessions(laptop: Laptop) -> Any:
    return laptop.client("ssm").describe_sessions(State="Active")["Sessions"]


def test_a_wrapper_connects_and_lets_the_job_go_on_with_no_program_but_ssh(
    laptop: Callable[[str], Laptop], tmp_path: Path
) -> None:
    alice = laptop("alice")
    job = launch(alice, "print('trained')")
    job.wait_online()
    ssh = shutil.which("ssh")
    assert ssh is not None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").symlink_to(ssh)
    alice.env["PATH"] = str(tmp_path / "bin")
    alice.python(
        PREAMBLE
        + """
from sagemaker_ssh_helper.wrapper import SSHEstimatorWrapper
wrapper = SSHEstimatorWrapper.attach(sys.argv[1], session)
wrapper.start_ssm_connection_and_continue(0, extra_args="-R localhost:0:localhost:12345")
""",
        job.name,
    )
    assert job.wait_ended()["TrainingJobStatus"] == "Completed"
    assert "trained" in job.log()
    until(lambda: not active_sessions(alice), "the session to be over")


def test_the_ids_of_a_job_of_somebody_else_take_one_call_beside_its_description(
    laptop: Callable[[str], Laptop], e2e_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = laptop("alice")
    monkeypatch.setenv("AWS_ENDPOINT_URL", e2e_cloud.endpoint_url)
    with running(alice) as job:
        instance_id = job.wait_online()
        wrapper = SSHEstimatorWrapper.attach(job.name, alice.session())
        e2e_cloud.reset_requests()
        assert wrapper.get_instance_ids() == [instance_id]
        calls = {row["action"]: row["count"] for row in e2e_cloud.requests() if row["user"] == "alice"}
        assert calls == {"sagemaker:DescribeTrainingJob": 1, "ssm:DescribeInstanceInformation": 1}


def test_a_proxy_runs_commands_through_its_port_until_it_is_disconnected(
    laptop: Callable[[str], Laptop],
) -> None:
    alice = laptop("alice")
    with running(alice) as job:
        told = alice.python(
            PREAMBLE
            + """
from sagemaker_ssh_helper.errors import ConnectionFailed, PortBusy
from sagemaker_ssh_helper.proxy import SSMProxy
told = {}
with SSMProxy(0, session=session) as proxy:
    proxy.connect_to_ssm_instance(sys.argv[1])
    port = proxy.ssh_listen_port
    with socket.create_connection(("127.0.0.1", port)) as connection:
        told["banner"] = connection.recv(4).decode()
    told["output"] = proxy.run_command_with_output("printenv TRAINING_JOB_NAME; echo 'a  b'").decode()
    proxy.run_command("echo seen")
    try:
        proxy.run_command_with_output("echo so far; exit 3")
    except subprocess.CalledProcessError as error:
        told["failed"] = [error.returncode, error.output.decode()]
    try:
        SSMProxy(port, session=session).connect_to_ssm_instance(sys.argv[1])
    except PortBusy as error:
        told["busy"] = str(error)
proxy.disconnect()
try:
    proxy.run_command("true")
except ConnectionError as error:
    told["over"] = type(error).__name__
try:
    socket.create_connection(("127.0.0.1", port)).close()
except ConnectionRefusedError:
    told["closed"] = True
print(json.dumps(told))
""",
            job.wait_online(),
        )
        until(lambda: not active_sessions(alice), "the session to be over")
    first, last = told.splitlines()
    assert first == "seen"
    found = json.loads(last)
    assert "cannot be listened on (Address already in use)" in found.pop("busy")
    assert found == {
        "banner": "SSH-",
        "output": f"{job.name}\na  b\n",
        "failed": [3, "so far\n"],
        "over": "ConnectionFailed",
        "closed": True,
    }


def test_a_tunnel_that_cannot_be_says_why(laptop: Callable[[str], Laptop]) -> None:
    alice, bob = laptop("alice"), laptop("bob")
    code = (
        PREAMBLE
        + """
from sagemaker_ssh_helper.proxy import SSMProxy
try:
    SSMProxy(0, *sys.argv[2:], session=session).connect_to_ssm_instance(sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
"""
    )
    with running(alice) as job:
        instance_id = job.wait_online()
        assert alice.python(code, instance_id, "-L nonsense").startswith(
            f"ConnectionFailed there is no tunnel to {instance_id} (Bad local forwarding specification"
        )
        assert 'UsageError "-L \'open" are no options of ssh' in alice.python(code, instance_id, "-L 'open")
        assert "NotOwner" in bob.python(code, instance_id)
        assert "TargetNotFound there is no managed instance mi-0123" in alice.python(
            code, "mi-01234567890abcdef"
        )
        assert "UsageError" in alice.python(code, job.host)
