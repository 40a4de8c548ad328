import base64
import hashlib
import json
import threading
import time
from typing import Any, Mapping

import pytest
from botocore.exceptions import ClientError

from emulator.cloud_process import CloudProcess
from emulator.gateway_peers import ControlPeer, Node
from sagemaker_ssh_helper import names
from sagemaker_ssh_helper.protocol.message import AgentMessage, format_message_id
from sagemaker_ssh_helper.protocol.payloads import AgentJob, AgentJobReply, AgentJobReplyAck, JobTopic

PLUGIN = "aws:runShellScript"


@pytest.fixture
def ssm(ssm_cloud: CloudProcess) -> Any:
    return ssm_cloud.client("ssm")


@pytest.fixture
def node(ssm_cloud: CloudProcess) -> Node:
    """An online instance with an agent of ours, which needs no second to get ready."""
    node = Node(ssm_cloud, version=names.AGENT_VERSION)
    node.ping()
    return node


def send(ssm: Any, *instance_ids: str, **more: Any) -> str:
    answer = ssm.send_command(
        DocumentName="AWS-RunShellScript",
        InstanceIds=list(instance_ids),
        Parameters={"commands": ["echo hello", "exit 3"]},
        **more,
    )
    return str(answer["Command"]["CommandId"])


def result(status: str, code: int, **more: str) -> Mapping[str, Any]:
    """The result of one step as agents report it."""
    return {
        "status": status,
        "code": code,
        "name": PLUGIN,
        "output": more.get("output", ""),
        "startDateTime": "2026-11-22T06:21:32.536Z",
        "endDateTime": "2026-11-22T06:21:34.036Z",
        "standardOutput": more.get("standard_output", ""),
        "standardError": more.get("standard_error", ""),
    }


def reply(job: AgentJob, status: str, steps: Any = None, **more: Any) -> AgentJobReply:
    content = {"documentStatus": status, "documentTraceOutput": "", "runtimeStatus": steps, **more}
    return AgentJobReply(job.job_id, content, JobTopic.SEND_COMMAND)


def send_reply(control: ControlPeer, answer: AgentJobReply) -> None:
    """Reply, and wait for the acknowledge."""
    message_id = "7f77a589-0a27-4fd6-9a6a-dbfcd8888b24"
    control.send(answer, message_id)
    _, ack = control.receive(AgentJobReplyAck)
    assert ack == AgentJobReplyAck(answer.job_id, message_id)


def invocation(ssm: Any, command_id: str, instance_id: str, **more: str) -> Any:
    return ssm.get_command_invocation(CommandId=command_id, InstanceId=instance_id, **more)


def status(ssm: Any, command_id: str, instance_id: str) -> Any:
    found = invocation(ssm, command_id, instance_id)
    return found["Status"], found["StatusDetails"], found["ResponseCode"]


