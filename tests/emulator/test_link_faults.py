"""What each switch of a session's links does, seen by scripted peers."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from emulator.cloud_process import CloudProcess
from emulator.gateway_peers import Peer, acknowledge, input_data, open_client, output_data
from emulator.test_gateway import Session
from sagemaker_ssh_helper.protocol.message import AgentMessage

MESSAGES = 40


@pytest.fixture
def switched(ssm_cloud: CloudProcess) -> Iterator[CloudProcess]:
    """A cloud whose switches are cleared after the test."""
    yield ssm_cloud
    ssm_cloud.clear_faults()


@pytest.fixture
def session(switched: CloudProcess) -> Iterator[Session]:
    with Session(switched) as session:
        yield session.open()


def numbers(peer: Peer, count: int) -> list[int]:
    """The sequence numbers of the next messages."""
    return [AgentMessage.parse(peer.receive()).sequence_number for _ in range(count)]


def link(cloud: CloudProcess, session: Session) -> dict[str, Any]:
    rows = cloud.local("GET", "faults")["faults"]
    (found,) = [row for row in rows if row["kind"] == "link" and row["session"] == session.id]
    return dict(found)


def test_without_a_switch_there_is_no_bad_link(switched: CloudProcess, session: Session) -> None:
    session.client.send(input_data(b"x", 0))
    assert numbers(session.agent, 1) == [0]
    assert switched.local("GET", "faults")["faults"] == []


@pytest.mark.parametrize("side", ["client", "agent", "both"])
def test_a_close_frame_instead_of_a_reset(switched: CloudProcess, session: Session, side: str) -> None:
    switched.faults(kind="cut", side=side, how="close", code=1012, session=session.id)
    for name in ("client", "agent"):
        if side in (name, "both"):
            assert getattr(session, name).wait_lost().startswith("1012")


def test_cuts_to_come_are_made_by_the_bytes_of_the_stream(switched: CloudProcess, session: Session) -> None:
    cuts = [{"at": 250, "side": "agent"}, {"at": 1000, "side": "client"}]
    switched.faults(kind="cut", cuts=cuts, session=session.id)
    first = input_data(b"x" * 200, 0)
    session.client.send(first)
    assert numbers(session.agent, 1) == [0]
    session.agent.send(acknowledge(first))
    session.client.receive()
    session.client.send(input_data(b"x" * 200, 1))
    assert session.agent.wait_lost() == ""

    found = link(switched, session)
    assert found["carried"] == 400
    assert found["cuts_to_come"] == 1
    assert found["cuts"] == [
        {"at": 400, "side": "agent", "how": "reset", "in_flight": {"client": 1, "agent": 0}}
    ]


def test_what_comes_behind_a_cut_is_lost_with_its_connection(
    switched: CloudProcess, session: Session
) -> None:
    switched.faults(kind="cut", cuts=[{"at": 2, "side": "client"}], session=session.id)
    session.client.send(*(input_data(b"x", number) for number in range(MESSAGES)))
    assert session.client.wait_lost() == ""
    assert numbers(session.agent, 2) == [0, 1]
    assert AgentMessage.parse(session.agent.receive()).message_type == "pause_publication"
    session.agent.assert_silent(0.2)


def test_data_is_lost_and_nothing_else(switched: CloudProcess, session: Session) -> None:
    switched.faults(kind="link", drop_data=1, side="client", session=session.id)
    session.client.send(input_data(b"x", 0), acknowledge(output_data(b"x", 0)))
    session.agent.send(output_data(b"x", 7))
    assert AgentMessage.parse(session.agent.receive()).message_type == "acknowledge"
    assert numbers(session.client, 1) == [7]
    assert link(switched, session)["lost"] == 1


def test_a_share_of_acknowledges_is_lost(switched: CloudProcess, session: Session) -> None:
    switched.faults(kind="link", drop_acks=0.5, seed=1, session=session.id)
    session.client.send(*(acknowledge(output_data(b"x", number)) for number in range(MESSAGES)))
    session.client.send(input_data(b"last", 0))
    arrived = 0
    while AgentMessage.parse(session.agent.receive()).message_type == "acknowledge":
        arrived += 1
    assert 0 < arrived < MESSAGES
    assert link(switched, session)["lost"] == MESSAGES - arrived


def test_duplicates_come_right_behind(switched: CloudProcess, session: Session) -> None:
    switched.faults(kind="link", duplicate=1, session=session.id)
    session.client.send(input_data(b"x", 0), input_data(b"x", 1))
    assert numbers(session.agent, 4) == [0, 0, 1, 1]


def test_disorder_loses_nothing(switched: CloudProcess, session: Session) -> None:
    switched.faults(kind="link", reorder=0.3, seed=1, session=session.id)
    session.client.send(*(input_data(b"x", number) for number in range(MESSAGES)))
    came = numbers(session.agent, MESSAGES)
    assert sorted(came) == list(range(MESSAGES))
    assert came != sorted(came)


def test_a_round_trip_takes_its_time(switched: CloudProcess, session: Session) -> None:
    switched.faults(kind="link", rtt=0.2, session=session.id)
    began = time.monotonic()
    data = input_data(b"x", 0)
    session.client.send(data)
    session.agent.receive()
    assert time.monotonic() - began > 0.09
    session.agent.send(acknowledge(data))
    session.client.receive()
    assert time.monotonic() - began > 0.19


def test_a_message_that_is_too_long_is_lost(switched: CloudProcess, session: Session) -> None:
    switched.faults(kind="link", max_message=1144, too_long="lost", side="client", session=session.id)
    session.client.send(input_data(b"x" * 1025, 0), input_data(b"x" * 1024, 1))
    session.agent.send(output_data(b"x" * 5000, 7))
    assert numbers(session.agent, 1) == [1]
    assert numbers(session.client, 1) == [7]
    assert link(switched, session)["too_long"] == 1


def test_a_message_that_is_too_long_closes_its_connection(switched: CloudProcess, session: Session) -> None:
    switched.faults(kind="link", max_message=1144, too_long="closed", session=session.id)
    session.client.send(*(input_data(b"x" * (1023 + number), number) for number in range(4)))
    assert session.client.wait_lost().startswith("1009")
    assert numbers(session.agent, 2) == [0, 1]
    assert link(switched, session)["too_long"] == 1


def test_a_link_carries_so_many_bytes_a_second(switched: CloudProcess, session: Session) -> None:
    switched.faults(kind="link", bandwidth=100_000, side="client", session=session.id)
    began = time.monotonic()
    session.client.send(*(input_data(b"x" * 880, number) for number in range(MESSAGES)))
    session.agent.send(output_data(b"x", 7))
    assert numbers(session.client, 1) == [7]
    assert numbers(session.agent, MESSAGES) == list(range(MESSAGES))
    assert time.monotonic() - began > 0.39


def test_what_a_link_cannot_carry_waits_at_its_sender(switched: CloudProcess, session: Session) -> None:
    """More than the gateway queues and any buffer of a socket holds, and nothing of it is lost."""
    switched.faults(kind="link", bandwidth=20_000_000, session=session.id)
    session.client.send(*(input_data(b"x" * 100_000, number) for number in range(100)))
    assert numbers(session.agent, 100) == list(range(100))


def test_a_message_that_is_none_ends_the_session_late_as_well(
    switched: CloudProcess, session: Session
) -> None:
    switched.faults(kind="link", rtt=0.05, session=session.id)
    session.client.send(b"no message")
    assert session.client.wait_lost().startswith("1008")


def test_silence_loses_nothing(switched: CloudProcess, session: Session) -> None:
    switched.faults(kind="freeze", side="client", seconds=600, session=session.id)
    session.client.send(input_data(b"up", 0))
    session.agent.send(output_data(b"down", 0))
    session.agent.assert_silent(0.2)
    session.client.assert_silent(0.2)
    again = session.keep(open_client({**session.grant, **session.ssm.resume_session(SessionId=session.id)}))
    again.send(input_data(b"up", 1))
    session.agent.assert_silent(0.2)

    switched.clear_faults()

    assert numbers(session.agent, 1) == [1]


def test_the_same_connection_goes_on_after_the_silence(switched: CloudProcess, session: Session) -> None:
    switched.faults(kind="freeze", side="both", seconds=0.3, session=session.id)
    session.client.send(input_data(b"up", 0))
    session.agent.send(output_data(b"down", 0))
    assert numbers(session.agent, 1) == [0]
    assert numbers(session.client, 1) == [0]


def test_a_new_connection_may_be_spared_the_silence(switched: CloudProcess, session: Session) -> None:
    switched.faults(kind="freeze", side="client", seconds=600, new=False, session=session.id)
    again = session.keep(open_client({**session.grant, **session.ssm.resume_session(SessionId=session.id)}))
    again.send(input_data(b"up", 1))
    assert numbers(session.agent, 1) == [1]


def test_connections_are_rotated_again_and_again(switched: CloudProcess, session: Session) -> None:
    switched.faults(kind="rotation", side="agent", seconds=0.1, session=session.id)
    for _ in range(3):
        assert session.agent.wait_lost().startswith("1001")
        session.agent = session.keep(session.node.open_data(session.id))
    session.client.synchronize()


def test_a_refused_resume_has_no_token(switched: CloudProcess, session: Session) -> None:
    with Session(switched) as other:
        switched.faults(kind="refuse-resume", session=session.id)
        assert "TokenValue" not in session.ssm.resume_session(SessionId=session.id)
        assert "TokenValue" in other.ssm.resume_session(SessionId=other.id)
    switched.clear_faults()
    assert "TokenValue" in session.ssm.resume_session(SessionId=session.id)


def test_a_switch_without_a_session_is_for_those_to_come_too(switched: CloudProcess) -> None:
    switched.faults(kind="link", duplicate=1)
    with Session(switched) as session:
        session.open()
        session.client.send(input_data(b"x", 0))
        assert numbers(session.agent, 2) == [0, 0]


@pytest.mark.parametrize(
    "switch",
    [
        {"kind": "cut"},
        {"kind": "cut", "side": "left"},
        {"kind": "cut", "side": "client", "how": "gently"},
        {"kind": "cut", "cuts": "many"},
        {"kind": "cut", "cuts": [{"side": "client"}]},
        {"kind": "cut", "cuts": [{"at": True, "side": "client"}]},
        {"kind": "link", "drop_data": 2},
        {"kind": "link", "rtt": "long"},
        {"kind": "link", "max_message": -1},
        {"kind": "link", "too_long": "cut"},
        {"kind": "link", "bandwidth": "little"},
        {"kind": "link", "session": "nobody"},
        {"kind": "link", "seed": "x"},
        {"kind": "freeze"},
        {"kind": "rotation", "seconds": -1},
    ],
    ids=str,
)
def test_a_switch_that_makes_no_sense_is_refused(ssm_cloud: CloudProcess, switch: dict[str, Any]) -> None:
    status, answer = ssm_cloud.post("/_local/faults", switch, ssm_cloud.credentials("admin"), "local")
    assert status == 400
    assert "ValidationException" in str(answer)
