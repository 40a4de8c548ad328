"""The JSON bodies: round trips, the Go encoder's way of writing, and what is refused."""

import json
from typing import Any, Type

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import strategies, vectors
from sagemaker_ssh_helper.errors import MalformedMessage
from sagemaker_ssh_helper.protocol.message import parse_message_id
from sagemaker_ssh_helper.protocol.payloads import (
    TRUNCATED,
    Acknowledge,
    AgentJob,
    AgentJobReply,
    AgentSessionState,
    AgentTaskComplete,
    ChannelClosed,
    CreateChannelOutput,
    EncryptionChallenge,
    HandshakeComplete,
    HandshakeRequest,
    HandshakeResponse,
    InteractiveShell,
    KmsResult,
    OpenControlChannelInput,
    OpenDataChannelInput,
    ProcessedAction,
    Size,
    format_created_date,
    parse_flag,
    serialize_flag,
    serialize_json,
)

pytestmark = pytest.mark.container

CLASSES = sorted(strategies.PAYLOADS, key=lambda cls: cls.__name__)
of_each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
# -- round trips --


@of_each_class
@given(st.data())
def test_what_is_written_is_read_again(cls: Type[Any], data: st.DataObject) -> None:
    payload = data.draw(strategies.PAYLOADS[cls])

    assert cls.parse(payload.serialize()) == payload


@of_each_class
@given(st.data())
def test_every_proper_prefix_is_a_payload_or_our_error(cls: Type[Any], data: st.DataObject) -> None:
    written = data.draw(strategies.PAYLOADS[cls]).serialize()
    prefix = written[: data.draw(st.integers(0, len(written) - 1))]

    assert_payload_or_our_error(cls, prefix)


@of_each_class
@given(st.data())
def test_every_one_byte_change_is_a_payload_or_our_error(cls: Type[Any], data: st.DataObject) -> None:
    written = data.draw(strategies.PAYLOADS[cls]).serialize()

    assert_payload_or_our_error(cls, data.draw(strategies.one_byte_changes(written)))


@of_each_class
@given(strategies.any_payload)
def test_another_payload_is_a_payload_or_our_error(cls: Type[Any], other: Any) -> None:
    assert_payload_or_our_error(cls, other.serialize())


@of_each_class
@given(st.data())
def test_values_of_the_wrong_type_are_a_payload_or_our_error(cls: Type[Any], data: st.DataObject) -> None:
    written = data.draw(strategies.PAYLOADS[cls]).serialize()
    if cls is CreateChannelOutput:
        return
    keys = sorted(json.loads(written))
    changed = {key: data.draw(strategies.json_values) for key in keys}

    assert_payload_or_our_error(cls, json.dumps(changed).encode())


@of_each_class
@pytest.mark.parametrize("hostile", strategies.HOSTILE_JSON, ids=range(len(strategies.HOSTILE_JSON)))
def test_hostile_bytes_are_a_payload_or_our_error(cls: Type[Any], hostile: bytes) -> None:
    assert_payload_or_our_error(cls, hostile)


def assert_payload_or_our_error(cls: Type[Any], data: bytes) -> None:
    try:
        payload = cls.parse(data)
    except MalformedMessage:
        return
    assert cls.parse(payload.serialize()) == payload


@of_each_class
@given(st.data())
def test_keys_are_matched_whatever_their_case(cls: Type[Any], data: st.DataObject) -> None:
    payload = data.draw(strategies.PAYLOADS[cls])
    if cls is CreateChannelOutput:
        return
    fields = json.loads(payload.serialize())
    shouted = serialize_json({key.upper(): value for key, value in fields.items()})

    assert cls.parse(shouted) == payload


@of_each_class
@given(st.data())
def test_unknown_keys_are_ignored(cls: Type[Any], data: st.DataObject) -> None:
    payload = data.draw(strategies.PAYLOADS[cls])
    if cls is CreateChannelOutput:
        return
    fields = {**json.loads(payload.serialize()), "TheYearAfterNext": data.draw(strategies.json_values)}

    assert cls.parse(serialize_json(fields)) == payload


# -- opening --