def error_code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_command_goes_to_the_agent_and_its_result_comes_back(
    ssm_cloud: CloudProcess, ssm: Any, node: Node
) -> None:
    with node.open_control() as control:
        command_id = send(ssm, node.id, Comment="why")
        assert status(ssm, command_id, node.id) == ("Pending", "Pending", -1)
        message, job = control.receive_job()
        control.acknowledge_job(message, job)
        send_reply(control, reply(job, "InProgress"))
        assert status(ssm, command_id, node.id) == ("InProgress", "InProgress", -1)
        done = {
            PLUGIN: result("Failed", 3, output="hello\n", standard_output="hello\n", standard_error="oops")
        }
        send_reply(control, reply(job, "InProgress", done))
        send_reply(control, reply(job, "Failed", done))

    assert job.job_id == f"aws.ssm.{command_id}.{node.id}"
    assert job.topic == f"aws.ssm.sendCommand.{ssm_cloud.region}.{node.id}"
    assert job.content is not None
    assert job.content["Parameters"] == {
        "commands": ["echo hello", "exit 3"],
        "workingDirectory": "",
        "executionTimeout": "3600",
    }
    properties = job.content["DocumentContent"]["runtimeConfig"][PLUGIN]["properties"]
    assert properties[0]["runCommand"] == "{{ commands }}"
    found = invocation(ssm, command_id, node.id)
    del found["ResponseMetadata"]
    assert found == {
        "CommandId": command_id,
        "InstanceId": node.id,
        "Comment": "why",
        "DocumentName": "AWS-RunShellScript",
        "DocumentVersion": "$DEFAULT",
        "PluginName": PLUGIN,
        "ResponseCode": 3,
        "ExecutionStartDateTime": "2026-11-22T06:21:32.536Z",
        "ExecutionElapsedTime": "PT1.500S",
        "ExecutionEndDateTime": "2026-11-22T06:21:34.036Z",
        "Status": "Failed",
        "StatusDetails": "Failed",
        "StandardOutputContent": "hello\n",
        "StandardOutputUrl": "",
        "StandardErrorContent": "oops",
        "StandardErrorUrl": "",
        "CloudWatchOutputConfig": {"CloudWatchLogGroupName": "", "CloudWatchOutputEnabled": False},
    }
    assert invocation(ssm, command_id, node.id, PluginName=PLUGIN)["ResponseCode"] == 3
    [command] = ssm.list_commands(CommandId=command_id)["Commands"]
    assert (command["Status"], command["CompletedCount"], command["ErrorCount"]) == ("Failed", 1, 1)
    [listed] = ssm.list_command_invocations(CommandId=command_id, Details=True)["CommandInvocations"]
    assert listed["CommandPlugins"][0]["Output"] == "hello\n"
    [unseen] = ssm.list_command_invocations(CommandId=command_id)["CommandInvocations"]
    assert unseen["CommandPlugins"] == []


def test_waiter_of_boto3_sees_the_end(ssm: Any, node: Node) -> None:
    with node.open_control() as control:
        command_id = send(ssm, node.id)
        message, job = control.receive_job()
        control.acknowledge_job(message, job)
        send_reply(control, reply(job, "Success", {PLUGIN: result("Success", 0)}))

        ssm.get_waiter("command_executed").wait(
            CommandId=command_id, InstanceId=node.id, WaiterConfig={"Delay": 0, "MaxAttempts": 2}
        )


def test_final_reply_may_overtake_the_result_of_a_step(ssm: Any, node: Node) -> None:
    with node.open_control() as control:
        command_id = send(ssm, node.id)
        message, job = control.receive_job()
        control.acknowledge_job(message, job)
        send_reply(control, reply(job, "Success", {}))
        assert status(ssm, command_id, node.id)[0] == "Success"
        send_reply(control, reply(job, "InProgress", {PLUGIN: result("Success", 0, standard_output="late")}))

    assert status(ssm, command_id, node.id) == ("Success", "Success", 0)
    assert invocation(ssm, command_id, node.id)["StandardOutputContent"] == "late"


def test_error_output_is_cut_where_the_model_says(ssm: Any, node: Node) -> None:
    with node.open_control() as control:
        command_id = send(ssm, node.id)
        message, job = control.receive_job()
        control.acknowledge_job(message, job)
        both = result("Success", 0, standard_output="o" * 24000, standard_error="e" * 24000)
        send_reply(control, reply(job, "Success", {PLUGIN: both}))

    found = invocation(ssm, command_id, node.id)
    assert (len(found["StandardOutputContent"]), len(found["StandardErrorContent"])) == (24000, 8000)


@pytest.mark.parametrize("code", ["51403", "51406", "51407", "51408", "51499"])
def test_refused_job_fails(ssm: Any, node: Node, code: str) -> None:
    with node.open_control() as control:
        command_id = send(ssm, node.id)
        message, job = control.receive_job()
        control.acknowledge_job(message, job, code)
        control.wait_connected()

        assert status(ssm, command_id, node.id) == ("Failed", "Failed", -1)
        assert "said so" in invocation(ssm, command_id, node.id)["StandardErrorContent"]


def test_duplicate_counts_as_taken(ssm: Any, node: Node) -> None:
    with node.open_control() as control:
        command_id = send(ssm, node.id)
        message, job = control.receive_job()
        control.acknowledge_job(message, job, "51405")
        control.wait_connected()

        assert status(ssm, command_id, node.id)[0] == "InProgress"


