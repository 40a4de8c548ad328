from typing import Any

import pytest

from sagemaker_ssh_helper.emulator.documents import Document, Documents
from sagemaker_ssh_helper.emulator.run_command import Commands
from sagemaker_ssh_helper.protocol.payloads import AgentJob, AgentJobAck, AgentJobReply, JobTopic

INSTANCE = "mi-0123456789abcdef0"
OTHER = "mi-00000000000000000"


class Desk:
    """Where jobs go in these tests."""

    def __init__(self) -> None:
        self.waiting: dict[str, AgentJob] = {}

    def send_job(self, instance_id: str, job: AgentJob) -> None:
        self.waiting[job.job_id] = job

    def settle_job(self, instance_id: str, job_id: str) -> None:
        self.waiting.pop(job_id, None)

    def postpone_job(self, instance_id: str, job_id: str, delay: float) -> None:
        assert job_id in self.waiting


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def commands(desk: Desk) -> Commands:
    return Commands("us-east-1", desk, max_commands=3)


def send(commands: Commands, *instance_ids: str, **request: Any) -> Any:
    document = Documents().find("AWS-RunShellScript")
    values = {"commands": ["true"], "executionTimeout": ["100"]}
    return commands.send(document, instance_ids or [INSTANCE], values, request, 1000.0)


def ack(command: Any, instance_id: str = INSTANCE) -> AgentJobAck:
    return AgentJobAck(f"aws.ssm.{command.id}.{instance_id}", "", "")


def reply(command: Any, status: str, steps: Any = None, instance_id: str = INSTANCE) -> AgentJobReply:
    content = {"documentStatus": status, "runtimeStatus": steps}
    return AgentJobReply(f"aws.ssm.{command.id}.{instance_id}", content, JobTopic.SEND_COMMAND)


def test_undelivered_command_times_out(commands: Commands, desk: Desk) -> None:
    command = send(commands, TimeoutSeconds=30)
    assert commands.next_deadline() == 1030.0
    commands.handle_timer(1029.0)
    assert command.status == "Pending"

    commands.handle_timer(1030.0)

    assert (command.status, command.details) == ("TimedOut", "DeliveryTimedOut")
    assert desk.waiting == {}
    assert commands.next_deadline() is None


def test_delivered_command_of_a_dead_agent_times_out(commands: Commands) -> None:
    command = send(commands, TimeoutSeconds=30)
    commands.acknowledged(INSTANCE, ack(command), 1010.0)
    assert commands.next_deadline() == 1140.0  # 100 s for the script, 30 s for delivery

    commands.handle_timer(1140.0)

    assert (command.status, command.details) == ("TimedOut", "ExecutionTimedOut")


def test_cancelling_command_of_a_dead_agent_ends_cancelled(commands: Commands) -> None:
    command = send(commands, TimeoutSeconds=30)
    commands.acknowledged(INSTANCE, ack(command), 1010.0)
    commands.cancel(command, [INSTANCE, OTHER])
    assert command.status == "Cancelling"

    commands.handle_timer(1140.0)

    assert (command.status, command.details) == ("Cancelled", "Cancelled")


def test_terminal_status_stays(commands: Commands) -> None:
    command = send(commands)
    commands.replied(INSTANCE, reply(command, "Success", {}), 1001.0)
    commands.replied(INSTANCE, reply(command, "InProgress"), 1002.0)
    commands.replied(INSTANCE, reply(command, "Failed"), 1003.0)
    commands.acknowledged(INSTANCE, ack(command), 1004.0)
    commands.cancel(command, [INSTANCE])

    assert command.status == "Success"


def test_status_of_several_instances(commands: Commands) -> None:
    command = send(commands, INSTANCE, OTHER)
    assert command.status == "Pending"
    commands.replied(INSTANCE, reply(command, "Success"), 1001.0)
    assert command.status == "InProgress"
    commands.replied(OTHER, reply(command, "Failed", instance_id=OTHER), 1002.0)
    assert command.status == "Failed"
    assert (command.count("Success"), command.count("Failed")) == (1, 1)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"documentStatus": 3, "runtimeStatus": "text"},
        {"documentStatus": "Odd", "runtimeStatus": {"aws:runShellScript": 3}},
        {"documentStatus": "InProgress", "runtimeStatus": {"x": {"status": 1, "code": "c", "output": []}}},
    ],
)
def test_reply_of_another_shape_does_no_harm(commands: Commands, content: Any) -> None:
    command = send(commands)
    job_id = f"aws.ssm.{command.id}.{INSTANCE}"
    commands.replied(INSTANCE, AgentJobReply(job_id, content, JobTopic.SEND_COMMAND), 1001.0)

    assert command.status == "InProgress"


@pytest.mark.parametrize("job_id", ["", "x", "aws.ssm.no-such-command.mi-1", "a.b.c.d.e"])
def test_unknown_job_is_ignored(commands: Commands, job_id: str) -> None:
    command = send(commands)
    commands.replied(INSTANCE, AgentJobReply(job_id, {"documentStatus": "Success"}), 1001.0)
    commands.acknowledged(INSTANCE, AgentJobAck(job_id, "", ""), 1001.0)

    assert command.status == "Pending"


def test_oldest_commands_are_forgotten(commands: Commands, desk: Desk) -> None:
    sent = [send(commands) for _ in range(5)]

    assert list(commands) == sent[2:]
    assert len(desk.waiting) == 3


def test_steps_of_a_newer_document_are_seen_as_one(commands: Commands) -> None:
    steps = [{"name": name, "action": "aws:runShellScript", "inputs": {}} for name in ("one", "two")]
    document = Document("Steps", "Command", {"schemaVersion": "2.2", "parameters": {}, "mainSteps": steps})
    command = commands.send(document, [INSTANCE], {}, {}, 1000.0)
    invocation = command.invocations[INSTANCE]
    assert [plugin.name for plugin in invocation.shown_plugins] == ["one", "two"]
    one = {"status": "Success", "code": 0, "standardOutput": "1\n", "startDateTime": "a"}
    two = {"status": "Failed", "code": 7, "standardOutput": "2\n", "endDateTime": "b"}
    commands.replied(INSTANCE, reply(command, "InProgress", {"one": one}), 1001.0)
    commands.replied(INSTANCE, reply(command, "InProgress", {"two": two}), 1001.0)
    commands.replied(INSTANCE, reply(command, "Failed", {}), 1001.0)

    whole = invocation.plugin(None)
    assert (whole.code, whole.standard_output, whole.started, whole.ended) == (7, "1\n2\n", "a", "b")
    assert invocation.plugin("one").code == 0
    assert command.status == "Failed"