def test_client_opens_a_data_channel() -> None:
    frame = OpenDataChannelInput(token="t", request_id="r", client_id="c", client_version="1.2.3.4")

    assert frame.serialize() == (
        b'{"MessageSchemaVersion":"1.0","RequestId":"r","TokenValue":"t","ClientId":"c",'
        b'"ClientVersion":"1.2.3.4"}'
    )
    assert not frame.is_agent


def test_agent_opens_a_data_channel_with_an_empty_client_id() -> None:
    frame = OpenDataChannelInput(token="t", request_id="r", client_instance_id="mi-1")

    assert frame.serialize() == (
        b'{"MessageSchemaVersion":"1.0","RequestId":"r","TokenValue":"t","ClientInstanceId":"mi-1",'
        b'"ClientId":""}'
    )
    assert frame.is_agent


@pytest.mark.parametrize(
    "frame",
    [
        OpenDataChannelInput(token="bearer", request_id="r"),
        OpenControlChannelInput(token="bearer", request_id="r", agent_version="3.3.0.0"),
        CreateChannelOutput(token="bearer"),
    ],
)
def test_a_token_is_no_part_of_a_repr(frame: Any) -> None:
    assert "bearer" not in repr(frame)


def test_a_json_error_does_not_quote_its_input() -> None:
    with pytest.raises(MalformedMessage) as caught:
        OpenDataChannelInput.parse(b'{"TokenValue":"bearer"')

    assert "bearer" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "body",
    [
        b"<Any><MessageSchemaVersion>1.0</MessageSchemaVersion><TokenValue>t</TokenValue></Any>",
        b'<a:Any xmlns:a="urn:b"><a:TokenValue>t</a:TokenValue></a:Any>',
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Any>\n <TokenValue>t</TokenValue>\n</Any>\n',
    ],
)
def test_answer_for_a_channel_may_have_any_root_and_namespace(body: bytes) -> None:
    assert CreateChannelOutput.parse(body).token == "t"


@pytest.mark.parametrize(
    "body",
    [
        b'{"TokenValue":"t"}',
        b"<Any/>",
        b"<Any><TokenValue/></Any>",
        b"<Any><TokenValue>t</TokenValue>",
        b'<!DOCTYPE a [<!ENTITY e "t">]><Any><TokenValue>&e;</TokenValue></Any>',
        '<!DOCTYPE a [<!ENTITY e "t">]><Any><TokenValue>&e;</TokenValue></Any>'.encode("utf-16"),
        '<!DOCTYPE a [<!ENTITY e "t">]><Any><TokenValue>&e;</TokenValue></Any>'.encode("utf-16-le"),
    ],
)
def test_other_answers_for_a_channel_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        CreateChannelOutput.parse(body)


@pytest.mark.parametrize("encoding", ["no-such", "utf-32", "utf-16", "cp037"])
def test_an_answer_for_a_channel_is_utf8_whatever_it_names(encoding: str) -> None:
    body = f'<?xml version="1.0" encoding="{encoding}"?><Any><TokenValue>\u00e9</TokenValue></Any>'.encode()

    assert CreateChannelOutput.parse(body).token == "\u00e9"


# -- the stream --


def test_acknowledge_of_the_worked_example() -> None:
    message_id = parse_message_id("01234567-89ab-4cde-8f01-23456789abcd")
    ack = Acknowledge("input_stream_data", "01234567-89ab-4cde-8f01-23456789abcd", 1)

    assert len(vectors.ACKNOWLEDGE_BODY) == 175
    assert Acknowledge.body("input_stream_data", message_id, 1) == vectors.ACKNOWLEDGE_BODY
    assert ack.serialize() == vectors.ACKNOWLEDGE_BODY
    assert Acknowledge.parse(vectors.ACKNOWLEDGE_BODY) == ack


@pytest.mark.parametrize(
    "body",
    [
        b'{"AcknowledgedMessageSequenceNumber":7}',
        b'{ "acknowledgedmessagesequencenumber": 7, "AcknowledgedMessageId": null }',
    ],
)
def test_acknowledge_needs_its_sequence_number_only(body: bytes) -> None:
    assert Acknowledge.parse_sequence_number(body) == 7