def test_unacknowledged_job_comes_again_as_the_same_message(ssm: Any, node: Node) -> None:
    with node.open_control() as control:
        send(ssm, node.id)
        first = control.peer.receive()
        again = control.peer.receive(timeout=30)

    assert again == first


def test_busy_agent_gets_the_job_later(ssm: Any, node: Node) -> None:
    with node.open_control() as control:
        command_id = send(ssm, node.id)
        message, job = control.receive_job()
        asked_at = time.monotonic()
        control.acknowledge_job(message, job, "51402")
        message, job = control.receive(AgentJob, timeout=15)
        control.acknowledge_job(message, job)
        control.wait_connected()

        assert time.monotonic() - asked_at > 4
        assert status(ssm, command_id, node.id)[0] == "InProgress"


def test_job_waits_for_the_next_connection(ssm: Any, node: Node) -> None:
    with node.open_control() as control:
        command_id = send(ssm, node.id)
        control.receive_job()
    with node.open_control() as control:
        message, job = control.receive_job()
        control.acknowledge_job(message, job)
        control.wait_connected()

    assert status(ssm, command_id, node.id)[0] == "InProgress"


def test_official_agent_is_given_a_second_before_the_first_job(ssm_cloud: CloudProcess, ssm: Any) -> None:
    node = Node(ssm_cloud)
    node.ping()
    with node.open_control() as control:
        opened_at = time.monotonic()
        send(ssm, node.id)
        control.receive_job()

    assert time.monotonic() - opened_at > 0.8


def test_command_that_has_not_arrived_is_cancelled_at_once(ssm: Any, node: Node) -> None:
    command_id = send(ssm, node.id)

    ssm.cancel_command(CommandId=command_id)

    assert status(ssm, command_id, node.id) == ("Cancelled", "Cancelled", -1)
    with node.open_control() as control:
        control.peer.assert_silent(0.3)


def test_running_command_is_cancelled_by_its_agent(ssm: Any, node: Node) -> None:
    with node.open_control() as control:
        command_id = send(ssm, node.id)
        message, job = control.receive_job()
        control.acknowledge_job(message, job)
        control.wait_connected()
        ssm.cancel_command(CommandId=command_id, InstanceIds=[node.id])
        cancel_message, cancel = control.receive_job()
        control.acknowledge_job(cancel_message, cancel)
        assert status(ssm, command_id, node.id)[0] == "Cancelling"
        control.send(AgentJobReply(cancel.job_id, {"documentStatus": "InProgress"}, JobTopic.CANCEL_COMMAND))
        control.receive(AgentJobReplyAck)
        send_reply(control, reply(job, "Cancelled", {PLUGIN: result("Cancelled", 137)}))

    assert cancel.topic.startswith("aws.ssm.cancelCommand")
    assert cancel.content == {"CancelMessageId": job.job_id}
    assert cancel.job_id != job.job_id
    assert status(ssm, command_id, node.id) == ("Cancelled", "Cancelled", 137)


def test_timed_out_script_is_told_apart(ssm: Any, node: Node) -> None:
    with node.open_control() as control:
        command_id = send(ssm, node.id)
        message, job = control.receive_job()
        control.acknowledge_job(message, job)
        send_reply(control, reply(job, "TimedOut", {PLUGIN: result("TimedOut", 137)}))

    assert status(ssm, command_id, node.id) == ("TimedOut", "ExecutionTimedOut", 137)


def test_nobody_replies_for_another_instance(ssm_cloud: CloudProcess, ssm: Any, node: Node) -> None:
    other = Node(ssm_cloud, version=names.AGENT_VERSION)
    with node.open_control() as control, other.open_control() as stranger:
        command_id = send(ssm, node.id)
        _, job = control.receive_job()
        send_reply(stranger, reply(job, "Success", {PLUGIN: result("Success", 0)}))

    assert status(ssm, command_id, node.id)[0] == "Pending"


def test_deregistered_instance_leaves_its_commands_undelivered(ssm: Any, node: Node) -> None:
    command_id = send(ssm, node.id)

    ssm.deregister_managed_instance(InstanceId=node.id)

    assert status(ssm, command_id, node.id) == ("Failed", "Undeliverable", -1)


