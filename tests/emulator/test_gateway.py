import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from emulator.cloud_process import CloudProcess
from emulator.gateway_peers import (
    OFFICIAL_CLIENT_VERSION,
    OFFICIAL_VERSION,
    ControlPeer,
    Lost,
    Node,
    Peer,
    acknowledge,
    closed_output,
    data_message,
    input_data,
    open_client,
    output_data,
    websocket_url,
)
from sagemaker_ssh_helper import names
from sagemaker_ssh_helper.channels.data import RESUME_TIMEOUT
from sagemaker_ssh_helper.channels.runner import KEEPALIVE_INTERVAL
from sagemaker_ssh_helper.emulator.live_session import SessionTiming
from sagemaker_ssh_helper.errors import ConnectionFailed
from sagemaker_ssh_helper.protocol.message import AgentMessage
from sagemaker_ssh_helper.protocol.payloads import (
    Acknowledge,
    AgentTaskAcknowledge,
    ChannelClosed,
    CreateChannelOutput,
    HandshakeComplete,
    InteractiveShell,
    OpenControlChannelInput,
    OpenDataChannelInput,
)
from sagemaker_ssh_helper.protocol.websocket import Ping

OURS = names.AGENT_VERSION
HANDSHAKE_REQUEST, HANDSHAKE_RESPONSE, HANDSHAKE_COMPLETE = 5, 6, 7


@pytest.fixture
def ssm(ssm_cloud: CloudProcess) -> Any:
    return ssm_cloud.client("ssm", "alice")


@pytest.fixture
def switched(ssm_cloud: CloudProcess) -> Iterator[CloudProcess]:
    """A cloud whose switches are cleared after the test."""
    yield ssm_cloud
    ssm_cloud.clear_faults()


class Session:
    """
    A session of alice's with an agent on its control channel; ``open`` joins both sides.

    ``with`` closes whatever is open.
    """

    def __init__(self, cloud: CloudProcess, version: str = OURS, **request: Any) -> None:
        self.cloud = cloud
        self.ssm = cloud.client("ssm", "alice")
        self.node = Node(cloud, {"SSHOwner": cloud.user("alice")["user_id"]}, version=version)
        self._opened: list[Any] = []
        self.control: ControlPeer = self.keep(self.node.open_control())
        self.request = {
            "Target": self.node.id,
            "DocumentName": "AWS-StartSSHSession",
            "Parameters": {"portNumber": ["2222"]},
            **request,
        }
        self.grant = self.ssm.start_session(**self.request)
        self.id = self.grant["SessionId"]
        self.offer = self.control.receive_offer()

    def keep(self, peer: Any) -> Any:
        self._opened.append(peer)
        return peer

    def open(self, client_version: str = OFFICIAL_CLIENT_VERSION) -> "Session":
        self.agent: Peer = self.keep(self.node.open_data(self.id))
        self.client: Peer = self.keep(open_client(self.grant, version=client_version))
        self.agent.synchronize()
        self.client.synchronize()
        return self

    def settle(self) -> None:
        """Past the opening exchange."""
        self.agent.send(output_data(b"{}", 0, HANDSHAKE_REQUEST))
        self.client.receive()
        response = input_data(b"{}", 0, HANDSHAKE_RESPONSE)
        self.client.send(response)
        self.agent.receive()
        self.agent.send(acknowledge(response), output_data(b"{}", 1, HANDSHAKE_COMPLETE))
        self.client.receive()
        self.client.receive()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self._opened[::-1]:
            (peer.peer if isinstance(peer, ControlPeer) else peer).close()

    @property
    def status(self) -> Any:
        """In the API; None when it is not known."""
        for state in ("Active", "History"):
            filters = [{"key": "SessionId", "value": self.id}]
            for found in self.ssm.describe_sessions(State=state, Filters=filters)["Sessions"]:
                return found["Status"]
        return None

    def wait_status(self, *wanted: str) -> None:
        until = time.monotonic() + 10
        while self.status not in wanted:
            assert time.monotonic() < until, f"the session is {self.status}, not {wanted}"


def error_code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def message_type(data: bytes) -> str:
    return AgentMessage.parse(data).message_type


# -- StartSession -----------------------------------------------------------------------------------