@pytest.mark.parametrize(
    "number", [b"null", b'"7"', b"7.0", b"1e3", b"true", b"007", b"99999999999999999999999999999999999"]
)
def test_acknowledge_without_a_sequence_number_is_refused(number: bytes) -> None:
    body = b'{"AcknowledgedMessageSequenceNumber":' + number + b"}"

    with pytest.raises(MalformedMessage):
        Acknowledge.parse_sequence_number(body)


@pytest.mark.parametrize("hostile", strategies.HOSTILE_JSON, ids=range(len(strategies.HOSTILE_JSON)))
def test_channel_closed_ends_the_session_whatever_its_body(hostile: bytes) -> None:
    assert ChannelClosed.parse(hostile).output == ""


def test_channel_closed_with_a_number_for_its_date_keeps_the_rest() -> None:
    body = b'{"SessionId":"s","CreatedDate":1700000000,"Output":"bye"}'

    assert ChannelClosed.parse(body) == ChannelClosed("s", output="bye")


def test_session_states_are_written_as_official_agents_write_them() -> None:
    assert AgentSessionState(AgentSessionState.TERMINATING, "s").serialize() == (
        b'{"SchemaVersion":1,"SessionState":"Terminating","SessionId":"s"}'
    )


@pytest.mark.parametrize("body", [b'{"cols":-1,"rows":1}', b'{"cols":1,"rows":4294967296}', b'{"cols":"80"}'])
def test_terminal_sizes_that_are_none_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        Size.parse(body)


def test_flags_are_four_bytes() -> None:
    assert serialize_flag(2) == b"\x00\x00\x00\x02"
    assert parse_flag(b"\x00\x00\x00\x02") == 2
    assert parse_flag(b"\x00\x00\x01\x00more") == 256
    with pytest.raises(MalformedMessage):
        parse_flag(b"\x00\x00\x02")


# -- handshake --


def test_handshake_request_of_a_port_session() -> None:
    request = HandshakeRequest("3.3.0.0", "Port", {"type": "LocalPortForwarding", "portNumber": "22"})

    # The map of properties is written in the order of its keys, as a Go map is.
    assert request.serialize() == (
        b'{"AgentVersion":"3.3.0.0","RequestedClientActions":[{"ActionType":"SessionType",'
        b'"ActionParameters":{"SessionType":"Port","Properties":{"portNumber":"22",'
        b'"type":"LocalPortForwarding"}}}]}'
    )


def test_handshake_request_with_encryption() -> None:
    request = HandshakeRequest("3.3.0.0", "Standard_Stream", kms_key_id="key", challenge="Zm9v")

    assert request.serialize() == (
        b'{"AgentVersion":"3.3.0.0","RequestedClientActions":[{"ActionType":"SessionType",'
        b'"ActionParameters":{"SessionType":"Standard_Stream","Properties":null}},'
        b'{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"key","Challenge":"Zm9v"}}]}'
    )


def test_handshake_request_keeps_actions_it_does_not_know() -> None:
    body = b'{"RequestedClientActions":[{"ActionType":"Dance","ActionParameters":[1]}]}'

    assert HandshakeRequest.parse(body) == HandshakeRequest("", "", other_actions=("Dance",))


def test_handshake_request_without_actions_is_read() -> None:
    assert HandshakeRequest.parse(b'{"AgentVersion":"1"}') == HandshakeRequest("1", "")


def test_marker_of_our_own_ends_follows_what_official_peers_know() -> None:
    request = HandshakeRequest("1", "Port", {}, sm_ssh={"v": 1, "max": 65536})
    response = HandshakeResponse("1", sm_ssh={"v": 1, "max": 4096})

    assert request.serialize().endswith(b'],"SmSsh":{"v":1,"max":65536}}')
    assert response.serialize().endswith(b'"Errors":null,"SmSsh":{"v":1,"max":4096}}')


