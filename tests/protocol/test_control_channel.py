"""The agent's control channel: offers in, results out until acknowledged, over any number of connections."""

from dataclasses import replace
from typing import Any, List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import strategies, vectors
from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol import control_channel
from sagemaker_ssh_helper.protocol.control_channel import (
    ControlChannel,
    ControlPayload,
    ControlState,
    JobOffered,
    JobReplyAcknowledged,
    SessionClosed,
    SessionOffered,
    TaskAcknowledged,
    parse_control,
    serialize_control,
)
from sagemaker_ssh_helper.protocol.message import AgentMessage, MessageType, format_message_id
from sagemaker_ssh_helper.protocol.payloads import (
    TRUNCATED,
    AgentJob,
    AgentJobAck,
    AgentJobReply,
    AgentJobReplyAck,
    AgentTaskAcknowledge,
    AgentTaskComplete,
    ChannelClosed,
    InteractiveShell,
    JobAckStatus,
    JobTopic,
    OpenControlChannelInput,
    TaskStatus,
)

pytestmark = pytest.mark.container

NODE = "mi-0123456789abcdef0"
WALL_MS = 1700000000000
MESSAGE_ID = bytes(range(16))
JOB_ID = f"aws.ssm.b706ee2f-930a-48b4-9517-a3845a600f49.{NODE}"
RESULT = AgentTaskComplete("session-1", TaskStatus.SUCCESS, NODE)
FINAL = AgentJobReply(JOB_ID, {"documentStatus": "Success", "runtimeStatus": {"run": {"output": "hi"}}})
BEGUN = AgentJobReply(JOB_ID, {"documentStatus": "InProgress", "runtimeStatus": None})


def channel(opened_at: Optional[float] = 0.0) -> ControlChannel:
    made = ControlChannel(
        NODE, random_bytes=strategies.counter_bytes(), created_ms=lambda: WALL_MS, version="3.3.4515.0"
    )
    if opened_at is not None:
        made.open("token", opened_at)
        made.text_to_send()
    return made


def from_service(payload: ControlPayload) -> bytes:
    return serialize_control(payload, message_id=MESSAGE_ID, created_ms=WALL_MS)


def sent(made: ControlChannel) -> List[Any]:
    """The payloads the channel wants to send now."""
    return [parse_control(data)[1] for data in made.messages_to_send()]


def ids_sent(made: ControlChannel) -> List[str]:
    return [format_message_id(parse_control(data)[0].message_id) for data in made.messages_to_send()]


def run(made: ControlChannel, until: float) -> List[Any]:
    """Let time pass, as a shell does: (time, payload) of everything sent."""
    log = []
    while True:
        deadline = made.next_deadline()
        if deadline is None or deadline > until:
            return log
        made.handle_timer(deadline)
        log += [(deadline, payload) for payload in sent(made)]


# -- opening --


def test_opening_frame_is_that_of_official_agents() -> None:
    made = channel(opened_at=None)
    made.open("secret", 0.0)
    text = made.text_to_send()

    assert text is not None
    frame = OpenControlChannelInput.parse(text)
    assert frame == OpenControlChannelInput("secret", frame.request_id, "3.3.4515.0", "linux")
    assert text.startswith(b'{"Cookie":null,"MessageSchemaVersion":"1.0","RequestId":"')
    assert made.text_to_send() is None
    assert made.messages_to_send() == []


def test_every_opening_has_an_id_and_a_token_of_its_own() -> None:
    made = channel(opened_at=None)
    frames = []
    for token in ("first", "second"):
        made.open(token, 0.0)
        frames.append(OpenControlChannelInput.parse(made.text_to_send() or b""))
        made.connection_lost(1.0)

    assert [frame.token for frame in frames] == ["first", "second"]
    assert frames[0].request_id != frames[1].request_id


def test_an_opening_that_was_lost_is_not_sent_later() -> None:
    made = channel(opened_at=None)
    made.open("token", 0.0)
    made.connection_lost(0.1)

    assert made.state is ControlState.CLOSED
    assert made.text_to_send() is None


# -- offers --


def test_session_is_offered() -> None:
    shell = InteractiveShell(
        "session-1", "AWS-StartSSHSession", {"schemaVersion": "1.0"}, {"portNumber": "22"}
    )
    made = channel()

    assert made.receive_message(from_service(shell), 0.0) == [SessionOffered(shell)]
    # No acknowledge of any kind.
    assert made.messages_to_send() == []