def test_session_is_granted_and_offered(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        grant, offer = session.grant, session.offer

    assert re.fullmatch("alice-[0-9a-z]{26}", grant["SessionId"])
    assert 0 < len(grant["TokenValue"]) <= 300
    url = f"{websocket_url(ssm_cloud)}/v1/data-channel/{grant['SessionId']}?role=publish_subscribe"
    begin, _, cell = grant["StreamUrl"].partition("&cell-number=")
    assert begin == url
    # As it stands in the URLs of real sessions: base64 that nobody has encoded for a URL.
    assert {"+", "/", "="} <= set(cell)
    assert offer.session_id == grant["SessionId"]
    assert offer.document_name == "AWS-StartSSHSession"
    assert offer.document_content["sessionType"] == "Port"
    assert offer.document_content["properties"] == {"portNumber": "{{ portNumber }}"}
    assert offer.parameters == {"portNumber": "2222"}
    assert offer.session_owner.endswith(":user/alice")


@pytest.mark.parametrize(
    ("document", "parameters", "session_type", "arguments"),
    [
        (None, None, "Standard_Stream", {}),
        ("AWS-StartSSHSession", None, "Port", {"portNumber": "22"}),
        (
            "AWS-StartPortForwardingSession",
            {"portNumber": ["80"]},
            "Port",
            {"portNumber": "80", "localPortNumber": "0"},
        ),
        (
            "AWS-StartPortForwardingSessionToRemoteHost",
            {"host": ["db.example"]},
            "Port",
            {"host": "db.example", "portNumber": "80", "localPortNumber": "0"},
        ),
        ("AWS-StartInteractiveCommand", {"command": ["ls"]}, "InteractiveCommands", {"command": "ls"}),
        (
            "AWS-StartNonInteractiveCommand",
            {"command": ["ls"], "separateOutputStream": ["True"]},
            "NonInteractiveCommands",
            {
                "command": "ls",
                "separateOutputStream": "True",
                "stdOutSeparatorPrefix": "",
                "stdErrSeparatorPrefix": "",
            },
        ),
    ],
)
def test_documents_are_offered_with_plain_texts(
    ssm_cloud: CloudProcess, document: Any, parameters: Any, session_type: str, arguments: Any
) -> None:
    node = Node(ssm_cloud, version=OURS)
    request = {"DocumentName": document, "Parameters": parameters}
    with node.open_control() as control:
        ssm_cloud.client("ssm").start_session(
            Target=node.id, **{key: value for key, value in request.items() if value is not None}
        )
        offer = control.receive_offer()

    assert offer.document_content["sessionType"] == session_type
    assert offer.document_content["schemaVersion"] == "1.0"
    assert offer.parameters == arguments


def test_only_the_owner_may_start_a_session(ssm_cloud: CloudProcess, ssm: Any) -> None:
    node = Node(ssm_cloud, {"SSHOwner": ssm_cloud.user("bob")["user_id"]}, version=OURS)
    with node.open_control() as control:
        with pytest.raises(ClientError) as error:
            ssm.start_session(Target=node.id, DocumentName="AWS-StartSSHSession")
        control.peer.assert_silent(0.1)
    assert error_code(error) == "AccessDeniedException"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"DocumentName": "AWS-NoSuchThing"}, "InvalidDocument"),
        ({"DocumentName": "AWS-RunShellScript"}, "InvalidDocument"),
        ({"Parameters": {"portNumber": ["99999"]}}, "InvalidParameters"),
        ({"Parameters": {"portNumber": ["22", "23"]}}, "InvalidParameters"),
        ({"Parameters": {"host": ["x"]}}, "InvalidParameters"),
        ({"DocumentName": "AWS-StartPortForwardingSessionToRemoteHost"}, "InvalidParameters"),
    ],
)
def test_session_that_makes_no_sense_is_refused(
    ssm_cloud: CloudProcess, request_: Any, expected: str
) -> None:
    node = Node(ssm_cloud, version=OURS)
    whole = {"Target": node.id, "DocumentName": "AWS-StartSSHSession", **request_}
    with node.open_control(), pytest.raises(ClientError) as error:
        ssm_cloud.client("ssm").start_session(**whole)
    assert error_code(error) == expected


def test_target_without_a_control_channel_is_not_connected(ssm_cloud: CloudProcess) -> None:
    node = Node(ssm_cloud)
    node.ping()
    with pytest.raises(ClientError) as error:
        ssm_cloud.client("ssm").start_session(Target=node.id)
    assert error.value.response["Error"] == {
        "Code": "TargetNotConnected",
        "Message": f"{node.id} is not connected.",
    }


def test_standard_tier_has_no_sessions(switched: CloudProcess) -> None:
    node = Node(switched)
    switched.faults(kind="tier", tier="standard")
    with node.open_control(), pytest.raises(ClientError) as error:
        switched.client("ssm").start_session(Target=node.id)
    assert error.value.response["Error"] == {
        "Code": "BadRequest",
        "Message": "Enable advanced-instances tier to use Session Manager with your on-premises instances",
    }


def test_documents_can_be_read(ssm_cloud: CloudProcess) -> None:
    ssm = ssm_cloud.client("ssm")
    text = ssm.get_document(Name="AWS-StartSSHSession")["Content"]
    described = ssm.describe_document(Name="AWS-StartSSHSession")["Document"]

    assert '"sessionType": "Port"' in text
    assert (described["Owner"], described["DocumentType"]) == ("Amazon", "Session")
    assert [parameter["Name"] for parameter in described["Parameters"]] == ["portNumber"]
    with pytest.raises(ClientError) as error:
        ssm.get_document(Name="AWS-NoSuchThing")
    assert error_code(error) == "InvalidDocument"


# -- relaying ---------------------------------------------------------------------------------------


