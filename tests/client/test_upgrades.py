"""How a session's WebSocket is asked for, and what else is tried when it is refused."""

from __future__ import annotations

import asyncio
from email.utils import formatdate

import pytest

from sagemaker_ssh_helper.aws.session import Credentials, Session, UpgradeForm
from sagemaker_ssh_helper.aws.sessions import SessionGrant
from sagemaker_ssh_helper.channels import Grant
from sagemaker_ssh_helper.client.upgrades import Upgrades
from sagemaker_ssh_helper.errors import ConnectionFailed
from sagemaker_ssh_helper.names import SessionId

NOW = 1_800_000_000.0
URL = "wss://h/v1/data-channel/me-1?role=publish_subscribe&cell-number=A+/="
GRANTED = SessionGrant(SessionId("me-1"), URL, "token")


class Caller(Session):
    """One whose keys can be renewed so many times; ``signed`` is what its upgrades are signed with."""

    def __init__(self, renewals: int = 0) -> None:
        super().__init__(region="eu-west-1", static=Credentials("AKID", "secret"))
        self.clock._now = lambda: NOW
        self.signed: list[tuple[str, str]] = []
        self.renewals = renewals

    def renew(self) -> bool:
        self.renewals -= 1
        self._static = Credentials("AKIDNEW", "secret")
        return self.renewals >= 0

    def upgrade_headers(self, url: str, form: UpgradeForm = UpgradeForm.GO) -> dict[str, str]:
        headers = super().upgrade_headers(url, form)
        self.signed.append((form.name, headers.get("X-Amz-Date", "")[9:13]))
        return headers


def refusal(status: int, code: str = "", *, hours: float = 0.0) -> ConnectionFailed:
    body = f"<{code}><message>because</message></{code}>" if code else ""
    headers = {"date": formatdate(NOW + hours * 3600, usegmt=True)}
    return ConnectionFailed(f"refused with {code or status}", status=status, body=body, headers=headers)


async def ways(upgrades: Upgrades, *errors: ConnectionFailed) -> Grant | None:
    """The last grant of one attempt that is refused with these."""
    grant: Grant | None = await upgrades.grant(GRANTED)
    for error in errors:
        assert grant is not None, f"given up before {error}"
        assert (grant.url, grant.token) == (URL, "token")
        assert grant.refused is not None
        grant = await grant.refused(error)
    return grant


def tried(caller: Caller, *errors: ConnectionFailed) -> list[str]:
    """The forms of one attempt."""
    last = asyncio.run(ways(Upgrades(caller), *errors))
    assert last is not None
    return [form for form, _ in caller.signed]


@pytest.mark.parametrize("status", [400, 401, 403])
def test_one_attempt_goes_through_all_forms(status: int) -> None:
    assert tried(Caller(), refusal(status), refusal(status)) == ["GO", "PLUS", "UNSIGNED"]


def test_a_wrong_signature_may_be_written_differently() -> None:
    assert tried(Caller(), refusal(403, "InvalidSignatureException")) == ["GO", "PLUS"]


def test_a_signature_that_was_understood_is_not_written_differently() -> None:
    assert tried(Caller(), refusal(403, "AccessDeniedException")) == ["GO", "UNSIGNED"]


def test_the_first_refusal_is_the_one_to_tell() -> None:
    denied, missing = refusal(403, "AccessDeniedException"), refusal(400, "MissingAuthenticationToken")
    with pytest.raises(ConnectionFailed) as caught:
        asyncio.run(ways(Upgrades(Caller()), denied, missing))

    assert caught.value is denied


@pytest.mark.parametrize(
    "error",
    [
        refusal(400, "ThrottlingException"),
        refusal(503),
        refusal(400, "InternalServerError"),
        refusal(404),
        ConnectionFailed("cut"),
    ],
    ids=str,
)
def test_what_says_nothing_of_the_signature_changes_nothing(error: ConnectionFailed) -> None:
    assert asyncio.run(ways(Upgrades(Caller()), error)) is None


@pytest.mark.parametrize("hours", [-2, 2])
def test_the_time_of_the_answer_is_signed_next(hours: int) -> None:
    caller = Caller()

    assert tried(caller, refusal(403, "InvalidSignatureException", hours=hours)) == ["GO", "GO"]
    assert [time for _, time in caller.signed] == ["0800", f"{8 + hours:02}00"]


def test_newer_keys_are_tried_once() -> None:
    expired = refusal(403, "ExpiredTokenException")

    assert tried(Caller(renewals=5), expired) == ["GO", "GO"]
    assert tried(Caller(renewals=5), expired, expired) == ["GO", "GO", "UNSIGNED"]
    assert tried(Caller(renewals=0), expired) == ["GO", "UNSIGNED"]


def test_the_next_attempt_begins_with_what_was_accepted() -> None:
    caller = Caller()
    upgrades = Upgrades(caller)

    async def connect_twice() -> None:
        await ways(upgrades, refusal(400))
        upgrades.accepted()
        await ways(upgrades)

    asyncio.run(connect_twice())
    assert [form for form, _ in caller.signed] == ["GO", "PLUS", "PLUS"]


def test_the_next_attempt_begins_anew_when_nothing_was() -> None:
    caller = Caller()
    upgrades = Upgrades(caller)

    async def try_twice() -> None:
        await ways(upgrades, refusal(400), refusal(400))
        await ways(upgrades)

    asyncio.run(try_twice())
    assert [form for form, _ in caller.signed] == ["GO", "PLUS", "UNSIGNED", "GO"]


def test_a_url_that_is_signed_already_is_asked_for_once() -> None:
    caller = Caller()
    signed = SessionGrant(GRANTED.id, "wss://h/p?X-Amz-Signature=ab", "token")

    async def attempt() -> None:
        grant = await Upgrades(caller).grant(signed)
        assert "Authorization" not in grant.headers
        assert grant.refused is not None
        await grant.refused(refusal(403))

    with pytest.raises(ConnectionFailed, match="refused with 403"):
        asyncio.run(attempt())
    assert len(caller.signed) == 1