def test_session_is_closed() -> None:
    assert channel().receive_message(from_service(ChannelClosed("session-1")), 0.0) == [
        SessionClosed("session-1")
    ]


def test_text_frame_is_parsed_like_a_binary_one() -> None:
    assert channel().receive_text(from_service(ChannelClosed("session-1")), 0.0) == [
        SessionClosed("session-1")
    ]
    assert channel().receive_text(b"hello", 0.0) == []


def test_job_is_offered_and_acknowledged_as_official_agents_do() -> None:
    recorded = vectors.recorded_messages()
    data = next(line.data for line in recorded if line.name == "mi-ae5e479b7ca04881f")
    ack = next(line.data for line in recorded if b"agent_job_ack" in line.data[:40])
    made = channel()
    (event,) = made.receive_message(data, 0.0)
    assert isinstance(event, JobOffered)
    made.job_ack(event)
    (message,) = made.messages_to_send()

    assert event.job.command_id == "b706ee2f-930a-48b4-9517-a3845a600f49"
    assert event.job.topic.startswith(JobTopic.SEND_COMMAND)
    assert AgentMessage.parse(message).payload == AgentMessage.parse(ack).payload


def test_job_whose_content_is_no_json_is_offered_to_be_refused() -> None:
    made = channel()
    (event,) = made.receive_message(from_service(AgentJob(JOB_ID, JobTopic.SEND_COMMAND, None)), 0.0)
    assert isinstance(event, JobOffered)
    made.job_ack(event, JobAckStatus.PARSE_ERROR)

    assert event.job.content is None
    assert sent(made) == [
        AgentJobAck(
            JOB_ID,
            format_message_id(MESSAGE_ID),
            "2023-11-14T22:13:20.000Z",
            "51408",
            "AgentJobMessageParseError",
        )
    ]


DROPPED = {
    "noise": b"noise",
    "no session id": from_service(ChannelClosed("")),
    "broken payload": AgentMessage(MessageType.AGENT_JOB, b"{").serialize(),
    "offer without content": AgentMessage(MessageType.INTERACTIVE_SHELL, b"{}").serialize(),
    "unknown type": AgentMessage("agent_dance", b"{}").serialize(),
    "stream data": AgentMessage(MessageType.INPUT_STREAM_DATA, b"x").serialize(),
    "what agents send": from_service(RESULT),
}


@pytest.mark.parametrize("name", sorted(DROPPED))
def test_what_is_no_offer_is_dropped_with_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    made = channel()

    assert made.receive_message(DROPPED[name], 0.0) == []
    assert made.messages_to_send() == []
    assert [record.levelname for record in caplog.records if "dropped" in record.message] == ["WARNING"]


def test_nothing_is_taken_from_a_channel_that_is_not_open() -> None:
    made = channel(opened_at=None)

    assert made.receive_message(from_service(ChannelClosed("session-1")), 0.0) == []


@given(st.binary(max_size=300) | strategies.messages.map(AgentMessage.serialize), st.data())
def test_no_message_makes_it_raise(data: bytes, draw: st.DataObject) -> None:
    made = channel()
    made.receive_message(data, 0.0)
    for payload in (RESULT, FINAL, AgentTaskAcknowledge("x"), AgentJobReplyAck("x", "y"), ChannelClosed("s")):
        made.receive_message(draw.draw(strategies.one_byte_changes(from_service(payload))), 0.0)

    assert made.state is ControlState.OPEN


# -- results --


def test_result_is_sent_three_times_a_second_apart_with_one_message_id() -> None:
    made = channel()
    message_id = made.task_complete(RESULT, 10.0)
    first = made.messages_to_send()
    made.handle_timer(11.0)
    second = made.messages_to_send()
    made.handle_timer(12.0)
    third = made.messages_to_send()
    made.handle_timer(13.0)

    parsed = [parse_control(data) for (data,) in (first, second, third)]
    assert [payload for _, payload in parsed] == [
        RESULT,
        replace(RESULT, retry_number=2),
        replace(RESULT, retry_number=3),
    ]
    assert {format_message_id(message.message_id) for message, _ in parsed} == {message_id}
    assert made.messages_to_send() == []
    assert made.next_deadline() is None
    assert made.pending == 0


