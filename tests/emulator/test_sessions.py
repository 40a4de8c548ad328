import re
from typing import Any

import pytest

from sagemaker_ssh_helper.emulator.documents import Documents
from sagemaker_ssh_helper.emulator.service import ApiError, Caller
from sagemaker_ssh_helper.emulator.sessions import Session, Sessions, Status, new_session_id
from sagemaker_ssh_helper.names import SessionId


def session(number: int, **more: Any) -> Session:
    fields: dict[str, Any] = {
        "id": SessionId(f"alice-{number}"),
        "target": "mi-1",
        "owner_arn": "arn:alice",
        "owner_id": "AIDAALICE",
        "document": Documents().find("AWS-StartSSHSession"),
        "arguments": {},
        "reason": "",
        "started_at": float(number),
        **more,
    }
    return Session(**fields)


def caller(user_id: str, kind: str, name: str = "SomeRole") -> Caller:
    return Caller("123456789012", "arn", user_id, name, kind)


@pytest.mark.parametrize(
    ("who", "prefix"),
    [
        (caller("AIDAEXAMPLE", "user", "alice"), "alice-"),
        (caller("AIDAEXAMPLE", "user", "a.b@example.com"), "a.b@example.com-"),
        (caller("AROAEXAMPLE:alice", "role"), "alice-"),
        (caller("AROAEXAMPLE:alice@example.com/../x,=+", "role"), "alice@example.com-..-x----"),
        (caller("AROAEXAMPLE:" + "a" * 200, "role"), "a" * 69 + "-"),
        (caller("AROAEXAMPLE:", "role"), "session-"),
        (caller("123456789012", "root", ""), "123456789012-"),
    ],
)
def test_session_id_is_safe_in_file_names_and_short(who: Caller, prefix: str) -> None:
    made = new_session_id(who)
    assert made.startswith(prefix)
    assert re.fullmatch("[a-z0-9]{26}", made[len(prefix) :])
    assert len(made) <= 96


def test_ended_sessions_are_history_and_the_oldest_are_forgotten() -> None:
    sessions = Sessions(max_history=2)
    made = [session(number) for number in range(4)]
    for one in made:
        sessions.add(one)
    for one in made[:3]:
        sessions.end(one, Status.TERMINATED, 10.0, "over")

    assert list(sessions.active()) == [made[3]]
    assert sessions.select("Active", []) == [made[3]]
    assert sessions.select("History", []) == [made[2], made[1]]
    assert sessions.get(made[0].id) is None
    assert sessions.get(made[1].id) is made[1]
    assert (made[1].is_ended, made[1].ended_at, made[1].details) == (True, 10.0, "over")


def test_filters_choose_sessions() -> None:
    sessions = Sessions()
    one, two = session(1), session(86400, target="mi-2", owner_arn="arn:bob", owner_id="AIDABOB")
    sessions.add(one)
    sessions.add(two)

    def selected(key: str, value: str) -> Any:
        return sessions.select("Active", [{"key": key, "value": value}])

    assert selected("Target", "mi-2") == [two]
    assert selected("Owner", "arn:alice") == [one]
    assert selected("Owner", "AIDABOB") == [two]
    assert selected("SessionId", one.id) == [one]
    assert selected("Status", "Connecting") == [two, one]
    assert selected("InvokedAfter", "1970-01-01T12:00:00Z") == [two]
    assert selected("InvokedBefore", "1970-01-01T12:00:00Z") == [one]
    for key, value in (("Colour", "red"), ("InvokedAfter", "soon")):
        with pytest.raises(ApiError, match="InvalidFilterKey"):
            selected(key, value)