@pytest.mark.parametrize("marker", [b"1", b'"text"', b"[]", b"null"])
def test_marker_that_is_no_object_is_no_marker(marker: bytes) -> None:
    assert HandshakeRequest.parse(b'{"SmSsh":' + marker + b"}").sm_ssh is None
    assert HandshakeResponse.parse(b'{"SmSsh":' + marker + b"}").sm_ssh is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"RequestedClientActions":{}}',
        b'{"RequestedClientActions":[1]}',
        b'{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":"Port"}]}',
        b'{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"Properties":"22"}}]}',
    ],
)
def test_handshake_requests_of_another_shape_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        HandshakeRequest.parse(body)


def test_handshake_response_as_official_clients_write_it() -> None:
    response = HandshakeResponse("1.2.0.0", (ProcessedAction("SessionType"),))

    assert response.serialize() == (
        b'{"ClientVersion":"1.2.0.0","ProcessedClientActions":[{"ActionType":"SessionType",'
        b'"ActionStatus":1,"ActionResult":null,"Error":""}],"Errors":null}'
    )


def test_unsupported_action_as_official_clients_answer_it_is_read() -> None:
    body = (
        b'{"ClientVersion":"1.2.0.0","ProcessedClientActions":[{"ActionType":"Dance","ActionStatus":0,'
        b'"ActionResult":3,"Error":"Unsupported action Dance"}],"Errors":["Unsupported action Dance"]}'
    )
    response = HandshakeResponse.parse(body)

    assert response.processed_actions == (ProcessedAction("Dance", 0, 3, "Unsupported action Dance"),)
    assert response.serialize() == body


@pytest.mark.parametrize("errors", [b"{}", b"[1]", b'"text"'])
def test_errors_that_are_no_list_of_texts_are_refused(errors: bytes) -> None:
    with pytest.raises(MalformedMessage):
        HandshakeResponse.parse(b'{"Errors":' + errors + b"}")


def test_handshake_complete_as_official_agents_write_it() -> None:
    assert HandshakeComplete(8541561, "").serialize() == (
        b'{"HandshakeTimeToComplete":8541561,"CustomerMessage":""}'
    )


@given(st.binary(max_size=200), st.none() | st.booleans())
def test_kms_result_is_read_again(key: bytes, acknowledged: Any) -> None:
    result = KmsResult(key, acknowledged)

    assert KmsResult.from_json(json.loads(serialize_json(result.to_json()))) == result


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        [],
        {"KMSCipherTextKey": "no base64!"},
        {"KMSCipherTextKey": 1},
        {"ChallengeAcknowledgement": "true"},
    ],
)
def test_kms_results_of_another_shape_are_refused(value: Any) -> None:
    with pytest.raises(MalformedMessage):
        KmsResult.from_json(value)


@pytest.mark.parametrize("text", ["Zm9", "Zm9v\\n", "Zm 9v", "ö"])
def test_challenges_must_be_padded_base64(text: str) -> None:
    with pytest.raises(MalformedMessage):
        EncryptionChallenge.parse(f'{{"Challenge":"{text}"}}'.encode())


# -- control channel --


def test_offered_session_needs_a_session_id() -> None:
    offered = InteractiveShell("", "AWS-StartSSHSession", {}, {})

    with pytest.raises(MalformedMessage, match="names no session"):
        InteractiveShell.parse(offered.serialize())


def test_offered_session_with_content_that_is_no_json_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="content of interactive_shell"):
        InteractiveShell.parse(b'{"Content":"{"}')


def test_offered_job_with_content_that_is_no_json_can_be_answered() -> None:
    job = AgentJob.parse(b'{"Content":"{","JobId":"aws.ssm.id-1.mi-1","Topic":"aws.ssm.sendCommand.x"}')

    assert job.content is None
    assert job.command_id == "id-1"


@pytest.mark.parametrize("job_id", ["", "aws.ssm.id-1", "gcp.ssm.id-1.mi-1"])
def test_job_id_of_another_form_has_no_command_id(job_id: str) -> None:
    assert AgentJob(job_id, "t", {}).command_id == ""


def test_result_as_official_agents_write_it() -> None:
    result = AgentTaskComplete(task_id="s", final_status="Success", instance_id="mi-1")

    assert result.serialize() == (
        b'{"SchemaVersion":1,"TaskId":"s","Topic":"agent_task_complete","FinalTaskStatus":"Success",'
        b'"IsRoutingFailure":false,"AwsAccountId":"","InstanceId":"mi-1","Output":"","S3Bucket":"",'
        b'"S3UrlSuffix":"","CwlGroup":"","CwlStream":"","RetryNumber":1}'
    )