def test_offline_instances_are_named(ssm_cloud: CloudProcess, ssm: Any, node: Node) -> None:
    silent = Node(ssm_cloud)
    with pytest.raises(ClientError) as error:
        send(ssm, node.id, silent.id)
    assert error.value.response["Error"] == {
        "Code": "InvalidInstanceId",
        "Message": f"Instances [[{silent.id}]] not in a valid state for account 123456789012",
    }


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"DocumentName": "AWS-NoSuchThing"}, "InvalidDocument"),
        ({"DocumentName": "AWS-StartSSHSession"}, "InvalidDocument"),
        ({"Parameters": {}}, "InvalidParameters"),
        ({"Parameters": {"commands": ["x"], "colour": ["red"]}}, "InvalidParameters"),
        ({"Parameters": {"commands": ["x"], "executionTimeout": ["1", "2"]}}, "InvalidParameters"),
        ({"Parameters": {"commands": ["x"], "executionTimeout": ["soon"]}}, "InvalidParameters"),
        ({"Targets": [{"Key": "tag:a", "Values": ["b"]}]}, "ValidationException"),
        ({"InstanceIds": []}, "ValidationException"),
        ({"TimeoutSeconds": 2592001}, "ValidationException"),
    ],
)
def test_command_that_makes_no_sense_is_refused(ssm: Any, node: Node, request_: Any, expected: str) -> None:
    whole = {
        "DocumentName": "AWS-RunShellScript",
        "InstanceIds": [node.id],
        "Parameters": {"commands": ["true"]},
        **request_,
    }
    with pytest.raises(ClientError) as error:
        ssm.send_command(**whole)
    assert error_code(error) == expected


def test_unknown_command_or_invocation_is_an_error(ssm: Any, node: Node) -> None:
    command_id = send(ssm, node.id)
    with pytest.raises(ClientError) as error:
        invocation(ssm, command_id, "mi-00000000000000000")
    assert error_code(error) == "InvocationDoesNotExist"
    with pytest.raises(ClientError) as error:
        invocation(ssm, command_id, node.id, PluginName="aws:other")
    assert error_code(error) == "InvalidPluginName"
    with pytest.raises(ClientError) as error:
        ssm.cancel_command(CommandId="00000000-0000-4000-8000-000000000000")
    assert error_code(error) == "InvalidCommandId"


def test_targets_by_tag_are_the_online_ones(ssm_cloud: CloudProcess, ssm: Any) -> None:
    online, offline = (Node(ssm_cloud, {"Wave": "1"}) for _ in range(2))
    online.ping()

    command = ssm.send_command(
        DocumentName="AWS-RunShellScript",
        Targets=[{"Key": "tag:Wave", "Values": ["1"]}],
        Parameters={"commands": ["true"]},
    )["Command"]

    assert command["TargetCount"] == 1
    assert status(ssm, command["CommandId"], online.id)[0] == "Pending"
    assert online.id != offline.id


def test_owner_may_send_commands_and_others_may_not(ssm_cloud: CloudProcess) -> None:
    node = Node(ssm_cloud, {"SSHOwner": ssm_cloud.user("alice")["user_id"]})
    node.ping()

    assert send(ssm_cloud.client("ssm", "alice"), node.id)
    with pytest.raises(ClientError) as error:
        send(ssm_cloud.client("ssm", "bob"), node.id)
    assert error_code(error) == "AccessDeniedException"


def test_commands_are_listed_newest_first(ssm: Any, node: Node) -> None:
    sent = [send(ssm, node.id) for _ in range(3)]

    listed = ssm.list_commands(InstanceId=node.id)["Commands"]
    page = ssm.list_command_invocations(InstanceId=node.id, MaxResults=2)
    rest = ssm.list_command_invocations(InstanceId=node.id, MaxResults=2, NextToken=page["NextToken"])
    pending = ssm.list_commands(InstanceId=node.id, Filters=[{"key": "Status", "value": "Success"}])

    assert [command["CommandId"] for command in listed] == sent[::-1]
    assert [one["CommandId"] for one in [*page["CommandInvocations"], *rest["CommandInvocations"]]] == (
        sent[::-1]
    )
    assert pending["Commands"] == []


