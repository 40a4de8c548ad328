"""The node's life at the service: online when it is, and back after everything that may happen there."""

import json
from pathlib import Path
from typing import Iterator, List

import pytest

from agent.agent_thread import AgentThread
from agent.fake_service import MI, FakeService
from sagemaker_ssh_helper.agent import control
from sagemaker_ssh_helper.agent.control import platform_details
from sagemaker_ssh_helper.agent.state import State, StateDir

pytestmark = pytest.mark.container

THROTTLED = (400, {"__type": "ThrottlingException", "message": "Rate exceeded"})


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


def state_of(agent: AgentThread) -> State:
    status = agent.state.read_status()
    assert status is not None
    return status.state


def wait_for_state(service: FakeService, agent: AgentThread, state: State) -> str:
    def reached() -> bool:
        status = agent.state.read_status()
        return status is not None and status.state is state

    service.wait(reached, state.value)
    status = agent.state.read_status()
    assert status is not None
    return status.why


def heartbeats(service: FakeService) -> List[dict]:  # type: ignore[type-arg]  # JSON
    return [body for name, body, _ in service.calls if name == "UpdateInstanceInformation"]


def test_node_is_online_after_a_heartbeat_and_an_open_channel(service: FakeService, tmp_path: Path) -> None:
    with AgentThread(service, tmp_path / "state") as agent:
        why = wait_for_state(service, agent, State.ONLINE)
        service.wait(lambda: len(heartbeats(service)) == 2, "two heartbeats")

    short, full = heartbeats(service)
    assert why == ""
    assert sorted(short) == ["AgentName", "AgentVersion", "InstanceId", "PlatformType"]
    assert short["InstanceId"] == MI
    assert full == {**short, **platform_details(), "SSMConnectionChannel": full["SSMConnectionChannel"]}
    assert service.operations()[0] == "UpdateInstanceInformation"
    assert f"/v1/control-channel/{MI}" in service.operations()
    assert f"/v1/control-channel/{MI}?role=subscribe&stream=input" in service.operations()


def test_heartbeat_says_what_the_container_is() -> None:
    details = platform_details()

    assert details["AgentStatus"] == "Active"
    assert details["ComputerName"]
    assert details["PlatformName"]
    assert details["IPAddress"].count(".") == 3


def test_heartbeat_goes_on_and_tells_the_channel(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "HEARTBEAT_INTERVAL", 0.05)
    with AgentThread(service, tmp_path / "state"):
        service.wait(lambda: len(heartbeats(service)) >= 5, "five heartbeats")

    assert heartbeats(service)[-1]["SSMConnectionChannel"] == "ssmmessages"


def test_first_heartbeat_is_repeated_until_it_is_taken(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control, "_HEARTBEAT_DELAYS", (0.01, 0.01))
    service.answers["UpdateInstanceInformation"] = [THROTTLED, (403, b"oh"), (200, {})]
    with AgentThread(service, tmp_path / "state") as agent:
        wait_for_state(service, agent, State.ONLINE)

    assert "ThrottlingException: Rate exceeded" in caplog.text
    assert len(heartbeats(service)) >= 3


def test_later_heartbeats_may_fail(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "HEARTBEAT_INTERVAL", 0.01)
    monkeypatch.setattr(control, "_HEARTBEAT_DELAYS", (0.01, 0.02))
    service.answers["UpdateInstanceInformation"] = [(200, {}), *[THROTTLED] * 4, (200, {})]
    with AgentThread(service, tmp_path / "state") as agent:
        service.wait(lambda: len(heartbeats(service)) > 6, "seven heartbeats")
        state = state_of(agent)

    assert state is State.ONLINE
    assert service.control_openings == 1


def test_lost_control_channel_is_opened_again_with_a_new_token(service: FakeService, tmp_path: Path) -> None:
    with AgentThread(service, tmp_path / "state") as agent:
        service.cut_control()
        service.wait(lambda: service.control_openings == 2, "a second control channel")
        open_now = len(service.controls)
        state = wait_for_state(service, agent, State.ONLINE)

    posts = [name for name in service.operations() if name == f"/v1/control-channel/{MI}"]
    assert len(posts) == 2
    assert open_now == 1
    assert state == ""


def test_long_loss_of_the_control_channel_is_told(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_MISSED_AFTER", 0.0)
    with AgentThread(service, tmp_path / "state") as agent:
        wait_for_state(service, agent, State.ONLINE)
        service.answers["/v1/control-channel"] = [(500, b"oh dear")]
        service.cut_control()
        why = wait_for_state(service, agent, State.REGISTERED)
        del service.answers["/v1/control-channel"]
        wait_for_state(service, agent, State.ONLINE)

    assert why.startswith("the control channel was lost and is being opened again")


def test_refused_control_channel_is_asked_for_again_and_explained(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_REFUSED_DELAYS", (0.01, 0.01))
    good = (201, b"<R><TokenValue>t</TokenValue></R>")
    denied = (403, b"<AccessDeniedException>not you</AccessDeniedException>")
    service.answers["/v1/control-channel"] = [denied, denied, (429, b""), good]
    agent = AgentThread(service, tmp_path / "state")
    told: List[str] = []
    real = StateDir.update_status

    def listen(state: StateDir, new: object = None, **changes: object) -> object:
        told.append(str(changes.get("why", "")))
        return real(state, new, **changes)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(StateDir, "update_status", listen)
    with agent:
        wait_for_state(service, agent, State.ONLINE)

    assert any("the message gateway refused a control-channel (AccessDenied" in why for why in told)
    assert told[-1] == ""


def test_offers_that_make_no_sense_are_survived(service: FakeService, tmp_path: Path) -> None:
    with AgentThread(service, tmp_path / "state"):
        service.call(lambda: service.controls[-1].send(b"", b"x", b"\0" * 119, b"\xff" * 200))
        command_id = service.send_command("echo alive")
        final = service.final_reply(command_id)

    assert final["documentStatus"] == "Success"
    assert service.control_openings == 1


def test_results_of_a_lost_channel_are_told_on_the_next(service: FakeService, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with AgentThread(service, tmp_path / "state"):
        command_id = service.send_command(f"until [ -e {gate} ]; do sleep 0.05; done; echo done")
        service.wait(lambda: bool(service.replies(command_id)), "the command")
        service.answers["/v1/control-channel"] = [
            (500, b"not now"),
            (500, b"not now"),
            (201, b"<R><TokenValue>t</TokenValue></R>"),
        ]
        service.cut_control()
        gate.touch()
        final = service.final_reply(command_id)

    assert final["documentStatus"] == "Success"


def test_opening_frame_names_version_and_platform(service: FakeService, tmp_path: Path) -> None:
    with AgentThread(service, tmp_path / "state"):
        frames = list(service.opening_frames)

    opening = json.loads(frames[0])
    assert list(opening) == [
        "Cookie",
        "MessageSchemaVersion",
        "RequestId",
        "TokenValue",
        "AgentVersion",
        "PlatformType",
    ]
    assert opening["PlatformType"] == "linux"
