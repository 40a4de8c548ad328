"""
What version 0.1 writes and says, frozen: the other end, or another version's process, reads it for ever.

A change here breaks somebody: add to these, and keep what there is readable.
"""

import base64
import json

import pytest

from sagemaker_ssh_helper.agent import activation
from sagemaker_ssh_helper.agent.resource import Resource
from sagemaker_ssh_helper.agent.setup import parse_token
from sagemaker_ssh_helper.agent.state import State, StateDir
from sagemaker_ssh_helper.names import Command, Env, ResourceKind, Tag
from sagemaker_ssh_helper.public_keys import PublicKey

pytestmark = pytest.mark.container

KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))).decode()

STATUS = {
    "state": "online",
    "why": "",
    "instance_id": "mi-0123456789abcdef0",
    "sshd_port": 22,
    "log": "/var/log/amazon/ssm/amazon-ssm-agent.log",
    "user": "root",
    "updated_at": 1795406603.23,
}
CONFIG = {
    "region": "eu-west-1",
    "activation_id": "11111111-2222-3333-4444-555555555555",
    "activation_code": "AAAAAAAAAAAAAAAAAAAA",
    "instance_name": "algo-1.my-job.training.sagemaker",
    "sshd_port": 22,
    "log_path": "/var/log/amazon/ssm/amazon-ssm-agent.log",
    "log_to_stdout": False,
    "environ_path": "/var/lib/sagemaker-ssh-helper/environment",
    "bin_path": "/var/lib/sagemaker-ssh-helper/bin",
}


@pytest.fixture
def state(tmp_path):
    return StateDir.open(str(tmp_path / "node"), create=True)


@pytest.mark.parametrize("more", [{}, {"of_a_later_version": 1}], ids=["as it was", "with something new"])
def test_the_files_of_a_node_are_read(state, more):
    state.write(state.status_json, json.dumps({**STATUS, **more}).encode())
    state.write(state.agent_json, json.dumps({**CONFIG, **more}).encode())

    status, config = state.read_status(), state.read_config()
    assert {name: getattr(status, name) for name in STATUS} == {**STATUS, "state": State.ONLINE}
    assert {name: getattr(config, name) for name in CONFIG} == CONFIG


def test_the_files_of_a_node_are_still_written_for_it(state):
    state.begin("setting up")
    state.update_status(
        State.ONLINE, **{name: STATUS[name] for name in STATUS if name not in ("state", "updated_at")}
    )

    written = json.loads(state.read(state.status_json))
    assert {name: written[name] for name in STATUS if name != "updated_at"} == {
        name: value for name, value in STATUS.items() if name != "updated_at"
    }


def test_the_environment_of_a_launch_keeps_its_names():
    assert {
        Env.START_SSH, Env.SSM_ROLE, Env.OWNER_TAG, Env.WAIT_TIME_SECONDS, Env.INSTANCE_COUNT,
        Env.LOG_TO_STDOUT, Env.PUBLIC_KEY, Env.LAUNCH_ID, Env.AGENT, Env.SSHD,
    } == {
        "START_SSH", "SSH_SSM_ROLE", "SSH_OWNER_TAG", "SSH_WAIT_TIME_SECONDS", "SSH_INSTANCE_COUNT",
        "SSH_LOG_TO_STDOUT", "SSH_PUBLIC_KEY", "SSH_LAUNCH_ID", "SSH_AGENT", "SSH_SSHD",
    }  # fmt: skip


def test_the_tags_of_a_node_keep_their_names_and_forms():
    key = PublicKey.parse(KEY)
    resource = Resource(ResourceKind.TRAINING, "my-job", "arn:aws:sagemaker:r:1:training-job/my-job", 0)
    environ = {"SSH_OWNER_TAG": "AIDA", "SSH_LAUNCH_ID": "0f" * 16}
    found = activation.tags(
        resource, environ, identity=None, host_key=key, port=22, user="root", keys=[key], now=1.0
    )

    found.pop(Tag.VERSION)
    assert found == {
        "SSHOwner": "AIDA",
        "SSHTimestamp": "1",
        "SSHResourceName": "my-job",
        "SSHResourceArn": "arn:aws:sagemaker:r:1:training-job/my-job",
        "SSHHostKey": KEY,
        "SSHPort": "22",
        "SSHUser": "root",
        "SSHNode": "algo-1",
        "SSHLaunchId": "0f" * 16,
        "SSHKeys": key.fingerprint,
    }


def test_the_command_that_delivers_a_key_is_understood():
    token = base64.b64encode(KEY.encode()).decode()

    assert Command.AUTHORIZE_KEY.format(token=token) == f"sm-setup-ssh authorize {token}"
    assert parse_token(token).line == KEY