def test_agent_without_a_control_channel_polls_for_its_commands(ssm: Any, node: Node) -> None:
    answers = []
    poll = threading.Thread(
        target=lambda: answers.append(
            node.message_call(
                "GetMessages",
                Destination=node.id,
                MessagesRequestId="63beba72-8e17-4f54-8d4d-54547a7ba6a0",
                VisibilityTimeoutInSeconds=10,
            )
        )
    )
    poll.start()
    command_id = send(ssm, node.id)
    poll.join(timeout=20)

    [(http_status, answer)] = answers
    assert http_status == 200
    assert answer["MessagesRequestId"] == "63beba72-8e17-4f54-8d4d-54547a7ba6a0"
    [message] = answer["Messages"]
    payload = json.loads(message["Payload"])
    assert message["MessageId"] == f"aws.ssm.{command_id}.{node.id}"
    assert message["Destination"] == node.id
    assert message["Topic"].startswith("aws.ssm.sendCommand.")
    assert message["CreatedDate"].endswith("Z")
    assert message["PayloadDigest"] == hashlib.sha256(message["Payload"].encode()).hexdigest()
    assert payload["CommandId"] == command_id
    content = {"documentStatus": "InProgress", "runtimeStatus": None}
    reply_fields = {"MessageId": message["MessageId"], "ReplyId": "r"}
    node.message_call("SendReply", Payload=json.dumps(content), **reply_fields)
    assert node.message_call("AcknowledgeMessage", MessageId=message["MessageId"]) == (200, {})
    assert status(ssm, command_id, node.id)[0] == "InProgress"
    content = {"documentStatus": "Success", "runtimeStatus": {PLUGIN: result("Success", 0)}}
    assert node.message_call("SendReply", Payload=json.dumps(content), **reply_fields)[0] == 200
    assert status(ssm, command_id, node.id) == ("Success", "Success", 0)


def test_message_comes_again_after_its_visibility_timeout(ssm: Any, node: Node) -> None:
    command_id = send(ssm, node.id)
    fields = {"Destination": node.id, "MessagesRequestId": "r", "VisibilityTimeoutInSeconds": 1}

    first = node.message_call("GetMessages", **fields)[1]["Messages"]
    again = node.message_call("GetMessages", **fields)[1]["Messages"]

    assert [message["MessageId"] for message in first] == [f"aws.ssm.{command_id}.{node.id}"]
    assert again == first
    why = {"MessageId": first[0]["MessageId"], "FailureType": "NoHandlerExists"}
    assert node.message_call("FailMessage", **why) == (200, {})
    assert status(ssm, command_id, node.id)[0] == "Failed"
    assert node.message_call("DeleteMessage", MessageId=first[0]["MessageId"]) == (200, {})


def test_agent_cannot_poll_for_another(ssm_cloud: CloudProcess, node: Node) -> None:
    other = Node(ssm_cloud)
    http_status, answer = node.message_call("GetMessages", Destination=other.id, MessagesRequestId="r")
    assert (http_status, answer["__type"]) == (400, "AccessDeniedException")


def test_malformed_messages_are_dropped_and_the_channel_lives(
    ssm_cloud: CloudProcess, ssm: Any, node: Node
) -> None:
    with node.open_control() as control:
        command_id = send(ssm, node.id)
        message, job = control.receive_job()
        good = AgentMessage("agent_job_reply", reply(job, "Success").serialize(), created_ms=5).serialize()
        control.peer.send(b"short", good[:100], good[:80] + bytes(32) + good[112:], b"\xff" * 200)
        not_json = AgentMessage("agent_job_reply", base64.b64encode(b"no JSON"), created_ms=5).serialize()
        control.peer.send(not_json)
        control.acknowledge_job(message, job)
        control.wait_connected()

        assert status(ssm, command_id, node.id)[0] == "InProgress"
    assert format_message_id(message.message_id) not in ssm_cloud.log_text


def test_agent_that_sends_nothing_but_nonsense_is_cut_off(ssm_cloud: CloudProcess, node: Node) -> None:
    with node.open_control() as control:
        control.peer.send(*[b"nonsense"] * 16)

        assert control.peer.wait_lost().startswith("1008 ")