def test_messages_pass_unchanged_and_in_order(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        up = [input_data(os.urandom(size), number) for number, size in enumerate((1, 1024, 300000), 1)]
        down = [output_data(os.urandom(size), number) for number, size in enumerate((5000, 7, 100000), 2)]
        session.client.send(*up)
        session.agent.send(*down)
        acks_up = [acknowledge(data) for data in down]
        acks_down = [acknowledge(data) for data in up]

        assert [session.agent.receive() for _ in up] == up
        assert [session.client.receive() for _ in down] == down
        session.client.send(*acks_up)
        session.agent.send(*acks_down)
        assert [session.agent.receive() for _ in acks_up] == acks_up
        assert [session.client.receive() for _ in acks_down] == acks_down


def test_fragments_and_padding_by_nul_are_accepted(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        data = input_data(b"abc", 1)
        padded = data[:4] + data[4:36].replace(b" ", b"\0") + data[36:]
        session.client.send_fragmented(padded, 50)

        assert session.agent.receive() == padded


def test_pings_are_answered_before_the_opening_frame_too(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session, Peer(session.grant["StreamUrl"]) as client:
        client.ping(b"keepalive")
        assert client.receive_pong() == b"keepalive"
        client.send_text(OpenDataChannelInput(session.grant["TokenValue"], "r", "c", "1.2.0.0").serialize())
        client.ping(b"again")
        assert client.receive_pong() == b"again"


def test_what_is_meant_for_the_gateway_goes_no_further(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open()
        session.agent.send(
            data_message("agent_session_state", b'{"SessionState":"Connected"}', 0, 0, 3),
            data_message("input_stream_data", b"from the wrong side", 0),
            data_message("a_new_type", b"{}", 0, 0),
            data_message("channel_closed", b"{}", 0, 0),
        )
        session.client.send(
            data_message("output_stream_data", b"from the wrong side", 0),
            data_message("channel_closed", b"{}", 0, 0),
            data_message("pause_publication", b"{}", 0, 0),
            data_message("interactive_shell", b"{}", 0, 0),
        )
        session.agent.synchronize()
        session.client.synchronize()

        session.agent.assert_silent(0.1)
        session.client.assert_silent(0.1)
        assert session.status == "Connected"


def test_output_waits_for_the_client(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        agent = session.keep(session.node.open_data(session.id))
        request = output_data(b"{}", 0, HANDSHAKE_REQUEST)
        # Official agents repeat their first message until it is acknowledged.
        agent.send(request, request, request)
        assert agent.receive_message(timeout=2).message_type == "pause_publication"

        client = session.keep(open_client(session.grant))

        assert client.receive() == request
        assert agent.receive_message().message_type == "start_publication"
        client.assert_silent(0.1)


def test_client_that_comes_soon_causes_no_pause(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open()
        session.agent.assert_silent(0.7)


def test_input_waits_for_the_agent(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        client = session.keep(open_client(session.grant))
        sent = [input_data(b"early", number) for number in range(3)]
        client.send(*sent, *sent)
        client.synchronize()
        assert session.status == "Connecting"

        agent = session.keep(session.node.open_data(session.id))

        assert [agent.receive() for _ in sent] == sent
        agent.assert_silent(0.1)
        assert session.status == "Connected"


def test_handshake_complete_follows_the_acknowledge_of_the_response(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open()
        response = input_data(b"{}", 0, HANDSHAKE_RESPONSE)
        complete = output_data(HandshakeComplete().serialize(), 1, HANDSHAKE_COMPLETE)
        ack = acknowledge(response)
        session.agent.send(complete, ack)

        assert [session.client.receive(), session.client.receive()] == [ack, complete]


def test_handshake_complete_does_not_wait_for_ever(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open()
        complete = output_data(HandshakeComplete().serialize(), 1, HANDSHAKE_COMPLETE)
        session.agent.send(complete)

        assert session.client.receive() == complete


def test_acknowledges_reach_an_official_agent_a_little_later(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud, "3.3.0.0") as session:
        session.open().settle()
        data = output_data(b"abc", 2)
        ack = acknowledge(data)
        session.agent.send(data)
        assert session.client.receive() == data
        more = input_data(b"x", 1)
        sent_at = time.monotonic()
        session.client.send(ack, more)

        assert session.agent.receive() == more
        assert session.agent.receive() == ack
        assert time.monotonic() - sent_at >= 0.008


def test_duplicate_from_an_official_agent_is_acknowledged_here(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud, "3.3.0.0") as session:
        session.open().settle()
        data = output_data(b"abc", 2)
        session.agent.send(data)
        session.client.receive()
        session.client.send(acknowledge(data))
        session.agent.receive()
        session.agent.send(data)

        again = session.agent.receive_message()
        found = Acknowledge.parse(again.payload)
        assert (again.message_type, again.flags) == ("acknowledge", 3)
        assert (found.message_type, found.sequence_number) == ("output_stream_data", 2)
        assert found.message_id == str(uuid.UUID(bytes=AgentMessage.parse(data).message_id))
        session.client.assert_silent(0.1)


def test_duplicates_of_our_own_agent_pass(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        data = output_data(b"abc", 2)
        session.agent.send(data)
        session.client.receive()
        session.client.send(acknowledge(data))
        session.agent.receive()
        session.agent.send(data)

        assert session.client.receive() == data


# -- the client is cut off ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_that_was_cut_off_resumes(ssm_cloud: CloudProcess, how: str) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        getattr(session.client, how)()
        assert session.agent.receive_message().message_type == "pause_publication"
        session.wait_status("Disconnected")
        missed = [output_data(b"while away", number) for number in (2, 3)]
        session.agent.send(*missed)

        resumed = session.ssm.resume_session(SessionId=session.id)
        client = session.keep(open_client({**session.grant, **resumed}))

        assert resumed["StreamUrl"] == session.grant["StreamUrl"]
        assert resumed["TokenValue"] != session.grant["TokenValue"]
        assert [client.receive() for _ in missed] == missed
        assert session.agent.receive_message().message_type == "start_publication"
        assert session.status == "Connected"


def test_official_agent_learns_what_an_official_client_had_before_it_was_cut_off(
    ssm_cloud: CloudProcess,
) -> None:
    """Its acknowledges were lost, and it does not acknowledge anything twice."""
    with Session(ssm_cloud, OFFICIAL_VERSION) as session:
        session.open().settle()
        data = [output_data(b"abc", number) for number in (2, 3)]
        session.agent.send(*data)
        assert [session.client.receive() for _ in data] == data
        session.client.reset()
        session.wait_status("Disconnected")

        resumed = session.ssm.resume_session(SessionId=session.id)
        client = session.keep(open_client(resumed))

        assert [client.receive() for _ in range(4)][2:] == data
        # The pong that is behind these two is Peer's own doing.
        assert isinstance(client.receive_event(), Ping)
        told = []
        while len(told) < 4:
            message = session.agent.receive_message()
            if message.message_type == "acknowledge":
                told.append(Acknowledge.parse(message.payload).sequence_number)
        assert told == [0, 1, 2, 3]


def test_second_client_takes_the_place_of_the_first(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        client = session.keep(open_client(session.ssm.resume_session(SessionId=session.id)))
        client.synchronize()

        assert session.client.wait_lost() == ""
        data = output_data(b"abc", 2)
        session.agent.send(data)
        assert client.receive() == data
        session.agent.assert_silent(0.1)


@pytest.mark.parametrize(
    ("client_version", "timing"),
    [(names.CLIENT_VERSION, "client_resume"), (OFFICIAL_CLIENT_VERSION, "foreign_resume")],
)
def test_client_that_does_not_come_back_ends_the_session(
    switched: CloudProcess, client_version: str, timing: str
) -> None:
    switched.faults(kind="session-timing", **{timing: 0.3})
    with Session(switched) as session:
        session.open(client_version)
        session.client.close()
        assert session.agent.receive_message().message_type == "pause_publication"
        assert session.agent.receive_message().message_type == "channel_closed"
        session.agent.close()
        session.control.complete(session.id)
        session.wait_status("Terminated")


def test_client_that_asks_to_come_back_is_waited_for_again(switched: CloudProcess) -> None:
    switched.faults(kind="session-timing", foreign_resume=1.0)
    with Session(switched) as session:
        session.open()
        session.client.reset()
        session.wait_status("Disconnected")
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            resumed = session.ssm.resume_session(SessionId=session.id)

        session.keep(open_client(resumed)).synchronize()
        assert session.status == "Connected"


def test_client_that_never_comes_ends_the_session(switched: CloudProcess) -> None:
    switched.faults(kind="session-timing", first_client=0.3)
    with Session(switched) as session:
        agent = session.keep(session.node.open_data(session.id))
        assert agent.receive_message().message_type == "channel_closed"


# -- the agent is cut off ----------------------------------------------------------------------------


def test_agent_that_was_cut_off_reconnects(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud, "3.3.0.0") as session:
        session.open().settle()
        data = output_data(b"abc", 2)
        session.agent.send(data)
        session.client.receive()
        session.agent.reset()
        session.wait_status("Disconnected")
        ack, more = acknowledge(data), input_data(b"while away", 1)
        session.client.send(ack, more)
        session.client.synchronize()

        agent = session.keep(session.node.open_data(session.id))

        assert sorted([agent.receive(), agent.receive()]) == sorted([ack, more])
        session.wait_status("Connected")


@pytest.mark.parametrize(
    ("version", "timing"), [(OURS, "agent_resume"), (OFFICIAL_VERSION, "foreign_agent_resume")]
)
def test_agent_that_does_not_come_back_ends_the_session(
    switched: CloudProcess, version: str, timing: str
) -> None:
    switched.faults(kind="session-timing", **{timing: 0.3})
    with Session(switched, version) as session:
        session.open()
        session.agent.close()

        assert closed_output(session.client.receive()) == "The connection to the agent was lost."
        session.wait_status("Failed")


@pytest.mark.parametrize("version", [OURS, OFFICIAL_VERSION])
def test_agent_whose_control_channel_is_gone_too_is_waited_for(switched: CloudProcess, version: str) -> None:
    """Its network is away, or its machine is asleep: nobody knows for how long."""
    switched.faults(kind="session-timing", foreign_agent_resume=0.3)
    with Session(switched, version) as session:
        session.open().settle()
        session.control.peer.reset()
        session.agent.reset()
        session.wait_status("Disconnected")
        session.client.assert_silent(0.5)
        agent = session.keep(session.node.open_data(session.id))
        data = input_data(b"after the outage", 1)
        session.client.send(data)

        assert agent.receive() == data
        session.wait_status("Connected")


def test_agent_that_is_not_ours_has_little_time_once_its_control_channel_is_back(
    switched: CloudProcess,
) -> None:
    switched.faults(kind="session-timing", foreign_agent_resume=0.3)
    with Session(switched, OFFICIAL_VERSION) as session:
        session.open()
        session.control.peer.reset()
        session.agent.reset()
        session.wait_status("Disconnected")
        session.keep(session.node.open_control())

        assert closed_output(session.client.receive()) == "The connection to the agent was lost."
        session.wait_status("Failed")


def test_both_sides_may_be_away_for_a_quarter_of_an_hour() -> None:
    timing = SessionTiming()
    quarter = 15 * 60
    assert timing.client_resume >= quarter + 2 * KEEPALIVE_INTERVAL
    assert timing.agent_resume >= quarter + 2 * KEEPALIVE_INTERVAL
    assert quarter <= RESUME_TIMEOUT < timing.client_resume


def test_agent_learns_of_the_end_when_it_is_back(switched: CloudProcess) -> None:
    """After some seconds an official agent asks no more for the data channel, and keeps the session."""
    switched.faults(kind="session-timing", agent_resume=0.3)
    with Session(switched) as session:
        session.open()
        session.control.peer.reset()
        session.agent.reset()
        session.wait_status("Failed")

        control = session.keep(session.node.open_control())

        assert control.receive(ChannelClosed)[1].session_id == session.id
        control.peer.assert_silent(0.1)


def test_agent_that_does_not_take_the_offer_ends_the_session(switched: CloudProcess) -> None:
    switched.faults(kind="session-timing", offer=0.3)
    with Session(switched) as session:
        client = session.keep(open_client(session.grant))
        assert closed_output(client.receive()) == "The agent did not take the session."
        session.wait_status("Failed")


def test_offer_comes_again_until_the_agent_asks_for_the_channel(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        again = session.control.receive(InteractiveShell, timeout=30)[1]
        assert again == session.offer
        session.keep(session.node.open_data(session.id))
        session.control.peer.assert_silent(3.5)


# -- the end ----------------------------------------------------------------------------------------


def test_terminated_session_is_over_for_both_sides(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()

        assert session.ssm.terminate_session(SessionId=session.id)["SessionId"] == session.id

        for_agent, for_client = session.agent.receive_message(), session.client.receive_message()
        assert for_agent.message_type == for_client.message_type == "channel_closed"
        closed = ChannelClosed.parse(for_agent.payload)
        assert (closed.session_id, closed.destination_id) == (session.id, session.node.id)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", closed.created_date)
        assert session.status == "Terminating"
        session.agent.close()
        session.control.complete(session.id)
        _, ack = session.control.receive(AgentTaskAcknowledge)
        assert ack.task_id == session.id
        session.wait_status("Terminated")
        session.client.assert_silent(0.1)
        assert "TokenValue" not in session.ssm.resume_session(SessionId=session.id)
        session.ssm.terminate_session(SessionId=session.id)
        status, xml = session.node.create_channel("data", session.id)
        assert status != 201
        assert "Session is already terminated" in xml


def test_session_ends_although_its_agent_is_silent(switched: CloudProcess) -> None:
    switched.faults(kind="session-timing", closing=0.3)
    with Session(switched) as session:
        session.open()
        session.ssm.terminate_session(SessionId=session.id)
        assert session.agent.receive_message().message_type == "channel_closed"

        session.wait_status("Terminated")
        assert session.agent.wait_lost() == ""


def test_session_without_a_data_channel_is_closed_on_the_control_channel(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.node.create_channel("data", session.id)
        session.ssm.terminate_session(SessionId=session.id)

        _, closed = session.control.receive(ChannelClosed)

        assert closed.session_id == session.id
        assert closed.created_date


def test_others_cannot_end_or_resume_my_session(ssm_cloud: CloudProcess) -> None:
    bob = ssm_cloud.client("ssm", "bob")
    with Session(ssm_cloud) as session:
        for call in (bob.terminate_session, bob.resume_session):
            with pytest.raises(ClientError) as error:
                call(SessionId=session.id)
            assert error_code(error) == "AccessDeniedException"
    with pytest.raises(ClientError) as error:
        ssm_cloud.client("ssm").terminate_session(SessionId="nobody-00000000000000000")
    assert error_code(error) == "DoesNotExistException"


def test_result_of_the_agent_ends_the_session_and_reaches_the_user(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        last = output_data(b"last words", 2)
        session.agent.send(last)
        session.agent.close()
        message_id = str(uuid.uuid4())
        session.control.complete(session.id, "Failed", "no such port")
        assert session.control.receive(AgentTaskAcknowledge)[1].task_id == session.id

        assert session.client.receive() == last
        assert closed_output(session.client.receive()) == "no such port"
        session.wait_status("Failed")
        # A failed session is reported twice.
        session.control.complete(session.id, "Failed", "again")
        assert session.control.receive(AgentTaskAcknowledge)[1].task_id == session.id
        session.client.assert_silent(0.1)
        assert message_id


def test_result_waits_for_the_last_output(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        session.control.complete(session.id)
        session.control.receive(AgentTaskAcknowledge)
        last = output_data(b"last words", 2)
        session.agent.send(last)
        session.agent.close()

        assert session.client.receive() == last
        assert closed_output(session.client.receive()) == ""


def test_client_that_comes_late_still_gets_the_reason(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        agent = session.node.open_data(session.id)
        agent.close()
        session.control.complete(session.id, "Failed", "no such port")
        session.wait_status("Failed")

        client = session.keep(open_client(session.grant))

        assert closed_output(client.receive()) == "no such port"


def test_deregistered_instance_ends_its_sessions(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open()
        ssm_cloud.client("ssm").deregister_managed_instance(InstanceId=session.node.id)

        assert closed_output(session.client.receive()) == "The managed instance was deregistered."
        session.control.peer.wait_lost()


# -- who may open what ------------------------------------------------------------------------------


def test_tokens_are_good_once_and_for_one_thing(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session, Session(ssm_cloud) as other:
        session.open()
        status, xml = session.node.create_channel("data", session.id)
        assert status == 201
        agent_token = CreateChannelOutput.parse(xml.encode()).token
        for token in (session.grant["TokenValue"], other.grant["TokenValue"], agent_token, "no token"):
            with open_client(session.grant, token=token) as refused:
                assert refused.wait_lost().startswith("1008 ")
        # Trying it in the wrong place does not spend a token.
        with open_client(other.grant) as client:
            client.synchronize()
        assert session.status == "Connected"


def test_agent_has_to_sign(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        status, xml = session.node.create_channel("data", session.id)
        assert status == 201
        token = CreateChannelOutput.parse(xml.encode()).token
        opening = OpenDataChannelInput(token, "r", client_instance_id=session.node.id)
        with Peer(session.grant["StreamUrl"]) as unsigned:
            unsigned.send_text(opening.serialize())
            assert unsigned.wait_lost().startswith("1008 ")
        with pytest.raises(ConnectionFailed) as error:
            Peer(f"{websocket_url(ssm_cloud)}/v1/control-channel/{session.node.id}")
        assert error.value.status in (400, 403)


def test_instance_opens_its_own_channels_only(ssm_cloud: CloudProcess) -> None:
    stranger = Node(ssm_cloud)
    with Session(ssm_cloud) as session:
        for kind, channel_id in (("control", session.node.id), ("data", session.id)):
            status, xml = stranger.create_channel(kind, channel_id)
            assert status == 403
            assert "<AccessDeniedException>" in xml
        with pytest.raises(ConnectionFailed) as error:
            stranger.dial("control", session.node.id)
        assert error.value.status == 403
        status, xml = session.node.create_channel("data", session.id)
        token = CreateChannelOutput.parse(xml.encode()).token
        with stranger.dial("data", session.id) as refused:
            refused.send_text(
                OpenDataChannelInput(token, "r", client_instance_id=session.node.id).serialize()
            )
            assert refused.wait_lost().startswith("1008 ")


def test_user_cannot_act_as_an_agent(ssm_cloud: CloudProcess) -> None:
    node = Node(ssm_cloud)
    node.credentials = ssm_cloud.credentials("admin")
    status, xml = node.create_channel("control", node.id)
    assert status == 403
    assert "<AccessDeniedException>" in xml


def test_control_channel_wants_a_token_of_its_own(ssm_cloud: CloudProcess) -> None:
    node = Node(ssm_cloud)
    with node.dial("control", node.id) as peer:
        peer.send_text(OpenControlChannelInput("no token", "r", "3.3.0.0").serialize())
        assert peer.wait_lost().startswith("1008 ")


def test_new_control_channel_takes_over(ssm_cloud: CloudProcess, ssm: Any) -> None:
    node = Node(ssm_cloud, {"SSHOwner": ssm_cloud.user("alice")["user_id"]}, version=OURS)
    with node.open_control() as first, node.open_control() as second:
        assert first.peer.wait_lost() == ""
        assert ssm.get_connection_status(Target=node.id)["Status"] == "connected"
        ssm.start_session(Target=node.id, DocumentName="AWS-StartSSHSession")
        assert second.receive_offer().document_name == "AWS-StartSSHSession"


# -- bad input --------------------------------------------------------------------------------------

_GOOD = input_data(b"good", 1)
_BAD = {
    "short": _GOOD[:119],
    "empty": b"",
    "header length": b"\0\0\0\0" + _GOOD[4:],
    "long header": b"\x7f\xff\xff\xff" + _GOOD[4:],
    "no type": _GOOD[:4] + b" " * 32 + _GOOD[36:],
    "no date": _GOOD[:40] + bytes(8) + _GOOD[48:],
    "digest": _GOOD[:80] + bytes(32) + _GOOD[112:],
    "payload": _GOOD[:-1] + b"!",
}


@pytest.mark.parametrize("side", ["client", "agent"])
@pytest.mark.parametrize("bad", list(_BAD))
def test_malformed_message_ends_the_session_cleanly(ssm_cloud: CloudProcess, side: str, bad: str) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        offender, other = session.client, session.agent
        if side == "agent":
            offender, other = other, offender
        offender.send(_BAD[bad])

        assert f"The {side} broke the protocol: " in closed_output(offender.receive())
        assert f"The {side} broke the protocol: " in closed_output(other.receive())
        assert offender.wait_lost().startswith("1008 ")
        session.agent.close()
        session.control.complete(session.id)
        session.wait_status("Failed")
    assert f"data channel of {session.id}, {side}" in ssm_cloud.log_text


@pytest.mark.parametrize("side", ["client", "agent"])
def test_oversized_frame_is_refused_by_its_length(ssm_cloud: CloudProcess, side: str) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        offender = getattr(session, side)
        # The head of a frame of 4 GiB; its body never comes.
        offender.send_raw(b"\x82\xff" + (1 << 32).to_bytes(8, "big") + b"mask")

        assert offender.wait_lost().startswith("1009 ")
        other = session.agent if side == "client" else session.client
        assert f"The {side} broke the protocol: " in closed_output(other.receive())
        session.wait_status("Failed", "Terminating")


def test_fragments_without_end_take_no_memory(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        before = ssm_cloud.memory_bytes
        part = bytes(64 << 10)
        sent = 0
        try:
            while sent < 4096:
                session.client.send_fragment(part, first=sent == 0)
                sent += 1
        except (Lost, OSError):
            pass
        assert sent < 1024
        assert ssm_cloud.memory_bytes - before < 32 << 20


def test_binary_message_before_the_opening_frame_is_refused(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session, Peer(session.grant["StreamUrl"]) as client:
        client.send(_GOOD)
        assert client.wait_lost().startswith("1008 ")
        # The token is still good.
        with open_client(session.grant) as good:
            good.synchronize()


@pytest.mark.parametrize("text", [b"{}", b"no JSON", b"[]", b'{"TokenValue":3}', b"x" * 100_000])
def test_opening_frame_that_makes_no_sense_is_refused(ssm_cloud: CloudProcess, text: bytes) -> None:
    with Session(ssm_cloud) as session, Peer(session.grant["StreamUrl"]) as client:
        client.send_text(text)
        assert client.wait_lost().startswith("1008 ")


def test_unknown_session_has_no_data_channel(ssm_cloud: CloudProcess) -> None:
    with pytest.raises(ConnectionFailed) as error:
        Peer(f"{websocket_url(ssm_cloud)}/v1/data-channel/nobody-00000000000000000")
    assert error.value.status == 400
    assert "Session is already terminated" in error.value.body


def test_agent_is_told_that_an_unknown_session_is_over(ssm_cloud: CloudProcess) -> None:
    status, xml = Node(ssm_cloud).create_channel("data", "nobody-00000000000000000")
    assert status == 400
    assert "Session is already terminated" in xml


def test_text_on_an_open_channel_is_ignored(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        session.client.send_text(b"hello")
        session.client.send(_GOOD)
        assert session.agent.receive() == _GOOD


def test_secrets_are_not_in_the_log(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        session.client.send(input_data(b"private bytes", 1))
        session.agent.receive()
        log = ssm_cloud.log_text
    assert session.id in log
    assert session.grant["TokenValue"] not in log
    assert session.node.token["SessionToken"] not in log
    assert "private bytes" not in log


# -- slow readers -----------------------------------------------------------------------------------


def fill(peer: Peer, make: Callable[[bytes, int], bytes], first: int) -> tuple[bytes, int]:
    """Send messages until nobody takes more: the first of them, and how many bytes that were."""
    peer.set_send_timeout(1.0)
    messages: list[int] = []
    earliest = b""
    while sum(messages[-1:]) * len(messages) < 128 << 20:
        data = make(bytes(32768), first + len(messages))
        try:
            peer.send_strictly(data)
        except TimeoutError:
            break
        earliest = earliest or data
        messages.append(len(data))
    return earliest, sum(messages)


def test_slow_client_holds_its_agent_back(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        before = ssm_cloud.memory_bytes
        sent = []
        paused = False
        # The client reads nothing. The agent goes on until it is asked to pause.
        for number in range(2, 10_000):
            data = output_data(number.to_bytes(4, "big") * 8192, number)
            session.agent.send(data)
            sent.append(data)
            if number % 16 == 0 and session.agent.has_event():
                paused = session.agent.receive_message().message_type == "pause_publication"
                break
        assert paused
        assert ssm_cloud.memory_bytes - before < 32 << 20
        # Its pings are answered all the while.
        session.agent.synchronize()

        assert [session.client.receive() for _ in sent] == sent

        while message_type(session.agent.receive()) == "pause_publication":
            pass
        session.client.assert_silent(0.1)


def test_agent_that_does_not_pause_is_held_back_by_its_socket(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        before = ssm_cloud.memory_bytes
        _, sent = fill(session.agent, output_data, 2)

        assert ssm_cloud.memory_bytes - before < 64 << 20
        assert sent < 100 << 20


def test_slow_agent_holds_its_client_back(ssm_cloud: CloudProcess) -> None:
    with Session(ssm_cloud) as session:
        session.open().settle()
        before = ssm_cloud.memory_bytes
        earliest, sent = fill(session.client, input_data, 1)

        assert sent < 100 << 20
        assert ssm_cloud.memory_bytes - before < 64 << 20
        # What was sent is not lost.
        assert session.agent.receive() == earliest


# -- switches ---------------------------------------------------------------------------------------


def test_stopped_gateway_cuts_and_refuses(switched: CloudProcess) -> None:
    with Session(switched) as session:
        session.open()
        switched.faults(kind="gateway", action="stop")

        for peer in (session.client, session.agent, session.control.peer):
            assert peer.wait_lost() == ""
        assert session.node.create_channel("control", session.node.id)[0] == 503
        with pytest.raises(ConnectionFailed) as error:
            Peer(session.grant["StreamUrl"])
        assert error.value.status == 503
        switched.faults(kind="gateway", action="start")
        with session.node.open_control():
            assert session.ssm.get_connection_status(Target=session.node.id)["Status"] == "connected"


@pytest.mark.parametrize("side", ["client", "agent", "both"])
def test_session_can_be_cut_on_either_side(switched: CloudProcess, side: str) -> None:
    with Session(switched) as session, Session(switched) as other:
        session.open()
        other.open()
        switched.faults(kind="cut", side=side, session=session.id)

        for name in ("client", "agent"):
            peer = getattr(session, name)
            if side in (name, "both"):
                assert peer.wait_lost() == ""
        other.client.synchronize()
        other.agent.synchronize()
        assert other.status == "Connected"


def test_control_channel_can_be_cut(switched: CloudProcess) -> None:
    node, other = Node(switched), Node(switched)
    with node.open_control() as control, other.open_control() as spared:
        switched.faults(kind="cut", side="control", instance=node.id)
        assert control.peer.wait_lost() == ""
        spared.peer.synchronize()


def test_sessions_are_listed_in_pages_and_by_what_is_asked(ssm_cloud: CloudProcess) -> None:
    node = Node(ssm_cloud, version=OURS)
    admin = ssm_cloud.client("ssm", "admin")
    about = [{"key": "Target", "value": node.id}]
    with node.open_control() as control:
        started = []
        for _ in range(3):
            started.append(
                admin.start_session(Target=node.id, DocumentName="AWS-StartSSHSession")["SessionId"]
            )
            control.receive_offer()
        pages = []
        more: dict[str, str] = {}
        while True:
            page = admin.describe_sessions(State="Active", Filters=about, MaxResults=2, **more)
            pages.append([session["SessionId"] for session in page["Sessions"]])
            if "NextToken" not in page:
                break
            more = {"NextToken": page["NextToken"]}
        assert [len(page) for page in pages] == [2, 1]
        # The newest first.
        assert [session for page in pages for session in page] == started[::-1]

        admin.terminate_session(SessionId=started[1])
        control.complete(started[1])
        until = time.monotonic() + 10
        while not (ended := admin.describe_sessions(State="History", Filters=about)["Sessions"]):
            assert time.monotonic() < until, "the session has not ended"
        assert [(session["SessionId"], session["Status"]) for session in ended] == [
            (started[1], "Terminated")
        ]
        left = admin.describe_sessions(State="Active", Filters=about)["Sessions"]
        assert [session["SessionId"] for session in left] == [started[2], started[0]]
        for state, expected in (("Connecting", 2), ("Connected", 0)):
            filters = [*about, {"key": "Status", "value": state}]
            found = admin.describe_sessions(State="Active", Filters=filters)["Sessions"]
            assert len(found) == expected
        with pytest.raises(ClientError) as error:
            admin.describe_sessions(State="Active", NextToken="no token of ours")
        assert error_code(error) == "InvalidNextToken"
        for session in (started[0], started[2]):
            admin.terminate_session(SessionId=session)