def test_result_as_official_agents_send_it() -> None:
    recorded = next(
        line.data for line in vectors.recorded_messages() if b"agent_task_complete" in line.data[:40]
    )
    message, payload = parse_control(recorded)
    assert isinstance(payload, AgentTaskComplete)
    made = channel()
    made.task_complete(payload, 0.0)
    ours = AgentMessage.parse(made.messages_to_send()[0])

    assert ours == replace_id(message, ours)


def replace_id(message: AgentMessage, other: AgentMessage) -> AgentMessage:
    """``message`` with the other's id and date: the two things that differ from one sending to the next."""
    return AgentMessage(
        message.message_type,
        message.payload,
        message.sequence_number,
        message.flags,
        message.payload_type,
        other.message_id,
        other.created_ms,
    )


def test_acknowledged_result_is_not_sent_again() -> None:
    made = channel()
    message_id = made.task_complete(RESULT, 0.0)
    made.messages_to_send()

    assert made.receive_message(from_service(AgentTaskAcknowledge(message_id)), 0.5) == [
        TaskAcknowledged(message_id)
    ]
    assert run(made, until=9999.0) == []
    assert made.pending == 0


def test_acknowledge_of_something_else_changes_nothing() -> None:
    made = channel()
    message_id = made.task_complete(RESULT, 0.0)
    made.messages_to_send()
    made.receive_message(from_service(AgentTaskAcknowledge("another")), 0.5)
    made.receive_message(from_service(AgentJobReplyAck(JOB_ID, message_id)), 0.5)

    assert made.pending == 1


def test_result_of_a_closed_channel_waits_for_the_next_opening() -> None:
    made = channel(opened_at=None)
    made.task_complete(RESULT, 0.0)

    assert made.messages_to_send() == []
    assert made.next_deadline() is None
    assert made.handle_timer(100.0) == []
    made.open("token", 200.0)
    assert sent(made) == [RESULT]
    assert made.next_deadline() == 201.0


def test_result_is_sent_once_more_after_each_new_connection() -> None:
    made = channel()
    made.task_complete(RESULT, 0.0)
    assert [payload.retry_number for payload in sent(made)] == [1]
    assert [payload.retry_number for _, payload in run(made, until=2.0)] == [2, 3]
    made.connection_lost(2.5)
    made.open("token", 60.0)

    assert [payload.retry_number for payload in sent(made)] == [3]
    assert run(made, until=999.0) == []
    assert made.pending == 0


# -- replies --


def test_job_ack_and_replies_leave_in_the_order_they_came() -> None:
    made = channel()
    made.job_ack(JobOffered(AgentJob(JOB_ID, JobTopic.SEND_COMMAND, {}), MESSAGE_ID, WALL_MS))
    made.job_reply(BEGUN, 0.0)
    made.job_reply(FINAL, 0.1)

    assert [type(payload) for payload in sent(made)] == [AgentJobAck, AgentJobReply, AgentJobReply]


def test_first_reply_is_sent_once() -> None:
    made = channel()
    made.job_reply(BEGUN, 0.0)

    assert sent(made) == [BEGUN]
    assert made.pending == 0
    assert made.next_deadline() is None


def test_first_reply_waits_for_an_opening_too() -> None:
    made = channel(opened_at=None)
    made.job_reply(BEGUN, 0.0)
    made.open("token", 5.0)

    assert sent(made) == [BEGUN]


def test_reply_is_sent_ever_more_rarely_for_two_hours() -> None:
    made = channel()
    message_id = made.job_reply(FINAL, 0.0)
    assert ids_sent(made) == [message_id]
    log = run(made, until=20000.0)
    times = [at for at, _ in log]

    assert times[:10] == [1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 127.0, 255.0, 511.0, 811.0]
    assert {later - earlier for earlier, later in zip(times[9:], times[10:])} == {300.0}
    assert 6900.0 < times[-1] <= 7200.0
    assert {payload.job_id for _, payload in log} == {JOB_ID}
    assert made.pending == 0


def test_acknowledged_reply_is_not_sent_again() -> None:
    made = channel()
    message_id = made.job_reply(FINAL, 0.0)
    made.messages_to_send()

    assert made.receive_message(from_service(AgentJobReplyAck(JOB_ID, message_id)), 0.5) == [
        JobReplyAcknowledged(message_id)
    ]
    assert made.next_deadline() is None


def test_reply_is_sent_again_at_once_after_a_lost_connection() -> None:
    made = channel()
    message_id = made.job_reply(FINAL, 0.0)
    made.messages_to_send()
    made.connection_lost(0.5)
    assert made.next_deadline() is None
    made.open("token", 30.0)

    assert ids_sent(made) == [message_id]