def reply(**outputs: str) -> AgentJobReply:
    plugin = {"status": "Success", "code": 0, **outputs}
    return AgentJobReply("aws.ssm.c.mi-1", {"documentStatus": "Success", "runtimeStatus": {"run": plugin}})


def content_bytes(fitted: AgentJobReply) -> int:
    return len(serialize_json(fitted.content))


def test_reply_that_fits_is_left_alone() -> None:
    whole = reply(standardOutput="x" * 24000, standardError="y" * 24000, output="z" * 2500)

    assert whole.fitted() is whole


def test_reply_that_is_too_long_loses_the_end_of_its_longest_output() -> None:
    # Control characters take six bytes each on the wire, which is how 48,000 characters become too many.
    fitted = reply(standardOutput="\0" * 24000, standardError="e" * 100).fitted()

    plugin = fitted.content["runtimeStatus"]["run"]
    assert content_bytes(fitted) <= 120000
    assert plugin["standardOutput"] == "\0" * 12000 + TRUNCATED
    assert plugin["standardError"] == "e" * 100
    assert plugin["code"] == 0


def test_reply_is_cut_again_until_it_fits() -> None:
    fitted = reply(standardOutput="x" * 1000, standardError="e" * 10).fitted(300)

    plugin = fitted.content["runtimeStatus"]["run"]
    assert plugin["standardOutput"] == "x" * 125 + TRUNCATED
    assert plugin["standardError"] == "e" * 10


def test_reply_whose_outputs_are_all_cut_away_loses_its_plugins() -> None:
    fitted = reply(standardOutput="x" * 1000, standardError="e" * 100).fitted(130)

    assert fitted.content["runtimeStatus"] == {}
    assert fitted.content["documentStatus"] == "Success"


@given(
    st.lists(st.text(st.characters(blacklist_categories=("Cs",)), max_size=300), min_size=3, max_size=3),
    st.integers(300, 900),
)
def test_every_reply_is_made_to_fit(outputs: Any, max_bytes: int) -> None:
    whole = reply(standardOutput=outputs[0], standardError=outputs[1], output=outputs[2])
    fitted = whole.fitted(max_bytes)

    assert content_bytes(fitted) <= max_bytes
    assert fitted.content["documentStatus"] == "Success"
    assert (fitted == whole) == (content_bytes(whole) <= max_bytes)


def test_reply_with_too_many_plugins_still_ends_the_command() -> None:
    plugins = {f"step-{number}": {"status": "Success", "output": ""} for number in range(5000)}
    fitted = AgentJobReply("j", {"documentStatus": "Success", "runtimeStatus": plugins}).fitted()

    assert fitted.content == {
        "documentStatus": "Success",
        "runtimeStatus": {},
        "documentTraceOutput": TRUNCATED,
    }


def test_reply_that_can_not_be_made_to_fit_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="longer than 120000 bytes"):
        AgentJobReply("j", {"documentStatus": "x" * 120000}).fitted()


def test_first_reply_is_the_one_that_only_says_the_command_began() -> None:
    assert AgentJobReply("j", {"documentStatus": "InProgress", "runtimeStatus": None}).is_first
    assert not AgentJobReply("j", {"documentStatus": "InProgress", "runtimeStatus": {"run": {}}}).is_first
    assert not AgentJobReply("j", {"documentStatus": "Success", "runtimeStatus": None}).is_first


@pytest.mark.parametrize(
    ("created_ms", "text"),
    [
        (1795328492445, "2026-11-22T06:21:32.445Z"),
        (1700000000000, "2023-11-14T22:13:20.000Z"),
        (253402300799999, "9999-12-31T23:59:59.999Z"),
        (253402300800000, "1970-01-01T00:00:00.000Z"),
        ((1 << 64) - 1, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
    ],
)
def test_created_date_is_iso_8601_with_milliseconds(created_ms: int, text: str) -> None:
    assert format_created_date(created_ms) == text