def test_reply_that_is_too_long_is_cut() -> None:
    made = channel()
    made.job_reply(
        AgentJobReply(
            JOB_ID, {"documentStatus": "Success", "runtimeStatus": {"run": {"standardOutput": "x" * 130000}}}
        ),
        0.0,
    )
    (reply,) = sent(made)

    assert reply.content["runtimeStatus"]["run"]["standardOutput"] == "x" * 65000 + TRUNCATED


def test_no_more_than_fifty_are_sent_again_at_once() -> None:
    made = channel(opened_at=None)
    for _ in range(120):
        made.job_reply(FINAL, 0.0)
    made.open("token", 10.0)

    assert len(made.messages_to_send()) == 50
    # The next fifty a second later; the first fifty are due again as well, and wait their turn.
    assert made.next_deadline() == 11.0
    made.handle_timer(11.0)
    assert len(made.messages_to_send()) == 50
    assert made.pending == 120


def test_every_waiting_reply_has_its_turn() -> None:
    made = channel(opened_at=None)
    wanted = {made.job_reply(FINAL, 0.0) for _ in range(200)}
    made.open("token", 10.0)
    seen = set(ids_sent(made))
    for second in range(11, 40):
        made.handle_timer(float(second))
        seen |= set(ids_sent(made))

    assert seen == wanted


def test_service_that_acknowledges_nothing_does_not_fill_our_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = channel(opened_at=None)
    first = made.job_reply(FINAL, 0.0)
    for _ in range(control_channel.MAX_PENDING):
        made.job_reply(FINAL, 1.0)

    assert made.pending == control_channel.MAX_PENDING
    assert "! gave up agent_job_reply: too many are unacknowledged" in caplog.text
    made.open("token", 2.0)
    assert first not in ids_sent(made)


def test_large_replies_count_by_their_bytes() -> None:
    made = channel(opened_at=None)
    large = AgentJobReply(
        JOB_ID, {"documentStatus": "Success", "runtimeStatus": {"run": {"o": "x" * 100000}}}
    )
    for _ in range(100):
        made.job_reply(large, 0.0)

    assert 0 < made.pending * 100000 <= control_channel.MAX_PENDING_BYTES


# -- both sides --


@given(st.one_of(*(strategies.PAYLOADS[cls] for cls in control_channel._PAYLOADS.values())))
def test_control_messages_are_read_as_they_were_written(payload: ControlPayload) -> None:
    message, parsed = parse_control(from_service(payload))

    assert parsed == payload
    assert message.message_id == MESSAGE_ID
    assert (message.sequence_number, message.flags, message.payload_type) == (0, 0, 0)


def test_unknown_control_message_has_no_payload() -> None:
    telemetry = AgentMessage(MessageType.AGENT_TELEMETRY, b"{}")

    assert parse_control(telemetry.serialize()) == (telemetry, None)


def test_control_message_with_a_broken_payload_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="agent_task_complete"):
        parse_control(AgentMessage(MessageType.AGENT_TASK_COMPLETE, b"[]").serialize())


@given(st.lists(st.sampled_from(["result", "reply", "ack", "lose", "open", "wait"]), max_size=30))
def test_everything_is_delivered_however_often_the_connection_is_lost(steps: List[str]) -> None:
    made = channel(opened_at=None)
    delivered, told, now, is_open = set(), set(), 0.0, False
    for step in [*steps, "open", "ack"]:
        now += 0.7
        if step == "result":
            told.add(made.task_complete(RESULT, now))
        elif step == "reply":
            told.add(made.job_reply(FINAL, now))
        elif step == "open" and not is_open:
            made.open("token", now)
            is_open = True
        elif step == "lose" and is_open:
            made.connection_lost(now)
            is_open = False
        elif step == "wait":
            made.handle_timer(now)
        elif step == "ack" and is_open:
            for data in made.messages_to_send():
                message, payload = parse_control(data)
                text = format_message_id(message.message_id)
                acknowledge: ControlPayload = AgentTaskAcknowledge(text)
                if isinstance(payload, AgentJobReply):
                    acknowledge = AgentJobReplyAck(JOB_ID, text)
                made.receive_message(from_service(acknowledge), now)
                delivered.add(text)

    assert delivered == told
    assert made.pending == 0
